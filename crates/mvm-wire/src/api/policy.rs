//! What admission decides: the plan, and why it was refused.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a policy decided about one request, before anything of it happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// `mvm.plan/v1`.
    pub schema: String,
    /// What was asked for: `run`, `up`, `exec`, `port`, `files.in`, `files.out`, `snapshot`,
    /// `keep`.
    pub operation: String,
    /// The profile that decided.
    pub profile: String,
    /// SHA-256 of the profile with all that it inherits, in hex.
    pub profile_digest: String,
    /// Whether it may happen.
    pub allowed: bool,
    /// Each rule that had a say, and what it came to.
    pub lines: Vec<PlanLine>,
    /// Why it may not happen; empty if it may.
    pub denials: Vec<Denial>,
    /// What holds for it.
    pub enforced: Enforced,
    /// Layers of isolation that may be missing, because the caller said so.
    pub allowed_missing: Vec<String>,
}

/// What one rule came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanLine {
    /// The rule's id (`mvmctl policy explain RULE`).
    pub rule: String,
    /// What it came to, in words.
    pub effect: String,
}

/// Why something may not happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Denial {
    /// The rule's id (`mvmctl policy explain RULE`).
    pub rule: String,
    /// What was asked for and what the profile says to it.
    pub reason: String,
    /// The flag, or the field of a profile, that would allow it.
    pub remedy: String,
}

/// The bounds that hold for what was admitted. Null is no bound but the machine's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Enforced {
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Size of the disk in bytes.
    pub disk_bytes: u64,
    /// Commands cannot write to the root file system, and find this much room, in bytes, in `/tmp`.
    pub scratch_bytes: Option<u64>,
    /// Processes and threads of one command at once.
    pub processes: Option<u32>,
    /// Bytes of each of a command's output streams that are passed on.
    pub output_bytes: Option<u64>,
    /// Milliseconds that a command may run.
    pub timeout_ms: Option<u64>,
    /// User of the guest that commands run as; the image's if empty.
    pub user: String,
    /// Commands run as an ordinary user, and never gain privileges.
    pub unprivileged: bool,
}
