"""Input that no client of ours sends, and more clients than usual."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

from .contract import BYTES
from .sandboxed import Sandboxed, text_of

MIB = 1 << 20


class Hostile(Sandboxed):
    """Input that no client of ours sends. What is refused is refused in the API's own words."""

    def test_unknown_fields_and_wrong_types(self) -> None:
        for path, body in (
            ("/v1/jobs", {"argv": ["true"], "surprise": 1}),
            ("/v1/jobs", {"argv": "true"}),
            ("/v1/jobs", {"argv": ["true", 1]}),
            ("/v1/jobs", {"argv": ["true"], "env": {"A": None}}),
            ("/v1/jobs", {"argv": ["true"], "tty": {"rows": 1}}),
            ("/v1/jobs", {"argv": ["true"], "tty": [20, 50]}),
            ("/v1/jobs", {"argv": ["true"], "timeout_ms": -1}),
            ("/v1/jobs", {"argv": ["true"], "attached": "yes"}),
            ("/v1/jobs", "true"),
            ("/v1/jobs/x/signal", {}),
            ("/v1/jobs/x/signal", {"signal": 1.5}),
            ("/v1/jobs/x/resize", {"rows": 1}),
            ("/v1/sandbox/keep", {"ttl_ms": 1000, "forever": True}),
            ("/v1/sandbox/keep", {"ttl_ms": 1000, "on_expiry": "explode"}),
            ("/v1/files/mkdir", {"path": "/x", "parents": 1}),
            ("/v1/files/rename", {"from": "/x"}),
            ("/v1/files/remove", {"path": ["/x"]}),
            ("/v1/files/copy-in", {"host_path": "/x", "guest_path": "/x", "follow": True}),
        ):
            with self.subTest(path=path, body=body):
                self.refused("InvalidRequest", "POST", path, body, legal=False)

    def test_a_list_is_no_object(self) -> None:
        self.refused("InvalidRequest", "POST", "/v1/sandbox/keep", [3_600_000, None], legal=False)
        self.refused("InvalidRequest", "POST", "/v1/files/remove", ["/nowhere", True], legal=False)

    def test_bodies_that_are_no_json(self) -> None:
        for body in (b"", b"{", b"\xff\xfe", b"argv=true", b"[" * 100_000, b"{}{}", b"NaN"):
            with self.subTest(body=body[:20]):
                self.is_error("InvalidRequest", self.api.raw("POST", "/v1/jobs", body))
        plain = self.api.raw("POST", "/v1/jobs", b'{"argv":["true"]}', content_type="text/plain")
        self.is_error("InvalidRequest", plain)
        self.is_error("InvalidRequest", self.api.raw("POST", "/v1/jobs", b'{"argv":["\\ud800"]}', legal=True))
        self.is_error("InvalidRequest", self.api.raw("POST", "/v1/jobs", b'{"argv":', missing=100))
        self.assertEqual(self.ok("GET", "/v1/sandbox/stats")["running_jobs"], 0)

    def test_unknown_paths(self) -> None:
        for path in ("/", "/v1", "/v2/sandbox", "/v1/sandbox/", "/v1/jobs/x/y/z", "//v1/sandbox", "/v1/%2e%2e/sandbox"):
            with self.subTest(path=path):
                self.is_error("NotFound", self.api.raw("GET", path))

    def test_wrong_methods(self) -> None:
        for method, path in (("DELETE", "/v1/sandbox"), ("PUT", "/v1/jobs"), ("GET", "/v1/sandbox/stop"),
                             ("OPTIONS", "/v1/files"), ("BREW", "/v1/lease")):
            with self.subTest(method=method, path=path):
                self.assertIn(self.api.raw(method, path).code, ("InvalidRequest", "NotFound"))

    def test_ids_that_are_no_text(self) -> None:
        for rest in ("", "/output", "/wait"):
            with self.subTest(rest=rest):
                self.assertIn(self.api.call("GET", f"/v1/jobs/%ff%fe{rest}").code, ("InvalidRequest", "NotFound"))

    def test_queries_that_are_none(self) -> None:
        for query in ("", "?offset=1", "?path=/etc/passwd&path=/etc/group", "?path=/etc/passwd&offset=%ff"):
            with self.subTest(query=query):
                self.is_error("InvalidRequest", self.api.raw("GET", f"/v1/files{query}"))

    def test_unknown_parameters(self) -> None:
        self.refused("InvalidRequest", "GET", "/v1/files", path="/etc/passwd", ofset=100, legal=False)
        self.refused("InvalidRequest", "PUT", "/v1/files", content=b"x", path="/root/f", synk=True, legal=False)

    def test_huge_keys(self) -> None:
        self.refused("InvalidRequest", "POST", "/v1/jobs", {"argv": ["true"], "idempotency_key": "k" * MIB}, legal=False)
        self.refused("InvalidRequest", "POST", "/v1/jobs", {"argv": ["true"], "idempotency_key": "ü" * 200})

    def test_a_refusal_reaches_who_still_sends(self) -> None:
        target = "/v1/jobs/run-0000000000000000/stdin"
        self.is_error("NotFound", self.api.raw("PUT", target, b"late", content_type=BYTES, legal=True, pause=0.2))

    def test_huge_bodies(self) -> None:
        for size in (3, 30):
            body = json.dumps({"argv": ["true", "x" * size * MIB]}).encode()
            self.is_error("InvalidRequest", self.api.raw("POST", "/v1/jobs", body, legal=True))

    def test_a_slow_reader_misses_nothing_and_holds_up_nobody(self) -> None:
        request = {"argv": ["head", "-c", str(4 * MIB), "/dev/zero"], "attached": True}
        with self.api.events("POST", "/v1/jobs", request) as events:
            began = next(events)
            time.sleep(0.5)
            self.assertEqual(self.output("echo", "meanwhile", api=self.another()), b"meanwhile\n")
            rest = list(events)
        self.assertEqual((began["type"], len(text_of(rest)), rest[-1]["type"]), ("started", 4 * MIB, "ended"))
        self.assertNotIn("gap", [event["type"] for event in rest])

    def test_a_late_reader_is_told_what_it_missed(self) -> None:
        job = self.start("head", "-c", str(4 * MIB), "/dev/zero")
        self.result(job)
        events = self.ok("GET", f"/v1/jobs/{job}/output")
        missed = sum(event["bytes"] for event in events if event["type"] == "gap")
        self.assertGreater(missed, 0)
        self.assertEqual(missed + len(text_of(events)), 4 * MIB)

    def test_a_reader_that_leaves_ends_its_attached_command(self) -> None:
        with self.api.events("POST", "/v1/jobs", {"argv": ["sleep", "60"], "attached": True}) as events:
            job = next(events)["run_id"]
        self.assertEqual(self.result(job)["signal"], 9)

    def test_forty_clients_at_once(self) -> None:
        def client(number: int) -> bool:
            api, path, content = self.another(), f"/root/client-{number}", b"%d" % number * 1000
            written = api.call("PUT", "/v1/files", content=content, path=path)
            echoed = self.output("cat", path, api=api)
            return written.value["bytes"] == len(content) and echoed == content

        with ThreadPoolExecutor(40) as pool:
            self.assertEqual(list(pool.map(client, range(40))), [True] * 40)
        self.assertEqual(self.ok("GET", "/v1/sandbox/stats")["running_jobs"], 0)
