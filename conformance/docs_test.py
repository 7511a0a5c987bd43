#!/usr/bin/env python3
"""Runs the commands that the README and the pages in docs/ show, and holds their output against what is shown there.

Needs mvmctl on the PATH and what `mvmctl setup` prepares; packs and installs the SDKs. Usage: conformance/docs_test.py

A ```console block has lines `$ command` (`> ` continues one), each followed by its output. In the output `…` stands for
any text within a line, and a line of only `…` for any lines. The commands of a page run in one shell, in an empty
directory that is their HOME.
"""

import json
import os
import re
import subprocess
import tempfile
import unittest
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SDKS = ROOT / "target/sdks"
MARK = "--- command"
LIMIT_SECONDS = 300


@dataclass
class Shown:
    """A command as a page shows it: where, and with what output."""

    line: int
    command: str
    output: str = ""


def commands(page: str) -> list[Shown]:
    found: list[Shown] = []
    inside = False
    for number, line in enumerate(page.splitlines(), 1):
        if line.startswith("```"):
            inside = line == "```console"
        elif inside and line.startswith("$ "):
            found.append(Shown(number, line[2:]))
        elif inside and line.startswith("> ") and not found[-1].output:
            found[-1].command += "\n" + line[2:]
        elif inside:
            found[-1].output += line + "\n"
    return found


def matches(shown: str, output: str) -> bool:
    def pattern(line: str) -> str:
        return "(?:.*\n)*" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + "\n"

    if output and not output.endswith("\n"):
        output += "\n"
    return re.fullmatch("".join(map(pattern, shown.splitlines())), output) is not None


def mvm_home() -> str:
    data = os.environ.get("XDG_DATA_HOME") or f"{os.environ['HOME']}/.local/share"
    return os.environ.get("MVM_HOME") or f"{data}/mvm"


def outputs(shown: list[Shown], directory: str) -> list[str]:
    """What the commands write, both streams together, run one after the other in one shell."""
    script = "".join(f"echo '{MARK}'\n{one.command}\n" for one in shown)
    shell = ["timeout", "--kill-after=5", str(LIMIT_SECONDS), "bash", "-c", script]
    # What a page writes into a home is not to be found in that of whoever runs this; mvm's files are.
    env = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    # A script that a page shows finds the SDK as in one's own virtual environment.
    env |= {"HOME": directory, "MVM_HOME": mvm_home(), "VIRTUAL_ENV": str(SDKS / "venv")}
    done = subprocess.run(shell, cwd=directory, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    # Output without a last newline stands before the mark on its line.
    parts = done.stdout.split(f"{MARK}\n")[1:]
    return parts + [f"(the shell ended with {done.returncode} before this)\n"] * (len(shown) - len(parts))


def install_sdks() -> None:
    """As they are, with mvmctl as the tests build it."""
    subprocess.run([ROOT / "scripts/install-sdks.sh", "debug"], stdout=subprocess.DEVNULL, check=True)


def install_npm(directory: Path) -> None:
    """Has scripts of TypeScript in a directory find the SDK, what runs them, and the types of Node."""
    modules = directory / "node_modules"
    modules.mkdir()
    (modules / "@mvm").symlink_to(SDKS / "npm/node_modules/@mvm")
    for tools in (".bin", "@types"):
        (modules / tools).symlink_to(ROOT / "sdk/typescript/node_modules" / tools)


def sandboxes() -> set[str]:
    listed = subprocess.run(["mvmctl", "ps", "--json"], capture_output=True, text=True, check=True)
    return {sandbox["id"] for sandbox in json.loads(listed.stdout)["sandboxes"]}


class Pages(unittest.TestCase):
    def test_every_command_does_what_its_page_says(self) -> None:
        subprocess.run(["mvmctl", "setup"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        install_sdks()
        for path in PAGES:
            before, shown = sandboxes(), commands(path.read_text())
            with tempfile.TemporaryDirectory() as directory:
                install_npm(Path(directory))
                written = outputs(shown, directory)
            for one, output in zip(shown, written, strict=True):
                with self.subTest(page=path.name, line=one.line, command=one.command):
                    difference = f"\nit shows:\n{one.output}\nbut this was written:\n{output}"
                    self.assertTrue(matches(one.output, output), difference)
            left = sandboxes() - before
            for id in left:
                subprocess.run(["mvmctl", "kill", id], stdout=subprocess.DEVNULL, check=True)
            self.assertEqual(left, set(), f"{path.name} leaves sandboxes behind")

    def test_the_pages_that_show_commands_are_found(self) -> None:
        shown = {path.name for path in PAGES if commands(path.read_text())}
        self.assertLessEqual({"README.md", "tutorial.md"}, shown)


class Promise:
    """A row of a table of promises: what it says, and the tests and files that hold it."""

    def __init__(self, row: str) -> None:
        self.says, held_by = (cell.strip() for cell in row.strip("|").split(" | "))
        # Tests, and the file in brackets behind them; other files stand by themselves.
        self.tests = [(name, file) for names, file in re.findall(r"([^()]*)\(([^()]*)\)", held_by)
                      for name in re.findall(r"`(\w+)`", names)]
        self.unplaced = re.findall(r"`(\w+)`", held_by[held_by.rfind(")") + 1:])
        self.files = [word.rstrip(",") for word in re.sub(r"\([^()]*\)", "", held_by).split() if "/" in word]

    def missing(self, tests: dict[str, set[str]]) -> list[str]:
        """What is named and is not there."""
        there = [name for name, file in self.tests if any(name in tests[path] for path in tests if is_path(file, path))]
        lacking = [name for name, _ in self.tests if name not in there] + self.unplaced
        lacking += [file for file in self.files if not (ROOT / file).exists()]
        return lacking or ([] if self.tests or self.files else ["anything that holds it"])


def is_path(named: str, path: str) -> bool:
    return path == named or ("/" not in named and path.endswith(f"/{named}"))


def tests_by_file() -> dict[str, set[str]]:
    """The test functions of the repository, by the file that they are in."""
    found = {}
    for path in [*ROOT.glob("crates/**/*.rs"), *ROOT.glob("conformance/*.py")]:
        marked = r"#\[(?:tokio::)?test[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:async )?fn (\w+)|def (test_\w+)"
        names = {rust or python for rust, python in re.findall(marked, path.read_text())}
        found[str(path.relative_to(ROOT))] = names
    return found


def promises(page: str) -> list[Promise]:
    lines = [line for line in page.split("## Promises", 1)[1].split("\n## ", 1)[0].splitlines() if line.startswith("|")]
    return [Promise(line) for line in lines if line not in ("| promise | held by |", "| --- | --- |")]


class Promises(unittest.TestCase):
    def test_every_test_that_holds_a_promise_exists(self) -> None:
        tests, found = tests_by_file(), promises((ROOT / "SECURITY.md").read_text())
        self.assertGreater(len(found), 40)
        for promise in found:
            with self.subTest(promise.says):
                self.assertEqual(promise.missing(tests), [])

    def test_what_does_not_exist_is_missing(self) -> None:
        tests = {"a/tests/x.rs": {"one"}, "a/src/x.rs": {"two"}, "b/y.rs": {"three"}}
        for held_by, missing in (("`one` (x.rs), `three` (b/y.rs)", []), ("`one` (a/tests/x.rs), more in conformance/run.py", []),
                                 ("`one`, `two` (x.rs)", []), ("`two` (a/tests/x.rs)", ["two"]), ("`four` (x.rs)", ["four"]),
                                 ("`one` (y.rs)", ["one"]), ("`one`", ["one"]), ("tests in no/such.rs", ["no/such.rs"]),
                                 ("good will", ["anything that holds it"])):
            with self.subTest(held_by):
                self.assertEqual(Promise(f"| It is so | {held_by} |").missing(tests), missing)


class Matching(unittest.TestCase):
    def test_what_is_shown_must_be_what_is_written(self) -> None:
        for shown, output in (("", ""), ("a\n", "a\n"), ("a\n", "a"), ("a…c\n", "abbc\n"), ("a…\n", "a\n"),
                              ("…\n", ""), ("…\n", "a\nb\n"), ("a\n…\nd\n", "a\nb\nc\nd\n")):
            self.assertTrue(matches(shown, output), (shown, output))
        for shown, output in (("", "a\n"), ("a\n", ""), ("a.c\n", "abc\n"), ("a…c\n", "a\nc\n"), ("a\n…\n", "b\n"),
                              ("a…\n", "a\nb\n")):
            self.assertFalse(matches(shown, output), (shown, output))

    def test_a_page_is_read_as_people_read_it(self) -> None:
        page = "```sh\n$ no\n```\n```console\n$ one \\\n> more\n1\n> 2\n$ two\n```\n$ no\n"
        self.assertEqual(commands(page), [Shown(5, "one \\\nmore", "1\n> 2\n"), Shown(9, "two")])


if __name__ == "__main__":
    unittest.main()
