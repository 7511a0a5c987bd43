//! Starting one process, and learning how every process ended: PID 1 is the parent of whoever lost theirs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{FromRawFd, OwnedFd};

use mvm_wire::guest::{Exec, Failure, Status, Step, TermSize};
use rustix::process::{Pid, WaitOptions, WaitStatus};
use rustix::termios::Winsize;
use tokio::io::Interest;
use tokio::sync::oneshot;

use crate::cgroup::Cgroup;
use crate::child::Child;
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
    pub output: OwnedFd,
    /// `None` if a terminal carries both.
    pub errors: Option<OwnedFd>,
    pub ended: oneshot::Receiver<Status>,
}

/// Starts the command of `exec` inside `cgroup`.
pub fn start(exec: &Exec, cgroup: &Cgroup) -> std::result::Result<Process, Failure> {
    let user = User::resolve(&exec.user).map_err(|detail| Failure { step: Step::User, errno: 0, detail })?;
    let spawn_failed =
        |e: Error| Failure { step: Step::Spawn, errno: e.raw_os_error().unwrap_or(0), detail: e.to_string() };
    let plumbing = Plumbing::new(exec).map_err(spawn_failed)?;
    let child = Child::new(exec, &user, &plumbing, cgroup).map_err(|e| Failure {
        step: Step::Protocol,
        errno: 0,
        detail: e.to_string(),
    })?;
    let pid = child.spawn().map_err(|(step, errno)| {
        let detail = match step {
            Step::Program => exec.argv[0].clone(),
            Step::Cwd => child.cwd().to_owned(),
            Step::User => exec.user.clone(),
            _ => String::new(),
        };
        Failure { step, errno, detail }
    })?;
    let (sender, ended) = oneshot::channel();
    WAITERS.with_borrow_mut(|waiters| waiters.insert(pid.as_raw_nonzero().get(), sender));
    Ok(Process { pid, input: plumbing.input, output: plumbing.output, errors: plumbing.errors, ended })
}

/// Pipes or a terminal between the command and us.
pub struct Plumbing {
    input: Option<OwnedFd>,
    output: OwnedFd,
    errors: Option<OwnedFd>,
    /// The command's ends: standard input, output and error.
    pub theirs: [OwnedFd; 3],
    /// Whether they are a terminal.
    pub terminal: bool,
}

impl Plumbing {
    fn new(exec: &Exec) -> Result<Plumbing> {
        match exec.tty {
            Some(size) => Plumbing::terminal(size),
            None => Plumbing::pipes(exec.stdin),
        }
    }

    fn pipes(stdin: bool) -> Result<Plumbing> {
        let (their_input, input) = if stdin {
            let (theirs, ours) = std::io::pipe()?;
            (theirs.into(), Some(ours.into()))
        } else {
            (File::open("/dev/null")?.into(), None)
        };
        let (output, their_output) = std::io::pipe()?;
        let (errors, their_errors) = std::io::pipe()?;
        let theirs = [their_input, their_output.into(), their_errors.into()];
        Ok(Plumbing { input, output: output.into(), errors: Some(errors.into()), theirs, terminal: false })
    }

    fn terminal(size: TermSize) -> Result<Plumbing> {
        use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        resize(&ours, size)?;
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        let theirs = [theirs.try_clone()?, theirs.try_clone()?, theirs];
        Ok(Plumbing { input: Some(ours.try_clone()?), output: ours, errors: None, theirs, terminal: true })
    }
}

/// Sets a terminal's size; its foreground processes get SIGWINCH.
pub fn resize(terminal: &OwnedFd, size: TermSize) -> Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}
