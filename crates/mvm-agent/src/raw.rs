//! System calls without the C library between: for a child that shares its parent's memory, where even `errno` would be
//! the parent's.

use std::arch::asm;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;

use rustix::process::Pid;

/// What a child's few frames need, many times over.
const STACK_WORDS: usize = 4096;

/// A child's stack. It is freed only by who knows that the child no longer runs on it; else it stays.
#[derive(Debug)]
pub struct Stack(*mut [u128; STACK_WORDS]);

impl Default for Stack {
    fn default() -> Self {
        Stack(Box::into_raw(Box::new([0; STACK_WORDS])))
    }
}

impl Stack {
    /// Frees it, once.
    pub fn free(&mut self) {
        let stack = std::mem::replace(&mut self.0, std::ptr::null_mut());
        if !stack.is_null() {
            // SAFETY: it came from a box, and has not been freed.
            drop(unsafe { Box::from_raw(stack) });
        }
    }
}

/// A system call; the error number if it fails.
pub fn syscall(number: libc::c_long, arguments: [usize; 5]) -> std::result::Result<usize, i32> {
    let [a, b, c, d, e] = arguments;
    let result: isize;
    // SAFETY: the kernel changes rax, rcx and r11; the rest is as safe as the call, whose pointers the callers answer for.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, out("rcx") _, out("r11") _, options(nostack));
    }
    if result < 0 { Err(-result as i32) } else { Ok(result as usize) }
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

/// Bears a child that shares this process's memory, inside a cgroup: moving it there later would make the kernel wait
/// for a grace period. It runs `life` with a copy of `ends` on its own stack.
pub fn bear(cgroup: &File, stack: &Stack, life: extern "C" fn(&[usize; 6]) -> !, ends: [usize; 6]) -> Result<Pid> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // SAFETY: the stack is not in use yet. The ends lie in its lowest words, which the child's frames never reach.
    let ends = unsafe {
        let place = stack.0.cast::<[usize; 6]>();
        place.write(ends);
        place
    };
    let arguments = CloneArguments {
        flags: CLONE_INTO_CGROUP | libc::CLONE_VM as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.0 as u64,
        stack_size: size_of::<[u128; STACK_WORDS]>() as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        ..CloneArguments::default()
    };
    let pid: isize;
    // SAFETY: the child leaves this code at once, for a function that never returns, on a stack of its own. What the
    // child reads lies in registers that no system call changes.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => pid,
            in("rdi") &raw const arguments,
            in("rsi") size_of::<CloneArguments>(),
            in("r12") ends,
            in("r13") life,
            out("rcx") _,
            out("r11") _,
        );
    }
    if pid < 0 {
        let mut unused = Stack(stack.0);
        unused.free();
        return Err(Error::from_raw_os_error(-pid as i32));
    }
    Ok(Pid::from_raw(pid as i32).unwrap_or(Pid::INIT))
}
