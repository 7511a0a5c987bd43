//! Saved points of sandboxes, and copies of running ones.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Machine, OnExpiry, Sandbox};

/// A snapshot to save.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotRequest {
    /// Its name, unique among snapshots; its id if empty.
    pub name: String,
}

/// A saved point of a sandbox: memory, devices, disk. Whatever secrets were in the memory are in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Its id, `snap-` and 12 hex digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Always true: it holds the guest's memory. Its files can be read by their owner alone.
    pub sensitive: bool,
    /// Id of the sandbox that it was saved of.
    pub sandbox: String,
    /// Name of that sandbox then.
    pub sandbox_name: String,
    /// Image.
    pub image: String,
    /// Digest of the image.
    pub image_digest: String,
    /// Shape.
    pub machine: Machine,
    /// Digest of the guest's kernel.
    pub kernel: String,
    /// The VMM and its version.
    pub backend: String,
    /// What executed the guest's instructions.
    pub accelerator: String,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Disk space that it takes, in bytes. Layers that it shares count for each that has them.
    pub disk_bytes: u64,
    /// A digest of its content.
    pub digest: String,
    /// Commands that ran, and run again in what is restored from it.
    pub running_jobs: u64,
    /// Why nothing can come back from it, as far as is known: what its records no longer tell is empty or 0; null if its
    /// records are whole.
    pub damage: Option<String>,
    /// The entry of the audit log that authorised it (`mvmctl audit show`).
    #[serde(default)]
    pub audit_id: Option<u64>,
}

/// Copies of a running sandbox to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ForkRequest {
    /// How many; 1 if 0.
    pub count: u32,
    /// They are called this, a hyphen and a number; made up from the parent's name if empty.
    pub name: String,
    /// Who answers for them; the parent's owner if empty.
    pub owner: String,
    /// Milliseconds until they end; as the parent if neither this, `no_ttl` nor `lease` is given.
    pub ttl_ms: Option<u64>,
    /// They end only when somebody asks. Needs an owner.
    pub no_ttl: bool,
    /// What happens when their time is up; as for the parent if null.
    pub on_expiry: Option<OnExpiry>,
    /// Each ends with the client that claims it, or after 5 s if none does.
    pub lease: bool,
}

/// The copies that were made: all that were asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Forked {
    /// The copies. Each has an id, a name and an identity of its own, and the parent's commands under the same run ids.
    pub sandboxes: Vec<Sandbox>,
}
