"""What type checkers know of the SDK: never run, only checked, by mypy and by pyright."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path, PurePosixPath

from typing_extensions import assert_type

import mvm


def made(dry: bool) -> None:
    assert_type(mvm.Sandbox.create(), mvm.Sandbox)
    assert_type(mvm.Sandbox.create("base", dry_run=False, ttl=timedelta(hours=1)), mvm.Sandbox)
    assert_type(mvm.Sandbox.create("base", dry_run=True, cpus=2), mvm.Plan)
    mvm.Sandbox.create(dry_run=dry)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mvm.Sandbox.create("base", "box")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    mvm.Sandbox.create(memory="1G")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    mvm.Sandbox.create(cpus="2")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert_type(mvm.run(["true"]), mvm.RunResult)
    assert_type(mvm.run("true", dry_run=True), mvm.Plan)
    assert_type(mvm.Sandbox.connect("box"), mvm.Sandbox)
    assert_type(mvm.Sandbox.list(), tuple[mvm.SandboxInfo, ...])
    assert_type(mvm.Sandbox.lookup("box").deletion, mvm.DeletionReport | None)


def used(box: mvm.Sandbox) -> None:
    with box as entered:
        assert_type(entered, mvm.Sandbox)
    result = box.commands.run(["true"], timeout=1.5, stdin=b"", env={"A": "b"})
    assert_type(result, mvm.CommandResult)
    assert_type(result.exit_code, int | None)
    assert_type(result.not_started, mvm.NotStarted | None)
    assert_type(result.stdout, str)
    assert_type(result.receipt(), mvm.Receipt)
    box.commands.run(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    box.commands.run(["true"], 5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    job = box.commands.start(["true"])
    for piece in job:
        assert_type(piece, mvm.Output | mvm.OutputGap)
    assert_type(job.wait(), mvm.JobResult)
    box.files.write(PurePosixPath("/a"), "text")
    box.files.write(Path("/a"), 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(box.files.stream("/a"), Iterator[bytes])
    assert_type(box.files.write_many({"/a": "x", "/b": b"y"}), list[mvm.Written])
    for entry in box.logs():
        assert_type(entry, mvm.LogLine | mvm.LogGap)
    assert_type(box.state(), mvm.State)
    assert_type(box.fork(2), list[mvm.Sandbox])
    assert_type(box.snapshot(), mvm.Snapshot)
    assert_type(box.destroy(), mvm.DeletionReport)
    assert_type(box.info.cleanup, mvm.TtlCleanup | mvm.LeaseCleanup | mvm.ExplicitCleanup)
    box.ports.forward(guest_port=80)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    box.info.name = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def awaited(box: mvm.AsyncSandbox) -> None:
    assert_type(await mvm.AsyncSandbox.create(), mvm.AsyncSandbox)
    assert_type(await mvm.AsyncSandbox.create(dry_run=True), mvm.Plan)
    assert_type(await mvm.async_run(["true"]), mvm.AsyncRunResult)
    assert_type(await mvm.async_run(["true"], dry_run=True), mvm.Plan)
    async with box as entered:
        assert_type(entered, mvm.AsyncSandbox)
    result = await box.commands.run(["true"])
    assert_type(result, mvm.AsyncCommandResult)
    assert_type(await result.receipt(), mvm.Receipt)
    job = await box.commands.start(["true"])
    async for piece in job:
        assert_type(piece, mvm.Output | mvm.OutputGap)
    async for entry in box.logs():
        assert_type(entry, mvm.LogLine | mvm.LogGap)
    assert_type(box.files.stream("/a"), AsyncIterator[bytes])
    assert_type(await box.fork(), list[mvm.AsyncSandbox])
    assert_type(await mvm.async_snapshots.list(), tuple[mvm.Snapshot, ...])


def caught() -> None:
    try:
        mvm.run(["true"], check=True)
    except mvm.PolicyDenied as denied:
        assert_type(denied.denials, tuple[mvm.Denial, ...])
    except mvm.MvmError as error:
        assert_type(error.hint, str)
        assert_type(error.errno, int | None)
        assert_type(error.code, mvm.ErrorCode)


@mvm.app(
    name="web",
    source=mvm.local_path(".", include=["**/*.py"]),
    image=mvm.debian(packages=["nodejs"]),
    resources=mvm.resources(cpus=2),
    network=mvm.network(ports=[mvm.port(guest=80, host=0)]),
    env={"A": mvm.literal("1"), "B": mvm.secret("env:B")},
    entrypoint=mvm.entrypoint_function(module="web", function="declared"),
    ttl=60.5,
    on_expiry="cold",
)
def declared(count: int) -> str:
    return str(count)


def declarations() -> None:
    assert_type(declared(1), str)
    declared("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mvm.app()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    mvm.app(name="a", env={"A": "1"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    mvm.app(name="a", on_expiry="later")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mvm.network(mode="allow")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mvm.port(guest=80)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
