//! What the tests of the command line share: the built program, a home of their own, and a way to see what is left.
//!
//! The tests run real machines. They share one home below the target directory, so kernel, image and template are made
//! once; a machine that cannot start fails its test.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

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
    command
        .env("MVM_HOME", home)
        .env_remove("MVM_QEMU")
        .env_remove("MVM_PROFILE")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
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

/// Runs a verb to its end.
pub fn mvmctl(args: &[&str]) -> Ran {
    command(home()).args(args).output().unwrap().into()
}

/// What a verb prints as JSON.
pub fn json(args: &[&str]) -> Value {
    let ran = mvmctl(args);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {args:?}: {ran:?}"))
}

/// A sandbox that does not outlive its test.
pub struct Sandbox(pub String);

impl Sandbox {
    pub fn up(name: &str, options: &[&str]) -> Sandbox {
        let ran = mvmctl(&[&["up", "--image", "base", "--name", name], options].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        Sandbox(name.to_owned())
    }

    pub fn sh(&self, script: &str) -> Ran {
        mvmctl(&["exec", &self.0, "--", "sh", "-c", script])
    }

    pub fn inspect(&self) -> Value {
        json(&["inspect", &self.0, "--json"])
    }

    pub fn state(&self) -> String {
        self.inspect()["state"].as_str().unwrap().to_owned()
    }

    /// How many of its processes are such a sleep.
    pub fn sleepers(&self) -> String {
        self.sh("ps | grep -c '[/]bin/sleep 1000$'").stdout.trim().to_owned()
    }

    /// The process that supervises it: the one that has its id among its arguments.
    pub fn supervisor(&self) -> u32 {
        let id = self.inspect()["id"].as_str().unwrap().to_owned();
        let is_it = |pid: &u32| {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
            arguments.get(1) == Some(&b"supervise".as_slice()) && arguments.get(2) == Some(&id.as_bytes())
        };
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.find(is_it).expect("it has a supervisor")
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        mvmctl(&["kill", &self.0]);
    }
}

/// Kills a process, which exists.
pub fn kill(pid: u32) {
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// The machine of a supervisor.
pub fn machine_of(supervisor: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
    children.split_whitespace().next().unwrap().parse().unwrap()
}
