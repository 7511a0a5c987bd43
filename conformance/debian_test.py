#!/usr/bin/env python3
"""Builds images with packages of Debian: what is taken is written down, and nothing else is taken again.

Needs mvmctl on the PATH, what `mvmctl setup` prepares, and the distribution's packages. Usage: conformance/debian_test.py
"""

import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path
from typing import Any

FUNCTION = """
import * as mvm from '@mvm/sdk';
import { greet } from './greet';
export const run = mvm.app({
  name: '%s',
  image: mvm.debian({ packages: ['nodejs'] }),
  source: mvm.localPath('.', { include: ['*.ts'] }),
  entrypoint: mvm.entrypointFunction({ module: 'main.ts', function: 'run' }),
})(async (): Promise<void> => {
  console.log(greet<string>('TypeScript'));
});
"""


class Packages(unittest.TestCase):
    def setUp(self) -> None:
        subprocess.run(["mvmctl", "setup", "--image", "debian"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.place, self.name = Path(place.name), f"debian-{os.getpid()}"
        self.addCleanup(subprocess.run, ["mvmctl", "image", "rm", self.name], capture_output=True)

    def mvmctl(self, *args: str, status: int = 0) -> str:
        done = subprocess.run(["mvmctl", *args], cwd=self.place, capture_output=True, text=True, timeout=600)
        self.assertEqual(done.returncode, status, f"{args}\n{done.stdout}{done.stderr}")
        return done.stdout if status == 0 else done.stderr

    def bundle(self, *packages: str) -> None:
        document = {"schema": "mvm.workload/v1", "name": self.name, "image": {"debian": {"packages": packages}}}
        (self.place / "workload.json").write_text(json.dumps(document))
        self.mvmctl("compile", "workload.json", "--out", "bundle")

    def build(self) -> Any:
        return json.loads(self.mvmctl("build", "bundle", "--json"))

    def test_packages_are_installed_locked_and_taken_again(self) -> None:
        self.bundle("tree")
        built = self.build()
        self.assertEqual([package["name"] for package in built["packages"]], ["tree"])
        self.assertIn("tree v", self.mvmctl("run", "--image", self.name, "--", "tree", "--version"))
        self.mvmctl("run", "--image", self.name, "--", "sh", "-c", "! test -e /usr/sbin/policy-rc.d && ! test -e /var/cache/mvm-packages")
        lock = self.place / "bundle/packages.lock.json"
        self.assertEqual(json.loads(lock.read_text())["packages"], built["packages"])
        again = self.build()
        self.assertEqual((again["cached"], again["digest"]), (True, built["digest"]))
        # It is a part of the bundle, in either form.
        self.mvmctl("compile", "bundle", "--out", "bundle.tar.zst")
        self.mvmctl("compile", "bundle.tar.zst", "--out", "other")
        self.assertEqual((self.place / "other/packages.lock.json").read_bytes(), lock.read_bytes())
        # What is to be had is not what was locked.
        lock.write_text(lock.read_text().replace(built["packages"][0]["sha256"], "ab" * 32))
        self.assertIn("is locked, and tree", self.mvmctl("build", "bundle", status=125))
        lock.write_text("{}")
        self.assertIn("packages.lock.json: ", self.mvmctl("build", "bundle", status=125))

    def test_a_function_of_typescript_runs_on_an_image_with_nodejs(self) -> None:
        (self.place / "main.ts").write_text(FUNCTION % self.name)
        (self.place / "greet.ts").write_text("export const greet = <T>(name: T): string => `hello ${name as string}`;\n")
        self.mvmctl("build", "main.ts")
        self.addCleanup(subprocess.run, ["mvmctl", "kill", self.name], capture_output=True)
        job = json.loads(self.mvmctl("up", self.name, "--json"))["job"]
        self.assertIn("hello TypeScript", self.mvmctl("attach", self.name, job["run_id"]))

    def test_a_package_that_there_is_not_leaves_no_image(self) -> None:
        self.bundle("no-such-package-at-all")
        self.assertIn("no-such-package-at-all", self.mvmctl("build", "bundle", status=125))
        self.assertNotIn(self.name, self.mvmctl("image", "ls"))
        self.assertEqual(sorted(path.name for path in (self.place / "bundle").iterdir()), ["workload.json"])


if __name__ == "__main__":
    unittest.main()
