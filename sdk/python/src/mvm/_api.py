"""The types of the host API. Written by `make sdk-types` from docs/openapi.json; changes here are lost."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from ._codec import Record, instant, milliseconds, named

__all__ = [
    "Capability",
    "Cleanup",
    "CopyReport",
    "DeletionReport",
    "Denial",
    "Ended",
    "Enforced",
    "ErrorCode",
    "ErrorObject",
    "ExplicitCleanup",
    "FileInfo",
    "Forked",
    "GapCause",
    "Inspection",
    "JobEvent",
    "JobInfo",
    "JobResult",
    "LeaseCleanup",
    "LogEvent",
    "LogGap",
    "LogLine",
    "LogRule",
    "LogSource",
    "LogSummary",
    "Machine",
    "NotStarted",
    "OnExpiry",
    "Output",
    "OutputGap",
    "Plan",
    "PlanLine",
    "Port",
    "PortStatus",
    "Removed",
    "SandboxInfo",
    "SecretInfo",
    "SecretKind",
    "Skipped",
    "Snapshot",
    "Started",
    "State",
    "Stats",
    "Stream",
    "Transition",
    "TtlCleanup",
    "Written",
]


class OnExpiry(str, enum.Enum):
    """What happens when a sandbox's time is up."""

    DESTROY = "destroy"
    STOP = "stop"
    COLD = "cold"

    __str__ = str.__str__


class ErrorCode(str, enum.Enum):
    """What kind of failure this is. Codes are stable: scripts and SDK classes are keyed by them."""

    COMMAND_FAILED = "CommandFailed"
    TIMEOUT = "Timeout"
    POLICY_DENIED = "PolicyDenied"
    INVALID_STATE = "InvalidState"
    SANDBOX_UNAVAILABLE = "SandboxUnavailable"
    NOT_FOUND = "NotFound"
    ALREADY_EXISTS = "AlreadyExists"
    FILE_ERROR = "FileError"
    RESOURCE_EXHAUSTED = "ResourceExhausted"
    BACKEND_UNSUPPORTED = "BackendUnsupported"
    RESTORE_REFUSED = "RestoreRefused"
    INCOMPATIBLE = "Incompatible"
    NOT_RECORDABLE = "NotRecordable"
    CLOSED_HANDLE = "ClosedHandle"
    TRANSPORT_ERROR = "TransportError"
    INVALID_REQUEST = "InvalidRequest"
    INTERNAL = "Internal"

    __str__ = str.__str__


class State(str, enum.Enum):
    """Where a sandbox is in its life."""

    CREATING = "creating"
    RUNNING = "running"
    FROZEN = "frozen"
    COLD = "cold"
    RESTORING = "restoring"
    STOPPED = "stopped"
    FAILED = "failed"
    DESTROYED = "destroyed"

    __str__ = str.__str__


class GapCause(str, enum.Enum):
    """Why lines are missing."""

    OVERRUN = "overrun"
    FLOOD = "flood"

    __str__ = str.__str__


class PortStatus(str, enum.Enum):
    """What becomes of a connection."""

    OPEN = "open"
    REFUSED = "refused"
    FAILED = "failed"

    __str__ = str.__str__


class Stream(str, enum.Enum):
    """Which output a piece belongs to."""

    STDOUT = "stdout"
    STDERR = "stderr"

    __str__ = str.__str__


class LogSource(str, enum.Enum):
    """Where a line came from."""

    CONSOLE = "console"
    SUPERVISOR = "supervisor"
    JOB = "job"

    __str__ = str.__str__


class SecretKind(str, enum.Enum):
    """How a secret was given."""

    ENV = "env"
    FILE = "file"
    REQUEST = "request"

    __str__ = str.__str__


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability(Record):
    """Something that a backend can do or not."""

    limits: str
    """Its limits; or why it cannot be had."""

    name: str
    """Its name, which the error `BackendUnsupported` has too."""

    supported: bool
    """Whether it can be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TtlCleanup(Record):
    """After a time, in every state and also if mvmctl is never called again."""

    TAG: ClassVar[tuple[str, str]] = ("kind", "ttl")

    expires_at: datetime = field(metadata=instant("expires_at_ms"))
    """When that is: milliseconds since 1970. A point in time (UTC)."""

    on_expiry: OnExpiry
    """What happens then."""

    ttl: float = field(metadata=milliseconds("ttl_ms"))
    """Milliseconds from when it was set. In seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseCleanup(Record):
    """Within a second of its owner's end."""

    TAG: ClassVar[tuple[str, str]] = ("kind", "lease")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplicitCleanup(Record):
    """Only when somebody asks; the owner answers for it."""

    TAG: ClassVar[tuple[str, str]] = ("kind", "explicit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped(Record):
    """Something that was not copied."""

    path: str
    """Its path where it lies, made harmless."""

    why: str
    """Why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport(Record):
    """What was copied."""

    bytes: int
    """Bytes in files."""

    directories: int
    """Directories."""

    files: int
    """Regular files."""

    links: int
    """Symbolic links."""

    skipped: tuple[Skipped, ...]
    """What was left out, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed(Record):
    """One thing that was deleted."""

    bytes: int
    """How much it was, in bytes."""

    how: str
    """How it was removed."""

    place: str
    """Where it was."""

    what: str
    """What it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionReport(Record):
    """What was deleted, and what this storage cannot promise."""

    audit_id: int | None = None
    """The entry of the audit log that recorded its end (`mvmctl audit show`)."""

    id: str
    """The sandbox's id."""

    limits: tuple[str, ...]
    """What remains, and what deletion does not mean here."""

    name: str
    """Its name, free again."""

    removed: tuple[Removed, ...]
    """What is gone, and how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial(Record):
    """Why something may not happen."""

    reason: str
    """What was asked for and what the profile says to it."""

    remedy: str
    """The flag, or the field of a profile, that would allow it."""

    rule: str
    """The rule's id (`mvmctl policy explain RULE`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforced(Record):
    """The bounds that hold for what was admitted. Null is no bound but the machine's own."""

    cpus: int
    """Virtual processors."""

    disk_bytes: int
    """Size of the disk in bytes."""

    memory_mib: int
    """Memory in MiB."""

    output_bytes: int | None = None
    """Bytes of each of a command's output streams that are passed on."""

    processes: int | None = None
    """Processes and threads of one command at once."""

    scratch_bytes: int | None = None
    """Commands cannot write to the root file system, and find this much room, in bytes, in `/tmp`."""

    timeout: float | None = field(default=None, metadata=milliseconds("timeout_ms"))
    """Milliseconds that a command may run. In seconds."""

    unprivileged: bool
    """Commands run as an ordinary user, and never gain privileges."""

    user: str
    """User of the guest that commands run as; the image's if empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorObject(Record):
    """An error: what failed, why, what to do."""

    capability: str | None = None
    """The capability that is missing, for `BackendUnsupported`."""

    code: ErrorCode
    """Stable code."""

    denials: tuple[Denial, ...] = ()
    """Every reason why a policy refused it, for `PolicyDenied`."""

    errno: int | None = None
    """The Linux error number behind it, where there is one."""

    hint: str
    """What to do about it; may be empty."""

    what: str
    """What could not be done."""

    why: str
    """The cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo(Record):
    """A file of the guest."""

    gid: int
    """Its group."""

    kind: str
    """`file`, `directory`, `symlink`, `fifo`, `socket`, `char-device`, `block-device` or `unknown`."""

    mode: int
    """Its permissions, as a number."""

    mtime: datetime = field(metadata=instant("mtime_ms"))
    """When its content changed, milliseconds since 1970. A point in time (UTC)."""

    name: str
    """Its name in its directory. Bytes that are no UTF-8 are shown as U+FFFD."""

    name_base64: str | None = None
    """The name's bytes in base64, where it is no UTF-8."""

    size: int
    """Its size in bytes."""

    target: str | None = None
    """What a symbolic link says."""

    uid: int
    """Its owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine(Record):
    """A machine's shape."""

    cpus: int
    """Virtual processors."""

    disk_bytes: int
    """Size of the disk in bytes."""

    memory_mib: int
    """Memory in MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxInfo(Record):
    """A sandbox."""

    audit_id: int | None = None
    """The entry of the audit log that authorised it (`mvmctl audit show`)."""

    cause: str
    """Why it is in this state."""

    cleanup: Cleanup
    """How it ends when nobody ends it."""

    created_at: datetime = field(metadata=instant("created_at_ms"))
    """Milliseconds since 1970. A point in time (UTC)."""

    id: str
    """Its id, `mvm-` and 12 hex digits, never used again."""

    image: str
    """Image."""

    image_digest: str
    """Digest of the image."""

    legal: tuple[str, ...]
    """What callers can ask for now."""

    machine: Machine
    """Shape."""

    name: str
    """Its name, unique among live sandboxes."""

    owner: str
    """Who answers for it; may be empty."""

    since: datetime = field(metadata=instant("since_ms"))
    """Since when, milliseconds since 1970. A point in time (UTC)."""

    socket: str
    """The Unix socket of its API."""

    state: State
    """Its state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked(Record):
    """The copies that were made: all that were asked for."""

    sandboxes: tuple[SandboxInfo, ...]
    """The copies. Each has an id, a name and an identity of its own, and the parent's commands under the same run
    ids.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition(Record):
    """A change of state."""

    at: datetime = field(metadata=instant("at_ms"))
    """Milliseconds since 1970. A point in time (UTC)."""

    cause: str
    """Why."""

    from_: State = field(metadata=named("from"))
    """Before."""

    to: State
    """After."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLine(Record):
    """What one rule came to."""

    effect: str
    """What it came to, in words."""

    rule: str
    """The rule's id (`mvmctl policy explain RULE`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Record):
    """What a policy decided about one request, before anything of it happened."""

    allowed: bool
    """Whether it may happen."""

    allowed_missing: tuple[str, ...]
    """Layers of isolation that may be missing, because the caller said so."""

    denials: tuple[Denial, ...]
    """Why it may not happen; empty if it may."""

    enforced: Enforced
    """What holds for it."""

    lines: tuple[PlanLine, ...]
    """Each rule that had a say, and what it came to."""

    operation: str
    """What was asked for: `run`, `up`, `exec`, `port`, `files.in`, `files.out`, `snapshot`, `keep`."""

    profile: str
    """The profile that decided."""

    profile_digest: str
    """SHA-256 of the profile with all that it inherits, in hex."""

    schema: str
    """`mvm.plan/v1`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port(Record):
    """A port of the host that leads into a sandbox."""

    address: str
    """The address it listens on."""

    audit_id: int | None = None
    """The entry of the audit log that authorised it, in the answer to the request that opened it."""

    connections: int
    """Connections at this moment."""

    exposed: bool
    """Whether other machines can reach it."""

    guest_port: int
    """The port in the sandbox."""

    host_port: int
    """The port of the host."""

    protocol: str
    """`tcp`."""

    rule: str
    """The rule of the policy that admitted it (`mvmctl policy explain RULE`)."""

    status: PortStatus
    """What becomes of a connection now."""

    why: str
    """Why it is so, or what became of the last connection that failed; empty if there is nothing to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection(SandboxInfo):
    """More about a sandbox."""

    capabilities: tuple[Capability, ...]
    """What its backend can do, and what not."""

    env: tuple[str, ...]
    """Names of its environment variables; their values are not shown."""

    history: tuple[Transition, ...]
    """All changes of state, the first one first."""

    isolation: Any = None
    """What keeps its machine apart from the host; null without a machine."""

    plan: Plan
    """What the policy decided when it was made."""

    ports: tuple[Port, ...]
    """Ports of the host that lead into it; none without a supervisor."""

    secrets: tuple[str, ...]
    """Names of the secrets that every command in it has; more about them says `/v1/secrets`."""

    deletion: DeletionReport | None = None
    """What was deleted; null while it lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotStarted(Record):
    """A command whose program could not be started."""

    command: str
    """The program, made harmless."""

    errno: int
    """Linux error number."""

    reason: str
    """`command_not_found` or `command_not_executable`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult(Record):
    """How a command ended. Reported only when all of its processes are gone."""

    audit_id: int = 0
    """The entry of the audit log that authorised it (`mvmctl audit show`)."""

    duration: float = field(metadata=milliseconds("duration_ms"))
    """Milliseconds from its start to its end. In seconds."""

    error: ErrorObject | None = None
    """Why there is no result: it could not be started as asked, or its machine ended first."""

    exit_code: int | None = None
    """Exit code; null if a signal ended it or it did not start."""

    not_started: NotStarted | None = None
    """Why its program could not be started."""

    oom_killed: bool
    """The guest's kernel killed something of it for lack of memory."""

    redactions: int = 0
    """How often a secret was redacted in its output."""

    run_id: str = ""
    """Its run id."""

    signal: int | None = None
    """Signal that ended it."""

    stderr_bytes: int
    """Bytes it wrote to standard error, counted before secrets were redacted."""

    stderr_truncated: bool = False
    """Whether the policy's limit kept back some of its standard error."""

    stdout_bytes: int
    """Bytes it wrote to standard output, counted before secrets were redacted."""

    stdout_truncated: bool = False
    """Whether the policy's limit kept back some of its standard output."""

    timed_out: bool
    """It was killed because its time was up."""

    unrecorded: str | None = None
    """Why its end is not on record, and no receipt can be had; null if it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo(Record):
    """A command that was started."""

    attached: bool
    """Whether it ends with the connection that started it."""

    audit_id: int
    """The entry of the audit log that authorised it (`mvmctl audit show`)."""

    end_offset: int
    """Bytes of output so far, on both streams together, as they are kept: with secrets redacted."""

    first_offset: int
    """Offset of the first byte of output that is still kept."""

    program: str
    """Its program."""

    result: JobResult | None = None
    """Its result; null while it runs."""

    run_id: str
    """Its run id."""

    started_at: datetime = field(metadata=instant("started_at_ms"))
    """When it was started, milliseconds since 1970. A point in time (UTC)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Record):
    """The job runs."""

    TAG: ClassVar[tuple[str, str]] = ("type", "started")

    audit_id: int
    """The entry of the audit log that authorised it."""

    run_id: str
    """Its run id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(Record):
    """A piece of output."""

    TAG: ClassVar[tuple[str, str]] = ("type", "output")

    data: bytes = field(repr=False)
    """The bytes, in base64."""

    offset: int
    """Where it begins, counted over both streams."""

    stream: Stream
    """Of which stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputGap(Record):
    """Output that is no longer kept."""

    TAG: ClassVar[tuple[str, str]] = ("type", "gap")

    bytes: int
    """How many bytes."""

    offset: int
    """Where it begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Record):
    """The end, always last."""

    TAG: ClassVar[tuple[str, str]] = ("type", "ended")

    result: JobResult
    """How it ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine(Record):
    """A line of the log."""

    TAG: ClassVar[tuple[str, str]] = ("type", "line")

    at: datetime = field(metadata=instant("at_ms"))
    """When it was complete, milliseconds since 1970, by the host's clock. A point in time (UTC)."""

    redactions: int = 0
    """How often something was redacted in it."""

    run_id: str | None = None
    """Which command wrote it."""

    seq: int
    """Its number; they go up by one."""

    source: LogSource
    """Where it came from."""

    stream: Stream | None = None
    """On which of its outputs."""

    text: str = field(repr=False)
    """The line without its end. Bytes that are no UTF-8 are U+FFFD; what is over 4 KiB is on the next line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogGap(Record):
    """Lines that are missing."""

    TAG: ClassVar[tuple[str, str]] = ("type", "gap")

    at: datetime | None = field(default=None, metadata=instant("at_ms"))
    """When it was noticed, milliseconds since 1970; null if nobody knows. A point in time (UTC)."""

    cause: GapCause
    """Why."""

    lines: int
    """How many lines."""

    run_id: str | None = None
    """Which command wrote them."""

    seq: int
    """The number of the first line that is missing, or of this entry if they never had one."""

    source: LogSource | None = None
    """Where they came from, if from one source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRule(Record):
    """A rule that knows credentials by their shape, and what it found."""

    redactions: int
    """How often it found something."""

    rule: str
    """Its id (`mvmctl logs --redact show-rules`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSummary(Record):
    """What an answer had."""

    TAG: ClassVar[tuple[str, str]] = ("type", "summary")

    lines: int
    """How many lines."""

    on_reading: int
    """How many of these only for this answer: what is kept has it still."""

    redactions: int
    """How often something was redacted in them."""

    rules: tuple[LogRule, ...] = ()
    """The rules that found these, in the order of their first finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretInfo(Record):
    """A secret that commands of a sandbox have. Its value is shown nowhere."""

    kind: SecretKind
    """How it was given."""

    known: bool
    """Whether its value is known. Without it no command can have it, and it cannot be redacted."""

    name: str
    """The variable that it is in the guest."""

    reference: str | None = None
    """Which variable of the host, or which file: `env:VAR` or `file:PATH`; null with a request."""

    run_id: str | None = None
    """The one command that has it; null if all have."""

    since: datetime = field(metadata=instant("since_ms"))
    """Since when, milliseconds since 1970. A point in time (UTC)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Record):
    """A saved point of a sandbox: memory, devices, disk. Whatever secrets were in the memory are in it."""

    accelerator: str
    """What executed the guest's instructions."""

    audit_id: int | None = None
    """The entry of the audit log that authorised it (`mvmctl audit show`)."""

    backend: str
    """The VMM and its version."""

    created_at: datetime = field(metadata=instant("created_at_ms"))
    """Milliseconds since 1970. A point in time (UTC)."""

    damage: str | None = None
    """Why nothing can come back from it, as far as is known: what its records no longer tell is empty or 0; null
    if its records are whole.
    """

    digest: str
    """A digest of its content."""

    disk_bytes: int
    """Disk space that it takes, in bytes. Layers that it shares count for each that has them."""

    id: str
    """Its id, `snap-` and 12 hex digits."""

    image: str
    """Image."""

    image_digest: str
    """Digest of the image."""

    kernel: str
    """Digest of the guest's kernel."""

    machine: Machine
    """Shape."""

    name: str
    """Its name."""

    running_jobs: int
    """Commands that ran, and run again in what is restored from it."""

    sandbox: str
    """Id of the sandbox that it was saved of."""

    sandbox_name: str
    """Name of that sandbox then."""

    sensitive: bool
    """Always true: it holds the guest's memory. Its files can be read by their owner alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(Record):
    """What a sandbox uses."""

    cpu_seconds: float | None = None
    """Processor time that the VMM used, in seconds; null without a machine."""

    disk_bytes: int
    """Disk space that the sandbox's own disk takes."""

    running_jobs: int
    """Commands that run."""

    saved_bytes: int
    """Disk space that its saved memory takes, in bytes: 0 unless it is cold."""

    supervisor_private_bytes: int
    """The same of the supervisor."""

    vmm_private_bytes: int | None = None
    """Memory of the VMM that no other process shares, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written(Record):
    """How much was written."""

    bytes: int
    """Bytes."""

    synced: bool
    """Whether it survives the loss of the machine from now on; otherwise it is in the guest's memory first."""


Cleanup = TtlCleanup | LeaseCleanup | ExplicitCleanup
"""How a sandbox ends when nobody ends it."""


JobEvent = Started | Output | OutputGap | Ended
"""One line of a job's output stream."""


LogEvent = LogLine | LogGap | LogSummary
"""One line of the log, or lines that are missing, or the end."""
