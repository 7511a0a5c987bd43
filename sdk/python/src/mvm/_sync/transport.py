"""Performs operations, and waits for their answers."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

import httpx

from .. import _errors, _live, _record
from .._core import files
from .._core.results import Lines
from .._core.steps import SILENCE_LIMIT, Answer, Call, Claim, Invoke, Operation, Pipe, Send, Step, Target, printed, refusal

T = TypeVar("T")


class Transport:
    """The transport of one handle, or what records for it. Threads may share it; a forked child may not."""

    def __init__(self, mode: str | None = None) -> None:
        self._recording = _record.chosen(mode)
        self._pid = os.getpid()
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()
        self._streams: weakref.WeakSet[ByteStream] = weakref.WeakSet()
        self._closed = ""

    def perform(self, operation: Operation[T]) -> T:
        """The answer of an operation."""
        self.check()
        if self._recording is not None:
            return _recorded(self._recording, operation)
        try:
            return self._drive(operation)
        except (_errors.TransportError, RuntimeError):
            # If it was closed meanwhile, that is what happened.
            self.check()
            raise

    def recorded(self, operation: Operation[Any], kind: type[T]) -> T | None:
        """Records a call whose answer is of a `kind`, and answers what stands for that; None if this transport is live."""
        if self._recording is None:
            return None
        self.check()
        answer: T = _recorded(self._recording, operation, kind)
        return answer

    def perform_last(self, operation: Operation[T]) -> T:
        """The same for what ends the sandbox."""
        return self.perform(operation)

    def check(self) -> None:
        """Refuses what a closed handle is asked, or one of another process."""
        if self.foreign:
            raise _errors.ClosedHandle(
                "cannot use the handle",
                "this process is a fork of the one that has it",
                hint="Sandbox.connect(name) makes a handle of this process's own",
            )
        if self._closed:
            raise _errors.ClosedHandle("cannot use the handle", self._closed, hint="Sandbox.connect(name) makes another one")

    def close(self, why: str) -> None:
        """Ends its connections, also those that other threads wait for. What it is asked from now on is refused."""
        if self.foreign:
            return
        with self._lock:
            self._closed = self._closed or why
            streams = list(self._streams)
        for stream in streams:
            stream.interrupt()
        if self._client is not None:
            self._client.close()

    @property
    def foreign(self) -> bool:
        """Whether this process is a fork of the one that made it."""
        return os.getpid() != self._pid

    def _drive(self, operation: Operation[T]) -> T:
        steps = operation.steps
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._do(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            return done.value

    def _do(self, step: Step) -> Any:
        if isinstance(step, Invoke):
            return self._invoke(step)
        if isinstance(step, Claim):
            return _live.claim(step.target)
        if isinstance(step, Pipe):
            return _live.Input(step)
        if isinstance(step, Call):
            with self._exchange(step, _content(step.body)) as stream:
                return stream.rest()
        if isinstance(step, Send):
            with self._exchange(step.call, _pieces(step.pieces)) as stream:
                return stream.rest()
        return self._exchange(step.call, step.call.body)

    def _invoke(self, step: Invoke) -> Any:
        binary = _live.find_binary()
        if not _live.is_agreed(binary):
            status, stdout, _ = _run(binary, Invoke(("version", "--json"), limit=_live.VERSION_LIMIT))
            _live.agree(binary, status, stdout)
        _, stdout, stderr = _run(binary, step)
        return printed(step, stdout, stderr)

    def _exchange(self, call: Call, content: Any) -> ByteStream:
        """Sends a request. The answer has begun when this returns, and is no refusal."""
        client = self._client_of(call.target)
        with _live.told(call):
            request = client.build_request(
                call.method, call.path, params=dict(call.params), content=content, headers=call.headers, timeout=call.limit
            )
            stream = ByteStream(self, call, client.send(request, stream=True))
        with self._lock:
            self._streams.add(stream)
        if stream.status >= 300:
            with stream:
                raise refusal(stream.rest(), stream.status)
        return stream

    def _client_of(self, target: Target) -> httpx.Client:
        with self._lock:
            self.check()
            if self._client is None:
                transport = httpx.HTTPTransport(uds=target.socket, verify=False, limits=httpx.Limits(max_connections=None))
                self._client = httpx.Client(transport=transport, base_url="http://sandbox", trust_env=False)
            return self._client


class ByteStream:
    """An answer as it comes. Ending it before it has ended ends what it is about, if that is a command."""

    def __init__(self, transport: Transport, call: Call, response: httpx.Response) -> None:
        self._transport, self._call, self._response = transport, call, response
        self.status = response.status_code

    def limit(self, seconds: float | None) -> None:
        """How long there may be silence from now on; None is any time."""
        # What reads the body looks here when it begins to.
        self._response.request.extensions["timeout"]["read"] = seconds

    def pieces(self) -> Iterator[bytes]:
        """The bytes, in pieces of any size."""
        try:
            with _live.told(self._call):
                yield from self._response.iter_raw()
        except _errors.TransportError:
            # If the handle was closed meanwhile, that is what happened.
            self._transport.check()
            raise

    def events(self, wanted: Any) -> Iterator[Any]:
        """The JSON lines in it, each as this type."""
        self.limit(SILENCE_LIMIT)
        lines = Lines(wanted)
        for piece in self.pieces():
            yield from lines.feed(piece)

    def rest(self) -> bytes:
        """All of it."""
        answer = Answer(self._call)
        for piece in self.pieces():
            answer.take(piece)
        return answer.whole()

    def close(self) -> None:
        """Ends it."""
        self._response.close()

    def interrupt(self) -> None:
        """Ends it for a thread that waits for it: to close a descriptor wakes nobody."""
        connection = self._response.extensions["network_stream"].get_extra_info("socket")
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Beside:
    """Performs operations beside what goes on in its block. What becomes of them is not asked; they end with the block."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._thread: threading.Thread | None = None

    def start(self, operation: Operation[Any]) -> None:
        """Performs it from now on."""

        def perform() -> None:
            with contextlib.suppress(_errors.MvmError, OSError):
                self._transport.perform(operation)

        self._thread = threading.Thread(target=perform, name="mvm-stdin", daemon=True)
        self._thread.start()

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A command that has ended takes no more input, and its sender sees that at once.
        if self._thread is not None and kind is None:
            self._thread.join(timeout=10)


def aside(work: Callable[..., T], *args: Any, stop: Callable[[], None]) -> T:
    """Does what may wait for the other side."""
    return work(*args)


def tell(callback: Callable[[str], Any], text: str) -> None:
    """Tells a caller what a command wrote."""
    callback(text)


def _recorded(recording: _record.Recording, operation: Operation[Any], kind: type | None = None) -> Any:
    with recording.step(operation) as step:
        data = operation.arguments.get("data")
        if data is not None and not isinstance(data, bytes):
            content = bytearray()
            for piece in _pieces(data):
                content += piece
                recording.room(len(content))
            data = bytes(content)
        return recording.perform(step, operation, data, kind)


def _content(body: bytes | None) -> bytes | Iterator[bytes] | None:
    return body if body is None or len(body) <= files.PIECE else files.slices(body)


def _pieces(source: Any) -> Iterator[bytes]:
    if hasattr(source, "read"):
        while piece := files.piece(source.read(files.PIECE)):
            yield piece
        return
    for piece in source:
        yield files.piece(piece)


def _run(binary: str, step: Invoke) -> tuple[int, bytes, bytes]:
    """Runs mvmctl. It is gone when this returns, however it returns."""
    stdin = subprocess.DEVNULL if step.stdin is None else subprocess.PIPE
    try:
        process = subprocess.Popen(
            _live.arguments(binary, step.args), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise _errors.Internal("cannot run mvmctl", f"{binary}: {error.strerror}") from None
    try:
        stdout, stderr = process.communicate(step.stdin, timeout=step.limit)
    except subprocess.TimeoutExpired:
        raise _errors.transport_error(
            "mvmctl did not end in time", f"mvmctl {step.args[0]} took over {step.limit:.0f} s"
        ) from None
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return process.returncode, stdout, stderr
