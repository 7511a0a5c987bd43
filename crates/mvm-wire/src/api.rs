//! What travels over a sandbox's Unix socket: JSON bodies, and events as one JSON object a line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ErrorCode;

mod files;
mod jobs;
mod logs;
mod policy;
mod ports;
mod run;
pub mod secrets;
mod snapshots;

pub use files::{CopyReport, CopyRequest, FileInfo, MkdirRequest, RemoveRequest, RenameRequest, Skipped, Written};
pub use jobs::{Job, JobEvent, JobRequest, JobResult, NotStarted, Receipt, SignalRequest, Stream, TerminalSize};
pub use logs::{GapCause, LogEvent, LogGap, LogLine, LogRule, LogSource, LogSummary, Redact};
pub use policy::{Denial, Enforced, Plan, PlanLine};
pub use ports::{Port, PortName, PortRequest, PortStatus};
pub use run::RunRequest;
pub use secrets::{SecretInfo, SecretKind, SecretValue, SecretValues};
pub use snapshots::{ForkRequest, Forked, Snapshot, SnapshotRequest};

/// The versions of the API that a supervisor speaks. `newest` is raised with every release in which a client can ask for more
/// than before: an operation, a field, a value. `oldest` is raised to it when a client of an older version would be refused or
/// would misunderstand an answer: something was removed, was renamed, or means something else.
pub const API_VERSIONS: ApiVersions = ApiVersions { oldest: 1, newest: 1 };

/// A range of versions of the API, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiVersions {
    /// The oldest.
    pub oldest: u32,
    /// The newest.
    pub newest: u32,
}

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
    /// The profile of the policy that decides about it, and about all that is asked of it later. If empty `standard`, or the
    /// one that `MVM_PROFILE` demands.
    pub profile: String,
    /// The caller knows that `permissive` refuses nothing. Without it that profile is refused.
    pub accept_risk: bool,
    /// Layers of isolation that must apply besides the profile's.
    pub require: Vec<String>,
    /// Layers of isolation that the profile demands and that may be missing all the same.
    pub allow_missing: Vec<String>,
    /// Program and arguments that run in it for as long as it is up. `start` has them started as a job, each time that it
    /// boots on its disk again; the first time whoever made it starts them, when it has done what comes before.
    pub entrypoint: Vec<String>,
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

/// Another time to live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeepRequest {
    /// Milliseconds from now.
    pub ttl_ms: u64,
    /// What happens then; as before if null.
    pub on_expiry: Option<OnExpiry>,
}

/// What a sandbox shall end with, instead of its client or of what was said before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DetachRequest {
    /// Who answers for it; as before if empty.
    pub owner: String,
    /// Milliseconds from now; an hour, or what its profile allows if that is less, if neither this nor `no_ttl` is given.
    pub ttl_ms: Option<u64>,
    /// It ends only when somebody asks. Needs an owner.
    pub no_ttl: bool,
    /// What happens when its time is up.
    pub on_expiry: OnExpiry,
}

/// The one line of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaseEvent {
    /// Always true: the sandbox lives as long as the connection and the caller, or until it is detached.
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
