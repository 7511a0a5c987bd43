//! Giving birth to one process, without a copy of our memory and straight into its cgroup.
//!
//! `fork` would copy our page tables and fault them in again, and moving a process into a cgroup makes the kernel wait
//! for a grace period: together more than the rest of a command's start. So the child borrows our memory until its
//! exec (`CLONE_VFORK`), and is born inside its cgroup. Everything it needs is prepared before; between birth and exec
//! it makes system calls and nothing else.

use std::arch::asm;
use std::ffi::{CString, NulError};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use libc::{c_char, c_long};
use mvm_wire::guest::{Exec, Step};
use rustix::process::Pid;

use crate::cgroup::Cgroup;
use crate::process::Plumbing;
use crate::user::User;

/// Used where the caller's environment names none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process that is about to be.
pub struct Child<'a> {
    argv: Vec<CString>,
    environment: Vec<CString>,
    /// Where the program may be, in the order of `PATH`.
    programs: Vec<CString>,
    cwd: CString,
    /// A working directory that nobody asked for may be missing.
    cwd_optional: bool,
    user: &'a User,
    stdio: [RawFd; 3],
    terminal: bool,
    cgroup: RawFd,
}

impl<'a> Child<'a> {
    /// Prepares it. Fails only on a zero byte inside a string.
    pub fn new(exec: &Exec, user: &'a User, plumbing: &Plumbing, cgroup: &Cgroup) -> Result<Child<'a>, NulError> {
        let strings = |items: &[String]| items.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
        let given =
            |name: &str| exec.env.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.as_str());
        let path = given("PATH").unwrap_or(DEFAULT_PATH);
        let mut environment = Vec::new();
        for (name, value) in &exec.env {
            // The last of equal names counts.
            if given(name) == Some(value.as_str()) {
                environment.push(format!("{name}={value}"));
            }
        }
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
        Ok(Child {
            argv: strings(&exec.argv)?,
            environment: strings(&environment)?,
            programs: strings(&programs)?,
            cwd: CString::new(if exec.cwd.is_empty() { user.home.as_str() } else { exec.cwd.as_str() })?,
            cwd_optional: exec.cwd.is_empty(),
            user,
            stdio: [0, 1, 2].map(|i| plumbing.theirs[i].as_raw_fd()),
            terminal: plumbing.terminal,
            cgroup: cgroup.dir().as_raw_fd(),
        })
    }

    /// Where it will start.
    pub fn cwd(&self) -> &str {
        self.cwd.to_str().unwrap_or_default()
    }

    /// Starts it. Returns once it runs its program, or with the step that failed and the error number.
    pub fn spawn(&self) -> Result<Pid, (Step, i32)> {
        let pointers = |strings: &[CString]| -> Vec<*const c_char> {
            strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, environment) = (pointers(&self.argv), pointers(&self.environment));
        let birth = Birth {
            child: self,
            argv: &argv,
            environment: &environment,
            step: AtomicI32::new(0),
            errno: AtomicI32::new(0),
        };
        let arguments = CloneArguments {
            flags: (libc::CLONE_VM | libc::CLONE_VFORK) as u64 | CLONE_INTO_CGROUP,
            exit_signal: libc::SIGCHLD as u64,
            cgroup: self.cgroup as u64,
            ..CloneArguments::default()
        };
        // SAFETY: `live` never returns, and `birth` outlives the child's use of it: we are suspended until its exec or end.
        let pid = unsafe { clone_and_run(&arguments, &birth) };
        let failed = |step: i32| STEPS.get(step as usize).copied().flatten();
        match (failed(birth.step.load(Ordering::Acquire)), Pid::from_raw(pid as i32)) {
            // It has ended or will at once; the reaper takes it.
            (Some(step), _) => Err((step, birth.errno.load(Ordering::Acquire))),
            (None, Some(pid)) if pid.as_raw_nonzero().get() > 0 => Ok(pid),
            _ => Err((Step::Spawn, -(pid as i32))),
        }
    }
}

/// Numbers under which the child reports the step that failed; 0 is none.
const STEPS: [Option<Step>; 5] = [None, Some(Step::Spawn), Some(Step::User), Some(Step::Cwd), Some(Step::Program)];

/// What parent and child share while the child has no memory of its own.
struct Birth<'a> {
    child: &'a Child<'a>,
    argv: &'a [*const c_char],
    environment: &'a [*const c_char],
    step: AtomicI32,
    errno: AtomicI32,
}

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

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Calls `clone3` and, in the child, [`live`].
///
/// # Safety
/// The flags must include `CLONE_VM` and `CLONE_VFORK`.
unsafe fn clone_and_run(arguments: &CloneArguments, birth: &Birth) -> isize {
    let result: isize;
    // SAFETY: the child uses our stack below the point where we are suspended, leaves this block only by its exec or
    // its end, and so changes nothing that we rely on. What it returns to does not exist for it.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov rdi, {birth}",
            "call {live}",
            "ud2",
            "2:",
            birth = in(reg) std::ptr::from_ref(birth),
            live = sym live,
            inlateout("rax") libc::SYS_clone3 as isize => result,
            inlateout("rdi") std::ptr::from_ref(arguments) => _,
            inlateout("rsi") size_of::<CloneArguments>() => _,
            // Not `lateout`: the call destroys them while the inputs are still needed.
            out("rcx") _,
            out("r11") _,
            clobber_abi("C"),
        );
    }
    result
}

/// The child's life before its program.
extern "C" fn live(birth: &Birth) -> ! {
    let (step, errno) = become_program(birth);
    birth.errno.store(errno, Ordering::Release);
    birth.step.store(step, Ordering::Release);
    // SAFETY: ends the child; exit handlers are the parent's.
    unsafe { libc::_exit(127) }
}

/// Returns only if something failed: the step's number and the error number.
fn become_program(birth: &Birth) -> (i32, i32) {
    let child = birth.child;
    // SAFETY: raw system calls on integers and on strings that the parent prepared. The C library's wrappers for the
    // ids would signal other threads, so they are not used.
    unsafe {
        let empty: u64 = 0;
        let mask = libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const empty, 0, 8);
        if mask < 0 || libc::syscall(libc::SYS_setsid) < 0 {
            return failure(1);
        }
        // Rust programs ignore it, and what is ignored stays so.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        for (number, fd) in (0..).zip(child.stdio) {
            if libc::syscall(libc::SYS_dup3, fd, number, 0) < 0 {
                return failure(1);
            }
        }
        if child.terminal && libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSCTTY, 0) < 0 {
            return failure(1);
        }
        let user = child.user;
        if user.uid != 0 || user.gid != 0 {
            let (uid, gid) = (c_long::from(user.uid), c_long::from(user.gid));
            if libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()) < 0
                || libc::syscall(libc::SYS_setresgid, gid, gid, gid) < 0
                || libc::syscall(libc::SYS_setresuid, uid, uid, uid) < 0
            {
                return failure(2);
            }
        }
        if libc::syscall(libc::SYS_chdir, child.cwd.as_ptr()) < 0 {
            let errno = failure(3);
            if !child.cwd_optional || libc::syscall(libc::SYS_chdir, c"/".as_ptr()) < 0 {
                return errno;
            }
        }
        let mut found = libc::ENOENT;
        for program in &child.programs {
            libc::syscall(libc::SYS_execve, program.as_ptr(), birth.argv.as_ptr(), birth.environment.as_ptr());
            match failure(4).1 {
                libc::ENOENT | libc::ENOTDIR => {}
                // There is one, but not for us; a later directory may have another.
                libc::EACCES => found = libc::EACCES,
                errno => return (4, errno),
            }
        }
        (4, found)
    }
}

fn failure(step: i32) -> (i32, i32) {
    // SAFETY: the error number of this thread; parent and child share it, and the parent is suspended.
    (step, unsafe { *libc::__errno_location() })
}
