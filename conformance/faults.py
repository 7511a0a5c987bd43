#!/usr/bin/env python3
"""Kills clients, supervisors and machines at random moments and checks that nothing acknowledged is lost.

Usage: conformance/faults.py [--rounds N] [--seed S] [--workers W]; needs mvmctl on the PATH. Standard library only.

Workers go through rounds side by side, each with names and a seed of its own. In a round one name gets a random
operation, and mostly a kill -9 at a random moment of it: of the client, the supervisor, the machine, or all of them.
Afterwards, whatever happened: every verb answers, every acknowledged write that was synced is there, every other one
unless its machine was lost, every acknowledged change of state holds, and every name can be used. At the end nothing is
left: no process, no directory, no file.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HOME = Path(os.environ.get("MVM_HOME") or Path.home() / ".local/share/mvm")
DEADLINE = 120
# What a file can hold that was written and not synced when its machine was lost: the file system makes it first.
EMPTY, MISSING = "", None
violated = threading.Event()


class Violation(Exception):
    pass


def mvmctl(*args: str, stdin: str = "") -> tuple[int, dict]:
    done = subprocess.run(["mvmctl", *args, "--json"], input=stdin, capture_output=True, text=True, timeout=DEADLINE)
    try:
        return done.returncode, json.loads(done.stdout or "{}")
    except json.JSONDecodeError as e:
        raise Violation(f"{args}: no JSON: {done}") from e


def words_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def born(pid: int) -> str | None:
    """When the process was started, which tells it from a later one with its number; None if it is gone."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else fields[18]


def children_of(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def supervisors(sandbox: str, client: int = 0) -> list[int]:
    """Of the sandbox; or of the one that the client just makes."""
    if not sandbox:
        return [pid for pid in children_of([client]) if words_of(pid)[1:2] == [b"supervise"]]
    all_pids = map(int, filter(str.isdigit, os.listdir("/proc")))
    return [pid for pid in all_pids if words_of(pid)[1:3] == [b"supervise", sandbox.encode()]]


def kill(pids: list[int]) -> list[int]:
    """Those that were there to be killed."""
    killed = []
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        except ProcessLookupError:
            pass
    return killed


def until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class Content:
    """What a file may hold: to whoever reads it now, and on the disk if the machine is lost."""

    def __init__(self) -> None:
        self.now: set[str | None] = {MISSING}
        self.disk: set[str | None] = {MISSING}

    def written(self, value: str, acknowledged: bool, synced: bool) -> None:
        self.now = {value} if acknowledged else self.now | {value}
        self.disk = {value} if acknowledged and synced else self.disk | {value} | (set() if synced else {EMPTY})

    def machine_lost(self) -> None:
        self.now = set(self.disk)

    def halted(self) -> None:
        self.disk = set(self.now)

    def read(self, value: str | None, where: str) -> None:
        if value not in self.now:
            raise Violation(f"{where} holds {value!r}, not one of {self.now}")
        self.now = {value}


class Box:
    """What we know of one name: the state it was acknowledged to be in, its files, its time to live."""

    def __init__(self, name: str) -> None:
        self.name, self.id, self.state = name, "", "destroyed"
        self.ids: set[str] = set()
        self.machines: set[tuple[int, str | None]] = set()
        self.forget()

    def forget(self) -> None:
        self.files = {"/root/synced": Content(), "/root/cached": Content()}
        self.ttls = {600_000}

    def operations(self) -> list[str]:
        running = ["write", "write", "cache", "cache", "exec", "job", "keep", "stop", "destroy", "kill"]
        return {"destroyed": ["up"], "running": running}.get(self.state, ["start", "start", "start", "keep", "destroy"])

    def command(self, operation: str, number: int) -> tuple[list[str], str]:
        """Its arguments and its input. What is written is the round's number."""
        shell = [self.name, "--", "sh", "-c"]
        return {
            "up": (["up", "--image", "base", "--name", self.name, "--ttl", "10m"], ""),
            "write": (["fs", "write", self.name, "/root/synced", "--sync"], str(number)),
            "cache": (["fs", "write", self.name, "/root/cached"], str(number)),
            "exec": (["exec", *shell, "sleep 0.1; echo done"], ""),
            "job": (["exec", "--detach", *shell, f"sleep 0.1; echo -n {number} > /root/cached; exit 7"], ""),
            "keep": (["keep", self.name, "--ttl", f"{1000 + number}s"], ""),
        }.get(operation, ([operation, self.name], ""))

    def inspect(self) -> dict:
        code, shown = mvmctl("inspect", self.name)
        if code and shown["error"]["code"] != "NotFound":
            raise Violation(f"inspect {self.name}: {shown}")
        self.id = shown.get("id", "") if shown.get("state") != "destroyed" else ""
        self.ids |= {self.id} - {""}
        return {"state": "destroyed", **shown}


class Round:
    """One operation on one name, and the kill that goes with it."""

    def __init__(self, box: Box, rng: random.Random, number: int) -> None:
        # As many draws for each round, so that a seed gives the same plan however the rounds before it went.
        operation, victim, delay, self.number = rng.random(), rng.random(), rng.random(), number
        self.box, self.before = box, box.state
        operations, victims = box.operations(), ["client", "supervisor", "machine", "all", "nobody"]
        self.operation = operations[int(operation * len(operations))]
        self.victim, self.delay = victims[int(victim * len(victims))], delay**2 * 1.2
        self.client_killed = self.something_killed = self.machine_lost = self.acknowledged = False
        self.outlived: list[int] = []
        self.answer: dict = {}

    def __str__(self) -> str:
        end = "acknowledged" if self.acknowledged else "not acknowledged"
        struck = f"kill of {self.victim} after {self.delay:.2f} s"
        return f"{self.operation} {self.box.name} ({self.before}), {struck}, {end}"

    def run(self) -> None:
        arguments, stdin = self.box.command(self.operation, self.number)
        options = [] if "--" not in arguments else arguments[arguments.index("--"):]
        command = ["mvmctl", *arguments[:len(arguments) - len(options)], "--json", *options]
        sandbox = self.box.id
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True) as client:
            killer = threading.Timer(self.delay, self.strike, [client, sandbox])
            killer.start()
            output, said = client.communicate(stdin, timeout=DEADLINE)
            killer.join()
        self.acknowledged = client.returncode == 0
        if self.outlived:
            raise Violation(f"{self}: the machine {self.outlived} outlives its supervisor")
        try:
            self.answer = json.loads(output or "{}")
        except json.JSONDecodeError as e:
            if not self.client_killed:
                raise Violation(f"{self}: no JSON: {output!r}") from e
        if not self.acknowledged and not self.client_killed and not self.something_killed:
            raise Violation(f"{self}: nobody was killed, and it failed: {output} {said}")

    def strike(self, client: subprocess.Popen, sandbox: str) -> None:
        pids = supervisors(sandbox, client.pid)
        machines = children_of(pids)
        self.box.machines |= {(pid, born(pid)) for pid in machines}
        if self.victim in ("client", "all") and client.poll() is None:
            self.client_killed = bool(kill([client.pid]))
        if self.victim in ("supervisor", "machine", "all"):
            aimed = {"supervisor": pids, "machine": machines, "all": pids + machines}[self.victim]
            self.something_killed = bool(kill(aimed))
        self.machine_lost = self.something_killed and bool(machines)
        if self.machine_lost and not until(lambda: not any(map(born, machines)), 10):
            self.outlived = list(filter(born, machines))

    def settle(self) -> dict:
        """The sandbox once all has come about that is under way."""
        if self.client_killed:
            # What a client asked for that is gone is completed. Whoever asks next for the machine waits for that.
            time.sleep(0.3)
            if self.box.inspect()["state"] != "destroyed":
                mvmctl("fs", "stat", self.box.name, "/")
        shown = self.box.inspect()
        if self.machine_lost:
            until(lambda: self.box.inspect()["state"] != "running", 10)
            shown = self.box.inspect()
        if shown["state"] == "creating":
            mvmctl("wait", self.box.name, "--timeout", "60")
            shown = self.box.inspect()
        return shown

    def legal(self) -> set[str]:
        """The states that it may be in now."""
        after = {"up": "running", "start": "running", "stop": "stopped", "destroy": "destroyed", "kill": "destroyed"}
        wanted = after.get(self.operation, self.before)
        states = {wanted} if self.acknowledged else {wanted, self.before}
        if self.something_killed and states != {"destroyed"}:
            states |= {"stopped", "failed"}
            if self.machine_lost:
                states -= {"running"}
        if self.operation == "kill" and not self.acknowledged:
            # It was killed itself, after the supervisor and before the record.
            states |= {"stopped"}
        return states

    def verify(self) -> None:
        box, shown = self.box, self.settle()
        if shown["state"] not in self.legal():
            raise Violation(f"{self}: it is {shown['state']} ({shown.get('cause')}), not one of {self.legal()}")
        box.state = shown["state"]
        if box.state == "destroyed" or self.operation == "up":
            box.forget()
        else:
            self.remember(shown)
        if box.state == "running":
            for path, content in box.files.items():
                content.read(self.read(path), f"{self}: {path}")

    def remember(self, shown: dict) -> None:
        box, value = self.box, str(self.number)
        if self.operation == "keep":
            ttl = 1000 * (1000 + self.number)
            box.ttls = {ttl} if self.acknowledged else box.ttls | {ttl}
        if shown["cleanup"]["ttl_ms"] not in box.ttls:
            raise Violation(f"{self}: its time to live is {shown['cleanup']['ttl_ms']}, not one of {box.ttls}")
        if self.operation == "write":
            box.files["/root/synced"].written(value, self.acknowledged, True)
        if self.operation in ("cache", "job"):
            ended = self.operation == "cache" and self.acknowledged or self.job_ended()
            box.files["/root/cached"].written(value, ended, False)
            if self.operation == "job":
                # A shell makes a file empty before it writes to it.
                box.files["/root/cached"].now |= set() if ended else {EMPTY}
        if self.operation == "exec" and self.acknowledged and self.answer["stdout"] != "done\n":
            raise Violation(f"{self}: it wrote {self.answer}")
        lost = self.machine_lost or (self.operation == "kill" and box.state != "destroyed")
        for content in box.files.values():
            if lost:
                content.machine_lost()
            elif box.state == "stopped":
                content.halted()

    def job_ended(self) -> bool:
        """Whether an acknowledged job did its work. It must, unless its machine was killed."""
        if not self.acknowledged or self.operation != "job" or self.something_killed:
            return False
        code, shown = mvmctl("wait", self.box.name, self.answer["run_id"], "--timeout", "60")
        if code != 7:
            raise Violation(f"{self}: the job ended with {code}: {shown}")
        return True

    def read(self, path: str) -> str | None:
        done = subprocess.run(["mvmctl", "fs", "read", self.box.name, path], capture_output=True, text=True)
        if done.returncode and "No such file" in done.stderr:
            return MISSING
        if done.returncode:
            raise Violation(f"{self}: cannot read {path}: {done.stderr}")
        return done.stdout


def work(worker: int, seed: int, rounds: int, verbose: bool) -> list[Box]:
    rng, boxes = random.Random(f"{seed}/{worker}"), [Box(f"fault-{worker}-{letter}") for letter in "ab"]
    try:
        for box in boxes:
            mvmctl("kill", box.name)
        for number in range(rounds):
            if violated.is_set():
                break
            now = Round(rng.choice(boxes), rng, number)
            now.box.inspect()
            now.run()
            now.verify()
            if verbose:
                print(f"worker {worker}, round {number}: {now}: {now.box.state}", flush=True)
    except (Violation, subprocess.TimeoutExpired) as e:
        violated.set()
        raise Violation(f"seed {seed}, worker {worker}, round {number}: {e}") from e
    return boxes


def nothing_is_left(boxes: list[Box]) -> None:
    for box in boxes:
        if box.state != "destroyed":
            code, report = mvmctl("destroy", box.name)
            if code:
                raise Violation(f"destroy {box.name}: {report}")
    mvmctl("gc")
    ids = set().union(*(box.ids for box in boxes))
    machines = set().union(*(box.machines for box in boxes))

    def running() -> list:
        kept = [(pid, time) for pid, time in machines if time and born(pid) == time]
        return kept + [(id, pids) for id in ids if (pids := supervisors(id))]

    if not until(lambda: not running(), 10):
        raise Violation(f"processes of destroyed sandboxes still run: {running()}")
    # A directory whose removal was interrupted is rubbish once it is a minute old.
    if not until(lambda: not left_behind(ids), 75):
        raise Violation(f"left behind: {left_behind(ids)}")


def left_behind(ids: set[str]) -> set[str]:
    """Sandboxes of ours, and directories and temporary files of no sandbox."""
    live = {sandbox["id"] for sandbox in mvmctl("ps")[1]["sandboxes"]}
    places = {path.name for path in (HOME / "sandboxes").iterdir()}
    return ids & live | places - live | {path.name for path in (HOME / "tmp").glob("sandbox-*")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="of all workers together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    share = [args.rounds // args.workers + (n < args.rounds % args.workers) for n in range(args.workers)]
    with ThreadPoolExecutor(args.workers) as pool:
        done = [pool.submit(work, n, args.seed, rounds, args.verbose) for n, rounds in enumerate(share)]
    try:
        nothing_is_left([box for worker in done for box in worker.result()])
    except Violation as e:
        sys.exit(str(e))
    print(f"{args.rounds} rounds with seed {args.seed}: nothing acknowledged was lost, nothing is left")


if __name__ == "__main__":
    main()
