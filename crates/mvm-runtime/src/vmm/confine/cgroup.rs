//! Memory and process limits by a cgroup of version 2, where the host lets us make one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup";
const PREFIX: &str = "mvm-vmm-";

/// A cgroup for one VMM; removed when this is dropped, after the VMM.
#[derive(Debug)]
pub struct Leaf {
    path: PathBuf,
    procs: File,
}

impl Leaf {
    /// Makes one beside our own cgroup. The error says why that cannot be.
    pub fn create(memory: u64, pids: u64) -> Result<Leaf, String> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        Leaf::create_beside(&Path::new(ROOT).join(own), memory, pids)
    }

    fn create_beside(own: &Path, memory: u64, pids: u64) -> Result<Leaf, String> {
        let parent = if own == Path::new(ROOT) { own } else { own.parent().unwrap_or(own) };
        let controllers = fs::read_to_string(parent.join("cgroup.subtree_control"))
            .map_err(|_| "this host has no unified cgroups".to_owned())?;
        if !["memory", "pids"].iter().all(|wanted| controllers.split_whitespace().any(|c| c == *wanted)) {
            return Err("the memory and pids controllers are not delegated to us".into());
        }
        sweep(parent);
        let path = parent.join(format!("{PREFIX}{}", crate::home::unique()));
        fs::create_dir(&path).map_err(|e| format!("cannot make a cgroup: {e}"))?;
        let fill = || -> std::io::Result<File> {
            fs::write(path.join("memory.max"), memory.to_string())?;
            fs::write(path.join("pids.max"), pids.to_string())?;
            File::options().write(true).open(path.join("cgroup.procs"))
        };
        match fill() {
            Ok(procs) => Ok(Leaf { path, procs }),
            Err(e) => {
                let _ = fs::remove_dir(&path);
                Err(format!("cannot set its limits: {e}"))
            }
        }
    }

    /// Where the VMM writes `0` to enter.
    pub fn procs(&self) -> &File {
        &self.procs
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// Removes what killed processes left. One with a process in it, or too new to have one yet, stays.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let old = || {
            entry
                .metadata()
                .and_then(|meta| meta.modified())
                .ok()?
                .elapsed()
                .ok()
                .filter(|age| *age > Duration::from_secs(60))
        };
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && old().is_some() {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_delegation_the_reason_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("session");
        fs::create_dir(&own).unwrap();
        assert_eq!(Leaf::create_beside(&own, 1, 1).unwrap_err(), "this host has no unified cgroups");
        fs::write(dir.path().join("cgroup.subtree_control"), "cpu memory\n").unwrap();
        assert_eq!(
            Leaf::create_beside(&own, 1, 1).unwrap_err(),
            "the memory and pids controllers are not delegated to us"
        );
    }
}
