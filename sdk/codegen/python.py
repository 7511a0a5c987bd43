"""The types as Python: frozen dataclasses that `mvm._codec` reads from JSON and writes back."""

import keyword
import textwrap

from .openapi import Enum, Field, Model, Record, Type, Union

HEAD = '''\
"""The types of the host API. Written by `make sdk-types` from docs/openapi.json; changes here are lost."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from ._codec import Record, instant, milliseconds, named

'''
SCALARS = {"text": "str", "bytes": "bytes", "integer": "int", "number": "float", "boolean": "bool", "json": "Any",
           "time": "datetime", "span": "float"}
# What a field is that an older server does not send.
DEFAULTS = {"text": '""', "integer": "0", "number": "0.0", "boolean": "False", "list": "()", "json": "None"}
# Units that names say in JSON, and Python's types say by themselves.
UNITS = {"time": "A point in time (UTC).", "span": "In seconds."}


def render(model: Model) -> str:
    """The module's text."""
    parts = [_enum(one) for one in model.enums.values()]
    parts += [_record(one) for one in model.records.values()]
    parts += [_union(one) for one in model.unions.values()]
    names = sorted([*model.enums, *model.records, *model.unions])
    listed = "__all__ = [\n" + "".join(f'    "{name}",\n' for name in names) + "]\n"
    return HEAD + listed + "\n\n" + "\n\n".join(parts)


def python_name(field: Field) -> str:
    """Without the unit, and no word of the language."""
    name = field.name.removesuffix("_ms") if field.type.kind in UNITS else field.name
    return f"{name}_" if keyword.iskeyword(name) else name


def _doc(text: str, indent: str = "    ") -> str:
    lines = textwrap.wrap(text.replace("\\", "\\\\"), 112 - len(indent))
    if len(lines) <= 1:
        return f'{indent}"""{"".join(lines)}"""\n'
    return f'{indent}"""' + f"\n{indent}".join(lines) + f'\n{indent}"""\n'


def _enum(one: Enum) -> str:
    values = "".join(f'    {value.replace("-", "_").upper() if value.islower() else _constant(value)} = "{value}"\n' for value in one.values)
    return f"class {one.name}(str, enum.Enum):\n{_doc(one.doc)}\n{values}\n    __str__ = str.__str__\n"


def _constant(value: str) -> str:
    return "".join(f"_{letter}" if letter.isupper() and at else letter for at, letter in enumerate(value)).upper()


def _union(one: Union) -> str:
    return f'{one.name} = {" | ".join(one.variants)}\n' + _doc(one.doc, "")


def _record(one: Record) -> str:
    text = "@dataclass(frozen=True, slots=True, kw_only=True)\n"
    text += f"class {one.name}({one.parent or 'Record'}):\n{_doc(one.doc)}"
    if one.tag:
        text += f'\n    TAG: ClassVar[tuple[str, str]] = ("{one.tag[0]}", "{one.tag[1]}")\n'
    for item in one.fields:
        doc = " ".join(filter(None, (item.doc, UNITS.get(item.type.kind))))
        text += f"\n    {python_name(item)}: {_type(item.type)}{_default(item)}\n{_doc(doc)}"
    return text


def _type(of: Type) -> str:
    name = of.name or SCALARS.get(of.kind, "")
    if of.kind == "list":
        assert of.item
        name = f"tuple[{_type(of.item)}, ...]"
    return f"{name} | None" if of.optional and name != "Any" else name


def _default(item: Field) -> str:
    settings = []
    if not item.required:
        settings.append(f"default={'None' if item.type.optional else DEFAULTS[item.type.kind]}")
    if item.type.kind in UNITS:
        settings.append(f'metadata={"instant" if item.type.kind == "time" else "milliseconds"}("{item.name}")')
    elif python_name(item) != item.name:
        settings.append(f'metadata=named("{item.name}")')
    if item.sensitive:
        settings.append("repr=False")
    if len(settings) == 1 and settings[0].startswith("default="):
        return f" = {settings[0].removeprefix('default=')}"
    return f" = field({', '.join(settings)})" if settings else ""
