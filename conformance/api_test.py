#!/usr/bin/env python3
"""The API of sandboxes, held against its document: every operation, its success and its refusal, and hostile input.

Needs httpx and jsonschema (apt-get install python3-httpx python3-jsonschema) and mvmctl on the PATH.
Usage: conformance/api_test.py [CLASS[.TEST]…]. A test that is expected to fail names what mvmctl does wrong.
"""

import unittest

from api.contract import Broken, Contract
from api.evidence import AuditIds, Receipts
from api.files import Files
from api.hostile import Hostile
from api.operations import Detached, Input, Jobs, Lease, Lives, Logs, Sandbox
from api.policy import Denied, Requests
from api.ports import Ports
from api.sandboxed import CONTRACT
from api.saved import Saved, WithoutMemory
from api.secrets import Secrets

# Operations that have nothing to refuse: without a parameter, and answered from what the supervisor itself knows.
ALWAYS_SUCCEED = {"inspect", "stats", "list_jobs", "list_ports", "list_secrets", "destroy"}


class Checks(unittest.TestCase):
    """The checks themselves."""

    def test_what_the_document_does_not_have_is_no_answer(self) -> None:
        contract, good = Contract(), b'{"bytes":1,"synced":true}'
        put = "/v1/files?path=/f"
        self.assertEqual(contract.check_answer("PUT", put, 200, "application/json", good).value["bytes"], 1)
        for status, kind, body in (
            (200, "application/json", b'{"bytes":1,"synced":true,"more":1}'),
            (200, "application/json", b'{"bytes":1}'),
            (200, "application/json", b'{"bytes":-1,"synced":true}'),
            (200, "application/json", b"{"),
            (200, "text/html", good),
            (200, None, b""),
            (201, "application/json", good),
            (400, "application/json", b'{"error":{"code":"Odd","what":"","why":"","hint":""}}'),
            (400, None, b""),
        ):
            with self.subTest(status=status, body=body), self.assertRaises(Broken):
                contract.check_answer("PUT", put, status, kind, body)


class Whole(unittest.TestCase):
    """Runs last: what the document describes and no test asked for is a gap in these tests."""

    def test_every_operation_has_succeeded(self) -> None:
        self.assertEqual(CONTRACT.operations() - CONTRACT.succeeded, set())

    def test_every_operation_that_can_was_refused(self) -> None:
        self.assertEqual(CONTRACT.operations() - CONTRACT.failed - ALWAYS_SUCCEED, set())


def load_tests(loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str | None) -> unittest.TestSuite:
    classes = (Checks, Sandbox, Lives, Saved, WithoutMemory, Lease, Detached, Jobs, Secrets, Logs, Input, Files, Ports,
               Receipts, AuditIds, Denied, Requests, Hostile, Whole)
    return unittest.TestSuite(loader.loadTestsFromTestCase(test) for test in classes)


if __name__ == "__main__":
    unittest.main()
