"""Does what a lane asks for with the Python SDK that is installed, and says how long it took. Reads lanes, a line each."""

import sys
import time

import mvm

CONTENT = bytes(64 << 20)


class Lanes:
    """One sandbox that stays for what is done in one, and one for each `create`."""

    def __init__(self) -> None:
        self.sandbox = mvm.Sandbox.create("base")
        self.made: mvm.Sandbox | None = None

    def create(self) -> None:
        self.made = mvm.Sandbox.create("base")

    def exec(self) -> None:
        self.sandbox.commands.run(["true"])

    def write(self) -> None:
        self.sandbox.files.write("/root/f", CONTENT)

    def read(self) -> None:
        assert len(self.sandbox.files.read("/root/f")) == len(CONTENT)


lanes = Lanes()
print("ready", flush=True)
for line in sys.stdin:
    begun = time.perf_counter()
    getattr(lanes, line.strip())()
    took = time.perf_counter() - begun
    if lanes.made is not None:
        lanes.made.destroy()
        lanes.made = None
    print(took, flush=True)
lanes.sandbox.destroy()
