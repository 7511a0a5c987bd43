//! One cgroup for each command, so that a kill takes the whole tree and no command can starve the agent.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Result, Write};
use std::os::unix::fs::FileExt;
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
    let _ = fs::write(format!("{JOBS}/cgroup.subtree_control"), "+memory +pids");
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

/// Kills all commands.
pub fn kill_all() {
    let _ = fs::write(format!("{JOBS}/cgroup.kill"), "1");
}

/// The cgroup of one command. Dropped, it kills what is in it.
///
/// Its files are opened when it is made, ahead of need: under emulation every path that is walked for the first time
/// after a restore costs a millisecond.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    dir: File,
    events: File,
    memory_events: Option<File>,
    /// Kills for lack of memory during earlier commands.
    earlier_kills: Cell<u64>,
    /// Processes that it may hold at once; 0 for any number.
    max_processes: Cell<u32>,
}

impl Cgroup {
    /// Makes an empty one.
    pub fn create(id: u64) -> Result<Cgroup> {
        let path = Path::new(JOBS).join(id.to_string());
        fs::create_dir(&path)?;
        Ok(Cgroup {
            dir: File::open(&path)?,
            events: File::open(path.join("cgroup.events"))?,
            memory_events: File::open(path.join("memory.events")).ok(),
            earlier_kills: Cell::new(0),
            max_processes: Cell::new(0),
            path,
        })
    }

    /// Its directory, into which a process can be born.
    pub fn dir(&self) -> &File {
        &self.dir
    }

    /// Bounds the processes and threads in it; 0 lifts the bound. An error if this kernel cannot.
    pub fn limit_processes(&self, count: u32) -> Result<()> {
        if self.max_processes.replace(count) != count {
            let text = if count == 0 { "max".to_owned() } else { count.to_string() };
            fs::write(self.path.join("pids.max"), text)?;
        }
        Ok(())
    }

    /// Kills every process in it, at once and without a race.
    pub fn kill(&self) {
        let _ = File::options().write(true).open(self.path.join("cgroup.kill")).and_then(|mut f| f.write_all(b"1"));
    }

    /// Kills what is left in it and waits until it is gone, two seconds at most: a process that is stuck in the kernel
    /// cannot be waited out.
    pub async fn clear(&self) {
        if self.is_empty() {
            return;
        }
        self.kill();
        for _ in 0..400 {
            if self.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether nothing is left in it, so that another command can have it.
    pub fn is_empty(&self) -> bool {
        value(&self.events, "populated ") == Some(0)
    }

    /// Whether the kernel has killed one of its processes for lack of memory since this was last asked.
    pub fn oom_killed(&self) -> bool {
        let kills = self.memory_events.as_ref().and_then(|events| value(events, "oom_kill ")).unwrap_or(0);
        self.earlier_kills.replace(kills) != kills
    }
}

/// The number behind a key in a small file of the cgroup file system.
fn value(file: &File, key: &str) -> Option<u64> {
    let mut text = [0; 512];
    let len = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text[..len]).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.parse().ok())
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if fs::remove_dir(&self.path).is_err() {
            // The directory can go only when the last process has been reaped; the next command's has another name.
            self.kill();
        }
    }
}

fn memory_total() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.unwrap_or(256 << 10) << 10)
}
