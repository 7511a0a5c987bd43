"""Sandboxes: made, found, changed and ended, on both surfaces."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import support

import mvm

Create = Callable[..., Any]


def test_a_sandbox_and_what_is_known_of_it(create: Create, api: support.Surface) -> None:
    with create(cpus=2, memory_mib=300, disk_mib=2048, env={"A": "hush"}, owner="me") as box:
        assert (box.created, box.leased, box.warnings, box.missing_secrets) == (True, True, (), ())
        assert box.state() == mvm.State.RUNNING
        assert box.commands.run("nproc; echo $A").stdout == "2\nhush\n"
        about = box.inspect()
        assert isinstance(about, mvm.Inspection)
        assert about.machine == mvm.Machine(cpus=2, memory_mib=300, disk_bytes=2048 << 20)
        assert (about.id, about.name, about.image, about.owner, about.env) == (box.id, box.name, "base", "me", ("A",))
        assert isinstance(about.cleanup, mvm.LeaseCleanup)
        assert about.plan.allowed
        assert about.deletion is None
        assert "hush" not in repr(about) + repr(box) + repr(box.info)
        assert {capability.name: capability.supported for capability in box.capabilities()}["network"] is False
        stats = box.stats()
        assert stats.vmm_private_bytes and stats.vmm_private_bytes > 0
        assert box.id in [one.id for one in api.Sandbox.list()]
        assert box.wait("running", timeout=timedelta(seconds=5)).state == "running"
        with pytest.raises(mvm.Timeout):
            box.wait(mvm.State.STOPPED, timeout=0.2)
        for state, timeout in (("asleep", 1), (None, 1), ("running", 0), ("running", math.nan), ("running", True)):
            with pytest.raises(mvm.InvalidRequest):
                box.wait(state, timeout=timeout)
    support.ended(box.id)
    assert box.id not in [one.id for one in api.Sandbox.list()]
    assert box.id in [one.id for one in api.Sandbox.list(all=True)]
    about = api.Sandbox.lookup(box.id)
    assert about.state == mvm.State.DESTROYED
    assert about.deletion is not None
    assert about.deletion.removed


def test_destroying_reports_and_closes(create: Create) -> None:
    box = create()
    report = box.destroy()
    assert isinstance(report, mvm.DeletionReport)
    assert (report.id, report.name) == (box.id, box.name)
    assert report.removed
    assert report.limits
    assert box.destroy() == box.kill() == report
    assert not box.leased
    for act in (
        box.state, box.inspect, box.stats, box.stop, box.snapshot, box.fork, box.commands.list, box.ports.list,
        box.secrets.list, box.detach, box.capabilities,
        lambda: box.commands.run("true"), lambda: box.files.read("/etc/hostname"), lambda: list(box.logs()),
        lambda: box.keep(5), lambda: box.wait("running"),
    ):  # fmt: skip
        with pytest.raises(mvm.ClosedHandle, match="its sandbox was destroyed"):
            act()
    with pytest.raises(mvm.ClosedHandle), box:
        raise AssertionError("a closed handle was entered")
    box.close()


def test_a_handle_without_lease_just_closes(create: Create, api: support.Surface) -> None:
    box = create()
    with api.Sandbox.connect(box.id) as other:
        assert (other.leased, other.created, other.name) == (False, False, box.name)
        assert other.commands.run(["true"]).ok
    with pytest.raises(mvm.ClosedHandle, match="it was closed"):
        other.state()
    assert box.state() == "running"
    box.close()
    box.close()
    support.ended(box.id)


def test_two_handles_of_one_sandbox(create: Create, api: support.Surface) -> None:
    box = create()
    other = api.Sandbox.connect(box.name)
    job = other.commands.start(["sleep", "1000"])
    box.destroy()
    # Until its supervisor has gone it says itself what became of it.
    support.gone(box.id)
    for act in (
        other.state,
        lambda: other.commands.run("true"),
        lambda: other.files.read("/etc/hostname"),
        job.info,
        other.stop,
    ):
        with pytest.raises(mvm.NotFound, match=r"it was destroyed: .+"):
            act()
    assert other.destroy().id == box.id
    with pytest.raises(mvm.NotFound):
        api.Sandbox.connect(box.name)
    with pytest.raises(mvm.NotFound, match="destroyed"):
        api.Sandbox.connect(box.id)


def test_an_error_of_the_body_is_the_error(create: Create) -> None:
    with pytest.raises(KeyError, match="mine"), create() as box:
        raise KeyError("mine")
    support.ended(box.id)


def test_states(create: Create) -> None:
    with create() as box:
        box.files.write("/root/kept", "x", sync=True)
        job = box.commands.start(["sleep", "1000"])
        assert box.freeze().state == mvm.State.FROZEN
        with pytest.raises(mvm.InvalidState, match="frozen"):
            box.commands.run(["true"])
        assert box.resume().state == "running"
        assert box.cold().state == mvm.State.COLD
        assert box.stats().vmm_private_bytes is None
        assert box.resume().state == "running"
        assert job.info().result is None
        assert box.stop().state == mvm.State.STOPPED
        with pytest.raises(mvm.InvalidState):
            box.freeze()
        assert box.start().state == "running"
        assert box.files.read("/root/kept") == b"x"
        with pytest.raises(mvm.MvmError):
            job.wait(timeout=5)


def test_killing(create: Create) -> None:
    box = create()
    assert box.kill().id == box.id
    support.ended(box.id)
    with pytest.raises(mvm.ClosedHandle, match="was killed"):
        box.state()


def test_times_to_live(create: Create, api: support.Surface) -> None:
    with create(ttl=timedelta(minutes=5), on_expiry=mvm.OnExpiry.STOP) as box:
        assert not box.leased
        assert (box.info.cleanup.ttl, box.info.cleanup.on_expiry) == (300.0, "stop")
        kept = box.keep(600, on_expiry="cold")
        assert (kept.cleanup.ttl, kept.cleanup.on_expiry) == (600.0, "cold")
        for wrong in (0, -1, math.nan, math.inf, "60", True, None):
            with pytest.raises(mvm.InvalidRequest):
                box.keep(wrong)
    # The block did not end it.
    assert api.Sandbox.lookup(box.id).state == "running"
    api.Sandbox.connect(box.id).keep(0.2, on_expiry="destroy")
    support.gone(box.id)


def test_no_time_to_live_and_no_lease(create: Create) -> None:
    forever = create(ttl=math.inf, owner="me")
    assert isinstance(forever.info.cleanup, mvm.ExplicitCleanup)
    assert forever.destroy().id == forever.id
    hour = create(lease=False)
    assert (hour.leased, hour.info.cleanup.ttl) == (False, 3600.0)
    with pytest.raises(mvm.InvalidRequest, match="owner"):
        create(ttl=math.inf)


def test_detaching(create: Create, api: support.Surface) -> None:
    box = create()
    with pytest.raises(mvm.MvmError):
        box.keep(60)
    info = box.detach(owner="me", ttl=60, on_expiry="destroy")
    assert (info.owner, info.cleanup.ttl, box.leased) == ("me", 60.0, False)
    box.close()
    again = api.Sandbox.connect(box.id)
    assert again.commands.run(["true"]).ok
    assert isinstance(again.detach(ttl=math.inf).cleanup, mvm.ExplicitCleanup)
    for options in ({"ttl": -1}, {"ttl": 60, "on_expiry": "explode"}, {"owner": 5}, {"ttl": math.inf, "on_expiry": "stop"}):
        with pytest.raises(mvm.InvalidRequest):
            again.detach(**options)


def test_a_request_that_is_repeated_finds_the_sandbox(create: Create, name: str) -> None:
    key = f"key-{name}"
    one = create(name=name, idempotency_key=key)
    other = create(name=name, idempotency_key=key)
    assert (other.id, other.created, other.leased) == (one.id, False, False)
    with pytest.raises(mvm.AlreadyExists, match=name):
        create(name=name)


@pytest.mark.parametrize("options", [
    {"name": "UPPER"}, {"name": "a/../b"}, {"name": ""}, {"name": "x" * 64}, {"name": "a\0"}, {"cpus": 0}, {"cpus": -1},
    {"memory_mib": True}, {"memory_mib": 10**30}, {"disk_mib": "1"}, {"env": {"A=B": "c"}}, {"env": {"A": 5}},
    {"secrets": {"A": "the value itself"}}, {"ports": [80]}, {"ttl": math.nan}, {"ttl": 60, "lease": True},
    {"on_expiry": "stop"}, {"require": ["no such layer"]}, {"dry_run": "yes"}, {"mode": 5}, {"mode": "nonsense"},
], ids=lambda options: str(options)[:40])  # fmt: skip
def test_arguments_that_make_no_sense(api: support.Surface, name: str, options: dict[str, Any]) -> None:
    with pytest.raises(mvm.InvalidRequest) as refused:
        api.Sandbox.create("base", **{"name": name, **options})
    assert "the value itself" not in str(refused.value)
    assert name not in [box.name for box in api.Sandbox.list()]


def test_unknown_names(api: support.Surface) -> None:
    for act in (
        lambda: api.Sandbox.connect("no-such-box"), lambda: api.Sandbox.lookup("no-such-box"),
        lambda: api.Sandbox.create("no-such-image"), lambda: api.Sandbox.create("base", profile="no-such-profile"),
        lambda: api.Sandbox.restore("no-such-snapshot"), lambda: api.snapshots.inspect("no-such-snapshot"),
        lambda: api.snapshots.remove("no-such-snapshot"), lambda: api.receipts.show("run-0000000000000000"),
    ):  # fmt: skip
        with pytest.raises(mvm.NotFound):
            act()
    for wrong in ("", None, 5, "a\0", "--all", "\ud800"):
        with pytest.raises(mvm.InvalidRequest):
            api.Sandbox.connect(wrong)
        with pytest.raises(mvm.InvalidRequest):
            api.Sandbox.lookup(wrong)
        with pytest.raises(mvm.InvalidRequest):
            api.snapshots.remove(wrong)
    with pytest.raises(mvm.InvalidRequest):
        api.Sandbox.list(all="yes")


def test_plans_and_denials(api: support.Surface, name: str) -> None:
    ports = [mvm.PortSpec(guest_port=80, host_port=0)]
    plan = api.Sandbox.create("base", name=name, profile="restrictive", ports=ports, dry_run=True)
    assert isinstance(plan, mvm.Plan)
    assert (plan.allowed, plan.operation, plan.profile) == (False, "up", "restrictive")
    assert [denial.rule for denial in plan.denials] == ["ports.forward"]
    with pytest.raises(mvm.PolicyDenied) as denied:
        api.Sandbox.create("base", name=name, profile="restrictive", ports=ports)
    assert isinstance(denied.value, PermissionError)
    assert denied.value.denials == plan.denials
    assert all(denial.reason and denial.remedy for denial in denied.value.denials)
    assert not api.Sandbox.create("base", profile="permissive", dry_run=True).allowed
    assert api.Sandbox.create("base", profile="permissive", accept_risk=True, dry_run=True).allowed
    assert name not in [box.name for box in api.Sandbox.list(all=True)]


def test_what_a_policy_refuses_a_command_names_every_rule(create: Create) -> None:
    with create(profile="restrictive") as box:
        assert box.commands.run("id -u").stdout == "65534\n"
        with pytest.raises(mvm.PolicyDenied) as denied:
            box.commands.run(["true"], user="root", env={"A": "hush"})
        assert {denial.rule for denial in denied.value.denials} >= {"user.unprivileged", "env.variables"}
        assert "hush" not in str(denied.value)


def test_modes(api: support.Surface, monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.Sandbox.create("base", mode="live", dry_run=True).allowed
    with pytest.raises(mvm.NotRecordable):
        api.run(["true"], mode="record")
    monkeypatch.setenv("MVM_SDK_MODE", "record")
    for act in (
        lambda: api.Sandbox.create("base", dry_run=True),
        lambda: api.Sandbox.create("base", mode="live", dry_run=True),
        api.Sandbox.list,
        lambda: api.Sandbox.connect("x"),
        api.gc,
        api.snapshots.list,
    ):
        with pytest.raises(mvm.NotRecordable):
            act()
    monkeypatch.setenv("MVM_SDK_MODE", "nonsense")
    with pytest.raises(mvm.InvalidRequest, match="nonsense"):
        api.Sandbox.list()


def test_garbage_is_collected(api: support.Surface, shared: mvm.Sandbox) -> None:
    assert shared.id
    assert api.gc().live >= 1
