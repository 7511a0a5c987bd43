"""The asynchronous classes, from which the synchronous ones are written (`make sdk-types`).

They only say which operation of the core each method is, and pass its answer on.
"""
