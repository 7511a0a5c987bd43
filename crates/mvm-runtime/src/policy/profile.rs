//! Profiles: what a policy allows, by name. Four are built in; others are read from files and build on them.

use serde::{Deserialize, Serialize};

use crate::vmm::confine::Layer;

/// What a policy allows, complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// It refuses next to nothing, and whoever uses it has to say that they know.
    pub acknowledge: bool,
    /// Names of the environment variables that callers may set.
    pub env: Names,
    /// Names of the secrets that callers may grant.
    pub secrets: Names,
    /// Whom commands run as.
    pub user: User,
    /// The root file system.
    pub root: Root,
    /// Ports of the host that may lead into a sandbox.
    pub ports: Ports,
    /// Files that callers move.
    pub files: Files,
    /// Saved memory.
    pub snapshots: Snapshots,
    /// What of the host a guest may see.
    pub host: HostAccess,
    /// The most that may be asked for, and what holds where nothing was.
    pub limits: Limits,
    /// What must keep the VMM apart from the host.
    pub isolation: Isolation,
}

/// Which names are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// All.
    Any,
    /// These.
    Only(Vec<String>),
}

/// Whom commands run as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Whether as root, and with a way to become root.
    pub root: bool,
    /// Whom, if nobody was named; the image's user if empty.
    pub default: String,
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Whether commands may write to it.
    pub writable: bool,
    /// The room that they find in `/tmp` if not, in bytes.
    pub scratch: u64,
}

/// Ports of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ports {
    /// None.
    None,
    /// On loopback addresses.
    Loopback,
    /// On any address.
    Any,
}

/// Files that callers move between the host and a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// Whether callers may write, move and remove files of a sandbox.
    #[serde(rename = "in")]
    pub into: bool,
    /// Whether callers may read and list them.
    pub out: bool,
}

/// Saved memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshots {
    /// Whether memory may be saved: pause, snapshots, forks.
    pub save: bool,
}

/// What of the host a guest may see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAccess {
    /// Directories.
    pub directories: Directories,
}

/// Directories of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Directories {
    /// None.
    None,
    /// To read.
    ReadOnly,
    /// To read and write.
    Writable,
}

/// The most that may be asked for, and what holds where nothing was. `None` is no limit but the machine's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Virtual processors.
    pub cpus: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Size of the disk in bytes.
    pub disk: Option<u64>,
    /// Processes and threads of one command.
    pub processes: Option<u32>,
    /// Bytes of each output stream of a command.
    pub output: Option<u64>,
    /// Milliseconds that a command may run.
    pub time: Option<u64>,
    /// Milliseconds that a sandbox may live before somebody asks for more.
    pub ttl: Option<u64>,
}

/// What must keep the VMM apart from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// Layers that must apply.
    pub require: Vec<String>,
}

/// In place of a layer: that the VMM can reach no network, by whichever layer.
pub const NO_NETWORK: &str = "no-network";

/// What a built-in profile demands of the VMM's confinement: the one list of mandatory layers.
pub fn mandatory() -> Vec<String> {
    let layers = [
        Layer::Descriptors,
        Layer::EmptyEnvironment,
        Layer::DiesWithParent,
        Layer::NoNewPrivileges,
        Layer::Seccomp,
        Layer::TemplateReadOnly,
        Layer::NoCapabilities,
        Layer::ResourceLimits,
    ];
    layers.into_iter().map(Layer::name).chain([NO_NETWORK.to_owned()]).collect()
}

/// The names of the built-in profiles, the strictest first.
pub const BUILT_IN: [&str; 4] = ["restrictive", "standard", "dev", "permissive"];

/// A built-in profile.
pub fn built_in(name: &str) -> Option<Profile> {
    match name {
        "restrictive" => Some(restrictive()),
        "standard" => Some(standard()),
        "dev" => Some(dev()),
        "permissive" => Some(permissive()),
        _ => None,
    }
}

fn restrictive() -> Profile {
    Profile {
        name: "restrictive".into(),
        description: "for code that nobody has read: nothing of the host, an ordinary user, everything bounded".into(),
        acknowledge: false,
        env: Names::Only(Vec::new()),
        secrets: Names::Only(Vec::new()),
        user: User { root: false, default: "65534:65534".into() },
        root: Root { writable: false, scratch: 64 << 20 },
        ports: Ports::None,
        files: Files { into: true, out: true },
        snapshots: Snapshots { save: true },
        host: HostAccess { directories: Directories::None },
        limits: Limits {
            cpus: Some(2),
            memory: Some(1 << 30),
            disk: Some(4 << 30),
            processes: Some(128),
            output: Some(16 << 20),
            time: Some(600_000),
            ttl: Some(3_600_000),
        },
        isolation: Isolation { require: mandatory() },
    }
}

fn standard() -> Profile {
    Profile {
        name: "standard".into(),
        description: "for most work: what is passed on is named, ports are for this host alone".into(),
        env: Names::Any,
        secrets: Names::Any,
        user: User { root: true, default: String::new() },
        root: Root { writable: true, scratch: 64 << 20 },
        ports: Ports::Loopback,
        host: HostAccess { directories: Directories::ReadOnly },
        limits: Limits::default(),
        ..restrictive()
    }
}

fn dev() -> Profile {
    Profile {
        name: "dev".into(),
        description: "for one's own code: ports for other hosts too".into(),
        ports: Ports::Any,
        host: HostAccess { directories: Directories::Writable },
        ..standard()
    }
}

fn permissive() -> Profile {
    Profile {
        name: "permissive".into(),
        description: "refuses nothing, not even a host on which layers of isolation are missing".into(),
        acknowledge: true,
        isolation: Isolation { require: Vec::new() },
        ..dev()
    }
}

impl Serialize for Names {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Names::Any => "any".serialize(serializer),
            Names::Only(names) => names.serialize(serializer),
        }
    }
}

impl Names {
    /// Whether a name is allowed.
    pub fn allow(&self, name: &str) -> bool {
        match self {
            Names::Any => true,
            Names::Only(names) => names.iter().any(|allowed| allowed == name),
        }
    }
}
