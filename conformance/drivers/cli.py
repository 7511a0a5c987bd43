#!/usr/bin/env python3
"""The cases by the command line: what each operation is as an mvmctl command.

Emits a transcript and judges nothing. Usage: drivers/cli.py [CASE…], with mvmctl on the PATH and MVM_HOME set.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx  # noqa: E402
import recording  # noqa: E402
import transcript  # noqa: E402
import workloads  # noqa: E402
from cli_call import (  # noqa: E402
    LIMIT_SECONDS, Call, as_object, content, deletion, log, nothing, of_one, output, streamed, waited,
)

# A program that does calls with the Python SDK, and the environment that has this SDK.
PROGRAM = Path(__file__).resolve().parent / "python_record.py"
ENVIRONMENT = transcript.suite.HERE.parent / "target/sdks/venv"

Args = dict[str, Any]


def options(args: Args, **names: str) -> list[str]:
    """The options for those arguments that are there. What is true is an option without a value."""
    said = []
    for key, option in names.items():
        value = args.get(key)
        if isinstance(value, dict):
            said += [f"{option}={name}={item}" for name, item in value.items()]
        elif isinstance(value, list):
            said += [f"{option}={item}" for item in value]
        elif value is True:
            said.append(option)
        elif value is not None and value is not False:
            said.append(f"{option}={f'{value}ms' if key.endswith('_ms') else value}")
    return said


# What a machine is to be, and what the policy is to say to it.
WANTED = {
    "image": "--image", "memory_mib": "--memory", "cpus": "--cpus", "disk_bytes": "--disk", "env": "--env", "secrets": "--secret",
    "profile": "--profile", "accept_risk": "--accept-risk", "require": "--require", "allow_missing": "--allow-missing",
    "dry_run": "--dry-run",
}


def create(args: Args) -> Call:
    if args.get("through") == "request":
        request = {key: value for key, value in args.items() if key not in ("through", "dry_run")}
        said = ["up", "--request", "-", "--json", *options(args, dry_run="--dry-run")]
        return Call(said, as_object, json.dumps(request).encode())
    said = ["up", "--json", *options(
        args, **WANTED, name="--name", owner="--owner", ttl_ms="--ttl", on_expiry="--on-expiry",
        idempotency_key="--idempotency-key", lease="--lease")]
    said += [f"--port={port['host_port']}:{port['guest_port']}" for port in args.get("ports", [])]
    if "ttl_ms" in args and args["ttl_ms"] is None:
        said.append("--ttl=none")
    return Call([*said, "--", *args["argv"]] if "argv" in args else said, as_object)


def detach(args: Args) -> Call:
    said = ["detach", "--json", *options(args, owner="--owner", ttl_ms="--ttl", on_expiry="--on-expiry")]
    said += ["--ttl=none"] if "ttl_ms" in args and args["ttl_ms"] is None else []
    return Call([*said, args["sandbox"]], as_object)


def cleanup_scope(args: Args) -> Call:
    return Call(["up", "--attach", *options(args, name="--name", image="--image"), "--", *args["argv"]], streamed)


def command(verb: str, args: Args, *extra: str) -> Call:
    stdin = args.get("stdin")
    said = [verb, "--json", *extra, *options(
        args, **WANTED, cwd="--cwd", user="--user", timeout_ms="--timeout", max_output="--max-output",
        idempotency_key="--idempotency-key", receipt="--receipt")]
    said += ["-i"] if stdin is not None else []
    said += [args["sandbox"]] if "sandbox" in args else []
    return Call([*said, "--", *args["argv"]], as_object, None if stdin is None else stdin.encode())


def run(args: Args) -> Call:
    if args.get("through") != "request":
        return command("run", args)
    beside = ("through", "dry_run", "receipt", "stdin")
    request = json.dumps({key: value for key, value in args.items() if key not in beside}) + "\n"
    said = ["run", "--request", "-", "--json", *options(args, dry_run="--dry-run", receipt="--receipt")]
    said += ["-i"] if "stdin" in args else []
    return Call(said, as_object, (request + args.get("stdin", "")).encode())


def write(args: Args) -> Call:
    said = ["fs", "write", "--json"]
    said += options(args, owner="--owner", append="--append", sync="--sync", parents="--parents")
    said += [f"--mode={args['mode']:o}"] if "mode" in args else []
    return Call([*said, args["sandbox"], args["path"]], as_object, recording.file_content(args))


def fs(verb: str, args: Args, read: Callable[[Call], Any] = as_object) -> Call:
    said = ["fs", verb, "--json", *options(args, follow="--follow", parents="--parents", recursive="--recursive")]
    said += [f"--mode={args['mode']:o}"] if "mode" in args else []
    return Call([*said, args["sandbox"], args["path"], *([args["to"]] if "to" in args else [])], read)


def part(name: str) -> Callable[[Call], Any]:
    """One field of a sandbox."""
    def read(call: Call) -> Any:
        said = as_object(call)
        return said if "error" in said else {name: said[name]}
    return read


def job_info(args: Args) -> Call:
    def read(call: Call) -> Any:
        said = as_object(call)
        return said if "error" in said else next(job for job in said["jobs"] if job["run_id"] == args["job"])
    return Call(["jobs", "--json", args["sandbox"]], read)


def talk(args: Args) -> Call:
    def read(call: Call) -> Any:
        said = as_object(call)
        return said if set(said) == {"error"} else {"exit_code": said["exit_code"], "stdout": said["stdout"]}
    return Call(["exec", "--json", "-i", args["sandbox"], "--", *args["argv"]], read, "".join(args["input"]).encode())


def exists(args: Args) -> Call:
    """`fs stat` that follows links: what is not found is not there."""
    def read(call: Call) -> Any:
        said = as_object(call)
        if "error" in said and said["error"]["errno"] in (2, 20):
            call.process.returncode = 0
            return {"exists": False}
        return said if "error" in said else {"exists": True}
    return Call(["fs", "stat", "--json", "--follow", args["sandbox"], args["path"]], read)


def one(verb: str, read: Callable[[Call], Any] = as_object, **names: str) -> Callable[[Args], Call]:
    """The verbs that look alike: VERB [options] SANDBOX [JOB]."""
    def call(args: Args) -> Call:
        positional = [args[key] for key in ("sandbox", "job") if key in args]
        return Call([verb, "--json", *options(args, **names), *positional], read)
    return call


def snapshot(verb: str, *positional: str) -> Callable[[Args], Call]:
    def call(args: Args) -> Call:
        said = ["snapshot", verb, "--json", *options(args, name="--name")]
        return Call([*said, *(args[key] for key in positional)], as_object)
    return call


def restore(args: Args) -> Call:
    return Call(["restore", "--json", *options(args, name="--name", disk_only="--disk-only", lease="--lease"), args["snapshot"]], as_object)


def forward(args: Args) -> Call:
    host = f"{args['host']}:" if "host" in args else ""
    protocol = f"/{args['protocol']}" if "protocol" in args else ""
    said = f"{host}{args['host_port']}:{args['guest_port']}{protocol}"
    return Call(["port", "add", "--json", args["sandbox"], said], as_object)


def receipt(args: Args) -> Call:
    return Call(["receipt", "show", "--json", *options(args, sandbox="--sandbox", path="--output"), args["job"]], as_object)


def verify(args: Args) -> Call:
    said = options(args, keys="--key", proof="--proof", opening="--opening")
    return Call(["receipt", "verify", "--json", *said, args["path"]], as_object)


def opening(args: Args) -> Call:
    def keep(call: Call) -> Any:
        said = as_object(call)
        if call.process.returncode == 0:
            Path(args["to"]).write_bytes(call.stdout)
        return said
    return Call(["receipt", "open", "--json", *options(args, value="--value"), args["path"], args["field"]], keep)


def record(args: Args) -> Call:
    def bundle(call: Call) -> Any:
        return recording.bundle(as_object(call), args["out"])
    said = ["compile", "--json", "--out", args["out"]]
    if args.get("through") == "script":
        program = ["--record", str(PROGRAM), "sync", json.dumps(args)]
        return Call([*said, *program], bundle, env={"VIRTUAL_ENV": str(ENVIRONMENT)})
    written = recording.written_down(args["create"], args["calls"])
    return Call([*said, "--from-recording", "-"], bundle, json.dumps(written).encode())


def end(verb: str, down: list[str], read: Callable[[Call], Any]) -> Callable[[Args], Call]:
    def call(args: Args) -> Call:
        return Call([*(down if args.get("down") else [verb]), "--json", args["sandbox"]], read)
    return call


def logs(args: Args) -> Call:
    said = options(args, source="--source", tail="--tail", since="--since", until="--until", follow="--follow",
                   redact="--redact")
    return Call(["logs", "--json", *said, args["sandbox"]], log, take=args.get("take"))


OPERATIONS: dict[str, Callable[[Args], Call]] = {
    "create": create,
    "connect": one("inspect"),
    "inspect": one("inspect"),
    "state": lambda args: Call(["inspect", "--json", args["sandbox"]], part("state")),
    "capabilities": lambda args: Call(["inspect", "--json", args["sandbox"]], part("capabilities")),
    "list": one("ps", all="--all"),
    "wait": one("wait", state="--state", timeout_ms="--timeout"),
    "stats": one("stats"),
    "stop": end("stop", ["down"], as_object),
    "start": one("start"),
    "keep": one("keep", ttl_ms="--ttl", on_expiry="--on-expiry"),
    "detach": detach,
    "destroy": end("destroy", ["down", "--destroy"], deletion),
    "kill": one("kill", deletion),
    "gc": one("gc"),
    "cleanup_scope": cleanup_scope,
    "cold": one("pause"),
    "freeze": one("freeze"),
    "resume": one("resume"),
    "snapshot": snapshot("save", "sandbox"),
    "snapshots.list": snapshot("ls"),
    "snapshots.inspect": snapshot("inspect", "snapshot"),
    "snapshots.remove": snapshot("rm", "snapshot"),
    "restore": restore,
    "fork": one("fork", name="--name", count="--count", lease="--lease"),
    "run": run,
    "commands.run": lambda args: command("exec", args),
    "commands.start": lambda args: command("exec", args, "--detach"),
    "commands.list": one("jobs"),
    "commands.talk": talk,
    "job.info": job_info,
    "job.wait": one("wait", waited, timeout_ms="--timeout"),
    "job.kill": one("kill", signal="--signal"),
    "job.output": one("attach", output, offset="--offset"),
    "files.write": write,
    "files.read": lambda args: Call(
        ["fs", "read", "--json", *options(args, offset="--offset", len="--len"), args["sandbox"], args["path"]], content),
    "files.list": lambda args: fs("ls", args),
    "files.stat": lambda args: fs("stat", args),
    "files.exists": exists,
    "files.mkdir": lambda args: fs("mkdir", args, nothing),
    "files.move": lambda args: fs("mv", args, nothing),
    "files.remove": lambda args: fs("rm", args, nothing),
    "files.copy_in": lambda args: Call(["cp", "--json", args["host"], f"{args['sandbox']}:{args['path']}"], as_object),
    "files.copy_out": lambda args: Call(["cp", "--json", f"{args['sandbox']}:{args['path']}", args["host"]], as_object),
    "logs": logs,
    "record": record,
    **{op: lambda args, command=command: Call(command(args), as_object) for op, command in workloads.COMMANDS.items()},
    "receipt": receipt,
    "receipts.verify": verify,
    "receipts.open": opening,
    "secrets.list": lambda args: Call(["secret", "ls", "--json", args["sandbox"]], of_one),
    "ports.forward": forward,
    "ports.list": lambda args: Call(["port", "ls", "--json", args["sandbox"]], as_object),
    "ports.close": lambda args: Call(["port", "rm", "--json", args["sandbox"], str(args["host_port"])], nothing),
}


class OverTheApi:
    """`files.stat` of a path with a NUL, which no process can have among its arguments."""

    methods: list[str] = []

    def __init__(self, args: Args) -> None:
        self.args = args

    def start(self, background: bool = False) -> None:
        pass

    def finish(self) -> dict[str, Any]:
        inspect = ["mvmctl", "inspect", "--json", self.args["sandbox"]]
        inspection = json.loads(subprocess.run(inspect, capture_output=True, check=True).stdout)
        transport = httpx.HTTPTransport(uds=inspection["socket"])
        with httpx.Client(transport=transport, base_url="http://sandbox", timeout=LIMIT_SECONDS) as http:
            said = http.get("/v1/files/stat", params={"path": self.args["path"], "follow": False}).json()
        return said if "error" in said else {"result": said}


class Nothing:
    """What there is to be done of a handle where there are none."""

    methods: list[str] = []

    def start(self, background: bool = False) -> None:
        pass

    def finish(self) -> dict[str, Any]:
        return {"result": None}


class Several:
    """An operation that is several commands here: what each says, and the first error."""

    def __init__(self, calls: list[Call], name: str) -> None:
        self.calls, self.name, self.methods = calls, name, calls[0].methods

    def start(self, background: bool = False) -> None:
        pass

    def finish(self) -> dict[str, Any]:
        said = []
        for call in self.calls:
            call.start()
            outcome = call.finish()
            if "error" in outcome:
                return outcome
            said.append(outcome["result"])
        return {"result": {self.name: said}}


def call(op: str, args: Args) -> Any:
    """The operation, not yet started."""
    if op == "files.stat" and "\0" in args["path"]:
        return OverTheApi(args)
    if op in ("drop", "close"):
        return Nothing()
    if op == "files.write_many":
        others = {key: value for key, value in args.items() if key != "files"}
        return Several([write({**others, "path": path, "text": text}) for path, text in args["files"].items()], "written")
    return OPERATIONS[op](args)


def methods() -> list[str]:
    """The public verbs, as mvmctl itself lists them; those below another one each by itself."""
    found = []
    for verb in verbs():
        found += [f"{verb} {below}" for below in verbs(verb)] or [verb]
    return found


def verbs(*above: str) -> list[str]:
    text = subprocess.run(["mvmctl", *above, "--help"], capture_output=True, text=True, check=True).stdout
    _, _, listed = text.partition("\nCommands:\n")
    lines = listed.split("\n\n")[0].splitlines()
    names = [line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("   ")]
    return [name for name in names if name != "help"]


def packages() -> dict[str, str]:
    """What is under test, by its digest."""
    program = Path(shutil.which("mvmctl") or "mvmctl")
    return {"mvmctl": transcript.suite.sha256(program.read_bytes())}


def clean(id: str) -> None:
    """Ends what a case left, after that was recorded."""
    subprocess.run(["mvmctl", "kill", id], capture_output=True, timeout=LIMIT_SECONDS)


if __name__ == "__main__":
    transcript.record("cli", sys.argv[1:], call, methods(), packages(), clean)
