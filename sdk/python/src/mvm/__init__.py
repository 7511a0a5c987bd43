"""Run code you do not trust in a real virtual machine on your own computer, and prove afterwards what ran.

    import mvm

    print(mvm.run(["python3", "-c", "print(6 * 7)"]).stdout)

    with mvm.Sandbox.create() as sandbox:
        sandbox.files.write("/root/hello.py", "print('hello')")
        print(sandbox.commands.run(["python3", "/root/hello.py"]).stdout)

Every class has an asynchronous twin, `AsyncSandbox` and so on, and every function one that begins with `async_`.
"""

from ._api import (
    Capability,
    Cleanup,
    CopyReport,
    DeletionReport,
    Denial,
    Enforced,
    ErrorCode,
    ExplicitCleanup,
    FileInfo,
    GapCause,
    Inspection,
    JobInfo,
    JobResult,
    LeaseCleanup,
    LogGap,
    LogLine,
    LogRule,
    LogSource,
    LogSummary,
    Machine,
    NotStarted,
    OnExpiry,
    Output,
    OutputGap,
    Plan,
    PlanLine,
    Port,
    PortStatus,
    Removed,
    SandboxInfo,
    SecretInfo,
    SecretKind,
    Skipped,
    Snapshot,
    State,
    Stats,
    Stream,
    Transition,
    TtlCleanup,
    Written,
)
from ._async.commands import AsyncCommandResult, AsyncCommands, AsyncJob
from ._async.files import AsyncFiles
from ._async.logs import AsyncLogs
from ._async.machine import AsyncReceipts, AsyncRunResult, AsyncSnapshots, async_gc, async_run
from ._async.ports import AsyncPorts, AsyncSecrets
from ._async.sandbox import AsyncSandbox
from ._core.check import PortSpec
from ._core.receipts import Logged, Opened, Opening, Receipt, Refusal, Verification
from ._core.sandboxes import Collected, RemovedSnapshot
from ._errors import (
    AlreadyExists,
    BackendUnsupported,
    ClosedHandle,
    CommandFailed,
    FileError,
    Incompatible,
    Internal,
    InvalidRequest,
    InvalidState,
    MvmError,
    NotFound,
    NotRecordable,
    PolicyDenied,
    ResourceExhausted,
    RestoreRefused,
    SandboxUnavailable,
    Timeout,
    TransportError,
)
from ._sync.commands import CommandResult, Commands, Job
from ._sync.files import Files
from ._sync.logs import Logs
from ._sync.machine import Receipts, RunResult, Snapshots, gc, run
from ._sync.ports import Ports, Secrets
from ._sync.sandbox import Sandbox

snapshots = Snapshots()
async_snapshots = AsyncSnapshots()
receipts = Receipts()
async_receipts = AsyncReceipts()

__all__ = [
    "AlreadyExists",
    "AsyncCommandResult",
    "AsyncCommands",
    "AsyncFiles",
    "AsyncJob",
    "AsyncLogs",
    "AsyncPorts",
    "AsyncReceipts",
    "AsyncRunResult",
    "AsyncSandbox",
    "AsyncSecrets",
    "AsyncSnapshots",
    "BackendUnsupported",
    "Capability",
    "Cleanup",
    "ClosedHandle",
    "Collected",
    "CommandFailed",
    "CommandResult",
    "Commands",
    "CopyReport",
    "DeletionReport",
    "Denial",
    "Enforced",
    "ErrorCode",
    "ExplicitCleanup",
    "FileError",
    "FileInfo",
    "Files",
    "GapCause",
    "Incompatible",
    "Inspection",
    "Internal",
    "InvalidRequest",
    "InvalidState",
    "Job",
    "JobInfo",
    "JobResult",
    "LeaseCleanup",
    "LogGap",
    "LogLine",
    "LogRule",
    "LogSource",
    "LogSummary",
    "Logged",
    "Logs",
    "Machine",
    "MvmError",
    "NotFound",
    "NotRecordable",
    "NotStarted",
    "OnExpiry",
    "Opened",
    "Opening",
    "Output",
    "OutputGap",
    "Plan",
    "PlanLine",
    "PolicyDenied",
    "Port",
    "PortSpec",
    "PortStatus",
    "Ports",
    "Receipt",
    "Receipts",
    "Refusal",
    "Removed",
    "RemovedSnapshot",
    "ResourceExhausted",
    "RestoreRefused",
    "RunResult",
    "Sandbox",
    "SandboxInfo",
    "SandboxUnavailable",
    "SecretInfo",
    "SecretKind",
    "Secrets",
    "Skipped",
    "Snapshot",
    "Snapshots",
    "State",
    "Stats",
    "Stream",
    "Timeout",
    "Transition",
    "TransportError",
    "TtlCleanup",
    "Verification",
    "Written",
    "async_gc",
    "async_receipts",
    "async_run",
    "async_snapshots",
    "gc",
    "receipts",
    "run",
    "snapshots",
]
