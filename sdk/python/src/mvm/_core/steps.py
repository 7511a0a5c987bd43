"""What an operation asks of its transport, one step after the other."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from .. import _errors
from .._api import ErrorObject
from .._codec import Unexpected, decode

T = TypeVar("T")

# Seconds in which a supervisor answers what it can answer at once, and where a machine starts, stops or is saved.
ANSWER_LIMIT = 10.0
WORK_LIMIT = 120.0
LOST = "lost the connection to the sandbox"
# Seconds of silence after which a stream of events is broken: its supervisor says something every 10.
SILENCE_LIMIT = 60.0
# The largest answer, and the longest line of a stream, in bytes.
MAX_ANSWER = 64 << 20


@dataclass(frozen=True)
class Target:
    """A sandbox, and the Unix socket of its API."""

    id: str
    name: str
    socket: str


@dataclass(frozen=True)
class Invoke:
    """Runs mvmctl to its end. The answer is the JSON that it prints, with `raw` the bytes of it; `limit` is in seconds, None
    is no limit.
    """

    args: tuple[str, ...]
    stdin: bytes | None = field(default=None, repr=False)
    limit: float | None = WORK_LIMIT
    raw: bool = False


@dataclass(frozen=True)
class Call:
    """A request to a sandbox. The answer is the body; `limit` is in seconds, for the whole exchange."""

    target: Target
    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)
    limit: float | None = ANSWER_LIMIT

    @property
    def headers(self) -> dict[str, str]:
        """What is said of the body."""
        if self.body is None:
            return {}
        kind = {"content-type": "application/json"} if self.method == "POST" else {}
        return {"content-length": str(len(self.body)), **kind}

    @property
    def idempotent(self) -> bool:
        """Whether it does no harm to ask again: what looks, and what writes a whole file."""
        return self.method == "GET" or (self.path == "/v1/files" and "append" not in self.params)


@dataclass(frozen=True)
class Open:
    """A request whose answer is a stream of bytes. `limit` is in seconds, until the answer begins."""

    call: Call


@dataclass(frozen=True)
class Send:
    """A request whose body comes in pieces. The answer is the body of the response."""

    call: Call
    pieces: Any = field(repr=False)


@dataclass(frozen=True)
class Claim:
    """Claims the lease of a sandbox. The answer is what holds it."""

    target: Target


@dataclass(frozen=True)
class Pipe:
    """Begins a request whose body is written later, piece by piece. The answer takes the pieces."""

    target: Target
    path: str


Step = Invoke | Call | Open | Send | Claim | Pipe
Steps = Generator[Step, Any, T]


@dataclass(frozen=True)
class Operation(Generic[T]):
    """One call of the SDK: its name, its arguments once they are checked, and the steps of doing it live."""

    name: str
    arguments: Mapping[str, Any] = field(repr=False)
    steps: Steps[T] = field(repr=False)
    called: str = ""

    @property
    def call(self) -> str:
        """What its caller knows it by."""
        return self.called or self.name

    def known_as(self, call: str) -> Operation[T]:
        """The same, where a caller knows it by another name."""
        return replace(self, called=call)


class Unreachable(Exception):
    """There is nobody at a sandbox's socket."""


def reach(step: Call | Open | Send) -> Steps[Any]:
    """The answer. A supervisor that crashed gets a successor, which takes one look by mvmctl."""
    target = step.target if isinstance(step, Call) else step.call.target
    try:
        return (yield step)
    except Unreachable:
        ended = _end(target, (yield _look(target)))
        if ended:
            raise ended from None
    except _errors.TransportError as error:
        if error.what != LOST:
            raise
        # It may have broken because somebody destroyed the sandbox.
        try:
            ended = _end(target, (yield _look(target)))
        except _errors.MvmError:
            ended = None
        raise ended or error from None
    try:
        return (yield step)
    except Unreachable as error:
        raise _errors.SandboxUnavailable(
            "cannot reach the sandbox", str(error), hint="mvmctl ps shows its state; mvmctl destroy removes it in any"
        ) from None


def _look(target: Target) -> Invoke:
    return Invoke(("inspect", "--json", target.id), limit=ANSWER_LIMIT * 3)


def _end(target: Target, known: Mapping[str, Any]) -> _errors.NotFound | None:
    return gone(target.name, str(known.get("cause", ""))) if known.get("state") == "destroyed" else None


def gone(name: str, cause: str) -> _errors.NotFound:
    """What is said of a sandbox that was destroyed."""
    return _errors.NotFound(f"cannot find the sandbox {name}", f"it was destroyed: {cause}", hint="mvmctl ps --all")


def answer(wanted: Any, step: Call) -> Steps[Any]:
    """A request whose answer is JSON of a type."""
    return typed(wanted, parsed((yield from reach(step))))


def nothing(step: Call) -> Steps[None]:
    """A request that is answered by its success."""
    yield from reach(step)


def invoked(wanted: Any, step: Invoke) -> Steps[Any]:
    """What mvmctl prints, as a type."""
    return typed(wanted, (yield step))


def parsed(body: bytes) -> Any:
    """JSON; an answer that is none is the transport's failure."""
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise unexpected("it is no JSON") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def typed(wanted: Any, value: Any) -> Any:
    """JSON as a type; an answer that is none is the transport's failure."""
    try:
        return decode(wanted, value)
    except Unexpected as error:
        raise unexpected(str(error)) from None


def unexpected(why: str) -> _errors.TransportError:
    """An answer that no supervisor and no mvmctl gives."""
    return _errors.transport_error("cannot understand the answer", why, hint="mvmctl doctor looks at the installation")


def late(call: Call) -> _errors.TransportError:
    """What is said of a supervisor that stays silent."""
    return _errors.transport_error(
        "cannot reach the sandbox",
        "its supervisor did not answer in time",
        hint="mvmctl kill ends a sandbox whose supervisor hangs",
        retryable=call.idempotent,
    )


def lost(call: Call, why: str) -> _errors.TransportError:
    """What is said of a connection that broke."""
    return _errors.transport_error(LOST, why, hint="mvmctl ps shows its state", retryable=call.idempotent)


def broke_off(what: str, *, retryable: bool = True) -> _errors.TransportError:
    """What is said of a stream that ends before what it tells of."""
    return _errors.transport_error(LOST, f"{what} broke off", hint="mvmctl ps shows its state", retryable=retryable)


class Answer:
    """The body of an answer as it comes: of bounded length, and in time."""

    def __init__(self, call: Call) -> None:
        self._call, self._taken = call, bytearray()
        self._end = None if call.limit is None else time.monotonic() + call.limit

    def take(self, piece: bytes) -> None:
        """Takes what came."""
        self._taken += piece
        if len(self._taken) > MAX_ANSWER:
            raise unexpected("it is too long")
        if self._end is not None and time.monotonic() > self._end:
            raise late(self._call)

    def whole(self) -> bytes:
        """All of it."""
        return bytes(self._taken)


def refusal(body: bytes, status: int) -> _errors.MvmError:
    """The error that a response with a status of failure says."""
    try:
        said = json.loads(body)
        return _errors.from_object(decode(ErrorObject, said["error"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return _errors.transport_error("lost the connection to the sandbox", f"it answered {status}")


def printed(step: Invoke, stdout: bytes, stderr: bytes) -> Any:
    """What mvmctl printed: the object, or the error in it."""
    try:
        said: Mapping[str, Any] = decode(dict, json.loads(stdout))
        # A result has an `error` too, beside other things.
        if set(said) != {"error"}:
            return stdout if step.raw else said
        error: ErrorObject = decode(ErrorObject, said["error"])
    except (ValueError, RecursionError):
        last = stderr[-2048:].decode(errors="replace").strip() or "it printed no object of JSON"
        raise _errors.Internal("cannot understand mvmctl", last) from None
    raise _errors.from_object(error)


def encoded(value: Mapping[str, Any]) -> bytes:
    """A body in JSON. What is None is left out: the server has its defaults."""
    return json.dumps({key: item for key, item in value.items() if item is not None}).encode()
