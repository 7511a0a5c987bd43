"""The lifecycle matrix, docs/lifecycle-matrix.md and .json: what each surface does of each row, as the verdicts say."""

import json

import check
import suite

DOCUMENT = suite.HERE.parent / "docs/lifecycle-matrix.md"
DATA = DOCUMENT.with_suffix(".json")
NAMES = {"cli": "Command line", "python": "Python", "python-async": "Python, async", "typescript": "TypeScript"}
HEAD = """\
# What works, and where

<!-- Written by conformance/run.py --write from what the cases in conformance/cases did. -->

*Shipped*: every case of the row passed on that surface, in real machines. *Partial*: some did, or the row lacks something
that is named below. *Target*: none did, or there is none yet. What the cases show is listed below; how they are run and
judged is in [conformance/README.md](../conformance/README.md). The same for programs: [lifecycle-matrix.json](lifecycle-matrix.json).
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
    return "Shipped" if len(passed) == len(row["cases"]) and "lacks" not in row else "Partial"


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
        lacking = [f"- Not yet: {row['lacks']}"] if "lacks" in row else []
        lines += [f"\n**{row['name']}**\n", *(shown or ["- No case yet."]), *lacking]
    return "\n".join(lines) + "\n"


def data(known: suite.Suite, verdicts: check.Verdicts) -> str:
    """The same as JSON, with the digests of the cases that it is from."""
    rows = [
        {
            "row": row["name"],
            "surfaces": {surface: state(row, surface, known, verdicts) for surface in known.surfaces},
            "cases": {id: known.cases[id].digest for id in row["cases"] if id in known.cases},
            "lacks": row.get("lacks"),
        }
        for row in known.rows
    ]
    return json.dumps({"rows": rows}, indent=2) + "\n"


def write(known: suite.Suite, verdicts: check.Verdicts) -> None:
    """Writes both."""
    DOCUMENT.write_text(document(known, verdicts))
    DATA.write_text(data(known, verdicts))


def is_current(known: suite.Suite, verdicts: check.Verdicts) -> bool:
    """Whether both say what the verdicts say."""
    texts = {DOCUMENT: document(known, verdicts), DATA: data(known, verdicts)}
    return all(path.exists() and path.read_text() == text for path, text in texts.items())
