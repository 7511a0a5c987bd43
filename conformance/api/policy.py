"""What a profile does not allow: over the API, and in requests for sandboxes, whatever they hold."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .contract import BYTES, ERROR
from .sandboxed import CONTRACT, Sandboxed

CLOSED = 'extends = "restrictive"\n[files]\nin = false\nout = false\n[snapshots]\nsave = false\n[limits]\nttl = "10m"\n'


class Denied(Sandboxed):
    """A sandbox under a profile of the user's own, which is then gone."""

    request = {"name": f"closed-{os.getpid()}", "profile": "closed"}

    @classmethod
    def setUpClass(cls) -> None:
        with tempfile.TemporaryDirectory() as config:
            profiles = Path(config) / "mvm/profiles"
            profiles.mkdir(parents=True)
            (profiles / "closed.toml").write_text(CLOSED)
            os.environ["XDG_CONFIG_HOME"] = config
            cls.addClassCleanup(os.environ.pop, "XDG_CONFIG_HOME", None)
            super().setUpClass()

    def denied(self, rules: list[str], method: str, path: str, body: Any = None, /, **kwargs: Any) -> dict:
        answer = self.api.call(method, path, body, **kwargs)
        error = self.is_error("PolicyDenied", answer)
        self.assertEqual(answer.status, 403)
        self.assertEqual([denial["rule"] for denial in error["denials"]], rules)
        self.assertEqual(error["hint"], error["denials"][0]["remedy"])
        self.assertIn(error["denials"][0]["reason"], error["why"])
        for denial in error["denials"]:
            self.assertIn("closed", denial["reason"])
            self.assertNotEqual(denial["remedy"], "")
        return error

    def test_commands(self) -> None:
        body = {"argv": ["true"], "env": {"A": "1"}, "secrets": {"S": "s3cret-value"}, "user": "0", "timeout_ms": 600_001}
        rules = ["env.variables", "secrets.grants", "user.unprivileged", "limits.time"]
        self.assertNotIn("s3cret", json.dumps(self.denied(rules, "POST", "/v1/jobs", body)))
        self.denied(["env.variables"], "POST", "/v1/jobs", {"argv": ["true"], "env": {"A": ""}, "attached": True})
        for user in ("root", "0:0", "00", "1000:0", "65534:root"):
            self.denied(["user.unprivileged"], "POST", "/v1/jobs", {"argv": ["id"], "user": user})
        self.assertEqual([job for job in self.ok("GET", "/v1/jobs") if job["program"] in ("true", "id")], [])

    def test_ten_thousand_variables_are_one_denial(self) -> None:
        env = {f"VARIABLE_{n}": "" for n in range(5000)}
        error = self.denied(["env.variables"], "POST", "/v1/jobs", {"argv": ["true"], "env": env})
        self.assertIn("and 4992 more", error["why"])
        error = self.denied(["env.variables"], "POST", "/v1/jobs", {"argv": ["true"], "env": {"x" * 100_000: ""}})
        self.assertLess(len(json.dumps(error)), 20_000)
        error = self.denied(["env.variables"], "POST", "/v1/jobs", {"argv": ["true"], "env": {"\x1b[2J": ""}})
        self.assertNotIn("\\u001b", json.dumps(error))

    def test_files(self) -> None:
        for method, path, rule, query in (
            ("GET", "/v1/files", "files.out", {"path": "/etc/passwd"}),
            ("GET", "/v1/files/list", "files.out", {"path": "/"}),
            ("GET", "/v1/files/stat", "files.out", {"path": "/"}),
        ):
            self.denied([rule], method, path, **query)
        for path, rule, body in (
            ("/v1/files/mkdir", "files.in", {"path": "/tmp/d"}),
            ("/v1/files/rename", "files.in", {"from": "/tmp/a", "to": "/tmp/b"}),
            ("/v1/files/remove", "files.in", {"path": "/tmp/a"}),
            ("/v1/files/copy-in", "files.in", {"host_path": "/etc/hostname", "guest_path": "/tmp/f"}),
            ("/v1/files/copy-out", "files.out", {"host_path": f"/tmp/{os.getpid()}", "guest_path": "/etc/passwd"}),
        ):
            self.denied([rule], "POST", path, body)
        written = self.api.raw("PUT", "/v1/files?path=/tmp/f", b"x", content_type=BYTES, legal=True)
        self.assertEqual((written.status, written.code), (403, "PolicyDenied"))
        self.assertFalse(os.path.exists(f"/tmp/{os.getpid()}"))
        self.assertEqual(self.output("sh", "-c", "ls -A /tmp"), b"")

    def test_memory_ports_and_time(self) -> None:
        self.denied(["snapshots.save"], "POST", "/v1/snapshots", {})
        self.denied(["snapshots.save"], "POST", "/v1/sandbox/fork", {})
        self.denied(["snapshots.save"], "POST", "/v1/sandbox/pause")
        self.denied(["ports.forward"], "POST", "/v1/ports", {"host_port": 0, "guest_port": 80})
        self.denied(["limits.ttl"], "POST", "/v1/sandbox/keep", {"ttl_ms": 600_001})
        self.assertEqual(self.ok("GET", "/v1/ports"), [])
        self.assertEqual(self.ok("GET", "/v1/sandbox")["cleanup"]["ttl_ms"], 600_000)
        self.assertEqual(self.ok("GET", "/v1/sandbox")["state"], "running")

    def test_the_plan_is_shown(self) -> None:
        plan = self.ok("GET", "/v1/sandbox")["plan"]
        self.assertEqual((plan["profile"], plan["allowed"], plan["denials"]), ("closed", True, []))
        self.assertEqual(plan["enforced"]["user"], "65534:65534")
        self.assertEqual(self.output("id", "-u"), b"65534\n")


class Requests(Sandboxed):
    """Requests for sandboxes. Nothing is made of any: the plan is asked for, or it is refused."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.config = Path(directory.name)
        (self.config / "mvm/profiles").mkdir(parents=True)

    def asked(self, request: Any, *options: str) -> tuple[int, dict]:
        command = ["mvmctl", "up", "--request", "-", "--json", *options]
        text = request if isinstance(request, str) else json.dumps({"image": "base", **request})
        env = {**os.environ, "XDG_CONFIG_HOME": str(self.config)}
        done = subprocess.run(command, input=text, env=env, capture_output=True, text=True)
        self.assertLess(len(done.stdout), 30_000, "what is answered to a long request is short")
        return done.returncode, json.loads(done.stdout)

    def turned_down(self, code: str, request: Any) -> dict:
        """The error, which is the same in a dry run."""
        status, body = self.asked(request)
        CONTRACT.check(ERROR, body, "the error of a request")
        self.assertEqual((status, body["error"]["code"]), (126 if code == "PolicyDenied" else 125, code), body)
        dry_status, dry = self.asked(request, "--dry-run")
        self.assertEqual(dry_status, status)
        if code == "PolicyDenied":
            self.assertEqual(dry["denials"], body["error"]["denials"])
        else:
            self.assertEqual(dry, body)
        return body["error"]

    def test_profiles_that_are_none(self) -> None:
        outside = self.config / "mvm/outside.toml"
        outside.write_text('extends = "permissive"\nacknowledge = false\n')
        for name in ("../outside", "profiles/../../outside", str(outside), str(outside.with_suffix("")), ".", "..", "/", "a/b",
                     "dev/", "dev.toml", "DEV", " dev", "dev ", "-", "a\0b", "a\nb", "\u202eved", "x" * 64, "x" * 100_000,
                     "mvm-dev", "$HOME", "~", "%2e%2e"):
            with self.subTest(name=name[:30]):
                self.assertIn("profile", self.turned_down("InvalidRequest", {"profile": name})["what"])
        for name in ("outside", "none-of-this-name", "x" * 63):
            self.turned_down("NotFound", {"profile": name})

    def test_a_file_is_no_way_around_a_built_in_profile(self) -> None:
        (self.config / "mvm/profiles/restrictive.toml").write_text('extends = "permissive"\nacknowledge = false\n')
        error = self.turned_down("PolicyDenied", {"profile": "restrictive", "env": {"A": "1"}})
        self.assertEqual([denial["rule"] for denial in error["denials"]], ["env.variables"])

    def test_a_profile_that_others_can_write(self) -> None:
        path = self.config / "mvm/profiles/open.toml"
        path.write_text("")
        path.chmod(0o666)
        self.assertIn("others may write", self.turned_down("InvalidRequest", {"profile": "open"})["why"])

    def test_risk_is_accepted_by_saying_so(self) -> None:
        error = self.turned_down("PolicyDenied", {"profile": "permissive"})
        self.assertEqual([denial["rule"] for denial in error["denials"]], ["profile.acknowledged"])
        self.turned_down("PolicyDenied", {"profile": "permissive", "accept_risk": False})
        status, plan = self.asked({"profile": "permissive", "accept_risk": True}, "--dry-run")
        self.assertEqual((status, plan["allowed"]), (0, True))

    def test_layers_that_are_none(self) -> None:
        for field in ("require", "allow_missing"):
            for names in (["firewall"], [""], ["seccomp", "SECCOMP"], ["../seccomp"], ["seccomp\0"], ["x" * 100_000],
                          [f"layer-{n}" for n in range(10_000)]):
                with self.subTest(field=field, names=names[0][:30]):
                    self.assertIn("seccomp", self.turned_down("InvalidRequest", {field: names})["why"])

    def test_ten_thousand_times_the_same(self) -> None:
        many = {"require": ["seccomp"] * 10_000, "allow_missing": ["cgroup"] * 10_000}
        status, plan = self.asked(many, "--dry-run")
        self.assertEqual((status, plan["allowed"], plan["allowed_missing"]), (0, True, ["cgroup"]))
        error = self.turned_down("PolicyDenied", {"profile": "restrictive", "env": {f"V{n}": "" for n in range(10_000)}})
        self.assertEqual([denial["rule"] for denial in error["denials"]], ["env.variables"])
        self.turned_down("ResourceExhausted", {"ports": [{"host_port": 0, "guest_port": 80}] * 10_000})

    def test_a_layer_that_this_host_lacks(self) -> None:
        layers = self.ok("GET", "/v1/sandbox")["isolation"]["layers"]
        for layer in [layer["layer"] for layer in layers if not layer["applied"]]:
            error = self.turned_down("PolicyDenied", {"require": [layer]})
            self.assertEqual([denial["rule"] for denial in error["denials"]], ["isolation.layers"])
            self.assertIn(f"--allow-missing {layer}", error["hint"])
            status, plan = self.asked({"require": [layer], "allow_missing": [layer]}, "--dry-run")
            self.assertEqual((status, plan["allowed"], plan["allowed_missing"]), (0, True, [layer]))

    def test_fields_of_another_type(self) -> None:
        for request in ({"profile": None}, {"profile": 1}, {"profile": ["dev"]}, {"accept_risk": "yes"}, {"accept_risk": 1},
                        {"accept_risk": None}, {"require": "seccomp"}, {"require": [1]}, {"require": {"seccomp": True}},
                        {"require": None}, {"allow_missing": "cgroup"}, {"allow_missing": [None]}, {"dry_run": True},
                        {"policy": {}}, {"plan": {}}, {"audit_id": 1}):
            with self.subTest(request=request):
                self.turned_down("InvalidRequest", request)
        twice = '{"image": "base", "profile": "restrictive", "profile": "permissive", "accept_risk": true}'
        self.turned_down("InvalidRequest", twice)

    def test_nothing_was_made(self) -> None:
        before = self.sandboxes()
        self.turned_down("PolicyDenied", {"profile": "restrictive", "env": {"A": "1"}})
        self.asked({}, "--dry-run")
        self.assertEqual(self.sandboxes(), before)

    def sandboxes(self) -> list[str]:
        listed = subprocess.run(["mvmctl", "ps", "--all", "--json"], capture_output=True, check=True).stdout
        return [sandbox["id"] for sandbox in json.loads(listed)["sandboxes"]]
