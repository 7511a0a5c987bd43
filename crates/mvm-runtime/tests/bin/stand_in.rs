//! Stands in for a VMM that has been taken over: tries everything it should not be able to do and reports each result on
//! descriptor 3 as a line, `name errno`, with 0 for what succeeded. See `tests/confine.rs`.

use std::ffi::CString;
use std::fs::File;
use std::io::{Error, Write};
use std::os::fd::FromRawFd;

use libc::{c_int, c_long};
use mvm_runtime::vmm::confine::{self, VmmCommand, VmmLimits};

/// Where results go. It is a connected Unix socket.
const REPORT: c_int = 3;
/// A file that others read too, given read-only.
const SHARED: c_int = 4;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("attack") => attack(args[2].parse().expect("a process id"), &args[3], &args[4]),
        Some("brokered") => brokered(&args[2]),
        Some("parent") => parent(),
        Some("wait") => wait(),
        _ => panic!("this program belongs to tests/confine.rs"),
    }
}

/// `outside` is the process that started us; `readable` and `writable` are files whose modes allow that to everybody.
fn attack(outside: i32, readable: &str, writable: &str) {
    report("environment", std::env::vars_os().count() as c_long);
    files(outside, readable, writable);
    shared_file();
    network();
    processes(outside);
    kernel();
}

fn files(outside: i32, readable: &str, writable: &str) {
    report("read-usr", open("/usr/lib", libc::O_RDONLY));
    report("read-root", open("/root", libc::O_RDONLY));
    report("read-home", open("/home", libc::O_RDONLY));
    report("read-passwd", open("/etc/passwd", libc::O_RDONLY));
    report("read-environ", open(&format!("/proc/{outside}/environ"), libc::O_RDONLY));
    report("read-file", open(readable, libc::O_RDONLY));
    let own = std::env::args().next().expect("a program name");
    report("read-beside-program", open(own.rsplit_once('/').expect("an absolute path").0, libc::O_RDONLY));
    report("write-file", open(writable, libc::O_WRONLY));
    report("truncate-open", open(writable, libc::O_RDONLY | libc::O_TRUNC));
    report("create", open("/tmp/mvm-stand-in", libc::O_RDWR | libc::O_CREAT));
    report("create-unnamed", open("/tmp", libc::O_RDWR | libc::O_TMPFILE));
    let (writable, new) = (c(writable), c("/tmp/mvm-stand-in"));
    // SAFETY: every pointer is a string that lives here; what the calls do is what is being tested.
    unsafe {
        report("creat", libc::creat(new.as_ptr(), 0o600).into());
        report("truncate", libc::truncate(writable.as_ptr(), 0).into());
        report("chmod", libc::chmod(writable.as_ptr(), 0o777).into());
        report("fchmodat2", libc::syscall(libc::SYS_fchmodat2, libc::AT_FDCWD, writable.as_ptr(), 0o777, 0));
        report("unlink", libc::unlink(writable.as_ptr()).into());
        report("rename", libc::rename(writable.as_ptr(), new.as_ptr()).into());
        report("link", libc::link(writable.as_ptr(), new.as_ptr()).into());
        report("symlink", libc::symlink(writable.as_ptr(), new.as_ptr()).into());
        report("mkdir", libc::mkdir(new.as_ptr(), 0o700).into());
        report("mkfifo", libc::mkfifo(new.as_ptr(), 0o700).into());
        let how = [libc::O_RDONLY as u64, 0, 0];
        report("openat2", libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, writable.as_ptr(), how.as_ptr(), 24));
        report("inotify", libc::inotify_init1(0).into());
    }
}

fn shared_file() {
    report("shared-reopen", open(&format!("/proc/self/fd/{SHARED}"), libc::O_RDWR));
    // SAFETY: as above; nothing is read or written through the mappings.
    unsafe {
        report("shared-write", libc::pwrite(SHARED, b"x".as_ptr().cast(), 1, 0) as c_long);
        report("shared-truncate", libc::ftruncate(SHARED, 0).into());
        report("shared-chmod", libc::fchmod(SHARED, 0o666).into());
        let (read, write) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
        report("shared-map", mapped(libc::mmap(std::ptr::null_mut(), 4096, write, libc::MAP_SHARED, SHARED, 0)));
        let map = libc::mmap(std::ptr::null_mut(), 4096, read, libc::MAP_SHARED, SHARED, 0);
        report("shared-protect", libc::mprotect(map, 4096, write).into());
    }
}

fn network() {
    // SAFETY: an all-zero address is valid; the calls get its true length.
    unsafe {
        for (name, family) in
            [("socket-ip", libc::AF_INET), ("socket-unix", libc::AF_UNIX), ("socket-netlink", libc::AF_NETLINK)]
        {
            report(name, libc::socket(family, libc::SOCK_DGRAM, 0).into());
        }
        let mut pair = [0; 2];
        report("socketpair", libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, pair.as_mut_ptr()).into());
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as u16;
        let len = size_of::<libc::sockaddr_un>() as u32;
        let abstract_address = (&raw const address).cast::<libc::sockaddr>();
        report("connect-abstract", libc::connect(REPORT, abstract_address, len).into());
        for (at, byte) in address.sun_path.iter_mut().zip(b"/run/systemd/notify") {
            *at = *byte as libc::c_char;
        }
        let path_address = (&raw const address).cast::<libc::sockaddr>();
        report("connect-path", libc::connect(REPORT, path_address, len).into());
        report("send-to-path", libc::sendto(REPORT, b"x".as_ptr().cast(), 1, 0, path_address, len) as c_long);
        report("bind", libc::bind(REPORT, path_address, len).into());
        report("listen", libc::listen(REPORT, 1).into());
        report("accept", libc::accept(REPORT, std::ptr::null_mut(), std::ptr::null_mut()).into());
    }
}

fn processes(outside: i32) {
    // SAFETY: integers, and buffers of this frame. A fork or an exec that got through would show as a success.
    unsafe {
        report("signal-self", libc::kill(libc::getpid(), 0).into());
        report("signal-own-thread", libc::pthread_kill(libc::pthread_self(), 0).into());
        report("signal-parent", libc::kill(outside, 0).into());
        report("signal-group", libc::kill(0, 0).into());
        report("signal-all", libc::kill(-1, 0).into());
        report("signal-thread", libc::syscall(libc::SYS_tgkill, outside, outside, 0));
        report("signal-by-owner", libc::fcntl(REPORT, libc::F_SETOWN, outside).into());
        report("pidfd", libc::syscall(libc::SYS_pidfd_open, outside, 0));
        report("ptrace", libc::ptrace(libc::PTRACE_ATTACH, outside, 0, 0));
        let mut buffer = [0u8; 8];
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: 8 };
        report("read-memory", libc::process_vm_readv(outside, &raw const local, 1, &raw const local, 1, 0) as c_long);
        let limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
        report("limit-parent", libc::prlimit(outside, libc::RLIMIT_CPU, &raw const limit, std::ptr::null_mut()).into());
        report("affinity", libc::sched_setaffinity(outside, size_of::<libc::cpu_set_t>(), &std::mem::zeroed()).into());
        report("outlive", libc::prctl(libc::PR_SET_PDEATHSIG, 0).into());
        report("become-root", if libc::getuid() == 0 { 0 } else { libc::setuid(0).into() });
        report("thread", std::thread::Builder::new().spawn(|| ()).map_or(-1, |_| 0));
        report("fork", fork());
        report("vfork", libc::syscall(libc::SYS_clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0));
        report("exec", exec());
        let (path, argv) = (c("/bin/true"), [std::ptr::null::<libc::c_char>()]);
        report(
            "execveat",
            libc::syscall(libc::SYS_execveat, libc::AT_FDCWD, path.as_ptr(), argv.as_ptr(), argv.as_ptr(), 0),
        );
    }
}

fn kernel() {
    // SAFETY: arguments that the kernel would refuse or ignore; what is tested is that it does not get to see them.
    unsafe {
        report("personality-query", libc::personality(0xffff_ffff).into());
        report("personality", libc::personality(0x0040_0000).into());
        report("terminal-input", libc::ioctl(REPORT, libc::TIOCSTI, b"x".as_ptr()).into());
        report("unshare", libc::unshare(libc::CLONE_NEWUSER).into());
        report("setns", libc::setns(REPORT, 0).into());
        let null = std::ptr::null::<libc::c_char>();
        report("mount", libc::mount(null, c("/tmp").as_ptr(), null, libc::MS_REMOUNT, null.cast()).into());
        report("chroot", libc::chroot(c("/").as_ptr()).into());
        for (name, nr) in [
            ("bpf", libc::SYS_bpf),
            ("perf", libc::SYS_perf_event_open),
            ("userfaultfd", libc::SYS_userfaultfd),
            ("io_uring", libc::SYS_io_uring_setup),
            ("keyctl", libc::SYS_keyctl),
            ("add_key", libc::SYS_add_key),
            ("module", libc::SYS_init_module),
            ("kexec", libc::SYS_kexec_load),
            ("shmat", libc::SYS_shmat),
            ("open_by_handle", libc::SYS_open_by_handle_at),
        ] {
            report(name, libc::syscall(nr, 0, 0, 0, 0, 0));
        }
    }
}

/// Opens for writing while there is a listener: an unknown name, the known one, and again.
fn brokered(known: &str) {
    report("unknown", open("/mvm/unknown", libc::O_RDWR));
    report("exec-again", exec());
    let fd = open(known, libc::O_RDWR);
    report("known", fd);
    let fd = fd as c_int;
    // SAFETY: integers and a byte of this frame.
    unsafe {
        let mut byte = [0u8];
        report("read", if libc::pread(fd, byte.as_mut_ptr().cast(), 1, 0) == 1 && byte == *b"s" { 0 } else { -1 });
        report("write", libc::pwrite(fd, b"x".as_ptr().cast(), 1, 0) as c_long);
        let write = libc::PROT_READ | libc::PROT_WRITE;
        report("map-private", mapped(libc::mmap(std::ptr::null_mut(), 4096, write, libc::MAP_PRIVATE, fd, 0)));
        report("map-shared", mapped(libc::mmap(std::ptr::null_mut(), 4096, write, libc::MAP_SHARED, fd, 0)));
    }
    report("known-again", open(known, libc::O_RDWR));
    report("exec-later", exec());
}

/// Starts a confined process of its own and waits to be killed.
fn parent() {
    let process = confine::spawn(VmmCommand {
        program: std::env::current_exe().expect("a path"),
        args: vec!["wait".into()],
        fds: Vec::new(),
        opens: Vec::new(),
        limits: VmmLimits { file_size: 1 << 20, memory: 256 << 20, pids: 16 },
        readable: Vec::new(),
    })
    .expect("a confined process");
    writeln!(std::io::stdout(), "{}", process.pid()).expect("standard output");
    wait();
}

fn wait() {
    loop {
        std::thread::park();
    }
}

fn report(name: &str, result: c_long) {
    let errno = if result < 0 { Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 };
    // SAFETY: the test passes this descriptor; it must stay open.
    let mut to = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(REPORT) });
    writeln!(to, "{name} {errno}").expect("the report's reader");
}

fn open(path: &str, flags: c_int) -> c_long {
    // SAFETY: the path lives until the call returns.
    unsafe { libc::open(c(path).as_ptr(), flags, 0o600) }.into()
}

fn fork() -> c_long {
    // SAFETY: a child that should not exist does nothing but end.
    unsafe {
        let pid = libc::syscall(libc::SYS_fork);
        if pid == 0 {
            libc::_exit(0);
        }
        pid
    }
}

fn exec() -> c_long {
    let arguments = [std::ptr::null::<libc::c_char>()];
    // SAFETY: the path and the empty lists live until the call returns.
    unsafe { libc::execve(c("/bin/true").as_ptr(), arguments.as_ptr(), arguments.as_ptr()) }.into()
}

fn mapped(address: *mut libc::c_void) -> c_long {
    if address == libc::MAP_FAILED { -1 } else { 0 }
}

fn c(text: &str) -> CString {
    CString::new(text).expect("no zero byte")
}
