"""The types as TypeScript: interfaces in camelCase, and for each a decoder that checks what JSON says."""

import re
import textwrap
from typing import Any

from . import openapi
from .openapi import Enum, Field, Model, Record, Type, Union

HEAD = """\
/**
 * The types of the host API. Written by `make sdk-types` from docs/openapi.json; changes here are lost.
 *
 * @module
 */

import { bool, bytes, integer, json, list, nullable, number, oneOf, record, text, union } from './decode.js';
"""
SCALARS = {"text": "string", "bytes": "Uint8Array", "integer": "number", "number": "number", "boolean": "boolean",
           "json": "unknown", "time": "number", "span": "number"}
DECODERS = {"text": "text", "bytes": "bytes", "integer": "integer", "number": "number", "boolean": "bool", "json": "json",
            "time": "integer", "span": "number"}
# What a field is that an older server does not send.
MISSING = {"text": "''", "integer": "0", "number": "0", "boolean": "false", "list": "[]", "json": "null", "time": "0",
           "span": "0"}


def render(document: dict[str, Any]) -> str:
    """The module's text."""
    return _Writer(openapi.read(document)).write()


class _Writer:
    """Writes each type after those that it needs: decoders are values, and made where they stand."""

    def __init__(self, model: Model) -> None:
        self.types: dict[str, Record | Enum | Union] = {**model.enums, **model.records, **model.unions}
        self.parts: dict[str, str] = {}

    def write(self) -> str:
        for name in sorted(self.types):
            self._define(name)
        return HEAD + "".join(f"\n{part}" for part in self.parts.values())

    def _define(self, name: str) -> None:
        if name in self.parts:
            return
        one = self.types[name]
        for other in _needed(one):
            self._define(other)
        if isinstance(one, Record):
            self.parts[name] = _record(one)
        else:
            self.parts[name] = _enum(one) if isinstance(one, Enum) else _union(one, self.types)


def _needed(one: Record | Enum | Union) -> list[str]:
    if not isinstance(one, Record):
        return one.variants if isinstance(one, Union) else []
    types = [field.type.item or field.type for field in one.fields]
    return [one.parent] * bool(one.parent) + [of.name for of in types if of.name]


def _enum(one: Enum) -> str:
    values = [f"'{value}'" for value in one.values]
    return (
        f"{_doc(one.doc)}export type {one.name} = {' | '.join(values)};\n"
        f"export const {_value(one.name)} = oneOf<{one.name}>('{one.name}', [{', '.join(values)}]);\n"
    )


def _union(one: Union, types: dict[str, Record | Enum | Union]) -> str:
    tags = {name: of.tag[1] for name in one.variants if isinstance(of := types[name], Record) and of.tag}
    variants = "".join(f"  {tag}: {_value(name)},\n" for name, tag in tags.items())
    return (
        f"{_doc(one.doc)}export type {one.name} = {' | '.join(one.variants)};\n"
        f"export const {_value(one.name)} = union<{one.name}>('{one.name}', '{one.tag}', {{\n{variants}}});\n"
    )


def _record(one: Record) -> str:
    extends = f" extends {one.parent}" if one.parent else ""
    tag = f"  readonly {one.tag[0]}: '{one.tag[1]}';\n" if one.tag else ""
    members = "".join(map(_member, one.fields))
    inherited = f"  ...{_value(one.parent)}.fields,\n" if one.parent else ""
    tagged = f"  {one.tag[0]}: ['{one.tag[0]}', oneOf('{one.tag[0]}', ['{one.tag[1]}'])],\n" if one.tag else ""
    fields = "".join(f"  {_camel(field.name)}: [{_entry(field)}],\n" for field in one.fields)
    hidden = "".join(f", '{_camel(field.name)}'" for field in one.fields if field.sensitive)
    return (
        f"{_doc(one.doc)}export interface {one.name}{extends} {{\n{tag}{members}}}\n"
        f"export const {_value(one.name)} = record<{one.name}>('{one.name}', {{\n{inherited}{tagged}{fields}}}{hidden});\n"
    )


def _member(field: Field) -> str:
    return f"{_doc(_told(field), '  ')}  readonly {_camel(field.name)}: {_type(field.type)};\n"


def _told(field: Field) -> str:
    return f"{field.doc} The guest wrote it: it is left out where this is shown." if field.sensitive else field.doc


def _entry(field: Field) -> str:
    missing = "null" if field.type.optional else MISSING.get(field.type.kind)
    decoder = f"'{field.name}', {_decoder(field.type)}"
    return decoder if field.required or missing is None else f"{decoder}, {missing}"


def _type(of: Type) -> str:
    if of.kind == "list":
        inner = of.item and _type(of.item)
        name = f"readonly ({inner})[]" if " " in str(inner) else f"readonly {inner}[]"
    else:
        name = of.name or SCALARS[of.kind]
    return f"{name} | null" if of.optional and of.kind != "json" else name


def _decoder(of: Type) -> str:
    decoder = f"list({_decoder(of.item)})" if of.item else _value(of.name) if of.name else DECODERS[of.kind]
    return f"nullable({decoder})" if of.optional and of.kind != "json" else decoder


def _value(name: str) -> str:
    return f"{name[0].lower()}{name[1:]}"


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)


def _doc(text: str, indent: str = "") -> str:
    if not text:
        return ""
    lines = textwrap.wrap(text.replace("*/", "*\\/"), 112 - len(indent))
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    return f"{indent}/**\n" + "".join(f"{indent} * {line}\n" for line in lines) + f"{indent} */\n"
