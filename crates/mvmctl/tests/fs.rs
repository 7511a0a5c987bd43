//! The guest's files from the command line, in real machines.

mod common;

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;

use common::{Ran, command, home};
use serde_json::Value;

fn mvmctl(args: &[&str]) -> Ran {
    command(home()).args(args).output().unwrap().into()
}

fn error(args: &[&str]) -> Value {
    let ran = mvmctl(args);
    assert_eq!(ran.code, 125, "{ran:?}");
    serde_json::from_str::<Value>(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))["error"].clone()
}

/// A sandbox that does not outlive its test.
struct Sandbox(&'static str);

impl Sandbox {
    fn up(name: &'static str) -> Sandbox {
        let ran = mvmctl(&["up", "--image", "base", "--name", name]);
        assert_eq!(ran.code, 0, "{ran:?}");
        Sandbox(name)
    }

    fn sh(&self, script: &str) -> String {
        let ran = mvmctl(&["exec", self.0, "--", "sh", "-c", script]);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.stdout
    }

    fn write(&self, path: &str, options: &[&str], content: &[u8]) -> Ran {
        let mut command = command(home());
        command.args(["fs", "write", self.0, path]).args(options);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(content);
        child.wait_with_output().unwrap().into()
    }

    fn read(&self, path: &str) -> Vec<u8> {
        command(home()).args(["fs", "read", self.0, path]).output().unwrap().stdout
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        mvmctl(&["kill", self.0]);
    }
}

#[test]
fn bytes_come_back_as_they_went() {
    let sandbox = Sandbox::up("bytes");
    let all: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
    for content in [&b""[..], b"\0\xff\n", &all] {
        assert_eq!(sandbox.write("/root/f", &[], content).code, 0);
        assert!(sandbox.read("/root/f") == content);
    }
    assert_eq!(sandbox.write("/root/f", &["--append"], b"end").code, 0);
    assert_eq!(mvmctl(&["fs", "read", "bytes", "/root/f", "--offset", "5000000"]).stdout, "end");
    assert_eq!(sandbox.write("/root/a/b/g", &["--parents", "--mode", "640", "--owner", "user"], b"x").code, 0);
    assert_eq!(sandbox.sh("stat -c '%a %U' /root/a/b/g"), "640 user\n");
}

#[test]
fn a_synced_write_survives_the_loss_of_the_machine() {
    let sandbox = Sandbox::up("synced");
    assert_eq!(sandbox.write("/root/kept", &["--sync"], b"kept").code, 0);
    // Switched off at once: nothing that was not written is.
    mvmctl(&["exec", "synced", "--", "sh", "-c", "echo b > /proc/sysrq-trigger; sleep 60"]);
    assert_eq!(mvmctl(&["wait", "synced", "--state", "stopped", "--timeout", "60"]).code, 0);
    assert_eq!(mvmctl(&["start", "synced"]).code, 0);
    assert_eq!(sandbox.read("/root/kept"), b"kept");
}

#[test]
fn failures_are_told_apart_and_rules_are_named() {
    let sandbox = Sandbox::up("told-apart");
    sandbox.sh("mkfifo /root/fifo; mkdir /root/full; touch /root/full/x");
    for (args, code, errno) in [
        (vec!["fs", "stat", "told-apart", "/nope", "--json"], "NotFound", libc::ENOENT),
        (vec!["fs", "ls", "told-apart", "/etc/passwd", "--json"], "FileError", libc::ENOTDIR),
        (vec!["fs", "rm", "told-apart", "/root/full", "--json"], "FileError", libc::ENOTEMPTY),
        (vec!["fs", "mkdir", "told-apart", "/root/full", "--json"], "AlreadyExists", libc::EEXIST),
        (vec!["fs", "write", "told-apart", "/root/full", "--json"], "FileError", libc::EISDIR),
    ] {
        let error = error(&args);
        assert_eq!((&error["code"], &error["errno"]), (&code.into(), &errno.into()), "{args:?}: {error}");
    }
    let (long, long_part) = ("/x".repeat(2048), format!("/{}", "x".repeat(256)));
    for bad in ["", "etc", "../etc", "/a/../b", &long, &long_part] {
        assert_eq!(error(&["fs", "stat", "told-apart", bad, "--json"])["code"], "InvalidRequest", "{bad}");
    }
    // A pipe that nobody writes to does not hang the reader, nor the agent.
    assert_eq!(mvmctl(&["fs", "read", "told-apart", "/root/fifo"]).code, 125);
    assert_eq!(sandbox.sh("echo alive"), "alive\n");
}

#[test]
fn large_directories_are_listed_whole() {
    let sandbox = Sandbox::up("large-dir");
    sandbox.sh("mkdir /root/d; cd /root/d; for i in $(seq 3000); do : > file-$i; done");
    let listed: Value = serde_json::from_str(&mvmctl(&["fs", "ls", "large-dir", "/root/d", "--json"]).stdout).unwrap();
    assert_eq!(listed["entries"].as_array().unwrap().len(), 3000);
}

#[test]
fn trees_are_copied_both_ways_and_stay_where_they_belong() {
    let sandbox = Sandbox::up("copies");
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    std::fs::write(tree.join("a/b/run"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(tree.join("a/b/run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("b/run", tree.join("a/link")).unwrap();
    assert_eq!(mvmctl(&["cp", tree.to_str().unwrap(), "copies:/root/"]).code, 0);
    assert_eq!(sandbox.sh("readlink /root/tree/a/link; stat -c %a /root/tree/a/b/run"), "b/run\n755\n");
    // What a guest could try.
    sandbox.sh("cd /root/tree; ln -s /etc/passwd absolute; ln -s ../../../etc escape; mknod null c 1 3; mkfifo p");
    let out = dir.path().join("out");
    let report: Value =
        serde_json::from_str(&mvmctl(&["cp", "copies:/root/tree", out.to_str().unwrap(), "--json"]).stdout).unwrap();
    assert_eq!(report["skipped"].as_array().unwrap().len(), 4, "{report}");
    assert_eq!(std::fs::read_to_string(out.join("a/link")).unwrap(), "#!/bin/sh\n");
    assert!(!out.join("absolute").exists() && !out.join("null").exists());
    // A link of the host's that lies in the way is not followed.
    let (elsewhere, target) = (dir.path().join("elsewhere"), dir.path().join("target"));
    std::fs::create_dir_all(&target).unwrap();
    std::fs::create_dir_all(&elsewhere).unwrap();
    symlink(&elsewhere, target.join("a")).unwrap();
    assert_eq!(mvmctl(&["cp", "copies:/root/tree/a", target.join("a").to_str().unwrap()]).code, 0);
    assert_eq!(mvmctl(&["cp", "copies:/root/tree/.", target.to_str().unwrap()]).code, 125);
}

#[test]
fn an_error_is_beside_the_bytes_that_are_printed_already() {
    let sandbox = Sandbox::up("half-read");
    let missing = error(&["fs", "read", "half-read", "/none", "--json"]);
    assert_eq!((missing["code"].as_str(), missing["errno"].as_i64()), (Some("NotFound"), Some(2)));
    let mut command = command(home());
    command.args(["fs", "read", "half-read", "/dev/zero", "--len", "1T", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut stdout, &mut [1; 4096]).unwrap();
    assert_eq!(mvmctl(&["kill", sandbox.0]).code, 0);
    let bytes = std::io::copy(&mut std::io::Read::by_ref(&mut stdout), &mut Zeros).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.code, 125, "{bytes} bytes, {ran:?}");
    assert!(serde_json::from_str::<Value>(&ran.stderr).unwrap()["error"]["code"].is_string(), "{ran:?}");
}

/// Takes zeros only.
struct Zeros;

impl Write for Zeros {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        assert!(bytes.iter().all(|byte| *byte == 0));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
