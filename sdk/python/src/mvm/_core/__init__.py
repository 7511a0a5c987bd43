"""Everything of the SDK that is no I/O: what calls ask for, what answers say, what is wrong with arguments.

A call is an `Operation`. A transport performs its steps, and is the only part that knows whether it waits or awaits.
"""
