#!/usr/bin/env python3
"""Profiles and plans against their JSON Schemas in docs/schemas, with a validator that is not ours.

Needs mvmctl on the PATH and what `mvmctl setup --image base` prepares. Usage: conformance/policy_test.py
"""

import copy
import json
import subprocess
import tempfile
import tomllib
import unittest
from collections.abc import Iterator
from pathlib import Path

import jsonschema

SCHEMAS = Path(__file__).parent.parent / "docs/schemas"

ACCEPTED = [
    "",
    'extends = "restrictive"\ndescription = "for tests"\n',
    'extends = "permissive"\nacknowledge = false\n',
    '[env]\nallow = "any"\n[secrets]\nallow = []\n',
    '[env]\nallow = ["LANG", "TZ"]\n',
    '[user]\nroot = false\ndefault = "1000:1000"\n',
    'extends = "restrictive"\n[root]\nscratch = "128MiB"\n[limits]\nmemory = "2g"\n',
    '[ports]\nallow = "loopback"\n[files]\nin = true\nout = false\n[snapshots]\nsave = false\n',
    '[host]\ndirectories = "read-only"\n',
    '[limits]\ncpus = 4\nmemory = "1G"\ndisk = 8589934592\nprocesses = 64\noutput = "64kb"\ntime = "1.5m"\nttl = 60\n',
    '[limits]\ncpus = "none"\nmemory = "none"\ntime = "none"\noutput = "100B"\n',
    '[limits]\ntime = "500ms"\nttl = ".5d"\n',
    '[isolation]\nrequire = ["seccomp", "no-network"]\n',
    "[isolation]\nrequire = []\n",
]
# By their form: the schema refuses them, too.
REFUSED = [
    "colour = 1\n",
    '[env]\nalow = "any"\n',
    "[env]\nallow = 3\n",
    '[env]\nallow = "all"\n',
    "[env]\nallow = [1]\n",
    "env = 1\n",
    'acknowledge = "yes"\n',
    "extends = 1\n",
    "description = []\n",
    "[user]\nroot = 1\n",
    "[user]\ndefault = 0\n",
    '[user]\nname = "x"\n',
    '[root]\nscratch = "none"\n',
    '[root]\nscratch = true\n',
    '[ports]\nallow = "some"\n',
    "[files]\nin = 1\n",
    "[files]\ninto = true\n",
    "[snapshots]\nsave = 0\n",
    '[host]\ndirectories = "some"\n',
    '[limits]\nmemory = "lots"\n',
    "[limits]\nmemory = -1\n",
    "[limits]\nmemory = true\n",
    '[limits]\nmemory = "1.5G"\n',
    '[limits]\ndisk = "1KiBiB"\n',
    "[limits]\ncpus = 0\n",
    '[limits]\ncpus = "2"\n',
    "[limits]\nprocesses = 1.5\n",
    "[limits]\ntime = 0\n",
    '[limits]\ntime = "."\n',
    '[limits]\ntime = "1.2.3s"\n',
    '[limits]\ntime = "5 m"\n',
    '[limits]\nttl = ["1h"]\n',
    "[limits]\nswap = 1\n",
    '[isolation]\nrequire = ["walls"]\n',
    '[isolation]\nrequire = ["seccomp", "seccomp"]\n',
    '[isolation]\nrequire = "seccomp"\n',
]
# By what they say: no schema could tell.
CONTRADICTORY = [
    "[root]\nwritable = false\n",
    "[user]\nroot = false\n",
    '[limits]\nmemory = "64M"\n',
    'extends = "nothing-such"\n',
    '[limits]\ntime = "0s"\n',
]
PLANS = [
    ["run", "--"],
    ["run", "--profile", "restrictive", "--"],
    ["run", "--profile", "restrictive", "--memory", "4G", "--env", "A=1", "--user", "root", "--"],
    ["run", "--profile", "permissive", "--"],
    ["run", "--allow-missing", "landlock", "--timeout", "5", "--max-output", "1K", "--"],
    ["up", "--port", "8080:80", "--port", "0.0.0.0:80:80", "--ttl", "1h", "--"],
    ["up", "--profile", "restrictive", "--lease", "--"],
]


def schema(name: str) -> jsonschema.Draft202012Validator:
    text = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(text)
    return jsonschema.Draft202012Validator(text)


def plan(request: list[str]) -> dict[str, object]:
    """What would be decided about a request."""
    verb, *options = request
    command = ["mvmctl", verb, "--image", "base", "--dry-run", "--json", *options, "true"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


def places(value: object) -> Iterator[tuple[list[str | int], object]]:
    """Every value in a document, with the way to it."""
    yield [], value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    for key, below in inner:
        for way, found in places(below):
            yield [key, *way], found


def replaced(document: dict[str, object], way: list[str | int], value: object) -> dict[str, object]:
    changed = copy.deepcopy(document)
    at = changed
    for key in way[:-1]:
        at = at[key]
    at[way[-1]] = value
    return changed


class Profiles(unittest.TestCase):
    def check(self, text: str) -> tuple[bool, bool]:
        """Whether the schema and whether mvmctl accepts a profile."""
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "mine.toml"
            file.write_text(text)
            done = subprocess.run(["mvmctl", "policy", "check", "--json", file], capture_output=True, text=True, check=False)
        return schema("profile").is_valid(tomllib.loads(text)), json.loads(done.stdout)["sound"]

    def test_what_is_accepted_and_refused_is_so_by_the_schema_too(self) -> None:
        for expected, texts in (((True, True), ACCEPTED), ((False, False), REFUSED), ((True, False), CONTRADICTORY)):
            for text in texts:
                with self.subTest(text):
                    self.assertEqual(self.check(text), expected, "by the schema, by mvmctl")


class Plans(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.plans = [plan(request) for request in PLANS]

    def test_plans_validate(self) -> None:
        self.assertEqual({made["allowed"] for made in self.plans}, {True, False})
        for request, made in zip(PLANS, self.plans, strict=True):
            with self.subTest(request):
                schema("plan").validate(made)

    def test_what_is_no_plan_does_not(self) -> None:
        validator = schema("plan")
        for request, made in zip(PLANS, self.plans, strict=True):
            for way, found in places(made):
                with self.subTest(request, way=way):
                    if isinstance(found, dict):
                        self.assertFalse(validator.is_valid(replaced(made, [*way, "note"], "")), "a key more")
                    if way:
                        self.assertFalse(validator.is_valid(replaced(made, way, [[]])), "another type")
        for key in self.plans[0]:
            without = {name: value for name, value in self.plans[0].items() if name != key}
            self.assertFalse(validator.is_valid(without), f"without {key}")
        self.assertFalse(validator.is_valid(replaced(self.plans[0], ["schema"], "mvm.plan/v2")))


if __name__ == "__main__":
    unittest.main()
