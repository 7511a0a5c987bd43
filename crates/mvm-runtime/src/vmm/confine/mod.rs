//! Starting the VMM so that, once a guest has taken it over, there is nothing to reach from it.
//!
//! The VMM gets descriptors and nothing else: no environment, no path it could open for writing, no network, no other
//! process to signal. [`Layer`] is the one list of what is done, and each VMM says which of it applies; what must is for a
//! policy to say. Needs Linux 5.14.

mod broker;
mod cgroup;
mod child;
mod landlock;
mod passing;
mod privileges;
mod report;
mod seccomp;

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use mvm_wire::ErrorCode;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use report::{Layer, LayerReport};

use crate::error::{Error, IoContext, Result};

/// A file that the VMM insists on opening by name for writing. The open is answered with our descriptor, whatever was
/// asked for: QEMU before 8.2 opens private copy-on-write memory read-write, and gets a read-only descriptor that serves.
#[derive(Debug)]
pub struct BrokeredOpen {
    /// The name it opens. It need not exist.
    pub path: PathBuf,
    /// What it gets.
    pub fd: OwnedFd,
}

/// Bounds on what the VMM may use of the host.
#[derive(Debug, Clone, Copy)]
pub struct VmmLimits {
    /// The largest file it may write, in bytes.
    pub file_size: u64,
    /// Its memory, in bytes, where a cgroup can be had.
    pub memory: u64,
    /// Its threads, where a cgroup or a user of its own can be had.
    pub pids: u64,
}

/// A VMM to start.
#[derive(Debug)]
pub struct VmmCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its descriptors: the number it sees (3 to 199), and what is there. Standard input and output are `/dev/null`,
    /// standard error is kept for [`VmmProcess::stderr_tail`].
    pub fds: Vec<(RawFd, OwnedFd)>,
    /// Opens for writing that are answered by us.
    pub opens: Vec<BrokeredOpen>,
    /// Limits.
    pub limits: VmmLimits,
    /// Files it may open for reading besides programs, libraries and firmware.
    pub readable: Vec<PathBuf>,
}

/// A confined process. Dropped, it is killed and waited for.
#[derive(Debug)]
pub struct VmmProcess {
    pid: Pid,
    pidfd: OwnedFd,
    ended: Option<String>,
    layers: Vec<LayerReport>,
    stderr: Arc<Mutex<Vec<u8>>>,
    _cgroup: Option<cgroup::Leaf>,
}

/// Starts a VMM. The calling thread must live as long as the VMM: the kernel kills the VMM when that thread ends.
pub fn spawn(command: VmmCommand) -> Result<VmmProcess> {
    let what = || format!("cannot start {}", command.program.display());
    let mut missing: Vec<(Layer, String)> = Vec::new();
    let landlock = landlock::ruleset(&command.program, &command.readable);
    let landlock = landlock.map_err(|why| missing.push((Layer::Landlock, why))).ok();
    let cgroup = cgroup::Leaf::create(command.limits.memory, command.limits.pids);
    let cgroup = cgroup.map_err(|why| missing.push((Layer::Cgroup, why))).ok();
    let own_user = privileges::own_user().map_err(|why| missing.push((Layer::OwnUser, why))).ok();
    let (stderr_ours, stderr_theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context(what)?;
    let mut fds = command.fds;
    fds.push((2, stderr_theirs));
    let plan = child::Plan::new(
        &command.program,
        &command.args,
        fds,
        landlock.as_ref(),
        cgroup.as_ref().map(|leaf| leaf.procs()),
        own_user,
        command.limits,
    )?;
    let (report, started) = plan.start()?;
    let mut process = VmmProcess {
        pid: started.pid,
        pidfd: started.pidfd,
        ended: None,
        layers: Vec::new(),
        stderr: keep_tail(File::from(stderr_ours)).context(what)?,
        _cgroup: cgroup,
    };
    if let Some(listener) = started.listener {
        broker::admit_exec(&listener);
        broker::serve(listener, command.opens).context(what)?;
    }
    missing.extend(failed_steps(report, &command.program)?);
    process.layers = report::reports(&missing);
    Ok(process)
}

/// Reads what the child could not do until its exec closes the pipe. An error if that keeps it from starting.
fn failed_steps(mut report: File, program: &Path) -> Result<Vec<(Layer, String)>> {
    let what = || format!("cannot start {}", program.display());
    let mut text = String::new();
    report.read_to_string(&mut text).context(what)?;
    let mut missing = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(step), Some(errno)) = (words.next(), words.next().and_then(|n| n.parse().ok())) else { continue };
        let why = std::io::Error::from_raw_os_error(errno).to_string();
        match child::Step::from_name(step).and_then(child::Step::layer) {
            Some(layer) => missing.push((layer, why)),
            None => return Err(Error::new(ErrorCode::BackendUnsupported, what(), format!("{step}: {why}"))),
        }
    }
    Ok(missing)
}

/// What applies on this host, tried with a program that does nothing.
pub fn detect() -> Result<Vec<LayerReport>> {
    let process = spawn(VmmCommand {
        program: crate::tool::find("true")?,
        args: Vec::new(),
        fds: Vec::new(),
        opens: Vec::new(),
        limits: VmmLimits { file_size: 1 << 20, memory: 64 << 20, pids: 16 },
        readable: Vec::new(),
    })?;
    Ok(process.layers().to_vec())
}

impl VmmProcess {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// A descriptor that becomes readable when it has ended.
    pub fn pidfd(&self) -> impl AsFd {
        self.pidfd.as_fd()
    }

    /// What confines it.
    pub fn layers(&self) -> &[LayerReport] {
        &self.layers
    }

    /// The end of what it printed on standard error.
    pub fn stderr_tail(&self) -> String {
        let bytes = self.stderr.lock().map(|tail| tail.clone()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Becomes readable when it has ended.
    pub fn watch(&self) -> Result<AsyncFd<OwnedFd>> {
        let pidfd = self.pidfd.try_clone().context(|| "cannot watch the VMM".into())?;
        // SAFETY: an `OwnedFd` stays the same open descriptor for as long as the `AsyncFd` owns it.
        unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.context(|| "cannot watch the VMM".into())
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Result<Option<String>> {
        self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Ends it at once and waits until it is gone.
    pub fn kill(&mut self) {
        if self.ended.is_none() {
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
            let _ = self.wait(WaitIdOptions::EXITED);
        }
    }

    fn wait(&mut self, options: WaitIdOptions) -> Result<Option<String>> {
        if self.ended.is_none() {
            let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options);
            self.ended = status.context(|| "cannot wait for the VMM".into())?.map(|status| describe(&status));
        }
        Ok(self.ended.clone())
    }
}

impl Drop for VmmProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What [`VmmProcess::try_wait`] says of a VMM that ended without an error.
pub const EXITED_WELL: &str = "exit status 0";

fn describe(status: &WaitIdStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, Some(signal)) => format!("killed by signal {signal}"),
        _ => "in an unknown way".to_owned(),
    }
}

/// Reads what the VMM says for as long as it lives and keeps its end.
fn keep_tail(mut pipe: File) -> std::io::Result<Arc<Mutex<Vec<u8>>>> {
    const KEEP: usize = 4096;
    let tail = Arc::new(Mutex::new(Vec::new()));
    let keep = tail.clone();
    std::thread::Builder::new().name("vmm-stderr".into()).spawn(move || {
        let mut chunk = [0; 1024];
        while let Ok(len @ 1..) = pipe.read(&mut chunk) {
            if let Ok(mut tail) = keep.lock() {
                tail.extend_from_slice(&chunk[..len]);
                let excess = tail.len().saturating_sub(KEEP);
                tail.drain(..excess);
            }
        }
    })?;
    Ok(tail)
}

/// Numbers from here on are ours until the exec; the VMM's lie below.
const ABOVE: RawFd = 200;

/// Moves a descriptor out of the way of the numbers that the VMM sees.
fn high(fd: impl AsFd) -> std::io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer and returns a new descriptor, which nobody else owns.
    let copy = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, ABOVE) };
    if copy < 0 { Err(std::io::Error::last_os_error()) } else { Ok(unsafe_own(copy)) }
}

fn unsafe_own(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass a descriptor that a system call has just returned to them.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
