"""Commands: what starting one asks for, and what is asked of one that runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import _errors, _secrets
from .._api import JobInfo, JobResult
from . import check
from .steps import (
    ANSWER_LIMIT,
    Call,
    Open,
    Operation,
    Pipe,
    Steps,
    Target,
    answer,
    encoded,
    nothing,
    reach,
)

# Bytes of each output stream that a result keeps unless more is asked for.
MAX_OUTPUT = 8 << 20
# Where `mvmctl run --mode live` learns of the commands that a script started.
RUNS = "MVM_SDK_RUNS"


def job_request(what: str, argv: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """A request for a command, as the API takes it but for its secrets, which are references."""
    given = options.get
    request: dict[str, Any] = {
        "argv": check.argv(what, argv),
        "env": check.env(what, given("env")),
        "secrets": check.env(what, given("secrets"), "secrets"),
        "cwd": check.optional_text(what, "cwd", given("cwd")),
        "user": check.optional_text(what, "user", given("user")),
        "timeout_ms": check.optional_milliseconds(what, "timeout", given("timeout")),
        "idempotency_key": check.optional_text(what, "idempotency_key", given("idempotency_key")),
    }
    if given("tty") is not None:
        request["tty"] = terminal(what, given("tty"))
    return request


def _with_secrets(request: Mapping[str, Any]) -> tuple[bytes, tuple[str, ...]]:
    """The request's body, with the values of its secrets, and warnings about how they are kept."""
    references = request["secrets"]
    values, warnings = _secrets.read(references) if references else (None, ())
    return encoded({**request, "secrets": values}), warnings


def terminal(what: str, size: Any) -> dict[str, int]:
    """A terminal's size: rows and columns."""
    if not isinstance(size, tuple) or len(size) != 2:
        check.refuse(what, "a terminal's size is a tuple of rows and columns", "tty=(24, 80)")
    rows, cols = (check.count(what, "a terminal's size", number, least=1, most=65535) for number in size)
    return {"rows": rows, "cols": cols}


def input_bytes(what: str, value: Any) -> bytes:
    """What a command reads."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if not isinstance(value, str):
        check.refuse(what, f"its input is str or bytes, not {type(value).__name__}")
    return check.text(what, "its input", value).encode()


def optional_input(what: str, value: Any) -> bytes | None:
    """All that a command reads, or nothing."""
    return None if value is None else input_bytes(what, value)


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
    """A command whose caller waits for it: the request, and what is made of its end."""

    request: Mapping[str, Any] = field(repr=False)
    stdin: bytes | None = field(repr=False)
    max_output: int
    receipt: str | None
    check: bool
    on_stdout: Callable[[str], Any] | None
    on_stderr: Callable[[str], Any] | None


def attached(argv: Any, options: Mapping[str, Any]) -> Attached:
    """Checks everything that a command is asked for with, before it is."""
    what = "cannot run the command"
    request = job_request(what, argv, options)
    stdin = optional_input(what, options.get("stdin"))
    for callback in (options.get("on_stdout"), options.get("on_stderr")):
        if callback is not None and not callable(callback):
            check.refuse(what, "what is to be called with output can be called")
    return Attached(
        {**request, "attached": True, "stdin": stdin is not None},
        stdin,
        check.count(what, "max_output", options["max_output"], most=2**40),
        receipt_path(what, options.get("receipt")),
        check.flag(what, "check", options["check"]),
        options.get("on_stdout"),
        options.get("on_stderr"),
    )


def run(of: Target, asked: Attached) -> Operation[tuple[Any, tuple[str, ...]]]:
    """Opens the stream of its events. The answer has warnings about its secrets too."""

    def steps() -> Steps[tuple[Any, tuple[str, ...]]]:
        body, warnings = _with_secrets(asked.request)
        return (yield from reach(Open(Call(of, "POST", "/v1/jobs", body=body)))), warnings

    wanted = {name: getattr(asked, name) for name in ("stdin", "check", "receipt", "on_stdout", "on_stderr")}
    return Operation("commands.run", {"sandbox": of.id, **asked.request, **wanted}, steps())


def start(of: Target, argv: Any, options: Mapping[str, Any]) -> Operation[tuple[JobInfo, tuple[str, ...]]]:
    """Starts a command that goes on by itself."""
    what = "cannot start the command"
    request = {**job_request(what, argv, options), "stdin": check.flag(what, "stdin", options["stdin"])}

    def steps() -> Steps[tuple[JobInfo, tuple[str, ...]]]:
        body, warnings = _with_secrets(request)
        job: JobInfo = yield from answer(JobInfo, Call(of, "POST", "/v1/jobs", body=body))
        note(of.id, job.run_id)
        return job, warnings

    return Operation("commands.start", {"sandbox": of.id, **request}, steps())


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
        check.refuse(f"cannot find the command {name[:60]}", "this is no run id")
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
    number = check.count(f"cannot signal the job {run_id}", "a signal", number, least=1, most=64)
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
