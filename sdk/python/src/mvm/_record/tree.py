"""Files of this host that are copied into a sandbox, as they are when that is recorded."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from .. import _errors

# As deep as copies go, as many as a workload has, and what is more than a recording has.
MAX_DEPTH = 64
MAX_ENTRIES = 20_000
TOO_MUCH = (64 << 20) + 1


class Foreign(Exception):
    """There is something in it that a workload has no place for."""


def entries(path: str, keep: Callable[[bytes], str]) -> list[dict[str, Any]]:
    """A file or a directory with all that is in it, each directory before that, by the bytes of the names.

    `keep` takes the bytes of each file and answers their name. `FileError` if something cannot be read.
    """
    try:
        found = os.stat(path)
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise Foreign("it is neither a file nor a directory")
        listed = []
        for entry in _walk(path, "", found, keep, 0):
            listed.append(entry)
            if len(listed) > MAX_ENTRIES:
                raise Foreign(f"there are more than {MAX_ENTRIES} files in it")
        return listed
    except OSError as error:
        kind = _errors.NotFound if isinstance(error, FileNotFoundError) else _errors.FileError
        where = os.fsdecode(error.filename or path)
        raise kind(f"cannot read {where}", error.strerror or str(error), errno=error.errno) from None


def _walk(path: str, name: str, found: os.stat_result, keep: Callable[[bytes], str], depth: int) -> Iterator[dict[str, Any]]:
    if depth > MAX_DEPTH:
        raise Foreign(f"it is more than {MAX_DEPTH} directories deep")
    mode = stat.S_IMODE(found.st_mode) & 0o777
    if stat.S_ISLNK(found.st_mode):
        yield {"path": name, "what": {"link": _text(os.readlink(path), name)}}
    elif stat.S_ISREG(found.st_mode):
        yield {"path": name, "what": {"file": {"content": keep(_read(path)), "mode": mode}}}
    elif not stat.S_ISDIR(found.st_mode):
        raise Foreign(f"{name} is a device, a pipe or a socket")
    else:
        yield {"path": name, "what": {"directory": {"mode": mode}}}
        for one in sorted(os.listdir(path), key=os.fsencode):
            below, inner = os.path.join(path, one), _text(f"{name}/{one}" if name else one, name)
            yield from _walk(below, inner, os.lstat(below), keep, depth + 1)


def _read(path: str) -> bytes:
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        return file.read(TOO_MUCH)


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Foreign(f"a name in {where or 'it'} is no UTF-8") from None
    return value
