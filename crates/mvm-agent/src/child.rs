//! The next command's process, born ahead of need.
//!
//! Birth, cgroup, session and pipes cost as much as a short command under emulation. So a spare child that has all of
//! that always waits for the one thing that only a request can tell: what to become. In a template it waits since
//! before the save.
//!
//! A child shares the agent's memory until its exec, because copying page tables, and each page that is then written,
//! is dear under emulation (measured: 1.7 ms against 0.2). So it has a stack of its own, keeps off everything that
//! belongs to a thread (`errno` included) and off the heap, and does nothing but system calls on what it is given.

use std::ffi::{CString, NulError};
use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use libc::c_char;
use mvm_wire::guest::{Exec, Step};
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::cgroup::Cgroup;
use crate::link::watch;
use crate::raw::{self, Stack, syscall};
use crate::user::User;

/// Used where the caller's environment names none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Capacity of standard input and output.
const PIPE_SIZE: usize = 256 << 10;
/// How long a child may take to become its command.
const BECOME_LIMIT: Duration = Duration::from_secs(5);
/// Where the child finds its plan, its way to report and an empty input; all three close with its exec.
const PLAN_FD: usize = 3;
const STATUS_FD: usize = 4;
const NULL_FD: usize = 5;

/// Strings as the kernel takes them: pointers to them, and a null pointer.
#[derive(Debug)]
struct Strings {
    pointers: Vec<*const c_char>,
    _owned: Vec<CString>,
}

impl Strings {
    fn new(strings: impl IntoIterator<Item = String>) -> std::result::Result<Strings, NulError> {
        let owned = strings.into_iter().map(CString::new).collect::<std::result::Result<Vec<_>, _>>()?;
        let pointers = owned.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Strings { pointers, _owned: owned })
    }
}

/// What a spare child is told to become, in the form that it needs no memory to use.
#[derive(Debug)]
pub struct Plan {
    argv: Strings,
    environment: Strings,
    /// Where the program may be, in the order of `PATH`.
    programs: Strings,
    cwd: CString,
    /// A working directory that nobody asked for may be missing.
    cwd_optional: bool,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    /// Nothing it executes may gain privileges.
    unprivileged: bool,
    stdin: bool,
    /// The terminal that takes the place of the pipes.
    terminal: Option<CString>,
}

impl Plan {
    /// Works it out from the request. Fails if a string holds a NUL, which no command can be given.
    pub fn new(exec: &Exec, user: &User, terminal: Option<CString>) -> std::result::Result<Plan, NulError> {
        let cwd = if exec.cwd.is_empty() { &user.home } else { &exec.cwd };
        Ok(Plan {
            argv: Strings::new(exec.argv.iter().cloned())?,
            environment: Strings::new(environment(exec, user))?,
            programs: Strings::new(programs(&exec.argv[0], given(exec, "PATH").unwrap_or(DEFAULT_PATH)))?,
            cwd: CString::new(cwd.as_str())?,
            cwd_optional: exec.cwd.is_empty(),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
            unprivileged: exec.unprivileged,
            stdin: exec.stdin,
            terminal,
        })
    }

    /// Where the command will start.
    pub fn cwd(&self) -> String {
        self.cwd.to_string_lossy().into_owned()
    }
}

/// A variable of the request; the last of equal names counts.
fn given<'a>(exec: &'a Exec, name: &str) -> Option<&'a str> {
    exec.env.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
}

/// The whole environment: what was given, and what must not be missing.
fn environment(exec: &Exec, user: &User) -> Vec<String> {
    let last = |index: usize, name: &str| !exec.env[index + 1..].iter().any(|(later, _)| later == name);
    let kept = exec.env.iter().enumerate().filter(|(index, (name, _))| last(*index, name));
    let mut environment: Vec<String> = kept.map(|(_, (name, value))| format!("{name}={value}")).collect();
    for (name, value) in [("PATH", DEFAULT_PATH), ("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name)] {
        if given(exec, name).is_none() {
            environment.push(format!("{name}={value}"));
        }
    }
    environment
}

/// Where a program may be.
fn programs(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    path.split(':').map(|dir| format!("{}/{program}", if dir.is_empty() { "." } else { dir })).collect()
}

/// A child that waits for its plan, and our ends of its pipes.
#[derive(Debug)]
pub struct Spare {
    pub pid: Pid,
    pub input: OwnedFd,
    pub output: AsyncFd<OwnedFd>,
    pub errors: AsyncFd<OwnedFd>,
    plan: File,
    status: AsyncFd<OwnedFd>,
    /// What the child runs on until its exec.
    stack: Stack,
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
    let stack = Stack::default();
    let ends = theirs.each_ref().map(|end| end.as_raw_fd() as usize);
    let pid = raw::bear(cgroup.dir(), &stack, wait_and_become, ends)?;
    drop(theirs);
    for pipe in [&output, &input] {
        // Fewer and larger turns for those who move much. As small as it was is fine, too.
        let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_SIZE);
    }
    for ours in [&output, &errors, &status] {
        rustix::io::ioctl_fionbio(ours, true)?;
    }
    Ok(Spare {
        pid,
        input,
        output: watch(output, Interest::READABLE)?,
        errors: watch(errors, Interest::READABLE)?,
        plan: plan.into(),
        status: watch(status, Interest::READABLE)?,
        stack,
    })
}

impl Spare {
    /// Has it become the command. Returns once it runs the program, or with the step that failed and the error number.
    ///
    /// Once it has the command's user, that user's other processes can stop it. So it is waited for like a stranger: not for
    /// ever, and while others are served.
    pub async fn run(&mut self, plan: Plan, cgroup: &Cgroup) -> std::result::Result<(), (Step, i32)> {
        let spawn_failed = |e: Error| (Step::Spawn, e.raw_os_error().unwrap_or(libc::EIO));
        // It stays where it is, whatever becomes of us, until the child needs it no more.
        let plan = Box::into_raw(Box::new(plan));
        self.plan.write_all(&(plan as usize).to_ne_bytes()).map_err(spawn_failed)?;
        let mut report = tokio::time::timeout(BECOME_LIMIT, read_to_end(&self.status)).await;
        if report.is_err() {
            cgroup.kill();
            report = tokio::time::timeout(BECOME_LIMIT, read_to_end(&self.status)).await;
            // It got no further.
            report = report.map(|_| Err(ErrorKind::TimedOut.into()));
        }
        let Ok(report) = report else {
            // It still may use its plan and its stack: both are lost to us.
            return Err((Step::Spawn, libc::ETIMEDOUT));
        };
        // The pipe has closed with its exec or its end: it uses neither the plan nor its stack any more.
        // SAFETY: it came from a box, and nobody else has it now.
        drop(unsafe { Box::from_raw(plan) });
        self.stack.free();
        let report = report.map_err(|_| (Step::Spawn, libc::ETIMEDOUT))?;
        match report[..] {
            [step, a, b, c, d] => {
                let step = STEPS.get(usize::from(step)).copied().unwrap_or(Step::Spawn);
                Err((step, i32::from_le_bytes([a, b, c, d])))
            }
            _ => Ok(()),
        }
    }
}

/// Reads what comes until the other end closes: a few bytes at most.
async fn read_to_end(pipe: &AsyncFd<OwnedFd>) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut guard = pipe.readable().await?;
        let mut some = [0; 16];
        match guard.try_io(|pipe| Ok(rustix::io::read(pipe, &mut some)?)) {
            Ok(Ok(0)) => return Ok(all),
            Ok(Ok(len)) => all.extend_from_slice(&some[..len]),
            Ok(Err(e)) if e.kind() != ErrorKind::Interrupted => return Err(e),
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// Numbers under which the child reports the step that failed.
const STEPS: [Step; 4] = [Step::Spawn, Step::User, Step::Cwd, Step::Program];
const SPAWN: u8 = 0;
const USER: u8 = 1;
const CWD: u8 = 2;
const PROGRAM: u8 = 3;

/// A step that failed, and the error number.
type Failed = (u8, i32);

/// The child's life before its program.
extern "C" fn wait_and_become(ends: &[usize; 6]) -> ! {
    let Err((step, errno)) = take_place(ends).and_then(|()| become_program(read_plan()?));
    let [a, b, c, d] = errno.to_le_bytes();
    let report = [step, a, b, c, d];
    let _ = syscall(libc::SYS_write, [STATUS_FD, report.as_ptr() as usize, report.len(), 0, 0]);
    loop {
        let _ = syscall(libc::SYS_exit_group, [127, 0, 0, 0, 0]);
    }
}

/// A system call that belongs to a step.
fn call(step: u8, number: libc::c_long, arguments: [usize; 5]) -> std::result::Result<usize, Failed> {
    syscall(number, arguments).map_err(|errno| (step, errno))
}

/// Everything that does not depend on the plan.
fn take_place(ends: &[usize; 6]) -> std::result::Result<(), Failed> {
    let nothing = [0u64; 4];
    let nothing = nothing.as_ptr() as usize;
    call(SPAWN, libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, nothing, 0, 8, 0])?;
    // Rust programs ignore it, and what is ignored stays so. All zeros is the default action.
    call(SPAWN, libc::SYS_rt_sigaction, [libc::SIGPIPE as usize, nothing, 0, 8, 0])?;
    call(SPAWN, libc::SYS_setsid, [0; 5])?;
    // Out of the way first: the ends may lie on each other's numbers.
    let mut copies = [0; 6];
    for (copy, end) in copies.iter_mut().zip(ends) {
        *copy = call(SPAWN, libc::SYS_fcntl, [*end, libc::F_DUPFD_CLOEXEC as usize, 64, 0, 0])?;
    }
    for (number, copy) in (0..).zip(copies) {
        let flags = if number > 2 { libc::O_CLOEXEC as usize } else { 0 };
        call(SPAWN, libc::SYS_dup3, [copy, number, flags, 0, 0])?;
    }
    call(SPAWN, libc::SYS_close_range, [NULL_FD + 1, u32::MAX as usize, 0, 0, 0]).map(drop)
}

/// Waits for the plan's address. Whoever sends it keeps it until the exec.
fn read_plan<'a>() -> std::result::Result<&'a Plan, Failed> {
    let mut address = 0usize;
    let len = call(SPAWN, libc::SYS_read, [PLAN_FD, &raw mut address as usize, size_of::<usize>(), 0, 0])?;
    if len != size_of::<usize>() {
        return Err((SPAWN, libc::EPIPE));
    }
    // SAFETY: the address is that of a `Plan` which `Spare::run` keeps until this process has another memory or none.
    Ok(unsafe { &*(address as *const Plan) })
}

/// Returns only if something failed.
fn become_program(plan: &Plan) -> std::result::Result<std::convert::Infallible, Failed> {
    if let Some(path) = &plan.terminal {
        // The first terminal that the leader of a session opens becomes its own.
        let flags = (libc::O_RDWR | libc::O_CLOEXEC) as usize;
        let fd = call(SPAWN, libc::SYS_open, [path.as_ptr() as usize, flags, 0, 0, 0])?;
        for number in 0..3 {
            call(SPAWN, libc::SYS_dup2, [fd, number, 0, 0, 0])?;
        }
    } else if !plan.stdin {
        call(SPAWN, libc::SYS_dup2, [NULL_FD, 0, 0, 0, 0])?;
    }
    let (uid, gid) = (plan.uid as usize, plan.gid as usize);
    if (uid, gid) != (0, 0) {
        let groups = [plan.groups.len(), plan.groups.as_ptr() as usize, 0, 0, 0];
        call(USER, libc::SYS_setgroups, groups)?;
        call(USER, libc::SYS_setresgid, [gid, gid, gid, 0, 0])?;
        call(USER, libc::SYS_setresuid, [uid, uid, uid, 0, 0])?;
    }
    if plan.unprivileged {
        call(USER, libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0])?;
        let ids = [call(USER, libc::SYS_getuid, [0; 5])?, call(USER, libc::SYS_getgid, [0; 5])?];
        if ids != [uid, gid] || ids.contains(&0) {
            return Err((USER, libc::EPERM));
        }
    }
    let chdir = |path: &CString| call(CWD, libc::SYS_chdir, [path.as_ptr() as usize, 0, 0, 0, 0]);
    match chdir(&plan.cwd) {
        Err(_) if plan.cwd_optional => drop(call(CWD, libc::SYS_chdir, [c"/".as_ptr() as usize, 0, 0, 0, 0])?),
        other => drop(other?),
    }
    let (argv, environment) = (plan.argv.pointers.as_ptr() as usize, plan.environment.pointers.as_ptr() as usize);
    let mut found = libc::ENOENT;
    for program in plan.programs.pointers.iter().map(|program| *program as usize).take_while(|program| *program != 0) {
        // Looking first is cheap; the kernel prepares a whole address space before it looks.
        let looked = syscall(libc::SYS_access, [program, libc::F_OK as usize, 0, 0, 0]);
        match looked.and_then(|_| syscall(libc::SYS_execve, [program, argv, environment, 0, 0])) {
            Ok(_) | Err(libc::ENOENT | libc::ENOTDIR) => {}
            // There is one, but not for us; a later directory may have another.
            Err(libc::EACCES) => found = libc::EACCES,
            Err(other) => return Err((PROGRAM, other)),
        }
    }
    Err((PROGRAM, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_looked_for_along_the_path() {
        assert_eq!(programs("ls", "/a::/b"), ["/a/ls", "./ls", "/b/ls"]);
        assert_eq!(programs("./ls", "/a"), ["./ls"]);
    }

    #[test]
    fn the_environment_is_what_was_given_and_what_must_not_be_missing() {
        let env = [("A", "1"), ("HOME", "/x"), ("A", "2")].map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
        let environment = environment(&Exec { env, ..Exec::default() }, &User::resolve("").unwrap());
        let has = |variable: &str| environment.iter().any(|found| found == variable);
        assert!(has("A=2") && !has("A=1") && has("HOME=/x") && has("USER=root"));
    }

    #[test]
    fn what_holds_a_nul_is_no_command() {
        let exec = Exec { argv: vec!["a\0b".to_owned()], ..Exec::default() };
        assert!(Plan::new(&exec, &User::resolve("").unwrap(), None).is_err());
    }
}
