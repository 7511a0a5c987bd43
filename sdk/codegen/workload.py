"""The reference of workloads, as a page: their JSON Schema, field by field."""

import json
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

HEAD = """\
# Workload reference

<!-- Written by `make sdk-types` from docs/schemas/workload.schema.json; changes here are lost. -->

Every field of a document `mvm.workload/v1`. [The page on workloads](../workload.md) explains what becomes of one. A field that is
unknown is an error, and so is one that is there twice. A choice is an object with one field.
"""
KINDS = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "null"}


def render(schema: Schema) -> str:
    """The page."""
    parts = {"Workload": schema, **schema["$defs"]}
    sections = [_section(name, parts[name]) for name in _in_order(parts)]
    return "\n".join([HEAD, *sections])


def _in_order(parts: dict[str, Schema]) -> list[str]:
    """The names of all parts, each behind what first names it."""
    order: list[str] = []
    left = ["Workload"]
    while left:
        name = left.pop(0)
        if name not in order:
            order.append(name)
            fields = parts[name] if name != "Workload" else {**parts[name], "$defs": None}
            left[:0] = _references(fields)
    if set(order) != set(parts):
        raise KeyError(f"nothing names {', '.join(sorted(set(parts) - set(order)))}")
    return order


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rsplit("/", 1)[-1]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _section(name: str, part: Schema) -> str:
    lines = [f"## {name}", "", part["description"], ""]
    if "enum" in part:
        lines.append(f"One of {', '.join(f'`{json.dumps(value)}`' for value in part['enum'])}.")
    elif "oneOf" in part:
        lines += ["| One of | | |", "| --- | --- | --- |"]
        for choice in part["oneOf"]:
            ((field, value),) = choice["properties"].items()
            lines.append(_row(f"`{field}`", value))
    else:
        lines += ["| Field | | |", "| --- | --- | --- |"]
        required = part.get("required", [])
        fields = part.get("properties", {})
        for field in sorted(fields, key=lambda field: field not in required):
            lines.append(_row(f"`{field}`" + (", required" if field in required else ""), fields[field]))
    return "\n".join([*lines, ""])


def _row(field: str, schema: Schema) -> str:
    said = _description(schema)
    default = schema.get("default")
    if default is not None and default != "":
        said += f" `{json.dumps(default)}` if left out." if said else f"`{json.dumps(default)}` if left out."
    return f"| {field} | {_type(schema)} | {said} |"


def _description(schema: Schema) -> str:
    inner = next((one["description"] for one in schema.get("oneOf", []) if "description" in one), "")
    return str(schema.get("description", inner))


def _type(schema: Schema) -> str:
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "oneOf" in schema:
        return " or ".join(_type(one) for one in sorted(schema["oneOf"], key=lambda one: one.get("type") == "null"))
    kind = schema["type"]
    if isinstance(kind, list):
        return " or ".join(KINDS[one] for one in kind)
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    if "additionalProperties" in schema:
        return f"by name: {_type(schema['additionalProperties'])}"
    if kind == "object":
        return ", ".join(f"`{field}`: {_type(inner)}" for field, inner in schema["properties"].items())
    return KINDS[kind]
