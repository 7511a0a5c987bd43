#!/usr/bin/env python3
"""The cases by an SDK: walks through them here, and has each operation done by the installed package in a process of its own.

Emits a transcript and judges nothing. Usage: drivers/sdk.py SURFACE [CASE…], with mvmctl on the PATH and MVM_HOME set.

A server (`python_sdk.py`, `typescript_sdk.mjs`) reads operations, a JSON object a line, and answers each with its `result`
or `error` and the public `methods` that it used. A case has one server, so that handles live from step to step; what goes
on in the background has another one, whose end is that of its caller. What is recorded is a program of its own
(`python_record.py`, `typescript_record.mjs`).
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import recording  # noqa: E402
import suite  # noqa: E402
import transcript  # noqa: E402
import workloads  # noqa: E402

# Longer than anything in the cases takes; an operation that is not back by then hangs.
LIMIT_SECONDS = 60
SDKS = suite.HERE.parent / "target/sdks"
PYTHON = str(SDKS / "venv/bin/python")
# Modules are looked for beside the script, so those are copied to where the package is installed.
TYPESCRIPT = SDKS / "npm"
SERVERS = {
    "python": [PYTHON, str(HERE / "python_sdk.py"), "sync"],
    "python-async": [PYTHON, str(HERE / "python_sdk.py"), "async"],
    "typescript": ["node", str(TYPESCRIPT / "typescript_sdk.mjs")],
}
# Programs that are recorded.
PROGRAMS = {
    "python": [PYTHON, str(HERE / "python_record.py"), "sync"],
    "python-async": [PYTHON, str(HERE / "python_record.py"), "async"],
    "typescript": ["node", str(TYPESCRIPT / "typescript_record.mjs")],
}

Args = dict[str, Any]


class Server:
    """A process that has the SDK."""

    def __init__(self, surface: str) -> None:
        self.process = subprocess.Popen(
            SERVERS[surface], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", cwd=SDKS)

    def ask(self, op: str, args: Args) -> None:
        self.process.stdin.write(json.dumps({"op": op, "args": args}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        guard = threading.Timer(LIMIT_SECONDS, self.process.kill)
        guard.start()
        line = self.process.stdout.readline()
        guard.cancel()
        if not line:
            return {"error": no_code(f"the SDK's process ended, or said nothing within {LIMIT_SECONDS} s")}
        return json.loads(line)

    def end(self) -> None:
        """Its handles are dropped without a word."""
        self.process.kill()
        self.process.communicate()


def no_code(why: str) -> dict[str, Any]:
    """What no SDK said."""
    return {"code": None, "what": None, "why": why, "hint": None, "errno": None}


class Driver:
    """Has operations of one case after the other done."""

    def __init__(self, surface: str) -> None:
        self.surface = surface
        self.server: Server | None = None
        self.place: str | None = None

    def call(self, op: str, args: Args) -> "Call | Recorded | Commanded":
        if op in workloads.COMMANDS:
            return Commanded(workloads.COMMANDS[op](args))
        return Recorded(self.surface, args) if op == "record" else Call(self, op, args)

    def foreground(self) -> Server:
        """The case's server. Each case has its own place for profiles, which a server knows from its start."""
        if self.server is None or self.place != os.environ["XDG_CONFIG_HOME"]:
            self.close()
            self.server, self.place = Server(self.surface), os.environ["XDG_CONFIG_HOME"]
        return self.server

    def close(self) -> None:
        if self.server is not None:
            self.server.end()
            self.server = None


class Call:
    """One operation."""

    # Known once it is done: the server says which.
    methods: list[str] = []

    def __init__(self, driver: Driver, op: str, args: Args) -> None:
        self.driver, self.op, self.args = driver, op, args
        self.server: Server | None = None

    def start(self, background: bool = False) -> None:
        if background:
            self.server = Server(self.driver.surface)
            self.server.ask(self.op, self.args)

    def finish(self) -> dict[str, Any]:
        if self.server is None:
            server = self.driver.foreground()
            server.ask(self.op, self.args)
            return server.answer()
        answer = self.server.answer()
        self.server.end()
        return answer

    def abandon(self) -> dict[str, Any]:
        self.server.end()
        return {"result": {"abandoned": True}}


class Recorded:
    """A program of its own that is recorded, and what mvmctl makes of its recording."""

    methods: list[str] = []

    def __init__(self, surface: str, args: Args) -> None:
        self.argv, self.out = [*PROGRAMS[surface], json.dumps(args)], args["out"]

    def start(self, background: bool = False) -> None:
        pass

    def finish(self) -> dict[str, Any]:
        file = f"{self.out}.json"
        answer = said(self.argv, {"MVM_SDK_MODE": "record", "MVM_SDK_OUT_PATH": file})
        if "error" in answer:
            return answer
        compiled = said(["mvmctl", "compile", "--json", "--from-recording", file, "--out", self.out])
        workload = recording.bundle(compiled, self.out)
        return {**answer, **(workload if "error" in workload else {"result": workload})}


class Commanded:
    """What only the command line does, which comes with each SDK."""

    methods: list[str] = []

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv

    def start(self, background: bool = False) -> None:
        pass

    def finish(self) -> dict[str, Any]:
        answer = said(["mvmctl", *self.argv])
        return answer if "error" in answer else {"result": answer}


def said(argv: list[str], env: dict[str, str] | None = None) -> dict[str, Any]:
    """The object that a program prints."""
    try:
        done = subprocess.run(argv, env={**os.environ, **(env or {})}, capture_output=True, timeout=LIMIT_SECONDS)
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"error": no_code(f"nothing came within {LIMIT_SECONDS} s")}
    except ValueError:
        return {"error": no_code(f"{done.stdout[:500]!r} {done.stderr[:500]!r}")}


def described(surface: str) -> dict[str, Any]:
    """The public methods of the SDK, and the digest of what is installed."""
    server = Server(surface)
    server.ask("methods", {})
    answer = server.answer()
    server.end()
    return answer["result"]


def clean(id: str) -> None:
    """Ends what a case left, after that was recorded."""
    subprocess.run(["mvmctl", "kill", id], capture_output=True, timeout=LIMIT_SECONDS)


def main() -> None:
    surface, cases = sys.argv[1], sys.argv[2:]
    for module in HERE.glob("typescript_*.mjs"):
        shutil.copy(module, TYPESCRIPT)
    driver, header = Driver(surface), described(surface)
    try:
        transcript.record(surface, cases, driver.call, header["methods"], header["packages"], clean, driver.close)
    finally:
        driver.close()


if __name__ == "__main__":
    main()
