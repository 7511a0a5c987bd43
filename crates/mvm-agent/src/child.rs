//! The next command's process, born ahead of need.
//!
//! Fork, cgroup, session and pipes cost half of a command's start under emulation, where all code is slow the first
//! time. So a spare child that has all of that always waits for the one thing that only a request can tell: what to
//! become. In a template it waits since before the save.

use std::ffi::{CString, NulError};
use std::fs::File;
use std::io::{Error, Read, Result, Write};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use libc::{c_char, c_long};
use mvm_wire::guest::{Exec, Step};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::cgroup::Cgroup;
use crate::link::watch;
use crate::user::User;

/// Used where the caller's environment names none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Capacity of standard input and output.
const PIPE_SIZE: usize = 256 << 10;
/// Where the child finds its plan, its way to report and an empty input; all three close with its exec.
const PLAN_FD: i32 = 3;
const STATUS_FD: i32 = 4;
const NULL_FD: i32 = 5;

/// What a spare child is told to become.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    argv: Vec<String>,
    environment: Vec<String>,
    /// Where the program may be, in the order of `PATH`.
    programs: Vec<String>,
    cwd: String,
    /// A working directory that nobody asked for may be missing.
    cwd_optional: bool,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    stdin: bool,
    /// The terminal that takes the place of the pipes.
    terminal: Option<String>,
}

impl Plan {
    /// Works it out from the request.
    pub fn new(exec: &Exec, user: &User, terminal: Option<String>) -> Plan {
        let given =
            |name: &str| exec.env.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.as_str());
        let path = given("PATH").unwrap_or(DEFAULT_PATH);
        // The last of equal names counts.
        let last = |index: usize, name: &str| !exec.env[index + 1..].iter().any(|(later, _)| later == name);
        let kept = exec.env.iter().enumerate().filter(|(index, (name, _))| last(*index, name));
        let mut environment: Vec<String> = kept.map(|(_, (name, value))| format!("{name}={value}")).collect();
        for (name, value) in [("PATH", path), ("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name)] {
            if given(name).is_none() {
                environment.push(format!("{name}={value}"));
            }
        }
        let program = &exec.argv[0];
        let programs = if program.contains('/') {
            vec![program.clone()]
        } else {
            path.split(':').map(|dir| format!("{}/{program}", if dir.is_empty() { "." } else { dir })).collect()
        };
        Plan {
            argv: exec.argv.clone(),
            environment,
            programs,
            cwd: if exec.cwd.is_empty() { user.home.clone() } else { exec.cwd.clone() },
            cwd_optional: exec.cwd.is_empty(),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
            stdin: exec.stdin,
            terminal,
        }
    }

    /// Where the command will start.
    pub fn cwd(&self) -> &str {
        &self.cwd
    }
}

/// A child that waits for its plan, and our ends of its pipes.
#[derive(Debug)]
pub struct Spare {
    pub pid: Pid,
    pub input: OwnedFd,
    pub output: AsyncFd<OwnedFd>,
    pub errors: AsyncFd<OwnedFd>,
    plan: File,
    status: File,
}

/// Bears a child inside `cgroup`.
pub fn bear(cgroup: &Cgroup) -> Result<Spare> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (their_input, input) = pipe()?;
    let (output, their_output) = pipe()?;
    let (errors, their_errors) = pipe()?;
    let (their_plan, plan) = pipe()?;
    let (status, their_status) = pipe()?;
    let null = OwnedFd::from(File::open("/dev/null")?);
    let theirs = [their_input, their_output, their_errors, their_plan, their_status, null];
    let pid = fork_into(cgroup)?;
    let Some(pid) = pid else { wait_and_become(theirs) };
    drop(theirs);
    for pipe in [&output, &input] {
        // Fewer and larger turns for those who move much. As small as it was is fine, too.
        let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_SIZE);
    }
    for ours in [&output, &errors] {
        rustix::io::ioctl_fionbio(ours, true)?;
    }
    Ok(Spare {
        pid,
        input,
        output: watch(output, Interest::READABLE)?,
        errors: watch(errors, Interest::READABLE)?,
        plan: plan.into(),
        status: status.into(),
    })
}

impl Spare {
    /// Has it become the command. Returns once it runs the program, or with the step that failed and the error number.
    pub fn run(&mut self, plan: &Plan) -> std::result::Result<(), (Step, i32)> {
        let spawn_failed = |e: Error| (Step::Spawn, e.raw_os_error().unwrap_or(libc::EIO));
        let bytes = postcard::to_stdvec(plan).map_err(|_| (Step::Protocol, libc::E2BIG))?;
        self.plan.write_all(&(bytes.len() as u32).to_le_bytes()).map_err(spawn_failed)?;
        self.plan.write_all(&bytes).map_err(spawn_failed)?;
        // The pipe closes with a successful exec.
        let mut report = Vec::new();
        self.status.read_to_end(&mut report).map_err(spawn_failed)?;
        match report[..] {
            [step, a, b, c, d] => {
                let step = STEPS.get(usize::from(step)).copied().unwrap_or(Step::Spawn);
                Err((step, i32::from_le_bytes([a, b, c, d])))
            }
            _ => Ok(()),
        }
    }
}

/// Numbers under which the child reports the step that failed.
const STEPS: [Step; 5] = [Step::Spawn, Step::User, Step::Cwd, Step::Program, Step::Protocol];
const SPAWN: u8 = 0;
const USER: u8 = 1;
const CWD: u8 = 2;
const PROGRAM: u8 = 3;
const PROTOCOL: u8 = 4;

/// `struct clone_args` of the kernel, up to the field we need.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A fork whose child is born inside the cgroup: moving it there would make the kernel wait for a grace period.
/// `None` in the child.
fn fork_into(cgroup: &Cgroup) -> Result<Option<Pid>> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let arguments = CloneArguments {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.dir().as_raw_fd() as u64,
        ..CloneArguments::default()
    };
    // SAFETY: without CLONE_VM this is a fork, and the agent has a single thread, so no lock is held in the child.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) };
    if pid < 0 { Err(Error::last_os_error()) } else { Ok(Pid::from_raw(pid as i32)) }
}

/// The child's life before its program.
fn wait_and_become(ends: [OwnedFd; 6]) -> ! {
    let (step, errno) = match take_place(ends).and_then(|()| read_plan()) {
        Ok(plan) => become_program(&plan).unwrap_or((PROTOCOL, libc::EINVAL)),
        Err(e) => (SPAWN, e.raw_os_error().unwrap_or(libc::EIO)),
    };
    let mut report = [step, 0, 0, 0, 0];
    report[1..].copy_from_slice(&errno.to_le_bytes());
    // SAFETY: a write of our own bytes to our own descriptor, and the end; exit handlers are the parent's.
    unsafe {
        libc::write(STATUS_FD, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

fn check(result: c_long) -> Result<()> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Everything that does not depend on the plan.
fn take_place(ends: [OwnedFd; 6]) -> Result<()> {
    // SAFETY: system calls on integers and on a value of this frame.
    unsafe {
        let nothing: u64 = 0;
        check(libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const nothing, 0, 8))?;
        // Rust programs ignore it, and what is ignored stays so.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        check(libc::setsid().into())?;
        // Out of the way first: the ends may lie on each other's numbers.
        let mut copies = [0; 6];
        for (copy, end) in copies.iter_mut().zip(ends) {
            *copy = libc::fcntl(end.into_raw_fd(), libc::F_DUPFD_CLOEXEC, 64);
            check((*copy).into())?;
        }
        for (number, copy) in (0..).zip(copies) {
            check(libc::dup3(copy, number, if number > 2 { libc::O_CLOEXEC } else { 0 }).into())
                .or_else(|e| if copy == number { Ok(()) } else { Err(e) })?;
        }
        check(libc::syscall(libc::SYS_close_range, NULL_FD + 1, libc::c_uint::MAX, 0))
    }
}

fn read_plan() -> Result<Plan> {
    // SAFETY: the descriptor is ours alone, and closes with the exec or the end.
    let mut pipe = std::mem::ManuallyDrop::new(unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(PLAN_FD) });
    let mut len = [0; 4];
    pipe.read_exact(&mut len)?;
    let mut bytes = vec![0; u32::from_le_bytes(len) as usize];
    pipe.read_exact(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(Error::other)
}

/// Returns only if something failed: the step's number and the error number.
fn become_program(plan: &Plan) -> std::result::Result<(u8, i32), NulError> {
    let strings =
        |items: &[String]| items.iter().map(|s| CString::new(s.as_str())).collect::<std::result::Result<Vec<_>, _>>();
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, environment, programs) = (strings(&plan.argv)?, strings(&plan.environment)?, strings(&plan.programs)?);
    let cwd = CString::new(plan.cwd.as_str())?;
    let terminal = plan.terminal.as_deref().map(CString::new).transpose()?;
    let failed = |step: u8| (step, Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
    let (argv, environment) = (pointers(&argv), pointers(&environment));
    // SAFETY: system calls on integers and on strings that live to the end of this function. The ids are changed by
    // plain system calls, because there is only this thread.
    unsafe {
        if let Some(path) = terminal {
            // The first terminal that the leader of a session opens becomes its own.
            let fd = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            if fd < 0 || (0..3).any(|number| libc::dup2(fd, number) < 0) {
                return Ok(failed(SPAWN));
            }
        } else if !plan.stdin && libc::dup2(NULL_FD, 0) < 0 {
            return Ok(failed(SPAWN));
        }
        let (uid, gid) = (c_long::from(plan.uid), c_long::from(plan.gid));
        if (uid, gid) != (0, 0)
            && (libc::syscall(libc::SYS_setgroups, plan.groups.len(), plan.groups.as_ptr()) < 0
                || libc::syscall(libc::SYS_setresgid, gid, gid, gid) < 0
                || libc::syscall(libc::SYS_setresuid, uid, uid, uid) < 0)
        {
            return Ok(failed(USER));
        }
        if libc::chdir(cwd.as_ptr()) < 0 {
            let failure = failed(CWD);
            if !plan.cwd_optional || libc::chdir(c"/".as_ptr()) < 0 {
                return Ok(failure);
            }
        }
        let mut found = libc::ENOENT;
        for program in &programs {
            // Looking first is cheap; the kernel prepares a whole address space before it looks.
            if libc::access(program.as_ptr(), libc::F_OK) == 0 {
                libc::execve(program.as_ptr(), argv.as_ptr(), environment.as_ptr());
            }
            match failed(PROGRAM) {
                (_, libc::ENOENT | libc::ENOTDIR) => {}
                // There is one, but not for us; a later directory may have another.
                (_, libc::EACCES) => found = libc::EACCES,
                other => return Ok(other),
            }
        }
        Ok((PROGRAM, found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(argv: &[&str], env: &[(&str, &str)]) -> Plan {
        let exec = Exec {
            argv: argv.iter().map(|s| (*s).to_owned()).collect(),
            env: env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            ..Exec::default()
        };
        Plan::new(&exec, &User::resolve("").unwrap(), None)
    }

    #[test]
    fn the_program_is_looked_for_along_the_path() {
        assert_eq!(plan(&["ls"], &[("PATH", "/a::/b")]).programs, ["/a/ls", "./ls", "/b/ls"]);
        assert_eq!(plan(&["./ls"], &[("PATH", "/a")]).programs, ["./ls"]);
        assert_eq!(plan(&["ls"], &[]).programs.len(), 6);
    }

    #[test]
    fn the_environment_is_what_was_given_and_what_must_not_be_missing() {
        let plan = plan(&["ls"], &[("A", "1"), ("HOME", "/x"), ("A", "2")]);
        assert!(plan.environment.contains(&"A=2".to_owned()) && !plan.environment.contains(&"A=1".to_owned()));
        assert!(plan.environment.contains(&"HOME=/x".to_owned()) && plan.environment.contains(&"USER=root".to_owned()));
    }
}
