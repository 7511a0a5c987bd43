"""Where in a program a call is made."""

from __future__ import annotations

import os
import sys

from .. import _errors

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
LIVE = "mvmctl run --mode live runs the script as it is"


def caller() -> str:
    """The file's name and the line of whoever called into this package; empty if that is not known."""
    frame = sys._getframe(1)
    while frame is not None and os.path.abspath(frame.f_code.co_filename).startswith(_PACKAGE):
        frame = frame.f_back  # type: ignore[assignment]  # the last one has none
    return "" if frame is None else f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def refused(call: str, why: str, *, hint: str = LIVE) -> _errors.NotRecordable:
    """What is raised of a call that cannot be recorded."""
    place = caller()
    error = _errors.NotRecordable(f"cannot record {call}" + (f" at {place}" if place else ""), why, hint=hint)
    error.call, error.place = call, place
    return error
