"""What stands for the answers of calls that were recorded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from .. import _errors
from .._api import CopyReport, DeletionReport, Port, SandboxInfo, Snapshot, Written
from .._core.sandboxes import Made
from .._core.steps import Operation, Target
from .place import refused

Spoil = Callable[[_errors.MvmError], _errors.MvmError]

# What a recorded sandbox is called where it has no name.
NOBODY = "recorded"
_KINDS: Mapping[str, type] = {
    "files.write": Written,
    "files.upload": CopyReport,
    "ports.forward": Port,
    "snapshot": Snapshot,
    "keep": SandboxInfo,
    "detach": SandboxInfo,
    "close": DeletionReport,
    "destroy": DeletionReport,
    "kill": DeletionReport,
}


class Held:
    """What stands for a lease: nothing holds anything."""

    held = True

    def drop(self) -> None:
        """Lets go."""
        self.held = False


def of(operation: Operation[Any], place: str, kind: type | None, spoil: Spoil) -> Any:
    """The answer of a recorded call: of a `kind`, or what its name says."""
    call = f"{operation.name} at {place}" if place else operation.name
    if operation.name == "create":
        name = operation.arguments.get("name")
        info = _unknown(SandboxInfo, call, spoil, {} if name is None else {"name": name})
        target = Target(NOBODY, name or NOBODY, "")
        return Made(target, info, Held() if operation.arguments["lease"] else None, created=True)
    kind = kind or _KINDS.get(operation.name)
    return None if kind is None else _unknown(kind, call, spoil, {})


class _Unknown:
    """Stands for an answer. Only what was known before is known; to look at anything else is `NotRecordable`."""

    _call: str
    _spoil: Spoil
    _known: Mapping[str, Any]

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        if name in self._known:
            return self._known[name]
        self._refuse(f".{name}")

    def _refuse(self, use: str) -> NoReturn:
        why = f"only a live sandbox knows it: {self._call} was recorded, and did not run"
        raise self._spoil(refused(f"{_name_of(type(self))}{use}", why))

    def __repr__(self) -> str:
        return f"<{_name_of(type(self))} of {self._call}, which was recorded>"

    def __bool__(self) -> bool:
        self._refuse(" as a condition")

    def __eq__(self, other: object) -> bool:
        self._refuse(" in a comparison")

    __hash__ = object.__hash__

    def __iter__(self) -> Any:
        self._refuse(" in an iteration")

    def __aiter__(self) -> Any:
        self._refuse(" in an iteration")


def _name_of(kind: type) -> str:
    return kind.__name__.removeprefix("Async")


@functools.cache
def _standing_for(kind: type) -> type:
    return type(kind.__name__, (_Unknown, kind), {"__module__": kind.__module__})


def _unknown(kind: type, call: str, spoil: Spoil, known: Mapping[str, Any]) -> Any:
    answer: Any = object.__new__(_standing_for(kind))
    for name, value in (("_call", call), ("_spoil", spoil), ("_known", known)):
        object.__setattr__(answer, name, value)
    return answer
