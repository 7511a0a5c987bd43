//! What the tests share: a key that is always the same, and a statement that has something in every field.

#![allow(dead_code, reason = "each test file uses a part of it")]

use mvm_evidence::statement::{
    Commitments, GuestReported, HostObserved, Image, Isolation, Layer, Limits, Policy, Run, RunKind, Tool,
};
use mvm_evidence::{Digest, Signer, Statement};

/// The key of the tests. Not a secret.
pub fn signer() -> Signer {
    Signer::from_seed(&[0x42; 32]).unwrap()
}

/// Another one.
pub fn other_signer() -> Signer {
    Signer::from_seed(&[0x43; 32]).unwrap()
}

/// A whole statement.
pub fn statement() -> Statement {
    let digest = |text: &str| Digest::of(text.as_bytes());
    let layer = |name: &str, applied, mandatory| Layer { layer: name.to_owned(), applied, mandatory };
    Statement {
        run: Run {
            run_id: "run-7f3a".to_owned(),
            sandbox_id: "sb-19c2".to_owned(),
            kind: RunKind::Run,
            log: "mvm/000102030405060708090a0b0c0d0e0f".to_owned(),
            audit_id: 3,
        },
        image: Image { name: "debian".to_owned(), digest: digest("image") },
        policy: Policy {
            profile: "standard".to_owned(),
            profile_digest: digest("profile"),
            plan_digest: digest("plan"),
            allowed_missing: vec!["cgroup".to_owned()],
        },
        limits: Limits {
            cpus: 1,
            memory_mib: 256,
            disk_bytes: 4 << 30,
            scratch_bytes: None,
            processes: Some(512),
            output_bytes: Some(1 << 20),
            timeout_ms: None,
        },
        isolation: Isolation {
            backend: "qemu".to_owned(),
            backend_version: "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)".to_owned(),
            accelerator: "tcg".to_owned(),
            template: true,
            layers: vec![layer("seccomp", true, true), layer("cgroup", false, false)],
        },
        commitments: Commitments {
            argv: digest("argv"),
            env: digest("env"),
            stdin: digest("stdin"),
            stdout: digest("stdout"),
            stderr: digest("stderr"),
        },
        secrets: vec!["API_KEY".to_owned(), "TOKEN".to_owned()],
        host_observed: HostObserved {
            started_at_ms: 1_760_000_000_000,
            ended_at_ms: 1_760_000_000_131,
            duration_us: 131_402,
            timed_out: false,
            stdin_bytes: 0,
            stdout_bytes: 6,
            stderr_bytes: 0,
            redactions: 0,
            error: None,
        },
        guest_reported: Some(GuestReported { exit_code: Some(0), signal: None, oom_killed: false, not_started: None }),
        tool: Tool { name: "mvmctl".to_owned(), version: "0.1.0".to_owned() },
    }
}

/// A log in a directory of its own.
pub fn log() -> (tempfile::TempDir, mvm_evidence::Log) {
    let dir = tempfile::tempdir().unwrap();
    let log = mvm_evidence::Log::open(dir.path().join("home/audit")).unwrap();
    (dir, log)
}

/// An entry that can be told from others.
pub fn entry(number: u64) -> mvm_evidence::Entry {
    mvm_evidence::Entry { at_ms: 1_760_000_000_000 + number, ..mvm_evidence::Entry::now("test.event") }
        .field("number", number)
}

/// Adds entries, numbered on from the log's size.
pub fn fill(log: &mvm_evidence::Log, count: u64) {
    let from = log.size().unwrap();
    for number in from..from + count {
        assert_eq!(log.append(&entry(number), mvm_evidence::Durability::Batched).unwrap(), number);
    }
}
