//! The document's types. Field names are those of the SDKs; a choice is an object with the chosen one's name as its only field.

use std::collections::BTreeMap;

use mvm_wire::api::OnExpiry;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::read;

mod step;

pub use step::{
    Command, MakeDirectory, Move, Remove, SnapshotStep, Step, Upload, UploadDirectory, UploadEntry, UploadFile,
    UploadKind, WriteFile,
};

/// The version that this crate reads and writes.
pub const SCHEMA: &str = "mvm.workload/v1";

/// A workload: an image, what goes into it, what it may do, and what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// `mvm.workload/v1`.
    pub schema: String,
    /// Its name: lower-case letters, digits and hyphens, 63 at most. A sandbox that is made of it is called so.
    pub name: String,
    /// What it is built on.
    #[serde(default)]
    pub image: Image,
    /// The machine's shape.
    #[serde(default)]
    pub resources: Resources,
    /// What it reaches, and by what it is reached.
    #[serde(default)]
    pub network: Network,
    /// Directories of the host. Admission refuses them: no backend shares any (rule `directories.host`).
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Environment of every command.
    #[serde(default, deserialize_with = "read::distinct")]
    #[schema(value_type = BTreeMap<String, Variable>)]
    pub env: BTreeMap<String, Variable>,
    /// Files that are put into it.
    #[serde(default)]
    pub files: Vec<File>,
    /// A tree of files that is put into it.
    #[serde(default)]
    pub source: Option<Source>,
    /// The profile of the policy that decides about it.
    #[serde(default = "standard")]
    pub profile: String,
    /// Milliseconds that a sandbox of it lives; what the profile gives if null.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    /// What happens when its time is up.
    #[serde(default)]
    pub on_expiry: OnExpiry,
    /// What runs when it is up; nothing if null.
    #[serde(default)]
    pub entrypoint: Option<Entrypoint>,
    /// What is done in it when it first starts, in this order.
    #[serde(default)]
    pub steps: Vec<Step>,
}

impl Workload {
    /// Everything that it names by its digest, in the order of the document; what is named twice is there twice.
    pub fn contents(&self) -> impl Iterator<Item = &Content> {
        let files = self.files.iter().map(|file| &file.content);
        let source = self.source.iter().flat_map(|source| &source.files).map(|file| &file.content);
        files.chain(source).chain(self.steps.iter().flat_map(Step::contents))
    }
}

/// The profile of a workload that names none.
pub fn standard() -> String {
    "standard".to_owned()
}

/// What a workload is built on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Image {
    /// An image of this name.
    Named(String),
    /// Debian, with these packages of the distribution besides what the image `debian` has.
    Debian {
        /// Their names.
        packages: Vec<String>,
    },
}

impl Default for Image {
    fn default() -> Image {
        Image::Named("debian".to_owned())
    }
}

/// A machine's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Size of the disk in MiB.
    pub disk_mib: u32,
}

impl Default for Resources {
    fn default() -> Resources {
        Resources { cpus: 1, memory_mib: 256, disk_mib: 4096 }
    }
}

/// What a workload reaches, and by what it is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// What it reaches by itself.
    pub mode: NetworkMode,
    /// Ports of the host that lead into it.
    pub ports: Vec<Port>,
    /// What it reaches all the same. Admission refuses it: no backend has a way out (rule `network.none`).
    pub egress: Vec<Egress>,
}

/// What a workload reaches by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Nothing.
    #[default]
    Deny,
}

/// A port of the host that leads into a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The port in the sandbox.
    pub guest_port: u16,
    /// The port of the host; 0 takes a free one.
    pub host_port: u16,
    /// The address of the host to listen on.
    #[serde(default = "loopback")]
    pub host: String,
    /// `tcp`.
    #[serde(default = "tcp")]
    pub protocol: String,
}

fn loopback() -> String {
    "127.0.0.1".to_owned()
}

fn tcp() -> String {
    "tcp".to_owned()
}

/// A host that a workload reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// Its name or address.
    pub host: String,
    /// The port there.
    pub port: u16,
}

/// A directory of the host that a workload sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The directory of the host.
    pub host_path: String,
    /// Where it is in the sandbox.
    pub guest_path: String,
    /// Whether it may be written to.
    #[serde(default)]
    pub writable: bool,
}

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Variable {
    /// This value, for everybody to read.
    Literal(String),
    /// A secret, by where its value is on the host that runs the workload: `env:VAR` or `file:PATH`.
    Secret(String),
}

/// Bytes, by their digest. They lie beside the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// SHA-256, in hex.
    pub sha256: String,
    /// How many there are.
    pub bytes: u64,
}

/// A file that is put into a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its absolute path.
    pub path: String,
    /// What is in it.
    pub content: Content,
    /// Its permissions, such as 420 (0o644).
    #[serde(default = "plain_mode")]
    pub mode: u32,
}

fn plain_mode() -> u32 {
    0o644
}

/// A tree of files that is put into a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The directory that it becomes: an absolute path.
    #[serde(default = "app")]
    pub guest_path: String,
    /// Patterns of what was taken; everything if empty.
    #[serde(default)]
    pub include: Vec<String>,
    /// Patterns of what of that was left out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// What was taken.
    pub files: Vec<SourceFile>,
}

fn app() -> String {
    "/app".to_owned()
}

/// A file of a source tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Its path in the tree.
    pub path: String,
    /// What is in it.
    pub content: Content,
    /// Whether it is a program.
    #[serde(default)]
    pub executable: bool,
}

/// What runs when a workload is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Entrypoint {
    /// A program and its arguments.
    Command(Vec<String>),
    /// A function of a module.
    Function(EntrypointFunction),
}

/// A function of a module of the source tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntrypointFunction {
    /// `python` or `typescript`.
    pub language: String,
    /// The module: `package.module` in Python, a path in the tree in TypeScript.
    pub module: String,
    /// The function.
    pub function: String,
}
