//! Starting one command, and learning how every process ended: PID 1 is the parent of whoever lost theirs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::io::{Error, Result};
use std::os::fd::{FromRawFd, OwnedFd};

use mvm_wire::guest::{Exec, Failure, Status, Step, TermSize};
use rustix::process::{Pid, WaitOptions, WaitStatus};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::Winsize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::cgroup::Cgroup;
use crate::child::{Plan, Spare};
use crate::link::watch;
use crate::user::User;

thread_local! {
    static WAITERS: RefCell<HashMap<i32, oneshot::Sender<Status>>> = RefCell::default();
}

/// Reaps forever. The agent is single-threaded, so a child is registered before this can run again.
pub async fn reap_forever() -> Result<()> {
    let children = watch(sigchld_fd()?, Interest::READABLE)?;
    loop {
        let mut guard = children.readable().await?;
        let mut info = [0u8; 128];
        let _ = rustix::io::read(children.get_ref(), &mut info);
        guard.clear_ready();
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let waiter = WAITERS.with_borrow_mut(|waiters| waiters.remove(&pid.as_raw_nonzero().get()));
            if let (Some(waiter), Some(status)) = (waiter, ended(status)) {
                let _ = waiter.send(status);
            }
        }
    }
}

fn ended(status: WaitStatus) -> Option<Status> {
    let code = status.exit_status().map(|code| Status::Code(code as u8));
    code.or_else(|| status.terminating_signal().map(|signal| Status::Signal(signal as u8)))
}

fn sigchld_fd() -> Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before it is read; the descriptor is new and ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        let fd = libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        if fd < 0 { Err(Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// A started process: our ends of its input and output, and how it will end.
#[derive(Debug)]
pub struct Process {
    pub pid: Pid,
    pub input: Option<OwnedFd>,
    pub output: AsyncFd<OwnedFd>,
    /// `None` if a terminal carries both.
    pub errors: Option<AsyncFd<OwnedFd>>,
    pub ended: oneshot::Receiver<Status>,
}

/// Has a spare child become the command of `exec`.
pub async fn start(exec: &Exec, mut spare: Spare, cgroup: &Cgroup) -> std::result::Result<Process, Failure> {
    let user = User::resolve(&exec.user).map_err(|detail| Failure { step: Step::User, errno: 0, detail })?;
    if exec.unprivileged && user.is_privileged() {
        return Err(Failure { step: Step::User, errno: libc::EPERM, detail: user.name });
    }
    let terminal = exec.tty.map(open_terminal).transpose().map_err(|e| Failure {
        step: Step::Spawn,
        errno: e.raw_os_error().unwrap_or(0),
        detail: e.to_string(),
    })?;
    let (ours, theirs) = terminal.unzip();
    let plan = Plan::new(exec, &user, theirs).map_err(|e| Failure {
        step: Step::Protocol,
        errno: libc::EINVAL,
        detail: e.to_string(),
    })?;
    // Before anything is waited for: it may end at once.
    let (sender, ended) = oneshot::channel();
    WAITERS.with_borrow_mut(|waiters| waiters.insert(spare.pid.as_raw_nonzero().get(), sender));
    let cwd = plan.cwd();
    spare.run(plan, cgroup).await.map_err(|(step, errno)| {
        let detail = match step {
            Step::Program => exec.argv[0].clone(),
            Step::Cwd => cwd,
            Step::User => exec.user.clone(),
            _ => String::new(),
        };
        Failure { step, errno, detail }
    })?;
    Ok(match ours {
        Some((input, output)) => Process { pid: spare.pid, input: Some(input), output, errors: None, ended },
        None => Process {
            pid: spare.pid,
            input: exec.stdin.then_some(spare.input),
            output: spare.output,
            errors: Some(spare.errors),
            ended,
        },
    })
}

/// A new terminal: our end, to write and to read, and the name of the command's.
fn open_terminal(size: TermSize) -> Result<((OwnedFd, AsyncFd<OwnedFd>), CString)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    resize(&ours, size)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    let name = ptsname(&ours, Vec::new())?;
    Ok(((ours.try_clone()?, watch(ours, Interest::READABLE)?), name))
}

/// Sets a terminal's size; its foreground processes get SIGWINCH.
pub fn resize(terminal: &OwnedFd, size: TermSize) -> Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}
