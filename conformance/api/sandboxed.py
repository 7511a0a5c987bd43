"""What the tests of the API stand on: a sandbox for each class of them, a checked client, and short words for both."""

import base64
import json
import subprocess
import time
import unittest
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from .contract import BYTES, Answer, Api, Contract

CONTRACT = Contract()


def up(**request: Any) -> dict:
    command = ["mvmctl", "up", "--request", "-", "--json"]
    made = subprocess.run(command, input=json.dumps({"image": "base", **request}), capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"up failed: {made.stdout}{made.stderr}")
    return json.loads(made.stdout)


class Sandboxed(unittest.TestCase):
    """Tests in a sandbox that those of one class share. After each of them it must still work."""

    request: dict = {}

    @classmethod
    def setUpClass(cls) -> None:
        sandbox = up(**cls.request)
        cls.addClassCleanup(subprocess.run, ["mvmctl", "kill", sandbox["id"]], stdout=subprocess.DEVNULL)
        cls.sandbox, cls.api = sandbox, Api(CONTRACT, sandbox["socket"])
        cls.addClassCleanup(cls.api.http.close)

    def tearDown(self) -> None:
        self.assertEqual(self.output("sh", "-c", "echo works"), b"works\n")

    def ok(self, method: str, path: str, body: Any = None, /, **kwargs: Any) -> Any:
        """The value of an answer that must be a success."""
        answer = self.api.call(method, path, body, **kwargs)
        self.assertIsNone(answer.code, answer.value)
        return answer.value

    def refused(self, code: str, method: str, path: str, body: Any = None, /, **kwargs: Any) -> dict:
        """The error of an answer that must be one of this code."""
        return self.is_error(code, self.api.call(method, path, body, **kwargs))

    def is_error(self, code: str, answer: Answer) -> dict:
        self.assertEqual(answer.code, code, answer.value)
        return answer.value["error"]

    def refused_put(self, code: str, path: str, /, content: bytes = b"x", **params: Any) -> dict:
        """The same of a body of bytes, which goes out in one piece with its head."""
        target = f"{path}?{urlencode(params)}" if params else path
        return self.is_error(code, self.api.raw("PUT", target, content, content_type=BYTES, legal=True))

    def start(self, *argv: str, **request: Any) -> str:
        return self.ok("POST", "/v1/jobs", {"argv": argv, **request})["run_id"]

    def result(self, job: str) -> dict:
        return self.ok("GET", f"/v1/jobs/{job}/wait")

    def output(self, *argv: str, api: Api | None = None, **request: Any) -> bytes:
        """All that an attached command writes to standard output."""
        with (api or self.api).events("POST", "/v1/jobs", {"argv": argv, "attached": True, **request}) as events:
            return text_of(list(events))

    def another(self) -> Api:
        """Another client."""
        api = Api(CONTRACT, self.api.uds)
        self.addCleanup(api.http.close)
        return api

    def until(self, true: Callable[[], bool]) -> None:
        for _ in range(600):
            if true():
                return
            time.sleep(0.05)
        self.fail("it did not come about")


def text_of(events: list[dict], stream: str = "stdout") -> bytes:
    pieces = [e for e in events if e["type"] == "output" and e["stream"] == stream]
    return b"".join(base64.b64decode(e["data"], validate=True) for e in pieces)
