//! Helper programs of the distribution: finding them, running them, and never leaving one behind.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use mvm_wire::ErrorCode;

use crate::error::{Error, IoContext, Result};

/// Each program that mvm may call, and the Debian package that has it.
pub const PACKAGES: [(&str, &str); 11] = [
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
];

/// How many of a failed program's last lines become part of the error.
const LAST_LINES: usize = 5;

/// Where a program is: on `PATH`, or where system programs are that an ordinary user's `PATH` may lack.
pub fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            let package = PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package);
            Error::new(
                ErrorCode::BackendUnsupported,
                format!("cannot find the program {program}"),
                "it is not installed",
            )
            .hint(format!("apt-get install {package}"))
        })
}

/// A call of a helper program.
#[derive(Debug)]
pub struct Tool {
    name: String,
    command: Command,
}

/// What a helper program printed on standard output.
#[derive(Debug)]
pub struct Printed(pub String);

impl Tool {
    /// Prepares a call with a small environment of our own.
    pub fn new(program: &str) -> Result<Tool> {
        let mut command = Command::new(find(program)?);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        for name in ["HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        Ok(Tool { name: program.to_owned(), command })
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

    /// Runs it to its end. `line` sees what it says on standard error as it says it; it dies with this process.
    pub fn run(mut self, mut line: impl FnMut(&str)) -> Result<Printed> {
        let parent = rustix::process::getpid();
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // SAFETY: the closure makes two system calls and allocates nothing.
        unsafe {
            self.command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
                // It may have died before the line above.
                if rustix::process::getppid() == Some(parent) {
                    Ok(())
                } else {
                    Err(std::io::ErrorKind::NotFound.into())
                }
            });
        }
        let mut child = Group(self.command.spawn().context(|| format!("cannot start {}", self.name))?);
        let stdout = child.0.stdout.take();
        let reader = std::thread::spawn(move || stdout.map(std::io::read_to_string).transpose());
        let mut last = Vec::new();
        if let Some(stderr) = child.0.stderr.take() {
            for text in BufReader::new(stderr).split(b'\n').map_while(std::result::Result::ok) {
                let text = String::from_utf8_lossy(&text).into_owned();
                line(text.trim());
                last.push(text);
                if last.len() > LAST_LINES {
                    last.remove(0);
                }
            }
        }
        let status = child.0.wait().context(|| format!("cannot wait for {}", self.name))?;
        let printed = reader.join().ok().and_then(std::result::Result::ok).flatten().unwrap_or_default();
        if !status.success() {
            let why =
                if last.is_empty() { status.to_string() } else { format!("{status}: {}", last.join(" | ").trim()) };
            let what = format!("{} failed", self.name);
            if why.contains("No space left on device") {
                return Err(Error { why, ..Error::io(what, std::io::Error::from_raw_os_error(libc::ENOSPC)) });
            }
            return Err(Error::new(ErrorCode::Internal, what, why));
        }
        Ok(Printed(printed))
    }
}

/// A child and whatever it starts.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = rustix::process::kill_process_group(
                rustix::process::Pid::from_child(&self.0),
                rustix::process::Signal::KILL,
            );
            let _ = self.0.wait();
        }
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
}
