"""Commands: what starting one asks for, and what comes of its events."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import _errors, _secrets
from .._api import Ended, ErrorObject, JobEvent, JobInfo, JobResult, NotStarted, Output, Plan, Started, Stream
from . import check
from .steps import (
    ANSWER_LIMIT,
    MAX_ANSWER,
    Call,
    Invoke,
    Open,
    Operation,
    Pipe,
    Steps,
    Target,
    answer,
    encoded,
    invoked,
    nothing,
    parsed,
    reach,
    typed,
    unexpected,
)

# Bytes of each output stream that a result keeps unless more is asked for.
MAX_OUTPUT = 8 << 20
# Seconds beyond a command's own time limit after which its sandbox is given up.
GRACE = 15.0
# Where `mvmctl run --mode live` learns of the commands that a script started.
RUNS = "MVM_SDK_RUNS"


@dataclass(frozen=True, kw_only=True)
class ResultBase:
    """How a command ended, and what it wrote.

    `repr` shows how much it wrote and not what: that is the guest's.
    """

    exit_code: int | None
    """Its exit code; None if a signal ended it. 126 or 127 if its program could not be started (`not_started`)."""
    signal: int | None
    """The signal that ended it."""
    timed_out: bool
    """It was killed because its time was up."""
    oom_killed: bool
    """The guest's kernel killed something of it for lack of memory."""
    not_started: NotStarted | None
    """Why its program could not be started."""
    stdout_data: bytes = field(repr=False)
    """The first bytes of its standard output, as many as are kept."""
    stderr_data: bytes = field(repr=False)
    """The first bytes of its standard error, as many as are kept."""
    stdout_bytes: int
    """How many bytes it wrote to standard output, before secrets were redacted."""
    stderr_bytes: int
    """How many bytes it wrote to standard error, before secrets were redacted."""
    stdout_truncated: bool
    """Whether not all of its standard output is here."""
    stderr_truncated: bool
    """Whether not all of its standard error is here."""
    redactions: int
    """How often a secret was redacted in its output."""
    duration: float
    """Seconds from its start to its end."""
    run_id: str
    """Its id, in receipts and in the audit log."""
    sandbox_id: str
    """The sandbox that it ran in."""
    audit_id: int
    """The entry of the audit log that authorised it."""
    unrecorded: str | None
    """Why its end is not on record, and no receipt can be had; None if it is."""
    warnings: tuple[str, ...] = ()
    """What there is to say about how its secrets are kept."""

    @property
    def stdout(self) -> str:
        """Its standard output as text; what is no UTF-8 is U+FFFD."""
        return self.stdout_data.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Its standard error as text; what is no UTF-8 is U+FFFD."""
        return self.stderr_data.decode(errors="replace")

    @property
    def ok(self) -> bool:
        """Whether it ended with exit code 0."""
        return self.exit_code == 0


@dataclass(frozen=True, kw_only=True)
class RunResultBase(ResultBase):
    """How a one-shot run ended: the command, and what it ran in."""

    image_digest: str
    """The image that it ran in."""
    isolation: Any = field(repr=False)
    """What kept its machine apart from the host, as JSON."""


def job_request(what: str, argv: Any, options: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A request for a command, as the API takes it, and warnings about its secrets."""
    given = options.get
    secrets = check.env(what, given("secrets"), "secrets")
    request: dict[str, Any] = {
        "argv": check.argv(what, argv),
        "env": check.env(what, given("env")),
        "cwd": check.optional_text(what, "cwd", given("cwd")),
        "user": check.optional_text(what, "user", given("user")),
        "timeout_ms": check.optional_milliseconds(what, "timeout", given("timeout")),
        "idempotency_key": check.optional_text(what, "idempotency_key", given("idempotency_key")),
    }
    if given("tty") is not None:
        request["tty"] = terminal(what, given("tty"))
    values, warnings = _secrets.read(secrets) if secrets else (None, ())
    return {**request, "secrets": values}, warnings


def terminal(what: str, size: Any) -> dict[str, int]:
    """A terminal's size: rows and columns."""
    if not isinstance(size, tuple) or len(size) != 2:
        check.refuse(what, "a terminal's size is a tuple of rows and columns", "tty=(24, 80)")
    rows, cols = (check.count(what, "a terminal's size", number, least=1, most=65535) for number in size)
    return {"rows": rows, "cols": cols}


def input_bytes(what: str, value: Any) -> bytes | None:
    """What a command reads, all of it."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    return check.text(what, "stdin", value).encode()


def receipt_path(what: str, value: Any) -> str | None:
    """A place for a receipt, where one can be written: looked at before anything runs."""
    if value is None:
        return None
    path = check.host_path(what, value, "receipt")
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise _errors.FileError(
            f"cannot write {path}", "there is no such directory", errno=2, hint="make the directory, or name another file"
        )
    return path


@dataclass(frozen=True)
class Attached:
    """A command whose caller waits for it: the request, and how long it may be silent."""

    open: Open
    stdin: bytes | None = field(repr=False)
    max_output: int
    receipt: str | None
    warnings: tuple[str, ...]
    deadline: float | None
    check: bool


def attached(of: Target, argv: Any, options: Mapping[str, Any]) -> Attached:
    """Checks everything that a command is asked for with, before it is."""
    what = "cannot run the command"
    request, warnings = job_request(what, argv, options)
    stdin = input_bytes(what, options.get("stdin"))
    body = encoded({**request, "attached": True, "stdin": stdin is not None})
    limit = request["timeout_ms"]
    return Attached(
        Open(Call(of, "POST", "/v1/jobs", body=body)),
        stdin,
        check.count(what, "max_output", options["max_output"], most=2**40),
        receipt_path(what, options.get("receipt")),
        warnings,
        None if limit is None else limit / 1000 + GRACE,
        check.flag(what, "check", options["check"]),
    )


def run(of: Target, request: Attached) -> Operation[Any]:
    """Opens the stream of its events."""
    return Operation("commands.run", {"sandbox": of.id}, reach(request.open))


def start(of: Target, argv: Any, options: Mapping[str, Any]) -> Operation[tuple[JobInfo, tuple[str, ...]]]:
    """Starts a command that goes on by itself."""
    what = "cannot start the command"
    request, warnings = job_request(what, argv, options)
    body = encoded({**request, "stdin": check.flag(what, "stdin", options["stdin"])})

    def steps() -> Steps[tuple[JobInfo, tuple[str, ...]]]:
        job: JobInfo = yield from answer(JobInfo, Call(of, "POST", "/v1/jobs", body=body))
        note(of.id, job.run_id)
        return job, warnings

    return Operation("commands.start", {"sandbox": of.id}, steps())


def note(sandbox_id: str, run_id: str) -> None:
    """Tells `mvmctl run --mode live` that a command was started."""
    place = os.environ.get(RUNS)
    if not place:
        return
    try:
        with open(place, "ab", buffering=0) as file:
            file.write(f"{sandbox_id} {run_id}\n".encode())
    except OSError as error:
        raise _errors.FileError(
            "cannot note the command for its receipt", error.strerror or str(error), errno=error.errno
        ) from None


def feed(of: Target, run_id: str, data: bytes) -> Operation[None]:
    """Sends a command's input, all of it."""
    # It is taken as slowly as the command reads it.
    return Operation(
        "job.write",
        {"sandbox": of.id, "job": run_id},
        nothing(Call(of, "PUT", f"/v1/jobs/{run_id}/stdin", body=data, limit=None)),
    )


def pipe(of: Target, run_id: str) -> Operation[Any]:
    """Opens a job's input, to be written piece by piece."""

    def steps() -> Steps[Any]:
        return (yield Pipe(of, f"/v1/jobs/{run_id}/stdin"))

    return Operation("job.write", {"sandbox": of.id, "job": run_id}, steps())


def listing(of: Target) -> Operation[tuple[JobInfo, ...]]:
    """The commands that it knows."""
    return Operation("commands.list", {"sandbox": of.id}, answer(tuple[JobInfo, ...], Call(of, "GET", "/v1/jobs")))


def describe(of: Target, run_id: Any) -> Operation[JobInfo]:
    """One command."""
    run_id = job_name(run_id)
    return Operation("job.info", {"sandbox": of.id, "job": run_id}, answer(JobInfo, Call(of, "GET", f"/v1/jobs/{run_id}")))


def job_name(run_id: Any) -> str:
    """A run id, which is also a part of a path."""
    name = check.named("cannot find the command", "a run id", run_id)
    if not all(letter.isascii() and (letter.isalnum() or letter == "-") for letter in name):
        check.refuse("cannot find the command", "this is no run id")
    return name


def wait(of: Target, run_id: str, timeout: Any) -> Operation[JobResult]:
    """Waits for a command's end. The server waits a minute at most, and is asked again."""
    left = check.optional_milliseconds(f"cannot wait for the job {run_id}", "timeout", timeout)

    def steps(left: int | None = left) -> Steps[JobResult]:
        while True:
            some = 60_000 if left is None else min(left, 60_000)
            call = Call(of, "GET", f"/v1/jobs/{run_id}/wait", {"timeout_ms": str(some)}, limit=some / 1000 + ANSWER_LIMIT)
            try:
                result: JobResult = yield from answer(JobResult, call)
            except _errors.Timeout:
                left = None if left is None else left - some
                if left is not None and left <= 0:
                    raise
                continue
            if result.error is not None:
                raise _errors.from_object(result.error)
            return result

    return Operation("job.wait", {"sandbox": of.id, "job": run_id}, steps())


def signal(of: Target, run_id: str, number: Any) -> Operation[None]:
    """Sends a signal."""
    number = check.count(
        f"cannot signal the job {run_id}", "a signal", int(number) if hasattr(number, "value") else number, least=1, most=64
    )
    call = Call(of, "POST", f"/v1/jobs/{run_id}/signal", body=encoded({"signal": number}))
    return Operation("job.kill", {"sandbox": of.id, "job": run_id, "signal": number}, nothing(call))


def resize(of: Target, run_id: str, rows: Any, cols: Any) -> Operation[None]:
    """Gives its terminal another size."""
    size = terminal(f"cannot resize the terminal of the job {run_id}", (rows, cols))
    call = Call(of, "POST", f"/v1/jobs/{run_id}/resize", body=encoded(size))
    return Operation("job.resize", {"sandbox": of.id, "job": run_id, **size}, nothing(call))


def output(of: Target, run_id: str, offset: Any) -> Operation[Any]:
    """Opens the stream of a command's output, from an offset to its end."""
    offset = check.count(f"cannot read the output of the job {run_id}", "offset", offset, most=2**63 - 1)
    call = Call(of, "GET", f"/v1/jobs/{run_id}/output", {"offset": str(offset), "follow": "true"})
    return Operation("job.output", {"sandbox": of.id, "job": run_id, "offset": offset}, reach(Open(call)))


class Lines:
    """JSON lines out of bytes that come in any pieces."""

    def __init__(self, wanted: Any) -> None:
        self._wanted, self._rest = wanted, bytearray()

    def feed(self, piece: bytes) -> Iterator[Any]:
        """What is complete with this piece."""
        start = len(self._rest)
        self._rest += piece
        while (end := self._rest.find(b"\n", start)) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            start = 0
            yield typed(self._wanted, parsed(line))
        if len(self._rest) > MAX_ANSWER:
            raise unexpected("it sent a line without an end")


class Kept:
    """The first bytes of one output stream, and its text as it comes."""

    def __init__(self, limit: int, tell: Callable[[str], Any] | None) -> None:
        self._limit, self.data, self.seen = limit, bytearray(), 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace") if tell else None

    def take(self, data: bytes) -> str:
        """Keeps what there is room for. Answers what is complete of the text, if somebody wants it."""
        self.seen += len(data)
        self.data += data[: max(0, self._limit - len(self.data))]
        return self._decoder.decode(data) if self._decoder else ""

    def rest(self) -> str:
        """What was half a character when it ended."""
        return self._decoder.decode(b"", final=True) if self._decoder else ""


class Capture:
    """What an attached command's events come to."""

    def __init__(
        self, of: Target, request: Attached, on_stdout: Callable[[str], Any] | None, on_stderr: Callable[[str], Any] | None
    ) -> None:
        for callback in (on_stdout, on_stderr):
            if callback is not None and not callable(callback):
                check.refuse("cannot run the command", "what is to be called with output can be called")
        self._of, self._request = of, request
        self._kept = {
            Stream.STDOUT: (Kept(request.max_output, on_stdout), on_stdout),
            Stream.STDERR: (Kept(request.max_output, on_stderr), on_stderr),
        }
        self.result: JobResult | None = None

    def take(self, event: JobEvent) -> tuple[Callable[[str], Any], str] | None:
        """Takes an event. Answers whom to tell which text, if anybody."""
        if isinstance(event, Output):
            kept, tell = self._kept[event.stream]
            text = kept.take(event.data)
            return (tell, text) if tell and text else None
        if isinstance(event, Started):
            note(self._of.id, event.run_id)
        if isinstance(event, Ended):
            self.result = event.result
        return None

    def leftovers(self) -> list[tuple[Callable[[str], Any], str]]:
        """Whom to tell what at the end."""
        return [(tell, text) for kept, tell in self._kept.values() if tell and (text := kept.rest())]

    def fields(self) -> dict[str, Any]:
        """The fields of the result. Raises what ended the machine, if that did."""
        result = self.result
        if result is None:
            raise _errors.transport_error(
                "lost the connection to the sandbox",
                "the command's output ended before the command",
                hint="mvmctl ps shows its state",
            )
        if result.error is not None:
            raise _errors.from_object(result.error)
        (out, _), (err, _) = self._kept.values()
        return {
            "exit_code": exit_code(result),
            "signal": result.signal,
            "timed_out": result.timed_out,
            "oom_killed": result.oom_killed,
            "not_started": result.not_started,
            "stdout_data": bytes(out.data),
            "stderr_data": bytes(err.data),
            "stdout_bytes": result.stdout_bytes,
            "stderr_bytes": result.stderr_bytes,
            "stdout_truncated": result.stdout_truncated or out.seen > len(out.data),
            "stderr_truncated": result.stderr_truncated or err.seen > len(err.data),
            "redactions": result.redactions,
            "duration": result.duration,
            "run_id": result.run_id,
            "sandbox_id": self._of.id,
            "audit_id": result.audit_id,
            "unrecorded": result.unrecorded,
            "warnings": self._request.warnings,
        }


def exit_code(result: JobResult) -> int | None:
    """As a shell has it: also for a program that could not be started."""
    if result.not_started is None:
        return result.exit_code
    return 127 if result.not_started.reason == "command_not_found" else 126


def judged(result: ResultBase, *, check: bool) -> None:
    """Raises what the caller wants raised of a command that has ended."""
    if result.timed_out:
        late = _errors.Timeout(
            "the command was killed", f"its time was up after {result.duration:.3g} s", hint="give it a longer timeout"
        )
        late.result = result
        raise late
    if check and not result.ok:
        how = f"signal {result.signal} ended it" if result.signal else f"it ended with exit code {result.exit_code}"
        if result.not_started is not None:
            how = f"it was not started: {result.not_started.reason.replace('_', ' ')}"
        failed = _errors.CommandFailed("the command failed", how)
        failed.result = result
        raise failed


@dataclass(frozen=True)
class OneShot:
    """A one-shot run, checked: what mvmctl is asked, and whether a failure is raised."""

    step: Invoke
    check: bool
    dry_run: bool


def one_shot(argv: Any, options: Mapping[str, Any]) -> OneShot:
    """A command in a sandbox of its own."""
    what, given = "cannot run the command", options.get
    disk = check.optional_count(what, "disk_mib", given("disk_mib"), least=1)
    request = {
        "argv": check.argv(what, argv),
        "image": check.optional_text(what, "image", given("image")),
        "cpus": check.optional_count(what, "cpus", given("cpus"), least=1),
        "memory_mib": check.optional_count(what, "memory_mib", given("memory_mib"), least=1),
        "disk_bytes": None if disk is None else disk << 20,
        "env": check.env(what, given("env")),
        "secrets": check.env(what, given("secrets"), "secrets"),
        "cwd": check.optional_text(what, "cwd", given("cwd")),
        "user": check.optional_text(what, "user", given("user")),
        "timeout_ms": check.optional_milliseconds(what, "timeout", given("timeout")),
        "max_output": check.count(what, "max_output", given("max_output"), most=2**40),
        "profile": check.optional_text(what, "profile", given("profile")),
        "accept_risk": check.flag(what, "accept_risk", given("accept_risk")),
        "require": check.texts(what, "require", given("require")),
        "allow_missing": check.texts(what, "allow_missing", given("allow_missing")),
    }
    stdin, dry_run = input_bytes(what, given("stdin")), check.flag(what, "dry_run", given("dry_run"))
    args = ["run", "--request", "-", "--json"]
    args += ["--dry-run"] if dry_run else []
    args += ["-i"] if stdin is not None else []
    if given("receipt") is not None:
        args += ["--receipt", check.host_path(what, given("receipt"), "receipt")]
    step = Invoke(tuple(args), encoded(request) + b"\n" + (stdin or b""), None)
    return OneShot(step, check.flag(what, "check", given("check")), dry_run)


def run_once(request: OneShot) -> Operation[Any]:
    """Runs it; answers the fields of its result, or the plan."""

    def steps() -> Steps[dict[str, Any]]:
        said = yield request.step
        fields = _fields_of_run(said)
        note(fields["sandbox_id"], fields["run_id"])
        return fields

    return Operation("run", {}, invoked(Plan, request.step) if request.dry_run else steps())


def _fields_of_run(said: Mapping[str, Any]) -> dict[str, Any]:
    result: JobResult = typed(JobResult, said)
    if said.get("receipt_error"):
        raise _errors.from_object(typed(ErrorObject, said["receipt_error"]))
    return {
        "exit_code": exit_code(result),
        "signal": result.signal,
        "timed_out": result.timed_out,
        "oom_killed": result.oom_killed,
        "not_started": result.not_started,
        "stdout_data": _output(said, "stdout"),
        "stderr_data": _output(said, "stderr"),
        "stdout_bytes": result.stdout_bytes,
        "stderr_bytes": result.stderr_bytes,
        "stdout_truncated": result.stdout_truncated,
        "stderr_truncated": result.stderr_truncated,
        "redactions": result.redactions,
        "duration": result.duration,
        "run_id": result.run_id,
        "sandbox_id": typed(str, said.get("sandbox_id")),
        "audit_id": result.audit_id,
        "unrecorded": result.unrecorded,
        "warnings": tuple(said.get("warnings") or ()),
        "image_digest": typed(str, said.get("image_digest")),
        "isolation": said.get("isolation"),
    }


def _output(said: Mapping[str, Any], name: str) -> bytes:
    text: str = typed(str, said.get(name))
    kind = bytes if said.get(f"{name}_encoding") == "base64" else str
    data: str | bytes = typed(kind, text)
    return data.encode() if isinstance(data, str) else data
