#!/usr/bin/env python3
"""The one checker: judges transcripts against the cases, and compares them between surfaces.

Usage: check.py TRANSCRIPT… prints what failed. What is not there, or there twice, or in another order, or of another
version of the case, is a failure like a wrong result.
"""

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import suite
from suite import Broken, Case, Nothing, Suite

TYPES: dict[str, Any] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict,
}
NOTHING_LEFT = {"supervisors": 0, "machines": 0, "directories": 0}
API = json.loads((suite.HERE.parent / "docs/openapi.json").read_text())
ERROR_CODES = API["components"]["schemas"]["ErrorCode"]["enum"]
# Operations that tell of everything in a home.
OF_ALL = ("list", "snapshots.list")
STATUS_OF_ERROR = {"Timeout": 124, "PolicyDenied": 126}


@dataclass
class Transcript:
    """What one driver emitted."""

    surface: str
    methods: list[str]
    packages: dict[str, str]
    cases: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass
class Verdicts:
    """By surface and case what is wrong with it, nothing if it passed; and what is wrong as a whole."""

    failures: dict[str, dict[str, list[str]]]
    problems: list[str]

    @property
    def passed(self) -> int:
        return sum(not found for cases in self.failures.values() for found in cases.values())

    @property
    def failed(self) -> int:
        return sum(bool(found) for cases in self.failures.values() for found in cases.values()) + len(self.problems)


def read(lines: list[str], known: Suite) -> Transcript:
    """A transcript from its lines."""
    records = [json.loads(line) for line in lines]
    if not records or records[0].get("type") != "header":
        raise Broken("a transcript does not begin with a header")
    header = records[0]
    if header["surface"] not in known.surfaces:
        raise Broken(f"there is no surface {header['surface']}: {', '.join(known.surfaces)}")
    transcript = Transcript(header["surface"], header["methods"], header["packages"])
    for entry in records[1:]:
        if not {"type", "case"} <= set(entry):
            raise Broken(f"a record of no case: {_short(entry)}")
        transcript.cases.setdefault(entry["case"], []).append(entry)
    return transcript


def judge(known: Suite, transcripts: list[Transcript], whole: bool = True) -> Verdicts:
    """All verdicts on all cases. Of a part nobody asks that it uses every method."""
    surfaces = [transcript.surface for transcript in transcripts]
    problems = list(known.problems)
    problems += [f"{name} has more than one transcript" for name in set(surfaces) if surfaces.count(name) > 1]
    failures = {}
    for transcript in transcripts:
        unknown = set(transcript.cases) - set(known.cases)
        problems += [f"{transcript.surface}: there is no case {id}" for id in sorted(unknown)]
        problems += _unused(known, transcript) if whole else []
        failures[transcript.surface] = {
            id: judge_case(case, transcript.cases.get(id, []), transcript.surface) for id, case in known.cases.items()
        }
    for other in transcripts[1:]:
        for id in known.cases:
            failures[other.surface][id] += compare(id, transcripts[0], other)
    return Verdicts(failures, problems)


def _unused(known: Suite, transcript: Transcript) -> list[str]:
    used = {name for entries in transcript.cases.values() for entry in entries for name in entry.get("methods", [])}
    outside = known.outside.get(transcript.surface, {})
    missing = [name for name in transcript.methods if name not in used and name.split()[0] not in outside]
    gone = set(outside) - {name.split()[0] for name in transcript.methods}
    return ([f"{transcript.surface}: no case uses {name}" for name in missing]
            + [f"rows.yaml: {transcript.surface} has no {name}" for name in sorted(gone)])


def judge_case(case: Case, entries: list[dict[str, Any]], surface: str) -> list[str]:
    """What is wrong with a case's records; nothing if it passed."""
    if not entries:
        return ["it is not in the transcript"]
    begin, steps, last = entries[0], entries[1:-1], entries[-1]
    if begin["type"] != "case" or last["type"] != "end" or begin.get("digest") != case.digest:
        return ["its records do not begin, or do not end, or are of another version of it"]
    if [(entry["type"], entry.get("step"), entry.get("op")) for entry in steps] != [
        ("step", number, step["op"]) for number, step in enumerate(case.steps)
    ]:
        return ["its steps are not those of the case, in their order"]
    variables = dict(begin["given"])
    found: list[str] = []
    for number, (step, entry) in enumerate(zip(case.steps, steps)):
        found += [f"step {number}, {step['op']}: {problem}" for problem in _judge_step(step, entry, variables, surface)]
    if last.get("left") != NOTHING_LEFT:
        found.append(f"it left something behind: {last.get('left')}")
    return found


def _judge_step(step: dict[str, Any], entry: dict[str, Any], variables: dict[str, Any], surface: str) -> list[str]:
    try:
        if entry.get("args") != suite.fill(step.get("args", {}), variables):
            return ["the driver did something else than the case says"]
        if "background" in step:
            return [] if entry.get("background") == step["background"] else ["it did not stay in the background"]
        kind = "expect" if "expect" in step else "error"
        value = entry.get("result" if kind == "expect" else "error", Nothing)
        if value is Nothing or ("result" in entry) == ("error" in entry):
            should = "succeed" if kind == "expect" else "fail"
            return [f"it should {should}: {_short(entry.get('error', entry.get('result', Nothing)))}"]
        found = _error(value) if kind == "error" else []
        found += [
            f"{path}: {problem}" for path, matcher in step[kind].items()
            if (problem := mismatch(matcher, suite.at(value, path), variables))
        ]
    except KeyError as error:
        return [f"an earlier step did not save {error}"]
    for variable, path in step.get("save", {}).items():
        if suite.at(value, path) is Nothing:
            found.append(f"{path} is not there to be saved")
        else:
            variables[variable] = suite.at(value, path)
    return found or (_status(entry) if surface == "cli" and "status" in entry else [])


def _error(error: Any) -> list[str]:
    """Every error has one of the stable codes and says what failed and why; a hint may be empty."""
    texts = [suite.at(error, key) for key in ("what", "why", "hint")]
    if suite.at(error, "code") in ERROR_CODES and all(isinstance(text, str) for text in texts) and all(texts[:2]):
        return []
    return [f"this is no error as errors are: {_short(error)}"]


def mismatch(matcher: Any, value: Any, variables: dict[str, Any]) -> str | None:
    """What a value lacks to match; None if it does."""
    conditions = matcher if isinstance(matcher, dict) else {"equals": matcher}
    for name, wanted in conditions.items():
        wanted = variables[wanted] if name in ("same_as", "differs_from") else suite.fill(wanted, variables)
        if not _holds(name, wanted, value):
            return f"{_short(value)} where the case says {name} {_short(wanted)}"
    return None


def _holds(name: str, wanted: Any, value: Any) -> bool:
    missing = value is Nothing or isinstance(value, list) and Nothing in value
    if name == "present":
        return not missing and value is not None
    if name == "absent":
        return missing or value is None
    if missing:
        return False
    if name in ("equals", "same_as"):
        return _equal(value, wanted)
    if name == "differs_from":
        return not _equal(value, wanted)
    if name == "matches":
        return isinstance(value, str) and re.search(wanted, value) is not None
    if name in ("contains", "lacks"):
        searchable = isinstance(value, list) or isinstance(value, str) and isinstance(wanted, str)
        return searchable and (wanted in value) == (name == "contains")
    if name == "one_of":
        return any(_equal(value, one) for one in wanted)
    if name == "type":
        return isinstance(value, TYPES[wanted]) and (wanted == "boolean" or not isinstance(value, bool))
    if name == "length":
        return isinstance(value, (str, list)) and len(value) == wanted
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and (value >= wanted if name == "ge" else value <= wanted)


def _equal(a: Any, b: Any) -> bool:
    """As in JSON: true is not 1."""
    return json.dumps(a, sort_keys=True, default=repr) == json.dumps(b, sort_keys=True, default=repr)


def _short(value: Any) -> str:
    return "nothing" if value is Nothing else json.dumps(value, ensure_ascii=False, default=repr)[:200]


def _status(entry: dict[str, Any]) -> list[str]:
    """The command line says how it went a second time, by its exit status."""
    if "error" in entry:
        wanted = STATUS_OF_ERROR.get(entry["error"]["code"], 125)
    else:
        result = entry["result"] or {}
        # What is told of a job is no verdict on it.
        if entry["op"] == "job.info":
            return [] if entry["status"] == 0 else [f"the exit status is {entry['status']} and not 0"]
        ended = result["result"] if isinstance(result.get("result"), dict) else result
        if "refusal" in ended:
            wanted = ended["refusal"]["exit_status"]
        elif ended.get("allowed") is False:
            wanted = STATUS_OF_ERROR["PolicyDenied"]
        else:
            wanted = _status_of(ended) if "exit_code" in ended else 0
    return [] if entry["status"] == wanted else [f"the exit status is {entry['status']} and not {wanted}"]


def _status_of(ended: dict[str, Any]) -> int:
    if ended.get("timed_out"):
        return 124
    if ended.get("not_started"):
        return 127 if ended["not_started"]["reason"] == "command_not_found" else 126
    return 128 + ended["signal"] if ended.get("signal") else ended["exit_code"]


def compare(id: str, one: Transcript, other: Transcript) -> list[str]:
    """What differs between two surfaces beyond what the case asks for: the outcome, the error, the fields and types."""
    found = []
    for mine, yours in zip(one.cases.get(id, []), other.cases.get(id, [])):
        if mine["type"] != "step":
            continue
        for part in ("result", "error"):
            shape = _fields if mine["op"] in OF_ALL else _shape
            a, b = shape(mine.get(part, Nothing)), shape(yours.get(part, Nothing))
            if a != b:
                found.append(f"step {mine['step']}, {mine['op']}: another {part} than on {one.surface}: {b}, {a}")
        if "error" in mine and "error" in yours:
            for key in ("code", "errno"):
                if mine["error"].get(key) != yours["error"].get(key):
                    found.append(f"step {mine['step']}, {mine['op']}: another {key} than on {one.surface}")
    return found


def _fields(value: Any) -> Any:
    """What lists tell of what others made differs, but not what they tell."""
    if not isinstance(value, dict):
        return _shape(value)
    return {key: sorted({name for item in items for name in item}) for key, items in value.items()}


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        # In no order: of what goes on side by side, either may come first.
        shapes = [_shape(item) for item in value]
        return sorted((shape for number, shape in enumerate(shapes) if shape not in shapes[:number]), key=repr)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return "nothing" if value is Nothing else type(value).__name__


def main() -> None:
    known = suite.load()
    try:
        transcripts = [read(Path(path).read_text().splitlines(), known) for path in sys.argv[1:]]
    except Broken as error:
        sys.exit(f"check: {error}")
    verdicts = judge(known, transcripts)
    show(verdicts)
    sys.exit(verdicts.failed > 0)


def show(verdicts: Verdicts) -> None:
    """Prints what failed."""
    for surface, cases in verdicts.failures.items():
        for id, found in cases.items():
            for problem in found:
                print(f"{surface}: {id}: {problem}")
    for problem in verdicts.problems:
        print(problem)


if __name__ == "__main__":
    main()
