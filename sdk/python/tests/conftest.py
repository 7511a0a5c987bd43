from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import support

import mvm

_numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Whatever the tests do, no sandbox of theirs stays."""
    yield
    mine = [box for box in mvm.Sandbox.list() if box.name.startswith(support.PREFIX)]
    for box in mine:
        support.gone(box.id)
    snapshots = [snapshot.name for snapshot in mvm.snapshots.list() if snapshot.name.startswith(support.PREFIX)]
    assert snapshots == []


@pytest.fixture(scope="session", params=["sync", "asyncio"])
def api(request: pytest.FixtureRequest) -> Iterator[support.Surface]:
    """Both surfaces, one after the other, as if they were one."""
    with support.surface(request.param) as surface:
        yield surface


@pytest.fixture(scope="session")
def shared() -> Iterator[mvm.Sandbox]:
    """A running sandbox for what does not change its state."""
    with mvm.Sandbox.create("base", name=f"{support.PREFIX}-shared") as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def box(api: support.Surface, shared: mvm.Sandbox) -> Iterator[Any]:
    """A handle of it, of either surface."""
    with api.Sandbox.connect(shared.name) as handle:
        yield handle


@pytest.fixture
def name() -> str:
    """A name that no other sandbox has."""
    return f"{support.PREFIX}-{next(_numbers)}"


@pytest.fixture
def create(api: support.Surface, name: str) -> Iterator[Callable[..., Any]]:
    """Makes a sandbox that is gone after the test, whatever the test did to its handle."""
    made: list[str] = []

    def make(**options: Any) -> Any:
        handle = api.Sandbox.create("base", **{"name": f"{name}-{len(made)}", **options})
        made.append(handle.id)
        return handle

    yield make
    for id in made:
        with contextlib.suppress(mvm.NotFound):
            mvm.Sandbox.connect(id).kill()
