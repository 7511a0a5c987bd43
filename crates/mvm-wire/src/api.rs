//! What travels over a sandbox's Unix socket: JSON bodies, and events as one JSON object a line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ErrorCode;

mod files;
mod logs;
mod policy;
mod ports;
pub mod secrets;
mod snapshots;

pub use files::{CopyReport, CopyRequest, FileInfo, MkdirRequest, RemoveRequest, RenameRequest, Skipped, Written};
pub use logs::{GapCause, LogEvent, LogGap, LogLine, LogSource, LogSummary, Redact};
pub use policy::{Denial, Enforced, Plan, PlanLine};
pub use ports::{Port, PortName, PortRequest, PortStatus};
pub use secrets::{SecretInfo, SecretKind, SecretValue, SecretValues};
pub use snapshots::{ForkRequest, Forked, Snapshot, SnapshotRequest};

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its machine starts.
    Creating,
    /// Commands can run in it.
    Running,
    /// Its processors are stopped; its memory stays where it is.
    Frozen,
    /// Its memory is saved with its disk, and nothing of it runs.
    Cold,
    /// It comes back from what was saved.
    Restoring,
    /// No machine; the disk is kept.
    Stopped,
    /// Its machine broke. It can be inspected, started again from its disk, or destroyed.
    Failed,
    /// Nothing is left but the report of its deletion.
    Destroyed,
}

impl JobResult {
    /// The exit status by which a shell reports such an end: the command's own, 128 and the signal, 124 after the time
    /// limit, 127 or 126 if there is no such program or it cannot be executed.
    pub fn exit_status(&self) -> u8 {
        match self {
            JobResult { timed_out: true, .. } => 124,
            JobResult { not_started: Some(not_started), .. } => match not_started.reason == NotStarted::NOT_FOUND {
                true => 127,
                false => 126,
            },
            JobResult { signal: Some(signal), .. } => 128u8.saturating_add(*signal),
            JobResult { exit_code, .. } => exit_code.unwrap_or(125),
        }
    }

    /// The end in a few words: `exit 3`, `signal 9`, `timed out`.
    pub fn in_words(&self) -> String {
        match self {
            JobResult { error: Some(error), .. } => format!("lost ({})", error.why),
            JobResult { timed_out: true, .. } => "timed out".to_owned(),
            JobResult { not_started: Some(not_started), .. } => format!("not started ({})", not_started.reason),
            JobResult { signal: Some(signal), .. } => format!("signal {signal}"),
            result => format!("exit {}", result.exit_status()),
        }
    }
}

impl NotStarted {
    /// There is no such program.
    pub const NOT_FOUND: &str = "command_not_found";
    /// There is one, and it cannot be executed.
    pub const NOT_EXECUTABLE: &str = "command_not_executable";
}

impl State {
    /// Every state.
    pub const ALL: [State; 8] = [
        State::Creating,
        State::Running,
        State::Frozen,
        State::Cold,
        State::Restoring,
        State::Stopped,
        State::Failed,
        State::Destroyed,
    ];

    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            State::Creating => "creating",
            State::Running => "running",
            State::Frozen => "frozen",
            State::Cold => "cold",
            State::Restoring => "restoring",
            State::Stopped => "stopped",
            State::Failed => "failed",
            State::Destroyed => "destroyed",
        }
    }

    /// The state of this name.
    pub fn from_name(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What happens when a sandbox's time is up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnExpiry {
    /// It is destroyed, with its disk.
    #[default]
    Destroy,
    /// It is stopped; its disk is kept.
    Stop,
    /// Its memory is saved with its disk; if that cannot be done, it is stopped.
    Cold,
}

/// How a sandbox ends when nobody ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Cleanup {
    /// After a time, in every state and also if mvmctl is never called again.
    Ttl {
        /// Milliseconds from when it was set.
        ttl_ms: u64,
        /// When that is: milliseconds since 1970.
        expires_at_ms: u64,
        /// What happens then.
        on_expiry: OnExpiry,
    },
    /// Within a second of its owner's end.
    Lease,
    /// Only when somebody asks; the owner answers for it.
    Explicit,
}

/// A machine's shape.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Machine {
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Size of the disk in bytes.
    pub disk_bytes: u64,
}

/// A request for a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CreateRequest {
    /// Its name; made up if empty.
    pub name: String,
    /// Image; `debian` if empty.
    pub image: String,
    /// Virtual processors; 1 if 0.
    pub cpus: u32,
    /// Memory in MiB; 256 if 0.
    pub memory_mib: u32,
    /// Size of the disk in bytes; 4 GiB if 0.
    pub disk_bytes: u64,
    /// Environment of every command in it.
    pub env: BTreeMap<String, String>,
    /// Secrets that every command in it has as variables: by name, where the value is, `env:VAR` or `file:PATH`. Only this
    /// reference is kept.
    pub secrets: BTreeMap<String, String>,
    /// Who answers for it.
    pub owner: String,
    /// Milliseconds until it ends; an hour if neither this nor `no_ttl` is given.
    pub ttl_ms: Option<u64>,
    /// It ends only when somebody asks. Needs an owner.
    pub no_ttl: bool,
    /// What happens when its time is up.
    pub on_expiry: OnExpiry,
    /// It ends with the client that claims it (`/v1/lease`), or after 5 s if none does.
    pub lease: bool,
    /// Ports of the host that lead into it.
    pub ports: Vec<PortRequest>,
    /// A repeated request with this key returns the sandbox that the first one made.
    pub idempotency_key: String,
    /// Go on from this snapshot, by name or id, instead of starting the image. Image and shape are the snapshot's.
    pub snapshot: String,
    /// Of the snapshot take only the disk, and boot on it.
    pub disk_only: bool,
    /// The profile of the policy that decides about it, and about all that is asked of it later; `standard` if empty.
    pub profile: String,
    /// The caller knows that `permissive` refuses nothing. Without it that profile is refused.
    pub accept_risk: bool,
    /// Layers of isolation that must apply besides the profile's.
    pub require: Vec<String>,
    /// Layers of isolation that the profile demands and that may be missing all the same.
    pub allow_missing: Vec<String>,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sandbox {
    /// Its id, `mvm-` and 12 hex digits, never used again.
    pub id: String,
    /// Its name, unique among live sandboxes.
    pub name: String,
    /// Its state.
    pub state: State,
    /// Why it is in this state.
    pub cause: String,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Who answers for it; may be empty.
    pub owner: String,
    /// How it ends when nobody ends it.
    pub cleanup: Cleanup,
    /// Image.
    pub image: String,
    /// Digest of the image.
    pub image_digest: String,
    /// Shape.
    pub machine: Machine,
    /// What callers can ask for now.
    pub legal: Vec<String>,
    /// The Unix socket of its API.
    pub socket: String,
    /// The entry of the audit log that authorised it (`mvmctl audit show`).
    #[serde(default)]
    pub audit_id: Option<u64>,
}

/// A change of state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Transition {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
    /// Why.
    pub cause: String,
}

/// More about a sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Inspection {
    /// The sandbox.
    #[serde(flatten)]
    pub sandbox: Sandbox,
    /// What the policy decided when it was made.
    pub plan: Plan,
    /// What keeps its machine apart from the host; null without a machine.
    pub isolation: Option<serde_json::Value>,
    /// What its backend can do, and what not.
    pub capabilities: Vec<Capability>,
    /// Names of its environment variables; their values are not shown.
    pub env: Vec<String>,
    /// Names of the secrets that every command in it has; more about them says `/v1/secrets`.
    pub secrets: Vec<String>,
    /// Ports of the host that lead into it; none without a supervisor.
    pub ports: Vec<Port>,
    /// All changes of state, the first one first.
    pub history: Vec<Transition>,
}

/// Something that a backend can do or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capability {
    /// Its name, which the error `BackendUnsupported` has too.
    pub name: String,
    /// Whether it can be had.
    pub supported: bool,
    /// Its limits; or why it cannot be had.
    pub limits: String,
}

/// A command to run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment, on top of the sandbox's.
    pub env: BTreeMap<String, String>,
    /// Secrets that this command alone has as variables, by name: 32 at most, each of 8 bytes to 64 KiB. They are never
    /// answered, kept or logged, and redacted in all that the sandbox writes.
    #[serde(serialize_with = "secrets::hand_over", deserialize_with = "secrets::take_in")]
    #[schema(value_type = BTreeMap<String, String>, write_only, default = json!({}))]
    pub secrets: SecretValues,
    /// Working directory; the image's if empty.
    pub cwd: String,
    /// User; the image's if empty.
    pub user: String,
    /// Whether input will be sent (`PUT /v1/jobs/{job}/stdin`).
    pub stdin: bool,
    /// Give it a terminal of this size.
    #[serde(deserialize_with = "crate::object::optional")]
    pub tty: Option<TerminalSize>,
    /// Kill it after this many milliseconds.
    pub timeout_ms: Option<u64>,
    /// The command ends when the request's connection does, and its output is never dropped: it waits for the reader.
    pub attached: bool,
    /// Leave secrets in its output as they are. Only of a command that is attached: its output is its caller's.
    pub no_redact: bool,
    /// A repeated request with this key, of at most 256 bytes, starts nothing and returns the job that the first one started.
    #[schema(max_length = 256)]
    pub idempotency_key: String,
}

/// Columns and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TerminalSize {
    /// Rows.
    #[schema(maximum = 65535)]
    pub rows: u16,
    /// Columns.
    #[schema(maximum = 65535)]
    pub cols: u16,
}

/// A command that was started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its run id.
    pub run_id: String,
    /// Its program.
    pub program: String,
    /// When it was started, milliseconds since 1970.
    pub started_at_ms: u64,
    /// Whether it ends with the connection that started it.
    pub attached: bool,
    /// Offset of the first byte of output that is still kept.
    pub first_offset: u64,
    /// Bytes of output so far, on both streams together, as they are kept: with secrets redacted.
    pub end_offset: u64,
    /// Its result; null while it runs.
    pub result: Option<JobResult>,
    /// The entry of the audit log that authorised it (`mvmctl audit show`).
    pub audit_id: u64,
}

/// How a command ended. Reported only when all of its processes are gone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobResult {
    /// Exit code; null if a signal ended it or it did not start.
    pub exit_code: Option<u8>,
    /// Signal that ended it.
    pub signal: Option<u8>,
    /// It was killed because its time was up.
    pub timed_out: bool,
    /// The guest's kernel killed something of it for lack of memory.
    pub oom_killed: bool,
    /// Why its program could not be started.
    pub not_started: Option<NotStarted>,
    /// Why there is no result: it could not be started as asked, or its machine ended first.
    pub error: Option<ErrorObject>,
    /// Milliseconds from its start to its end.
    pub duration_ms: f64,
    /// Bytes it wrote to standard output, counted before secrets were redacted.
    pub stdout_bytes: u64,
    /// Bytes it wrote to standard error, counted before secrets were redacted.
    pub stderr_bytes: u64,
    /// Whether the policy's limit kept back some of its standard output.
    #[serde(default)]
    pub stdout_truncated: bool,
    /// Whether the policy's limit kept back some of its standard error.
    #[serde(default)]
    pub stderr_truncated: bool,
    /// Its run id.
    #[serde(default)]
    pub run_id: String,
    /// The entry of the audit log that authorised it (`mvmctl audit show`).
    #[serde(default)]
    pub audit_id: u64,
    /// How often a secret was redacted in its output.
    #[serde(default)]
    pub redactions: u64,
}

/// A command whose program could not be started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotStarted {
    /// `command_not_found` or `command_not_executable`.
    pub reason: String,
    /// The program, made harmless.
    pub command: String,
    /// Linux error number.
    pub errno: i32,
}

/// Which output a piece belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output; with a terminal everything.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a job's output stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum JobEvent {
    /// The job runs.
    Started {
        /// Its run id.
        run_id: String,
        /// The entry of the audit log that authorised it.
        audit_id: u64,
    },
    /// A piece of output.
    Output {
        /// Of which stream.
        stream: Stream,
        /// Where it begins, counted over both streams.
        offset: u64,
        /// The bytes, in base64.
        data: String,
    },
    /// Output that is no longer kept.
    Gap {
        /// Where it begins.
        offset: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// The end, always last.
    Ended {
        /// How it ended.
        result: Box<JobResult>,
    },
}

/// What proves how a command ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// The signed envelope, as its file is to be written, byte for byte.
    pub envelope: String,
    /// The proof that it is in the audit log, as the file beside it is to be written.
    pub proof: String,
}

/// A signal for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Linux signal number. 9 kills the whole tree at once.
    #[schema(minimum = 1, maximum = 64)]
    pub signal: u8,
}

/// Another time to live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeepRequest {
    /// Milliseconds from now.
    pub ttl_ms: u64,
    /// What happens then; as before if null.
    pub on_expiry: Option<OnExpiry>,
}

/// The one line of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaseEvent {
    /// Always true: the sandbox lives as long as the connection and the caller.
    pub claimed: bool,
}

/// What a sandbox uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// Processor time that the VMM used, in seconds; null without a machine.
    pub cpu_seconds: Option<f64>,
    /// Memory of the VMM that no other process shares, in bytes.
    pub vmm_private_bytes: Option<u64>,
    /// The same of the supervisor.
    pub supervisor_private_bytes: u64,
    /// Disk space that the sandbox's own disk takes.
    pub disk_bytes: u64,
    /// Disk space that its saved memory takes, in bytes: 0 unless it is cold.
    pub saved_bytes: u64,
    /// Commands that run.
    pub running_jobs: u64,
}

/// What was deleted, and what this storage cannot promise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletionReport {
    /// The sandbox's id.
    pub id: String,
    /// Its name, free again.
    pub name: String,
    /// What is gone, and how.
    pub removed: Vec<Removed>,
    /// What remains, and what deletion does not mean here.
    pub limits: Vec<String>,
    /// The entry of the audit log that recorded its end (`mvmctl audit show`).
    #[serde(default)]
    pub audit_id: Option<u64>,
}

/// One thing that was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    /// What it was.
    pub what: String,
    /// Where it was.
    pub place: String,
    /// How it was removed.
    pub how: String,
    /// How much it was, in bytes.
    pub bytes: u64,
}

/// Every error response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorObject,
}

/// An error: what failed, why, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorObject {
    /// Stable code.
    pub code: ErrorCode,
    /// What could not be done.
    pub what: String,
    /// The cause.
    pub why: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// The Linux error number behind it, where there is one.
    #[serde(default)]
    pub errno: Option<i32>,
    /// The capability that is missing, for `BackendUnsupported`.
    #[serde(default)]
    pub capability: Option<String>,
    /// Every reason why a policy refused it, for `PolicyDenied`.
    #[serde(default)]
    pub denials: Vec<Denial>,
}
