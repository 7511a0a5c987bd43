//! What changed between two workloads, through the command line.

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use common::{Ran, command};
use serde_json::{Value, json};

const TOKEN: &str = "ghp_0123456789abcdefghijABCDEFGHIJ012345";

fn workload(fields: Value) -> Value {
    let mut document = json!({"schema": "mvm.workload/v1", "name": "web"});
    document.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    document
}

/// Compares two workloads with these fields; the later one is on standard input.
fn diff(before: Value, after: Value, args: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("before.json");
    fs::write(&file, workload(before).to_string()).unwrap();
    let mut tool = command(dir.path());
    tool.arg("diff").arg(file).arg("-").args(args);
    let mut child = tool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(workload(after).to_string().as_bytes()).unwrap();
    let ran = child.wait_with_output().unwrap().into();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is made for that");
    ran
}

fn object(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

/// Two workloads that differ in a bit of everything.
fn example() -> (Value, Value) {
    let file = |digit: &str, bytes: u64| json!([{"path": "/etc/motd", "content": {"sha256": digit.repeat(64), "bytes": bytes}}]);
    let before = json!({
        "network": {"ports": [{"guest_port": 8000, "host_port": 0}]},
        "entrypoint": {"command": ["python3", "-m", "http.server", "8000"]},
        "files": file("a", 6),
        "steps": [{"commands.run": {"argv": ["true"]}}],
    });
    let after = json!({
        "network": {"ports": [{"guest_port": 8000, "host_port": 8080}]},
        "env": {"GREETING": {"literal": "hello there"}},
        "entrypoint": {"command": ["python3", "-m", "http.server", "9000"]},
        "files": file("b", 7),
        "steps": [{"commands.run": {"argv": ["mkdir", "-p", "/srv/www"], "check": true}}, {"commands.run": {"argv": ["true"]}}],
    });
    (before, after)
}

#[test]
fn changes_are_lines_with_their_places() {
    let (before, after) = example();
    let ran = diff(before.clone(), after, &[]);
    assert_eq!((ran.code, ran.stderr.as_str()), (1, ""));
    assert_eq!(
        ran.stdout,
        "/entrypoint/command/3       8000 → 9000
/env/GREETING               added: literal \"hello there\"
/files/0/content            path /etc/motd: aaaaaaaaaaaa (6 B) → bbbbbbbbbbbb (7 B)
/network/ports/0/host_port  guest_port 8000: 0 → 8080
/steps/0                    added: commands.run {argv [mkdir, -p, /srv/www], check true}
before  sha256:0bb4ffc226badee12b0f201f36b754b3e05c740c646db8b99865c1d150b57ef1
after   sha256:5e03b4f5fd38485f96c7b9260f8dc0f080cd805867a6f6e071f00503a96967e0
5 changes
"
    );
    let same = diff(before.clone(), before, &[]);
    assert_eq!((same.code, same.stdout.as_str()), (0, "no changes\n"));
    assert!(diff(json!({}), json!({"profile": "dev"}), &[]).stdout.ends_with("\n1 change\n"));
}

#[test]
fn another_order_is_no_change_and_has_another_digest() {
    let packages = |names: [&str; 2]| json!({"image": {"debian": {"packages": names}}});
    let ran = diff(packages(["curl", "git"]), packages(["git", "curl"]), &[]);
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.starts_with("before  sha256:") && ran.stdout.contains("\nafter   sha256:"), "{}", ran.stdout);
    assert!(ran.stdout.ends_with("\nno changes; only the order in a list differs\n"), "{}", ran.stdout);
}

#[test]
fn json_has_whole_values() {
    let long = "x".repeat(10_000);
    let ran = diff(json!({"ttl_ms": 5}), json!({"env": {"A/B": {"literal": long}}}), &["--json"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let mut said = object(&ran);
    for which in ["before", "after"] {
        let digest = said.as_object_mut().unwrap().remove(which).unwrap();
        assert_eq!(digest.as_str().unwrap().len(), "sha256:".len() + 64);
    }
    assert_eq!(
        said,
        json!({"schema": "mvm.workload-diff/v1", "changes": [
            {"pointer": "/env/A~1B", "change": "added", "after": {"literal": long}},
            {"pointer": "/ttl_ms", "change": "removed", "before": 5},
        ]})
    );
    let same = diff(json!({}), json!({}), &["--json"]);
    let said = object(&same);
    assert_eq!((same.code, &said["changes"]), (0, &json!([])));
    assert_eq!(said["before"], said["after"]);
}

#[test]
fn what_looks_like_a_credential_is_hidden() {
    let other = TOKEN.replace('0', "1");
    let before = json!({
        "env": {"A": {"literal": TOKEN}},
        "entrypoint": {"command": ["x", format!("--token={TOKEN}")]},
        "files": [{"path": format!("/{TOKEN}"), "content": {"sha256": "a".repeat(64), "bytes": 1}}],
    });
    let after = json!({
        "env": {"A": {"literal": other}},
        "entrypoint": {"command": ["x"]},
        "files": [{"path": format!("/{TOKEN}"), "content": {"sha256": "b".repeat(64), "bytes": 1}}],
        "steps": [{"commands.run": {"argv": ["x", TOKEN], "env": {"B": {"literal": TOKEN}}}}],
    });
    for args in [&["--json"][..], &[]] {
        let ran = diff(before.clone(), after.clone(), args);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        for token in [TOKEN, &other] {
            assert!(!ran.stdout.contains(&token[8..16]) && ran.stderr.is_empty(), "{}{}", ran.stdout, ran.stderr);
        }
        for place in ["/env/A/literal", "/entrypoint/command/1", "/files/0/content", "/steps/0"] {
            assert!(ran.stdout.contains(place), "{place}: {}", ran.stdout);
        }
        let markers = ran.stdout.matches("[redacted:github-token]").count();
        assert_eq!(markers, if args.is_empty() { 6 } else { 5 }, "{}", ran.stdout);
    }
}

#[test]
fn nothing_of_a_document_is_obeyed_by_a_terminal() {
    let evil = "a\u{1b}[2J\r\n/profile  safe\u{9b}1m\u{202e}b";
    let ran = diff(
        json!({"profile": evil}),
        json!({"env": {evil: {"literal": evil}}, "steps": [{"commands.run": {"argv": [evil]}}]}),
        &[],
    );
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(!ran.stdout.contains(['\u{1b}', '\r', '\u{9b}', '\u{202e}']), "{:?}", ran.stdout);
    assert_eq!(ran.stdout.lines().count(), 6, "{}", ran.stdout);
    assert!(ran.stdout.contains(r#""a\u{1b}[2J\r\n/profile  safe\u{9b}1m\u{202e}b" → standard"#), "{}", ran.stdout);
    let long = diff(json!({}), json!({"env": {"N".repeat(10_000): {"literal": "x".repeat(10_000)}}}), &[]);
    assert!(long.stdout.lines().all(|line| line.chars().count() < 400), "{}", long.stdout);
}

#[test]
fn errors_are_125() {
    let dir = tempfile::tempdir().unwrap();
    let mvmctl = |args: &[&str]| -> Ran { command(dir.path()).arg("diff").args(args).output().unwrap().into() };
    let good = dir.path().join("good.json");
    fs::write(&good, workload(json!({})).to_string()).unwrap();
    let good = Path::to_str(&good).unwrap();
    for (args, says) in [
        (vec!["-", "-"], "only one of them can be on standard input"),
        (vec![good, "-"], "cannot read the workload on standard input"),
        (vec![good, "/nowhere/w.json"], "cannot read the workload /nowhere/w.json"),
        (vec!["/", good], "there is no workload.json in it"),
        (vec![good], "<AFTER>"),
    ] {
        let ran = mvmctl(&args);
        assert_eq!((ran.code, ran.stdout.as_str()), (125, ""), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(says), "{args:?}: {ran:?}");
    }
    let said = object(&mvmctl(&["-", "-", "--json"]));
    assert_eq!(said["error"]["code"], "InvalidRequest");
}
