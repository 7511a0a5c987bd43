//! Starting one process, and learning how every process ended: PID 1 is the parent of whoever lost theirs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use mvm_wire::guest::{Exec, Failure, Status, Step, TermSize};
use rustix::process::{Pid, WaitOptions, WaitStatus};
use rustix::termios::Winsize;
use tokio::io::Interest;
use tokio::sync::oneshot;

use crate::cgroup::Cgroup;
use crate::link::watch;
use crate::user::User;

/// Used where the caller's environment names none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Added to the errno of a step before the exec, so that the one number a failed child reports also names the step.
const CWD_STEP: i32 = 10_000;
const USER_STEP: i32 = 20_000;

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
    let mut command = command(exec, &user);
    let plumbing = Plumbing::new(exec, &mut command).map_err(|e| Failure {
        step: Step::Spawn,
        errno: e.raw_os_error().unwrap_or(0),
        detail: e.to_string(),
    })?;
    let cwd = if exec.cwd.is_empty() { user.home.clone() } else { exec.cwd.clone() };
    prepare_child(&mut command, cgroup, user, &cwd, exec.cwd.is_empty(), exec.tty.is_some());
    let child = command.spawn().map_err(|e| explain(&e, exec, &cwd))?;
    drop(command);
    let pid = Pid::from_raw(child.id() as i32).unwrap_or(Pid::INIT);
    let (sender, ended) = oneshot::channel();
    WAITERS.with_borrow_mut(|waiters| waiters.insert(child.id() as i32, sender));
    Ok(Process { pid, input: plumbing.input, output: plumbing.output, errors: plumbing.errors, ended })
}

fn command(exec: &Exec, user: &User) -> Command {
    let mut command = Command::new(&exec.argv[0]);
    command.args(&exec.argv[1..]).env_clear();
    for (name, value) in [("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name)] {
        command.env(name, value);
    }
    command.env("PATH", DEFAULT_PATH);
    command.envs(exec.env.iter().map(|(name, value)| (name, value)));
    command
}

/// What runs in the child between fork and exec. Only system calls: nothing here allocates.
fn prepare_child(command: &mut Command, cgroup: &Cgroup, user: User, cwd: &str, home_default: bool, tty: bool) {
    let procs = cgroup.procs().as_raw_fd();
    let cwd = std::ffi::CString::new(cwd).unwrap_or_default();
    let step = |offset: i32| move |e: rustix::io::Errno| Error::from_raw_os_error(offset + e.raw_os_error());
    let child = move || -> Result<()> {
        // SAFETY: the descriptor is open in the parent, and so in the child until exec.
        let procs = unsafe { rustix::fd::BorrowedFd::borrow_raw(procs) };
        rustix::io::write(procs, b"0")?;
        rustix::process::setsid()?;
        if tty {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        if user.uid != 0 || user.gid != 0 {
            // SAFETY: plain system calls on a list that lives in the closure.
            unsafe {
                if libc::setgroups(user.groups.len(), user.groups.as_ptr()) != 0
                    || libc::setresgid(user.gid, user.gid, user.gid) != 0
                    || libc::setresuid(user.uid, user.uid, user.uid) != 0
                {
                    return Err(Error::from_raw_os_error(USER_STEP + *libc::__errno_location()));
                }
            }
        }
        match rustix::process::chdir(&cwd) {
            // A user without a home still gets a shell.
            Err(_) if home_default => rustix::process::chdir(c"/").map_err(step(CWD_STEP)),
            other => other.map_err(step(CWD_STEP)),
        }
    };
    // SAFETY: the closure makes only async-signal-safe system calls.
    unsafe { command.pre_exec(child) };
}

fn explain(err: &Error, exec: &Exec, cwd: &str) -> Failure {
    let errno = err.raw_os_error().unwrap_or(0);
    let (step, errno, detail) = match errno {
        e if e >= USER_STEP => (Step::User, e - USER_STEP, exec.user.clone()),
        e if e >= CWD_STEP => (Step::Cwd, e - CWD_STEP, cwd.to_owned()),
        libc::EAGAIN | libc::ENOMEM => (Step::Spawn, errno, String::new()),
        0 => (Step::Protocol, 0, err.to_string()),
        _ => (Step::Program, errno, exec.argv[0].clone()),
    };
    Failure { step, errno, detail }
}

/// Pipes or a terminal between the command and us.
struct Plumbing {
    input: Option<OwnedFd>,
    output: OwnedFd,
    errors: Option<OwnedFd>,
}

impl Plumbing {
    fn new(exec: &Exec, command: &mut Command) -> Result<Plumbing> {
        match exec.tty {
            Some(size) => Plumbing::terminal(size, command),
            None => Plumbing::pipes(exec.stdin, command),
        }
    }

    fn pipes(stdin: bool, command: &mut Command) -> Result<Plumbing> {
        let input = if stdin {
            let (theirs, ours) = std::io::pipe()?;
            command.stdin(theirs);
            Some(OwnedFd::from(ours))
        } else {
            command.stdin(Stdio::from(File::open("/dev/null")?));
            None
        };
        let (output, theirs) = std::io::pipe()?;
        command.stdout(theirs);
        let (errors, theirs) = std::io::pipe()?;
        command.stderr(theirs);
        Ok(Plumbing { input, output: output.into(), errors: Some(errors.into()) })
    }

    fn terminal(size: TermSize, command: &mut Command) -> Result<Plumbing> {
        use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        resize(&ours, size)?;
        let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
        Ok(Plumbing { input: Some(ours.try_clone()?), output: ours, errors: None })
    }
}

/// Sets a terminal's size; its foreground processes get SIGWINCH.
pub fn resize(terminal: &OwnedFd, size: TermSize) -> Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}
