//! The system call filter: a small BPF program, written here because it must tell opens for writing to a listener and
//! carry the process's own id, which the libraries for this cannot.
//!
//! It lists what is refused rather than what is allowed, so that another QEMU version or C library is not broken by a
//! harmless call; QEMU's own filter (`-sandbox`) lies on top. No fork passes, and no exec but the one that the listener
//! lets through.

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_USER_NOTIF, c_long, sock_filter,
};

/// Stands for the process's own id, which is not known before the fork. See [`own_pid`].
const OWN_PID: u32 = 0x7f6d_766d;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// Numbers from here on belong to the x32 interface, which would slip past every rule.
const X32_BIT: u32 = 0x4000_0000;
/// Where `struct seccomp_data` has its fields.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// Refused outright.
const REFUSED: &[c_long] = &[
    // Other machines and other processes.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_tkill,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_execveat,
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setaffinity,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    // The file system, apart from the descriptors it holds.
    libc::SYS_creat,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_rmdir,
    libc::SYS_truncate,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_chown,
    libc::SYS_fchown,
    libc::SYS_lchown,
    libc::SYS_fchownat,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_utimensat,
    libc::SYS_futimesat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_fanotify_init,
    // Watching needs no right to open, so no other rule stops it.
    libc::SYS_inotify_init,
    libc::SYS_inotify_init1,
    // The kernel's larger doors.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_vhangup,
];
/// Answered as if the kernel did not know them, so that the C library falls back to calls whose arguments can be seen.
const UNKNOWN: &[c_long] = &[libc::SYS_openat2, libc::SYS_clone3];
/// From here on (`fchmodat2`) calls are answered like that too: among what kernels will add may be another way to change
/// a file, and what a C library tries first it can do without.
const NEWER: u32 = 452;
/// Allowed with one value of one argument: signals and limits for itself, and asking which personality it has.
const ONLY: &[(c_long, u32, u32)] = &[
    (libc::SYS_tgkill, 0, OWN_PID),
    (libc::SYS_kill, 0, OWN_PID),
    (libc::SYS_rt_sigqueueinfo, 0, OWN_PID),
    (libc::SYS_rt_tgsigqueueinfo, 0, OWN_PID),
    (libc::SYS_prlimit64, 0, 0),
    (libc::SYS_personality, 0, 0xffff_ffff),
];
/// Refused with these values of one argument: having the kernel send a signal of its choice to another process, typing
/// on a terminal, outliving us.
const NEVER: &[(c_long, u32, &[u32])] = &[
    (libc::SYS_ioctl, 1, &[0x8901, 0x8902, libc::TIOCSTI as u32, libc::TIOCSCTTY as u32, libc::TIOCLINUX as u32]),
    (libc::SYS_fcntl, 1, &[libc::F_SETOWN as u32, F_SETSIG, F_SETOWN_EX]),
    (libc::SYS_prctl, 0, &[libc::PR_SET_PDEATHSIG as u32]),
];
const F_SETSIG: u32 = 10;
const F_SETOWN_EX: u32 = 15;

/// Flags of an open that could change a file.
const WRITES: u32 = (libc::O_WRONLY
    | libc::O_RDWR
    | libc::O_CREAT
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// The program. [`own_pid`] must be applied before it is loaded.
///
/// When it is loaded the kernel runs it for every call number, to remember which calls pass whatever their arguments; so
/// the long list is left in chunks. The others go through the program each time and therefore come first.
pub fn program() -> Vec<sock_filter> {
    let (allow, refuse, ask) = (ret(SECCOMP_RET_ALLOW), ret(errno(libc::EPERM)), ret(SECCOMP_RET_USER_NOTIF));
    let unknown = ret(errno(libc::ENOSYS));
    let mut code = vec![
        load(ARCH),
        jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0),
        ret(SECCOMP_RET_KILL_PROCESS),
        load(NR),
        jump(BPF_JGE, X32_BIT, 0, 1),
        ret(SECCOMP_RET_KILL_PROCESS),
        jump(BPF_JGE, NEWER, 0, 1),
        unknown,
    ];
    let mut judge = |nr: c_long, verdict: &[sock_filter]| {
        code.push(jump(BPF_JEQ, nr as u32, 0, verdict.len() as u8));
        code.extend(verdict);
    };
    for (nr, argument, values) in NEVER {
        judge(*nr, &[&[load(ARGS + 8 * argument)][..], &refuse_any(values)].concat());
    }
    for (nr, argument, value) in ONLY {
        judge(*nr, &[load(ARGS + 8 * argument), jump(BPF_JEQ, *value, 0, 1), allow, refuse]);
    }
    for (nr, flags) in [(libc::SYS_openat, 2), (libc::SYS_open, 1)] {
        judge(nr, &[load(ARGS + 8 * flags), jump(BPF_JSET, WRITES, 0, 1), ask, allow]);
    }
    // Threads only.
    let (namespaces, thread) = (jump(BPF_JSET, NAMESPACES, 1, 0), jump(BPF_JSET, libc::CLONE_THREAD as u32, 1, 0));
    judge(libc::SYS_clone, &[load(ARGS), namespaces, thread, refuse, allow]);
    judge(libc::SYS_execve, &[ask]);
    for nr in UNKNOWN {
        judge(*nr, &[unknown]);
    }
    let mut refused: Vec<u32> = REFUSED.iter().map(|nr| *nr as u32).collect();
    refused.sort_unstable();
    let mut rest = refused.chunks(16).peekable();
    while let Some(chunk) = rest.next() {
        let tests = refuse_any(chunk);
        if let Some(next) = rest.peek() {
            code.push(jump(BPF_JGE, next[0], tests.len() as u8, 0));
        }
        code.extend(tests);
    }
    code
}

/// Refuses if the loaded value is one of these, otherwise allows. A jump reaches no further than 255 of them.
fn refuse_any(values: &[u32]) -> Vec<sock_filter> {
    let tests = values.iter().zip((0..=values.len() as u8).rev()).map(|(value, to)| jump(BPF_JEQ, *value, to, 0));
    tests.chain([ret(SECCOMP_RET_ALLOW), ret(errno(libc::EPERM))]).collect()
}

/// Puts the process's own id where the program needs it. Allocates nothing: it runs between fork and exec.
pub fn own_pid(program: &mut [sock_filter], pid: u32) {
    for instruction in program {
        if instruction.k == OWN_PID {
            instruction.k = pid;
        }
    }
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | test | BPF_K) as u16, jt, jf, k }
}

fn ret(action: u32) -> sock_filter {
    sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: action }
}

fn errno(errno: i32) -> u32 {
    SECCOMP_RET_ERRNO | errno as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program over one call, as the kernel does.
    fn verdict(nr: c_long, arch: u32, args: [u32; 3]) -> u32 {
        let mut program = program();
        own_pid(&mut program, 42);
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let i = program[at];
            at += 1;
            let code = u32::from(i.code);
            if code == BPF_LD | BPF_W | BPF_ABS {
                accumulator = match i.k {
                    NR => nr as u32,
                    ARCH => arch,
                    k => args[((k - ARGS) / 8) as usize],
                };
            } else if code == BPF_RET | BPF_K {
                return i.k;
            } else {
                let holds = match code & 0xf0 {
                    BPF_JEQ => accumulator == i.k,
                    BPF_JGE => accumulator >= i.k,
                    _ => accumulator & i.k != 0,
                };
                at += usize::from(if holds { i.jt } else { i.jf });
            }
        }
    }

    #[test]
    fn calls_are_judged_as_the_lists_say() {
        let ours = |nr, args| verdict(nr, AUDIT_ARCH_X86_64, args);
        assert_eq!(ours(libc::SYS_read, [0; 3]), SECCOMP_RET_ALLOW);
        assert_eq!(ours(libc::SYS_socket, [0; 3]), errno(libc::EPERM));
        assert_eq!(ours(libc::SYS_vhangup, [0; 3]), errno(libc::EPERM));
        assert_eq!(ours(libc::SYS_clone3, [0; 3]), errno(libc::ENOSYS));
        assert_eq!(ours(libc::SYS_tgkill, [42, 43, 9]), SECCOMP_RET_ALLOW);
        assert_eq!(ours(libc::SYS_kill, [1, 9, 0]), errno(libc::EPERM));
        assert_eq!(ours(libc::SYS_prlimit64, [0; 3]), SECCOMP_RET_ALLOW);
        assert_eq!(ours(libc::SYS_prlimit64, [7, 0, 0]), errno(libc::EPERM));
        let thread = (libc::CLONE_VM | libc::CLONE_THREAD) as u32;
        assert_eq!(ours(libc::SYS_clone, [thread, 0, 0]), SECCOMP_RET_ALLOW);
        assert_eq!(ours(libc::SYS_clone, [libc::CLONE_VM as u32, 0, 0]), errno(libc::EPERM));
        assert_eq!(ours(libc::SYS_clone, [thread | libc::CLONE_NEWNET as u32, 0, 0]), errno(libc::EPERM));
        assert_eq!(ours(libc::SYS_execve, [0; 3]), SECCOMP_RET_USER_NOTIF);
        assert_eq!(ours(libc::SYS_fork, [0; 3]), errno(libc::EPERM));
        assert_eq!(ours(libc::SYS_openat, [0, 0, libc::O_CLOEXEC as u32]), SECCOMP_RET_ALLOW);
        assert_eq!(ours(libc::SYS_openat, [0, 0, libc::O_RDWR as u32]), SECCOMP_RET_USER_NOTIF);
        assert_eq!(ours(libc::SYS_open, [0, libc::O_TMPFILE as u32, 0]), SECCOMP_RET_USER_NOTIF);
        assert_eq!(ours(libc::SYS_openat, [0, 0, libc::O_DIRECTORY as u32]), SECCOMP_RET_ALLOW);
    }

    #[test]
    fn every_listed_call_is_refused() {
        for nr in REFUSED {
            assert_eq!(verdict(*nr, AUDIT_ARCH_X86_64, [0; 3]), errno(libc::EPERM), "{nr}");
        }
        for nr in UNKNOWN {
            assert_eq!(verdict(*nr, AUDIT_ARCH_X86_64, [0; 3]), errno(libc::ENOSYS), "{nr}");
        }
    }

    #[test]
    fn single_arguments_are_judged() {
        let ours = |nr, args| verdict(nr, AUDIT_ARCH_X86_64, args);
        for (nr, argument, values) in NEVER {
            for value in *values {
                let mut args = [0; 3];
                args[*argument as usize] = *value;
                assert_eq!(ours(*nr, args), errno(libc::EPERM), "{nr} {value:#x}");
            }
            assert_eq!(ours(*nr, [3; 3]), SECCOMP_RET_ALLOW, "{nr}");
        }
        assert_eq!(ours(libc::SYS_personality, [u32::MAX, 0, 0]), SECCOMP_RET_ALLOW);
        assert_eq!(ours(libc::SYS_personality, [0; 3]), errno(libc::EPERM));
        assert_eq!(ours(libc::SYS_fchmodat2, [0; 3]), errno(libc::ENOSYS));
        assert_eq!(ours(libc::SYS_fchmodat2 + 100, [0; 3]), errno(libc::ENOSYS));
    }

    #[test]
    fn other_interfaces_are_fatal() {
        assert_eq!(verdict(libc::SYS_read, 0x4000_0003, [0; 3]), SECCOMP_RET_KILL_PROCESS);
        assert_eq!(
            verdict(libc::SYS_read | c_long::from(X32_BIT as i32), AUDIT_ARCH_X86_64, [0; 3]),
            SECCOMP_RET_KILL_PROCESS
        );
    }
}
