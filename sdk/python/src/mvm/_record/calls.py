"""What is recorded of each call: its arguments, in the words of `mvm.recording/v1`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import _secrets
from . import tree


class Unrecordable(Exception):
    """Something that was asked for has no place in a workload."""


@dataclass(frozen=True)
class Asked:
    """A call: its arguments, the bytes that it writes, and what keeps bytes and answers their name."""

    arguments: Mapping[str, Any] = field(repr=False)
    data: bytes | None = field(repr=False)
    keep: Callable[[bytes], str]

    def some(self, *names: str) -> dict[str, Any]:
        """Arguments as they are."""
        return {name: self.arguments.get(name) for name in names}


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was left out: that has its default where the workload is made."""
    return {name: value for name, value in arguments.items() if value is not None and value is not False}


def _create(asked: Asked) -> dict[str, Any]:
    if asked.arguments.get("require"):
        raise Unrecordable("a workload has no place for require: whoever launches it demands layers of isolation")
    disk = asked.arguments.get("disk_bytes")
    return {
        **asked.some("image", "name", "cpus", "memory_mib", "env", "profile"),
        "secrets": _references(asked),
        "disk_mib": None if disk is None else disk >> 20,
        "ports": [_binding(port) for port in asked.arguments["ports"]],
        **_life(asked),
    }


def _life(asked: Asked) -> dict[str, Any]:
    if asked.arguments.get("no_ttl"):
        raise Unrecordable("a workload ends after a time; one that does not needs an owner, who launches it")
    return asked.some("ttl_ms", "on_expiry")


def _binding(port: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "guest_port": port["guest_port"],
        "host_port": port["host_port"],
        "host": port["address"],
        "protocol": port["protocol"],
    }


def _references(asked: Asked) -> Mapping[str, str] | None:
    """Only where secrets are: what names no place may be a value, and is refused."""
    references: Mapping[str, str] | None = asked.arguments.get("secrets")
    for name, reference in (references or {}).items():
        _secrets.where(name, reference)
    return references


def _command(asked: Asked) -> dict[str, Any]:
    return {**asked.some("argv", "env", "cwd", "user", "timeout_ms"), "secrets": _references(asked)}


def _run(asked: Asked) -> dict[str, Any]:
    for name in ("receipt", "on_stdout", "on_stderr"):
        if asked.arguments[name] is not None:
            raise Unrecordable(f"there is nothing for {name}: it does not run")
    stdin = asked.arguments["stdin"]
    return {**_command(asked), **asked.some("check"), "stdin": None if stdin is None else asked.keep(stdin)}


def _start(asked: Asked) -> dict[str, Any]:
    for name in ("stdin", "tty"):
        if asked.arguments.get(name):
            raise Unrecordable(f"a workload has nobody who would use it with {name}")
    return _command(asked)


def _write(asked: Asked) -> dict[str, Any]:
    mode = asked.arguments.get("mode")
    return {
        **asked.some("path", "owner"),
        "mode": None if mode is None else int(mode),
        "append": "append" in asked.arguments,
        "parents": "parents" in asked.arguments,
        "content": asked.keep(asked.data or b""),
    }


def _upload(asked: Asked) -> dict[str, Any]:
    try:
        entries = tree.entries(asked.arguments["host_path"], asked.keep)
    except tree.Foreign as error:
        raise Unrecordable(str(error)) from None
    return {"guest_path": asked.arguments["guest_path"], "entries": entries}


def _move(asked: Asked) -> dict[str, Any]:
    return {"source": asked.arguments["from"], "destination": asked.arguments["to"]}


def _nothing(asked: Asked) -> dict[str, Any]:
    return {}


RECORDABLE: Mapping[str, Callable[[Asked], dict[str, Any]]] = {
    "create": _create,
    "commands.run": _run,
    "commands.start": _start,
    "files.write": _write,
    "files.mkdir": lambda asked: asked.some("path", "parents", "mode"),
    "files.move": _move,
    "files.remove": lambda asked: asked.some("path", "recursive"),
    "files.upload": _upload,
    "ports.forward": lambda asked: _binding(asked.arguments),
    "snapshot": lambda asked: asked.some("name"),
    "keep": _life,
    "detach": _life,
    "close": _nothing,
    "destroy": _nothing,
    "kill": _nothing,
}
"""Every call that can be recorded. What is in none of it needs a live sandbox."""
