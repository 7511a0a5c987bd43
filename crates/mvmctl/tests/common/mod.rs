//! What the tests of the command line share: the built program, a home of their own, and a way to see what is left.
//!
//! The tests run real machines. They share one home below the target directory, so kernel, image and template are made
//! once; a machine that cannot start fails its test.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The home that tests share.
pub fn home() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mvm-home");
        let output = command(&home).args(["setup", "--image", "base"]).output().unwrap();
        assert!(output.status.success(), "setup failed: {}", String::from_utf8_lossy(&output.stderr));
        home
    })
}

/// `mvmctl` with a home, and nothing of the caller's environment that would change what it does.
pub fn command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvmctl"));
    command.env("MVM_HOME", home).env_remove("MVM_QEMU").env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// `mvmctl run --image base OPTIONS -- ARGV`.
pub fn run_command(options: &[&str], argv: &[&str]) -> Command {
    let mut command = command(home());
    command.args(["run", "--image", "base"]).args(options).arg("--").args(argv);
    command
}

/// What came of it.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command in a machine to its end.
pub fn run(options: &[&str], argv: &[&str]) -> Ran {
    run_command(options, argv).output().unwrap().into()
}

/// Runs a shell script in a machine to its end.
pub fn sh(options: &[&str], script: &str) -> Ran {
    run(options, &["sh", "-c", script])
}

/// The machines whose disks or memory lie in the shared home: found from outside, by what QEMU has open.
pub fn machines_of(child: &Child) -> Vec<u32> {
    let parent = child.id().to_string();
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        stat.contains("(qemu-system") && fields.get(1) == Some(&parent.as_str())
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

/// Whether a process exists and is not only waiting to be reaped.
pub fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits until `condition` holds; fails after a bound that only a hang exceeds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < Duration::from_secs(60), "still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
