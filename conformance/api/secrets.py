"""Secrets over the API: who gets them, and that no answer has them."""

import base64
import json
import tempfile
from pathlib import Path

from .sandboxed import Sandboxed, text_of

OF_ALL, OF_ONE = "of-every-c0mmand", "of-one-c0mmand"


class Secrets(Sandboxed):
    @classmethod
    def setUpClass(cls) -> None:
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        file = Path(directory.name) / "secret"
        file.touch(mode=0o600)
        file.write_text(OF_ALL)
        cls.reference = f"file:{file}"
        cls.request = {"secrets": {"ALL": cls.reference}}
        super().setUpClass()

    def test_they_reach_the_command_and_no_answer(self) -> None:
        job = self.start("sh", "-c", "echo ${#ALL} ${#ONE} $ALL $ONE; echo $ONE | base64 >&2; sleep 60", secrets={"ONE": OF_ONE})
        self.until(lambda: text_of(self.ok("GET", f"/v1/jobs/{job}/output"), "stderr") != b"")
        events = self.ok("GET", f"/v1/jobs/{job}/output")
        self.assertEqual(text_of(events), b"16 14 [redacted:ALL] [redacted:ONE]\n")
        self.assertIn(b"[redacted:ONE]", text_of(events, "stderr"))
        answers = [self.ok("GET", path) for path in ("/v1/sandbox", "/v1/jobs", f"/v1/jobs/{job}", "/v1/secrets", "/v1/logs")]
        self.ok("POST", f"/v1/jobs/{job}/signal", {"signal": 9})
        result = self.result(job)
        said = json.dumps([*answers, result])
        for value in (OF_ALL, OF_ONE):
            self.assertNotIn(value, said)
            self.assertNotIn(base64.b64encode(value.encode()).decode()[:16], said)
        self.assertEqual(result["redactions"], 3)
        self.assertGreater(result["stdout_bytes"], 0)

    def test_what_is_listed(self) -> None:
        job = self.start("sleep", "60", secrets={"ONE": OF_ONE})
        of_all, of_one = self.ok("GET", "/v1/secrets")
        self.assertEqual((of_all["name"], of_all["kind"], of_all["reference"]), ("ALL", "file", self.reference))
        self.assertEqual((of_one["name"], of_one["kind"], of_one["run_id"]), ("ONE", "request", job))
        self.assertEqual((of_one["reference"], of_one["known"], of_all["known"]), (None, True, True))
        self.assertEqual(self.ok("GET", "/v1/sandbox")["secrets"], ["ALL"])
        self.ok("POST", f"/v1/jobs/{job}/signal", {"signal": 9})
        self.result(job)
        self.assertEqual([secret["name"] for secret in self.ok("GET", "/v1/secrets")], ["ALL"])

    def test_only_an_attached_command_shows_them(self) -> None:
        request = {"secrets": {"ONE": OF_ONE}, "no_redact": True}
        self.assertEqual(self.output("sh", "-c", "echo $ONE", **request), OF_ONE.encode() + b"\n")
        self.assertEqual(self.output("sh", "-c", "echo $ONE", secrets={"ONE": OF_ONE}), b"[redacted:ONE]\n")
        self.refused("InvalidRequest", "POST", "/v1/jobs", {"argv": ["true"], **request})

    def test_an_idempotency_key_tells_values_apart(self) -> None:
        request = {"idempotency_key": "k", "secrets": {"ONE": OF_ONE}}
        first = self.start("true", **request)
        self.assertEqual(self.start("true", **request), first)
        for secrets in ({"ONE": OF_ONE + "!"}, {"OTHER": OF_ONE}, {}):
            again = {"argv": ["true"], "idempotency_key": "k", "secrets": secrets}
            self.refused("InvalidRequest", "POST", "/v1/jobs", again)
        self.result(first)

    def test_what_no_secret_can_be(self) -> None:
        many = {f"S{n}": f"hunter2-{n:04}" for n in range(33)}
        for secrets in ({"A": "hunter2"}, {"A": ""}, {"A": "hunter2\0hunter2"}, {"A": "hunter2" * 10_000}, {"a-b": "hunter2!"},
                        {"": "hunter2!"}, {"N" * 129: "hunter2!"}, many):
            error = self.refused("InvalidRequest", "POST", "/v1/jobs", {"argv": ["true"], "secrets": secrets})
            self.assertNotIn("hunter2", json.dumps(error))
        both = {"argv": ["true"], "secrets": {"A": "hunter2-hunter2"}, "env": {"A": "x"}}
        self.assertIn("openly", self.refused("InvalidRequest", "POST", "/v1/jobs", both)["why"])
        large = {"argv": ["true"], "secrets": {f"S{n}": "hunter2!" * 8000 for n in range(3)}}
        self.refused("InvalidRequest", "POST", "/v1/jobs", large)

    def test_what_is_no_secret_at_all_is_not_shown(self) -> None:
        for secrets in ("hunter2", ["hunter2"], {"A": ["hunter2"]}, {"A": {"hunter2": 1}}, {"A": 4242442}, None):
            body = {"argv": ["true"], "secrets": secrets}
            error = self.refused("InvalidRequest", "POST", "/v1/jobs", body, legal=False)
            self.assertNotRegex(json.dumps(error), "hunter2|4242442")
