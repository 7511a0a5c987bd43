"""What docs/openapi.json says of types, as a small model that both SDKs are written from.

Only what is answered is modelled: requests are built where they are made, and the server refuses what it does not know.
"""

from dataclasses import dataclass, field
from typing import Any

# The SDKs' own classes have these names.
RENAMED = {"Sandbox": "SandboxInfo", "Job": "JobInfo"}
# Variants that the document does not name.
VARIANTS = {
    ("Cleanup", "ttl"): "TtlCleanup", ("Cleanup", "lease"): "LeaseCleanup", ("Cleanup", "explicit"): "ExplicitCleanup",
    ("JobEvent", "started"): "Started", ("JobEvent", "output"): "Output", ("JobEvent", "gap"): "OutputGap",
    ("JobEvent", "ended"): "Ended",
}
# Requests, and what only the SDKs' insides see.
LEFT_OUT = {"ErrorBody", "LeaseEvent", "PortName", "Receipt", "TerminalSize", "SecretValue"}
# What `mvmctl inspect` says beyond the API, which ends with the sandbox.
ADDED = {"Inspection": {"deletion": {"description": "What was deleted; null while it lives.", "oneOf": [
    {"type": "null"}, {"$ref": "#/components/schemas/DeletionReport"}]}}}
# What the guest wrote, which is shown to nobody unasked.
SENSITIVE = {("LogLine", "text"), ("Output", "data")}


@dataclass(frozen=True)
class Type:
    """`kind` is text, bytes, integer, number, boolean, json, list, record, enum, union, time or span."""

    kind: str
    name: str = ""
    item: "Type | None" = None
    optional: bool = False


@dataclass(frozen=True)
class Field:
    """A field as JSON has it; `time` is in milliseconds since 1970, `span` in milliseconds."""

    name: str
    type: Type
    doc: str
    required: bool
    sensitive: bool


@dataclass(frozen=True)
class Record:
    """An object. `parent` has more fields of it, and `tag` is a field that tells it from the other variants of a union."""

    name: str
    doc: str
    fields: list[Field]
    parent: str = ""
    tag: tuple[str, str] | None = None


@dataclass(frozen=True)
class Enum:
    """One of some texts."""

    name: str
    doc: str
    values: list[str]


@dataclass(frozen=True)
class Union:
    """One of some records, told apart by the field `tag`."""

    name: str
    doc: str
    tag: str
    variants: list[str]


@dataclass
class Model:
    """All types, each after those that it needs."""

    records: dict[str, Record] = field(default_factory=dict)
    enums: dict[str, Enum] = field(default_factory=dict)
    unions: dict[str, Union] = field(default_factory=dict)


def read(document: dict[str, Any]) -> Model:
    """The model of a document."""
    return _Reader(document["components"]["schemas"]).read()


class _Reader:
    def __init__(self, schemas: dict[str, Any]) -> None:
        self.schemas, self.model = schemas, Model()
        self.tags = self._tags()

    def read(self) -> Model:
        for name in sorted(self.schemas):
            if name not in LEFT_OUT and not name.endswith("Request"):
                self._define(name)
        return self.model

    def _tags(self) -> dict[str, tuple[str, str]]:
        """The tags of variants that have a name of their own."""
        found = {}
        for schema in self.schemas.values():
            for variant in schema.get("oneOf", []):
                if "allOf" in variant:
                    reference, tagged = variant["allOf"]
                    ((tag, value),) = tagged["properties"].items()
                    found[_name_of(reference)] = (tag, value["enum"][0])
        return found

    def _define(self, name: str) -> None:
        schema, public = self.schemas[name], RENAMED.get(name, name)
        if public in self.model.records or public in self.model.enums or public in self.model.unions:
            return
        doc = _plain(schema.get("description", ""))
        if "enum" in schema:
            self.model.enums[public] = Enum(public, doc, schema["enum"])
        elif "oneOf" in schema:
            self._union(public, doc, schema["oneOf"])
        elif "allOf" in schema:
            parent, own = schema["allOf"]
            self._define(_name_of(parent))
            fields = self._fields(public, own)
            self.model.records[public] = Record(public, doc, fields, parent=RENAMED.get(_name_of(parent), _name_of(parent)))
        else:
            fields = self._fields(public, schema)
            self.model.records[public] = Record(public, doc, fields, tag=self.tags.get(name))

    def _union(self, name: str, doc: str, variants: list[dict[str, Any]]) -> None:
        names, tag = [], ""
        for variant in variants:
            if "allOf" in variant:
                named = _name_of(variant["allOf"][0])
                self._define(named)
                tag = self.tags[named][0]
            else:
                tag, value = next((key, of["enum"][0]) for key, of in variant["properties"].items() if len(of.get("enum", ())) == 1)
                named = VARIANTS[name, value]
                fields = [one for one in self._fields(named, variant) if one.name != tag]
                self.model.records[named] = Record(named, _plain(variant["description"]), fields, tag=(tag, value))
            names.append(RENAMED.get(named, named))
        self.model.unions[name] = Union(name, doc, tag, names)

    def _fields(self, record: str, schema: dict[str, Any]) -> list[Field]:
        required = set(schema.get("required", []))
        properties = {**schema.get("properties", {}), **ADDED.get(record, {})}
        return [
            Field(name, self._type(record, name, of), _plain(_description(of)), name in required, (record, name) in SENSITIVE)
            for name, of in properties.items()
        ]

    def _type(self, record: str, name: str, schema: dict[str, Any]) -> Type:
        if "oneOf" in schema:
            (inner,) = (one for one in schema["oneOf"] if one.get("type") != "null")
            return _optional(self._type(record, name, inner))
        if "$ref" in schema:
            return self._reference(_name_of(schema))
        kind = schema.get("type")
        if isinstance(kind, list):
            (inner_kind,) = (one for one in kind if one != "null")
            return _optional(self._type(record, name, {**schema, "type": inner_kind}))
        if kind == "array":
            return Type("list", item=self._type(record, name, schema["items"]))
        if (record, name) == ("Output", "data"):
            return Type("bytes")
        if kind in ("integer", "number") and name.endswith("_ms"):
            return Type("time" if name in ("since_ms", "at_ms", "mtime_ms") or name.endswith("_at_ms") else "span")
        return Type({"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}.get(str(kind), "json"))

    def _reference(self, name: str) -> Type:
        self._define(name)
        public = RENAMED.get(name, name)
        kinds = ((self.model.enums, "enum"), (self.model.unions, "union"), (self.model.records, "record"))
        return Type(next(kind for known, kind in kinds if public in known), name=public)


def _optional(of: Type) -> Type:
    return Type(of.kind, of.name, of.item, optional=True)


def _name_of(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).rsplit("/", 1)[-1]


def _description(schema: dict[str, Any]) -> str:
    inner = next((one.get("description", "") for one in schema.get("oneOf", []) if one.get("type") != "null"), "")
    return schema.get("description") or inner


def _plain(doc: str) -> str:
    return " ".join(doc.split())
