"""What both live transports share: finding mvmctl, agreeing on a version with it, and holding a lease."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import socket
import sysconfig
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from . import _errors
from ._core.steps import ANSWER_LIMIT, WORK_LIMIT, Call, Pipe, Target, Unreachable, late, lost, refusal

# The version of the API that this SDK speaks.
API = 1
# The seconds that mvmctl has to say its version.
VERSION_LIMIT = 10.0
# And a supervisor to grant a lease.
CLAIM_LIMIT = ANSWER_LIMIT
WRITING = "cannot write the command's input"
_agreed: set[tuple[str, int, int]] = set()


def find_binary() -> str:
    """The path of mvmctl: `MVM_CLI_BIN`, the one that was installed with this package, the one on the PATH."""
    named = os.environ.get("MVM_CLI_BIN")
    if named:
        found = shutil.which(named)
        if found is None:
            raise _errors.NotFound(
                "cannot find mvmctl", f"MVM_CLI_BIN says {named}, and no program is there", hint="set it to mvmctl's path"
            )
        return os.path.abspath(found)
    installed = Path(sysconfig.get_path("scripts")) / "mvmctl"
    found = str(installed) if os.access(installed, os.X_OK) else shutil.which("mvmctl")
    if found is None:
        raise _errors.NotFound(
            "cannot find mvmctl",
            f"it is neither {installed} nor on the PATH",
            hint="install mvm, or set MVM_CLI_BIN to its path",
        )
    return os.path.abspath(found)


def is_agreed(binary: str) -> bool:
    """Whether this very file was asked for its version before."""
    return _mark(binary) in _agreed


def _mark(binary: str) -> tuple[str, int, int]:
    try:
        found = os.stat(binary)
    except OSError as error:
        raise _errors.NotFound("cannot run mvmctl", f"{binary}: {error.strerror}") from None
    return binary, found.st_mtime_ns, found.st_size


def agree(binary: str, status: int, stdout: bytes) -> None:
    """Judges what `mvmctl version --json` said."""
    what, ours = "cannot work with this mvmctl", f"this SDK speaks version {API} of the API"
    try:
        said = json.loads(stdout)
        version, oldest, newest = str(said["version"]), int(said["api"]["oldest"]), int(said["api"]["newest"])
    except (ValueError, KeyError, TypeError):
        why = f"{ours}, and {binary} is too old to say which it speaks" if status == 2 else f"{binary} is no mvmctl"
        raise _errors.Incompatible(what, why, hint="install the mvmctl of this version of mvm") from None
    if API > newest:
        why = f"{ours}, and {binary} ({version}) is too old: it speaks {newest}"
        raise _errors.Incompatible(what, why, hint="update mvmctl")
    if API < oldest:
        why = f"{ours}, and {binary} ({version}) is too new: it speaks {oldest} and later"
        raise _errors.Incompatible(what, why, hint="update the SDK")
    _agreed.add(_mark(binary))


@contextlib.contextmanager
def told(call: Call) -> Iterator[None]:
    """Has failures of the connection said in mvm's words."""
    try:
        yield
    except httpx.ConnectError as error:
        raise Unreachable(str(error)) from None
    except httpx.TimeoutException:
        raise late(call) from None
    except (httpx.TransportError, httpx.StreamError) as error:
        raise lost(call, str(error) or type(error).__name__) from None


class Lease:
    """The lease of a sandbox: a connection that lasts as long as this object, and this process.

    The sandbox is destroyed within a second of its end, whoever else still holds the socket: the other side watches this
    process too. So a forked child that closes its copy ends nothing, and cannot keep anything alive.
    """

    def __init__(self, connection: int) -> None:
        """Takes a connection on which it was granted, by its descriptor."""
        self._socket: socket.socket | None = socket.socket(fileno=connection)
        self._finalizer = weakref.finalize(self, _hang_up, self._socket, os.getpid())

    @property
    def held(self) -> bool:
        """Whether it was not dropped."""
        return self._socket is not None

    def drop(self) -> None:
        """Ends it, and with it the sandbox."""
        self._socket = None
        self._finalizer()


def _hang_up(connection: socket.socket, owner: int) -> None:
    # Also if a forked child still has a copy; the child itself only closes its own.
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    connection.close()


# What claims a lease; the answer stays open.
CLAIM = b"GET /v1/lease HTTP/1.1\r\nhost: sandbox\r\n\r\n"


def granted(said: bytes) -> bool:
    """Whether this is the answer that grants a lease; False while it is not whole."""
    head, _, body = said.partition(b"\r\n\r\n")
    if not body and len(said) < 1 << 16:
        return False
    status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    if not body or status is None:
        raise ConnectionError("it sent no answer of a supervisor")
    if status[1] != b"200":
        raise refusal(body, int(status[1]))
    return True


def not_claimed(error: Exception) -> _errors.MvmError:
    """What is said of a lease that was not granted."""
    if isinstance(error, _errors.MvmError):
        return error
    why = "its supervisor did not answer in time" if isinstance(error, TimeoutError) else str(error) or "the connection ended"
    return _errors.transport_error("cannot claim the lease of the sandbox", why)


def claim(target: Target) -> Lease:
    """Claims a lease, and waits for it."""
    end = time.monotonic() + CLAIM_LIMIT
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(CLAIM_LIMIT)
            connection.connect(target.socket)
            connection.sendall(CLAIM)
            said = b""
            while not granted(said):
                connection.settimeout(max(0.001, end - time.monotonic()))
                piece = connection.recv(4096)
                if not piece:
                    raise ConnectionResetError("it closed the connection")
                said += piece
        except OSError as error:
            raise not_claimed(error) from None
        connection.settimeout(None)
        return Lease(connection.detach())


def arguments(binary: str, args: Sequence[str]) -> list[str]:
    """A command line of mvmctl. No process can have a NUL among its arguments."""
    if any("\0" in one for one in args):
        raise _errors.InvalidRequest("cannot ask mvmctl", "there is a NUL in a name or a path")
    return [binary, *args]


class Input:
    """A command's standard input, written in pieces: one request whose body lasts until `close`."""

    def __init__(self, pipe: Pipe) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._finalizer = weakref.finalize(self, self._socket.close)
        # What is said of input that comes when there can be no more.
        self._ended: _errors.MvmError | None = None
        self._lock = threading.Lock()
        try:
            self._socket.settimeout(ANSWER_LIMIT)
            self._socket.connect(pipe.target.socket)
            self._socket.settimeout(WORK_LIMIT)
            self._send(f"PUT {pipe.path} HTTP/1.1\r\nhost: sandbox\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        except OSError as error:
            self._socket.close()
            if isinstance(error, _errors.MvmError):
                raise
            raise _errors.transport_error("cannot reach the sandbox", str(error), hint="mvmctl ps shows its state") from None

    def write(self, data: bytes) -> None:
        """Sends some of it. Waits while the command does not read: `Timeout` after two minutes."""
        if data:
            self._send(b"%x\r\n%b\r\n" % (len(data), data))

    def close(self) -> None:
        """The command reads the end of its input. Waits until it has read the rest, or ended. Harmless if that was done."""
        if self._ended is None:
            self._send(b"0\r\n\r\n", last=True)
            self._end(_errors.InvalidState(WRITING, "its end was sent already"))

    def abort(self) -> None:
        """Breaks off what is being sent: part of it has arrived, so the command is killed."""
        self._ended = _errors.InvalidState(WRITING, "a write was broken off, and the command was killed")
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _end(self, error: _errors.MvmError) -> None:
        self._ended = self._ended or error
        self._finalizer()

    def _send(self, data: bytes, *, last: bool = False) -> None:
        with self._lock:
            if self._ended is not None:
                raise self._ended
            try:
                self._say(data)
                if last:
                    self._socket.settimeout(None)
                    self._judge()
            except _errors.MvmError as error:
                # Part of it may have arrived: what followed would be taken for something else.
                self._end(error)
                raise
            except BaseException:
                self.abort()
                raise

    def _say(self, data: bytes) -> None:
        answered = select.poll()
        answered.register(self._socket, select.POLLIN)
        # An answer that comes before the end is a refusal, or the command's end.
        if answered.poll(0):
            self._judge()
            raise _errors.InvalidState(WRITING, "it has ended")
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise _errors.Timeout(WRITING, "the command does not read it") from None
        except OSError:
            self._judge()
            raise _errors.transport_error(WRITING, "the connection ended") from None

    def _judge(self) -> None:
        """Reads the answer, and raises what it refuses."""
        said = b""
        with contextlib.suppress(OSError):
            while piece := self._socket.recv(4096):
                said += piece
                head, ended, body = said.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                if len(said) > 1 << 20 or (ended and (length is None or len(body) >= int(length[1]))):
                    break
        head, _, body = said.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3})", head)
        if status is None:
            raise _errors.transport_error(WRITING, "the connection ended")
        if int(status[1]) >= 300:
            raise refusal(body, int(status[1]))
