//! Files of the guest, and copies between guest and host.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A file of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileInfo {
    /// Its name in its directory. Bytes that are no UTF-8 are shown as U+FFFD.
    pub name: String,
    /// The name's bytes in base64, where it is no UTF-8.
    pub name_base64: Option<String>,
    /// `file`, `directory`, `symlink`, `fifo`, `socket`, `char-device`, `block-device` or `unknown`.
    pub kind: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its permissions, as a number.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When its content changed, milliseconds since 1970.
    pub mtime_ms: i64,
    /// What a symbolic link says.
    pub target: Option<String>,
}

/// How much was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// Bytes.
    pub bytes: u64,
    /// Whether it survives the loss of the machine from now on; otherwise it is in the guest's memory first.
    pub synced: bool,
}

/// A directory to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MkdirRequest {
    /// Its path.
    pub path: String,
    /// Its permissions; 493 (octal 755) if null.
    #[serde(default)]
    pub mode: Option<u32>,
    /// Make missing parents too, and be content with a directory that is there.
    #[serde(default)]
    pub parents: bool,
}

/// A file to rename.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameRequest {
    /// Its present path.
    pub from: String,
    /// Its new path.
    pub to: String,
}

/// A file to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// Its path.
    pub path: String,
    /// Remove a directory with all that is in it.
    #[serde(default)]
    pub recursive: bool,
}

/// A file or directory to copy between host and guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyRequest {
    /// An absolute path of the host, as the caller sees it.
    pub host_path: String,
    /// An absolute path of the guest.
    pub guest_path: String,
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CopyReport {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes in files.
    pub bytes: u64,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
}

/// Something that was not copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Skipped {
    /// Its path where it lies, made harmless.
    pub path: String,
    /// Why.
    pub why: String,
}
