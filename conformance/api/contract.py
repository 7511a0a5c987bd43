"""A client of a sandbox's API that believes nothing: it holds each request and each answer against docs/openapi.json.

An answer with a field, status, content type or line that the document does not know is a failure, as is one that lacks
what it promises. A request that the document forbids is only sent where the test says so, and must then be forbidden.
"""

import contextlib
import http.client
import json
import re
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
from jsonschema import Draft202012Validator

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"
JSON, LINES, BYTES = "application/json", "application/x-ndjson", "application/octet-stream"
ERROR = {"$ref": "#/components/schemas/ErrorBody"}


class Broken(AssertionError):
    """A request or an answer that the document does not allow."""


@dataclass
class Answer:
    """A checked answer: JSON as it is, lines as a list, bytes as bytes."""

    status: int
    value: Any

    @property
    def code(self) -> str | None:
        """The error's code, if it is one."""
        return self.value["error"]["code"] if self.status >= 400 else None


class Contract:
    """The document, and which of its operations were seen to succeed and to fail."""

    def __init__(self) -> None:
        self.document = json.loads(DOCUMENT.read_text())
        self.components = {"schemas": {name: self.closed(s) for name, s in self.schemas().items()}}
        self.succeeded: set[str] = set()
        self.failed: set[str] = set()

    def schemas(self) -> dict[str, dict]:
        return self.document["components"]["schemas"]

    def closed(self, schema: Any) -> Any:
        """The schema with every object closed against fields that it does not name."""
        if isinstance(schema, list):
            return [self.closed(part) for part in schema]
        if not isinstance(schema, dict):
            return schema
        if "allOf" in schema:
            named = self.schemas()
            parts = [named[part["$ref"].split("/")[-1]] if "$ref" in part else part for part in schema["allOf"]]
            schema = {
                "type": "object",
                "properties": {name: s for part in parts for name, s in part["properties"].items()},
                "required": [name for part in parts for name in part.get("required", [])],
            }
        schema = {key: self.closed(value) for key, value in schema.items()}
        # A field may be called "properties"; an object's schema says its type.
        if schema.get("type") == "object" and "properties" in schema:
            schema.setdefault("additionalProperties", False)
        return schema

    def operations(self) -> set[str]:
        return {operation["operationId"] for path in self.document["paths"].values() for operation in path.values()}

    def operation(self, method: str, path: str) -> dict | None:
        for template, methods in self.document["paths"].items():
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
                return methods.get(method.lower())
        return None

    def check(self, schema: dict, value: Any, what: str) -> None:
        errors = list(Draft202012Validator({**self.closed(schema), "components": self.components}).iter_errors(value))
        if errors:
            raise Broken(f"{what}: {errors[0].message} at {errors[0].json_path} of {str(value)[:500]}")

    def check_request(self, method: str, target: str, content_type: str | None, body: bytes | None) -> None:
        """Raises `Broken` if the document does not allow the request. A body of `None` is one that is not known yet."""
        path, _, query = target.partition("?")
        operation = self.operation(method, path)
        if operation is None:
            raise Broken(f"the document has no {method} {path}")
        known = {p["name"]: p for p in operation.get("parameters", []) if p["in"] == "query"}
        given = parse_qsl(query, keep_blank_values=True)
        names = [name for name, _ in given]
        if len(set(names)) < len(names) or not set(names) <= set(known):
            raise Broken(f"{method} {target}: the document has no such query")
        if not {name for name, p in known.items() if p.get("required")} <= set(names):
            raise Broken(f"{method} {target}: a parameter is missing")
        for name, text in given:
            self.check(known[name]["schema"], typed(text, known[name]["schema"]), f"{name} of {method} {path}")
        contents = operation.get("requestBody", {}).get("content", {})
        if content_type not in (contents or [None]):
            raise Broken(f"{method} {path}: the document has no body of {content_type}")
        if content_type == JSON:
            self.check(contents[JSON]["schema"], parsed(body or b""), f"the body of {method} {path}")

    def check_answer(self, method: str, target: str, status: int, content_type: str | None, body: bytes) -> Answer:
        """Raises `Broken` if this is no answer that the document allows."""
        what = f"{status} to {method} {target[:200]}"
        operation = self.operation(method, target.partition("?")[0])
        if operation is not None:
            (self.succeeded if status < 400 else self.failed).add(operation["operationId"])
        contents = self.contents(operation, status, what)
        if not contents:
            if body or content_type:
                raise Broken(f"{what}: the document has no body, and here is one of {content_type}: {body[:200]!r}")
            return Answer(status, None)
        if content_type not in contents:
            raise Broken(f"{what}: of {content_type}, not of one of {list(contents)}: {body[:200]!r}")
        schema = contents[content_type]["schema"]
        if content_type == BYTES:
            return Answer(status, body)
        if content_type == LINES:
            return Answer(status, [self.check_line(schema, line, what) for line in body.splitlines() if line])
        value = parsed(body)
        self.check(schema, value, what)
        return Answer(status, value)

    def contents(self, operation: dict | None, status: int, what: str) -> dict:
        if operation is not None and str(status) in operation["responses"]:
            return operation["responses"][str(status)].get("content", {})
        if status < 400:
            raise Broken(f"{what}: the document has no such answer")
        return operation["responses"]["default"]["content"] if operation else {JSON: {"schema": ERROR}}

    def check_line(self, schema: dict, line: bytes | str, what: str) -> dict:
        event = parsed(line)
        self.check(schema, event, f"a line of {what}")
        return event


def parsed(body: bytes | str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as e:
        raise Broken(f"no JSON: {body[:200]!r}") from e


def typed(text: str, schema: dict) -> Any:
    """A query's value as its schema means it; the text itself, which then does not fit, if it cannot be read so."""
    if schema.get("type") == "integer" and re.fullmatch(r"-?\d+", text):
        return int(text)
    return {"true": True, "false": False}.get(text, text) if schema.get("type") == "boolean" else text


class Api:
    """One client of one sandbox."""

    def __init__(self, contract: Contract, uds: str) -> None:
        self.contract, self.uds = contract, uds
        self.http = httpx.Client(transport=httpx.HTTPTransport(uds=uds), base_url="http://sandbox", timeout=60)

    def request(self, method: str, path: str, params: dict, body: Any, content: Any, legal: bool) -> httpx.Request:
        """A checked request: `body` is sent as JSON, `content` as bytes or as an iterable of them."""
        sent = {"json": body} if body is not None else {"content": content} if content is not None else {}
        headers = {"content-type": BYTES} if content is not None else {}
        timeout = httpx.Timeout(60, read=60)
        shown = {name: str(value).lower() if isinstance(value, bool) else value for name, value in params.items()}
        request = self.http.build_request(method, path, params=shown, headers=headers, timeout=timeout, **sent)
        known = request.content if body is not None or isinstance(content, bytes) else None
        self.expect(legal, method, request.url.raw_path.decode(), request.headers.get("content-type"), known)
        return request

    def expect(self, legal: bool, method: str, target: str, content_type: str | None, body: bytes | None) -> None:
        try:
            self.contract.check_request(method, target, content_type, body)
        except Broken:
            if legal:
                raise
        else:
            if not legal:
                raise Broken(f"the document allows {method} {target}, which was to be refused")

    def call(self, method: str, path: str, body: Any = None, /, *, content: bytes | Iterable[bytes] | None = None,
             legal: bool = True, **params: Any) -> Answer:
        request = self.request(method, path, params, body, content, legal)
        return self.checked(request, self.http.send(request))

    def checked(self, request: httpx.Request, response: httpx.Response) -> Answer:
        target = request.url.raw_path.decode()
        content_type = response.headers.get("content-type")
        return self.contract.check_answer(request.method, target, response.status_code, content_type, response.content)

    @contextlib.contextmanager
    def events(self, method: str, path: str, body: Any = None, /, **params: Any) -> Iterator[Iterator[dict]]:
        """The lines of a stream as they come, each of them checked. An error is raised as `Broken`."""
        request = self.request(method, path, params, body, None, True)
        response = self.http.send(request, stream=True)
        with contextlib.closing(response):
            content_type = response.headers.get("content-type")
            if response.status_code != 200 or content_type != LINES:
                response.read()
                raise Broken(f"no stream: {self.checked(request, response)}")
            self.contract.check_answer(method, path, 200, content_type, b"")
            operation = self.contract.operation(method, path)
            schema = operation["responses"]["200"]["content"][LINES]["schema"]
            yield (self.contract.check_line(schema, line, path) for line in response.iter_lines() if line)

    def raw(self, method: str, target: str, body: bytes = b"", *, content_type: str = JSON, legal: bool = False,
            missing: int = 0, pause: float = 0) -> Answer:
        """Sends what no HTTP library would: a body that comes after a pause, or one that breaks off, of which `missing`
        bytes are promised and never come."""
        if not missing:
            self.expect(legal, method, target, content_type, body)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(self.uds)
            head = f"{method} {target} HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n"
            head += f"Content-Type: {content_type}\r\nContent-Length: {len(body) + missing}\r\n\r\n"
            connection.sendall(head.encode() + (b"" if pause else body))
            if pause:
                time.sleep(pause)
                connection.sendall(body)
            if missing:
                connection.shutdown(socket.SHUT_WR)
            response = http.client.HTTPResponse(connection, method=method)
            response.begin()
            answer = response.read()
        kind = response.getheader("content-type")
        return self.contract.check_answer(method, target, response.status, kind, answer)
