"""Memory that is saved: pause, freeze and resume, snapshots, forks, and what each of them refuses."""

import json
import os
import subprocess

from .contract import Api
from .sandboxed import CONTRACT, Sandboxed, text_of

COUNTER = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
MEMORY = "/dev/shm/f"


class Saved(Sandboxed):
    request = {"name": f"saved-{os.getpid()}", "owner": "tests", "ttl_ms": 3_600_000}

    def setUp(self) -> None:
        self.ok("PUT", "/v1/files", content=b"in memory", path=MEMORY)
        self.counter = self.start("sh", "-c", COUNTER)

    def tearDown(self) -> None:
        self.ok("POST", f"/v1/jobs/{self.counter}/signal", {"signal": 9})
        self.result(self.counter)
        super().tearDown()

    def counted(self, api: Api) -> int:
        """How far the counter is, which must have left out nothing."""
        lines = text_of(api.call("GET", f"/v1/jobs/{self.counter}/output").value).split()
        self.assertEqual(lines, [b"%d" % (n + 1) for n in range(len(lines))])
        return len(lines)

    def goes_on(self, api: Api, since: int) -> None:
        self.assertGreaterEqual(self.counted(api), since)
        self.until(lambda: self.counted(api) > since)
        self.assertEqual(api.call("GET", "/v1/files", path=MEMORY).value, b"in memory")

    def to(self, state: str, operation: str) -> dict:
        """Has it change its state, and asks again, which is harmless."""
        for _ in range(2):
            sandbox = self.ok("POST", f"/v1/sandbox/{operation}")
            self.assertEqual(sandbox["state"], state)
        return sandbox

    def test_pause_and_resume(self) -> None:
        self.until(lambda: self.counted(self.api) > 2)
        self.assertIn("resume", self.to("cold", "pause")["legal"])
        saved = self.counted(self.api)
        self.assertIsNone(self.ok("GET", "/v1/sandbox/stats")["vmm_private_bytes"])
        self.refused("InvalidState", "POST", "/v1/jobs", {"argv": ["true"]})
        self.refused("InvalidState", "GET", "/v1/files", path=MEMORY)
        self.refused("InvalidState", "POST", "/v1/sandbox/freeze")
        self.refused("InvalidState", "POST", "/v1/sandbox/start")
        self.assertEqual(self.counted(self.api), saved)
        self.to("running", "resume")
        self.goes_on(self.api, saved)

    def test_freeze_and_resume(self) -> None:
        self.assertIn("resume", self.to("frozen", "freeze")["legal"])
        held = self.counted(self.api)
        self.assertIsNotNone(self.ok("GET", "/v1/sandbox/stats")["vmm_private_bytes"])
        self.refused("InvalidState", "POST", "/v1/jobs", {"argv": ["true"]})
        self.assertEqual(self.counted(self.api), held)
        self.to("running", "resume")
        self.goes_on(self.api, held)
        self.to("frozen", "freeze")
        self.to("cold", "pause")
        self.to("running", "resume")
        self.goes_on(self.api, held)

    def test_a_reader_stays_through_a_pause(self) -> None:
        with self.another().events("GET", f"/v1/jobs/{self.counter}/output", follow=True) as events:
            before = text_of([next(events)])
            self.ok("POST", "/v1/sandbox/pause")
            self.ok("POST", "/v1/sandbox/resume")
            resumed = self.counted(self.api)
            while before.count(b"\n") <= resumed:
                before += text_of([next(events)])
        self.assertEqual(before.split(), [b"%d" % (n + 1) for n in range(len(before.split()))])

    def test_snapshots(self) -> None:
        name = f"{self.sandbox['name']}-s"
        snapshot = self.ok("POST", "/v1/snapshots", {"name": name})
        self.addCleanup(subprocess.run, ["mvmctl", "snapshot", "rm", name], stdout=subprocess.DEVNULL, check=True)
        self.assertEqual((snapshot["name"], snapshot["sandbox"]), (name, self.sandbox["id"]))
        self.assertEqual((snapshot["running_jobs"], snapshot["sensitive"]), (1, True))
        self.refused("AlreadyExists", "POST", "/v1/snapshots", {"name": name})
        for wrong in ("Upper", "a/b", "-", "snap-1", "x" * 64):
            self.refused("InvalidRequest", "POST", "/v1/snapshots", {"name": wrong})
        self.refused("InvalidRequest", "POST", "/v1/snapshots", {"names": "x"}, legal=False)
        self.goes_on(self.api, self.counted(self.api))

    def test_forks(self) -> None:
        before, name = self.counted(self.api), f"{self.sandbox['name']}-c"
        born = self.ok("POST", "/v1/sandbox/fork", {"count": 2, "name": name, "ttl_ms": 60_000})["sandboxes"]
        for child in born:
            self.addCleanup(subprocess.run, ["mvmctl", "kill", child["id"]], stdout=subprocess.DEVNULL, check=True)
        self.assertEqual([(child["name"], child["state"]) for child in born],
                         [(f"{name}-1", "running"), (f"{name}-2", "running")])
        self.assertEqual([(child["owner"], child["cleanup"]["ttl_ms"]) for child in born], [("tests", 60_000)] * 2)
        boots = {self.output("cat", "/proc/sys/kernel/random/boot_id")}
        for child in born:
            api = Api(CONTRACT, child["socket"])
            self.addCleanup(api.http.close)
            self.goes_on(api, before)
            boots.add(self.output("cat", "/proc/sys/kernel/random/boot_id", api=api))
        self.assertEqual(len(boots), 3, "each has an identity of its own")
        self.refused("AlreadyExists", "POST", "/v1/sandbox/fork", {"count": 3, "name": name})
        live = subprocess.run(["mvmctl", "ps", "--json"], capture_output=True, check=True).stdout
        self.assertNotIn(f"{name}-3", [one["name"] for one in json.loads(live)["sandboxes"]], "all are made or none")
        self.goes_on(self.api, self.counted(self.api))

    def test_forks_that_cannot_be(self) -> None:
        for body in ({"count": 65}, {"name": "No"}, {"ttl_ms": 0}, {"lease": True, "ttl_ms": 1000}):
            self.refused("InvalidRequest", "POST", "/v1/sandbox/fork", body)
        self.refused("InvalidRequest", "POST", "/v1/sandbox/fork", {"count": -1}, legal=False)
        self.refused("InvalidRequest", "POST", "/v1/sandbox/fork", {"on_expiry": "vanish"}, legal=False)


class WithoutMemory(Sandboxed):
    """A stopped one has nothing to save and nothing to come back to."""

    def tearDown(self) -> None:
        pass

    def test_what_is_refused(self) -> None:
        self.ok("POST", "/v1/sandbox/pause")
        self.ok("POST", "/v1/sandbox/stop")
        for operation in ("pause", "freeze", "resume"):
            self.refused("InvalidState", "POST", f"/v1/sandbox/{operation}")
        self.refused("InvalidState", "POST", "/v1/sandbox/fork", {})
        self.refused("InvalidState", "POST", "/v1/snapshots", {})
