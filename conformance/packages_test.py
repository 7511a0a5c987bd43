#!/usr/bin/env python3
"""The packages of the SDKs, installed as users install them: each brings mvmctl and types, and needs nothing else.

Packs them around target/debug/mvmctl. Needs pip, npm, and what `mvmctl setup --image base` prepares in MVM_HOME.
Usage: conformance/packages_test.py
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import unittest
from pathlib import Path

import observe

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "target/debug/mvmctl"
PACKAGES = ROOT / "target/packages/debug"
DEV = ROOT / "target/sdks/dev/bin"
TSC = ROOT / "sdk/typescript/node_modules/.bin/tsc"
LIMIT_SECONDS = 300
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]

# Each prints a sandbox's id, waits for the end of its input, and prints what a command in the sandbox said.
SCRIPTS = {
    "script.py": """
import sys, mvm
try:
    with mvm.Sandbox.create("base") as sandbox:
        print(sandbox.id, flush=True)
        sys.stdin.read()
        print(sandbox.commands.run(["echo", "hello"], check=True).stdout, end="")
except mvm.NotFound as error:
    print(type(error).__name__, error)
""",
    "script.js": """
import { text } from 'node:stream/consumers';
import { NotFound, Sandbox } from '@mvm/sdk';
try {
  const sandbox = await Sandbox.create('base');
  try {
    console.log(sandbox.id);
    await text(process.stdin);
    process.stdout.write((await sandbox.commands.run(['echo', 'hello'], { check: true })).stdout);
  } finally {
    await sandbox.destroy();
  }
} catch (error) {
  if (!(error instanceof NotFound)) throw error;
  console.log(error.name, error.message);
}
""",
}


def without_mvmctl() -> str:
    """The PATH, without the folders that have an mvmctl."""
    return os.pathsep.join(one for one in os.environ["PATH"].split(os.pathsep) if not (Path(one) / "mvmctl").exists())


def environment(path: str) -> dict[str, str]:
    """This one, with another PATH and nothing else that leads to an mvmctl or to an SDK."""
    left_out = ("PATH", "MVM_CLI_BIN", "PYTHONPATH", "NODE_PATH", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"PATH": path}


def called(*argv: str | Path, path: str | None = None, cwd: Path = ROOT, ok: bool = True) -> str:
    """What a program printed. It must succeed, or fail if not `ok`."""
    done = subprocess.run(argv, cwd=cwd, env=environment(path or os.environ["PATH"]), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_SECONDS)
    if (done.returncode == 0) != ok:
        raise AssertionError(f"{argv} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    assert len(found) == 1, f"{pattern} in {folder}: {found}"
    return found[0]


def new_venv(place: Path, wheel: Path) -> Path:
    """A virtual environment with this wheel and what it depends on. Its folder of programs."""
    called(sys.executable, "-m", "venv", "--without-pip", place)
    called(*PIP, "--python", place / "bin/python", "install", "--quiet", wheel)
    return place / "bin"


def new_project(place: Path, tarball: Path) -> Path:
    """An npm project with this tarball. The folder of the package in it."""
    place.mkdir()
    (place / "package.json").write_text(json.dumps({"private": True, "type": "module"}))
    called("npm", "install", "--silent", "--no-audit", "--no-fund", tarball, cwd=place)
    return place / "node_modules/@mvm/sdk"


class Packaged(unittest.TestCase):
    """What is packed and installed for all tests of a package, in a folder of its own."""

    target = ""

    @classmethod
    def setUpClass(cls) -> None:
        made = tempfile.TemporaryDirectory(dir=ROOT / "target", prefix="packages-test-")
        cls.addClassCleanup(made.cleanup)
        cls.place = Path(made.name)
        for name, text in SCRIPTS.items():
            (cls.place / name).write_text(text)
        called("make", "--silent", "--no-print-directory", cls.target, "sdk-tools", "PROFILE=debug")

    def assert_runs(self, argv: list[str | Path], path: str, program: Path) -> None:
        """Runs a script, and holds it to have used this mvmctl and to have left nothing."""
        process = subprocess.Popen(argv, cwd=Path(argv[-1]).parent, env=environment(path), stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        with process:
            try:
                sandbox = process.stdout.readline().strip()
                used = observe.programs(sandbox)
                said, _ = process.communicate("", timeout=LIMIT_SECONDS)
            finally:
                process.kill()
        self.assertEqual((process.returncode, said), (0, "hello\n"), sandbox)
        self.assertEqual(used, {program})
        left = observe.settled(lambda: observe.sandbox(sandbox), {"supervisors": 0})
        self.assertEqual(left, {"supervisors": 0, "machines": 0, "directory": False, "files": []})

    def assert_not_found(self, argv: list[str | Path]) -> None:
        said = called(*argv, path=without_mvmctl(), cwd=Path(argv[-1]).parent)
        self.assertRegex(said, r"^NotFound cannot find mvmctl: it is .*bin/mvmctl")
        self.assertIn("set MVM_CLI_BIN", said)


class Wheel(Packaged):
    target = "wheel"

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.wheel = only(PACKAGES, "mvm-*.whl")
        cls.bin = new_venv(cls.place / "venv", cls.wheel)

    def test_it_is_for_the_systems_that_mvmctl_runs_on(self) -> None:
        self.assertRegex(self.wheel.name, rf"^mvm-{VERSION}-py3-none-manylinux_2_\d+_x86_64\.whl$")

    def test_it_brings_mvmctl_and_prefers_it(self) -> None:
        for path in (without_mvmctl(), f"{BUILT.parent}:{without_mvmctl()}"):
            with self.subTest(path):
                self.assert_runs([self.bin / "python", self.place / "script.py"], path, self.bin / "mvmctl")

    def test_mvmctl_is_on_the_path_of_the_environment(self) -> None:
        self.assertEqual(called("mvmctl", "--version", path=f"{self.bin}:{without_mvmctl()}"), f"mvmctl {VERSION}\n")

    def test_its_types_are_found(self) -> None:
        right, wrong = self.place / "right.py", self.place / "wrong.py"
        right.write_text('import mvm\nlines: list[str] = mvm.run(["true"]).stdout.splitlines()\n')
        wrong.write_text("import mvm\nmvm.run(7)\nlines: list[str] = mvm.run('true').stdout\n")
        mypy = [DEV / "mypy", "--strict", "--cache-dir", self.place / "cache", "--python-executable", self.bin / "python"]
        called(*mypy, right, cwd=self.place)
        said = called(*mypy, wrong, cwd=self.place, ok=False)
        self.assertIn("[call-overload]", said, "an argument of the wrong type")
        self.assertIn("[assignment]", said, "a result of another type")

    def test_from_the_checkout_it_is_pure_and_uses_the_mvmctl_that_is_there(self) -> None:
        called(*PIP, "wheel", "--quiet", "--no-deps", "--wheel-dir", self.place, ROOT / "sdk/python")
        wheel = only(self.place, "mvm-*.whl")
        self.assertEqual(wheel.name, f"mvm-{VERSION}-py3-none-any.whl")
        run = [new_venv(self.place / "pure", wheel) / "python", self.place / "script.py"]
        self.assert_runs(run, f"{BUILT.parent}:{without_mvmctl()}", BUILT)
        self.assert_not_found(run)


class Tarball(Packaged):
    target = "npm-package"

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.tarball = only(PACKAGES, "mvm-sdk-*.tgz")
        cls.project = cls.place / "project"
        cls.package = new_project(cls.project, cls.tarball)
        shutil.copy(cls.place / "script.js", cls.project)

    def test_it_brings_mvmctl_and_prefers_it(self) -> None:
        for path in (without_mvmctl(), f"{BUILT.parent}:{without_mvmctl()}"):
            with self.subTest(path):
                self.assert_runs(["node", self.project / "script.js"], path, self.package / "bin/mvmctl")

    def test_npx_finds_its_mvmctl(self) -> None:
        said = called("npx", "--no-install", "mvmctl", "--version", path=without_mvmctl(), cwd=self.project)
        self.assertEqual(said, f"mvmctl {VERSION}\n")

    def test_its_types_are_found(self) -> None:
        right, wrong = self.project / "right.ts", self.project / "wrong.ts"
        right.write_text("import { run } from '@mvm/sdk';\nexport const out: string = (await run(['true'])).stdout;\n")
        wrong.write_text("import { run } from '@mvm/sdk';\nexport const out: number = (await run(7)).stdout;\n")
        tsc = [TSC, "--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--types", "node",
               "--typeRoots", TSC.parents[1] / "@types"]
        called(*tsc, right, cwd=self.project)
        said = called(*tsc, wrong, cwd=self.project, ok=False)
        self.assertIn("TS2345", said, "an argument of the wrong type")
        self.assertIn("TS2322", said, "a result of another type")

    def test_without_its_mvmctl_it_uses_the_one_that_is_there(self) -> None:
        bare = self.place / "bare"
        shutil.copytree(self.project, bare, symlinks=True)
        (bare / "node_modules/@mvm/sdk/bin/mvmctl").unlink()
        run: list[str | Path] = ["node", bare / "script.js"]
        self.assert_runs(run, f"{BUILT.parent}:{without_mvmctl()}", BUILT)
        self.assert_not_found(run)


class Versions(unittest.TestCase):
    def test_all_packages_have_the_version_of_mvmctl(self) -> None:
        python, typescript = ROOT / "sdk/python", ROOT / "sdk/typescript"
        said = {
            "pyproject.toml": tomllib.loads((python / "pyproject.toml").read_text())["project"]["version"],
            "package.json": json.loads((typescript / "package.json").read_text())["version"],
            "package-lock.json": json.loads((typescript / "package-lock.json").read_text())["version"],
        }
        self.assertEqual(said, dict.fromkeys(said, VERSION))


if __name__ == "__main__":
    unittest.main()
