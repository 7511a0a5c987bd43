//! Helper programs of the distribution: finding them, running them, and never leaving one behind.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use mvm_wire::ErrorCode;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::error::{Error, IoContext, Result};

/// Each program that mvm may call, and the Debian package that has it.
pub const PACKAGES: [(&str, &str); 14] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("busybox", "busybox-static"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("newuidmap", "uidmap"),
    ("lz4", "lz4"),
    ("gzip", "gzip"),
    ("unshare", "util-linux"),
];

/// How many of a failed program's last lines become part of the error.
const LAST_LINES: usize = 5;
/// How long a program that was asked to end may tidy up.
const PATIENCE: Duration = Duration::from_secs(15);
/// Waits, in the program's group but not as its child, until the pipe on standard input closes, which it does when this
/// process is gone, however that came about. Then it ends the group. The program itself becomes the group's leader.
const GUARD: &str = r#"exec 3<&0
({ read -r _ <&3; trap "" TERM; kill -TERM 0; sleep 15; kill -KILL 0; } >/dev/null 2>&1 &)
exec "$@" 3<&- </dev/null"#;
/// How often a silent program is looked at.
const TICK: Duration = Duration::from_millis(50);

/// Where a program is: on `PATH`, or where system programs are that an ordinary user's `PATH` may lack.
pub fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            Error::new(
                ErrorCode::BackendUnsupported,
                format!("cannot find the program {program}"),
                "it is not installed",
            )
            .hint(format!("apt-get install {}", package(program)))
        })
}

/// The Debian package that has a program.
pub fn package(program: &str) -> &str {
    PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package)
}

/// A call of a helper program.
#[derive(Debug)]
pub struct Tool {
    name: String,
    command: Command,
    limit: Option<Duration>,
    ending: Signal,
}

/// What a helper program printed on standard output.
#[derive(Debug)]
pub struct Printed(pub String);

impl Tool {
    /// Prepares a call with a small environment of our own. The program is killed when it must end early.
    pub fn new(program: &str) -> Result<Tool> {
        Ok(Tool::prepare(program, Command::new(find(program)?), Signal::KILL))
    }

    /// The same for a program that tidies up when it gets SIGTERM: it and all that it started get that first, also when
    /// this process is killed.
    pub fn gentle(program: &str) -> Result<Tool> {
        let mut command = Command::new(find("sh")?);
        command.args(["-c", GUARD, "sh"]).arg(find(program)?);
        Ok(Tool::prepare(program, command, Signal::TERM))
    }

    fn prepare(program: &str, mut command: Command, ending: Signal) -> Tool {
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        for name in ["HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        Tool { name: program.to_owned(), command, limit: None, ending }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Tool {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Tool {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Tool {
        self.command.env(name, value);
        self
    }

    /// Runs it in this directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Tool {
        self.command.current_dir(dir);
        self
    }

    /// Ends it, and all of its group, after this time.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Tool {
        self.limit = Some(limit);
        self
    }

    /// Runs it to its end and returns its standard output. `line` sees what it says on standard error as it says it.
    pub fn run(self, line: impl FnMut(&str)) -> Result<Printed> {
        Ok(Printed(String::from_utf8_lossy(&self.execute(false, line)?).into_owned()))
    }

    /// Runs it to its end; `line` sees what it says, on both streams, as it says it.
    pub fn aloud(self, line: impl FnMut(&str)) -> Result<()> {
        self.execute(true, line).map(drop)
    }

    /// Runs it to its end and returns its standard output, which need not be text.
    pub fn bytes(self) -> Result<Vec<u8>> {
        self.execute(false, |_| {})
    }

    fn execute(mut self, aloud: bool, mut line: impl FnMut(&str)) -> Result<Vec<u8>> {
        let deadline = self.limit.map(|limit| Instant::now() + limit);
        let (mut group, said) = self.start(aloud)?;
        let (mut output, mut last) = (Vec::new(), VecDeque::new());
        let (mut closed, mut lingering) = (false, 0);
        while !(closed && group.ended()) {
            match said.recv_timeout(TICK) {
                Ok(Said::Output(bytes)) => output.extend(bytes),
                Ok(Said::Line(text)) => {
                    line(text.trim());
                    last.push_back(text);
                    if last.len() > LAST_LINES {
                        last.pop_front();
                    }
                }
                Err(RecvTimeoutError::Disconnected) if closed => std::thread::sleep(TICK / 10),
                Err(RecvTimeoutError::Disconnected) => closed = true,
                // It is gone, and something that it started still holds its streams.
                Err(RecvTimeoutError::Timeout) if group.ended() => {
                    group.kill(Signal::KILL);
                    lingering += 1;
                    closed = lingering > 10;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) && !group.ended() {
                let why = format!("it did not end within {} s", self.limit.unwrap_or_default().as_secs_f32());
                return Err(Error::new(ErrorCode::Timeout, format!("{} was ended", self.name), why));
            }
        }
        let status = group.reap().context(|| format!("cannot wait for {}", self.name))?;
        if status.success() {
            return Ok(output);
        }
        let words = last.iter().map(|text| text.trim()).collect::<Vec<_>>().join(" | ");
        let why = if words.is_empty() { status.to_string() } else { format!("{status}: {words}") };
        let what = format!("{} failed", self.name);
        if why.contains("No space left on device") {
            return Err(Error { why, ..Error::io(what, std::io::Error::from_raw_os_error(libc::ENOSPC)) });
        }
        Err(Error::new(ErrorCode::Internal, what, why))
    }

    /// Starts it in a group of its own. It ends when the calling thread is gone, however that comes about.
    fn start(&mut self, aloud: bool) -> Result<(Group, Receiver<Said>)> {
        let (parent, ending) = (rustix::process::getpid(), self.ending);
        let guarded = ending != Signal::KILL;
        self.command.stdin(if guarded { Stdio::piped() } else { Stdio::null() });
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // SAFETY: the closure makes two system calls and allocates nothing.
        unsafe {
            self.command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal((!guarded).then_some(ending))?;
                // It may have died before the line above.
                if rustix::process::getppid() == Some(parent) {
                    Ok(())
                } else {
                    Err(std::io::ErrorKind::NotFound.into())
                }
            });
        }
        let mut child = self.command.spawn().context(|| format!("cannot start {}", self.name))?;
        let (sender, receiver) = mpsc::channel();
        if let Some(stderr) = child.stderr.take() {
            let sender = sender.clone();
            std::thread::spawn(move || pass_lines(stderr, &sender));
        }
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || if aloud { pass_lines(stdout, &sender) } else { pass_bytes(stdout, &sender) });
        }
        Ok((Group { child, ending, reaped: false }, receiver))
    }
}

/// What came from a helper program.
enum Said {
    Output(Vec<u8>),
    Line(String),
}

fn pass_lines(stream: impl Read, to: &Sender<Said>) {
    // Programs that draw their progress end a line with a carriage return.
    for text in BufReader::new(stream).split(b'\n').map_while(std::result::Result::ok) {
        let text = String::from_utf8_lossy(&text);
        let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
        if to.send(Said::Line(text.to_owned())).is_err() {
            return;
        }
    }
}

fn pass_bytes(mut stream: impl Read, to: &Sender<Said>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if to.send(Said::Output(buffer[..len].to_vec())).is_err() {
            return;
        }
    }
}

/// A child and whatever it starts.
struct Group {
    child: Child,
    ending: Signal,
    reaped: bool,
}

impl Group {
    /// Whether the child itself has ended. It stays a zombie, so that nobody else can get its number, or its group's.
    fn ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(rustix::process::waitid(WaitId::Pid(Pid::from_child(&self.child)), options), Ok(None))
    }

    fn kill(&self, signal: Signal) {
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), signal);
    }

    /// Kills what is left of the group and takes the child's status.
    fn reap(&mut self) -> std::io::Result<ExitStatus> {
        self.kill(Signal::KILL);
        self.reaped = true;
        self.child.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        if self.ending != Signal::KILL {
            self.kill(self.ending);
            let patience = Instant::now() + PATIENCE;
            while !self.ended() && Instant::now() < patience {
                std::thread::sleep(TICK);
            }
        }
        let _ = self.reap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = find("mvm-no-such-program").unwrap_err();
        assert_eq!(error.hint, "apt-get install mvm-no-such-program");
    }

    #[test]
    fn output_is_returned_and_failures_carry_the_last_words() {
        let printed = Tool::new("sh")
            .unwrap()
            .args(["-c", "echo out; echo err >&2"])
            .run(|line| assert_eq!(line, "err"))
            .unwrap();
        assert_eq!(printed.0, "out\n");
        let error = Tool::new("sh").unwrap().args(["-c", "echo no such thing >&2; exit 3"]).run(|_| {}).unwrap_err();
        assert!(error.why.contains("exit status: 3") && error.why.contains("no such thing"), "{error}");
    }

    #[test]
    fn the_environment_is_not_passed_on() {
        let printed = Tool::new("sh").unwrap().args(["-c", "echo ${CARGO_MANIFEST_DIR-none}"]).run(|_| {}).unwrap();
        assert_eq!(printed.0, "none\n");
    }

    #[test]
    fn a_time_limit_ends_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
        let tool = Tool::new("sh").unwrap().args(["-c", &script]).limit(Duration::from_millis(300));
        assert_eq!(tool.run(|_| {}).unwrap_err().code, ErrorCode::Timeout);
        assert_gone(&pid_file);
    }

    #[test]
    fn what_a_program_leaves_behind_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        // It holds the streams open: waiting for their end would take ten minutes.
        let script = format!("sleep 600 & echo $! > {}; echo done", pid_file.display());
        assert_eq!(Tool::new("sh").unwrap().args(["-c", &script]).run(|_| {}).unwrap().0, "done\n");
        assert_gone(&pid_file);
    }

    #[test]
    fn a_gentle_end_lets_the_program_tidy_up() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("trap 'touch {}; exit 1' TERM; sleep 600 & wait", dir.path().join("tidied").display());
        let tool = Tool::gentle("sh").unwrap().args(["-c", &script]).limit(Duration::from_millis(300));
        assert_eq!(tool.run(|_| {}).unwrap_err().code, ErrorCode::Timeout);
        assert!(dir.path().join("tidied").exists());
    }

    #[test]
    fn both_streams_are_heard_aloud_and_bytes_stay_bytes() {
        let mut heard = Vec::new();
        let tool = Tool::new("sh").unwrap().args(["-c", "echo out; echo err >&2; printf '1%%\\r2%%\\n'"]);
        tool.aloud(|line| heard.push(line.to_owned())).unwrap();
        heard.sort();
        assert_eq!(heard, ["2%", "err", "out"]);
        assert_eq!(Tool::new("printf").unwrap().arg("\\377\\000x").bytes().unwrap(), b"\xff\0x");
    }

    fn assert_gone(pid_file: &Path) {
        let pid = std::fs::read_to_string(pid_file).unwrap();
        let stat = Path::new("/proc").join(pid.trim()).join("stat");
        // Killed, and perhaps not yet collected by whoever inherited it.
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z"));
        // A signal that finds a shell between its fork and its exec is lost; then the second one has to do it.
        for _ in 0..(2 * PATIENCE.as_millis() / TICK.as_millis()) {
            if gone() {
                return;
            }
            std::thread::sleep(TICK);
        }
        panic!("{pid} lives");
    }

    #[test]
    fn the_guard_ends_the_group_when_its_pipe_closes() {
        let dir = tempfile::tempdir().unwrap();
        let (tidied, pid_file) = (dir.path().join("tidied"), dir.path().join("pid"));
        let script = format!(
            "trap 'touch {}; exit 1' TERM; sleep 600 & echo $! > {}; wait",
            tidied.display(),
            pid_file.display()
        );
        let mut tool = Tool::gentle("sh").unwrap().args(["-c", &script]);
        let (mut group, _said) = tool.start(false).unwrap();
        while std::fs::read_to_string(&pid_file).map_or(true, |pid| pid.is_empty()) {
            std::thread::sleep(TICK);
        }
        // As when this process is killed: nobody sends a signal, the pipe's other end is just gone.
        drop(group.child.stdin.take());
        assert_gone(&pid_file);
        assert!(!group.reap().unwrap().success() && tidied.exists());
    }
}
