//! What is done in a sandbox when it first starts: the calls that were recorded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Content, Port, Variable};
use crate::read;

/// One recorded call, by its name in the SDKs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Step {
    /// Runs a command to its end.
    #[serde(rename = "commands.run")]
    Run(Command),
    /// Starts a command that goes on by itself.
    #[serde(rename = "commands.start")]
    Start(Command),
    /// Writes a file.
    #[serde(rename = "files.write")]
    Write(WriteFile),
    /// Makes a directory.
    #[serde(rename = "files.mkdir")]
    MakeDirectory(MakeDirectory),
    /// Renames a file.
    #[serde(rename = "files.move")]
    Move(Move),
    /// Removes a file.
    #[serde(rename = "files.remove")]
    Remove(Remove),
    /// Copies a file or tree into it.
    #[serde(rename = "files.upload")]
    Upload(Upload),
    /// Has a port of the host lead into the sandbox.
    #[serde(rename = "ports.forward")]
    Forward(Port),
    /// Saves the sandbox.
    #[serde(rename = "snapshot")]
    Snapshot(SnapshotStep),
}

impl Step {
    /// The call's name.
    pub fn name(&self) -> &'static str {
        match self {
            Step::Run(_) => "commands.run",
            Step::Start(_) => "commands.start",
            Step::Write(_) => "files.write",
            Step::MakeDirectory(_) => "files.mkdir",
            Step::Move(_) => "files.move",
            Step::Remove(_) => "files.remove",
            Step::Upload(_) => "files.upload",
            Step::Forward(_) => "ports.forward",
            Step::Snapshot(_) => "snapshot",
        }
    }

    /// Everything that it names by its digest.
    pub(super) fn contents(&self) -> Vec<&Content> {
        match self {
            Step::Run(command) | Step::Start(command) => command.stdin.iter().collect(),
            Step::Write(write) => vec![&write.content],
            Step::Upload(upload) => upload.entries.iter().filter_map(|entry| entry.what.content()).collect(),
            Step::MakeDirectory(_) | Step::Move(_) | Step::Remove(_) | Step::Forward(_) | Step::Snapshot(_) => {
                Vec::new()
            }
        }
    }
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment, on top of the workload's.
    #[serde(default, deserialize_with = "read::distinct")]
    #[schema(value_type = BTreeMap<String, Variable>)]
    pub env: BTreeMap<String, Variable>,
    /// Its working directory; the image's if empty.
    #[serde(default)]
    pub cwd: String,
    /// Its user; the image's if empty.
    #[serde(default)]
    pub user: String,
    /// Milliseconds after which it is killed; none if null.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// What it reads; nothing if null.
    #[serde(default)]
    pub stdin: Option<Content>,
    /// Whether the workload fails unless it ends with exit code 0.
    #[serde(default)]
    pub check: bool,
}

/// Writing a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteFile {
    /// Its absolute path.
    pub path: String,
    /// What is written.
    pub content: Content,
    /// Its permissions; as they are, or 0o644, if null.
    #[serde(default)]
    pub mode: Option<u32>,
    /// Whose it is; as it is, or root's, if empty.
    #[serde(default)]
    pub owner: String,
    /// Whether it is added to what is there.
    #[serde(default)]
    pub append: bool,
    /// Whether missing directories are made.
    #[serde(default)]
    pub parents: bool,
}

/// Making a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeDirectory {
    /// Its absolute path.
    pub path: String,
    /// Whether missing ones above it are made, and one that is there is fine.
    #[serde(default)]
    pub parents: bool,
    /// Its permissions; 0o755 if null.
    #[serde(default)]
    pub mode: Option<u32>,
}

/// Renaming a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// Its absolute path.
    pub source: String,
    /// The path that it gets.
    pub destination: String,
}

/// Removing a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Its absolute path.
    pub path: String,
    /// Whether a directory goes with what is in it.
    #[serde(default)]
    pub recursive: bool,
}

/// Copying a file or tree into the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// The absolute path that it gets. Missing directories above it are made.
    pub guest_path: String,
    /// What is in it: each directory before what is in that.
    pub entries: Vec<UploadEntry>,
}

/// One file, directory or link of what is copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadEntry {
    /// Its path in the tree; empty for the tree itself.
    pub path: String,
    /// What it is.
    pub what: UploadKind,
}

/// What an entry of a tree is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum UploadKind {
    /// A directory.
    Directory(UploadDirectory),
    /// A regular file.
    File(UploadFile),
    /// A symbolic link, by what it says.
    Link(String),
}

impl UploadKind {
    fn content(&self) -> Option<&Content> {
        if let UploadKind::File(file) = self { Some(&file.content) } else { None }
    }
}

/// A directory of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadDirectory {
    /// Its permissions.
    pub mode: u32,
}

/// A file of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadFile {
    /// What is in it.
    pub content: Content,
    /// Its permissions.
    pub mode: u32,
}

/// Saving the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotStep {
    /// The snapshot's name; made up if null.
    #[serde(default)]
    pub name: Option<String>,
}
