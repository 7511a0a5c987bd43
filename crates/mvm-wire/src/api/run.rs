//! A one-shot run, as it is asked for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A request for one command in a machine that exists for nothing else.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Image; `debian` if empty.
    pub image: String,
    /// Virtual processors; 1 if 0.
    pub cpus: u32,
    /// Memory in MiB; 256 if 0.
    pub memory_mib: u32,
    /// Size of the disk in bytes; 4 GiB if 0.
    pub disk_bytes: u64,
    /// Environment, on top of the image's.
    pub env: BTreeMap<String, String>,
    /// Secrets that it has as variables: by name, where the value is, `env:VAR` or `file:PATH`.
    pub secrets: BTreeMap<String, String>,
    /// Working directory; the image's if empty.
    pub cwd: String,
    /// User; the image's if empty.
    pub user: String,
    /// Kill it after this many milliseconds.
    pub timeout_ms: Option<u64>,
    /// Bytes of each output stream that are kept; the rest is counted and dropped.
    pub max_output: Option<u64>,
    /// The profile of the policy that decides about it. If empty `standard`, or the one that `MVM_PROFILE` demands.
    pub profile: String,
    /// The caller knows that `permissive` refuses nothing. Without it that profile is refused.
    pub accept_risk: bool,
    /// Layers of isolation that must apply besides the profile's.
    pub require: Vec<String>,
    /// Layers of isolation that the profile demands and that may be missing all the same.
    pub allow_missing: Vec<String>,
}
