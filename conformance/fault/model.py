"""What we know of a sandbox, whatever was killed: what may be inside, the state it is in, what was saved of it."""

import copy
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .outside import Violation, born, children_of, mvmctl, output_of, supervises, supervisors, until

# A new file is empty at first, and is not there before.
EMPTY, MISSING = "", None
SYNCED, CACHED, MEMORY = "/root/synced", "/root/cached", "/dev/shm/memory"
# A program that has its state in memory only, and shows all of it.
COUNTER = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done"
HAS_MACHINE = {"running", "frozen"}
HAS_MEMORY = HAS_MACHINE | {"cold"}
# Each restore lays another layer below the disk. One below the most that a disk can have, which cannot be saved again.
MOST_RESTORES = 15


class Content:
    """What a file may hold: to whoever reads it now, and on the disk if the machine is lost."""

    def __init__(self, in_memory: bool = False) -> None:
        self.in_memory = in_memory
        self.now: set[str | None] = {MISSING}
        self.disk: set[str | None] = {MISSING}

    def written(self, value: str, acknowledged: bool, synced: bool) -> None:
        self.now = {value} if acknowledged else self.now | {value}
        if self.in_memory:
            return
        # What a file can hold that was not synced when its machine was lost: the file system makes it first, then gives
        # it space, which reads as zeros, and then writes to that.
        unsynced = set() if synced else {EMPTY, "\0" * len(value)}
        self.disk = {value} if acknowledged and synced else self.disk | {value} | unsynced

    def synced(self) -> None:
        if not self.in_memory:
            self.disk = set(self.now)

    def machine_lost(self) -> None:
        self.now = set(self.disk)

    def read(self, value: str | None, where: str) -> None:
        if value not in self.now:
            raise Violation(f"{where} holds {value!r}, not one of {self.now}")
        self.now = {value}


class Inside:
    """What is inside a sandbox: files, and a counter, of which all numbers must come that belong to its past."""

    def __init__(self) -> None:
        self.files = {SYNCED: Content(), CACHED: Content(), MEMORY: Content(in_memory=True)}
        self.counter, self.counted, self.restores = "", 0, 0

    def came_back(self) -> "Inside":
        """The same in what came back from this moment. Everything is synced before a save."""
        other = copy.deepcopy(self)
        other.synced()
        other.restores += 1
        return other

    def synced(self) -> None:
        for content in self.files.values():
            content.synced()

    def machine_lost(self) -> None:
        self.counter, self.counted = "", 0
        for content in self.files.values():
            content.machine_lost()

    def start_counter(self, name: str) -> None:
        code, job = mvmctl("exec", "--detach", name, "--", "sh", "-c", COUNTER)
        if code:
            raise Violation(f"the counter in {name}: {job}")
        self.counter = job["run_id"]

    def check_counter(self, uds: str, where: str) -> None:
        """Each number once, and those that were seen."""
        lines = output_of(uds, self.counter).splitlines()
        if lines != [str(n + 1) for n in range(len(lines))]:
            raise Violation(f"{where}: the counter wrote {lines}")
        if len(lines) < self.counted:
            raise Violation(f"{where}: the counter is at {len(lines)} and was at {self.counted}")
        self.counted = len(lines)

    def goes_on(self, uds: str, where: str) -> None:
        before = self.counted

        def counts() -> bool:
            self.check_counter(uds, where)
            return self.counted > before

        if not until(counts, 30):
            raise Violation(f"{where}: the counter stays at {before}")

    def check_files(self, name: str, where: str) -> None:
        for path, content in self.files.items():
            content.read(read(name, path), f"{where}: {path}")


def read(name: str, path: str) -> str | None:
    done = subprocess.run(["mvmctl", "fs", "read", name, path], capture_output=True, text=True)
    if done.returncode and "No such file" in done.stderr:
        return MISSING
    if done.returncode:
        raise Violation(f"cannot read {path} in {name}: {done.stderr}")
    return done.stdout


@dataclass
class Snapshot:
    """One that is there, and what comes back from it."""

    name: str
    inside: Inside

    def is_whole(self) -> bool:
        """False if it is not there at all."""
        code, shown = mvmctl("snapshot", "inspect", self.name)
        if code and shown["error"]["code"] == "NotFound":
            return False
        if code or shown["damage"]:
            raise Violation(f"the snapshot {self.name}: {shown}")
        return True


@dataclass(frozen=True)
class Result:
    """How a command ended, as it was acknowledged."""

    run: str
    sandbox: str
    audit_id: int
    exit_code: int


class Box:
    """What we know of one name: the state it was acknowledged to be in, what is inside, its time to live."""

    def __init__(self, name: str) -> None:
        self.name, self.id, self.state = name, "", "destroyed"
        self.ids: set[str] = set()
        self.results: list[Result] = []
        self.machines: set[tuple[int, str]] = set()
        self.snapshot: Snapshot | None = None
        self.forget()

    def forget(self) -> None:
        self.inside, self.ttls = Inside(), {600_000}
        self.cold_disk: tuple[int, int] | None = None

    def operations(self) -> list[str]:
        save = ["snapshot rm"] if self.snapshot else []
        save += ["receipt"] * 4 * bool(self.results)
        if self.inside.restores < MOST_RESTORES:
            save += ["fork"] * 3 + ["snapshot save"] * 4 * (not self.snapshot)
        running = ["write", "write", "cache", "cache", "remember", "exec", "exec", "job", "job", "keep", "stop", "destroy", "kill"]
        return {
            "destroyed": ["up"] + ["restore"] * 3 * bool(self.snapshot),
            "running": [*running, *["pause"] * 4, *["freeze"] * 2, *save],
            "frozen": [*["resume"] * 4, *["pause"] * 3, "keep", "stop", "kill", *save],
            "cold": [*["resume"] * 6, "keep", "stop", "destroy", *save],
        }.get(self.state, ["start", "start", "start", "keep", "destroy"])

    def command(self, operation: str, number: int) -> tuple[list[str], str]:
        """Its arguments and its input. What is written is the round's number."""
        shell = [self.name, "--", "sh", "-c"]
        end = ["--name", self.name, "--ttl", "10m"]
        return {
            "up": (["up", "--image", "base", *end], ""),
            "write": (["fs", "write", self.name, SYNCED, "--sync"], str(number)),
            "cache": (["fs", "write", self.name, CACHED], str(number)),
            "remember": (["fs", "write", self.name, MEMORY], str(number)),
            "exec": (["exec", *shell, "sleep 0.1; echo done"], ""),
            "job": (["exec", "--detach", *shell, f"sleep 0.1; echo -n {number} > {CACHED}; exit 7"], ""),
            "keep": (["keep", self.name, "--ttl", f"{1000 + number}s"], ""),
            "snapshot save": (["snapshot", "save", self.name, "--name", f"{self.name}-{number}"], ""),
            "snapshot rm": (["snapshot", "rm", self.snapshot.name if self.snapshot else ""], ""),
            "receipt": (["receipt", "show", *self.last_run()], ""),
            "restore": (["restore", self.snapshot.name if self.snapshot else "", *end], ""),
            "fork": (["fork", self.name, "--name", f"{self.name}-{number}", "--count", "2"], ""),
        }.get(operation, ([operation, self.name], ""))

    def last_run(self) -> list[str]:
        """Of what a receipt is asked for: the last command that ended."""
        return [self.results[-1].run, "--sandbox", self.results[-1].sandbox] if self.results else []

    def inspect(self) -> dict:
        code, shown = mvmctl("inspect", self.name)
        if code and shown["error"]["code"] != "NotFound":
            raise Violation(f"inspect {self.name}: {shown}")
        self.id = shown.get("id", "") if shown.get("state") != "destroyed" else ""
        self.ids |= {self.id} - {""}
        return {"state": "destroyed", **shown}

    def settled(self) -> dict:
        """The same, once it is on its way to no other state."""
        until(lambda: self.inspect()["state"] not in ("creating", "restoring"), 60)
        return self.inspect()

    def meet_machines(self, pids: list[int]) -> list[int]:
        """The machines of these supervisors, which must be gone in the end."""
        machines = {pid: time for pid in children_of(pids) if (time := born(pid)) and not supervises(pid)}
        self.machines |= set(machines.items())
        return list(machines)

    def check(self, shown: dict, where: str, went_on: bool) -> None:
        """Whether inside is what must be, as far as can be seen in its state."""
        if self.state == "running":
            if not self.inside.counter:
                self.inside.start_counter(self.name)
            self.inside.check_files(self.name, where)
        if self.state in HAS_MEMORY and self.inside.counter:
            self.inside.check_counter(shown["socket"], where)
        if self.state == "running" and went_on:
            self.inside.goes_on(shown["socket"], where)
        self.check_cold_disk(shown, where)

    def check_cold_disk(self, shown: dict, where: str) -> None:
        """Nobody may have run on the disk whose memory is to come back to it."""
        if self.state != "cold":
            self.cold_disk = None
            return
        stat = Path(shown["socket"]).with_name("disk.qcow2").stat()
        found = stat.st_size, stat.st_mtime_ns
        if self.cold_disk not in (None, found):
            raise Violation(f"{where}: it is cold, and its disk was {self.cold_disk} and is {found}")
        self.cold_disk = found

    def end(self) -> None:
        if self.inspect()["state"] != "destroyed":
            self.meet_machines(supervisors(self.id))
            code, report = mvmctl("destroy", self.name)
            if code:
                raise Violation(f"destroy {self.name}: {report}")
        if self.snapshot:
            if not self.snapshot.is_whole():
                raise Violation(f"the snapshot {self.snapshot.name} is not there")
            code, report = mvmctl("snapshot", "rm", self.snapshot.name)
            if code:
                raise Violation(f"snapshot rm {self.snapshot.name}: {report}")
