#!/usr/bin/env python3
"""Kills clients, supervisors and machines at random moments and checks that nothing acknowledged is lost.

Usage: conformance/faults.py [--rounds N] [--seed S] [--workers W]; needs mvmctl on the PATH. Standard library only.

Workers go through rounds side by side, each with names and a seed of its own. In a round one name gets a random
operation, and mostly a kill -9 at a random moment of it: of the client, the supervisor, the machine, the children that
are being made, or all of them. Afterwards, whatever happened: every verb answers, every acknowledged write that was
synced is there, every other one unless its machine was lost, every acknowledged change of state holds, and every name
can be used. A program whose state is in memory only goes on where it was, in what is resumed, restored and forked, or
its machine was lost; memory never comes back to a disk that has changed since. What was saved is whole or not there.
At the end the audit log is as it was written and has every sandbox and every result that was acknowledged, of which a
receipt can be had; and nothing is left: no process, no directory, no file.
"""

import argparse
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from fault import record
from fault.model import Box
from fault.outside import HOME, Violation, born, mvmctl, supervisors, until
from fault.round import Round

# How names of what sandboxes make in the directory of what is being made begin.
STAGED = ("sandbox-", "saved-", "snapshot-", "fork-", "removed-")
violated = threading.Event()


def work(worker: int, seed: int, rounds: int, verbose: bool) -> list[Box]:
    rng, boxes = random.Random(f"{seed}/{worker}"), [Box(f"fault-{worker}-{letter}") for letter in "ab"]
    number = -1
    try:
        clear([box.name for box in boxes])
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


def clear(names: list[str]) -> None:
    """Ends what an earlier test left under these names when it was stopped."""
    def ours(name: str) -> bool:
        return any(name == own or name.startswith(f"{own}-") for own in names)

    for sandbox in filter(ours, (sandbox["name"] for sandbox in mvmctl("ps")[1]["sandboxes"])):
        mvmctl("kill", sandbox)
    for snapshot in filter(ours, (snapshot["name"] for snapshot in mvmctl("snapshot", "ls")[1]["snapshots"])):
        mvmctl("snapshot", "rm", snapshot)


def nothing_is_left(boxes: list[Box]) -> None:
    for box in boxes:
        box.end()
    mvmctl("gc")
    ids = set().union(*(box.ids for box in boxes))
    machines = set().union(*(box.machines for box in boxes))

    def running() -> list:
        kept = [(pid, time) for pid, time in machines if born(pid) == time]
        return kept + [(id, pids) for id in ids if (pids := supervisors(id))]

    if not until(lambda: not running(), 10):
        raise Violation(f"processes of destroyed sandboxes still run: {running()}")
    if not until(lambda: not left_behind(ids), 10):
        raise Violation(f"left behind: {left_behind(ids)}")


def left_behind(ids: set[str]) -> set[str]:
    """Sandboxes of ours, directories of no sandbox or snapshot, and what was being made."""
    live = {sandbox["id"] for sandbox in mvmctl("ps")[1]["sandboxes"]}
    saved = {snapshot["id"] for snapshot in mvmctl("snapshot", "ls")[1]["snapshots"]}
    sandboxes = {path.name for path in (HOME / "sandboxes").iterdir()}
    snapshots = {path.name for path in (HOME / "snapshots").iterdir()}
    staged = {path.name for path in (HOME / "tmp").iterdir() if path.name.startswith(STAGED)}
    return ids & live | sandboxes - live | snapshots - saved | staged


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
        boxes = [box for worker in done for box in worker.result()]
        record.check(boxes)
        nothing_is_left(boxes)
        record.check_files(boxes)
    except Violation as e:
        sys.exit(str(e))
    print(f"{args.rounds} rounds with seed {args.seed}: nothing acknowledged was lost, nothing is left")


if __name__ == "__main__":
    main()
