"""Files of a sandbox."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Any

from .. import _errors
from .._api import CopyReport, FileInfo, Written
from . import check
from .steps import WORK_LIMIT, Call, Open, Operation, Send, Steps, Target, answer, encoded, nothing, parsed, reach, typed

# Bytes of a piece in which large files are sent.
PIECE = 256 << 10


def write(of: Target, path: Any, data: Any, options: Mapping[str, Any]) -> Operation[Written]:
    """Writes a file: whole or not at all, unless it is appended to."""
    given = options.get
    what = "cannot write the file"
    params = {"path": check.guest_path(what, path)}
    what = f"cannot write {params['path']}"
    if given("mode") is not None:
        params["mode"] = str(check.count(what, "mode", given("mode"), most=0o7777))
    if given("owner") is not None:
        params["owner"] = check.text(what, "owner", given("owner"))
    for name in ("append", "sync", "parents"):
        if check.flag(what, name, given(name, False)):
            params[name] = "true"
    body = _whole(what, data)
    call = Call(of, "PUT", "/v1/files", params, body, limit=None if body is None else WORK_LIMIT)

    def steps() -> Steps[Written]:
        said = yield from reach(call if body is not None else Send(call, data))
        return typed(Written, parsed(said))

    return Operation("files.write", {"sandbox": of.id, **params, "data": data if body is None else body}, steps())


def _whole(what: str, data: Any) -> bytes | None:
    """All of the data, if it is not to be read piece by piece."""
    if isinstance(data, str):
        return check.text(what, "the content", data).encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    if isinstance(data, Mapping) or not (hasattr(data, "read") or hasattr(data, "__iter__") or hasattr(data, "__aiter__")):
        check.refuse(
            what,
            f"content is str, bytes, a file that is open for reading bytes, or an iterable of bytes, not {type(data).__name__}",
        )
    return None


def slices(data: bytes) -> Iterator[bytes]:
    """A large body in pieces: whole, all that is left of it would be copied each time that the socket takes some."""
    return (data[at : at + PIECE] for at in range(0, len(data), PIECE))


def piece(data: Any) -> bytes:
    """One piece of what is read piece by piece."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise _errors.InvalidRequest(
        "cannot write the file",
        f"its content comes in bytes, not in {type(data).__name__}",
        hint="open the file in binary mode",
    )


def read(of: Target, path: Any, offset: Any, length: Any) -> Operation[Any]:
    """Opens a file for reading."""
    what = "cannot read the file"
    params = {"path": check.guest_path(what, path)}
    offset = check.count(what, "offset", offset, most=2**63 - 1)
    if offset:
        params["offset"] = str(offset)
    if length is not None:
        params["len"] = str(check.count(what, "length", length, most=2**63 - 1))
    call = Call(of, "GET", "/v1/files", params, limit=WORK_LIMIT)
    return Operation("files.read", {"sandbox": of.id, **params}, reach(Open(call)))


def listing(of: Target, path: Any) -> Operation[tuple[FileInfo, ...]]:
    """What is in a directory."""
    params = {"path": check.guest_path("cannot list the directory", path)}
    return Operation(
        "files.list", {"sandbox": of.id, **params}, answer(tuple[FileInfo, ...], Call(of, "GET", "/v1/files/list", params))
    )


def stat(of: Target, path: Any, follow: Any) -> Operation[FileInfo]:
    """What a file is."""
    what = "cannot look at the file"
    params = {"path": check.guest_path(what, path), "follow": str(check.flag(what, "follow", follow)).lower()}
    return Operation("files.stat", {"sandbox": of.id, **params}, answer(FileInfo, Call(of, "GET", "/v1/files/stat", params)))


def exists(of: Target, path: Any) -> Operation[bool]:
    """Whether there is something."""
    look = stat(of, path, True)

    def steps() -> Steps[bool]:
        try:
            yield from look.steps
        except _errors.NotFound as error:
            if error.errno is None:
                raise
            return False
        except _errors.FileError as error:
            # A part of the path is a file, so there is nothing below it; or links lead in a circle.
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            return False
        return True

    return Operation("files.exists", look.arguments, steps())


def mkdir(of: Target, path: Any, parents: Any, mode: Any) -> Operation[None]:
    """Makes a directory."""
    what = "cannot make the directory"
    body = {
        "path": check.guest_path(what, path),
        "parents": check.flag(what, "parents", parents),
        "mode": check.optional_count(what, "mode", mode, most=0o7777),
    }
    return _done("files.mkdir", of, "/v1/files/mkdir", body)


def move(of: Target, source: Any, destination: Any) -> Operation[None]:
    """Renames a file."""
    what = "cannot move the file"
    body = {"from": check.guest_path(what, source, "the source"), "to": check.guest_path(what, destination, "the destination")}
    return _done("files.move", of, "/v1/files/rename", body)


def remove(of: Target, path: Any, recursive: Any) -> Operation[None]:
    """Removes a file."""
    what = "cannot remove the file"
    body = {"path": check.guest_path(what, path), "recursive": check.flag(what, "recursive", recursive)}
    return _done("files.remove", of, "/v1/files/remove", body)


def _done(name: str, of: Target, path: str, body: Mapping[str, Any]) -> Operation[None]:
    return Operation(name, {"sandbox": of.id, **body}, nothing(Call(of, "POST", path, body=encoded(body))))


def copy(of: Target, direction: str, host: Any, guest: Any) -> Operation[CopyReport]:
    """Copies a file or tree: `upload` into the sandbox, `download` out of it."""
    what = "cannot copy the files"
    body = {"host_path": check.host_path(what, host, "host_path"), "guest_path": check.guest_path(what, guest, "guest_path")}
    path = {"upload": "/v1/files/copy-in", "download": "/v1/files/copy-out"}[direction]
    # As long as it takes.
    call = Call(of, "POST", path, body=encoded(body), limit=None)
    return Operation(f"files.{direction}", {"sandbox": of.id, **body}, answer(CopyReport, call))
