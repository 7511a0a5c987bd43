"""The rows and cases as they lie in this directory, and the two small languages in them: variables and paths.

Used by drivers and by the checker. Only reads.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import jsonschema
import yaml

HERE = Path(__file__).resolve().parent
# What a driver gives to every case.
GIVEN = ("name", "host", "profiles")


class Broken(Exception):
    """The suite itself is not in order: rows, a case or a transcript that cannot be judged."""


@dataclass(frozen=True)
class Case:
    """A case, and the digest of the file it is from."""

    id: str
    row: str
    shows: str
    steps: list[dict[str, Any]]
    digest: str


@dataclass(frozen=True)
class Suite:
    """Everything that is asked of a surface."""

    rows: list[dict[str, Any]]
    surfaces: list[str]
    not_claimed: list[dict[str, str]]
    outside: dict[str, dict[str, str]]
    cases: dict[str, Case]
    problems: list[str]


def parse(text: str) -> Any:
    """YAML by the parser in C, which is several times as fast."""
    return yaml.load(text, Loader=yaml.CSafeLoader)


def schema(here: Path = HERE) -> jsonschema.Draft202012Validator:
    """What a case must conform to."""
    return jsonschema.Draft202012Validator(json.loads((here / "case.schema.json").read_text()))


def load(here: Path = HERE) -> Suite:
    """Reads rows and cases. What is wrong with them is listed, and makes every verdict a failure."""
    rows = parse((here / "rows.yaml").read_text())
    validator = schema(here)
    cases: dict[str, Case] = {}
    problems: list[str] = []
    for path in sorted((here / "cases").glob("*.yaml")):
        case, found = _read(path, validator)
        problems += [f"cases/{path.name}: {problem}" for problem in found]
        if not found:
            cases[case["id"]] = Case(**case, digest=sha256(path.read_bytes()))
    problems += _mismatches(rows, here, cases)
    return Suite(rows["rows"], rows["surfaces"], rows["not_claimed"], rows["outside_the_rows"], cases, problems)


def _read(path: Path, validator: jsonschema.Draft202012Validator) -> tuple[Any, list[str]]:
    try:
        case = parse(path.read_text())
    except yaml.YAMLError as error:
        return None, [f"is no YAML: {error}"]
    return case, problems_of(case, path.stem, validator)


def problems_of(case: Any, id: str, validator: jsonschema.Draft202012Validator) -> list[str]:
    """What is wrong with a case by itself."""
    errors = _errors(case, validator)
    if not errors and (recorded := list(_recorded(case))):
        errors = [f"of what is recorded, {error}" for error in _errors({**case, "steps": recorded}, validator)]
    if errors:
        return errors
    if case["id"] != id:
        return [f"its id is {case['id']}"]
    return _unknown_variables(case)


def _errors(case: Any, validator: jsonschema.Draft202012Validator) -> list[str]:
    errors = sorted(validator.iter_errors(case), key=lambda error: list(map(str, error.path)))
    return [f"at {'/'.join(map(str, error.path)) or 'its root'}: {error.message[:300]}" for error in errors]


def _recorded(case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Calls that are recorded, as the steps whose arguments they have."""
    for step in case["steps"]:
        for call in step["args"]["calls"] if step["op"] == "record" else ():
            yield {"op": call["op"], "args": {"sandbox": "recorded", **call.get("args", {})}, "expect": {".": {"present": True}}}


def _unknown_variables(case: dict[str, Any]) -> list[str]:
    known, open_steps, problems = set(GIVEN), set(), []
    for number, step in enumerate(case["steps"]):
        used = set(re.findall(r"\$\{(\w+)\}", json.dumps([step.get(key) for key in ("args", "expect", "error")])))
        used |= {m[key] for m in (step.get("expect") or step.get("error") or {}).values() if isinstance(m, dict)
                 for key in ("same_as", "differs_from") if key in m}
        problems += [f"step {number} uses the variable {name} before it is saved" for name in sorted(used - known)]
        known |= set(step.get("save", {}))
        if "background" in step:
            open_steps.add(step["background"])
        if step["op"] in ("join", "abandon"):
            if step["args"]["of"] not in open_steps:
                problems.append(f"step {number}: there is no background step {step['args']['of']}")
            open_steps.discard(step["args"]["of"])
    return problems + [f"the background step {name} is never joined nor abandoned" for name in sorted(open_steps)]


def _mismatches(rows: dict[str, Any], here: Path, cases: dict[str, Case]) -> list[str]:
    problems = []
    row_of = {case: row["name"] for row in rows["rows"] for case in row["cases"]}
    for id, row in row_of.items():
        if not (here / "cases" / f"{id}.yaml").exists():
            problems.append(f"rows.yaml: {row} requires the case {id}, and there is none")
        elif id in cases and cases[id].row != row:
            problems.append(f"cases/{id}.yaml: its row is {cases[id].row}, but {row} requires it")
    problems += [f"cases/{id}.yaml: no row requires it" for id in cases if id not in row_of]
    for cell in rows["not_claimed"]:
        if not cell.get("reason") or cell["surface"] not in rows["surfaces"]:
            problems.append(f"rows.yaml: not claimed without a reason, or on no surface: {cell}")
    return problems


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def fill(value: Any, variables: dict[str, Any]) -> Any:
    """The value with its variables filled in. A text that is one variable becomes what that is, of whatever type."""
    if isinstance(value, dict) and set(value) == {"repeat", "times"}:
        return value["repeat"] * value["times"]
    if isinstance(value, dict):
        return {key: fill(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    whole = re.fullmatch(r"\$\{(\w+)\}", value)
    if whole:
        return variables[whole[1]]
    return re.sub(r"\$\{(\w+)\}", lambda match: str(variables[match[1]]), value)


class Nothing:
    """What lies at a path that leads nowhere."""


def at(value: Any, path: str) -> Any:
    """What lies at a path; `Nothing` if nothing does."""
    if path == ".":
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return _at(value, path.split("."))


def _at(value: Any, parts: list[str]) -> Any:
    if not parts:
        return value
    head, rest = parts[0], parts[1:]
    if isinstance(value, list) and head == "*":
        return [_at(item, rest) for item in value]
    if isinstance(value, list) and re.fullmatch(r"-?\d+", head) and -len(value) <= int(head) < len(value):
        return _at(value[int(head)], rest)
    if isinstance(value, dict) and head in value:
        return _at(value[head], rest)
    return Nothing
