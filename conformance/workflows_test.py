#!/usr/bin/env python3
"""The workflows that mvm is for, each from its beginning to its end, as a user does them.

Packs and installs the SDKs. Needs mvmctl on the PATH and what `mvmctl setup` prepares. Usage: conformance/workflows_test.py
"""

import json
import os
import subprocess
import tempfile
import unittest
import urllib.request
from pathlib import Path
from typing import Any

import docs_test

LIVE = {
    "agent.py": "import mvm\nwith mvm.Sandbox.create('base', name='{name}') as box:\n"
                "    print(box.commands.run(['echo', 'from Python'], check=True).stdout, end='')\n",
    "agent.mts": "import {{ Sandbox }} from '@mvm/sdk';\nawait using box = await Sandbox.create('base', {{ name: '{name}' }});\n"
                 "process.stdout.write((await box.commands.run(['echo', 'from TypeScript'], {{ check: true }})).stdout);\n",
}
RECORDED = {
    "agent.py": "import mvm\nwith mvm.Sandbox.create('base', name='{name}') as box:\n"
                "    box.files.write('/tool', 'exit 0')\n    box.commands.run(['sh', '/tool'], check=True)\n",
    "agent.mts": "import {{ Sandbox }} from '@mvm/sdk';\nawait using box = await Sandbox.create('base', {{ name: '{name}' }});\n"
                 "await box.files.write('/tool', 'exit 0');\nawait box.commands.run(['sh', '/tool'], {{ check: true }});\n",
}
# It would never end, and leave a file, if it were imported.
DECLARED = """
import mvm
@mvm.app(name="{name}", image=mvm.image("base"), source=mvm.local_path("src"), ttl=600,
         network=mvm.network(ports=[mvm.port(guest=8000, host=0)]),
         entrypoint=mvm.entrypoint_command(["sh", "-c", "echo serving; exec httpd -f -p 8000 -h /app"]))
def serve(): ...
open("imported", "w")
while True: pass
"""


class Workflows(unittest.TestCase):
    """Each in a directory of its own, with a name that nothing else has."""

    @classmethod
    def setUpClass(cls) -> None:
        subprocess.run(["mvmctl", "setup", "--image", "base"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        docs_test.install_sdks()

    def setUp(self) -> None:
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.place = Path(place.name)
        self.name = f"workflow-{os.getpid()}-{self.id().rsplit('_', 1)[-1]}"
        docs_test.install_npm(self.place)
        self.addCleanup(self.forget)

    def forget(self) -> None:
        for verb in (["kill", self.name], ["kill", f"{self.name}-b"], ["snapshot", "rm", self.name], ["image", "rm", self.name]):
            subprocess.run(["mvmctl", *verb], capture_output=True)

    def mvmctl(self, *args: str, status: int = 0) -> str:
        env = {**os.environ, "VIRTUAL_ENV": str(docs_test.SDKS / "venv")}
        done = subprocess.run(["mvmctl", *args], cwd=self.place, env=env, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, status, f"{args}\n{done.stdout}{done.stderr}")
        return done.stdout

    def json(self, *args: str) -> Any:
        return json.loads(self.mvmctl(*args, "--json"))

    def write(self, name: str, text: str) -> None:
        path = self.place / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def states(self) -> list[str]:
        return [box["state"] for box in self.json("ps")["sandboxes"] if box["name"] == self.name]

    def test_generated_code_runs_under_the_restrictive_profile_and_leaves_a_receipt(self) -> None:
        said = self.mvmctl("run", "--image", "base", "--profile", "restrictive", "--receipt", "receipt.json", "--",
                           "sh", "-c", "id -u; ls /sys/class/net")
        user, *interfaces = said.split()
        self.assertNotEqual(user, "0")
        self.assertEqual(interfaces, ["lo"])
        self.write("key.pub", self.mvmctl("key", "export"))
        verified = self.json("receipt", "verify", "receipt.json", "--key", "key.pub")
        self.assertEqual(verified["statement"]["policy"]["profile"], "restrictive")

    def test_a_script_is_recorded_and_what_it_would_do_is_a_workload(self) -> None:
        for script, text in RECORDED.items():
            self.write(script, text.format(name=self.name))
            self.mvmctl("run", "--mode", "record", "--out", f"{script}.json", script)
        bundles = [self.mvmctl("compile", "--from-recording", f"{script}.json") for script in RECORDED]
        self.assertEqual(bundles[0], bundles[1])
        self.assertEqual(json.loads(bundles[0])["name"], self.name)
        self.assertEqual(self.states(), [])

    def test_a_script_runs_live_in_either_language(self) -> None:
        for script, text in LIVE.items():
            self.write(script, text.format(name=self.name))
            said = self.mvmctl("run", "--mode", "live", f"./{script}")
            self.assertEqual(said, "from Python\n" if script.endswith("py") else "from TypeScript\n")
            self.assertEqual(self.states(), [])

    def test_a_declaration_is_compiled_without_importing_its_module(self) -> None:
        self.write("web.py", DECLARED.format(name=self.name))
        self.write("src/page", "a page")
        self.mvmctl("compile", "web.py", "--out", "web.bundle")
        self.assertTrue(self.json("plan", "web.bundle")["allowed"])
        self.assertFalse((self.place / "imported").exists())

    def test_a_service_is_built_brought_up_read_and_taken_down(self) -> None:
        self.write("web.py", DECLARED.format(name=self.name))
        self.write("src/page", "a page")
        self.mvmctl("compile", "web.py", "--out", "web.bundle")
        self.mvmctl("build", "web.bundle")
        port = self.json("up", self.name)["ports"][0]["host_port"]
        self.assertEqual(self.page(port), b"a page")
        self.assertIn("serving", self.mvmctl("logs", self.name))
        self.mvmctl("down", self.name)
        self.assertEqual(self.states(), ["stopped"])
        self.mvmctl("start", self.name)
        self.assertEqual(self.page(self.json("port", "ls", self.name)["ports"][0]["host_port"]), b"a page")
        self.mvmctl("down", "--destroy", self.name)

    def page(self, port: int) -> bytes:
        # A port leads into the sandbox before anything listens there.
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/page", timeout=10) as answer:
                    return answer.read()
            except OSError:
                subprocess.run(["mvmctl", "exec", self.name, "--", "usleep", "50000"], check=True)
        raise AssertionError("nothing serves")

    def test_a_sandbox_comes_back_from_cold_and_from_a_snapshot(self) -> None:
        self.mvmctl("up", "--image", "base", "--name", self.name)
        self.mvmctl("exec", self.name, "--", "sh", "-c", "echo kept > /dev/shm/memory; echo kept > /root/disk")
        self.mvmctl("pause", self.name)
        self.assertEqual(self.states(), ["cold"])
        self.mvmctl("resume", self.name)
        self.mvmctl("snapshot", "save", self.name, "--name", self.name)
        self.mvmctl("destroy", self.name)
        self.mvmctl("restore", self.name, "--name", f"{self.name}-b")
        said = self.mvmctl("exec", f"{self.name}-b", "--", "cat", "/dev/shm/memory", "/root/disk")
        self.assertEqual(said, "kept\nkept\n")


if __name__ == "__main__":
    unittest.main()
