"""That the checker can't be told lies: whatever is altered in what a driver recorded, or left out of it, is a failure.

Works on the transcripts that run.py has just made, and on altered copies of the rows and cases.
"""

import json
import shutil
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Iterator

import check
import matrix
import suite
import yaml

TRANSCRIPTS = suite.HERE.parent / "target/conformance"
KNOWN = suite.load()


def recorded() -> list[check.Transcript]:
    return [check.read(path.read_text().splitlines(), KNOWN) for path in sorted(TRANSCRIPTS.glob("*.jsonl"))]


def passing() -> Iterator[tuple[check.Transcript, suite.Case, list[dict[str, Any]]]]:
    for transcript in recorded():
        for id, case in KNOWN.cases.items():
            entries = transcript.cases.get(id, [])
            if not check.judge_case(case, entries, transcript.surface):
                yield transcript, case, entries


def changed(value: Any) -> Any:
    """Something else of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return [changed(value[0]), *value[1:]] if value else ["altered"]
    return {"altered": True} if value is None else {**value, "altered": True}


def violation(name: str, wanted: Any, value: Any, variables: dict[str, Any]) -> Any:
    """A value that this condition does not allow."""
    if name in ("equals", "same_as"):
        return changed(value)
    if name == "differs_from":
        return variables[wanted]
    if name == "contains":
        return ["altered" if item == wanted else item for item in value] if isinstance(value, list) else ""
    if name == "lacks":
        return [wanted, *value[1:]] if isinstance(value, list) else wanted
    if name == "length":
        return [*value, "altered"] if isinstance(value, list) else value + "x"
    return {"matches": "", "one_of": "altered", "present": None, "absent": "altered", "type": None}.get(
        name, wanted - 1 if name == "ge" else wanted + 1 if name == "le" else None)


def put(value: Any, parts: list[str], new: Any) -> Any:
    """A copy with something else at a path; for `*` an element of `new` for each element."""
    if not parts:
        return new
    head, rest = parts[0], parts[1:]
    if head == "*":
        old = [*value, *[{}] * (len(new) - len(value))]
        return [put(item, rest, one) for item, one in zip(old, new)]
    if isinstance(value, list):
        copy = list(value)
        copy[int(head)] = put(copy[int(head)], rest, new)
        return copy
    return {**(value or {}), head: put((value or {}).get(head), rest, new)}


def without(value: Any, parts: list[str]) -> Any:
    """A copy without what is at a path."""
    head, rest = parts[0], parts[1:]
    if not rest and isinstance(value, dict):
        return {key: item for key, item in value.items() if key != head}
    if head == "*":
        return [without(item, rest) for item in value] if value and rest else None
    if isinstance(value, list):
        index = int(head) % len(value)
        return [without(item, rest) if number == index else item for number, item in enumerate(value)] if rest else []
    return {**value, head: without(value[head], rest)}


def alterations(step: dict[str, Any], entry: dict[str, Any], variables: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The record with one asserted field altered, for each of them in each way."""
    part = "result" if "expect" in step else "error"
    for path, matcher in step.get("expect", step.get("error", {})).items():
        conditions = matcher if isinstance(matcher, dict) else {"equals": matcher}
        for name, wanted in conditions.items():
            wanted = suite.fill(wanted, variables)
            if path == ".":
                yield f"{path} {name}", {**entry, part: {"altered": wanted} if name == "lacks" else {"altered": 1}}
                continue
            value = suite.at(entry[part], path)
            parts = path.split(".")
            yield f"{path} {name}", {**entry, part: put(entry[part], parts, violation(name, wanted, value, variables))}
            if name != "absent" and value != []:
                yield f"{path} taken out", {**entry, part: without(entry[part], parts)}


def variables_of(case: suite.Case, entries: list[dict[str, Any]]) -> dict[str, Any]:
    variables = dict(entries[0]["given"])
    for step, entry in zip(case.steps, entries[1:-1]):
        variables |= {name: suite.at(entry.get("result"), path) for name, path in step.get("save", {}).items()}
    return variables


class TheCheckerNotices(unittest.TestCase):
    def fails(self, case: suite.Case, entries: list[dict[str, Any]], surface: str, what: str) -> None:
        self.assertTrue(check.judge_case(case, entries, surface), f"{surface}: {case.id}: {what} was not noticed")

    def test_every_altered_field(self) -> None:
        seen = 0
        for transcript, case, entries in passing():
            variables = variables_of(case, entries)
            for number, (step, entry) in enumerate(zip(case.steps, entries[1:-1])):
                for what, altered in alterations(step, entry, variables):
                    lie = [*entries[: number + 1], altered, *entries[number + 2:]]
                    self.fails(case, lie, transcript.surface, f"step {number}: {what}")
                    seen += 1
        self.assertGreater(seen, 100)

    def test_what_is_not_done_or_done_otherwise(self) -> None:
        for transcript, case, entries in passing():
            for number, entry in enumerate(entries):
                before, after = entries[:number], entries[number + 1:]
                self.fails(case, before + after, transcript.surface, f"missing record {number}")
                self.fails(case, [*before, entry, entry, *after], transcript.surface, f"record {number} twice")
                if entry["type"] != "step":
                    continue
                lies = [{**entry, "op": "other"}, {**entry, "args": {"other": 1}}, {**entry, "step": 1000}]
                if "background" in entry:
                    lies += [{**entry, "background": "other"}]
                else:
                    outcome = {key: entry[key] for key in ("result", "error") if key in entry}
                    bare = {key: item for key, item in entry.items() if key not in outcome}
                    lies += [bare, {**bare, "result": {}, "error": {}}]
                    lies += [{**bare, "error" if "result" in outcome else "result": item} for item in outcome.values()]
                for lie in lies:
                    self.fails(case, [*before, lie, *after], transcript.surface, f"another record {number}")

    def test_what_is_left_behind_and_another_version(self) -> None:
        for transcript, case, entries in passing():
            for key in check.NOTHING_LEFT:
                end = {**entries[-1], "left": {**check.NOTHING_LEFT, key: 1}}
                self.fails(case, [*entries[:-1], end], transcript.surface, f"{key} that were left")
            self.fails(replace(case, digest="sha256:0"), entries, transcript.surface, "another version of the case")
            self.fails(case, [], transcript.surface, "a case that did not run")

    def test_errors_that_say_too_little(self) -> None:
        for transcript, case, entries in passing():
            for number, entry in enumerate(entries):
                for change in ({"code": "Oops"}, {"code": None}, {"what": ""}, {"why": None}, {"hint": None}):
                    if "error" in entry:
                        lie = {**entry, "error": {**entry["error"], **change}}
                        self.fails(case, [*entries[:number], lie, *entries[number + 1:]], transcript.surface, str(change))

    def test_another_exit_status(self) -> None:
        for transcript, case, entries in passing():
            for number, entry in enumerate(entries):
                if transcript.surface == "cli" and "status" in entry:
                    lie = [*entries[:number], {**entry, "status": entry["status"] + 1}, *entries[number + 1:]]
                    self.fails(case, lie, transcript.surface, f"the exit status in record {number}")

    def test_surfaces(self) -> None:
        header = {"type": "header", "surface": "telepathy", "methods": [], "packages": {}}
        for lines in ([], ["{}"], [json.dumps(header)], [json.dumps({**header, "surface": "cli"}), "{}"]):
            with self.assertRaises(suite.Broken):
                check.read(lines, KNOWN)
        mine = recorded()[0]
        self.assertTrue(check.judge(KNOWN, [mine, mine]).problems)
        self.assertTrue(check.judge(KNOWN, [replace(mine, methods=[*mine.methods, "new-method"])]).problems)
        self.assertTrue(check.judge(KNOWN, [replace(mine, cases={**mine.cases, "no-such-case": []})]).problems)

    def test_surfaces_that_differ(self) -> None:
        mine = recorded()[0]
        self.assertEqual([], check.compare("create-names", mine, mine))
        for change in ({"errno": 5}, {"code": "Internal"}, {"more": 1}):
            entries = [
                {**entry, "error": {**entry["error"], **change}} if "error" in entry else entry
                for entry in mine.cases["create-names"]
            ]
            other = replace(mine, surface="python", cases={**mine.cases, "create-names": entries})
            self.assertTrue(check.judge(KNOWN, [mine, other]).failures["python"]["create-names"], change)


class TheSuiteIsInOrder(unittest.TestCase):
    def problems(self, alter: Callable[[Path], None]) -> list[str]:
        with tempfile.TemporaryDirectory() as place:
            here = Path(place) / "conformance"
            shutil.copytree(suite.HERE, here)
            alter(here)
            return suite.load(here).problems

    def rows_with(self, **changes: Any) -> list[str]:
        def alter(here: Path) -> None:
            path = here / "rows.yaml"
            path.write_text(yaml.safe_dump({**suite.parse(path.read_text()), **changes}))
        return self.problems(alter)

    def test_as_it_is(self) -> None:
        self.assertEqual([], self.problems(lambda here: None))

    def test_files(self) -> None:
        self.assertTrue(self.problems(lambda here: (here / "cases/create-named.yaml").unlink()))
        self.assertTrue(self.problems(lambda here: (here / "cases/create-named.yaml").write_text("a: [")))
        self.assertTrue(self.problems(lambda here: (here / "cases/run-more.yaml").write_text("id: run-more")))

        def in_another_row(here: Path) -> None:
            path = here / "cases/create-named.yaml"
            path.write_text(path.read_text().replace("row: Create", "row: Recreate"))
        self.assertTrue(self.problems(in_another_row))

    def test_cases_that_do_not_conform(self) -> None:
        case = suite.parse((suite.HERE / "cases/create-named.yaml").read_text())
        schema = suite.schema()

        def problems(**changes: Any) -> list[str]:
            return suite.problems_of({**case, **changes}, "create-named", schema)
        good = {"op": "list", "expect": {"sandboxes": []}}
        self.assertEqual([], problems(steps=[good]))
        bad: list[dict[str, Any]] = [
            {**good, "op": "no-such-operation"}, {"op": "list"}, {**good, "expect": {}}, {**good, "retries": 3},
            {**good, "error": {"code": "Timeout"}}, {**good, "args": {"nope": 1}},
            {"op": "list", "error": {"why": "x"}},
            {**good, "expect": {"sandboxes": {"nearly": 1}}},
            {**good, "expect": {"sandboxes": {"same_as": "nowhere"}}},
            {"op": "stop", "expect": {"state": "stopped"}}, {"op": "list", "background": "never-joined"},
            {"op": "join", "args": {"of": "nothing"}, "expect": {"x": 1}}, {**good, "skip": True},
            {"op": "inspect", "args": {"sandbox": "${nowhere}"}, "expect": {"state": "running"}},
        ]
        call = {"op": "files.write", "args": {"path": "/a", "text": "b"}}
        record = {"create": {"image": "base"}, "calls": [call, {"op": "close"}], "out": "out"}
        recorded: list[dict[str, Any]] = [
            {"create": {"argv": ["true"]}}, {"out": None}, {"calls": [{"op": "list"}]}, {"calls": [{"op": "files.write"}]},
            {"calls": [{**call, "args": {**call["args"], "nope": 1}}]}, {"calls": [{**call, "args": {**call["args"], "sandbox": "a"}}]},
        ]
        self.assertEqual([], problems(steps=[{**good, "op": "record", "args": record}]))
        for step in [*bad, *({**good, "op": "record", "args": {**record, **change}} for change in recorded)]:
            self.assertTrue(problems(steps=[step]), step)
        for change in ({"steps": []}, {"id": "other-id"}, {"skip": ["cli"]}, {"shows": None}):
            self.assertTrue(problems(**change), change)

    def test_cells_that_are_not_claimed(self) -> None:
        cell = {"row": "Logs", "surface": "cli", "reason": "because"}
        self.assertEqual([], self.rows_with(not_claimed=[cell]))
        self.assertTrue(self.rows_with(not_claimed=[{**cell, "reason": ""}]))
        self.assertTrue(self.rows_with(not_claimed=[{**cell, "surface": "telepathy"}]))

    def test_the_matrix_says_what_passed(self) -> None:
        row = {"name": "Logs", "cases": ["a", "b"]}
        some, none = {"a": [], "b": ["x"]}, {"b": ["x"]}
        for failures, says in (({"a": [], "b": []}, "Shipped"), (some, "Partial"), (none, "Target")):
            self.assertEqual(says, matrix.state(row, "cli", KNOWN, check.Verdicts({"cli": failures}, [])))
        self.assertEqual("Target", matrix.state({**row, "cases": []}, "cli", KNOWN, check.Verdicts({"cli": {}}, [])))
        self.assertFalse(matrix.is_current(KNOWN, check.Verdicts({}, [])))


if __name__ == "__main__":
    unittest.main()
