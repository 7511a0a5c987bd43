"""Arguments: what is wrong with them is said before anything happens, and values are in no message."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import PurePath, PurePosixPath
from typing import Any, NoReturn

from .. import _errors
from .._api import OnExpiry

GuestPath = str | PurePosixPath
HostPath = str | os.PathLike[str]
Seconds = float | timedelta
Argv = str | Sequence[str]

# The largest number that the API takes for a count.
MAX_COUNT = 2**32 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, kw_only=True)
class PortSpec:
    """A port of this host that shall lead into a sandbox.

    `host_port` 0 takes a free one. `host` is the address to listen on; other than a loopback address it lets other
    machines in.
    """

    guest_port: int
    host_port: int
    host: str = "127.0.0.1"
    protocol: str = "tcp"


def refuse(what: str, why: str, hint: str = "") -> NoReturn:
    """An argument that makes no sense."""
    raise _errors.InvalidRequest(what, why, hint=hint)


def _kind(value: object) -> str:
    return type(value).__name__


def text(what: str, name: str, value: Any) -> str:
    """A text without NUL that UTF-8 can say."""
    if not isinstance(value, str):
        refuse(what, f"{name} is a str, not {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(what, f"{name} has half a character in it, a lone surrogate")
    return value


def optional_text(what: str, name: str, value: Any) -> str | None:
    """The same, or nothing."""
    return None if value is None else text(what, name, value)


def given_name(what: str, name: str, value: Any) -> str:
    """A name to give: a text that is not empty. What else is wrong with it the other side says."""
    if not text(what, name, value):
        refuse(what, f"{name} is empty")
    return str(value)


def named(what: str, name: str, value: Any) -> str:
    """A name or an id of what is there, which becomes an argument of a process."""
    if "\0" in given_name(what, name, value):
        refuse(what, f"there is a NUL in {name}")
    if value.startswith("-"):
        refuse(what, f"{name} begins with a hyphen, and nothing is called so")
    return str(value)


def optional_named(what: str, name: str, value: Any) -> str | None:
    """The same, or nothing: then it is made up."""
    return None if value is None else given_name(what, name, value)


def flag(what: str, name: str, value: Any) -> bool:
    """True or False, not what counts as them."""
    if not isinstance(value, bool):
        refuse(what, f"{name} is a bool, not {_kind(value)}")
    return value


def count(what: str, name: str, value: Any, *, least: int = 0, most: int = MAX_COUNT) -> int:
    """A whole number in its bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(what, f"{name} is an int, not {_kind(value)}")
    if not least <= value <= most:
        refuse(what, f"{name} is from {least} to {most}")
    return int(value)


def optional_count(what: str, name: str, value: Any, *, least: int = 0, most: int = MAX_COUNT) -> int | None:
    """The same, or nothing."""
    return None if value is None else count(what, name, value, least=least, most=most)


def seconds(what: str, name: str, value: Any, kinds: str) -> float:
    """A number of seconds, or a `timedelta`; NaN and infinity too, which a number that no float can hold is as well."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        shown = repr(value[:40]) if isinstance(value, str) else _kind(value)
        refuse(what, f"{name} is {kinds}, not {shown}")
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def milliseconds(what: str, name: str, value: Any) -> int:
    """Seconds, or a `timedelta`, above zero; at least one millisecond."""
    number = seconds(what, name, value, "a number of seconds or a timedelta")
    if not 0 < number <= 366 * 86_400:
        refuse(what, f"{name} is above zero and at most a year", "it is in seconds")
    return max(1, round(number * 1000))


def optional_milliseconds(what: str, name: str, value: Any) -> int | None:
    """The same, or nothing."""
    return None if value is None else milliseconds(what, name, value)


def since_1970(what: str, name: str, value: Any) -> int | None:
    """A point in time: a `datetime`, or so many seconds (or a `timedelta`) ago."""
    if value is None:
        return None
    if isinstance(value, datetime):
        # What has no zone is local time.
        zoned = value if value.tzinfo else _local(what, name, value)
        return max(0, round((zoned - EPOCH) / timedelta(milliseconds=1)))
    ago = seconds(what, name, value, "a datetime, a timedelta or a number of seconds ago")
    if not 0 <= ago < math.inf:
        refuse(what, f"{name} is so long ago: not negative, and finite")
    return max(0, round((datetime.now(timezone.utc).timestamp() - ago) * 1000))


def _local(what: str, name: str, value: datetime) -> datetime:
    try:
        return value.astimezone()
    except (OverflowError, ValueError, OSError):
        refuse(what, f"{name} is outside of the years that a clock of this machine has")


def guest_path(what: str, value: Any, name: str = "the path") -> str:
    """An absolute path of the guest, as text. What else is wrong with it the sandbox says."""
    if isinstance(value, PurePath) and not isinstance(value, PurePosixPath):
        refuse(what, f"{name} is of Windows, and a sandbox is none", "use a str or a PurePosixPath")
    path = str(value) if isinstance(value, PurePosixPath) else value
    if not isinstance(path, str):
        refuse(what, f"{name} is a str or a PurePosixPath, not {_kind(value)}")
    if not path.startswith("/"):
        refuse(what, f"{name} is not absolute, and there is no directory that it could be relative to", "begin it with /")
    return text(what, name, path)


def host_path(what: str, value: Any, name: str = "the path") -> str:
    """A path of the host, made absolute."""
    try:
        path = os.fspath(value)
    except TypeError:
        refuse(what, f"{name} is a str or a Path, not {_kind(value)}")
    if not isinstance(path, str):
        refuse(what, f"{name} is a str or a Path, not {_kind(path)}")
    if not path or "\0" in path:
        refuse(what, f"{name} is empty, or there is a NUL in it")
    # As the system reads it: `..` after a link is above where that leads.
    return os.path.join(os.getcwd(), text(what, name, path))


def argv(what: str, value: Any) -> list[str]:
    """A program and its arguments; a text is a line for the guest's `/bin/sh`."""
    if isinstance(value, str):
        return ["/bin/sh", "-c", text(what, "the command", value)]
    if isinstance(value, (bytes, bytearray, memoryview)) or not isinstance(value, Sequence):
        refuse(what, f"a command is a list of str, or a str for /bin/sh -c, not {_kind(value)}")
    said = [text(what, "an argument", item) for item in value]
    if not said:
        refuse(what, "a command has a program", 'such as ["python3", "-c", "print(1)"]')
    return said


def env(what: str, value: Any, name: str = "env") -> dict[str, str] | None:
    """Variables by name."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        refuse(what, f"{name} is a mapping of str to str, not {_kind(value)}")
    return {text(what, f"a name in {name}", key): text(what, f"a value in {name}", item) for key, item in value.items()}


def texts(what: str, name: str, value: Any) -> list[str]:
    """A list of texts, which one text is not."""
    if isinstance(value, (str, bytes, bytearray, memoryview)) or not isinstance(value, Sequence):
        refuse(what, f"{name} is a list of str, not {_kind(value)}")
    return [text(what, f"one of {name}", item) for item in value]


def port(what: str, value: Any) -> dict[str, Any]:
    """A port to forward, as the API takes it."""
    if not isinstance(value, PortSpec):
        refuse(what, f"a port is a PortSpec, not {_kind(value)}", "PortSpec(guest_port=8000, host_port=0)")
    return {
        "address": text(what, "host", value.host),
        "host_port": count(what, "host_port", value.host_port, most=65535),
        "guest_port": count(what, "guest_port", value.guest_port, least=1, most=65535),
        "protocol": text(what, "protocol", value.protocol),
    }


def on_expiry(what: str, value: Any) -> str | None:
    """What happens when the time is up."""
    if value is None:
        return None
    try:
        return OnExpiry(value).value
    except ValueError:
        refuse(what, f"on_expiry is one of {', '.join(one.value for one in OnExpiry)}")


def ending(what: str, ttl: Any, lease: Any, owner: Any, expiry: Any) -> dict[str, Any]:
    """How a sandbox ends when nobody ends it, as the API takes it: a lease unless something else is said."""
    if lease is not None:
        flag(what, "lease", lease)
    infinite = isinstance(ttl, float) and math.isinf(ttl) and ttl > 0
    if lease and ttl is not None:
        refuse(what, "a sandbox ends with its client or after a time, not both", "leave out lease or ttl")
    if expiry is not None and (infinite or (ttl is None and lease is not False)):
        refuse(what, "on_expiry says what happens after a time, and no time was given", "give a ttl")
    return {
        "lease": lease if lease is not None else ttl is None,
        "ttl_ms": None if infinite else optional_milliseconds(what, "ttl", ttl),
        "no_ttl": infinite,
        "on_expiry": on_expiry(what, expiry),
        "owner": optional_text(what, "owner", owner),
    }
