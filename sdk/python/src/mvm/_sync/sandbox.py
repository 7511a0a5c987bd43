# Written by `make sdk-types` from mvm/_async; changes here are lost.
"""A sandbox: a microVM that stays as long as somebody answers for it."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Literal, overload

from .._api import (
    Capability,
    DeletionReport,
    Inspection,
    LogSource,
    OnExpiry,
    Plan,
    SandboxInfo,
    Snapshot,
    State,
    Stats,
)
from .._core import check, logs, sandboxes
from .._core.check import PortSpec
from .._core.options import CreateOptions
from .._core.sandboxes import Made
from .commands import Commands
from .files import Files
from .handle import Handle
from .logs import Logs
from .ports import Ports, Secrets
from .transport import Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Sandbox:
    """A handle of a sandbox: a virtual machine of its own, with a kernel of its own, no network and nothing of this host.

    As long as the handle owns the sandbox's lease (`leased`), the sandbox lives no longer than it, and no longer than this
    process, however that ends. Leaving the `with` block of such a handle destroys the sandbox; of any other it only closes
    the handle.
    """

    def __init__(self, made: Made, transport: Transport) -> None:
        """Not for callers: `create`, `connect`, `restore` and `fork` make handles."""
        self._made = made
        self._handle = Handle(made.target, transport, made.lease)
        self._report: DeletionReport | None = None
        self.commands = Commands(self._handle)
        """Its commands."""
        self.files = Files(self._handle)
        """Its files."""
        self.ports = Ports(self._handle)
        """The ports of this host that lead into it."""
        self.secrets = Secrets(self._handle)
        """The secrets that its commands have."""

    def __repr__(self) -> str:
        target = self._made.target
        return f"<Sandbox {target.name} ({target.id}){', leased' if self.leased else ''}>"

    @overload
    @classmethod
    def create(cls, image: str = "debian", *, dry_run: Literal[True], **options: Unpack[CreateOptions]) -> Plan: ...

    @overload
    @classmethod
    def create(
        cls, image: str = "debian", *, dry_run: Literal[False] = False, **options: Unpack[CreateOptions]
    ) -> Sandbox: ...

    @classmethod
    def create(
        cls,
        image: str = "debian",
        *,
        dry_run: bool = False,
        name: str | None = None,
        profile: str | None = None,
        cpus: int | None = None,
        memory_mib: int | None = None,
        disk_mib: int | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        ports: Sequence[PortSpec] = (),
        ttl: float | timedelta | None = None,
        owner: str | None = None,
        on_expiry: OnExpiry | str | None = None,
        lease: bool | None = None,
        idempotency_key: str | None = None,
        accept_risk: bool = False,
        require: Sequence[str] = (),
        allow_missing: Sequence[str] = (),
        mode: str | None = None,
    ) -> Sandbox | Plan:
        """Makes a sandbox, and returns when commands can run in it.

        It ends in one of three ways. With its lease: it lives as long as the handle and this process. After a time, if a
        `ttl` is given, or `lease=False`: it outlives both. When somebody asks: `ttl=math.inf`, for which an `owner` answers.

        Args:
            image: `debian`, `base`, or one of your own.
            dry_run: make nothing, and return the plan: what the policy says to it.
            name: lower-case letters, digits and hyphens; made up if left out.
            profile: the policy that decides about it: `restrictive`, `standard` (the default), `dev`, `permissive`, or one of
                your own.
            cpus: virtual processors; 1 if left out.
            memory_mib: memory in MiB; 256 if left out.
            disk_mib: size of its disk in MiB; 4096 if left out. It takes space on the host only as it fills.
            env: variables of every command in it. Nothing of this process's environment is passed on.
            secrets: variables whose values are elsewhere, `env:VAR` or `file:PATH`, and are redacted in all output.
            ports: ports of this host that lead into it.
            ttl: seconds until it ends by itself; without a lease an hour, or what the profile allows.
            owner: who answers for it.
            on_expiry: what happens when its time is up: `destroy` (the default), `stop` or `cold`.
            lease: whether it ends with this handle and process; True unless a `ttl` is given.
            idempotency_key: a repeated request with this key finds the sandbox that the first one made (`created` is False).
            accept_risk: you know that `permissive` refuses nothing.
            require: layers of isolation that must apply besides the profile's.
            allow_missing: layers that the profile demands and that may be missing.
            mode: `live` or `record`; what `MVM_SDK_MODE` says if left out, and else `live`. `record` makes nothing, and writes
                down what is done with the sandbox, for a workload to be made of it (docs/recording.md).

        Raises:
            PolicyDenied: the profile refuses it; `denials` has every rule, why, and what would allow it.
            AlreadyExists: there is one of this name.
            NotFound: there is no such image or profile, or no mvmctl.
            InvalidRequest: no sandbox can be so.
        """
        options = {
            "name": name,
            "profile": profile,
            "cpus": cpus,
            "memory_mib": memory_mib,
            "disk_mib": disk_mib,
            "env": env,
            "secrets": secrets,
            "ports": ports,
            "ttl": ttl,
            "owner": owner,
            "on_expiry": on_expiry,
            "lease": lease,
            "idempotency_key": idempotency_key,
            "accept_risk": accept_risk,
            "require": require,
            "allow_missing": allow_missing,
        }
        transport = Transport(mode)
        if check.flag("cannot create the sandbox", "dry_run", dry_run):
            return transport.perform(sandboxes.plan(image, options))
        return cls(transport.perform(sandboxes.create(image, options)), transport)

    @classmethod
    def connect(cls, name: str) -> Sandbox:
        """A handle of a sandbox that is there, by name or id. It owns no lease. `NotFound` if there is none, or no more."""
        transport = Transport()
        return cls(transport.perform(sandboxes.connect(name)), transport)

    @classmethod
    def restore(
        cls,
        snapshot: str | Snapshot,
        *,
        name: str | None = None,
        disk_only: bool = False,
        profile: str | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        ttl: float | timedelta | None = None,
        owner: str | None = None,
        on_expiry: OnExpiry | str | None = None,
        lease: bool | None = None,
        idempotency_key: str | None = None,
        ports: Sequence[PortSpec] = (),
        accept_risk: bool = False,
        require: Sequence[str] = (),
        allow_missing: Sequence[str] = (),
        mode: str | None = None,
    ) -> Sandbox:
        """Makes a sandbox that goes on from a snapshot, with an identity and random numbers of its own.

        Args:
            snapshot: the snapshot, or its name or id.
            name: its name; made up if left out.
            disk_only: boot on the snapshot's disk alone; what was in memory is gone.
            profile: the policy that decides; memory goes on only under the one that it was saved under.
            env: more variables of every command in it.
            secrets: references to secrets; those of the snapshot's sandbox are not kept with it.
            ttl, owner, on_expiry, lease, idempotency_key, ports, accept_risk, require, allow_missing, mode: as of `create`.

        Raises:
            RestoreRefused: memory cannot go on here; the text says what does not match.
            NotFound: there is no such snapshot.
        """
        transport = Transport(mode)
        options = {
            "name": name,
            "disk_only": disk_only,
            "profile": profile,
            "env": env,
            "secrets": secrets,
            "ttl": ttl,
            "owner": owner,
            "on_expiry": on_expiry,
            "lease": lease,
            "idempotency_key": idempotency_key,
            "ports": ports,
            "accept_risk": accept_risk,
            "require": require,
            "allow_missing": allow_missing,
        }
        return cls(transport.perform(sandboxes.restore(snapshot, options)), transport)

    @staticmethod
    def list(*, all: bool = False) -> tuple[SandboxInfo, ...]:
        """The sandboxes of this user's home; with `all` those too that were destroyed."""
        return Transport().perform(sandboxes.listing(all))

    @staticmethod
    def lookup(name: str) -> Inspection:
        """Everything about a sandbox, by name or id, also about one that was destroyed (`deletion`). Makes no handle."""
        return Transport().perform(sandboxes.lookup(name))

    @property
    def id(self) -> str:
        """Its id, never used again."""
        return self._made.info.id

    @property
    def name(self) -> str:
        """Its name."""
        return self._made.info.name

    @property
    def info(self) -> SandboxInfo:
        """What it was when this handle was made."""
        return self._made.info

    @property
    def created(self) -> bool:
        """Whether this handle's call made it; False if it was connected to, or found by its idempotency key."""
        return self._made.created

    @property
    def warnings(self) -> tuple[str, ...]:
        """What there is to say about how its secrets are kept."""
        return self._made.warnings

    @property
    def missing_secrets(self) -> tuple[str, ...]:
        """Secrets of the snapshot's sandbox that this one, restored from it, was not given."""
        return self._made.missing_secrets

    @property
    def leased(self) -> bool:
        """Whether the sandbox ends with this handle."""
        return self._handle.leased

    def inspect(self) -> Inspection:
        """Everything about it: state and history, policy, isolation, capabilities."""
        return self._handle.perform(sandboxes.inspect(self._made.target))

    def state(self) -> State:
        """Its state now."""
        operation = sandboxes.inspect(self._made.target).known_as("state")
        return (self._handle.perform(operation)).state

    def capabilities(self) -> tuple[Capability, ...]:
        """What its backend can do, and what not."""
        return self._handle.perform(sandboxes.capabilities(self._made.target))

    def stats(self) -> Stats:
        """What it uses: processor time, memory, disk."""
        return self._handle.perform(sandboxes.stats(self._made.target))

    def wait(self, state: State | str, *, timeout: float | timedelta = 60.0) -> SandboxInfo:
        """Waits until it is in a state, for so many seconds. `Timeout` if it is not by then."""
        return self._handle.perform(sandboxes.wait(self._made.target, state, timeout))

    def logs(
        self,
        *,
        follow: bool = False,
        since: datetime | timedelta | float | None = None,
        until: datetime | timedelta | float | None = None,
        tail: int | None = None,
        source: LogSource | str | None = None,
        redact: bool = True,
    ) -> Logs:
        """Its log: what its console printed, what its jobs wrote, and what was done with it. Iterate over it once.

        Args:
            follow: go on as more comes, to its end.
            since: only from this time on: a `datetime`, or so long ago (seconds or a `timedelta`).
            until: only until this time.
            tail: only the last lines, so many.
            source: only what came from there: `console`, `supervisor` or `job`.
            redact: hide what looks like a credential. Known secrets are hidden in any case.
        """
        return Logs(self._handle, logs.logs(self._made.target, follow, since, until, tail, source, redact))

    def snapshot(self, name: str | None = None) -> Snapshot:
        """Saves its memory, disk and commands as they are at one moment; it goes on. That is as sensitive as they are."""
        return self._handle.perform(sandboxes.snapshot(self._made.target, name))

    def fork(
        self,
        count: int = 1,
        *,
        name: str | None = None,
        ttl: float | timedelta | None = None,
        owner: str | None = None,
        on_expiry: OnExpiry | str | None = None,
        lease: bool | None = None,
    ) -> builtins.list[Sandbox]:
        """Makes running copies of it, all or none, which share its memory and disk until they write. It goes on too.

        Args:
            count: how many.
            name: they are called this, a hyphen and a number; made up from its own if left out.
            owner: who answers for them; its own owner if left out.
            ttl, on_expiry, lease: as of `create`; each copy has a lease of its own, which its handle owns.
        """
        options = {"name": name, "ttl": ttl, "owner": owner, "on_expiry": on_expiry, "lease": lease}
        copies = self._handle.perform(sandboxes.fork(self._made.target, count, options))
        return [Sandbox(made, Transport()) for made in copies]

    def stop(self) -> SandboxInfo:
        """Ends its machine and keeps its disk."""
        return self._handle.perform(sandboxes.change(self._made.target, "stop", "stop"))

    def start(self) -> SandboxInfo:
        """Boots it on its disk, after `stop`."""
        return self._handle.perform(sandboxes.change(self._made.target, "start", "start"))

    def freeze(self) -> SandboxInfo:
        """Stops its processors; its memory stays where it is."""
        return self._handle.perform(sandboxes.change(self._made.target, "freeze", "freeze"))

    def cold(self) -> SandboxInfo:
        """Saves its memory with its disk, and ends all that runs of it."""
        return self._handle.perform(sandboxes.change(self._made.target, "cold", "pause"))

    def resume(self) -> SandboxInfo:
        """Has it go on where it was, after `freeze` or `cold`."""
        return self._handle.perform(sandboxes.change(self._made.target, "resume", "resume"))

    def keep(self, ttl: float | timedelta, *, on_expiry: OnExpiry | str | None = None) -> SandboxInfo:
        """Gives it another time to live, in seconds from now. For one that has a lease there is `detach`."""
        return self._handle.perform(sandboxes.keep(self._made.target, ttl, on_expiry))

    def detach(
        self,
        *,
        owner: str | None = None,
        ttl: float | timedelta | None = None,
        on_expiry: OnExpiry | str | None = None,
    ) -> SandboxInfo:
        """Has it outlive this handle and this process: from now on it ends after a time, or when its owner asks.

        Args:
            owner: who answers for it.
            ttl: seconds until it ends; an hour, or what its profile allows, if left out; `math.inf` for none.
            on_expiry: what happens then: `destroy` (the default), `stop` or `cold`.
        """
        info = self._handle.perform(sandboxes.detach(self._made.target, owner, ttl, on_expiry))
        self._handle.drop_lease()
        return info

    def destroy(self) -> DeletionReport:
        """Ends it for good, and closes the handle. The report says what was deleted, and what that does not mean."""
        if self._report is None:
            self._report = self._handle.transport.perform_last(sandboxes.destroy(self._made.target))
            self._shut("its sandbox was destroyed")
        return self._report

    def kill(self) -> DeletionReport:
        """The same at once, whatever its supervisor does."""
        if self._report is None:
            self._report = self._handle.transport.perform_last(sandboxes.kill(self._made.target))
            self._shut("its sandbox was killed")
        return self._report

    def close(self) -> None:
        """Ends the use of the handle: destroys the sandbox if the handle owns its lease, and otherwise leaves it alone.

        A sandbox that was detached meanwhile, through another handle or by mvmctl, goes on.
        """
        try:
            if self._handle.leased:
                self._report = self._handle.transport.perform_last(sandboxes.leave(self._made.target))
        finally:
            # Without the lease it ends in any case.
            self._shut("it was closed")

    def _shut(self, why: str) -> None:
        self._handle.drop_lease()
        self._handle.transport.close(why)

    def __enter__(self) -> Sandbox:
        self._handle.transport.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception:
            # What went wrong inside is what there is to know; the lease has ended the sandbox.
            if error is None:
                raise
