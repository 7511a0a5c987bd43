"""What only the asynchronous surface has: tasks that are cancelled, event loops that end, trio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import anyio
import pytest
import support
from anyio.lowlevel import checkpoint

import mvm

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_a_sandbox_from_its_beginning_to_its_end(name: str, tmp_path: object) -> None:
    async with await mvm.AsyncSandbox.create("base", name=name) as box:
        assert (await box.commands.run(["echo", "hello"])).stdout == "hello\n"
        job = await box.commands.start(["cat"], stdin=True)
        await job.write("in")
        await job.close_stdin()
        assert [piece async for piece in job] == [mvm.Output(data=b"in", offset=0, stream=mvm.Stream.STDOUT)]

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(3):
                await checkpoint()
                yield b"x" * 100_000

        assert (await box.files.write("/root/file", pieces())).bytes == 300_000
        assert len(b"".join([piece async for piece in box.files.stream("/root/file")])) == 300_000
        assert (await box.commands.run(["cat"], stdin=b"y" * 1_000_000)).stdout_bytes == 1_000_000
        (copy,) = await box.fork()
        await copy.close()
        async with box.logs() as log:
            assert [entry async for entry in log]
    support.ended(box.id)
    assert (await mvm.async_run(["true"], image="base")).ok


async def test_callbacks_may_be_awaited(shared: mvm.Sandbox) -> None:
    told = []

    async def tell(text: str) -> None:
        await checkpoint()
        told.append(text)

    async with await mvm.AsyncSandbox.connect(shared.id) as box:
        await box.commands.run(["echo", "hello"], on_stdout=tell)
    assert told == ["hello\n"]


async def test_many_tasks_share_a_handle(shared: mvm.Sandbox) -> None:
    said = {}

    async def work(number: int) -> None:
        said[number] = (await box.commands.run(["echo", str(number)])).stdout

    async with await mvm.AsyncSandbox.connect(shared.id) as box, anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(work, number)
        # The handle is closed when all is done.
    assert said == {number: f"{number}\n" for number in range(8)}


async def test_a_cancelled_command_ends_with_its_tree(shared: mvm.Sandbox) -> None:
    async with await mvm.AsyncSandbox.connect(shared.id) as box:
        with anyio.move_on_after(0.5) as scope:
            await box.commands.run("sleep 4712 & sleep 4712", stdin=b"x")
        assert scope.cancelled_caught
        await support.aborted(box, "sleep 471[2]")


async def test_a_cancelled_scope_still_ends_its_sandbox(name: str) -> None:
    with anyio.move_on_after(1):
        async with await mvm.AsyncSandbox.create("base", name=name) as box:
            await anyio.sleep(1000)
    support.ended(box.id)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_cancelled_creation_leaves_nothing(name: str) -> None:
    for moment in (0.01, 0.05, 0.1, 0.15, 0.2):
        with anyio.move_on_after(moment):
            box = await mvm.AsyncSandbox.create("base", name=f"{name}-{int(moment * 100)}")
            await box.close()
    for one in await mvm.AsyncSandbox.list():
        if one.name.startswith(f"{name}-"):
            support.gone(one.id)


async def test_an_error_in_a_scope_is_in_no_group(shared: mvm.Sandbox) -> None:
    def tell(text: str) -> None:
        raise KeyError("mine")

    async with await mvm.AsyncSandbox.connect(shared.id) as box:
        with pytest.raises(KeyError, match="mine"):
            await box.commands.run("cat; echo; sleep 1000", stdin=b"x", on_stdout=tell)
        with pytest.raises(mvm.CommandFailed):
            await box.commands.run("cat; exit 3", stdin=b"x", check=True)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_tasks_of_asyncio_that_are_cancelled(name: str) -> None:
    box = await mvm.AsyncSandbox.create("base", name=name)
    task = asyncio.create_task(box.commands.run("sleep 4713"))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await support.aborted(box, "sleep 471[3]")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(box.commands.run("sleep 1000"), 0.3)
    await box.close()
    for pause in (0.0, 0.02, 0.1, 0.2):
        task = asyncio.create_task(_made(f"{name}-{int(pause * 100)}"))
        await asyncio.sleep(pause)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    for one in await mvm.AsyncSandbox.list():
        if one.name.startswith(f"{name}-"):
            support.gone(one.id)


async def _made(name: str) -> None:
    box = await mvm.AsyncSandbox.create("base", name=name)
    await box.close()


def test_a_handle_belongs_to_its_event_loop_and_can_be_closed_in_another(name: str) -> None:
    async def make() -> mvm.AsyncSandbox:
        box = await mvm.AsyncSandbox.create("base", name=name)
        await box.commands.run(["true"])
        return box

    async def use(box: mvm.AsyncSandbox) -> None:
        for act in (box.state, lambda: box.commands.run("true"), lambda: box.files.read("/etc/hostname"), box.__aenter__):
            with pytest.raises(mvm.ClosedHandle, match="another event loop"):
                await act()
        await box.close()
        await box.close()
        with pytest.raises(mvm.ClosedHandle):
            await box.state()

    box = asyncio.run(make())
    assert box.leased
    asyncio.run(use(box))
    assert not box.leased
    support.ended(box.id)


def test_destroying_in_another_event_loop_gives_the_report(name: str) -> None:
    box = asyncio.run(mvm.AsyncSandbox.create("base", name=name))
    report = anyio.run(box.destroy, backend="trio")
    assert report.id == box.id
    support.ended(box.id)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_asyncio_cancels_while_it_destroys_has_destroyed(name: str) -> None:
    box = await mvm.AsyncSandbox.create("base", name=name, lease=False)
    destroying = asyncio.ensure_future(box.destroy())
    await asyncio.sleep(0)
    destroying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await destroying
    assert (await mvm.AsyncSandbox.lookup(box.id)).state == mvm.State.DESTROYED


async def test_a_write_that_is_cancelled_leaves_no_thread_and_no_half_of_itself(shared: mvm.Sandbox) -> None:
    async with await mvm.AsyncSandbox.connect(shared.id) as box:
        job = await box.commands.start(["sleep", "1000"], stdin=True)
        with anyio.move_on_after(0.3) as scope:
            await job.write(bytes(8 << 20))
        assert scope.cancelled_caught
        with pytest.raises(mvm.InvalidState):
            await job.write("more")
        await job.kill()


async def test_who_leaves_a_scope_does_not_end_what_another_handle_has_detached(name: str) -> None:
    async with await mvm.AsyncSandbox.create("base", name=name):
        other = await mvm.AsyncSandbox.connect(name)
        await other.detach(ttl=600)
    assert await other.state() == mvm.State.RUNNING
    await other.destroy()
