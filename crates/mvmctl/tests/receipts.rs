//! What real machines leave behind: receipts, private records, and the log's entries.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Ran, command, home};
use serde_json::{Value, json};

/// A home of the test's own with the machines of the one that all share: its log has nothing but what the test does.
struct Own(tempfile::TempDir);

impl Own {
    fn new() -> Own {
        let own = Own(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        for name in ["kernels", "images", "templates", "host.json"] {
            symlink(home().join(name), own.path().join(name)).unwrap();
        }
        assert_eq!(own.mvmctl(&["run", "--image", "base", "--receipt", &own.file("first"), "--", "true"]).code, 0);
        own
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    fn mvmctl(&self, args: &[&str]) -> Ran {
        command(self.path()).args(args).output().unwrap().into()
    }

    fn fine(&self, args: &[&str]) -> String {
        let ran = self.mvmctl(args);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran.stdout
    }

    /// The entries from one on.
    fn entries(&self, from: usize) -> Vec<Value> {
        let lines = self.fine(&["audit", "tail", "-n", "1000", "--json"]);
        lines.lines().skip(from).map(|line| serde_json::from_str::<Value>(line).unwrap()["entry"].clone()).collect()
    }

    /// The only file of `runs` with this ending, of this command.
    fn kept(&self, run: &str, ending: &str) -> PathBuf {
        let entries = fs::read_dir(self.path().join("runs")).unwrap().map(|entry| entry.unwrap().path());
        let of_run = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(run) && name.ends_with(ending)
        };
        entries.filter(of_run).collect::<Vec<_>>().try_into().map(|[one]: [PathBuf; 1]| one).unwrap()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.mvmctl(&["destroy", "--all"]);
    }
}

/// Verifies with a public key and no home, as on another machine.
fn elsewhere(key: &str, args: &[&str]) -> Value {
    let all = [&["receipt", "verify", "--json", "--key", key], args].concat();
    let ran: Ran = command(Path::new("/nonexistent/home")).args(all).output().unwrap().into();
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

fn said(lines: Vec<Value>) -> Vec<String> {
    lines.iter().map(|entry| entry["event"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_receipt_tells_what_ran_and_holds_nothing_that_went_in_or_came_out() {
    let own = Own::new();
    let (receipt, opening, key) = (own.file("r.json"), own.file("o.json"), own.file("key.pem"));
    fs::write(&key, own.fine(&["key", "export"])).unwrap();
    fs::write(own.file("token"), "secret-7d1\n").unwrap();
    let script = "echo argument-7d1 >&2; cat; echo $NAME | tr a-z A-Z";
    let secret = format!("TOKEN=file:{}", own.file("token"));
    let options =
        ["run", "--image", "base", "--env", "NAME=value-7d1", "--secret", &secret, "-i", "--receipt", &receipt];
    let mut child = command(own.path());
    child
        .args(options)
        .args(["--", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"input-7d1\n").unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "input-7d1\nVALUE-7D1\n"), "{ran:?}");

    let verified = elsewhere(&key, &[&receipt]);
    let stated = &verified["statement"];
    assert_eq!((&stated["guest_reported"]["exit_code"], &stated["secrets"]), (&json!(0), &json!(["TOKEN"])));
    assert_eq!(stated["host_observed"]["stdout_bytes"], 20);
    assert!(verified["logged"]["index"].is_u64());
    let run = stated["run"]["run_id"].as_str().unwrap();

    // Neither what is signed, nor the log, nor the record has any of it; only the arguments are in the record.
    let record = own.kept(run, ".record");
    let kept = fs::read_to_string(&record).unwrap();
    let public =
        format!("{stated}{}{}", fs::read_to_string(own.file("r.json.tlog-proof")).unwrap(), json!(own.entries(0)));
    for private in ["argument-7d1", "value-7d1", "VALUE-7D1", "input-7d1", "secret-7d1"] {
        assert!(!public.contains(private), "{private}");
        assert_eq!(kept.contains(private), private == "argument-7d1", "{private}: {kept}");
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&record), mode(&own.path().join("runs"))), (0o600, 0o700));

    // The owner can show each value; of what is not kept, whoever has it.
    fs::write(own.file("env"), r#"{ "NAME": "value-7d1" }"#).unwrap();
    fs::write(own.file("stdout"), "input-7d1\nVALUE-7D1\n").unwrap();
    fs::write(own.file("stdin"), "input-7d1\n").unwrap();
    let salt = serde_json::from_str::<Value>(&kept).unwrap()["salt"].as_str().unwrap().to_owned();
    for field in ["argv", "env", "stdin", "stdout"] {
        let value = own.file(field);
        let with: &[&str] = if field == "argv" { &[] } else { &["--value", &value] };
        let opened = own.fine(&[&["receipt", "open", &receipt, field], with].concat());
        assert!(!opened.contains(&salt), "an opening with the salt of the run opens everything");
        fs::write(&opening, opened).unwrap();
        assert_eq!(elsewhere(&key, &[&receipt, "--opening", &opening])["opened"]["field"], field);
    }
    // What it was not is not shown, nor is what secrets it had.
    fs::write(own.file("env"), r#"{ "NAME": "value-7d1", "TOKEN": "secret-7d1" }"#).unwrap();
    assert_eq!(own.mvmctl(&["receipt", "open", &receipt, "env", "--value", &own.file("env")]).code, 53);
    assert_eq!(own.mvmctl(&["receipt", "open", &receipt, "stderr", "--value", &own.file("stdin")]).code, 53);
    let ran = own.mvmctl(&["receipt", "open", &receipt, "stdout"]);
    assert!(ran.code == 125 && ran.stderr.contains("--value FILE"), "{ran:?}");
}

#[test]
fn signing_needs_keys_log_and_record_and_signs_nothing_else() {
    let own = Own::new();
    let result: Value = serde_json::from_str(&own.fine(&["run", "--image", "base", "--json", "--", "true"])).unwrap();
    let id = |name: &str| result[name].as_str().unwrap().to_owned();
    let (run, sandbox) = (id("run_id"), id("sandbox_id"));
    let record = own.kept(&run, ".record");
    // Another home, in which there is nothing that a guest could have had a part in.
    let bare = tempfile::tempdir().unwrap();
    let mut copy = Command::new("cp");
    copy.arg("-a").args(["keys", "audit"].map(|name| own.path().join(name))).arg(bare.path());
    assert!(copy.status().unwrap().success());
    fs::create_dir(bare.path().join("runs")).unwrap();
    let there = bare.path().join("runs").join(record.file_name().unwrap());
    let notary = || -> Ran { command(bare.path()).args(["notary", &run, &sandbox]).output().unwrap().into() };
    let text = fs::read_to_string(&record).unwrap();
    let altered = text.replace(r#"\"timed_out\":false"#, r#"\"timed_out\":true"#);
    assert_ne!(altered, text);
    fs::write(&there, altered).unwrap();
    let ran = notary();
    assert!(ran.code == 125 && ran.stderr.contains("is not the end of this run with this result"), "{ran:?}");
    assert!(!there.with_extension("receipt").exists());
    fs::write(&there, text).unwrap();
    assert_eq!(notary().code, 0);
    let (receipt, proof) = (there.with_extension("receipt"), there.with_extension("proof"));
    let args = ["receipt", "verify", receipt.to_str().unwrap(), "--proof", proof.to_str().unwrap()];
    let ran: Ran = command(bare.path()).args(args).output().unwrap().into();
    assert!(ran.code == 0 && ran.stdout.contains(&format!("The receipt of {run} is genuine")), "{ran:?}");
}

#[test]
fn nothing_starts_that_cannot_be_recorded() {
    let own = Own::new();
    own.fine(&["up", "--image", "base", "--name", "there", "--quiet"]);
    let (journal, elsewhere) = (own.path().join("audit/journal"), own.path().join("journal"));
    fs::rename(&journal, &elsewhere).unwrap();
    for args in [
        &["run", "--image", "base", "--", "echo", "ran"][..],
        &["up", "--image", "base", "--name", "other"],
        &["exec", "there", "--", "sh", "-c", "echo ran; touch /ran"],
        &["port", "add", "there", "0:80"],
        &["snapshot", "save", "there"],
        &["fork", "there"],
        &["keep", "there", "--ttl", "2h"],
    ] {
        let ran = own.mvmctl(args);
        assert!(ran.code == 125 && ran.stderr.contains("audit log"), "{args:?}: {ran:?}");
        assert!(ran.stdout.is_empty(), "{args:?}: {ran:?}");
    }
    fs::rename(&elsewhere, &journal).unwrap();
    assert_eq!(own.mvmctl(&["exec", "there", "--", "ls", "/ran"]).code, 1);
    let listed: Value = serde_json::from_str(&own.fine(&["ps", "--json"])).unwrap();
    let names: Vec<_> = listed["sandboxes"].as_array().unwrap().iter().map(|sandbox| &sandbox["name"]).collect();
    assert_eq!(names, ["there"]);
    own.fine(&["audit", "verify"]);
}

#[test]
fn every_operation_refusal_and_state_is_on_record() {
    let own = Own::new();
    let begun = own.entries(0).len();
    own.fine(&["up", "--image", "base", "--name", "box", "--profile", "restrictive", "--ttl", "30m"]);
    own.fine(&["exec", "box", "--", "true"]);
    let receipt = own.file("exec.json");
    own.mvmctl(&["exec", "box", "--receipt", &receipt, "--", "false"]);
    for refused in [&["exec", "box", "--env", "A=1", "--", "true"][..], &["port", "add", "box", "0:80"]] {
        assert_eq!(own.mvmctl(refused).code, 126);
    }
    own.fine(&["keep", "box", "--ttl", "20m"]);
    own.fine(&["fs", "ls", "box", "/"]);
    own.fine(&["snapshot", "save", "box", "--name", "saved"]);
    own.fine(&["pause", "box"]);
    own.fine(&["resume", "box"]);
    own.fine(&["destroy", "box"]);
    own.fine(&["restore", "saved", "--name", "again"]);
    own.fine(&["destroy", "again"]);
    let entries = own.entries(begun);
    let expected = [
        "up.authorised",
        "sandbox.running",
        "exec.authorised",
        "run.ended",
        "exec.authorised",
        "run.ended",
        "receipt",
        "exec.denied",
        "port.denied",
        "keep.authorised",
        "snapshot.authorised",
        "sandbox.cold",
        "sandbox.restoring",
        "sandbox.running",
        "sandbox.destroyed",
        "up.authorised",
        "sandbox.running",
        "sandbox.destroyed",
    ];
    assert_eq!(said(entries.clone()), expected, "{entries:#?}");
    // Each end names the entry that authorised it.
    let authorised: usize = entries[5]["fields"]["authorised"].as_str().unwrap().parse().unwrap();
    assert_eq!((authorised, &entries[5]["fields"]["outcome"]), (begun + 4, &json!("failure")));
    assert_eq!((&entries[4]["run"], &entries[7]["fields"]["rules"]), (&entries[5]["run"], &json!("env.variables")));
    own.fine(&["audit", "verify"]);
}

#[test]
fn copies_end_the_same_command_each_for_itself() {
    let own = Own::new();
    own.fine(&["up", "--image", "base", "--name", "box", "--quiet"]);
    let started =
        own.fine(&["exec", "box", "--detach", "--", "sh", "-c", "while [ ! -e /go ]; do sleep 0.1; done; cat /go"]);
    let run = started.trim();
    own.fine(&["fork", "box", "--name", "twin"]);
    for (name, text) in [("box", "one\n"), ("twin-1", "three\n")] {
        own.fine(&["exec", name, "--", "sh", "-c", &format!("printf '{text}' > /new; mv /new /go")]);
        own.fine(&["wait", name, run]);
    }
    let ran = own.mvmctl(&["receipt", "show", run]);
    assert!(ran.code == 125 && ran.stderr.contains("--sandbox mvm-"), "{ran:?}");
    for (name, bytes) in [("box", 4), ("twin-1", 6)] {
        let inspected: Value = serde_json::from_str(&own.fine(&["inspect", name, "--json"])).unwrap();
        let id = inspected["id"].as_str().unwrap();
        let shown: Value =
            serde_json::from_str(&own.fine(&["receipt", "show", run, "--sandbox", id, "--json"])).unwrap();
        assert_eq!(shown["statement"]["run"]["sandbox_id"], id);
        assert_eq!(shown["statement"]["host_observed"]["stdout_bytes"], bytes);
    }
}
