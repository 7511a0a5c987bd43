"""What the operations of the cases are in the Python SDK, and what its answers say, in the names of the API.

Both surfaces have the same names, so there is one table: what the synchronous one answers at once, the other one is awaited for.
"""

import base64
import functools
import hashlib
import inspect
import json
import math
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Awaitable, Callable

import mvm

import recording

if TYPE_CHECKING:
    from python_sdk import Surface

# Content up to here is in the transcript as it is, beyond as its digest.
SHOWN_BYTES = 4096

Args = dict[str, Any]


async def of(answer: Any) -> Any:
    """The answer, whichever surface gave it."""
    return await answer if inspect.isawaitable(answer) else answer


async def each(entries: Any) -> list[Any]:
    """All of what is iterated over."""
    return [entry async for entry in entries] if hasattr(entries, "__aiter__") else list(entries)


def shown(content: bytes) -> tuple[str | None, str | None]:
    if len(content) > SHOWN_BYTES:
        return None, None
    return text_of(content)


def text_of(content: bytes) -> tuple[str, str]:
    try:
        return content.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(content).decode(), "base64"


def seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def time_to_live(args: Args) -> float | None:
    """In seconds; what is null in a case has no end."""
    return math.inf if "ttl_ms" in args and args["ttl_ms"] is None else seconds(args.get("ttl_ms"))


def ending(args: Args) -> Args:
    """Of a sandbox that goes on without its maker, unless it has a lease."""
    if args.get("lease"):
        return {"lease": True}
    ttl = time_to_live(args)
    return {"ttl": ttl, "lease": None if ttl is not None else False}


def given(args: Args, *names: str) -> Args:
    """Those options that the case gives, which have the same names."""
    return {name: args[name] for name in names if name in args}


WANTED = ("image", "memory_mib", "cpus", "env", "secrets", "profile", "accept_risk", "require", "allow_missing", "dry_run")


def machine(args: Args) -> Args:
    disk = {"disk_mib": args["disk_bytes"] >> 20} if "disk_bytes" in args else {}
    return given(args, *WANTED) | disk


def creation(args: Args) -> Args:
    """The options of a sandbox that is created."""
    ports = [mvm.PortSpec(**port) for port in args.get("ports", [])]
    return machine(args) | given(args, "name", "owner", "on_expiry", "idempotency_key") | ending(args) | {"ports": ports}


def file_content(args: Args) -> Any:
    """What a file is to have in it."""
    return args["text"] if "text" in args else recording.file_content(args)


def command_result(result: Any, args: Args) -> Args:
    said = {
        name: getattr(result, name) for name in (
            "exit_code", "signal", "timed_out", "oom_killed", "stdout_bytes", "stderr_bytes", "stdout_truncated",
            "stderr_truncated", "redactions", "run_id", "sandbox_id", "audit_id", "unrecorded")
    }
    said["duration_ms"] = result.duration * 1000
    said["not_started"] = result.not_started and result.not_started.to_json()
    said["warnings"] = list(result.warnings)
    said["receipt"], said["receipt_error"] = args.get("receipt"), None
    for name in ("stdout", "stderr"):
        said[name], said[f"{name}_encoding"] = text_of(getattr(result, f"{name}_data"))
        # The text is what its bytes are, as far as they are text.
        assert getattr(result, name) == getattr(result, f"{name}_data").decode(errors="replace")
    assert result.ok == (result.exit_code == 0)
    return said


async def ended(run: Callable[[], Any]) -> Any:
    """The result, also of a command whose time was up: that is raised, and nothing else is."""
    try:
        result = await of(run())
    except mvm.Timeout as late:
        assert late.result is not None and late.result.timed_out
        return late.result
    assert not getattr(result, "timed_out", False), "a command whose time was up did not raise Timeout"
    return result


async def same_receipt(result: Any, args: Args) -> None:
    """A receipt that was written is the one that the result gives."""
    if "receipt" in args:
        assert (await of(result.receipt())).envelope == Path(args["receipt"]).read_text()


def verification(found: Any) -> Args:
    if not found.verified:
        refusal = found.refusal
        return {"verified": False, "refusal": {"name": refusal.name, "why": refusal.why, "exit_status": refusal.exit_status}}
    said = {name: getattr(found, name) for name in ("verified", "keyid", "digest", "statement")}
    return {**said, "logged": found.logged and found.logged.to_json()}


class Operations:
    """What the operations of the cases are in this SDK."""

    def __init__(self, api: "Surface") -> None:
        self.api = api
        # Handles that were made here, by id and by the name that they had last.
        self.made: dict[str, Any] = {}

    def keep(self, sandbox: Any) -> Any:
        self.made[sandbox.id] = self.made[sandbox.name] = sandbox
        return sandbox

    async def found(self, args: Args) -> Any:
        """A new handle of a sandbox."""
        return await of(self.api.sandbox.connect(args["sandbox"]))

    async def own(self, args: Args) -> Any:
        """The handle that made it, if it was made here; it alone knows how it ended."""
        return self.made.get(args["sandbox"]) or self.keep(await self.found(args))

    def forget(self, sandbox: Any) -> None:
        del self.made[sandbox.id]
        self.made.pop(sandbox.name, None)

    async def create(self, args: Args) -> Any:
        sandbox = await of(self.api.sandbox.create(**creation(args)))
        if isinstance(sandbox, mvm.Plan):
            return sandbox.to_json()
        self.keep(sandbox)
        job = await of(sandbox.commands.start(args["argv"])) if "argv" in args else None
        opened = await of(sandbox.ports.list()) if args.get("ports") else ()
        return {
            **sandbox.info.to_json(), "created": sandbox.created, "job": job and job.started.to_json(),
            "ports": [port.to_json() for port in opened], "warnings": list(sandbox.warnings),
        }

    async def drop(self, args: Args) -> None:
        """The lease goes with the handle."""
        self.forget(await self.own(args))

    async def cleanup_scope(self, args: Args) -> Any:
        sandbox = await of(self.api.sandbox.create(args["image"], name=args["name"]))
        if hasattr(sandbox, "__aenter__"):
            async with sandbox:
                result = await sandbox.commands.run(args["argv"])
        else:
            with sandbox:
                result = sandbox.commands.run(args["argv"])
        return {"exit_code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr}

    async def connect(self, args: Args) -> Any:
        sandbox = await self.found(args)
        said = (await of(sandbox.inspect())).to_json()
        assert sandbox.id == said["id"] and sandbox.name == said["name"] and not sandbox.leased
        return said

    async def inspect(self, args: Args) -> Any:
        return (await of(self.api.sandbox.lookup(args["sandbox"]))).to_json()

    async def state(self, args: Args) -> Any:
        return {"state": (await of((await self.found(args)).state())).value}

    async def capabilities(self, args: Args) -> Any:
        return {"capabilities": [one.to_json() for one in await of((await self.found(args)).capabilities())]}

    async def list(self, args: Args) -> Any:
        return {"sandboxes": [one.to_json() for one in await of(self.api.sandbox.list(**given(args, "all")))]}

    async def wait(self, args: Args) -> Any:
        waiting = (await self.found(args)).wait(args["state"], timeout=seconds(args["timeout_ms"]))
        return (await of(waiting)).to_json()

    async def stats(self, args: Args) -> Any:
        return (await of((await self.found(args)).stats())).to_json()

    async def keep_alive(self, args: Args) -> Any:
        keeping = (await self.found(args)).keep(seconds(args["ttl_ms"]), **given(args, "on_expiry"))
        return (await of(keeping)).to_json()

    async def detach(self, args: Args) -> Any:
        # The handle that has the lease gives it up; or another one takes it from it.
        sandbox = self.made.get(args["sandbox"])
        if args.get("through") == "another" or sandbox is None or not sandbox.leased:
            sandbox = await self.found(args)
        left = sandbox.detach(ttl=time_to_live(args), **given(args, "owner", "on_expiry"))
        return (await of(left)).to_json()

    async def change(self, verb: str, args: Args) -> Any:
        return (await of(getattr(await self.found(args), verb)())).to_json()

    async def end(self, verb: str, args: Args) -> Any:
        return (await of(getattr(await self.own(args), verb)())).to_json()

    async def close(self, args: Args) -> None:
        sandbox = await self.own(args)
        await of(sandbox.close())
        self.forget(sandbox)

    async def gc(self, args: Args) -> Any:
        return (await of(self.api.gc())).to_json()

    async def snapshot(self, args: Args) -> Any:
        return (await of((await self.found(args)).snapshot(**given(args, "name")))).to_json()

    async def snapshots_list(self, args: Args) -> Any:
        return {"snapshots": [one.to_json() for one in await of(self.api.snapshots.list())]}

    async def snapshots_inspect(self, args: Args) -> Any:
        return (await of(self.api.snapshots.inspect(args["snapshot"]))).to_json()

    async def snapshots_remove(self, args: Args) -> Any:
        return {"removed": [(await of(self.api.snapshots.remove(args["snapshot"]))).to_json()]}

    async def restore(self, args: Args) -> Any:
        made = self.api.sandbox.restore(args["snapshot"], lease=args.get("lease", False), **given(args, "name", "disk_only"))
        sandbox = self.keep(await of(made))
        return {
            **sandbox.info.to_json(), "created": sandbox.created, "warnings": list(sandbox.warnings),
            "missing_secrets": list(sandbox.missing_secrets),
        }

    async def fork(self, args: Args) -> Any:
        made = (await self.found(args)).fork(args["count"], name=args["name"], lease=args.get("lease", False))
        return {"sandboxes": [self.keep(copy).info.to_json() for copy in await of(made)]}

    async def run(self, args: Args) -> Any:
        options = machine(args) | given(args, "stdin", "cwd", "user", "max_output", "receipt")
        result = await ended(lambda: self.api.run(args["argv"], timeout=seconds(args.get("timeout_ms")), **options))
        if isinstance(result, mvm.Plan):
            return result.to_json()
        await same_receipt(result, args)
        return command_result(result, args) | {"image_digest": result.image_digest, "isolation": result.isolation}

    async def commands_run(self, args: Args) -> Any:
        options = given(args, "env", "secrets", "stdin", "cwd", "user", "max_output", "receipt")
        heard: tuple[list[str], list[str]] = [], []
        sandbox = await self.found(args)
        result = await ended(lambda: sandbox.commands.run(
            args["argv"], timeout=seconds(args.get("timeout_ms")), on_stdout=heard[0].append, on_stderr=heard[1].append,
            **options))
        await same_receipt(result, args)
        for told, kept, cut in ((heard[0], result.stdout, result.stdout_truncated), (heard[1], result.stderr, result.stderr_truncated)):
            # What is kept may end within a character.
            assert "".join(told).startswith(kept.rstrip("\N{REPLACEMENT CHARACTER}")) if cut else "".join(told) == kept
        return command_result(result, args)

    async def commands_start(self, args: Args) -> Any:
        options = given(args, "env", "secrets", "user", "idempotency_key")
        sandbox = await self.found(args)
        job = await of(sandbox.commands.start(
            args["argv"], timeout=seconds(args.get("timeout_ms")), **options))
        return {**job.started.to_json(), "warnings": list(job.warnings)}

    async def commands_talk(self, args: Args) -> Any:
        job = await of((await self.found(args)).commands.start(args["argv"], stdin=True))
        for piece in args["input"]:
            await of(job.write(piece))
        await of(job.close_stdin())
        said = b"".join(event.data for event in await each(job) if event.stream.value == "stdout")
        return {"exit_code": (await of(job.wait(timeout=20))).exit_code, "stdout": said.decode()}

    async def commands_list(self, args: Args) -> Any:
        return {"jobs": [job.to_json() for job in await of((await self.found(args)).commands.list())]}

    async def job(self, args: Args, **options: Any) -> Any:
        return await of((await self.found(args)).commands.attach(args["job"], **options))

    async def job_info(self, args: Args) -> Any:
        return (await of((await self.job(args)).info())).to_json()

    async def job_wait(self, args: Args) -> Any:
        result = await of((await self.job(args)).wait(timeout=seconds(args["timeout_ms"])))
        return {"run_id": args["job"], **result.to_json()}

    async def job_kill(self, args: Args) -> Any:
        signal = args.get("signal", 9)
        await of((await self.job(args)).kill(signal))
        return {"run_id": args["job"], "signal": signal}

    async def job_output(self, args: Args) -> Any:
        job = await self.job(args, **given(args, "offset"))
        events = await each(job)
        pieces = [event for event in events if isinstance(event, mvm.Output)]
        said: Args = {"first_offset": pieces[0].offset if pieces else None}
        for name in ("stdout", "stderr"):
            said[name], said[f"{name}_encoding"] = shown(b"".join(one.data for one in pieces if one.stream.value == name))
        said["gaps"] = [{"offset": one.offset, "bytes": one.bytes} for one in events if isinstance(one, mvm.OutputGap)]
        said["result"] = (await of(job.info())).result.to_json()
        return said

    async def files_write(self, args: Args) -> Any:
        options = given(args, "mode", "owner", "append", "sync", "parents")
        return (await of((await self.found(args)).files.write(args["path"], file_content(args), **options))).to_json()

    async def files_write_many(self, args: Args) -> Any:
        written = await of((await self.found(args)).files.write_many(args["files"], **given(args, "mode", "owner", "parents")))
        return {"written": [one.to_json() for one in written]}

    async def files_read(self, args: Args) -> Any:
        files = (await self.found(args)).files
        options = {"length" if name == "len" else name: args[name] for name in ("offset", "len") if name in args}
        if args.get("through") == "stream":
            content = b"".join(await each(files.stream(args["path"], **options)))
        elif args.get("through") == "text":
            content = (await of(files.read_text(args["path"]))).encode()
        else:
            content = await of(files.read(args["path"], **options))
        data, encoding = shown(content)
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "data": data, "encoding": encoding}

    async def files_list(self, args: Args) -> Any:
        return {"entries": [one.to_json() for one in await of((await self.found(args)).files.list(args["path"]))]}

    async def files_stat(self, args: Args) -> Any:
        return (await of((await self.found(args)).files.stat(args["path"], **given(args, "follow")))).to_json()

    async def files_exists(self, args: Args) -> Any:
        return {"exists": await of((await self.found(args)).files.exists(args["path"]))}

    async def files_mkdir(self, args: Args) -> None:
        await of((await self.found(args)).files.mkdir(args["path"], **given(args, "parents", "mode")))

    async def files_move(self, args: Args) -> None:
        await of((await self.found(args)).files.move(args["path"], args["to"]))

    async def files_remove(self, args: Args) -> None:
        await of((await self.found(args)).files.remove(args["path"], **given(args, "recursive")))

    async def files_copy_in(self, args: Args) -> Any:
        copied = (await self.found(args)).files.upload(host_path=args["host"], guest_path=args["path"])
        return (await of(copied)).to_json()

    async def files_copy_out(self, args: Args) -> Any:
        copied = (await self.found(args)).files.download(guest_path=args["path"], host_path=args["host"])
        return (await of(copied)).to_json()

    async def logs(self, args: Args) -> Any:
        options = given(args, "source", "tail", "follow")
        # The command line's way to say a time: so long ago.
        for name in ("since", "until"):
            if name in args:
                options[name] = {"1h": 3600.0}.get(args[name], args[name])
        log = (await self.found(args)).logs(redact=args.get("redact") != "off", **options)
        if "take" not in args:
            events = await each(log)
            return {"events": [event.to_json() for event in events], "summary": log.summary.to_json()}
        taken = []
        if hasattr(log, "__aenter__"):
            async with log:
                async for event in log:
                    taken.append(event)
                    if len(taken) == args["take"]:
                        break
        else:
            for event in log:
                taken.append(event)
                if len(taken) == args["take"]:
                    break
        await of(log.close())
        return {"events": [event.to_json() for event in taken], "summary": log.summary}

    async def receipt(self, args: Args) -> Any:
        if args.get("through") == "job":
            found = await of((await self.job(args)).receipt())
        else:
            found = await of(self.api.receipts.show(args["job"], **given(args, "sandbox")))
        if "path" in args:
            found.write(args["path"])
        return {**verification(found), "envelope": found.envelope, "proof": found.proof}

    async def receipts_verify(self, args: Args) -> Any:
        found = await of(self.api.receipts.verify(args["path"], **given(args, "keys", "proof", "opening")))
        if not found.verified:
            return verification(found)
        return {**verification(found), "opened": found.opened and found.opened.to_json()}

    async def receipts_open(self, args: Args) -> Any:
        opening = await of(self.api.receipts.open(args["path"], args["field"], **given(args, "value")))
        if not opening:
            refusal = opening.refusal
            return {"verified": False, "refusal": {"name": refusal.name, "why": refusal.why, "exit_status": refusal.exit_status}}
        Path(args["to"]).write_bytes(opening.content)
        return json.loads(opening.content)

    async def secrets_list(self, args: Args) -> Any:
        return {"secrets": [one.to_json() for one in await of((await self.found(args)).secrets.list())]}

    async def ports_forward(self, args: Args) -> Any:
        options = given(args, "host", "protocol")
        forwarded = (await self.found(args)).ports.forward(guest_port=args["guest_port"], host_port=int(args["host_port"]), **options)
        return (await of(forwarded)).to_json()

    async def ports_list(self, args: Args) -> Any:
        return {"ports": [port.to_json() for port in await of((await self.found(args)).ports.list())]}

    async def ports_close(self, args: Args) -> None:
        await of((await self.found(args)).ports.close(host_port=int(args["host_port"])))

    async def methods(self, args: Args) -> Any:
        program = Path(sys.executable).parent / "mvmctl"
        files = sorted(path for path in metadata.files("mvm") or [] if path.suffix == ".py")
        content = b"".join(Path(path.locate()).read_bytes() for path in files)
        digests = {"mvm": content, "mvmctl": program.read_bytes()}
        return {"methods": self.api.methods, "packages": {name: f"sha256:{hashlib.sha256(one).hexdigest()}" for name, one in digests.items()}}


CHANGES = ("stop", "start", "cold", "freeze", "resume")
ENDS = ("destroy", "kill")


def operation(known: Operations, op: str) -> Callable[[Args], Awaitable[Any]]:
    if op in CHANGES:
        return functools.partial(known.change, op)
    if op in ENDS:
        return functools.partial(known.end, op)
    return getattr(known, {"keep": "keep_alive"}.get(op, op.replace(".", "_")))
