//! The system call filter: a small BPF program, written here because it must tell opens for writing to a listener and
//! carry the process's own id, which the libraries for this cannot.
//!
//! It lists what is refused rather than what is allowed, so that another QEMU version or C library is not broken by a
//! harmless call; QEMU's own filter (`-sandbox`) lies on top and forbids fork and exec once it has started.

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
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
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
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_fanotify_init,
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
/// Allowed towards itself only: the first argument must be its own id.
const SELF_ONLY: &[c_long] =
    &[libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo];

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
pub fn program() -> Vec<sock_filter> {
    let mut code = vec![
        load(ARCH),
        jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0),
        ret(SECCOMP_RET_KILL_PROCESS),
        load(NR),
        jump(BPF_JGE, X32_BIT, 0, 1),
        ret(SECCOMP_RET_KILL_PROCESS),
    ];
    for nr in REFUSED {
        code.extend([unless_equal(*nr as u32, 1), ret(errno(libc::EPERM))]);
    }
    for nr in UNKNOWN {
        code.extend([unless_equal(*nr as u32, 1), ret(errno(libc::ENOSYS))]);
    }
    for nr in SELF_ONLY {
        code.extend([
            unless_equal(*nr as u32, 4),
            load(ARGS),
            jump(BPF_JEQ, OWN_PID, 0, 1),
            ret(SECCOMP_RET_ALLOW),
            ret(errno(libc::EPERM)),
        ]);
    }
    // Limits of others.
    code.extend([
        unless_equal(libc::SYS_prlimit64 as u32, 4),
        load(ARGS),
        jump(BPF_JEQ, 0, 0, 1),
        ret(SECCOMP_RET_ALLOW),
        ret(errno(libc::EPERM)),
    ]);
    code.extend([
        unless_equal(libc::SYS_clone as u32, 4),
        load(ARGS),
        jump(BPF_JSET, NAMESPACES, 0, 1),
        ret(errno(libc::EPERM)),
        ret(SECCOMP_RET_ALLOW),
    ]);
    for (nr, flags) in [(libc::SYS_open, 1), (libc::SYS_openat, 2)] {
        code.extend([
            unless_equal(nr as u32, 4),
            load(ARGS + 8 * flags),
            jump(BPF_JSET, WRITES, 0, 1),
            ret(SECCOMP_RET_USER_NOTIF),
            ret(SECCOMP_RET_ALLOW),
        ]);
    }
    code.push(ret(SECCOMP_RET_ALLOW));
    code
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

/// Skips `skip` instructions unless the loaded value is `k`.
fn unless_equal(k: u32, skip: u8) -> sock_filter {
    jump(BPF_JEQ, k, 0, skip)
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
        assert_eq!(ours(libc::SYS_clone, [libc::CLONE_VM as u32, 0, 0]), SECCOMP_RET_ALLOW);
        assert_eq!(ours(libc::SYS_clone, [libc::CLONE_NEWNET as u32, 0, 0]), errno(libc::EPERM));
        assert_eq!(ours(libc::SYS_openat, [0, 0, libc::O_CLOEXEC as u32]), SECCOMP_RET_ALLOW);
        assert_eq!(ours(libc::SYS_openat, [0, 0, libc::O_RDWR as u32]), SECCOMP_RET_USER_NOTIF);
        assert_eq!(ours(libc::SYS_open, [0, libc::O_TMPFILE as u32, 0]), SECCOMP_RET_USER_NOTIF);
        assert_eq!(ours(libc::SYS_openat, [0, 0, libc::O_DIRECTORY as u32]), SECCOMP_RET_ALLOW);
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
