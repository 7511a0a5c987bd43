"""Typed records from JSON and back. What a field is called and counted in there is in its metadata."""

from __future__ import annotations

import base64
import binascii
import enum
import functools
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Unexpected(ValueError):
    """JSON that is not what it should be. Says where, never what it was."""


@dataclass(frozen=True, slots=True)
class Record:
    """An answer of mvm, as a type. Compares by value; contents that a guest wrote are not in its `repr`."""

    TAG: ClassVar[tuple[str, str] | None] = None

    def to_json(self) -> dict[str, Any]:
        """The JSON that it was read from, in the names and units of the HTTP API (docs/openapi.json)."""
        said: dict[str, Any] = {self.TAG[0]: self.TAG[1]} if self.TAG else {}
        for item in fields(self):
            said[item.metadata.get("json", item.name)] = _plain(getattr(self, item.name), item.metadata.get("unit"))
        return said


def named(json: str) -> dict[str, str]:
    """Metadata of a field that has another name in JSON."""
    return {"json": json}


def instant(json: str) -> dict[str, str]:
    """Metadata of a `datetime` that JSON has in milliseconds since 1970."""
    return {"json": json, "unit": "instant"}


def milliseconds(json: str) -> dict[str, str]:
    """Metadata of seconds that JSON has in milliseconds."""
    return {"json": json, "unit": "milliseconds"}


def decode(wanted: Any, value: Any) -> Any:
    """The value as this type: a record, an enum, a union of tagged records, a tuple of any of them, or a plain type.

    Raises `Unexpected` if it is none. Fields that the type does not know are left out.
    """
    return _reader(wanted)(value)


def _plain(value: Any, unit: str | None) -> Any:
    if value is None:
        return None
    if unit == "instant":
        return round((value - EPOCH) / timedelta(milliseconds=1))
    if unit == "milliseconds":
        return _thousandfold(value)
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple):
        return [_plain(item, None) for item in value]
    return value


def _thousandfold(value: float) -> float:
    """The number that is this one when it is divided by 1000."""
    exact = value * 1000
    near = (round(exact), exact, math.nextafter(exact, math.inf), math.nextafter(exact, -math.inf))
    return next((number for number in near if number / 1000 == value), exact)


Reader = Callable[[Any], Any]


@functools.cache
def _reader(wanted: Any) -> Reader:
    """What reads a type, worked out once."""
    origin = typing.get_origin(wanted)
    if wanted is Any:
        return lambda value: value
    if origin in (typing.Union, types.UnionType):
        return _reader_of_union(typing.get_args(wanted))
    if origin is tuple:
        item = _reader(typing.get_args(wanted)[0])
        return lambda value: tuple(item(one) for one in _as(list, value))
    if isinstance(wanted, type) and issubclass(wanted, Record):
        return _reader_of_record(wanted)
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return _reader_of_enum(wanted)
    return {bytes: _bytes, float: _number}.get(wanted, functools.partial(_as, wanted))


def _reader_of_union(options: tuple[Any, ...]) -> Reader:
    some = [option for option in options if option is not type(None)]
    if len(some) == 1:
        inner = _reader(some[0])
        return lambda value: None if value is None else inner(value)
    key = some[0].TAG[0]
    readers = {option.TAG[1]: _reader(option) for option in some}

    def read(value: Any) -> Any:
        tag = _as(dict, value).get(key)
        if not isinstance(tag, str) or tag not in readers:
            raise Unexpected(f"{key} is none of {', '.join(readers)}")
        return readers[tag](value)

    return read


def _reader_of_record(wanted: type[Record]) -> Reader:
    hints = typing.get_type_hints(wanted)
    known = []
    for item in fields(wanted):
        unit = item.metadata.get("unit")
        inner = _reader(hints[item.name]) if unit is None else _reader_of_unit(unit)
        known.append((item.name, item.metadata.get("json", item.name), inner))

    def read(value: Any) -> Any:
        said = _as(dict, value)
        given = {}
        for name, key, inner in known:
            if key not in said:
                continue
            try:
                given[name] = inner(said[key])
            except Unexpected as error:
                raise Unexpected(f"{key}: {error}") from None
        try:
            return wanted(**given)
        except TypeError as error:
            raise Unexpected(str(error).rpartition("()")[2].strip()) from None

    return read


def _reader_of_unit(unit: str) -> Reader:
    def read(value: Any) -> Any:
        if value is None:
            return None
        number = _number(value)
        try:
            return EPOCH + timedelta(milliseconds=number) if unit == "instant" else number / 1000
        except OverflowError:
            raise Unexpected("is no time") from None

    return read


def _reader_of_enum(wanted: type[enum.Enum]) -> Reader:
    def read(value: Any) -> Any:
        try:
            return wanted(value)
        except ValueError:
            raise Unexpected(f"is no {wanted.__name__}") from None

    return read


def _as(wanted: Any, value: Any) -> Any:
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise Unexpected(f"is no {wanted.__name__}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(_as_float(value)):
        raise Unexpected("is no number")
    return value


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(_as(str, value), validate=True)
    except binascii.Error:
        raise Unexpected("is no base64") from None
