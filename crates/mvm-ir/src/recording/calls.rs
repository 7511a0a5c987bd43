//! A recording as it is written. What was not given is left out.

use std::collections::BTreeMap;

use mvm_wire::api::OnExpiry;
use serde::Deserialize;

use crate::model::{MakeDirectory, Move, Port, Remove, SnapshotStep, UploadDirectory};
use crate::read;

/// A recording.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    #[serde(rename = "schema")]
    pub _schema: String,
    /// The program's file name; empty if it has none.
    #[serde(default)]
    pub program: String,
    pub calls: Vec<Entry>,
    /// Base64 by SHA-256.
    #[serde(default, deserialize_with = "read::distinct")]
    pub contents: BTreeMap<String, String>,
}

/// One call, and where it is made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// `FILE:LINE`; empty if it is not known.
    #[serde(default)]
    pub place: String,
    pub call: Call,
}

/// A call, by its name in the SDKs.
#[derive(Deserialize)]
pub enum Call {
    #[serde(rename = "create")]
    Create(Box<Create>),
    #[serde(rename = "commands.run")]
    Run(RecordedCommand),
    #[serde(rename = "commands.start")]
    Start(RecordedCommand),
    #[serde(rename = "files.write")]
    Write(RecordedWrite),
    #[serde(rename = "files.mkdir")]
    MakeDirectory(MakeDirectory),
    #[serde(rename = "files.move")]
    Move(Move),
    #[serde(rename = "files.remove")]
    Remove(Remove),
    #[serde(rename = "files.upload")]
    Upload(RecordedUpload),
    #[serde(rename = "ports.forward")]
    Forward(Port),
    #[serde(rename = "snapshot")]
    Snapshot(SnapshotStep),
    #[serde(rename = "keep")]
    Keep(Life),
    #[serde(rename = "detach")]
    Detach(Life),
    #[serde(rename = "close")]
    Close(Nothing),
    #[serde(rename = "destroy")]
    Destroy(Nothing),
    #[serde(rename = "kill")]
    Kill(Nothing),
}

impl Call {
    /// Its name in the SDKs.
    pub fn name(&self) -> &'static str {
        match self {
            Call::Create(_) => "create",
            Call::Run(_) => "commands.run",
            Call::Start(_) => "commands.start",
            Call::Write(_) => "files.write",
            Call::MakeDirectory(_) => "files.mkdir",
            Call::Move(_) => "files.move",
            Call::Remove(_) => "files.remove",
            Call::Upload(_) => "files.upload",
            Call::Forward(_) => "ports.forward",
            Call::Snapshot(_) => "snapshot",
            Call::Keep(_) => "keep",
            Call::Detach(_) => "detach",
            Call::Close(_) => "close",
            Call::Destroy(_) => "destroy",
            Call::Kill(_) => "kill",
        }
    }
}

/// What has no arguments.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Another time to live, and what happens then.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Life {
    pub ttl_ms: Option<u64>,
    pub on_expiry: Option<OnExpiry>,
}

/// Making the sandbox.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    pub image: Option<String>,
    pub name: Option<String>,
    pub cpus: Option<u32>,
    pub memory_mib: Option<u32>,
    pub disk_mib: Option<u32>,
    #[serde(default, deserialize_with = "read::distinct")]
    pub env: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "read::distinct")]
    pub secrets: BTreeMap<String, String>,
    #[serde(default)]
    pub ports: Vec<Port>,
    pub profile: Option<String>,
    pub ttl_ms: Option<u64>,
    pub on_expiry: Option<OnExpiry>,
}

/// A command. `secrets` are references; `stdin` is the SHA-256 of a content.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedCommand {
    pub argv: Vec<String>,
    #[serde(default, deserialize_with = "read::distinct")]
    pub env: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "read::distinct")]
    pub secrets: BTreeMap<String, String>,
    #[serde(default)]
    pub cwd: String,
    #[serde(default)]
    pub user: String,
    pub timeout_ms: Option<u64>,
    pub stdin: Option<String>,
    #[serde(default)]
    pub check: bool,
}

/// Writing a file; `content` is the SHA-256 of one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedWrite {
    pub path: String,
    pub content: String,
    pub mode: Option<u32>,
    #[serde(default)]
    pub owner: String,
    #[serde(default)]
    pub append: bool,
    #[serde(default)]
    pub parents: bool,
}

/// Copying a file or tree, as it was when it was recorded.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedUpload {
    pub guest_path: String,
    pub entries: Vec<RecordedEntry>,
}

/// One file, directory or link of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedEntry {
    pub path: String,
    pub what: RecordedKind,
}

/// What it is.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordedKind {
    Directory(UploadDirectory),
    File(RecordedFile),
    Link(String),
}

/// A file of it; `content` is the SHA-256 of one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedFile {
    pub content: String,
    pub mode: u32,
}
