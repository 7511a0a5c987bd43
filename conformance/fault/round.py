"""One operation on one name, the kill that goes with it, and what must hold afterwards."""

import copy
import json
import random
import subprocess
import threading
import time

from .model import CACHED, EMPTY, HAS_MACHINE, MEMORY, SYNCED, Box, Inside, Result, Snapshot
from .outside import (
    DEADLINE, Violation, born, children_of, is_over, kill, mvmctl, signs, supervises, supervisors, until, works_on_something,
)
from .record import check_receipt

AFTER = {
    "up": "running", "restore": "running", "start": "running", "resume": "running", "freeze": "frozen",
    "pause": "cold", "stop": "stopped", "destroy": "destroyed", "kill": "destroyed",
}
FILES = {"write": SYNCED, "cache": CACHED, "remember": MEMORY}
# They hold the machine, or come back from where one was held.
HOLD = {"freeze", "pause", "snapshot save", "fork"}
COME_BACK = {"resume", "restore", "snapshot save", "fork"}
# Until when something is killed, in seconds: a receipt is signed in less time than a machine is made.
LATEST, LATEST_OF_RECEIPT = 1.2, 0.05


class Round:
    def __init__(self, box: Box, rng: random.Random, number: int) -> None:
        # As many draws for each round, so that a seed gives the same plan however the rounds before it went.
        operation, victim, delay, self.number = rng.random(), rng.random(), rng.random(), number
        self.box, self.before = box, box.state
        operations = box.operations()
        self.operation = operations[int(operation * len(operations))]
        victims = ["client", "supervisor", "machine", "all", "nobody"] + ["child"] * (self.operation == "fork")
        latest = LATEST
        if self.operation == "receipt":
            victims, latest = ["client", "signer", "signer", "nobody"], LATEST_OF_RECEIPT
        self.victim, self.delay = victims[int(victim * len(victims))], delay**2 * latest
        self.client_killed = self.something_killed = self.child_killed = self.signer_killed = False
        self.machine_lost = self.acknowledged = False
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
        killed = self.client_killed or self.something_killed or self.child_killed or self.signer_killed
        if not (self.acknowledged or killed):
            raise Violation(f"{self}: nobody was killed, and it failed: {self.answer} {said}")

    def strike(self, client: subprocess.Popen, sandbox: str) -> None:
        pids = supervisors(sandbox, client.pid)
        machines, children = self.box.meet_machines(pids), list(filter(supervises, children_of(pids)))
        if self.victim in ("client", "all") and client.poll() is None:
            self.client_killed = bool(kill([client.pid]))
        aimed = {"supervisor": pids, "machine": machines, "all": pids + machines}.get(self.victim, [])
        killed = kill(aimed)
        self.something_killed = bool(killed)
        if self.victim in ("child", "all"):
            born_of_it = kill(children)
            self.child_killed = bool(born_of_it)
            killed += born_of_it
        if self.victim == "signer":
            self.signer_killed = bool(kill(list(filter(signs, children_of([client.pid])))))
        until(lambda: all(map(is_over, killed)), 10)
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
                until(lambda: not works_on_something(supervisors(self.box.id)), 60)
        if self.machine_lost:
            until(lambda: self.box.inspect()["state"] not in HAS_MACHINE, 10)
        return self.box.settled()

    def legal(self) -> set[str]:
        """The states that it may be in now."""
        wanted = AFTER.get(self.operation, self.before)
        states = {wanted} if self.acknowledged else {wanted, self.before}
        if self.something_killed and states & HAS_MACHINE:
            states |= {"stopped", "failed"}
            if self.machine_lost:
                states -= HAS_MACHINE
        return states

    def verify(self) -> None:
        box, shown = self.box, self.settle()
        if shown["state"] not in self.legal():
            raise Violation(f"{self}: it is {shown['state']} ({shown.get('cause')}), not one of {self.legal()}")
        box.state = shown["state"]
        moment = copy.deepcopy(box.inside)
        if box.state == "destroyed":
            box.forget()
        elif self.operation in ("up", "restore"):
            self.begin()
        else:
            self.remember(shown)
        if box.state in ("stopped", "failed"):
            if not self.machine_lost:
                box.inside.synced()
            box.inside.machine_lost()
        box.check(shown, str(self), self.operation in COME_BACK)
        if self.operation in ("snapshot save", "snapshot rm"):
            self.verify_snapshot(moment)
        if self.operation == "fork":
            self.verify_children(moment)

    def begin(self) -> None:
        self.box.forget()
        if self.operation == "restore" and self.box.snapshot:
            self.box.inside = self.box.snapshot.inside.came_back()

    def remember(self, shown: dict) -> None:
        box, value = self.box, str(self.number)
        if self.operation == "keep":
            ttl = 1000 * (1000 + self.number)
            box.ttls = {ttl} if self.acknowledged else box.ttls | {ttl}
        if shown["cleanup"]["ttl_ms"] not in box.ttls:
            raise Violation(f"{self}: its time to live is {shown['cleanup']['ttl_ms']}, not one of {box.ttls}")
        if self.operation in FILES:
            box.inside.files[FILES[self.operation]].written(value, self.acknowledged, self.operation == "write")
        if self.operation == "job":
            ended, cached = self.job_ended(), box.inside.files[CACHED]
            cached.written(value, ended, False)
            # A shell makes a file empty before it writes to it.
            cached.now |= set() if ended else {EMPTY}
        if self.operation == "exec" and self.acknowledged:
            if self.answer["stdout"] != "done\n":
                raise Violation(f"{self}: it wrote {self.answer}")
            self.ended(self.answer["run_id"], self.answer)
        if self.operation == "receipt":
            receipt = check_receipt(box.results[-1])
            if self.acknowledged and receipt != self.answer:
                raise Violation(f"{self}: it was {self.answer} and is {receipt}")
        if self.operation in HOLD and self.acknowledged:
            box.inside.synced()

    def job_ended(self) -> bool:
        """Whether an acknowledged job did its work. It must, unless its machine was killed."""
        if self.something_killed:
            return False
        if not self.acknowledged:
            # If it was started after all, it is not to end in a later round.
            until(lambda: len(self.running_jobs()) <= 1, 60)
            return False
        code, shown = mvmctl("wait", self.box.name, self.answer["run_id"], "--timeout", "60")
        if code != 7:
            raise Violation(f"{self}: the job ended with {code}: {shown}")
        self.ended(shown["run_id"], shown["result"])
        return True

    def ended(self, run: str, result: dict) -> None:
        self.box.results.append(Result(run, self.box.id, result["audit_id"], result["exit_code"]))

    def running_jobs(self) -> list[dict]:
        return [job for job in mvmctl("jobs", self.box.name)[1]["jobs"] if not job["result"]]

    def verify_snapshot(self, moment: Inside) -> None:
        """What was acknowledged is so; what was not is whole or not there."""
        box, saving = self.box, self.operation == "snapshot save"
        snapshot = Snapshot(f"{box.name}-{self.number}", moment) if saving else box.snapshot
        there = snapshot.is_whole()
        if self.acknowledged and there != saving:
            raise Violation(f"{self}: the snapshot {snapshot.name} is {'still' if there else 'not'} there")
        box.snapshot = snapshot if there else None

    def verify_children(self, moment: Inside) -> None:
        """All or none, unless who makes them was killed; and each that is there is whole, and can be ended."""
        children = [Box(f"{self.box.name}-{self.number}-{n}") for n in (1, 2)]
        there = []
        for child in children:
            shown = child.settled()
            if shown["state"] != "destroyed":
                there.append((child, shown))
        supervisor_killed = self.something_killed and self.victim != "machine"
        numbers = {0, 1, 2} if supervisor_killed else {0, 2} if self.client_killed else {0}
        numbers = {2} if self.acknowledged else numbers
        if len(there) not in numbers:
            raise Violation(f"{self}: there are {len(there)} children, not one of {numbers}")
        for child, shown in there:
            child.state, where = shown["state"], f"{self}: child {child.name}"
            if child.state != "running" and not (self.child_killed and child.state in ("stopped", "failed")):
                raise Violation(f"{where}: it is {child.state} ({shown['cause']})")
            child.inside = moment.came_back()
            child.check(shown, where, True)
            child.end()
            self.box.ids |= child.ids
            self.box.machines |= child.machines
