"""Supervisors that hang, break off or talk nonsense: every call ends, with the error that says so."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import support

import mvm
from mvm import _live
from mvm._api import SandboxInfo
from mvm._async import transport as async_transport
from mvm._async.sandbox import AsyncSandbox
from mvm._async.transport import AsyncTransport
from mvm._codec import decode
from mvm._core import commands, files, results, sandboxes, steps
from mvm._core.sandboxes import Made
from mvm._sync import transport as sync_transport
from mvm._sync.sandbox import Sandbox
from mvm._sync.transport import Transport

# Each connection has one answer.
OK = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
INFO = {
    "audit_id": 1, "cause": "", "cleanup": {"kind": "lease"}, "created_at_ms": 0, "id": "mvm-0", "image": "base",
    "image_digest": "", "legal": [], "machine": {"cpus": 1, "disk_bytes": 1, "memory_mib": 1}, "name": "fake", "owner": "",
    "since_ms": 0, "state": "running",
}  # fmt: skip


def whole(body: bytes) -> bytes:
    return OK + b"content-length: %d\r\n\r\n" % len(body) + body


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


class Server:
    """Listens where a supervisor would. `answer` is what it says, and `hold` whether it is silent then or hangs up."""

    def __init__(self, path: Path) -> None:
        self.path, self.answer, self.hold, self.endless = str(path), b"", True, b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(self.answer)
            while self.endless:
                connection.sendall(self.endless)
            if not self.hold:
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "socket")
    yield made
    made.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines as they are, but short."""
    short = 0.1
    monkeypatch.setattr(steps.Call.__init__, "__defaults__", (*steps.Call.__init__.__defaults__[:-1], short))
    for module, name in (
        (sandboxes, "WORK_LIMIT"), (sandboxes, "GRACE"), (files, "WORK_LIMIT"), (commands, "ANSWER_LIMIT"),
        (_live, "ANSWER_LIMIT"), (_live, "CLAIM_LIMIT"), (_live, "WORK_LIMIT"),
        (sync_transport, "SILENCE_LIMIT"), (async_transport, "SILENCE_LIMIT"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, short)


@pytest.fixture(params=["sync", "asyncio", "trio"])
def fake(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    """A handle of a sandbox whose supervisor is the server."""
    info: SandboxInfo = decode(SandboxInfo, {**INFO, "socket": server.path})
    made = Made(sandboxes.target(info), info)
    with support.surface(request.param) as api:
        if api.kind == "sync":
            yield Sandbox(made, Transport())
        else:
            yield support.driven(AsyncSandbox(made, AsyncTransport()), api.Sandbox._portal)


CALLS: dict[str, Callable[[Any], Any]] = {
    "state": lambda box: box.state(),
    "stats": lambda box: box.stats(),
    "wait": lambda box: box.wait("stopped", timeout=0.1),
    "run": lambda box: box.commands.run(["true"]),
    "run with a limit": lambda box: box.commands.run(["true"], timeout=0.1),
    "start": lambda box: box.commands.start(["true"]),
    "list": lambda box: box.commands.list(),
    "read": lambda box: box.files.read("/a"),
    "write": lambda box: box.files.write("/a", "x"),
    "files": lambda box: box.files.list("/"),
    "logs": lambda box: list(box.logs()),
    "stop": lambda box: box.stop(),
    "snapshot": lambda box: box.snapshot(),
    "fork": lambda box: box.fork(),
    "ports": lambda box: box.ports.list(),
}
SILENT = {"nothing": b"", "a part": b"HTTP/1.1 200", "a head": OK, "a beginning": OK + b"content-length: 100\r\n\r\n{"}
NONSENSE = {
    "nothing": b"",
    "a part": b"HTTP/1.1 2",
    "another protocol": b"SSH-2.0-nonsense\r\n",
    "bytes": b"\0\xff" * 100,
    "half a body": OK + b"content-length: 9\r\n\r\n{",
    "no chunk": CHUNKED + b"zz\r\n",
    "a status without a word": b"HTTP/1.1 500 No\r\ncontent-length: 4\r\n\r\nnope",
    "an error without a code": b"HTTP/1.1 404 No\r\nconnection: close\r\n\r\n{}",
    "another place": b"HTTP/1.1 302 Go\r\nlocation: http://x/\r\ncontent-length: 0\r\n\r\n",
}
NO_ANSWERS = [b"", b"nonsense", b"[]", b"null", b"{}", b'{"state": 5}', b"[" * 100_000, b"\xff", b"NaN"]


def table(answers: dict[str, bytes]) -> Any:
    """Every call with nothing for an answer, and each kind of request with each answer."""
    every = [(call, "nothing") for call in CALLS]
    every += [(call, answer) for call in ("state", "write", "start") for answer in answers if answer != "nothing"]
    return pytest.mark.parametrize(("call", "answer"), every)


# A stream that has begun may be silent, so these calls are none.
@pytest.mark.usefixtures("impatient")
@table(SILENT)
def test_silence_has_an_end(fake: Any, server: Server, call: str, answer: str) -> None:
    server.answer = SILENT[answer]
    with pytest.raises(mvm.TransportError, match="in time") as silent:
        CALLS[call](fake)
    assert isinstance(silent.value, ConnectionError)
    assert silent.value.retryable == (call in ("state", "stats", "wait", "list", "read", "write", "files", "logs", "ports"))


@pytest.mark.usefixtures("impatient")
@table(NONSENSE)
def test_nonsense_and_an_end_are_the_transports_failure(fake: Any, server: Server, call: str, answer: str) -> None:
    server.answer, server.hold = NONSENSE[answer], False
    with pytest.raises(mvm.TransportError):
        CALLS[call](fake)


@pytest.mark.parametrize("body", NO_ANSWERS, ids=lambda body: ascii(body)[2:14])
def test_json_of_another_kind_is_the_transports_failure(fake: Any, server: Server, body: bytes) -> None:
    for call in ("state", "stats", "stop", "snapshot", "start", "write"):
        server.answer = whole(body)
        with pytest.raises(mvm.TransportError):
            CALLS[call](fake)
    server.hold = False
    for call in ("run", "logs"):
        server.answer = CHUNKED + chunk(body + b"\n") + b"0\r\n\r\n"
        with pytest.raises(mvm.TransportError):
            CALLS[call](fake)


def test_a_stream_that_ends_too_soon(fake: Any, server: Server) -> None:
    server.hold = False
    started = b'{"type": "started", "audit_id": 1, "run_id": "run-1"}\n'
    for rest in (b"0\r\n\r\n", b""):
        server.answer = CHUNKED + chunk(started) + rest
        with pytest.raises(mvm.TransportError) as lost:
            fake.commands.run(["true"])
        assert not lost.value.retryable


def test_an_endless_line_is_not_kept(fake: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MAX_ANSWER", 1 << 20)
    monkeypatch.setattr(results, "MAX_ANSWER", 1 << 20)
    server.endless = chunk(b"x" * 65536)
    server.answer = CHUNKED
    for call in ("state", "run", "logs", "fork"):
        with pytest.raises(mvm.TransportError):
            CALLS[call](fake)
    server.answer, server.endless = b"HTTP/1.1 200 OK\r\nx: ", b"x" * 65536
    with pytest.raises(mvm.TransportError):
        fake.state()


def test_what_the_supervisor_refuses_is_its_error(fake: Any, server: Server) -> None:
    error = b'{"error": {"code": "InvalidState", "what": "cannot run", "why": "it is frozen", "hint": "resume", "errno": 5}}'
    server.answer = b"HTTP/1.1 409 Conflict\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(error) + error
    for call in CALLS.values():
        with pytest.raises(mvm.InvalidState) as refused:
            call(fake)
        assert (refused.value.what, refused.value.why, refused.value.hint, refused.value.errno) == (
            "cannot run", "it is frozen", "resume", 5,
        )  # fmt: skip


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
def test_a_lease_that_is_not_granted(server: Server, kind: str) -> None:
    def claim(path: str) -> None:
        target = steps.Target("mvm-0", "fake", path)
        claimed: Any = Transport() if kind == "sync" else AsyncTransport()
        operation: Any = steps.Operation("claim", {}, (one for one in [steps.Claim(target)]))
        if kind == "sync":
            claimed.perform(operation)
        else:
            anyio.run(claimed.perform, operation, backend=kind)

    for answer, hold in ((b"", True), (b"", False), (b"nonsense\r\n\r\nx", False), (OK, False), (b"x" * (1 << 17), False)):
        server.answer, server.hold = answer, hold
        with pytest.raises(mvm.TransportError):
            claim(server.path)
    server.answer = b'HTTP/1.1 409 Conflict\r\n\r\n{"error": {"code": "InvalidState", "what": "w", "why": "y", "hint": ""}}'
    with pytest.raises(mvm.InvalidState):
        claim(server.path)
    with pytest.raises(mvm.TransportError):
        claim(server.path + "-none")


@pytest.mark.usefixtures("impatient")
def test_input_that_nobody_takes(server: Server) -> None:
    pipe = steps.Pipe(steps.Target("mvm-0", "fake", server.path), "/v1/jobs/run-1/stdin")
    stuck = _live.Input(pipe)
    # More than the buffers of a socket hold.
    with pytest.raises(mvm.Timeout):
        stuck.write(b"x" * (16 << 20))
    with pytest.raises(mvm.Timeout):
        stuck.write(b"y")
    server.hold = False
    for answer in (b"", b"nonsense"):
        server.answer = answer
        broken = _live.Input(pipe)
        with pytest.raises(mvm.TransportError):
            broken.write(b"x" * (16 << 20))
            broken.close()


def test_nobody_listens(fake: Any, server: Server) -> None:
    server.close()
    os.unlink(server.path)
    # mvmctl knows no such sandbox either.
    for call in ("state", "run", "write"):
        with pytest.raises(mvm.NotFound):
            CALLS[call](fake)
