//! Confinement, tried on live processes: a real QEMU, and a stand-in for one that has been taken over.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use libc::{EACCES, EBADF, EINVAL, EISCONN, ENOENT, ENOSYS, EPERM};
use mvm_runtime::ErrorCode;
use mvm_runtime::vmm::confine::{self, BrokeredOpen, Layer, VmmCommand, VmmLimits, VmmProcess};
use rustix::process::{Pid, PidfdFlags};

/// Where the stand-in is, when these tests run again as another user.
const STAND_IN: &str = "MVM_TEST_STAND_IN";
const ORDINARY_USER: &str = "65534";

/// SIGPIPE, by its own choice.
const QEMU_IGNORES: &str = "0000000000001000";

/// What becomes of each thing the stand-in tries: the error it must meet, or 0.
const EXPECTED: &[(&str, i32)] = &[
    ("environment", 0),
    ("read-usr", 0),
    ("read-root", EACCES),
    ("read-home", EACCES),
    ("read-passwd", EACCES),
    ("read-environ", EACCES),
    ("read-file", EACCES),
    ("read-beside-program", EACCES),
    ("write-file", ENOSYS),
    ("truncate-open", ENOSYS),
    ("create", ENOSYS),
    ("create-unnamed", ENOSYS),
    ("creat", EPERM),
    ("truncate", EPERM),
    ("chmod", EPERM),
    ("fchmodat2", ENOSYS),
    ("unlink", EPERM),
    ("rename", EPERM),
    ("link", EPERM),
    ("symlink", EPERM),
    ("mkdir", EPERM),
    ("mkfifo", EPERM),
    ("openat2", ENOSYS),
    ("inotify", EPERM),
    ("shared-reopen", ENOSYS),
    ("shared-write", EBADF),
    ("shared-truncate", EINVAL),
    ("shared-chmod", EPERM),
    ("shared-map", EACCES),
    ("shared-protect", EACCES),
    ("socket-ip", EPERM),
    ("socket-unix", EPERM),
    ("socket-netlink", EPERM),
    ("socketpair", EPERM),
    ("connect-abstract", EPERM),
    ("connect-path", EPERM),
    ("send-to-path", EISCONN),
    ("bind", EPERM),
    ("listen", EPERM),
    ("accept", EPERM),
    ("signal-self", 0),
    ("signal-own-thread", 0),
    ("signal-parent", EPERM),
    ("signal-group", EPERM),
    ("signal-all", EPERM),
    ("signal-thread", EPERM),
    ("signal-by-owner", EPERM),
    ("pidfd", EPERM),
    ("ptrace", EPERM),
    ("read-memory", EPERM),
    ("limit-parent", EPERM),
    ("affinity", EPERM),
    ("outlive", EPERM),
    ("become-root", EPERM),
    ("thread", 0),
    ("fork", EPERM),
    ("vfork", EPERM),
    ("exec", ENOSYS),
    ("execveat", EPERM),
    ("personality-query", 0),
    ("personality", EPERM),
    ("terminal-input", EPERM),
    ("unshare", EPERM),
    ("setns", EPERM),
    ("mount", EPERM),
    ("chroot", EPERM),
    ("bpf", EPERM),
    ("perf", EPERM),
    ("userfaultfd", EPERM),
    ("io_uring", EPERM),
    ("keyctl", EPERM),
    ("add_key", EPERM),
    ("module", EPERM),
    ("kexec", EPERM),
    ("shmat", EPERM),
    ("open_by_handle", EPERM),
];

/// A directory that every user can enter, with the stand-in in it: a VMM has a user of its own under root.
struct Place {
    dir: tempfile::TempDir,
    stand_in: PathBuf,
}

impl Place {
    fn new() -> Place {
        let built = std::env::var_os(STAND_IN).map_or_else(
            || {
                let tests = std::env::current_exe().unwrap();
                tests.ancestors().nth(2).unwrap().join("examples/stand_in")
            },
            PathBuf::from,
        );
        assert!(built.exists(), "{} is missing: `cargo build -p mvm-runtime --example stand_in`", built.display());
        let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir_in("/tmp").unwrap();
        let stand_in = dir.path().join("stand_in");
        fs::copy(built, &stand_in).unwrap();
        Place { dir, stand_in }
    }

    fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> VmmCommand {
        VmmCommand {
            program: self.stand_in.clone(),
            args: args.iter().map(Into::into).collect(),
            fds: Vec::new(),
            opens: Vec::new(),
            limits: VmmLimits { file_size: 1 << 20, memory: 256 << 20, pids: 16 },
            readable: Vec::new(),
        }
    }
}

/// Starts the stand-in and reads what it reports until it ends.
fn results(mut command: VmmCommand) -> (BTreeMap<String, i32>, Vec<confine::LayerReport>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    command.fds.push((3, theirs.into()));
    let mut process = confine::spawn(command).unwrap();
    let mut text = String::new();
    BufReader::new(ours).read_to_string(&mut text).unwrap();
    let status = ended(&mut process);
    assert_eq!(status, "exit status 0", "it said: {}; reported: {text}", process.stderr_tail());
    let line = |line: &str| line.split_once(' ').map(|(name, errno)| (name.to_owned(), errno.parse().unwrap()));
    (text.lines().filter_map(line).collect(), process.layers().to_vec())
}

fn ended(process: &mut VmmProcess) -> String {
    let pidfd = rustix::process::pidfd_open(pid(process), PidfdFlags::empty()).unwrap();
    assert!(ends(&pidfd), "it does not end");
    process.try_wait().unwrap().unwrap()
}

fn pid(process: &VmmProcess) -> Pid {
    Pid::from_raw(process.pid() as i32).unwrap()
}

/// Whether a process ends within 10 seconds.
fn ends(pidfd: &OwnedFd) -> bool {
    let mut waiting = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    rustix::event::poll(&mut waiting, Some(&limit)).unwrap() == 1
}

fn applied(layers: &[confine::LayerReport], layer: Layer) -> bool {
    layers.iter().any(|report| report.layer == layer && report.applied)
}

#[test]
fn a_taken_over_vmm_reaches_nothing() {
    let place = Place::new();
    let readable = place.file("readable", "secret", 0o644);
    let writable = place.file("writable", "intact", 0o666);
    let shared = place.file("shared", "shared", 0o666);
    let outside = std::process::id().to_string();
    let mut command = place.command(&["attack", &outside, readable.to_str().unwrap(), writable.to_str().unwrap()]);
    command.fds.push((4, File::open(&shared).unwrap().into()));
    let (found, layers) = results(command);
    assert!(applied(&layers, Layer::Landlock), "these expectations need Landlock: {layers:?}");
    let mut expected: BTreeMap<String, i32> = EXPECTED.iter().map(|(name, errno)| ((*name).into(), *errno)).collect();
    // An ordinary user's VMM cannot name root in its own user namespace.
    if !applied(&layers, Layer::OwnUser) && applied(&layers, Layer::NetworkNamespace) {
        expected.insert("become-root".into(), EINVAL);
    }
    assert_eq!(found, expected);
    assert_eq!(fs::read_to_string(writable).unwrap(), "intact");
    assert_eq!(fs::read_to_string(shared).unwrap(), "shared");
}

#[test]
fn opens_for_writing_get_what_was_foreseen_and_no_more() {
    let place = Place::new();
    let shared = place.file("shared", &"s".repeat(4096), 0o666);
    let mut command = place.command(&["brokered", "/mvm/ram"]);
    command.opens.push(BrokeredOpen { path: "/mvm/ram".into(), fd: File::open(&shared).unwrap().into() });
    let (mut found, _) = results(command);
    assert_ne!(found.remove("known"), Some(EACCES));
    let expected = [
        ("unknown", EACCES),
        ("exec-again", EACCES),
        ("read", 0),
        ("write", EBADF),
        ("map-private", 0),
        ("map-shared", EACCES),
        ("known-again", ENOSYS),
        ("exec-later", ENOSYS),
    ];
    assert_eq!(found, expected.map(|(name, errno)| (name.to_owned(), errno)).into());
    assert_eq!(fs::read_to_string(shared).unwrap(), "s".repeat(4096));
}

#[test]
fn it_holds_as_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        // Then every test here is that test.
        return a_taken_over_vmm_reaches_nothing();
    }
    let place = Place::new();
    let tests = place.dir.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    for test in [
        "a_taken_over_vmm_reaches_nothing",
        "opens_for_writing_get_what_was_foreseen_and_no_more",
        "it_dies_with_its_parent",
        "a_live_qemu_is_confined",
    ] {
        let output = Command::new("setpriv")
            .args(["--reuid", ORDINARY_USER, "--regid", ORDINARY_USER, "--clear-groups"])
            .arg(&tests)
            .args(["--exact", test, "--nocapture"])
            .current_dir("/")
            .env(STAND_IN, &place.stand_in)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{test}: {said}");
    }
}

#[test]
fn it_dies_with_its_parent() {
    let place = Place::new();
    let mut parent = Command::new(&place.stand_in).arg("parent").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
    // Its program is the stand-in, so it has not just died of something else.
    assert!(fs::read_to_string(format!("/proc/{}/cmdline", line.trim())).unwrap().ends_with("wait\0"));
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert!(ends(&pidfd), "the VMM outlived its parent");
}

#[test]
fn it_dies_with_the_thread_that_started_it_and_when_dropped() {
    let place = Place::new();
    let command = place.command(&["wait"]);
    let mut process = std::thread::spawn(|| confine::spawn(command).unwrap()).join().unwrap();
    assert_eq!(ended(&mut process), "killed by signal 9");
    let process = confine::spawn(place.command(&["wait"])).unwrap();
    let pid = process.pid();
    drop(process);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "not waited for");
}

#[test]
fn a_failure_before_the_exec_names_its_step() {
    let place = Place::new();
    let mut command = place.command(&[]);
    command.program = "/no/such/vmm".into();
    let error = confine::spawn(command).unwrap_err();
    assert_eq!(error.code, ErrorCode::BackendUnsupported);
    assert!(error.why.starts_with("exec: No such file"), "{error}");
    let mut command = place.command(&[]);
    command.program = place.file("not-executable", "", 0o644);
    assert!(confine::spawn(command).unwrap_err().why.starts_with("exec: Permission denied"));
    let mut command = place.command(&[]);
    command.fds.push((200, File::open("/dev/null").unwrap().into()));
    assert!(confine::spawn(command).unwrap_err().why.contains("descriptor 200"));
}

#[test]
fn what_this_host_offers_is_found_out_without_a_vmm() {
    let layers = confine::detect().unwrap();
    assert_eq!(layers.iter().map(|r| r.layer).collect::<Vec<_>>(), Layer::ALL);
    assert!(layers.iter().all(|report| report.applied == report.missing.is_empty()), "{layers:?}");
    assert_eq!(applied(&layers, Layer::OwnUser), rustix::process::geteuid().is_root());
}

/// A QEMU that maps `memory` copy-on-write and runs its firmware. Returns once it has answered on its control socket.
fn start_qemu(memory: &Path) -> (VmmProcess, UnixStream) {
    let (mut control, theirs) = UnixStream::pair().unwrap();
    control.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let line = "-machine microvm,memory-backend=ram -accel tcg -m 64M -chardev socket,id=qmp,fd=3 \
                -mon chardev=qmp,mode=control -object memory-backend-file,id=ram,size=64M,mem-path=/mvm/ram,share=off \
                -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny -display none \
                -nodefaults -no-user-config";
    let process = confine::spawn(VmmCommand {
        program: mvm_runtime::tool::find("qemu-system-x86_64").unwrap(),
        args: line.split_whitespace().map(Into::into).collect(),
        fds: vec![(3, theirs.into())],
        opens: vec![BrokeredOpen { path: "/mvm/ram".into(), fd: File::open(memory).unwrap().into() }],
        limits: VmmLimits { file_size: 1 << 20, memory: 1 << 30, pids: 64 },
        readable: Vec::new(),
    })
    .unwrap();
    control.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").unwrap();
    let answers: Vec<String> = BufReader::new(&control).lines().take(2).map_while(Result::ok).collect();
    assert!(answers.last().is_some_and(|a| a.contains("return")), "{answers:?}, QEMU says: {}", process.stderr_tail());
    (process, control)
}

#[test]
fn a_live_qemu_is_confined() {
    let place = Place::new();
    let memory = place.file("memory", "", 0o666);
    File::options().write(true).open(&memory).unwrap().set_len(64 << 20).unwrap();
    let (process, _control) = start_qemu(&memory);
    let proc = PathBuf::from(format!("/proc/{}", process.pid()));
    let read = |name: &str| fs::read_to_string(proc.join(name)).unwrap();
    let status: BTreeMap<String, String> =
        read("status").lines().filter_map(|l| l.split_once(":\t")).map(|(k, v)| (k.into(), v.into())).collect();
    for (field, value) in [
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("SigIgn", QEMU_IGNORES),
    ] {
        assert_eq!(status[field], value, "{field}");
    }
    assert!(status["Seccomp_filters"].parse::<u32>().unwrap() >= 2, "ours and QEMU's own");
    assert_eq!(read("environ"), "");
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    let session = read("stat").rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap().to_owned();
    assert_eq!(session, process.pid().to_string());
    assert!(read("oom_score_adj").trim().parse::<i32>().unwrap() >= 500);
    if applied(process.layers(), Layer::OwnUser) {
        let ids: Vec<u32> = status["Uid"]
            .split_whitespace()
            .chain(status["Gid"].split_whitespace())
            .map(|id| id.parse().unwrap())
            .collect();
        assert!(ids.len() == 8 && ids[0] >= 1_900_000_000 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!((status["Groups"].trim(), status["CapBnd"].as_str()), ("", "0000000000000000"));
    }
    assert!(applied(process.layers(), Layer::NetworkNamespace), "{:?}", process.layers());
    assert_ne!(fs::read_link(proc.join("ns/net")).unwrap(), fs::read_link("/proc/self/ns/net").unwrap());
    let interfaces: Vec<String> =
        read("net/dev").lines().skip(2).filter_map(|l| l.split_once(':')).map(|(name, _)| name.trim().into()).collect();
    assert_eq!(interfaces, ["lo"]);
    check_descriptors(&proc, &memory);
    check_mappings(&read("maps"), &memory);
}

/// What it holds is ours or of no name, and nothing of it can change the memory file.
fn check_descriptors(proc: &Path, memory: &Path) {
    let mut found = Vec::new();
    for entry in fs::read_dir(proc.join("fd")).unwrap().flatten() {
        let target = fs::read_link(entry.path()).unwrap();
        let info = fs::read_to_string(proc.join("fdinfo").join(entry.file_name())).unwrap();
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap().trim();
        let writes = i32::from_str_radix(flags, 8).unwrap() & libc::O_ACCMODE != libc::O_RDONLY;
        if target.is_absolute() {
            assert!(target == Path::new("/dev/null") || (target == memory && !writes), "{} {flags}", target.display());
        }
        found.push(entry.file_name().into_string().unwrap());
    }
    for standard in ["0", "1", "2", "3"] {
        assert!(found.iter().any(|number| number == standard), "{found:?}");
    }
}

fn check_mappings(maps: &str, memory: &Path) {
    let lines: Vec<&str> = maps.lines().filter(|line| line.ends_with(memory.to_str().unwrap())).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.split(' ').nth(1).unwrap().ends_with('p')), "{lines:?}");
    // The firmware writes to its memory from the first instruction; none of it may arrive here.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(fs::metadata(memory).unwrap().blocks(), 0);
}

#[test]
fn nothing_of_it_stays_behind() {
    let place = Place::new();
    let own = || fs::read_dir("/proc/self/fd").unwrap().count();
    let threads = || {
        fs::read_dir("/proc/self/task")
            .unwrap()
            .flatten()
            .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("vmm-")))
            .count()
    };
    // In a process of its own, where no other test opens anything.
    if std::env::var_os("MVM_TEST_ALONE").is_none() {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "nothing_of_it_stays_behind"])
            .env("MVM_TEST_ALONE", "1")
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
        return;
    }
    let before = own();
    for _ in 0..5 {
        let mut command = place.command(&["wait"]);
        let never = place.file("never", "", 0o600);
        command.opens.push(BrokeredOpen { path: "/never/asked/for".into(), fd: File::open(never).unwrap().into() });
        drop(confine::spawn(command).unwrap());
    }
    let gone = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        own() == before && threads() == 0
    });
    assert!(gone, "{} descriptors before, {} after; {} threads", before, own(), threads());
    let error = std::io::Error::from_raw_os_error(ENOENT);
    assert_eq!(fs::metadata("/tmp/mvm-stand-in").unwrap_err().kind(), error.kind());
}
