"""Where in a program a call is made."""

from __future__ import annotations

import os
import sys
import types

from .. import _errors

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STANDARD = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_INSTALLED = f"{os.sep}site-packages{os.sep}"
_ANYIO = f"{_INSTALLED}anyio{os.sep}"
LIVE = "mvmctl run --mode live runs the script as it is"


def caller() -> str:
    """The file's name and the line of whoever called into this package; empty if that is not known."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and not _is_program(os.path.abspath(frame.f_code.co_filename)):
        frame = frame.f_back
    return "" if frame is None else f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def _is_program(path: str) -> bool:
    """Whether a file is part of a program, and not of what runs its tasks and threads or of this package."""
    standard = path.startswith(_STANDARD) and _INSTALLED not in path
    return not (standard or path.startswith(_PACKAGE) or _ANYIO in path)


def refused(call: str, why: str, *, hint: str = LIVE) -> _errors.NotRecordable:
    """What is raised of a call that cannot be recorded."""
    place = caller()
    error = _errors.NotRecordable(f"cannot record {call}" + (f" at {place}" if place else ""), why, hint=hint)
    error.call, error.place = call, place
    return error
