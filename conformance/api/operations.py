"""Every operation on a sandbox and on its jobs: what it does, and what it refuses."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .contract import BYTES
from .sandboxed import Sandboxed, text_of

MIB = 1 << 20


class Sandbox(Sandboxed):
    request = {"name": f"api-{os.getpid()}", "env": {"SECRET": "x-y-z"}, "owner": "tests", "ttl_ms": 3_600_000}

    def test_inspect(self) -> None:
        shown = self.ok("GET", "/v1/sandbox")
        self.assertEqual((shown["id"], shown["state"], shown["owner"]), (self.sandbox["id"], "running", "tests"))
        self.assertEqual(shown["env"], ["SECRET"])
        self.assertNotIn("x-y-z", json.dumps(shown))
        self.assertEqual([(t["from"], t["to"]) for t in shown["history"]], [("creating", "running")])

    def test_stats(self) -> None:
        job = self.start("sleep", "60")
        stats = self.ok("GET", "/v1/sandbox/stats")
        self.assertEqual(stats["running_jobs"], 1)
        self.assertGreater(stats["vmm_private_bytes"], MIB)
        self.ok("POST", f"/v1/jobs/{job}/signal", {"signal": 9})
        self.result(job)

    def test_wait(self) -> None:
        self.assertEqual(self.ok("GET", "/v1/sandbox/wait", state="running")["state"], "running")
        self.refused("Timeout", "GET", "/v1/sandbox/wait", state="stopped", timeout_ms=1)
        self.refused("InvalidRequest", "GET", "/v1/sandbox/wait", state="asleep", legal=False)
        self.refused("InvalidRequest", "GET", "/v1/sandbox/wait", legal=False)
        self.refused("InvalidRequest", "GET", "/v1/sandbox/wait", state="running", timeout_ms=-1, legal=False)

    def test_keep(self) -> None:
        kept = self.ok("POST", "/v1/sandbox/keep", {"ttl_ms": 7_200_000, "on_expiry": "stop"})["cleanup"]
        self.assertEqual((kept["ttl_ms"], kept["on_expiry"]), (7_200_000, "stop"))
        self.assertEqual(self.ok("POST", "/v1/sandbox/keep", {"ttl_ms": 60_000})["cleanup"]["on_expiry"], "stop")
        for body in ({}, {"ttl_ms": 0}, {"ttl_ms": 2**63}):
            self.refused("InvalidRequest", "POST", "/v1/sandbox/keep", body)
        self.ok("POST", "/v1/sandbox/keep", {"ttl_ms": 3_600_000, "on_expiry": "destroy"})

    def test_detach(self) -> None:
        detach = "/v1/sandbox/detach"
        self.assertEqual(self.ok("POST", detach, {"no_ttl": True})["cleanup"], {"kind": "explicit"})
        shown = self.ok("POST", detach, {"owner": "others", "ttl_ms": 60_000, "on_expiry": "cold"})
        self.assertEqual((shown["owner"], shown["cleanup"]["ttl_ms"], shown["cleanup"]["on_expiry"]), ("others", 60_000, "cold"))
        for body in ({"ttl_ms": 0}, {"ttl_ms": 2**63}, {"ttl_ms": 1, "no_ttl": True}, {"owner": "x" * 257}, {"ttl": 1}):
            self.refused("InvalidRequest", "POST", detach, body, legal="ttl" not in body)
        self.assertEqual(self.ok("POST", detach, {"owner": "tests"})["cleanup"]["ttl_ms"], 3_600_000)

    def test_a_lease_must_have_been_asked_for(self) -> None:
        self.refused("InvalidState", "GET", "/v1/lease")


class Lives(Sandboxed):
    """A sandbox that is stopped, started, broken and destroyed."""

    def tearDown(self) -> None:
        pass

    def test_from_stop_to_destruction(self) -> None:
        self.ok("PUT", "/v1/files", content=b"kept", path="/root/f")
        job = self.start("sleep", "60")
        self.assertEqual(self.ok("POST", "/v1/sandbox/stop")["state"], "stopped")
        self.assertEqual(self.ok("POST", "/v1/sandbox/stop")["state"], "stopped", "a repeated stop is harmless")
        self.assertEqual(self.result(job)["error"]["code"], "SandboxUnavailable")
        self.refused("InvalidState", "POST", "/v1/jobs", {"argv": ["true"]})
        self.refused("InvalidState", "GET", "/v1/files", path="/root/f")
        self.assertIsNone(self.ok("GET", "/v1/sandbox/stats")["vmm_private_bytes"])
        self.assertEqual(self.ok("POST", "/v1/sandbox/start")["state"], "running")
        self.assertEqual(self.ok("POST", "/v1/sandbox/start")["state"], "running", "a repeated start is harmless")
        self.assertEqual(self.ok("GET", "/v1/files", path="/root/f"), b"kept")

        self.ok("POST", "/v1/sandbox/stop")
        self.disk().unlink()
        error = self.api.call("POST", "/v1/sandbox/start")
        self.assertIsNotNone(error.code)
        self.assertEqual(self.ok("GET", "/v1/sandbox")["state"], "failed")
        self.refused("InvalidState", "POST", "/v1/sandbox/stop")

        report = self.ok("POST", "/v1/sandbox/destroy")
        self.assertEqual(report["id"], self.sandbox["id"])
        self.assertIn("disk", [gone["what"] for gone in report["removed"]])
        self.until(lambda: not self.disk().parent.exists())

    def disk(self) -> Path:
        return Path(self.sandbox["socket"]).with_name("disk.qcow2")


class Lease(Sandboxed):
    request = {"lease": True}

    def tearDown(self) -> None:
        pass

    def test_it_ends_with_the_lease(self) -> None:
        with self.api.events("GET", "/v1/lease") as lease:
            self.assertTrue(next(lease)["claimed"])
            self.assertEqual(self.output("echo", "leased"), b"leased\n")
            self.refused("InvalidState", "POST", "/v1/sandbox/keep", {"ttl_ms": 1000})
        self.until(lambda: not Path(self.sandbox["socket"]).parent.exists())


class Detached(Sandboxed):
    request = {"lease": True}

    def tearDown(self) -> None:
        pass

    def test_it_goes_on_without_the_lease(self) -> None:
        with self.api.events("GET", "/v1/lease") as lease:
            self.assertTrue(next(lease)["claimed"])
            self.refused("InvalidRequest", "POST", "/v1/sandbox/detach", {"no_ttl": True})
            self.ok("POST", "/v1/sandbox/detach", {"owner": "tests", "no_ttl": True})
        self.assertEqual(self.output("echo", "on"), b"on\n")
        self.refused("InvalidState", "GET", "/v1/lease")
        self.assertEqual(self.ok("GET", "/v1/sandbox")["state"], "running")
        self.ok("POST", "/v1/sandbox/keep", {"ttl_ms": 2000})
        self.until(lambda: not Path(self.sandbox["socket"]).parent.exists())


class Jobs(Sandboxed):
    def test_an_attached_command(self) -> None:
        script = "echo $WHO; pwd; id -un; echo wrong >&2; exit 3"
        request = {"argv": ["sh", "-c", script], "attached": True, "env": {"WHO": "me"}, "cwd": "/tmp", "user": "user"}
        with self.api.events("POST", "/v1/jobs", request) as stream:
            events = list(stream)
        self.assertEqual((events[0]["type"], events[-1]["type"]), ("started", "ended"))
        self.assertEqual((text_of(events), text_of(events, "stderr")), (b"me\n/tmp\nuser\n", b"wrong\n"))
        result = events[-1]["result"]
        self.assertEqual((result["exit_code"], result["stdout_bytes"], result["stderr_bytes"]), (3, 13, 6))

    def test_a_detached_command(self) -> None:
        job = self.start("sh", "-c", "echo one; echo two")
        self.assertEqual(self.result(job)["exit_code"], 0)
        shown = self.ok("GET", f"/v1/jobs/{job}")
        self.assertEqual((shown["program"], shown["attached"], shown["end_offset"]), ("sh", False, 8))
        self.assertIn(job, [j["run_id"] for j in self.ok("GET", "/v1/jobs")])
        for offset, rest in ((0, b"one\ntwo\n"), (4, b"two\n"), (8, b"")):
            for follow in (False, True):
                events = self.ok("GET", f"/v1/jobs/{job}/output", offset=offset, follow=follow)
                self.assertEqual((text_of(events), events[-1]["type"]), (rest, "ended"))

    def test_a_following_reader_stays_to_the_end(self) -> None:
        job = self.start("sh", "-c", "echo begun; read line; echo $line", stdin=True)
        with self.api.events("GET", f"/v1/jobs/{job}/output", follow=True) as events:
            self.assertEqual(text_of([next(events)]), b"begun\n")
            self.ok("PUT", f"/v1/jobs/{job}/stdin", content=b"more\n")
            rest = list(events)
        self.assertEqual((text_of(rest), rest[-1]["type"]), (b"more\n", "ended"))

    def test_how_commands_end(self) -> None:
        self.assertEqual(self.result(self.start("/nowhere"))["not_started"]["reason"], "command_not_found")
        self.assertEqual(self.result(self.start("/etc"))["not_started"]["reason"], "command_not_executable")
        self.assertTrue(self.result(self.start("sleep", "60", timeout_ms=50))["timed_out"])
        job = self.start("sleep", "60")
        self.refused("Timeout", "GET", f"/v1/jobs/{job}/wait", timeout_ms=1)
        self.ok("POST", f"/v1/jobs/{job}/signal", {"signal": 15})
        self.assertEqual(self.result(job)["signal"], 15)
        self.ok("POST", f"/v1/jobs/{job}/signal", {"signal": 9})

    def test_a_terminal(self) -> None:
        request = {"tty": {"rows": 20, "cols": 50}, "stdin": True}
        job = self.start("sh", "-c", "stty size; read x; stty size", **request)
        self.until(lambda: b"20 50" in text_of(self.ok("GET", f"/v1/jobs/{job}/output")))
        self.ok("POST", f"/v1/jobs/{job}/resize", {"rows": 30, "cols": 100})
        self.ok("PUT", f"/v1/jobs/{job}/stdin", content=b"\n")
        self.result(job)
        self.assertIn(b"30 100", text_of(self.ok("GET", f"/v1/jobs/{job}/output")))

    def test_an_idempotency_key_starts_once(self) -> None:
        first = self.start("sh", "-c", "echo x >> /tmp/once", idempotency_key="k")
        self.assertEqual(self.start("sh", "-c", "echo x >> /tmp/once", idempotency_key="k"), first)
        self.result(first)
        self.assertEqual(self.ok("GET", "/v1/files", path="/tmp/once"), b"x\n")
        self.refused("InvalidRequest", "POST", "/v1/jobs", {"argv": ["true"], "idempotency_key": "k"})

    def test_what_no_job_can_be(self) -> None:
        for body in ({}, {"argv": []}, {"argv": ["a\0b"]}):
            self.refused("InvalidRequest", "POST", "/v1/jobs", body)
        for bad in ({"env": {"": "x"}}, {"env": {"A=B": "x"}}, {"env": {"A\0": "x"}}, {"env": {"A": "\0"}},
                    {"cwd": "/tmp\0"}, {"user": "root\0"}):
            with self.subTest(bad=bad):
                self.refused("InvalidRequest", "POST", "/v1/jobs", {"argv": ["true"], **bad})

    def test_a_job_that_is_not_there(self) -> None:
        for id in ("run-0000000000000000", "..", "%2e%2e", "%00", "a%2Fb", "%zz", "x" * 5000):
            self.refused("NotFound", "GET", f"/v1/jobs/{id}" if id != ".." else "/v1/jobs/...")
        gone = "/v1/jobs/run-0000000000000000"
        self.refused("NotFound", "GET", f"{gone}/output")
        self.refused("NotFound", "GET", f"{gone}/wait")
        self.refused_put("NotFound", f"{gone}/stdin")
        self.refused("NotFound", "POST", f"{gone}/signal", {"signal": 9})
        self.refused("NotFound", "POST", f"{gone}/resize", {"rows": 1, "cols": 1})

    def test_numbers_out_of_bounds(self) -> None:
        job = self.start("echo", "x")
        self.result(job)
        self.refused("InvalidRequest", "GET", f"/v1/jobs/{job}/output", offset=3)
        self.refused("InvalidRequest", "GET", f"/v1/jobs/{job}/output", offset=2**63)
        for signal in (0, 65, 300):
            self.refused("InvalidRequest", "POST", f"/v1/jobs/{job}/signal", {"signal": signal}, legal=False)
        self.refused("InvalidRequest", "POST", f"/v1/jobs/{job}/resize", {"rows": 70_000, "cols": 1}, legal=False)


class Logs(Sandboxed):
    def logged(self, **query) -> list[dict]:
        """All events but the last, which sums them up."""
        *events, summary = self.ok("GET", "/v1/logs", **query)
        self.assertEqual((summary["type"], summary["lines"]), ("summary", len(events)))
        return events

    def test_lines_of_jobs_and_of_the_supervisor(self) -> None:
        job = self.start("sh", "-c", "echo one; echo two; echo three")
        self.result(job)
        lines = [e for e in self.logged(source="job") if e["run_id"] == job]
        self.assertEqual([e["text"] for e in lines], ["one", "two", "three"])
        self.assertEqual([e["text"] for e in self.logged(source="job", tail=1)], ["three"])
        everything = self.logged()
        self.assertEqual([e["seq"] for e in everything], sorted({e["seq"] for e in everything}))
        self.assertIn("supervisor", {e["source"] for e in everything})
        self.assertEqual(self.logged(since_ms=lines[-1]["at_ms"] + 3_600_000), [])
        self.assertEqual(self.logged(until_ms=1, follow=True), [])

    def test_credentials_are_redacted_on_reading(self) -> None:
        self.result(self.start("echo", "AKIAIOSFODNN7EXAMPLE"))
        for query, text, count in (({}, "[redacted:aws-access-key-id]", 1), ({"redact": "on"}, None, 1),
                                   ({"redact": "off"}, "AKIAIOSFODNN7EXAMPLE", 0)):
            line, summary = self.ok("GET", "/v1/logs", source="job", tail=1, **query)
            self.assertIn(line["text"], (text, "[redacted:aws-access-key-id]"))
            self.assertEqual((line["redactions"], summary["redactions"], summary["on_reading"]), (count,) * 3)
            self.assertEqual(summary["rules"], [{"rule": "aws-access-key-id", "redactions": 1}] * count)

    def test_following(self) -> None:
        with self.api.events("GET", "/v1/logs", follow=True, tail=0, source="job") as events:
            job = self.another().call("POST", "/v1/jobs", {"argv": ["echo", "late"]}).value["run_id"]
            line = next(events)
        self.assertEqual((line["run_id"], line["text"]), (job, "late"))

    def test_a_stream_that_has_nothing_to_say_shows_that_it_is_there(self) -> None:
        job = self.start("sleep", "1000")
        with self.api.http.stream("GET", f"/v1/jobs/{job}/output", params={"follow": "true"}) as response:
            self.assertEqual(next(response.iter_lines()).strip(), "")
        self.ok("POST", f"/v1/jobs/{job}/signal", {"signal": 9})

    def test_what_is_refused(self) -> None:
        for query in ({"source": "kernel"}, {"tail": -1}, {"since_ms": "yesterday"}, {"follow": "maybe"},
                      {"redact": "maybe"}, {"redact": "show-rules"}):
            self.refused("InvalidRequest", "GET", "/v1/logs", legal=False, **query)


class Input(Sandboxed):
    def test_input_goes_as_it_comes(self) -> None:
        job = self.start("cat", stdin=True)
        self.ok("PUT", f"/v1/jobs/{job}/stdin", content=(bytes([n]) * 10_000 for n in range(20)))
        self.result(job)
        events = self.ok("GET", f"/v1/jobs/{job}/output")
        self.assertEqual(text_of(events), b"".join(bytes([n]) * 10_000 for n in range(20)))

    def test_two_inputs_at_once(self) -> None:
        job, first_has_ended = self.start("cat", stdin=True), threading.Event()

        def pieces():
            yield b"first "
            first_has_ended.wait(60)
            yield b"and only"

        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(self.another().call, "PUT", f"/v1/jobs/{job}/stdin", content=pieces())
            self.until(lambda: text_of(self.ok("GET", f"/v1/jobs/{job}/output")) == b"first ")
            self.refused_put("InvalidState", f"/v1/jobs/{job}/stdin")
            first_has_ended.set()
            self.assertIsNone(first.result().code)
        self.result(job)
        self.assertEqual(text_of(self.ok("GET", f"/v1/jobs/{job}/output")), b"first and only")

    def test_input_that_breaks_off_ends_the_command(self) -> None:
        for _ in range(40):
            job = self.start("sh", "-c", "echo ready; exec cat", stdin=True)
            self.until(lambda job=job: text_of(self.ok("GET", f"/v1/jobs/{job}/output")) == b"ready\n")
            time.sleep(0.05)
            self.is_error("InvalidRequest", self.api.raw("PUT", f"/v1/jobs/{job}/stdin", b"half", missing=100))
            self.assertEqual(self.result(job)["signal"], 9)

    def test_input_that_nobody_takes(self) -> None:
        job = self.start("true")
        self.refused_put("InvalidState", f"/v1/jobs/{job}/stdin")
        self.result(job)
        job = self.start("true", stdin=True)
        self.result(job)
        answer = self.api.raw("PUT", f"/v1/jobs/{job}/stdin", b"x" * 10_000, content_type=BYTES, legal=True)
        self.assertEqual(answer.status, 204)
