"""The audit log and receipts as they lie in their files, read without the tool. docs/evidence.md describes them.

Standard library only. Nothing is verified here: that is what evidence_test.py does.
"""

import base64
import json
from pathlib import Path
from typing import Any

BUNDLE = 256
# The journal's first line: a word, a space, and the index of its first entry in 16 hexadecimal digits.
HEADER = len("mvm-journal-v1 ")
# What stands between an entry's length and the entry: in the journal two checks, in a bundle nothing.
CHECKS = 14


def pieces(content: bytes, checks: int = 0) -> list[bytes]:
    """Entries that stand behind each other, each behind its length. One that was not written to its end is none."""
    found, at = [], 0
    while at + 2 + checks < len(content):
        begin = at + 2 + checks
        at = begin + int.from_bytes(content[at:at + 2])
        if begin < at <= len(content):
            found.append(content[begin:at])
    return found


def bundle(number: int) -> str:
    """Where a full bundle is, beneath the log's directory."""
    groups = [f"{number % 1000:03}"]
    while number := number // 1000:
        groups.insert(0, f"x{number % 1000:03}")
    return "/".join(["tile/entries", *groups])


def entries(log: Path) -> list[bytes]:
    """All entries of a log. The journal first: what leaves it meanwhile is found in a bundle."""
    journal = (log / "journal").read_bytes()
    first = int(journal[HEADER:HEADER + 16], 16)
    found = [entry for number in range(first // BUNDLE) for entry in pieces((log / bundle(number)).read_bytes())]
    return found + pieces(journal[HEADER + 17:], CHECKS)


def entry(log: Path, index: int) -> dict[str, Any] | None:
    """The entry with this index, its audit id; None if there is none."""
    found = entries(log)
    return json.loads(found[index]) if 0 <= index < len(found) else None


def receipt(path: Path) -> dict[str, Any]:
    """What a receipt says, as text and read: `payload`, `statement`, `keyid`; and the `entry` of the proof beside it."""
    envelope = json.loads(path.read_bytes())
    payload = base64.b64decode(envelope["payload"]).decode()
    proof = Path(f"{path}.tlog-proof")
    extra = proof.read_text().splitlines()[1] if proof.exists() else ""
    return {
        "payload": payload, "statement": json.loads(payload), "keyid": envelope["signatures"][0]["keyid"],
        "entry": json.loads(base64.b64decode(extra.removeprefix("extra "))) if extra else None,
    }


def forged(content: bytes, old: str, new: str) -> bytes:
    """A receipt that says something else, with the signature that it had."""
    envelope = json.loads(content)
    payload = base64.b64decode(envelope["payload"]).decode().replace(old, new)
    envelope["payload"] = base64.b64encode(payload.encode()).decode()
    return json.dumps(envelope, separators=(",", ":")).encode() + b"\n"
