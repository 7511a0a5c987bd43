"""Secrets by reference, `env:VAR` or `file:PATH`, read in this process for the one command that gets them.

The rules are mvmctl's. A value is in no message, and in no argument or environment of another process of this host.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping

from . import _errors

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z", re.ASCII)
HINT = "a secret is a reference: env:VAR (a variable of this process) or file:PATH"
# The sandbox says so of a value that is too long; more need not be read.
MAX_VALUE = 64 << 10


def read(references: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The values by name, and what there is to say about how they are kept."""
    values: dict[str, str] = {}
    warnings: list[str] = []
    for name, reference in references.items():
        kind, place = where(name, reference)
        what = f"cannot use the secret {name}"
        data, exposed = _file(what, place) if kind == "file" else (_variable(what, place), "")
        try:
            values[name] = data.decode()
        except UnicodeDecodeError:
            raise _errors.InvalidRequest(
                what, "its value is not UTF-8, and variables are text", hint="encode it, for instance in base64"
            ) from None
        if exposed:
            warnings.append(f"the secret {name} is in a file that others may read: {exposed} (chmod 600)")
        if re.fullmatch(r"[a-z]+|[0-9]+|\s+", values[name], re.ASCII):
            warnings.append(f"the secret {name} looks like a word: where it is redacted it shows itself")
    return values, tuple(warnings)


def where(name: str, reference: str) -> tuple[str, str]:
    """What a reference says: `env` and a variable of this process, or `file` and a path. What is none may be the value."""
    if not NAME.match(name):
        raise _errors.InvalidRequest(
            "cannot use a secret", "its name is no variable's: letters, digits and _, not a digit first, at most 128 bytes"
        )
    kind, _, place = reference.partition(":")
    if (kind == "env" and NAME.match(place)) or (kind == "file" and place and "\0" not in place):
        return kind, place
    raise _errors.InvalidRequest(
        f"cannot use the secret {name}", "its value may not be given here, only where it is", hint=HINT
    )


def _variable(what: str, name: str) -> bytes:
    value = os.environb.get(name.encode())
    if value is None:
        raise _errors.NotFound(what, f"the variable {name} is not set", hint=HINT)
    return value


def _file(what: str, place: str) -> tuple[bytes, str]:
    path = os.path.join(os.getcwd(), place)
    try:
        # Not blocked by a pipe, which is refused below.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _errors.InvalidRequest(what, f"{path} is no regular file", hint=HINT)
            data = file.read(MAX_VALUE + 3)
    except OSError as error:
        if isinstance(error, _errors.MvmError):
            raise
        kind = _errors.NotFound if isinstance(error, FileNotFoundError) else _errors.FileError
        raise kind(
            f"{what}: {path}",
            error.strerror or str(error),
            hint="check the path, and that you may read the file",
            errno=error.errno,
        ) from None
    for end in (b"\r\n", b"\n"):
        if data.endswith(end):
            data = data[: -len(end)]
            break
    return data, path if found.st_mode & 0o077 else ""
