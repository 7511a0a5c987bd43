"""What drivers share that record: calls that are written down without a program, and the workload that mvmctl makes of a recording."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, Callable

Args = dict[str, Any]
# Has bytes in the recording; their name there.
Keep = Callable[[bytes], str]

# What says something of one launch, or of an answer, has no place in a recording. So has the owner of a sandbox, but not of a file.
LEFT_OUT = {"lease", "idempotency_key", "accept_risk", "allow_missing", "max_output", "sync"}
OWNED = ("create", "detach")


def bundle(said: Args, out: str) -> Args:
    """What `mvmctl compile --out OUT --json` said, and the document that it wrote there."""
    if "error" in said:
        return said
    document = (Path(out) / "workload.json").read_text()
    return {"digest": said["digest"], "contents": said["contents"], "workload": json.loads(document)}


def file_content(args: Args) -> bytes:
    """What a file is to have in it."""
    if "pattern" in args:
        return bytes((i * 2654435761 >> 13) & 255 for i in range(args["pattern"]))
    return args["text"].encode() if "text" in args else base64.b64decode(args["base64"])


def written_down(create: Args, calls: list[Args]) -> Args:
    """Calls in the form of `mvm.recording/v1`."""
    contents: dict[str, str] = {}

    def keep(content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        contents[digest] = base64.b64encode(content).decode()
        return digest

    made = _calls("create", create, keep)
    for call in calls:
        made += _calls(call["op"], call.get("args", {}), keep)
    return {"schema": "mvm.recording/v1", "calls": [{"call": one} for one in made], "contents": contents}


def _calls(op: str, args: Args, keep: Keep) -> list[Args]:
    """What a call is in a recording: one, or one for each of several files."""
    left_out = LEFT_OUT | {"owner"} if op in OWNED else LEFT_OUT
    given = {name: value for name, value in args.items() if name not in left_out}
    if op == "files.write_many":
        files = given.pop("files")
        return [one for path, text in files.items() for one in _calls("files.write", {**given, "path": path, "text": text}, keep)]
    if op == "files.write":
        given = {name: value for name, value in given.items() if name not in ("text", "base64", "pattern")}
        return [{op: {**given, "content": keep(file_content(args))}}]
    if op == "files.copy_in":
        return [{"files.upload": {"guest_path": given["path"], "entries": _tree(Path(given["host"]), keep)}}]
    if op == "files.move":
        return [{op: {"source": given["path"], "destination": given["to"]}}]
    if "stdin" in given:
        given["stdin"] = keep(given["stdin"].encode())
    if "disk_bytes" in given:
        given["disk_mib"] = given.pop("disk_bytes") >> 20
    return [{op: given}]


def _tree(root: Path, keep: Keep) -> list[Args]:
    """The files and directories there, sorted by their names. Cases make nothing else."""
    def what(path: Path) -> Args:
        mode = path.stat().st_mode & 0o777
        return {"directory": {"mode": mode}} if path.is_dir() else {"file": {"content": keep(path.read_bytes()), "mode": mode}}

    below = sorted((path.relative_to(root) for path in root.rglob("*")), key=lambda path: path.parts)
    return [{"path": "", "what": what(root)}, *({"path": str(path), "what": what(root / path)} for path in below)]
