//! One cgroup for each command, so that a kill takes the whole tree and no command can starve the agent.

use std::fs::{self, File};
use std::io::{Result, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

const JOBS: &str = "/sys/fs/cgroup/jobs";
/// Kept back from all commands together, for the agent and the kernel.
const RESERVE_BYTES: u64 = 24 << 20;
const MAX_PIDS: u32 = 2048;

/// Prepares the parent of all commands' cgroups. A controller that the kernel lacks is left out.
pub fn prepare() -> Result<()> {
    fs::create_dir_all(JOBS)?;
    for controller in ["+cpu", "+memory", "+pids"] {
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", controller);
    }
    let _ = fs::write(format!("{JOBS}/memory.max"), (memory_total()?.saturating_sub(RESERVE_BYTES)).to_string());
    let _ = fs::write(format!("{JOBS}/memory.swap.max"), "0");
    let _ = fs::write(format!("{JOBS}/pids.max"), MAX_PIDS.to_string());
    let _ = fs::write(format!("{JOBS}/cgroup.subtree_control"), "+memory");
    Ok(())
}

/// Stops or continues all commands. Returns once the kernel says it is so.
pub async fn freeze_all(frozen: bool) -> Result<()> {
    fs::write(format!("{JOBS}/cgroup.freeze"), if frozen { "1" } else { "0" })?;
    let wanted = if frozen { "frozen 1" } else { "frozen 0" };
    for _ in 0..1000 {
        if fs::read_to_string(format!("{JOBS}/cgroup.events"))?.lines().any(|line| line == wanted) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err(std::io::Error::from_raw_os_error(libc::ETIMEDOUT))
}

/// The cgroup of one command. Dropped, it kills what is in it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    procs: File,
}

impl Cgroup {
    /// Makes an empty one.
    pub fn create(id: u64) -> Result<Cgroup> {
        let path = Path::new(JOBS).join(id.to_string());
        fs::create_dir(&path)?;
        let procs = File::options().write(true).open(path.join("cgroup.procs"))?;
        Ok(Cgroup { path, procs })
    }

    /// The file a new child writes `0` to, to enter.
    pub fn procs(&self) -> &File {
        &self.procs
    }

    /// Kills every process in it, at once and without a race.
    pub fn kill(&self) {
        let _ = File::options().write(true).open(self.path.join("cgroup.kill")).and_then(|mut f| f.write_all(b"1"));
    }

    /// Whether anything is left in it.
    pub fn populated(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
    }

    /// Waits until nothing is left, for two seconds at most (a process stuck in the kernel cannot be waited out).
    pub async fn emptied(&self) {
        for _ in 0..400 {
            if !self.populated() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether the kernel killed one of its processes for lack of memory.
    pub fn oom_killed(&self) -> bool {
        fs::read_to_string(self.path.join("memory.events"))
            .is_ok_and(|events| events.lines().any(|l| l.strip_prefix("oom_kill ").is_some_and(|n| n != "0")))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if fs::remove_dir(&self.path).is_err() {
            self.kill();
            // The directory can go only when the last process has been reaped; the next command's cgroup has another name.
        }
    }
}

fn memory_total() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.unwrap_or(256 << 10) << 10)
}
