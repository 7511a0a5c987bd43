"""What is asked of this machine and not of one sandbox: snapshots, receipts, one-shot runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, overload

from .._api import Plan, Snapshot
from .._core import once, receipts, results, sandboxes
from .._core.options import RunOptions
from .._core.receipts import Opening, Receipt, Verification
from .._core.sandboxes import Collected, RemovedSnapshot
from .transport import AsyncTransport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncSnapshots:
    """The snapshots of this user's home. Each holds the memory of a guest, and whatever secrets were in it."""

    async def list(self) -> tuple[Snapshot, ...]:
        """All of them."""
        return await AsyncTransport().perform(sandboxes.snapshots())

    async def inspect(self, snapshot: str | Snapshot) -> Snapshot:
        """One of them, by name or id; `damage` says whether it is whole."""
        return await AsyncTransport().perform(sandboxes.inspect_snapshot(snapshot))

    async def remove(self, snapshot: str | Snapshot) -> RemovedSnapshot:
        """Removes one. What was restored from it goes on."""
        return await AsyncTransport().perform(sandboxes.remove_snapshot(snapshot))


class AsyncReceipts:
    """Receipts: signed statements of what ran, which anybody can check who has the public key.

    mvmctl makes and checks them, in processes of its own.
    """

    async def show(self, run_id: str, *, sandbox: str | None = None) -> Receipt:
        """The receipt of a command that has ended, also after its sandbox is gone. `sandbox` tells copies apart, by id."""
        return await AsyncTransport().perform(receipts.show(run_id, sandbox))

    async def verify(
        self,
        receipt: str | os.PathLike[str] | Receipt,
        *,
        keys: Iterable[str | os.PathLike[str]] | None = None,
        proof: str | os.PathLike[str] | None = None,
        opening: str | os.PathLike[str] | Opening | None = None,
    ) -> Verification:
        """Checks a receipt, and its place in the audit log if the proof is beside it.

        Args:
            receipt: the receipt, or its file.
            keys: files with public keys in PEM, one of which has signed it; the keys of this home if left out.
            proof: the proof's file; `PATH.tlog-proof` if left out.
            opening: an opening, or its file, which is checked against it.
        """
        with receipts.on_disk(receipt, opening) as (path, opened):
            return await AsyncTransport().perform(receipts.verify(path, keys, proof, opened))

    async def open(self, path: str | os.PathLike[str], field: str, *, value: str | os.PathLike[str] | None = None) -> Opening:
        """Proves one value behind a receipt of this home: `argv`, `env`, `stdin`, `stdout` or `stderr`.

        `value` is a file with it, where the private record does not have it. The opening shows the value to whoever gets it.
        """
        return await AsyncTransport().perform(receipts.open_field(path, field, value))


@dataclass(frozen=True, kw_only=True)
class AsyncRunResult(results.RunResultBase):
    """How a one-shot run ended, what it wrote, and what it ran in."""

    async def receipt(self) -> Receipt:
        """The receipt of the run: signed when it is first asked for."""
        return await AsyncTransport().perform(receipts.show(self.run_id, self.sandbox_id))


async def async_gc() -> Collected:
    """Sets right what crashes left, and forgets the records of destroyed sandboxes."""
    return await AsyncTransport().perform(sandboxes.collect_garbage())


@overload
async def async_run(argv: str | Sequence[str], *, dry_run: Literal[True], **options: Unpack[RunOptions]) -> Plan: ...


@overload
async def async_run(
    argv: str | Sequence[str], *, dry_run: Literal[False] = False, **options: Unpack[RunOptions]
) -> AsyncRunResult: ...


async def async_run(
    argv: str | Sequence[str],
    *,
    dry_run: bool = False,
    image: str | None = None,
    profile: str | None = None,
    cpus: int | None = None,
    memory_mib: int | None = None,
    disk_mib: int | None = None,
    env: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    stdin: str | bytes | None = None,
    timeout: float | timedelta | None = None,
    max_output: int | None = None,
    check: bool = False,
    accept_risk: bool = False,
    require: Sequence[str] = (),
    allow_missing: Sequence[str] = (),
    receipt: str | os.PathLike[str] | None = None,
    mode: str | None = None,
) -> AsyncRunResult | Plan:
    """Runs one command in a fresh microVM, which is gone afterwards.

    Args:
        argv: program and arguments; a text is a line for the guest's `/bin/sh -c`.
        dry_run: run nothing, and return the plan: what the policy says to it.
        image: `debian` (the default), `base`, or one of your own.
        profile: the policy that decides: `restrictive`, `standard` (the default), `dev`, `permissive`, or one of your own.
        cpus: virtual processors; 1 if left out.
        memory_mib: memory in MiB; 256 if left out.
        disk_mib: size of its disk in MiB; 4096 if left out.
        env: variables. Nothing of this process's environment is passed on.
        secrets: variables whose values are elsewhere, `env:VAR` or `file:PATH`, and are redacted in its output.
        cwd: directory of the guest to start in.
        user: user of the guest: name, uid, name:group or uid:gid.
        stdin: what it reads; nothing if left out.
        timeout: seconds after which it is killed and `Timeout` raised, with the result until then.
        max_output: bytes of each output stream that are kept, the first ones, 8 MiB if left out; all are read and counted.
            The profile may pass on less; asking for more than it does is refused.
        check: raise `CommandFailed` unless it ends with exit code 0.
        accept_risk: you know that `permissive` refuses nothing.
        require: layers of isolation that must apply besides the profile's.
        allow_missing: layers that the profile demands and that may be missing.
        receipt: a file of this host for its receipt; the proof that it is logged goes beside it (`.tlog-proof`).
        mode: `live`; what `MVM_SDK_MODE` says if left out. What runs once cannot be recorded: a workload is a sandbox.
    """
    request = once.one_shot(
        argv,
        {
            "dry_run": dry_run,
            "image": image,
            "profile": profile,
            "cpus": cpus,
            "memory_mib": memory_mib,
            "disk_mib": disk_mib,
            "env": env,
            "secrets": secrets,
            "cwd": cwd,
            "user": user,
            "stdin": stdin,
            "timeout": timeout,
            "max_output": max_output,
            "check": check,
            "accept_risk": accept_risk,
            "require": require,
            "allow_missing": allow_missing,
            "receipt": receipt,
        },
    )
    said = await AsyncTransport(mode).perform(once.run_once(request))
    if isinstance(said, Plan):
        return said
    fields, failure = said
    result = AsyncRunResult(**fields)
    results.judged(result, failure, check=request.check)
    return result
