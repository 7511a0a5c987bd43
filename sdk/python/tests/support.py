"""What the tests share: both surfaces behind one, scripts in processes of their own, and a look at the host."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread

import mvm

# Long enough for a busy host; nothing is asserted of how long things take.
PATIENCE = 30.0
PREFIX = f"py{os.getpid()}"


def until(true: Callable[[], Any], what: str) -> Any:
    """The first answer that is true."""
    end = time.monotonic() + PATIENCE
    while not (answer := true()):
        assert time.monotonic() < end, f"it did not come to this: {what}"
        time.sleep(0.05)
    return answer


class Surface:
    """The public names of one of the two surfaces, without their prefixes."""

    def __init__(self, kind: str, portal: Any = None) -> None:
        self.kind = kind
        for name in ("Sandbox", "run", "snapshots", "receipts", "gc"):
            prefix = "" if portal is None else "Async" if name[0].isupper() else "async_"
            value = getattr(mvm, prefix + name)
            setattr(self, name, value if portal is None else driven(value, portal))


def driven(value: Any, portal: Any) -> Any:
    """The asynchronous surface as if it were the synchronous one: an event loop on another thread does what is asked."""
    if isinstance(value, list):
        return [driven(one, portal) for one in value]
    if not isinstance(value, type) and type(value).__module__.startswith("mvm._async"):
        return Driven(value, portal)
    if isinstance(value, type) and value.__module__.startswith("mvm._async"):
        return Driven(value, portal)
    if callable(value) and getattr(value, "__module__", "").startswith("mvm._async"):
        return lambda *args, **options: _call(value, portal, args, options)
    return value


def _call(function: Callable[..., Any], portal: Any, args: Any, options: Any) -> Any:
    async def call() -> Any:
        answer = function(*args, **options)
        return await answer if inspect.isawaitable(answer) else answer

    answer = portal.call(call)
    return _iterated(answer, portal) if inspect.isasyncgen(answer) else driven(answer, portal)


def _iterated(source: AsyncIterator[Any], portal: Any) -> Iterator[Any]:
    try:
        while True:
            try:
                yield portal.call(source.__anext__)
            except StopAsyncIteration:
                return
    finally:
        portal.call(source.aclose)


class Driven:
    """An object of the asynchronous surface."""

    def __init__(self, thing: Any, portal: Any) -> None:
        self.thing, self._portal = thing, portal

    def __getattr__(self, name: str) -> Any:
        return driven(getattr(self.thing, name), self._portal)

    def __repr__(self) -> str:
        return repr(self.thing)

    def __iter__(self) -> Iterator[Any]:
        return _iterated(self.thing.__aiter__(), self._portal)

    def __enter__(self) -> Driven:
        self._portal.call(self.thing.__aenter__)
        return self

    def __exit__(self, *error: Any) -> None:
        self._portal.call(self.thing.__aexit__, *error)


@contextlib.contextmanager
def surface(kind: str) -> Iterator[Surface]:
    """One of `sync`, `asyncio`, `trio`."""
    if kind == "sync":
        yield Surface(kind)
        return
    with anyio.from_thread.start_blocking_portal(kind) as portal:
        yield Surface(kind, portal)


def script(code: str, *args: str, **env: str) -> subprocess.Popen[str]:
    """Python in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "default", "-c", "import mvm, os, sys, time\n" + code, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
        # Whoever runs the tests in the background may have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it printed; it ends well."""
    stdout, stderr = process.communicate(timeout=PATIENCE * 2)
    assert process.returncode == 0, stderr
    return stdout, stderr


def said(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, process.communicate()[1]
    return line


def processes() -> dict[int, list[str]]:
    """The arguments of every process that is not a corpse."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            arguments = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
            if arguments != [""]:
                found[int(entry)] = arguments
    return found


def supervisor(sandbox_id: str) -> int | None:
    """The process that answers for a sandbox."""
    return next((pid for pid, args in processes().items() if args[1:3] == ["supervise", sandbox_id]), None)


def state(sandbox_id: str) -> mvm.State:
    """What is known of a sandbox, whoever has handles of it."""
    return mvm.Sandbox.lookup(sandbox_id).state


def is_gone(sandbox_id: str) -> bool:
    """Whether nothing is left of a sandbox but what is known of its end."""
    return supervisor(sandbox_id) is None and state(sandbox_id) == mvm.State.DESTROYED


def gone(sandbox_id: str) -> None:
    """Waits for that."""
    until(lambda: is_gone(sandbox_id), f"{sandbox_id} is gone")


def ended(sandbox_id: str) -> None:
    """It was destroyed already; its supervisor may take its leave yet."""
    assert state(sandbox_id) == mvm.State.DESTROYED
    gone(sandbox_id)


async def aborted(box: mvm.AsyncSandbox, pattern: str) -> None:
    """Waits until no process of the guest has this in its command line; the pattern must not match itself."""
    with anyio.fail_after(PATIENCE):
        while (await box.commands.run(["pgrep", "-f", pattern])).ok:
            await anyio.sleep(0.05)
