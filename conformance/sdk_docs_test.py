#!/usr/bin/env python3
"""Runs the scripts that the pages about the SDKs show, checks their types, and holds their output against what is shown there.

Packs and installs the SDKs (scripts/install-sdks.sh) with mvmctl as the tests build it. Needs mvmctl on the PATH and what
`mvmctl setup` prepares. Usage: conformance/sdk_docs_test.py

Each ```python or ```ts block is a script; ```ts continued goes on with the one before it. A ```text block right after it is
what it prints, with `…` as in docs_test.py; where there is none it only has to succeed. The scripts of a page that are in one
language run one after the other in one directory, which is their HOME.
"""

import json
import os
import re
import subprocess
import tempfile
import time
import unittest
from dataclasses import dataclass, field
from pathlib import Path

import docs_test

ROOT = docs_test.ROOT
PAGES = [ROOT / name for name in ("README.md", "docs/sdk.md", "docs/recipes.md", "sdk/python/README.md",
                                  "sdk/typescript/README.md")]
ENDINGS = {"python": "py", "ts": "mts"}
PYTHON = docs_test.SDKS / "venv/bin/python"
MYPY = docs_test.SDKS / "dev/bin/mypy"
# What runs and checks TypeScript is no part of the SDK.
TOOLS = ROOT / "sdk/typescript/node_modules"
TSCONFIG = {"extends": str(ROOT / "sdk/typescript/tsconfig.json"),
            "compilerOptions": {"rootDir": ".", "moduleDetection": "force"}, "include": ["*.mts"]}
# The codes, each with the built-in class that its own class is of, if that is another one than Exception.
ERRORS = """
import json, mvm
kinds = {code: getattr(mvm, code) for code in mvm.ErrorCode}
print(json.dumps({code: [of.__name__ for of in kind.__bases__ if of is not mvm.MvmError] for code, kind in kinds.items()}))
"""
REMOVES = {"sandbox": ["kill"], "snapshot": ["snapshot", "rm"]}
LIMIT_SECONDS = 300
LEASE_SECONDS = 10
ANYTHING = "…\n"


@dataclass
class Script:
    """A script as a page shows it: where, its blocks, and after each what it prints."""

    line: int
    language: str
    code: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    def write(self, directory: Path, page: Path) -> Path:
        # Named so that those of all pages can be in one directory, and each can be imported.
        name = "_".join((*page.relative_to(ROOT).with_suffix("").parts, str(self.line)))
        path = directory / f"{name}.{ENDINGS[self.language]}"
        path.write_text("".join(self.code))
        return path


def blocks(page: str) -> list[tuple[int, str, str]]:
    """The lines where blocks begin, their info strings and their texts. What stands between them is a block with neither."""
    found: list[tuple[int, str, str]] = []
    inside = False
    for number, line in enumerate(page.splitlines(), 1):
        if line.startswith("```"):
            inside = not inside
            if inside:
                found.append((number, line[3:], ""))
        elif inside:
            at, info, text = found[-1]
            found[-1] = at, info, f"{text}{line}\n"
        elif line.strip():
            found.append((number, "", ""))
    return found


def scripts(page: str) -> list[Script]:
    found: list[Script] = []
    before: Script | None = None
    for line, info, text in blocks(page):
        language, _, rest = info.partition(" ")
        if language not in ENDINGS:
            if info == "text" and before:
                before.shown[-1] = text
            before = None
            continue
        if rest not in ("", "continued"):
            raise ValueError(f"line {line}: what is {rest}? A script is `continued` or stands alone")
        if not rest:
            found.append(Script(line, language))
        before = next(script for script in reversed(found) if script.language == language)
        before.code.append(text)
        before.shown.append(ANYTHING)
    return found


def run(argv: list[str | Path], directory: Path) -> tuple[int, str]:
    """What a program ends with, and what it writes, both streams together."""
    passed_on = {name: value for name, value in os.environ.items()
                 if not name.startswith("XDG_") and name not in ("MVM_CLI_BIN", "PYTHONPATH", "NODE_PATH")}
    env = passed_on | {"HOME": str(directory), "MVM_HOME": docs_test.mvm_home(), "TSX_DISABLE_CACHE": "1"}
    limited = ["timeout", "--kill-after=5", str(LIMIT_SECONDS), *argv]
    done = subprocess.run(limited, cwd=directory, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def kept() -> set[tuple[str, str]]:
    """The sandboxes and the snapshots that there are, each with its kind."""
    listed = subprocess.run(["mvmctl", "snapshot", "ls", "--json"], capture_output=True, text=True, check=True)
    snapshots = {snapshot["id"] for snapshot in json.loads(listed.stdout)["snapshots"]}
    return {("sandbox", id) for id in docs_test.sandboxes()} | {("snapshot", id) for id in snapshots}


def left_behind(before: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """What is there and was not before. What had a lease is waited for: it ends just after its script."""
    deadline = time.monotonic() + LEASE_SECONDS
    while (left := kept() - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def setUpModule() -> None:
    subprocess.run(["make", "--silent", "--no-print-directory", "sdk-tools"], cwd=ROOT, check=True)
    docs_test.install_sdks()


class Scripts(unittest.TestCase):
    def test_every_script_does_what_its_page_says(self) -> None:
        subprocess.run(["mvmctl", "setup"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        for page in PAGES:
            shown = scripts(page.read_text())
            for language in ENDINGS:
                self.run_those(page, [script for script in shown if script.language == language])

    def run_those(self, page: Path, shown: list[Script]) -> None:
        """Runs the scripts of a page that are in one language."""
        before = kept()
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            docs_test.install_npm(directory)
            for script in shown:
                with self.subTest(page=str(page.relative_to(ROOT)), line=script.line):
                    interpreter = PYTHON if script.language == "python" else TOOLS / ".bin/tsx"
                    status, output = run([interpreter, script.write(directory, page)], directory)
                    expected = "".join(script.shown)
                    self.assertEqual(status, 0, output)
                    difference = f"\nit shows:\n{expected}\nbut this was written:\n{output}"
                    self.assertTrue(docs_test.matches(expected, output), difference)
        left = left_behind(before)
        for kind, id in left:
            subprocess.run(["mvmctl", *REMOVES[kind], id], stdout=subprocess.DEVNULL, check=True)
        self.assertEqual(left, set(), f"{page} leaves this behind")

    def test_every_script_is_well_typed(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            docs_test.install_npm(directory)
            (directory / "tsconfig.json").write_text(json.dumps(TSCONFIG))
            written = [script.write(directory, page) for page in PAGES for script in scripts(page.read_text())]
            modules = [path for path in written if path.suffix == ".py"]
            mypy = [MYPY, "--strict", "--no-error-summary", "--cache-dir=/dev/null", "--python-executable", PYTHON, *modules]
            self.assertEqual(run([TOOLS / ".bin/tsc", "-p", "."], directory), (0, ""))
            self.assertEqual(run(mypy, directory), (0, ""))

    def test_every_error_is_listed_with_its_parent(self) -> None:
        status, said = run([PYTHON, "-c", ERRORS], ROOT)
        self.assertEqual(status, 0, said)
        rows = re.findall(r"^\| `(\w+)` \| (?:`(\w+)`|-) \|", (ROOT / "docs/sdk.md").read_text(), re.MULTILINE)
        self.assertEqual({code: [parent] * bool(parent) for code, parent in rows}, json.loads(said))

    def test_each_page_has_scripts_in_its_languages(self) -> None:
        found = {page.relative_to(ROOT): {script.language for script in scripts(page.read_text())} for page in PAGES}
        own = {Path("sdk/python/README.md"): {"python"}, Path("sdk/typescript/README.md"): {"ts"}}
        self.assertEqual(found, {page: set(ENDINGS) for page in found} | own)


class Reading(unittest.TestCase):
    def test_a_page_is_read_as_people_read_it(self) -> None:
        page = ("```python\none\n```\n\n```text\n1\n```\n```ts\ntwo\n```\nIt prints:\n```text\n2\n```\n"
                "```python continued\nthree\n\n```\n```text\n```\n```ts\nfour\n```\n```sh\nno\n```\n")
        self.assertEqual(scripts(page), [Script(1, "python", ["one\n", "three\n\n"], ["1\n", ""]),
                                         Script(8, "ts", ["two\n"], [ANYTHING]), Script(21, "ts", ["four\n"], [ANYTHING])])

    def test_what_a_script_is_must_be_clear(self) -> None:
        with self.assertRaises(ValueError):
            scripts("```python no-run\n```\n")


if __name__ == "__main__":
    unittest.main()
