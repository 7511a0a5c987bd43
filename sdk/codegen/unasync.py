"""The synchronous half of the Python SDK, from the asynchronous one: the same text without async and await.

Both halves only pass on what the I/O-free core says; what does I/O, `transport.py`, is written by hand for each.
"""

import re
from pathlib import Path

# Written by hand on both sides.
BY_HAND = {"__init__.py", "transport.py"}
NOTE = "# Written by `make sdk-types` from mvm/_async; changes here are lost.\n"
WORDS = [
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit|iter)__\b", r"__\1__"),
    (r"\bAsync([A-Z]\w*)", r"\1"),
    (r"\basync_(\w+)", r"\1"),
    (r"\baclose\b", "close"),
    (r"\b_async\b", "_sync"),
]


def render(source: Path, target: Path) -> dict[Path, str]:
    """The files to write, with their texts."""
    paths = sorted(path for path in source.glob("*.py") if path.name not in BY_HAND)
    return {target / path.name: NOTE + without_async(path.read_text()) for path in paths}


def without_async(text: str) -> str:
    """The text of a module as its synchronous twin has it."""
    for pattern, replacement in WORDS:
        text = re.sub(pattern, replacement, text)
    return text
