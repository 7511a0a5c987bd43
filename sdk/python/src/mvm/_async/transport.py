"""Performs operations, and awaits their answers, on asyncio or trio."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import httpx

from .. import _errors, _live, _record
from .._core import files
from .._core.results import Lines
from .._core.steps import SILENCE_LIMIT, Answer, Call, Claim, Invoke, Operation, Pipe, Send, Step, Target, printed, refusal

T = TypeVar("T")


@contextlib.contextmanager
def _shielded() -> Iterator[None]:
    """A block that a cancelled task goes on with."""
    with anyio.CancelScope(shield=True):
        yield


async def _uncancelled(work: Coroutine[Any, Any, T]) -> T:
    """Awaits work to its end also if this task is cancelled as asyncio cancels, past every shield; it is cancelled then."""
    try:
        task = asyncio.get_running_loop().create_task(work)
    except RuntimeError:  # Not on asyncio, where there is no such way.
        return await work
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and not task.cancelled():
        task.exception()
        raise cancelled
    return task.result()


class AsyncTransport:
    """The transport of one handle, on the event loop that first used it; or what records for it."""

    def __init__(self, mode: str | None = None) -> None:
        self._recording = _record.chosen(mode)
        self._pid = os.getpid()
        self._client: httpx.AsyncClient | None = None
        self._loop: Any = None
        self._closed = ""

    async def perform(self, operation: Operation[T]) -> T:
        """The answer of an operation."""
        self.check()
        if self._recording is not None:
            return await _recorded(self._recording, operation)
        try:
            return await self._drive(operation)
        except (_errors.TransportError, RuntimeError):
            # If it was closed meanwhile, that is what happened.
            self.check()
            raise

    async def recorded(self, operation: Operation[Any], kind: type[T]) -> T | None:
        """Records a call whose answer is of a `kind`, and answers what stands for that; None if this transport is live."""
        if self._recording is None:
            return None
        self.check()
        answer: T = await _recorded(self._recording, operation, kind)
        return answer

    async def perform_last(self, operation: Operation[T]) -> T:
        """The same for what ends the sandbox: a cancelled task ends it all the same, and so can another event loop."""
        if self._recording is not None:
            return await self.perform(operation)
        with _shielded():
            return await _uncancelled(self._perform_last(operation))

    async def _perform_last(self, operation: Operation[T]) -> T:
        if self._loop in (None, anyio.lowlevel.current_token()):
            return await self.perform(operation)
        self._check_open()
        other = AsyncTransport()
        try:
            return await other.perform(operation)
        finally:
            await other.close("it was used once")

    def check(self) -> None:
        """Refuses what a closed handle is asked, or one of another process or event loop."""
        self._check_open()
        if self._recording is not None:
            return
        loop = anyio.lowlevel.current_token()
        if self._loop is None:
            self._loop = loop
        elif self._loop != loop:
            raise _errors.ClosedHandle(
                "cannot use the handle",
                "it belongs to another event loop",
                hint="AsyncSandbox.connect(name) makes one that belongs to this",
            )

    def _check_open(self) -> None:
        if self.foreign:
            raise _errors.ClosedHandle(
                "cannot use the handle",
                "this process is a fork of the one that has it",
                hint="AsyncSandbox.connect(name) makes a handle of this process's own",
            )
        if self._closed:
            raise _errors.ClosedHandle(
                "cannot use the handle", self._closed, hint="AsyncSandbox.connect(name) makes another one"
            )

    async def close(self, why: str) -> None:
        """Ends its connections. What it is asked from now on is refused."""
        self._closed = self._closed or why
        if self._client is not None and not self.foreign and self._loop == anyio.lowlevel.current_token():
            with _shielded():
                await self._client.aclose()

    @property
    def foreign(self) -> bool:
        """Whether this process is a fork of the one that made it."""
        return os.getpid() != self._pid

    async def _drive(self, operation: Operation[T]) -> T:
        steps = operation.steps
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._do(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            return done.value

    async def _do(self, step: Step) -> Any:
        if isinstance(step, Invoke):
            return await self._invoke(step)
        if isinstance(step, Claim):
            return await _claim(step.target)
        if isinstance(step, Pipe):
            return await anyio.to_thread.run_sync(_live.Input, step)
        if isinstance(step, Call):
            async with await self._exchange(step, _content(step.body)) as stream:
                return await stream.rest()
        if isinstance(step, Send):
            async with await self._exchange(step.call, _pieces(step.pieces)) as stream:
                return await stream.rest()
        return await self._exchange(step.call, step.call.body)

    async def _invoke(self, step: Invoke) -> Any:
        binary = _live.find_binary()
        if not _live.is_agreed(binary):
            status, stdout, _ = await _run(binary, Invoke(("version", "--json"), limit=_live.VERSION_LIMIT))
            _live.agree(binary, status, stdout)
        _, stdout, stderr = await _run(binary, step)
        return printed(step, stdout, stderr)

    async def _exchange(self, call: Call, content: Any) -> AsyncByteStream:
        """Sends a request. The answer has begun when this returns, and is no refusal."""
        client = self._client_of(call.target)
        with _live.told(call):
            request = client.build_request(
                call.method, call.path, params=dict(call.params), content=content, headers=call.headers, timeout=call.limit
            )
            stream = AsyncByteStream(call, await client.send(request, stream=True))
        if stream.status >= 300:
            async with stream:
                raise refusal(await stream.rest(), stream.status)
        return stream

    def _client_of(self, target: Target) -> httpx.AsyncClient:
        if self._client is None:
            transport = httpx.AsyncHTTPTransport(uds=target.socket, verify=False, limits=httpx.Limits(max_connections=None))
            self._client = httpx.AsyncClient(transport=transport, base_url="http://sandbox", trust_env=False)
        return self._client


class AsyncByteStream:
    """An answer as it comes. Ending it before it has ended ends what it is about, if that is a command."""

    def __init__(self, call: Call, response: httpx.Response) -> None:
        self._call, self._response, self.status = call, response, response.status_code

    def limit(self, seconds: float | None) -> None:
        """How long there may be silence from now on; None is any time."""
        # What reads the body looks here when it begins to.
        self._response.request.extensions["timeout"]["read"] = seconds

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes, in pieces of any size."""
        with _live.told(self._call):
            async for piece in self._response.aiter_raw():
                yield piece

    async def events(self, wanted: Any) -> AsyncIterator[Any]:
        """The JSON lines in it, each as this type."""
        self.limit(SILENCE_LIMIT)
        lines = Lines(wanted)
        async for piece in self.pieces():
            for event in lines.feed(piece):
                yield event

    async def rest(self) -> bytes:
        """All of it."""
        answer = Answer(self._call)
        async for piece in self.pieces():
            answer.take(piece)
        return answer.whole()

    async def close(self) -> None:
        """Ends it."""
        with _shielded():
            await self._response.aclose()

    async def __aenter__(self) -> AsyncByteStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncBeside:
    """Performs operations beside what goes on in its block. What becomes of them is not asked; they end with the block."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self._group: anyio.abc.TaskGroup | None = None

    def start(self, operation: Operation[Any]) -> None:
        """Performs it from now on."""

        async def perform() -> None:
            with contextlib.suppress(_errors.MvmError, OSError):
                await self._transport.perform(operation)

        assert self._group is not None
        self._group.start_soon(perform)

    async def __aenter__(self) -> AsyncBeside:
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A command that has ended takes no more input. The block's own error goes on as it is, in no group.
        assert self._group is not None
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)


async def aside(work: Callable[..., T], *args: Any, stop: Callable[[], None]) -> T:
    """Does what may wait for the other side, on a thread. A cancelled task stops it, so that no thread is left."""
    try:
        return await anyio.to_thread.run_sync(work, *args, abandon_on_cancel=True)
    except anyio.get_cancelled_exc_class():
        stop()
        raise


async def tell(callback: Callable[[str], Any], text: str) -> None:
    """Tells a caller what a command wrote, and waits if that takes a while."""
    said = callback(text)
    if inspect.isawaitable(said):
        await said


async def _recorded(recording: _record.Recording, operation: Operation[Any], kind: type | None = None) -> Any:
    with recording.step(operation) as step:
        data = operation.arguments.get("data")
        if data is not None and not isinstance(data, bytes):
            content = bytearray()
            async for piece in _pieces(data):
                content += piece
                recording.room(len(content))
            data = bytes(content)
        return recording.perform(step, operation, data, kind)


def _content(body: bytes | None) -> bytes | AsyncIterator[bytes] | None:
    return body if body is None or len(body) <= files.PIECE else _pieces(files.slices(body))


async def _pieces(source: Any) -> AsyncIterator[bytes]:
    if hasattr(source, "read"):
        # A file is read on a thread, so that the loop goes on.
        while piece := files.piece(await anyio.to_thread.run_sync(source.read, files.PIECE)):
            yield piece
    elif hasattr(source, "__aiter__"):
        async for piece in source:
            yield files.piece(piece)
    else:
        for piece in source:
            yield files.piece(piece)


async def _claim(target: Target) -> _live.Lease:
    """Claims a lease, on this loop: a task that is cancelled meanwhile leaves no connection behind."""
    try:
        with anyio.fail_after(_live.CLAIM_LIMIT):
            async with await anyio.connect_unix(target.socket) as stream:
                await stream.send(_live.CLAIM)
                said = b""
                while not _live.granted(said):
                    said += await stream.receive()
                # It outlives the loop, which closes its own.
                return _live.Lease(os.dup(stream.extra(anyio.abc.SocketAttribute.raw_socket).fileno()))
    except (OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
        raise _live.not_claimed(error) from None


async def _run(binary: str, step: Invoke) -> tuple[int, bytes, bytes]:
    """Runs mvmctl. It is gone when this returns, however it returns."""
    process = None
    try:
        with anyio.fail_after(step.limit):
            process = await anyio.open_process(
                _live.arguments(binary, step.args), stdin=subprocess.DEVNULL if step.stdin is None else subprocess.PIPE
            )
            return await _talk(process, step.stdin)
    except TimeoutError:
        raise _errors.transport_error(
            "mvmctl did not end in time", f"mvmctl {step.args[0]} took over {step.limit:.0f} s"
        ) from None
    except OSError as error:
        raise _errors.Internal("cannot run mvmctl", f"{binary}: {error.strerror}") from None
    finally:
        if process is not None:
            await _end(process)


async def _talk(process: anyio.abc.Process, stdin: bytes | None) -> tuple[int, bytes, bytes]:
    """Sends what it reads and takes what it writes, all at once."""
    taken: dict[str, bytes] = {}

    async def take(name: str, stream: Any) -> None:
        taken[name] = b"".join([piece async for piece in stream])

    async def give() -> None:
        assert process.stdin is not None
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await process.stdin.send(stdin or b"")
            await process.stdin.aclose()

    async with anyio.create_task_group() as group:
        group.start_soon(take, "stdout", process.stdout)
        group.start_soon(take, "stderr", process.stderr)
        if stdin is not None:
            group.start_soon(give)
    return await process.wait(), taken["stdout"], taken["stderr"]


async def _end(process: anyio.abc.Process) -> None:
    """Leaves no process and no pipe."""
    with _shielded():
        if process.returncode is None:
            process.kill()
        await process.aclose()
