//! The way of a child from fork to exec. Everything that allocates is done before the fork; after it there are only
//! system calls, in an order that matters and is given in [`Plan::become_vmm`].

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{Error as IoError, Result as IoResult};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{c_int, c_ulong, sock_filter, sock_fprog};
use rustix::process::Pid;

use super::{Layer, high, seccomp};
use crate::error::{Error, IoContext, Result};

/// User and group ids for VMMs under root: one at random from a range that no distribution gives out.
const OWN_USERS: std::ops::Range<u32> = 1_900_000_000..1_900_065_536;
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
    Capabilities,
    User,
    ParentDeath,
    NoNewPrivileges,
    Landlock,
    Seccomp,
    Listener,
    Exec,
}

impl Step {
    const ALL: [(Step, &str); 14] = [
        (Step::Session, "new-session\0"),
        (Step::Descriptors, "descriptors\0"),
        (Step::OomScore, "oom-score\0"),
        (Step::Limits, "resource-limits\0"),
        (Step::Cgroup, "cgroup\0"),
        (Step::Namespaces, "namespaces\0"),
        (Step::Capabilities, "capabilities\0"),
        (Step::User, "own-user\0"),
        (Step::ParentDeath, "parent-death-signal\0"),
        (Step::NoNewPrivileges, "no-new-privileges\0"),
        (Step::Landlock, "landlock\0"),
        (Step::Seccomp, "seccomp\0"),
        (Step::Listener, "seccomp-listener\0"),
        (Step::Exec, "exec\0"),
    ];

    fn name(self) -> &'static str {
        Step::ALL.iter().find(|(step, _)| *step == self).map_or("", |(_, name)| name.trim_end_matches('\0'))
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
            Step::OomScore => Some(Layer::ResourceLimits),
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
    file_size: u64,
    own_user: Option<u32>,
    namespaces: c_int,
    id_maps: Option<[(CString, String); 3]>,
    report: (OwnedFd, OwnedFd),
    listener: (OwnedFd, OwnedFd),
}

/// A child that was forked; it may not have reached its exec yet.
pub struct Started {
    pub pid: Pid,
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
        file_size: u64,
    ) -> Result<Plan> {
        let what = || format!("cannot start {}", program.display());
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
                file_size,
                own_user: if root { Some(random_user()?) } else { None },
                namespaces: libc::CLONE_NEWNET | libc::CLONE_NEWIPC | if root { 0 } else { libc::CLONE_NEWUSER },
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
        let (report, report_theirs) = self.report;
        let (listener_ours, listener_theirs) = self.listener;
        drop((report_theirs, listener_theirs));
        let listener = receive_descriptor(&listener_ours);
        Ok((File::from(report), Started { pid, listener }))
    }

    /// Returns only when something without which nothing goes on has failed.
    fn become_vmm(&mut self, parent: Pid, argv: &[*const libc::c_char]) -> (Step, IoError) {
        let mandatory = |step: Step, result: IoResult<()>| result.map_err(|e| (step, e));
        let steps = || -> std::result::Result<(), (Step, IoError)> {
            // Terminal signals must not reach it, and it starts from default dispositions.
            mandatory(Step::Session, reset_session())?;
            mandatory(Step::Descriptors, self.arrange_descriptors())?;
            // While there are still privileges for it: the host kills VMMs first, limits, cgroup, namespaces.
            self.optional(Step::OomScore, write_file(c"/proc/self/oom_score_adj", b"500"));
            mandatory(Step::Limits, self.limit())?;
            if let Some(cgroup) = &self.cgroup {
                self.optional(Step::Cgroup, write_fd(cgroup.as_raw_fd(), b"0"));
            }
            self.optional(Step::Namespaces, self.enter_namespaces());
            mandatory(Step::Capabilities, drop_capabilities())?;
            mandatory(Step::User, self.change_user())?;
            // Changing the user clears it, so it comes after; and the parent may have died before it.
            mandatory(Step::ParentDeath, die_with(parent))?;
            // SAFETY: takes integers only.
            mandatory(
                Step::NoNewPrivileges,
                check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop),
            )?;
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
        if let Err(e) = send_descriptor(self.listener.1.as_raw_fd(), listener) {
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
        for (resource, value) in
            [(libc::RLIMIT_CORE, 0), (libc::RLIMIT_FSIZE, self.file_size), (libc::RLIMIT_NOFILE, MAX_DESCRIPTORS)]
        {
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

fn random_user() -> IoResult<u32> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(OWN_USERS.start + u32::from_le_bytes(bytes) % (OWN_USERS.end - OWN_USERS.start))
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
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        check(libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()).into())?;
        // Ignored signals stay ignored across an exec, and Rust programs ignore this one.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    Ok(())
}

/// Empties the bounding set; the effective ones go with the change of user, or with the exec.
fn drop_capabilities() -> IoResult<()> {
    for capability in 0..64 as c_ulong {
        // SAFETY: takes integers only.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if dropped != 0 {
            match IoError::last_os_error().raw_os_error() {
                // Beyond the last capability that this kernel has.
                Some(libc::EINVAL) => break,
                // An ordinary user without a namespace of their own has none to lose.
                Some(libc::EPERM) => break,
                _ => return Err(IoError::last_os_error()),
            }
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

/// Room for one descriptor's control message, aligned as the kernel wants it.
#[repr(align(8))]
struct ControlSpace([u8; 32]);

fn message<'a>(byte: &'a mut libc::iovec, space: &'a mut ControlSpace) -> libc::msghdr {
    // SAFETY: all-zero is a valid empty header.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = byte;
    header.msg_iovlen = 1;
    header.msg_control = space.0.as_mut_ptr().cast();
    // SAFETY: a pure computation.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize;
    header
}

fn send_descriptor(socket: RawFd, fd: RawFd) -> IoResult<()> {
    let mut byte = [1u8];
    let mut vector = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut space = ControlSpace([0; 32]);
    let header = message(&mut vector, &mut space);
    // SAFETY: the header points to values of this frame, and the space holds one control message of one descriptor.
    unsafe {
        let control = libc::CMSG_FIRSTHDR(&raw const header);
        (*control).cmsg_level = libc::SOL_SOCKET;
        (*control).cmsg_type = libc::SCM_RIGHTS;
        (*control).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
        libc::CMSG_DATA(control).cast::<RawFd>().write_unaligned(fd);
        check(libc::sendmsg(socket, &raw const header, libc::MSG_NOSIGNAL) as libc::c_long).map(drop)
    }
}

/// `None` if the child ended before it sent one; the report says why.
fn receive_descriptor(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut byte = [0u8];
    let mut vector = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut space = ControlSpace([0; 32]);
    let mut header = message(&mut vector, &mut space);
    // SAFETY: as above; a descriptor that arrives is new and ours.
    unsafe {
        if libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) < 1 {
            return None;
        }
        let control = libc::CMSG_FIRSTHDR(&raw const header);
        if control.is_null() || (*control).cmsg_type != libc::SCM_RIGHTS {
            return None;
        }
        Some(OwnedFd::from_raw_fd(libc::CMSG_DATA(control).cast::<RawFd>().read_unaligned()))
    }
}
