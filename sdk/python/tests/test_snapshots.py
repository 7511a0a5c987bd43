"""Snapshots, what is restored from them, and forks, on both surfaces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import support

import mvm

Create = Callable[..., Any]


@pytest.fixture
def saved(api: support.Surface, create: Create, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[mvm.Snapshot]:
    """A snapshot of a sandbox that had a secret and a file."""
    monkeypatch.setenv("TOKEN", "hush-hush-hush")
    with create(secrets={"TOKEN": "env:TOKEN"}) as box:
        box.files.write("/root/file", "kept", sync=True)
        snapshot = box.snapshot(name)
    yield snapshot
    removed = api.snapshots.remove(snapshot)
    assert isinstance(removed, mvm.RemovedSnapshot)
    assert (removed.id, removed.name) == (snapshot.id, name)
    with pytest.raises(mvm.NotFound):
        api.snapshots.inspect(snapshot)


def test_a_snapshot_and_what_is_restored_from_it(api: support.Surface, saved: mvm.Snapshot, name: str) -> None:
    assert (saved.name, saved.sensitive, saved.damage) == (name, True, None)
    assert saved in api.snapshots.list()
    assert api.snapshots.inspect(name) == api.snapshots.inspect(saved.id) == api.snapshots.inspect(saved) == saved
    with api.Sandbox.restore(saved, name=f"{name}-r", env={"B": "c"}) as box:
        assert (box.created, box.leased, box.name, box.missing_secrets) == (True, True, f"{name}-r", ("TOKEN",))
        assert box.commands.run("cat /root/file; echo $B").stdout == "keptc\n"
    support.ended(box.id)
    with api.Sandbox.restore(name, name=f"{name}-d", disk_only=True, ttl=60) as box:
        assert not box.leased
        assert box.files.read("/root/file") == b"kept"
        box.destroy()
    for options in ({"disk_only": 1}, {"name": "UPPER"}, {"ttl": math.nan}, {"snapshot": 5}, {"snapshot": ""}, {"env": 5}):
        with pytest.raises(mvm.InvalidRequest):
            api.Sandbox.restore(**{"snapshot": saved, **options})
    with pytest.raises((mvm.RestoreRefused, mvm.InvalidRequest), match="profile"):
        api.Sandbox.restore(saved, profile="dev", name=f"{name}-p")


def test_forks(create: Create, name: str) -> None:
    with create() as box:
        box.files.write("/root/file", "before")
        one, other = box.fork(2, name=name)
        assert [copy.name for copy in (one, other)] == [f"{name}-1", f"{name}-2"]
        assert all(copy.leased and copy.created for copy in (one, other))
        one.files.write("/root/file", "after")
        assert [copy.files.read("/root/file") for copy in (box, one, other)] == [b"before", b"after", b"before"]
        with one, other:
            pass
        support.ended(one.id)
        support.ended(other.id)
        (kept,) = box.fork(ttl=60, owner="me")
        assert (kept.leased, kept.info.owner, kept.info.cleanup.ttl) == (False, "me", 60.0)
        kept.destroy()
        for wrong in (0, -1, True, "2", 1.5, 10**30):
            with pytest.raises(mvm.InvalidRequest):
                box.fork(wrong)
        with pytest.raises(mvm.MvmError):
            box.fork(1000)
        for options in ({"name": "UPPER"}, {"name": 5}, {"ttl": -1}, {"lease": "yes"}, {"ttl": 5, "lease": True}):
            with pytest.raises(mvm.InvalidRequest):
                box.fork(**options)
