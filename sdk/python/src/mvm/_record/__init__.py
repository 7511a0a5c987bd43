"""Record mode: calls are written down, for a workload to be made of them, and nothing runs.

Nothing of this starts a process, opens a connection or reads a secret. What a call answers stands for what a live sandbox
would, and cannot be looked at.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from .. import _errors
from .._core.steps import Operation
from .answers import Held as Held
from .place import refused
from .recording import Recording as Recording
from .recording import Step

MODES = ("live", "record")
_recording: Recording | None = None


def of_process() -> Recording:
    """The recording of this process: there is one."""
    global _recording
    if _recording is None or _recording.foreign:
        _recording = Recording()
    return _recording


def chosen(mode: str | None) -> Recording | None:
    """The recording that calls of this mode are in, or that of `MVM_SDK_MODE` if it is None; None if they are live."""
    default = os.environ.get("MVM_SDK_MODE") or "live"
    asked = default if mode is None else mode
    for one in (asked, default):
        if one not in MODES:
            raise _errors.InvalidRequest(
                "cannot choose the mode", f"there is no mode of this name: {str(one)[:40]!r}", hint="live or record"
            )
    if asked == "live" and default == "record":
        return Unrecorded()
    return of_process() if asked == "record" else None


class Unrecorded(Recording):
    """What is to be live in a process that records."""

    @contextlib.contextmanager
    def step(self, operation: Operation[Any]) -> Iterator[Step]:
        """Refuses it."""
        why = "MVM_SDK_MODE says record, and a process that records starts nothing"
        raise of_process().spoil(refused(operation.call, why, hint="leave out mode, or MVM_SDK_MODE"))
        yield
