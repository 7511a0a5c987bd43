"""What comes of a command's events: its output as far as it is kept, and its result."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .. import _errors
from .._api import Ended, JobEvent, JobResult, NotStarted, Output, Started, Stream
from .commands import Attached, note
from .steps import MAX_ANSWER, Target, broke_off, parsed, typed, unexpected


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
            if not line:
                # Said while there is nothing to say.
                continue
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

    def __init__(self, of: Target, request: Attached) -> None:
        self._of = of
        self._kept = {
            stream: (Kept(request.max_output, tell), tell)
            for stream, tell in ((Stream.STDOUT, request.on_stdout), (Stream.STDERR, request.on_stderr))
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

    def fields(self, warnings: tuple[str, ...]) -> dict[str, Any]:
        """The fields of the result. Raises what ended the machine, if that did."""
        result = self.result
        if result is None:
            raise broke_off("the command's output", retryable=False)
        if result.error is not None:
            raise _errors.from_object(result.error)
        (out, _), (err, _) = self._kept.values()
        cut = {
            "stdout_truncated": result.stdout_truncated or out.seen > len(out.data),
            "stderr_truncated": result.stderr_truncated or err.seen > len(err.data),
        }
        return {**ended(result, self._of.id, bytes(out.data), bytes(err.data), warnings), **cut}


def ended(result: JobResult, sandbox_id: str, stdout: bytes, stderr: bytes, warnings: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a `ResultBase`, from what the API says of a command's end and what was kept of its output."""
    same = (
        "signal", "timed_out", "oom_killed", "not_started", "stdout_bytes", "stderr_bytes", "stdout_truncated",
        "stderr_truncated", "redactions", "duration", "run_id", "audit_id", "unrecorded",
    )  # fmt: skip
    return {
        **{name: getattr(result, name) for name in same},
        "exit_code": exit_code(result),
        "stdout_data": stdout,
        "stderr_data": stderr,
        "sandbox_id": sandbox_id,
        "warnings": warnings,
    }


def exit_code(result: JobResult) -> int | None:
    """As a shell has it: also of a program that could not be started."""
    if result.not_started is None:
        return result.exit_code
    return 127 if result.not_started.reason == "command_not_found" else 126


def judged(result: ResultBase, failure: _errors.MvmError | None, *, check: bool) -> None:
    """Raises what the caller wants raised of a command that has ended; last what went wrong with its receipt."""
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
    if failure is not None:
        failure.result = result
        raise failure
