"""Sandboxes: made, found, changed and ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import _errors
from .._api import (
    Capability,
    DeletionReport,
    Forked,
    Inspection,
    LeaseCleanup,
    Plan,
    Port,
    SandboxInfo,
    SecretInfo,
    Snapshot,
    State,
    Stats,
)
from .._codec import Record
from . import check
from .check import PortSpec
from .steps import (
    ANSWER_LIMIT,
    WORK_LIMIT,
    Call,
    Claim,
    Invoke,
    Operation,
    Steps,
    Target,
    answer,
    encoded,
    gone,
    invoked,
    nothing,
    typed,
)

MIB = 1 << 20
# Seconds beyond which a wait's answer is late.
GRACE = 10.0


@dataclass(frozen=True)
class Made:
    """A sandbox that was made or found, and what holds its lease, if this process does."""

    target: Target
    info: SandboxInfo
    lease: Any = field(default=None, repr=False)
    created: bool = False
    warnings: tuple[str, ...] = ()
    missing_secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedSnapshot(Record):
    """A snapshot that is gone."""

    id: str
    """Its id."""
    name: str
    """Its name, free again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected(Record):
    """What `gc` found."""

    live: int
    """Sandboxes that live."""
    records_removed: int
    """Sandboxes that were destroyed and are now forgotten."""


def target(info: SandboxInfo) -> Target:
    """Where it is asked."""
    return Target(info.id, info.name, info.socket)


def create(image: Any, options: Mapping[str, Any]) -> Operation[Made]:
    """Makes a sandbox and claims its lease, if it has one."""
    request = _request("cannot create the sandbox", {**options, "image": image})
    return Operation("create", request, _made(request))


def plan(image: Any, options: Mapping[str, Any]) -> Operation[Plan]:
    """What the policy says to it; nothing is made."""
    request = _request("cannot create the sandbox", {**options, "image": image})
    step = Invoke(("up", "--request", "-", "--json", "--dry-run"), encoded(request), ANSWER_LIMIT)
    return Operation("create.plan", request, invoked(Plan, step), called="create")


def restore(snapshot: Any, options: Mapping[str, Any]) -> Operation[Made]:
    """Makes a sandbox that goes on from a snapshot."""
    what = "cannot restore the snapshot"
    request = _request(what, {**options, "snapshot": snapshot_name(what, snapshot)})
    return Operation("restore", request, _made(request))


def snapshot_name(what: str, value: Any) -> str:
    """The id of a snapshot, or the name or id that was given."""
    return check.named(what, "snapshot", value.id if isinstance(value, Snapshot) else value)


def _request(what: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A request for a sandbox, as the API takes it. What is None has the server's default."""
    given = options.get
    disk = check.optional_count(what, "disk_mib", given("disk_mib"), least=1)
    ports = given("ports", ())
    if isinstance(ports, (str, bytes)) or not isinstance(ports, Sequence):
        check.refuse(what, "ports is a list of PortSpec")
    request = {
        "name": check.optional_named(what, "name", given("name")),
        "image": check.optional_text(what, "image", given("image")),
        "cpus": check.optional_count(what, "cpus", given("cpus"), least=1),
        "memory_mib": check.optional_count(what, "memory_mib", given("memory_mib"), least=1),
        "disk_bytes": None if disk is None else disk * MIB,
        "env": check.env(what, given("env")),
        "secrets": check.env(what, given("secrets"), "secrets"),
        "ports": [check.port(what, one) for one in ports],
        "idempotency_key": check.optional_text(what, "idempotency_key", given("idempotency_key")),
        "snapshot": given("snapshot"),
        "disk_only": check.flag(what, "disk_only", given("disk_only", False)),
        "profile": check.optional_text(what, "profile", given("profile")),
        "accept_risk": check.flag(what, "accept_risk", given("accept_risk", False)),
        "require": check.texts(what, "require", given("require", ())),
        "allow_missing": check.texts(what, "allow_missing", given("allow_missing", ())),
        **check.ending(what, given("ttl"), given("lease"), given("owner"), given("on_expiry")),
    }
    return {key: value for key, value in request.items() if value is not None}


def _made(request: Mapping[str, Any]) -> Steps[Made]:
    # Images may have to be built first: that takes as long as it takes.
    said = yield Invoke(("up", "--request", "-", "--json"), encoded(request), None)
    info: SandboxInfo = typed(SandboxInfo, said)
    created = bool(said.get("created"))
    lease = None
    if request["lease"] and created:
        lease = yield Claim(target(info))
    warnings, missing = tuple(said.get("warnings") or ()), tuple(said.get("missing_secrets") or ())
    return Made(target(info), info, lease, created, warnings, missing)


def connect(name: Any) -> Operation[Made]:
    """Finds a live sandbox."""
    what = "cannot find the sandbox"
    name = check.named(what, "a sandbox's name", name)

    def steps() -> Steps[Made]:
        info: Inspection = yield from invoked(Inspection, _inspect(name))
        if info.state == State.DESTROYED:
            raise gone(name, info.cause)
        return Made(target(info), info)

    return Operation("connect", {"sandbox": name}, steps())


def lookup(name: Any) -> Operation[Inspection]:
    """What is known of a sandbox, also of one that was destroyed."""
    name = check.named("cannot find the sandbox", "a sandbox's name", name)
    return Operation("lookup", {"sandbox": name}, invoked(Inspection, _inspect(name)))


def _inspect(name: str) -> Invoke:
    return Invoke(("inspect", "--json", name), limit=ANSWER_LIMIT * 3)


def listing(all: Any) -> Operation[tuple[SandboxInfo, ...]]:
    """All sandboxes of this user's home."""
    args = ("ps", "--json", *(("--all",) if check.flag("cannot list the sandboxes", "all", all) else ()))

    def steps() -> Steps[tuple[SandboxInfo, ...]]:
        said = yield Invoke(args, limit=ANSWER_LIMIT * 3)
        return typed(tuple[SandboxInfo, ...], said.get("sandboxes"))

    return Operation("list", {"all": all}, steps())


def collect_garbage() -> Operation[Collected]:
    """Sets right what crashes left."""
    return Operation("gc", {}, invoked(Collected, Invoke(("gc", "--json"))))


def inspect(of: Target) -> Operation[Inspection]:
    """Everything about it."""
    return _asked("inspect", of, Inspection, Call(of, "GET", "/v1/sandbox"))


def capabilities(of: Target) -> Operation[tuple[Capability, ...]]:
    """What its backend can do."""

    def steps() -> Steps[tuple[Capability, ...]]:
        said: Inspection = yield from answer(Inspection, Call(of, "GET", "/v1/sandbox"))
        return said.capabilities

    return Operation("capabilities", {"sandbox": of.id}, steps())


def stats(of: Target) -> Operation[Stats]:
    """What it uses."""
    return _asked("stats", of, Stats, Call(of, "GET", "/v1/sandbox/stats"))


def wait(of: Target, state: Any, timeout: Any) -> Operation[SandboxInfo]:
    """Waits for a state. The server waits a minute at most, and is asked again."""
    what = f"cannot wait for the sandbox {of.name}"
    try:
        wanted = State(state).value
    except ValueError:
        check.refuse(what, f"a state is one of {', '.join(one.value for one in State)}")
    left = check.milliseconds(what, "timeout", timeout)

    def steps(left: int = left) -> Steps[SandboxInfo]:
        while True:
            some = min(left, 60_000)
            params = {"state": wanted, "timeout_ms": str(some)}
            call = Call(of, "GET", "/v1/sandbox/wait", params, limit=some / 1000 + GRACE)
            try:
                return (yield from answer(SandboxInfo, call))
            except _errors.Timeout:
                left -= some
                if left <= 0:
                    raise

    return Operation("wait", {"sandbox": of.id, "state": wanted, "timeout_ms": left}, steps())


def change(of: Target, name: str, path: str) -> Operation[SandboxInfo]:
    """A change of state: `stop`, `start`, `freeze`, `cold`, `resume`."""
    return _asked(name, of, SandboxInfo, Call(of, "POST", f"/v1/sandbox/{path}", limit=WORK_LIMIT))


def keep(of: Target, ttl: Any, expiry: Any) -> Operation[SandboxInfo]:
    """Another time to live, from now on."""
    what = f"cannot keep the sandbox {of.name}"
    body = {"ttl_ms": check.milliseconds(what, "ttl", ttl), "on_expiry": check.on_expiry(what, expiry)}
    return _asked("keep", of, SandboxInfo, Call(of, "POST", "/v1/sandbox/keep", body=encoded(body)), body)


def detach(of: Target, owner: Any, ttl: Any, expiry: Any) -> Operation[SandboxInfo]:
    """Takes it off its lease, and binds owner, time to live and what happens then."""
    what = f"cannot detach the sandbox {of.name}"
    body = check.ending(what, ttl, False, owner, expiry)
    del body["lease"]
    return _asked("detach", of, SandboxInfo, Call(of, "POST", "/v1/sandbox/detach", body=encoded(body)), body)


def destroy(of: Target) -> Operation[DeletionReport]:
    """Ends it for good. If its supervisor does not, mvmctl does."""

    def steps() -> Steps[DeletionReport]:
        call = Call(of, "POST", "/v1/sandbox/destroy", limit=15.0)
        try:
            return (yield from answer(DeletionReport, call))
        except (_errors.TransportError, _errors.SandboxUnavailable, _errors.NotFound):
            said = yield Invoke(("destroy", "--json", of.id), limit=60.0)
        return typed(tuple[DeletionReport, ...], said.get("destroyed"))[0]

    return Operation("destroy", {"sandbox": of.id}, steps())


def leave(of: Target) -> Operation[DeletionReport | None]:
    """Ends it, if it still ends with its client: another handle, or mvmctl, may have detached it meanwhile."""

    def steps() -> Steps[DeletionReport | None]:
        try:
            info: Inspection = yield from answer(Inspection, Call(of, "GET", "/v1/sandbox"))
        except _errors.NotFound:
            return None
        except (_errors.TransportError, _errors.SandboxUnavailable):
            # Its supervisor hangs or is gone. Its lease is dropped in any case, and who finds it later sees to that.
            return (yield from destroy(of).steps)
        return (yield from destroy(of).steps) if isinstance(info.cleanup, LeaseCleanup) else None

    return Operation("close", {"sandbox": of.id}, steps())


def kill(of: Target) -> Operation[DeletionReport]:
    """Ends it at once, whatever its supervisor does."""

    def steps() -> Steps[DeletionReport]:
        said = yield Invoke(("kill", "--json", of.id), limit=60.0)
        return typed(tuple[DeletionReport, ...], said.get("destroyed"))[0]

    return Operation("kill", {"sandbox": of.id}, steps())


def fork(of: Target, count: Any, options: Mapping[str, Any]) -> Operation[tuple[Made, ...]]:
    """Running copies. Each has a lease of its own, if leases were asked for."""
    what = f"cannot fork the sandbox {of.name}"
    body = {
        "count": check.count(what, "count", count, least=1),
        "name": check.optional_named(what, "name", options.get("name")),
        **check.ending(what, options.get("ttl"), options.get("lease"), options.get("owner"), options.get("on_expiry")),
    }

    def steps() -> Steps[tuple[Made, ...]]:
        forked: Forked = yield from answer(Forked, Call(of, "POST", "/v1/sandbox/fork", body=encoded(body), limit=WORK_LIMIT))
        made = []
        for info in forked.sandboxes:
            lease = (yield Claim(target(info))) if body["lease"] else None
            made.append(Made(target(info), info, lease, created=True))
        return tuple(made)

    return Operation("fork", {"sandbox": of.id, **body}, steps())


def snapshot(of: Target, name: Any) -> Operation[Snapshot]:
    """Saves it as it is at one moment."""
    body = {"name": check.optional_named(f"cannot save a snapshot of {of.name}", "name", name)}
    call = Call(of, "POST", "/v1/snapshots", body=encoded(body), limit=WORK_LIMIT)
    return _asked("snapshot", of, Snapshot, call, body)


def snapshots() -> Operation[tuple[Snapshot, ...]]:
    """All snapshots of this user's home."""

    def steps() -> Steps[tuple[Snapshot, ...]]:
        said = yield Invoke(("snapshot", "ls", "--json"))
        return typed(tuple[Snapshot, ...], said.get("snapshots"))

    return Operation("snapshots.list", {}, steps())


def inspect_snapshot(snapshot: Any) -> Operation[Snapshot]:
    """One snapshot."""
    name = snapshot_name("cannot find the snapshot", snapshot)
    step = Invoke(("snapshot", "inspect", "--json", name))
    return Operation("snapshots.inspect", {"snapshot": name}, invoked(Snapshot, step))


def remove_snapshot(snapshot: Any) -> Operation[RemovedSnapshot]:
    """Removes one."""
    name = snapshot_name("cannot remove the snapshot", snapshot)

    def steps() -> Steps[RemovedSnapshot]:
        said = yield Invoke(("snapshot", "rm", "--json", name))
        (removed,) = typed(tuple[RemovedSnapshot, ...], said.get("removed"))
        return removed

    return Operation("snapshots.remove", {"snapshot": name}, steps())


def forward(of: Target, spec: PortSpec) -> Operation[Port]:
    """Has a port of this host lead into it."""
    body = check.port("cannot forward the port", spec)
    return _asked("ports.forward", of, Port, Call(of, "POST", "/v1/ports", body=encoded(body)), body)


def ports(of: Target) -> Operation[tuple[Port, ...]]:
    """The ports that lead into it."""
    return _asked("ports.list", of, tuple[Port, ...], Call(of, "GET", "/v1/ports"))


def close_port(of: Target, port: Any, host_port: Any, host: Any) -> Operation[None]:
    """Has one lead nowhere."""
    what = "cannot close the port"
    if (port is None) == (host_port is None):
        check.refuse(what, "one port is named: by what forward() returned, or by host_port")
    if port is not None and not isinstance(port, Port):
        check.refuse(what, "a port is what forward() or list() returned", "close(host_port=8080) takes its number")
    host, host_port = (port.address, port.host_port) if port is not None else (host, host_port)
    body = {"address": check.text(what, "host", host), "host_port": check.count(what, "host_port", host_port, most=65535)}
    call = Call(of, "POST", "/v1/ports/remove", body=encoded(body))
    return _asked("ports.close", of, None, call, body)


def secrets(of: Target) -> Operation[tuple[SecretInfo, ...]]:
    """The secrets that commands in it have, without their values."""
    return _asked("secrets.list", of, tuple[SecretInfo, ...], Call(of, "GET", "/v1/secrets"))


def _asked(name: str, of: Target, wanted: Any, call: Call, body: Mapping[str, Any] | None = None) -> Operation[Any]:
    steps = nothing(call) if wanted is None else answer(wanted, call)
    return Operation(name, {"sandbox": of.id, **(body or {})}, steps)
