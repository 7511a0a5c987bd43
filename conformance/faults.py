#!/usr/bin/env python3
"""Kills clients, supervisors and machines at random moments and checks that nothing acknowledged is lost.

Usage: conformance/faults.py [--rounds N] [--seed S]; needs mvmctl on the PATH. Standard library only.

In each round one of three names gets a random operation, and mostly a kill -9 at a random moment of it: of the client, the
supervisor, or the machine. Afterwards, whatever happened: every verb answers, every acknowledged write that was synced is
there, every acknowledged change of state holds, and every name can be used. At the end nothing is left.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time

NAMES = ["fault-a", "fault-b", "fault-c"]
DEADLINE = 90


class Violation(Exception):
    pass


def mvmctl(*args: str, stdin: str = "") -> tuple[int, dict]:
    done = subprocess.run(["mvmctl", *args, "--json"], input=stdin, capture_output=True, text=True, timeout=DEADLINE)
    try:
        return done.returncode, json.loads(done.stdout or "{}")
    except json.JSONDecodeError as e:
        raise Violation(f"{args}: no JSON: {done}") from e


def state_of(name: str) -> str:
    code, shown = mvmctl("inspect", name)
    if code and shown["error"]["code"] == "NotFound":
        return "destroyed"
    if code:
        raise Violation(f"inspect {name}: {shown}")
    return shown["state"]


def processes(kind: str, sandbox: str) -> list[int]:
    """The supervisor of a sandbox, or its children: its machine."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if b"supervise" in words[1:2] and sandbox.encode() in words[2:3]:
                if kind == "supervisor":
                    found.append(int(pid))
                else:
                    with open(f"/proc/{pid}/task/{pid}/children") as file:
                        found += map(int, file.read().split())
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


class Box:
    """What we know of one name: the state it was acknowledged to be in, and what was synced to its disk."""

    def __init__(self, name: str) -> None:
        self.name, self.state, self.synced = name, "destroyed", None

    def operations(self) -> list[str]:
        running = ["write", "stop", "exec", "destroy", "kill"]
        return {"destroyed": ["up"], "running": running}.get(self.state, ["start", "start", "destroy"])

    def arguments(self, operation: str, value: str) -> tuple[list[str], str]:
        return {
            "up": (["up", "--image", "base", "--name", self.name, "--ttl", "10m"], ""),
            "write": (["fs", "write", self.name, "/root/value", "--sync"], value),
            "exec": (["exec", self.name, "--", "sh", "-c", "sleep 0.1; echo done"], ""),
        }.get(operation, ([operation, self.name], ""))

    def acknowledged(self, operation: str, value: str) -> None:
        if operation == "write":
            self.synced = value
        self.state = {"up": "running", "start": "running", "stop": "stopped"}.get(operation, self.state)
        if operation in ("destroy", "kill"):
            self.state = "destroyed"
        if self.state == "destroyed" or operation == "up":
            self.synced = None

    def verify(self, operation: str, acknowledged: bool, killed: str, value: str) -> None:
        state = state_of(self.name)
        legal = {self.state}
        if not acknowledged:
            legal |= {"up": {"running", "destroyed"}, "stop": {"stopped"}, "start": {"running", "stopped", "creating"},
                      "destroy": {"destroyed"}, "kill": {"destroyed"}}.get(operation, set())
        if killed in ("supervisor", "machine") and state != "destroyed":
            legal |= {"stopped", "failed"}
        if state == "creating":
            mvmctl("wait", self.name, "--timeout", "60")
            state = state_of(self.name)
            legal |= {"running"}
        if state not in legal:
            raise Violation(f"{self.name} is {state}, not one of {legal} after {operation} and the kill of {killed}")
        self.state = state
        if state == "destroyed":
            self.synced = None
        if state == "running" and self.synced is not None:
            read = subprocess.run(["mvmctl", "fs", "read", self.name, "/root/value"], capture_output=True, text=True)
            allowed = {self.synced} | ({value} if operation == "write" else set())
            if read.stdout not in allowed:
                raise Violation(f"{self.name} has {read.stdout!r}, not {allowed}: {read.stderr}")
            self.synced = read.stdout


def one_round(box: Box, rng: random.Random, number: int) -> str:
    operation = rng.choice(box.operations())
    killed = rng.choice(["client", "supervisor", "machine", "nobody"])
    delay, value = rng.random() ** 2 * 1.5, f"value {number}"
    arguments, stdin = box.arguments(operation, value)
    _, shown = mvmctl("inspect", box.name)
    sandbox = shown.get("id", "")
    client = subprocess.Popen(["mvmctl", *arguments, "--json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdin
    try:
        client.stdin.write(stdin)
        client.stdin.close()
    except BrokenPipeError:
        pass
    client.stdin = None
    time.sleep(delay)
    victims = {"client": [client.pid], "nobody": []}.get(killed)
    for pid in processes(killed, sandbox) if victims is None and sandbox else victims or []:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    client.communicate(timeout=DEADLINE)
    acknowledged = client.returncode == 0
    if not acknowledged or killed in ("supervisor", "machine"):
        # A supervisor sees the end of its machine a moment later, and completes what a client asked for that is gone.
        time.sleep(1)
    if acknowledged:
        box.acknowledged(operation, value)
    elif killed == "nobody":
        raise Violation(f"{operation} {box.name} failed with {client.returncode} and nobody was killed")
    box.verify(operation, acknowledged, killed, value)
    return f"{operation} {box.name}, kill of {killed} after {delay:.2f} s: {box.state}"


def nothing_is_left(boxes: list[Box]) -> None:
    ids = []
    for box in boxes:
        _, shown = mvmctl("inspect", box.name)
        ids.append(shown.get("id", ""))
        if box.state != "destroyed":
            code, report = mvmctl("destroy", box.name)
            if code:
                raise Violation(f"destroy {box.name}: {report}")
    time.sleep(0.5)
    for id in filter(None, ids):
        if processes("supervisor", id):
            raise Violation(f"the supervisor of {id} still runs")
    _, live = mvmctl("ps")
    names = {sandbox["name"] for sandbox in live["sandboxes"]} & set(NAMES)
    if names:
        raise Violation(f"still there: {names}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    rng, boxes = random.Random(args.seed), [Box(name) for name in NAMES]
    for name in NAMES:
        mvmctl("kill", name)
    for number in range(args.rounds):
        try:
            told = one_round(rng.choice(boxes), rng, number)
        except (Violation, subprocess.TimeoutExpired) as e:
            sys.exit(f"seed {args.seed}, round {number}: {e}")
        if args.verbose:
            print(f"{number}: {told}", flush=True)
    nothing_is_left(boxes)
    print(f"{args.rounds} rounds with seed {args.seed}: nothing acknowledged was lost, nothing is left")


if __name__ == "__main__":
    main()
