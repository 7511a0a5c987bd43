"""Receipts over the API, and audit ids in its answers."""

import base64
import json
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import auditlog

from .contract import Api
from .sandboxed import CONTRACT, Sandboxed, up


def log_of(sandbox: dict) -> Path:
    """The audit log of the home that a sandbox is in."""
    return Path(sandbox["socket"]).parents[2] / "audit"


def said(receipt: dict) -> dict:
    """What a receipt states."""
    return json.loads(base64.b64decode(json.loads(receipt["envelope"])["payload"]))["predicate"]


class Receipts(Sandboxed):
    request = {"name": f"receipts-{os.getpid()}"}

    def verified(self, receipt: dict) -> dict:
        """What a verifier says to it that knows nothing but the public key."""
        pem = subprocess.run(["mvmctl", "key", "export"], capture_output=True, text=True, check=True).stdout
        with tempfile.TemporaryDirectory() as directory:
            for name, text in (("r", receipt["envelope"]), ("r.tlog-proof", receipt["proof"]), ("key", pem)):
                Path(directory, name).write_text(text)
            command = ["mvmctl", "receipt", "verify", "r", "--key", "key", "--json"]
            elsewhere = {**os.environ, "MVM_HOME": f"{directory}/home"}
            done = subprocess.run(command, cwd=directory, env=elsewhere, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done)
        return json.loads(done.stdout)

    def test_what_it_says_is_what_the_result_said(self) -> None:
        job = self.start("sh", "-c", "echo s3cret-out; echo s3cret-err >&2; exit 3", env={"A": "s3cret-env"})
        result = self.result(job)
        receipt = self.ok("GET", f"/v1/jobs/{job}/receipt")
        stated = self.verified(receipt)["statement"]
        self.assertEqual(stated, {**stated, **said(receipt)})
        self.assertEqual((stated["run"]["run_id"], stated["run"]["sandbox_id"]), (job, self.sandbox["id"]))
        self.assertEqual(stated["run"]["audit_id"], result["audit_id"])
        self.assertEqual(stated["guest_reported"]["exit_code"], 3)
        observed = stated["host_observed"]
        self.assertEqual((observed["stdout_bytes"], observed["stderr_bytes"]), (11, 11))
        self.assertNotIn("s3cret", json.dumps([said(receipt), receipt]))
        self.assertEqual(self.ok("GET", f"/v1/jobs/{job}/receipt"), receipt, "it is signed once")

    def test_of_an_attached_command(self) -> None:
        with self.api.events("POST", "/v1/jobs", {"argv": ["echo", "x"], "attached": True}) as events:
            began, *_, ended = list(events)
        receipt = self.ok("GET", f"/v1/jobs/{began['run_id']}/receipt")
        self.assertEqual(said(receipt)["run"]["audit_id"], began["audit_id"])
        self.assertEqual(ended["result"]["audit_id"], began["audit_id"])

    def test_many_who_ask_at_once_get_one_receipt(self) -> None:
        job = self.start("true")
        self.result(job)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda api: api.call("GET", f"/v1/jobs/{job}/receipt"),
                                    [self.another() for _ in range(8)]))
        self.assertEqual({answer.code for answer in answers}, {None})
        self.assertEqual(len({answer.value["envelope"] for answer in answers}), 1)
        for answer in answers:
            self.verified(answer.value)

    def test_what_has_none(self) -> None:
        job = self.start("sleep", "60")
        self.assertIn("runs", self.refused("InvalidState", "GET", f"/v1/jobs/{job}/receipt")["why"])
        self.ok("POST", f"/v1/jobs/{job}/signal", {"signal": 9})
        self.result(job)
        self.assertEqual(said(self.ok("GET", f"/v1/jobs/{job}/receipt"))["guest_reported"]["signal"], 9)
        for id in ("run-0000000000000000", job.upper(), f"{job}0", "...", "%2e%2e", "%00", "a%2Fb", "x" * 5000):
            self.refused("NotFound", "GET", f"/v1/jobs/{id}/receipt")
        self.assertIn(self.api.call("GET", "/v1/jobs/%ff%fe/receipt").code, ("InvalidRequest", "NotFound"))
        for method in ("POST", "PUT", "DELETE"):
            self.is_error("InvalidRequest", self.api.raw(method, f"/v1/jobs/{job}/receipt"))


class AuditIds(Sandboxed):
    """What is answered with an audit id is in the log under it."""

    request = {"name": f"audited-{os.getpid()}", "ports": [{"host_port": 0, "guest_port": 7000}]}

    def is_logged(self, answer: dict, event: str, sandbox: str | None = None, run: str | None = None) -> None:
        entry = auditlog.entry(log_of(self.sandbox), answer["audit_id"])
        expected = (event, sandbox or self.sandbox["id"], run)
        self.assertEqual((entry["event"], entry.get("sandbox"), entry.get("run")), expected)

    def test_sandboxes_and_commands(self) -> None:
        self.is_logged(self.sandbox, "up.authorised")
        self.assertEqual(self.ok("GET", "/v1/sandbox")["audit_id"], self.sandbox["audit_id"])
        job = self.ok("POST", "/v1/jobs", {"argv": ["true"]})
        self.is_logged(job, "exec.authorised", run=job["run_id"])
        self.assertEqual(self.result(job["run_id"])["audit_id"], job["audit_id"])
        listed = [at for at in self.ok("GET", "/v1/jobs") if at["run_id"] == job["run_id"]]
        self.assertEqual([at["audit_id"] for at in [*listed, listed[0]["result"]]], [job["audit_id"]] * 2)
        self.assertEqual(self.ok("GET", f"/v1/jobs/{job['run_id']}")["audit_id"], job["audit_id"])

    def test_ports(self) -> None:
        self.is_logged(self.ok("POST", "/v1/ports", {"host_port": 0, "guest_port": 7001}), "port.authorised")

    def test_what_is_saved_and_what_comes_of_it(self) -> None:
        name = f"{self.sandbox['name']}-s"
        saved = self.ok("POST", "/v1/snapshots", {"name": name})
        self.addCleanup(subprocess.run, ["mvmctl", "snapshot", "rm", name], stdout=subprocess.DEVNULL, check=True)
        self.is_logged(saved, "snapshot.authorised")
        for child in self.ok("POST", "/v1/sandbox/fork", {"count": 2, "ttl_ms": 60_000})["sandboxes"]:
            self.is_logged(child, "up.authorised", child["id"])
            api = Api(CONTRACT, child["socket"])
            self.addCleanup(api.http.close)
            gone = api.call("POST", "/v1/sandbox/destroy")
            self.assertIsNone(gone.code)
            self.is_logged(gone.value, "sandbox.destroyed", child["id"])

    def test_nothing_of_a_request_is_in_the_log(self) -> None:
        marker = "s3cret-of-the-log"
        other = up(env={"A": marker}, owner="tests")
        self.addCleanup(subprocess.run, ["mvmctl", "kill", other["id"]], stdout=subprocess.DEVNULL, check=True)
        api = Api(CONTRACT, other["socket"])
        self.addCleanup(api.http.close)
        output = self.output("sh", "-c", f"echo {marker}", marker, env={"B": marker}, api=api)
        self.assertEqual(output, f"{marker}\n".encode())
        api.call("PUT", "/v1/files", content=marker.encode(), path=f"/root/{marker}")
        api.call("POST", "/v1/snapshots", {"name": "No"})
        for entry in auditlog.entries(log_of(other))[other["audit_id"]:]:
            self.assertNotIn(marker.encode(), entry)
