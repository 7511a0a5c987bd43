"""Receipts, one-shot runs and secrets, on both surfaces."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support

import mvm

Create = Callable[..., Any]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The public key of this home."""
    path = tmp_path / "mvm.pub"
    path.write_bytes(subprocess.run(["mvmctl", "key", "export"], capture_output=True, check=True).stdout)
    return path


def test_a_receipt_is_verified_by_the_public_key(box: Any, api: support.Surface, tmp_path: Path, key: Path) -> None:
    result = box.commands.run("echo out", receipt=tmp_path / "first")
    receipt = result.receipt()
    assert (receipt.verified, receipt.run_id) == (True, result.run_id)
    assert bool(receipt)
    assert receipt.statement
    assert receipt.envelope == (tmp_path / "first").read_text()
    assert receipt.proof == (tmp_path / "first.tlog-proof").read_text()
    assert receipt.envelope not in repr(receipt)
    receipt.write(tmp_path / "second")
    checked = api.receipts.verify(tmp_path / "second", keys=[key])
    assert checked
    assert (checked.keyid, checked.digest) == (receipt.keyid, receipt.digest)
    assert checked.logged is not None
    assert checked.logged.index < checked.logged.size
    again = api.receipts.show(result.run_id, sandbox=result.sandbox_id)
    assert again == receipt


def test_a_receipt_that_was_altered_is_refused(box: Any, api: support.Surface, tmp_path: Path, key: Path) -> None:
    receipt = box.commands.run(["true"]).receipt()
    (tmp_path / "altered").write_text(receipt.envelope.replace("A", "B", 1))
    checked = api.receipts.verify(str(tmp_path / "altered"), keys=[key])
    assert not checked
    assert checked.verified is False
    assert checked.refusal.name
    assert checked.refusal.why
    assert checked.refusal.exit_status > 0
    with pytest.raises(mvm.NotFound):
        api.receipts.verify(tmp_path / "none", keys=[key])
    for options in ({"keys": str(key)}, {"keys": [5]}, {"keys": 5}, {"proof": 5}, {"opening": ""}, {"receipt": 5}):
        with pytest.raises(mvm.InvalidRequest):
            api.receipts.verify(**{"receipt": tmp_path / "altered", **options})
    with pytest.raises(mvm.FileError):
        receipt.write(tmp_path / "none" / "receipt")
    for wrong in ("", None, 5, "a\0"):
        with pytest.raises(mvm.InvalidRequest):
            api.receipts.show(wrong)


def test_one_value_is_opened(box: Any, api: support.Surface, tmp_path: Path, key: Path) -> None:
    receipt = box.commands.run(["echo", "opened"]).receipt()
    receipt.write(tmp_path / "receipt")
    opening = api.receipts.open(tmp_path / "receipt", "argv")
    assert opening
    assert opening.run_id == receipt.run_id
    assert json.loads(base64.b64decode(json.loads(opening.content)["value"])) == ["echo", "opened"]
    assert "opened" not in repr(opening)
    (tmp_path / "opening").write_bytes(opening.content)
    checked = api.receipts.verify(tmp_path / "receipt", keys=[key], opening=tmp_path / "opening")
    assert checked.opened == mvm.Opened(field="argv", value=b'["echo","opened"]')
    assert "echo" not in repr(checked)
    assert api.receipts.verify(receipt, keys=[key], opening=opening) == checked
    (tmp_path / "wrong").write_text("other")
    refused = api.receipts.open(tmp_path / "receipt", "stdout", value=tmp_path / "wrong")
    assert not refused
    assert refused.refusal.name
    for wrong in ("", "secrets", None, 5):
        with pytest.raises(mvm.InvalidRequest):
            api.receipts.open(tmp_path / "receipt", wrong)


def test_the_receipt_of_a_job_once_it_has_ended(create: Create, api: support.Surface) -> None:
    with create() as box:
        job = box.commands.start(["sleep", "1000"])
        with pytest.raises(mvm.MvmError):
            job.receipt()
        job.kill()
        job.wait()
        assert job.receipt().verified
        result = box.commands.run(["true"])
    # Also when its sandbox is gone.
    assert result.receipt().verified


def test_a_run_in_a_sandbox_of_its_own(api: support.Surface, tmp_path: Path) -> None:
    result = api.run(
        "cat; echo $A; pwd; exit 3", image="base", stdin="in\n", env={"A": "b"}, cwd="/tmp", receipt=tmp_path / "receipt"
    )
    assert (result.stdout, result.exit_code, result.ok) == ("in\nb\n/tmp\n", 3, False)
    assert result.image_digest.startswith("sha256:")
    assert result.isolation
    assert api.receipts.verify(tmp_path / "receipt").verified
    assert result.receipt().run_id == result.run_id
    assert result.sandbox_id not in [box.id for box in api.Sandbox.list()]
    assert "in\n" not in repr(result)


def test_how_a_run_ends(api: support.Surface) -> None:
    with pytest.raises(mvm.CommandFailed) as failed:
        api.run(["sh", "-c", "printf 'a\\377'; exit 4"], image="base", check=True)
    assert failed.value.result.stdout_data == b"a\xff"
    with pytest.raises(mvm.Timeout) as late:
        api.run("echo before; sleep 1000", image="base", timeout=0.5)
    assert (late.value.result.stdout, late.value.result.timed_out) == ("before\n", True)
    result = api.run(["/nowhere"], image="base", max_output=0)
    assert (result.exit_code, result.not_started.reason) == (127, "command_not_found")
    cut = api.run("echo 12345", image="base", max_output=3)
    assert (cut.stdout, cut.stdout_bytes, cut.stdout_truncated) == ("123", 6, True)


def test_the_plan_of_a_run(api: support.Surface) -> None:
    plan = api.run(["true"], profile="restrictive", env={"A": "hush"}, user="root", dry_run=True)
    assert isinstance(plan, mvm.Plan)
    assert {denial.rule for denial in plan.denials} >= {"env.variables", "user.unprivileged"}
    with pytest.raises(mvm.PolicyDenied) as denied:
        api.run(["true"], image="base", profile="restrictive", env={"A": "hush"}, user="root")
    assert denied.value.denials == plan.denials
    assert "hush" not in str(denied.value) + repr(plan)


@pytest.mark.parametrize("options", [
    {"argv": []}, {"argv": 5}, {"argv": ["a\0b"]}, {"stdin": 5}, {"timeout": -1}, {"cpus": 0}, {"memory_mib": -1},
    {"disk_mib": True}, {"env": 5}, {"max_output": -1}, {"check": 1}, {"dry_run": 1}, {"require": "seccomp"}, {"receipt": 5},
    {"mode": "nonsense"}, {"image": 5}, {"user": 5}, {"cwd": "relative"}, {"secrets": {"A": "value"}},
], ids=str)  # fmt: skip
def test_runs_that_make_no_sense(api: support.Surface, options: dict[str, Any]) -> None:
    given = {"argv": ["true"], "image": "base", **options}
    with pytest.raises(mvm.InvalidRequest):
        api.run(given.pop("argv"), **given)


SECRET = "correct-horse-battery-staple"


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The same secret, from a variable and from a file."""
    monkeypatch.setenv("THE_TOKEN", SECRET)
    file = tmp_path / "token"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    return {"ONE": "env:THE_TOKEN", "OTHER": f"file:{file}"}


LOOK = 'test "$ONE" = "$OTHER" && echo "${#ONE} $ONE"'


def test_a_secret_of_one_command(box: Any, secrets: dict[str, str]) -> None:
    result = box.commands.run(LOOK, secrets=secrets, check=True)
    assert result.stdout.startswith(f"{len(SECRET)} ")
    assert SECRET not in result.stdout
    assert result.redactions > 0
    job = box.commands.start(LOOK, secrets=secrets)
    kept = b"".join(piece.data for piece in job)
    assert SECRET.encode() not in kept
    assert SECRET not in repr(result) + repr(job) + repr(job.info()) + repr(
        [entry.text for entry in box.logs(tail=20, redact=False)]
    )
    assert box.commands.run('echo "<$ONE>"').stdout == "<>\n"


def test_a_secret_of_a_sandbox_and_of_a_run(create: Create, api: support.Surface, secrets: dict[str, str]) -> None:
    with create(secrets=secrets) as box:
        assert SECRET not in box.commands.run(LOOK, check=True).stdout
        known = {secret.name: secret for secret in box.secrets.list()}
        assert (known["ONE"].kind, known["ONE"].reference) == (mvm.SecretKind.ENV, "env:THE_TOKEN")
        assert known["OTHER"].kind == "file"
        assert SECRET not in repr(known) + repr(box.inspect())
        arguments = [word for args in support.processes().values() for word in args]
        assert not [word for word in arguments if SECRET in word]
    once = api.run(LOOK, image="base", secrets=secrets, check=True)
    assert SECRET not in once.stdout
    assert once.redactions > 0


def test_secrets_that_cannot_be_had(box: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environb, b"NO_TEXT", b"\xff")
    for reference, kind in {
        "env:NOT_SET_ANYWHERE": mvm.NotFound,
        f"file:{tmp_path}/none": mvm.NotFound,
        f"file:{tmp_path}": mvm.FileError,
        "file:/dev/null": mvm.InvalidRequest,
        "file:": mvm.InvalidRequest,
        "file:a\0b": mvm.InvalidRequest,
        "env:A B": mvm.InvalidRequest,
        "env:NO_TEXT": mvm.InvalidRequest,
        SECRET: mvm.InvalidRequest,
    }.items():
        with pytest.raises(kind) as refused:
            box.commands.run(["true"], secrets={"A": reference})
        assert SECRET not in str(refused.value)


def test_a_file_that_others_may_read_is_warned_of(box: Any, secrets: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "token").chmod(0o644)
    (warning,) = box.commands.run(["true"], secrets=secrets).warnings
    assert "chmod 600" in warning
    assert SECRET not in warning
