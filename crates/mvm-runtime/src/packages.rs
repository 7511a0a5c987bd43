//! Packages of Debian for an image. The host's package client fetches them, as its own sources and keys have them, into a
//! directory of ours; a machine without a network installs them. What was taken is written down: a build with that lock takes
//! the same files, or fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mvm_evidence::Digest;
use mvm_wire::ErrorCode;
use serde::{Deserialize, Serialize};

use crate::error::{Error, IoContext, Result};
use crate::progress::Progress;
use crate::tool::Tool;

/// What a lock says it is.
const SCHEMA: &str = "mvm.packages/v1";
/// Where it is, in a bundle.
pub const FILE: &str = "packages.lock.json";
/// The largest lock, in bytes.
pub const MAX_LOCK: u64 = 4 << 20;
/// Longer than a slow line needs for some hundred megabytes.
const LIMIT: Duration = Duration::from_secs(1800);

/// Which packages were taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    schema: String,
    /// What was asked for, as the workload has it.
    pub wanted: Vec<String>,
    /// What that came to on this base, by name: what the base has already is not among it.
    pub packages: Vec<Package>,
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture, or `all`.
    pub architecture: String,
    /// SHA-256 of its file, in hex.
    pub sha256: String,
}

impl Lock {
    /// Reads one.
    pub fn read(bytes: &[u8]) -> Result<Lock> {
        let lock: Lock = serde_json::from_slice(bytes).map_err(refused)?;
        let plain = |text: &str, more: &str| {
            !text.is_empty()
                && !text.starts_with('-')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let sound = |package: &Package| {
            plain(&package.name, "+-.")
                && plain(&package.version, "+-.~:")
                && plain(&package.architecture, "-")
                && package.sha256.parse::<Digest>().is_ok()
        };
        match lock.packages.iter().find(|package| !sound(package)) {
            _ if lock.schema != SCHEMA => Err(refused(format!("this version of mvm reads {SCHEMA}"))),
            Some(_) => Err(refused("something in it is no package")),
            None => Ok(lock),
        }
    }

    /// Its bytes: the same for the same packages.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| Error::internal("cannot encode a lock", e))?;
        text.push(b'\n');
        Ok(text)
    }
}

fn refused(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::InvalidRequest, "cannot read the lock of packages", format!("{FILE}: {why}"))
        .hint("remove it, and build again to have one made anew")
}

/// Refuses a base of another release than the host's, of which the host's client has the packages: both by their `os-release`.
pub fn check_release(base: &str, host: &str) -> Result<()> {
    let release = |text: &str| -> Vec<String> {
        let is_named = |line: &&str| ["ID=", "VERSION_CODENAME="].iter().any(|name| line.starts_with(name));
        text.lines().filter(is_named).map(|line| line.replace('"', "")).collect()
    };
    let (base, host) = (release(base), release(host));
    if !base.is_empty() && base.iter().all(|line| host.contains(line)) {
        return Ok(());
    }
    let why = format!("the image is {}, and this host has the packages of {}", base.join(" "), host.join(" "));
    Err(Error::new(ErrorCode::BackendUnsupported, "cannot fetch the packages", crate::text::harmless(&why))
        .capability("packages")
        .hint("build it on a host of that release, or build the image debian anew: mvmctl setup --image debian"))
}

/// Packages that were fetched.
#[derive(Debug)]
pub struct Fetched {
    /// What they are.
    pub lock: Lock,
    /// Their files.
    pub files: Vec<PathBuf>,
}

/// Fetches packages, and what they need besides what a base has, into `dir`. `status` is the base's own list of packages; with
/// a `lock` exactly what that says.
pub fn fetch(
    wanted: &[String],
    status: &[u8],
    lock: Option<&Lock>,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<Fetched> {
    progress.step(&format!("packages: fetching {}", wanted.join(", ")));
    let client = Client::new(dir, status)?;
    client.run(&["update", "-q"], progress)?;
    let names = match lock {
        Some(lock) => lock.packages.iter().map(|package| format!("{}={}", package.name, package.version)).collect(),
        None => wanted.to_vec(),
    };
    let mut args = vec!["install", "-q", "-y", "--download-only", "--no-install-recommends", "--"];
    args.extend(names.iter().map(String::as_str));
    client.run(&args, progress).map_err(|error| {
        let hint = "check the names; with a lock, whether those versions are still to be had: remove it to take others";
        error.hint(hint)
    })?;
    let fetched = client.fetched(wanted)?;
    match lock {
        Some(lock) if lock.packages != fetched.lock.packages => {
            Err(Error::new(ErrorCode::InvalidRequest, "cannot fetch the packages", differs(lock, &fetched.lock))
                .hint("what was fetched is not what was locked: remove the lock to take it"))
        }
        _ => {
            progress.done(&format!("{} packages", fetched.files.len()));
            Ok(fetched)
        }
    }
}

fn differs(lock: &Lock, fetched: &Lock) -> String {
    let missing = lock.packages.iter().find(|package| !fetched.packages.contains(package));
    let other = fetched.packages.iter().find(|package| !lock.packages.contains(package));
    let said = |package: &Package| format!("{} {} ({})", package.name, package.version, &package.sha256[..12]);
    match (missing, other) {
        (Some(missing), Some(other)) => format!("{} is locked, and {} is there", said(missing), said(other)),
        (Some(missing), None) => format!("{} is locked, and was not needed", said(missing)),
        (None, other) => format!("{} is needed, and is not locked", other.map_or_else(String::new, said)),
    }
}

/// The host's package client, for a system that is not the host's.
struct Client {
    options: Vec<String>,
    archives: PathBuf,
}

impl Client {
    fn new(dir: &Path, status: &[u8]) -> Result<Client> {
        let at = |name: &str| dir.join(name);
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(at(part)).context(|| format!("cannot create {}", at(part).display()))?;
        }
        fs::write(at("status"), status).context(|| "cannot write the list of packages".into())?;
        let options = vec![
            // A directory that only we may enter.
            "-oAPT::Sandbox::User=root".to_owned(),
            "-oAcquire::Retries=2".to_owned(),
            "-oAcquire::Languages=none".to_owned(),
            "-oDebug::NoLocking=true".to_owned(),
            format!("-oDir::State={}", at("state").display()),
            format!("-oDir::State::status={}", at("status").display()),
            format!("-oDir::Cache={}", at("cache").display()),
            format!("-oDir::Log={}", at("log").display()),
        ];
        Ok(Client { options, archives: at("cache/archives") })
    }

    fn run(&self, args: &[&str], progress: &dyn Progress) -> Result<()> {
        let tool = Tool::new("apt-get")?.args(&self.options).args(args).limit(LIMIT);
        tool.aloud(|line| progress.detail(line))
    }

    /// What was fetched: `NAME_VERSION_ARCHITECTURE.deb`.
    fn fetched(&self, wanted: &[String]) -> Result<Fetched> {
        let mut found = Vec::new();
        let entries = fs::read_dir(&self.archives).context(|| "cannot read what was fetched".into())?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(stem) = name.strip_suffix(".deb") else { continue };
            let parts: Vec<&str> = stem.split('_').collect();
            let [name, version, architecture] = parts[..] else { continue };
            let bytes = fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
            let package = Package {
                name: name.to_owned(),
                version: version.replace("%3a", ":"),
                architecture: architecture.to_owned(),
                sha256: Digest::of(&bytes).to_string(),
            };
            found.push((package, path));
        }
        found.sort();
        let (packages, files) = found.into_iter().unzip();
        Ok(Fetched { lock: Lock { schema: SCHEMA.to_owned(), wanted: wanted.to_vec(), packages }, files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(name: &str, version: &str) -> String {
        let package = format!(
            r#"{{"name": "{name}", "version": "{version}", "architecture": "all", "sha256": "{}"}}"#,
            "ab".repeat(32)
        );
        format!(r#"{{"schema": "{SCHEMA}", "wanted": ["tree"], "packages": [{package}]}}"#)
    }

    #[test]
    fn a_lock_is_read_as_it_was_written_and_has_packages_in_it() {
        let read = Lock::read(lock("libstdc++6", "1:2.0~rc1-1+b1").as_bytes()).unwrap();
        assert_eq!(Lock::read(&read.bytes().unwrap()).unwrap(), read);
        for (name, version) in [("-oDir=/", "1"), ("a b", "1"), ("../a", "1"), ("a", "1 -y"), ("a", ""), ("", "1")] {
            assert!(Lock::read(lock(name, version).as_bytes()).is_err(), "{name} {version}");
        }
        assert!(Lock::read(lock("a", "1").replace("/v1", "/v2").as_bytes()).is_err());
        assert!(Lock::read(b"{").is_err());
    }

    #[test]
    fn packages_are_those_of_one_release() {
        let debian = "PRETTY_NAME=\"Debian\"\nID=debian\nVERSION_CODENAME=bookworm\n";
        assert!(check_release(debian, debian).is_ok());
        for host in ["", "ID=debian\nVERSION_CODENAME=trixie\n", "ID=ubuntu\nVERSION_CODENAME=noble\n"] {
            assert_eq!(check_release(debian, host).unwrap_err().code, ErrorCode::BackendUnsupported);
        }
        assert!(check_release("", debian).is_err());
    }

    #[test]
    fn what_differs_from_a_lock_is_named() {
        let read = |name: &str, version: &str| Lock::read(lock(name, version).as_bytes()).unwrap();
        let none = Lock { packages: Vec::new(), ..read("a", "1") };
        assert_eq!(
            differs(&read("a", "1"), &read("a", "2")),
            "a 1 (abababababab) is locked, and a 2 (abababababab) is there"
        );
        assert!(differs(&read("a", "1"), &none).ends_with("is locked, and was not needed"));
        assert!(differs(&none, &read("a", "1")).ends_with("is needed, and is not locked"));
    }
}
