//! The way of a child from fork to exec. Everything that allocates is done before the fork; after it there are only
//! system calls, in an order that matters and is given in [`Plan::become_vmm`].

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{Error as IoError, Result as IoResult};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{c_int, c_ulong, sock_filter, sock_fprog};
use rustix::process::{Pid, PidfdFlags};

use super::{ABOVE, Layer, VmmLimits, high, passing, privileges, seccomp};
use crate::error::{Error, IoContext, Result};

/// Open descriptors that QEMU may have; it needs about thirty.
const MAX_DESCRIPTORS: u64 = 256;

/// A step between fork and exec, as it is named in errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Session,
    Descriptors,
    OomScore,
    Limits,
    Cgroup,
    Namespaces,
    User,
    Capabilities,
    ParentDeath,
    NoNewPrivileges,
    Landlock,
    Seccomp,
    Listener,
    Exec,
}

impl Step {
    const ALL: [(Step, &str); 14] = [
        (Step::Session, "new-session"),
        (Step::Descriptors, "descriptors"),
        (Step::OomScore, "oom-score"),
        (Step::Limits, "resource-limits"),
        (Step::Cgroup, "cgroup"),
        (Step::Namespaces, "namespaces"),
        (Step::User, "own-user"),
        (Step::Capabilities, "capabilities"),
        (Step::ParentDeath, "parent-death-signal"),
        (Step::NoNewPrivileges, "no-new-privileges"),
        (Step::Landlock, "landlock"),
        (Step::Seccomp, "seccomp"),
        (Step::Listener, "seccomp-listener"),
        (Step::Exec, "exec"),
    ];

    fn name(self) -> &'static str {
        Step::ALL.iter().find(|(step, _)| *step == self).map_or("", |(_, name)| name)
    }

    /// The step of this name.
    pub fn from_name(name: &str) -> Option<Step> {
        Step::ALL.iter().find(|(step, _)| step.name() == name).map(|(step, _)| *step)
    }

    /// The layer that a host may lack when this step fails. `None`: nothing goes on without it.
    pub fn layer(self) -> Option<Layer> {
        match self {
            Step::Namespaces => Some(Layer::NetworkNamespace),
            Step::Landlock => Some(Layer::Landlock),
            Step::Cgroup => Some(Layer::Cgroup),
            _ => None,
        }
    }
}

/// What the child does, ready before the fork.
pub struct Plan {
    program: CString,
    argv: Vec<CString>,
    fds: Vec<(RawFd, OwnedFd)>,
    dev_null: OwnedFd,
    landlock: Option<OwnedFd>,
    cgroup: Option<OwnedFd>,
    filter: Vec<sock_filter>,
    limits: VmmLimits,
    own_user: Option<u32>,
    namespaces: c_int,
    id_maps: Option<[(CString, String); 3]>,
    report: (OwnedFd, OwnedFd),
    listener: (OwnedFd, OwnedFd),
}

/// A child that was forked; it may not have reached its exec yet.
pub struct Started {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    /// Where its opens for writing arrive, if it got so far as to install the filter.
    pub listener: Option<OwnedFd>,
}

impl Plan {
    pub fn new(
        program: &Path,
        args: &[OsString],
        fds: Vec<(RawFd, OwnedFd)>,
        landlock: Option<&OwnedFd>,
        cgroup: Option<&File>,
        own_user: Option<u32>,
        limits: VmmLimits,
    ) -> Result<Plan> {
        let what = || format!("cannot start {}", program.display());
        if let Some((number, _)) = fds.iter().find(|(number, _)| !(0..ABOVE).contains(number)) {
            return Err(Error::internal(what(), format!("descriptor {number} is out of range")));
        }
        let c_string = |bytes: &[u8]| CString::new(bytes).map_err(|e| Error::internal(what(), e));
        let program_c = c_string(program.as_os_str().as_bytes())?;
        let mut argv = vec![program_c.clone()];
        for arg in args {
            argv.push(c_string(arg.as_bytes())?);
        }
        let root = rustix::process::geteuid().is_root();
        let prepare = || -> IoResult<Plan> {
            let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            Ok(Plan {
                program: program_c,
                argv,
                fds: fds.into_iter().map(|(number, fd)| Ok((number, high(fd)?))).collect::<IoResult<_>>()?,
                dev_null: high(File::options().read(true).write(true).open("/dev/null")?)?,
                landlock: landlock.map(high).transpose()?,
                cgroup: cgroup.map(high).transpose()?,
                filter: seccomp::program(),
                limits,
                own_user,
                // The filter refuses all that an IPC namespace would separate.
                namespaces: libc::CLONE_NEWNET | if root { 0 } else { libc::CLONE_NEWUSER },
                id_maps: if root { None } else { Some(id_maps()) },
                report: (pipe.0, high(pipe.1)?),
                listener: (ours.into(), high(theirs)?),
            })
        };
        prepare().context(what)
    }

    /// Forks. Returns where the child tells what it could not do, and the child.
    pub fn start(mut self) -> Result<(File, Started)> {
        let parent = rustix::process::getpid();
        let argv: Vec<*const libc::c_char> =
            self.argv.iter().map(|arg| arg.as_ptr()).chain([std::ptr::null()]).collect();
        // SAFETY: the child only makes system calls on memory prepared above, and then execs or exits.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let failed = self.become_vmm(parent, &argv);
            self.tell(failed.0, &failed.1);
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(127) }
        }
        let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else {
            return Err(Error::io("cannot fork", IoError::last_os_error()));
        };
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        let (report, report_theirs) = self.report;
        let (listener_ours, listener_theirs) = self.listener;
        drop((report_theirs, listener_theirs));
        let listener = passing::receive(&listener_ours);
        let pidfd = pidfd.context(|| "cannot watch a new process".into())?;
        Ok((File::from(report), Started { pid, pidfd, listener }))
    }

    /// Returns only when something without which nothing goes on has failed.
    fn become_vmm(&mut self, parent: Pid, argv: &[*const libc::c_char]) -> (Step, IoError) {
        let failed = |step: Step| move |error: IoError| (step, error);
        let steps = || -> std::result::Result<(), (Step, IoError)> {
            // Terminal signals must not reach it, and it starts from default dispositions.
            reset_session().map_err(failed(Step::Session))?;
            self.arrange_descriptors().map_err(failed(Step::Descriptors))?;
            // While there are still privileges for it: the host kills VMMs first, limits, cgroup, namespaces.
            write_file(c"/proc/self/oom_score_adj", b"500").map_err(failed(Step::OomScore))?;
            self.limit().map_err(failed(Step::Limits))?;
            if let Some(cgroup) = &self.cgroup {
                self.optional(Step::Cgroup, write_fd(cgroup.as_raw_fd(), b"0"));
            }
            self.optional(Step::Namespaces, self.enter_namespaces());
            // The bounding set goes while there is the privilege for it, the others when no more is needed.
            privileges::empty_bounding_set().map_err(failed(Step::Capabilities))?;
            self.change_user().map_err(failed(Step::User))?;
            privileges::drop_capabilities().map_err(failed(Step::Capabilities))?;
            // Changing the user clears it, so it comes after; and the parent may have died before it.
            die_with(parent).map_err(failed(Step::ParentDeath))?;
            // SAFETY: takes integers only.
            let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            check(set.into()).map_err(failed(Step::NoNewPrivileges))?;
            if let Some(ruleset) = &self.landlock {
                // SAFETY: takes a descriptor and flags.
                let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
                self.optional(Step::Landlock, check(done).map(drop));
            }
            Ok(())
        };
        if let Err(failed) = steps() {
            return failed;
        }
        let listener = match self.install_filter() {
            Ok(listener) => listener,
            Err(e) => return (Step::Seccomp, e),
        };
        if let Err(e) = passing::send(self.listener.1.as_raw_fd(), listener) {
            return (Step::Listener, e);
        }
        let environment = [std::ptr::null::<libc::c_char>()];
        // SAFETY: both arrays end with a null pointer and their strings live in the plan.
        unsafe { libc::execve(self.program.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
        (Step::Exec, IoError::last_os_error())
    }

    fn optional(&self, step: Step, result: IoResult<()>) {
        if let Err(e) = result {
            self.tell(step, &e);
        }
    }

    /// `step errno` on the report pipe, put together without allocating.
    fn tell(&self, step: Step, error: &IoError) {
        let mut line = [b' '; 40];
        let name = step.name().as_bytes();
        line[..name.len()].copy_from_slice(name);
        let mut errno = error.raw_os_error().unwrap_or(0);
        for at in (30..39).rev() {
            line[at] = b'0' + (errno % 10) as u8;
            errno /= 10;
        }
        line[39] = b'\n';
        let _ = write_fd(self.report.1.as_raw_fd(), &line);
    }

    /// The given descriptors at their numbers, standard ones on `/dev/null`, everything else closed by the exec.
    fn arrange_descriptors(&self) -> IoResult<()> {
        let given = |number: RawFd| self.fds.iter().find(|(wanted, _)| *wanted == number).map(|(_, fd)| fd);
        let last = self.fds.iter().map(|(number, _)| *number).max().unwrap_or(2).max(2);
        for number in 0..=last {
            let source = match given(number) {
                Some(fd) => fd,
                None if number <= 2 => &self.dev_null,
                None => {
                    // SAFETY: closing a number that may not be open is harmless here.
                    unsafe { libc::close(number) };
                    continue;
                }
            };
            // SAFETY: both are integers; the sources lie above every target.
            check(unsafe { libc::dup2(source.as_raw_fd(), number) }.into())?;
        }
        // SAFETY: takes integers only.
        let marked = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                (last + 1) as libc::c_uint,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        check(marked).map(drop)
    }

    fn limit(&self) -> IoResult<()> {
        // A core dump would hold the guest's memory.
        let always = [
            (libc::RLIMIT_CORE, crate::process::NO_CORE),
            (libc::RLIMIT_FSIZE, self.limits.file_size),
            (libc::RLIMIT_NOFILE, MAX_DESCRIPTORS),
            (libc::RLIMIT_MEMLOCK, 0),
        ];
        // It counts everything of one user, so it means something only for a user with one VMM.
        let threads = self.own_user.map(|_| (libc::RLIMIT_NPROC, self.limits.pids));
        for (resource, value) in always.into_iter().chain(threads) {
            let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
            // SAFETY: the structure outlives the call.
            check(unsafe { libc::setrlimit(resource, &raw const limit) }.into())?;
        }
        Ok(())
    }

    fn enter_namespaces(&self) -> IoResult<()> {
        // SAFETY: takes flags only.
        check(unsafe { libc::unshare(self.namespaces) }.into())?;
        for (path, text) in self.id_maps.iter().flatten() {
            write_file(path, text.as_bytes())?;
        }
        Ok(())
    }

    fn change_user(&self) -> IoResult<()> {
        let Some(id) = self.own_user else { return Ok(()) };
        // SAFETY: take integers only; the list of groups is empty.
        unsafe {
            check(libc::setgroups(0, std::ptr::null()).into())?;
            check(libc::setresgid(id, id, id).into())?;
            check(libc::setresuid(id, id, id).into()).map(drop)
        }
    }

    fn install_filter(&mut self) -> IoResult<RawFd> {
        seccomp::own_pid(&mut self.filter, std::process::id());
        let program = sock_fprog { len: self.filter.len() as u16, filter: self.filter.as_mut_ptr() };
        // SAFETY: the program and its instructions outlive the call.
        let listener = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        };
        check(listener).map(|fd| fd as RawFd)
    }
}

/// An ordinary user's namespaces need a user namespace in which they are themselves.
fn id_maps() -> [(CString, String); 3] {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    [
        (c"/proc/self/setgroups".to_owned(), "deny".to_owned()),
        (c"/proc/self/uid_map".to_owned(), format!("{uid} {uid} 1")),
        (c"/proc/self/gid_map".to_owned(), format!("{gid} {gid} 1")),
    ]
}

fn check(result: libc::c_long) -> IoResult<libc::c_long> {
    if result < 0 { Err(IoError::last_os_error()) } else { Ok(result) }
}

fn reset_session() -> IoResult<()> {
    // SAFETY: system calls on values of this frame.
    unsafe {
        check(libc::setsid().into())?;
        check(libc::chdir(c"/".as_ptr()).into())?;
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        check(libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()).into())?;
        // Ignored signals stay ignored across an exec. By number, because the C library hides two of them; what cannot be
        // set cannot be ignored either.
        let default = [0usize; 4];
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<usize>(), 8);
        }
    }
    Ok(())
}

fn die_with(parent: Pid) -> IoResult<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong, 0, 0, 0) }.into())?;
    if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(IoError::from_raw_os_error(libc::ESRCH)) }
}

fn write_fd(fd: RawFd, bytes: &[u8]) -> IoResult<()> {
    // SAFETY: the buffer is valid for its length.
    check(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) } as libc::c_long).map(drop)
}

fn write_file(path: &std::ffi::CStr, bytes: &[u8]) -> IoResult<()> {
    // SAFETY: the path ends with a zero byte; the descriptor is closed below.
    let fd = check(unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) }.into())? as RawFd;
    let result = write_fd(fd, bytes);
    // SAFETY: ours, and not used again.
    unsafe { libc::close(fd) };
    result
}
