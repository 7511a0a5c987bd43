"""One command of mvmctl, and how what it prints becomes a result or an error."""

import base64
import hashlib
import json
import os
import subprocess
import threading
from typing import Any, Callable

# Longer than anything in the cases takes; a command that is not back by then hangs.
LIMIT_SECONDS = 60
# Content up to here is in the transcript as it is, beyond as its digest.
SHOWN_BYTES = 4096
# Verbs with verbs below them, each of which is a method.
GROUPS = ("fs", "image", "port", "receipt", "secret", "snapshot")



class Call:
    """One process of mvmctl, and how what it prints becomes a result or an error."""

    def __init__(
        self, argv: list[str], read: Callable[["Call"], Any], stdin: bytes | None = None, take: int | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.argv, self.read, self.stdin, self.take, self.env = argv, read, stdin, take, {**os.environ, **(env or {})}
        self.methods = [" ".join(argv[:2]) if argv[0] in GROUPS else argv[0]]
        self.stdout = self.stderr = b""

    def start(self, background: bool = False) -> None:
        self.process = subprocess.Popen(
            ["mvmctl", *self.argv],
            stdin=subprocess.DEVNULL if self.stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env,
        )

    def finish(self) -> dict[str, Any]:
        if self.take:
            return self._taken(self.take)
        try:
            self.stdout, self.stderr = self.process.communicate(self.stdin, timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.abandon()
            return {"error": no_code(f"nothing came within {LIMIT_SECONDS} s")}
        return {**self._outcome(), "status": self.process.returncode}

    def _outcome(self) -> dict[str, Any]:
        try:
            said = self.read(self)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return {"error": no_code(f"{error!r}: {self.stdout[:500]!r} {self.stderr[:500]!r}")}
        failed = isinstance(said, dict) and isinstance(said.get("error"), dict)
        return {"error": said["error"]} if failed else {"result": said}

    def _taken(self, lines: int) -> dict[str, Any]:
        """The first lines of what would go on."""
        guard = threading.Timer(LIMIT_SECONDS, self.process.kill)
        guard.start()
        self.stdout = b"".join(self.process.stdout.readline() for _ in range(lines))
        guard.cancel()
        self.abandon()
        return self._outcome()

    def abandon(self) -> dict[str, Any]:
        self.process.kill()
        self.process.communicate()
        return {"result": {"abandoned": True}}


def no_code(why: str) -> dict[str, Any]:
    """What mvmctl said as no object."""
    return {"code": None, "what": None, "why": why, "hint": None, "errno": None}


def text_of(content: bytes) -> tuple[str, str]:
    try:
        return content.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(content).decode(), "base64"


def shown(content: bytes) -> tuple[str | None, str | None]:
    return text_of(content) if len(content) <= SHOWN_BYTES else (None, None)


def as_object(call: Call) -> Any:
    return json.loads(call.stdout)


def as_lines(call: Call) -> list[dict[str, Any]]:
    """One object a line."""
    return [json.loads(line) for line in call.stdout.splitlines()]


def nothing(call: Call) -> Any:
    """Of these there is no result; the command line repeats what was asked."""
    said = as_object(call)
    return said if "error" in said else None


def of_one(call: Call) -> Any:
    """Secrets of one sandbox, whose name need not be said with each."""
    said = as_object(call)
    return said if "error" in said else {"secrets": [{key: one[key] for key in one if key != "sandbox"} for one in said["secrets"]]}


def deletion(call: Call) -> Any:
    said = as_object(call)
    return said if "error" in said else said["destroyed"][0]


def waited(call: Call) -> Any:
    """A job that was lost with its machine has no result but the reason."""
    said = as_object(call)
    if "error" in said or said["result"]["error"]:
        return {"error": said.get("error") or said["result"]["error"]}
    return {"run_id": said["run_id"], **said["result"]}


def output(call: Call) -> Any:
    events = as_lines(call)
    if "error" in events[0]:
        return events[0]
    pieces = [event for event in events if event["type"] == "output"]
    said: dict[str, Any] = {"first_offset": pieces[0]["offset"] if pieces else None}
    for name in ("stdout", "stderr"):
        content = b"".join(base64.b64decode(piece["data"]) for piece in pieces if piece["stream"] == name)
        said[name], said[f"{name}_encoding"] = shown(content)
    said["gaps"] = [{"offset": event["offset"], "bytes": event["bytes"]} for event in events if event["type"] == "gap"]
    said["result"] = events[-1]["result"]
    return said


def log(call: Call) -> Any:
    """The last event, which sums the others up, comes only where the log ends."""
    events = as_lines(call)
    if events and "error" in events[0]:
        return events[0]
    summary = events.pop() if events and events[-1]["type"] == "summary" else None
    return {"events": events, "summary": summary}


def content(call: Call) -> Any:
    """An error is beside the bytes if there are any already."""
    if call.process.returncode != 0:
        return json.loads(call.stderr or call.stdout)
    data, encoding = shown(call.stdout)
    digest = hashlib.sha256(call.stdout).hexdigest()
    return {"bytes": len(call.stdout), "sha256": digest, "data": data, "encoding": encoding}


def streamed(call: Call) -> Any:
    """`up --attach` passes the command's output on."""
    stdout, stderr = call.stdout.decode(), call.stderr.decode()
    return {"exit_code": call.process.returncode, "stdout": stdout, "stderr": stderr}
