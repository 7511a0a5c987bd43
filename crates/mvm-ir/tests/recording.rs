//! Lowering recordings: every call has its step, and what makes no sense is refused at its place.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mvm_evidence::Digest;
use mvm_ir::{Fault, Refusal, canonical, lower, read};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A recording of these calls, made on the lines 1, 2, 3, … of `agent.py`, with these contents.
fn recording(calls: &[Value], contents: &[&str]) -> Value {
    let placed =
        calls.iter().enumerate().map(|(n, call)| json!({"place": format!("agent.py:{}", n + 1), "call": call}));
    let contents = contents.iter().map(|text| (sha256(text), Value::from(STANDARD.encode(text))));
    json!({
        "schema": "mvm.recording/v1", "program": "agent.py", "calls": placed.collect::<Vec<_>>(),
        "contents": contents.collect::<serde_json::Map<_, _>>(),
    })
}

fn sha256(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

fn refusal(recording: &Value) -> Refusal {
    lower(recording.to_string().as_bytes()).unwrap_err()
}

#[test]
fn every_call_has_its_place_in_the_workload() {
    let (hello, input) = (sha256("hello"), sha256("in"));
    let port =
        |guest_port: u16| json!({"guest_port": guest_port, "host_port": 0, "host": "127.0.0.1", "protocol": "tcp"});
    let made = recording(
        &[
            json!({"create": {"image": "base", "name": "agent", "cpus": 2, "memory_mib": 512, "env": {"A": "1"},
                "secrets": {"T": "env:T"}, "ports": [port(80)], "profile": "dev"}}),
            json!({"commands.run": {"argv": ["cat"], "stdin": input, "check": true, "timeout_ms": 5, "secrets": {"S": "file:/s"}}}),
            json!({"commands.start": {"argv": ["sleep", "1"], "cwd": "/tmp", "user": "nobody"}}),
            json!({"files.write": {"path": "/a", "content": hello, "mode": 420, "parents": true}}),
            json!({"files.mkdir": {"path": "/d"}}),
            json!({"files.move": {"source": "/a", "destination": "/b"}}),
            json!({"files.remove": {"path": "/d", "recursive": true}}),
            json!({"files.upload": {"guest_path": "/app", "entries": [
                {"path": "", "what": {"directory": {"mode": 493}}}, {"path": "x", "what": {"file": {"content": hello, "mode": 420}}},
                {"path": "y", "what": {"link": "x"}}]}}),
            json!({"ports.forward": port(81)}),
            json!({"snapshot": {"name": "ready"}}),
            json!({"detach": {"ttl_ms": 60_000, "on_expiry": "stop"}}),
            json!({"close": {}}),
        ],
        &["hello", "in"],
    );
    let lowered = lower(made.to_string().as_bytes()).unwrap();
    let content = |text: &str| json!({"sha256": sha256(text), "bytes": text.len()});
    let expected = json!({
        "schema": "mvm.workload/v1", "name": "agent", "image": {"named": "base"},
        "resources": {"cpus": 2, "memory_mib": 512}, "network": {"ports": [port(80)]}, "profile": "dev",
        "env": {"A": {"literal": "1"}, "T": {"secret": "env:T"}}, "ttl_ms": 60_000, "on_expiry": "stop",
        "steps": [
            {"commands.run": {"argv": ["cat"], "env": {"S": {"secret": "file:/s"}}, "timeout_ms": 5, "stdin": content("in"), "check": true}},
            {"commands.start": {"argv": ["sleep", "1"], "cwd": "/tmp", "user": "nobody"}},
            {"files.write": {"path": "/a", "content": content("hello"), "mode": 420, "parents": true}},
            {"files.mkdir": {"path": "/d"}}, {"files.move": {"source": "/a", "destination": "/b"}},
            {"files.remove": {"path": "/d", "recursive": true}},
            {"files.upload": {"guest_path": "/app", "entries": [
                {"path": "", "what": {"directory": {"mode": 493}}},
                {"path": "x", "what": {"file": {"content": content("hello"), "mode": 420}}}, {"path": "y", "what": {"link": "x"}}]}},
            {"ports.forward": port(81)}, {"snapshot": {"name": "ready"}},
        ],
    });
    let expected = read(expected.to_string().as_bytes()).unwrap();
    assert_eq!(lowered.workload, expected);
    assert_eq!(lowered.contents[&sha256("hello")], b"hello");
    // What is lowered reads well.
    assert_eq!(read(&canonical(&lowered.workload).unwrap()), Ok(expected));
}

#[test]
fn a_sandbox_without_a_name_is_called_as_its_program() {
    for (program, name) in [
        ("agent.py", Some("agent")),
        ("My Agent 2.test.ts", Some("my-agent-2")),
        ("__main__.py", Some("main")),
        ("", None),
        ("….py", None),
        ("mvm-x.py", None),
    ] {
        let mut made = recording(&[json!({"create": {}})], &[]);
        made["program"] = json!(program);
        let lowered = lower(made.to_string().as_bytes()).map(|lowered| lowered.workload.name);
        assert_eq!(lowered.as_deref().ok(), name, "{program}: {lowered:?}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_at_its_place() {
    let create = || json!({"create": {}});
    let run = |fields: Value| json!({"commands.run": fields});
    for (calls, pointer, why) in [
        (vec![], "/calls", "creates no sandbox"),
        (vec![run(json!({"argv": ["a"]}))], "/calls/0/call/commands.run", "agent.py:1: no sandbox was created"),
        (vec![create(), create()], "/calls/1/call/create", "agent.py:2: a workload is one sandbox"),
        (vec![create(), json!({"kill": {}}), json!({"snapshot": {}})], "/calls/2/call/snapshot", "ended before"),
        (
            vec![create(), json!({"keep": {"ttl_ms": 1}}), run(json!({"argv": []}))],
            "/calls/2/call/commands.run/argv",
            "agent.py:3: a command has a program",
        ),
        (vec![json!({"create": {"cpus": 0}})], "/calls/0/call/create/resources/cpus", "agent.py:1: it is above zero"),
        (vec![create(), run(json!({"argv": ["a"], "stdin": "ab"}))], "/calls/1/call/commands.run/stdin", "not there"),
        (
            vec![json!({"create": {"env": {"T": "1"}, "secrets": {"T": "env:T"}}})],
            "/calls/0/call/create/secrets/T",
            "also a variable",
        ),
        (
            vec![create(), json!({"files.mkdir": {"path": "/tmp/../etc"}})],
            "/calls/1/call/files.mkdir/path",
            "agent.py:2: one of its parts",
        ),
        (vec![create(), json!({"files.read": {"path": "/a"}})], "/calls/1/call", "none of"),
        (vec![create(), run(json!({"argv": ["a"], "cdw": "/"}))], "/calls/1/call/commands.run/cdw", "unknown field"),
    ] {
        let refusal = refusal(&recording(&calls, &[]));
        assert_eq!(refusal.pointer, pointer, "{refusal}");
        assert!(refusal.why.contains(why), "{refusal}");
    }
}

#[test]
fn trees_have_what_they_are_in_before_them() {
    let directory = |path: &str| json!({"path": path, "what": {"directory": {"mode": 493}}});
    let link = |path: &str, target: &str| json!({"path": path, "what": {"link": target}});
    for (entries, at, why) in [
        (vec![], "", "nothing in it"),
        (vec![directory("a")], "/0", "the first is"),
        (vec![link("", "/etc")], "/0", "the first is"),
        (vec![directory(""), directory("a/b")], "/1/path", "does not come before"),
        (vec![directory(""), link("a", "/etc"), directory("a/b")], "/2/path", "does not come before"),
        (vec![directory(""), directory("a"), link("a", "b")], "/2/path", "twice"),
        (vec![directory(""), directory("../a")], "/1/path", ".."),
        (vec![directory(""), directory("/a")], "/1/path", "empty"),
        (vec![directory(""), link("a", "")], "/1/what/link", "1 to 4095"),
    ] {
        let upload = json!({"files.upload": {"guest_path": "/app", "entries": entries}});
        let refusal = refusal(&recording(&[json!({"create": {}}), upload], &[]));
        assert_eq!(refusal.pointer, format!("/calls/1/call/files.upload/entries{at}"), "{refusal}");
        assert!(refusal.why.contains(why), "{refusal}");
    }
}

#[test]
fn contents_are_what_their_digests_say_and_each_is_named() {
    let write = json!({"files.write": {"path": "/a", "content": sha256("hello")}});
    let whole = recording(&[json!({"create": {}}), write], &["hello"]);
    assert!(lower(whole.to_string().as_bytes()).is_ok());
    let with = |digest: String, text: Value| {
        let mut changed = whole.clone();
        changed["contents"][digest] = text;
        refusal(&changed).why
    };
    assert!(with(sha256("hello"), json!(STANDARD.encode("hallo"))).contains("another SHA-256"));
    assert!(with(sha256("hello"), json!("???")).contains("no base64"));
    assert!(with(sha256("more"), json!(STANDARD.encode("more"))).contains("no call names it"));
    let mut other = whole.clone();
    other["schema"] = json!("mvm.recording/v2");
    assert_eq!(refusal(&other).fault, Fault::Version);
}

proptest! {
    #[test]
    fn whatever_is_lowered_reads_well(text in ".{0,40}", path in "(/[a-z.]{1,3}){1,3}", mode in 0u32..5000, cut in 0usize..400) {
        let calls = [
            json!({"create": {"env": {"A": text}, "profile": text}}),
            json!({"files.write": {"path": path, "content": sha256(&text), "mode": mode}}),
            json!({"commands.run": {"argv": [text], "env": {text.clone(): "1"}}}),
        ];
        let made = recording(&calls, &[&text]).to_string();
        if let Ok(lowered) = lower(made.as_bytes()) {
            prop_assert_eq!(read(&canonical(&lowered.workload).unwrap()), Ok(lowered.workload));
        }
        prop_assert!(lower(&made.as_bytes()[..cut.min(made.len() - 1)]).is_err());
    }
}
