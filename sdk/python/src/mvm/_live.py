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
import weakref
from collections.abc import Sequence
from pathlib import Path

from . import _errors
from ._core.steps import ANSWER_LIMIT, WORK_LIMIT, Pipe, Target, refusal

# The version of the API that this SDK speaks.
API = 1
# The seconds that mvmctl has to say its version.
VERSION_LIMIT = 10.0
_agreed: set[tuple[str, int, int]] = set()


def find_binary() -> str:
    """The path of mvmctl: `MVM_CLI_BIN`, the one that was installed with this package, the one on the PATH."""
    named = os.environ.get("MVM_CLI_BIN")
    if named:
        found = shutil.which(named)
        if found is None:
            raise _errors.NotFound("cannot find mvmctl", f"MVM_CLI_BIN says {named}, and no program is there")
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


def only_live(mode: str | None) -> None:
    """Refuses the modes that this version has not."""
    asked = mode if mode is not None else os.environ.get("MVM_SDK_MODE") or "live"
    if asked == "record":
        raise _errors.NotRecordable(
            "cannot record", "this version of the SDK only runs things live", hint="leave out mode, or MVM_SDK_MODE"
        )
    if asked != "live":
        raise _errors.InvalidRequest(
            "cannot choose the mode", f"there is no mode of this name: {str(asked)[:40]!r}", hint="live"
        )


class Lease:
    """The lease of a sandbox: a connection that lasts as long as this object, and this process.

    The sandbox is destroyed within a second of its end, whoever else still holds the socket: the other side watches this
    process too. So a forked child that closes its copy ends nothing, and cannot keep anything alive.
    """

    def __init__(self, target: Target) -> None:
        self._socket: socket.socket | None = _claimed(target)
        self._finalizer = weakref.finalize(self, _close, self._socket)

    @property
    def held(self) -> bool:
        """Whether it was not dropped."""
        return self._socket is not None

    def drop(self) -> None:
        """Ends it, and with it the sandbox."""
        self._socket = None
        self._finalizer()


def _close(connection: socket.socket) -> None:
    connection.close()


def _claimed(target: Target) -> socket.socket:
    """A connection on which the lease was granted."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(ANSWER_LIMIT)
        connection.connect(target.socket)
        connection.sendall(b"GET /v1/lease HTTP/1.1\r\nhost: sandbox\r\n\r\n")
        said = b""
        while b"\r\n\r\n" not in said or not said.partition(b"\r\n\r\n")[2]:
            piece = connection.recv(4096)
            if not piece or len(said) > 1 << 16:
                raise ConnectionResetError("it closed the connection")
            said += piece
        head, _, body = said.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if status != 200:
            raise refusal(body, status)
        connection.settimeout(None)
        return connection
    except (OSError, ValueError, IndexError) as error:
        connection.close()
        if isinstance(error, _errors.MvmError):
            raise
        raise _errors.transport_error("cannot claim the lease of the sandbox", str(error) or type(error).__name__) from None
    except BaseException:
        connection.close()
        raise


def arguments(binary: str, args: Sequence[str]) -> list[str]:
    """A command line of mvmctl. No process can have a NUL among its arguments."""
    if any("\0" in one for one in args):
        raise _errors.InvalidRequest("cannot ask mvmctl", "there is a NUL in a name or a path")
    return [binary, *args]


class Input:
    """A command's standard input, written in pieces: one request whose body lasts until `close`."""

    def __init__(self, pipe: Pipe) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
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
        """The command reads the end of its input."""
        try:
            self._send(b"0\r\n\r\n")
            self._judge()
        finally:
            self._socket.close()

    def _send(self, data: bytes) -> None:
        # An answer that comes before the end is a refusal.
        if select.select([self._socket], [], [], 0)[0]:
            self._judge()
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise _errors.Timeout("cannot write the command's input", "the command does not read it") from None
        except OSError:
            self._judge()
            raise _errors.transport_error("cannot write the command's input", "the connection ended") from None

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
            raise _errors.transport_error("cannot write the command's input", "the connection ended")
        if int(status[1]) >= 300:
            raise refusal(body, int(status[1]))
