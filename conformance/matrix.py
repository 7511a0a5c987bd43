"""The lifecycle matrix, docs/lifecycle.md: what each surface does of each row, as the verdicts say."""

import check
import suite

DOCUMENT = suite.HERE.parent / "docs/lifecycle.md"
NAMES = {"cli": "Command line", "python": "Python", "python-async": "Python, async", "typescript": "TypeScript"}
HEAD = """\
# What works, and where

<!-- Written by conformance/run.py --write from what the cases in conformance/cases did. -->

*Shipped*: every case of the row passed on that surface, in real machines. *Partial*: some did. *Target*: none did, or there
is none yet. What the cases show is listed below; how they are run and judged is in
[conformance/README.md](../conformance/README.md).
"""


def state(row: dict, surface: str, known: suite.Suite, verdicts: check.Verdicts) -> str:
    """What a cell says."""
    for cell in known.not_claimed:
        if (cell["row"], cell["surface"]) == (row["name"], surface):
            return f"Not claimed: {cell['reason']}"
    failures = verdicts.failures.get(surface, {})
    passed = [id for id in row["cases"] if failures.get(id) == []]
    if not passed:
        return "Target"
    return "Shipped" if len(passed) == len(row["cases"]) else "Partial"


def document(known: suite.Suite, verdicts: check.Verdicts) -> str:
    """The whole text."""
    lines = [HEAD, "| | " + " | ".join(NAMES[surface] for surface in known.surfaces) + " |"]
    lines.append("| --- |" + " --- |" * len(known.surfaces))
    for row in known.rows:
        cells = [state(row, surface, known, verdicts) for surface in known.surfaces]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    lines.append("\n## What the cases show")
    for row in known.rows:
        shown = [f"- {known.cases[id].shows} (`{id}`)" for id in row["cases"] if id in known.cases]
        lines += [f"\n**{row['name']}**\n", *(shown or ["- No case yet."])]
    return "\n".join(lines) + "\n"


def is_current(known: suite.Suite, verdicts: check.Verdicts) -> bool:
    """Whether the document says what the verdicts say."""
    return DOCUMENT.exists() and DOCUMENT.read_text() == document(known, verdicts)
