//! What admission says to workloads, through the command line.

mod common;

use std::io::Write;
use std::process::Stdio;

use common::{Ran, command, home};
use serde_json::{Value, json as object};

fn workload(fields: Value) -> Value {
    let mut document = object!({"schema": "mvm.workload/v1", "name": "web"});
    document.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    document
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

/// Plans what is on standard input.
fn plan(document: &Value, args: &[&str]) -> Ran {
    let mut tool = command(home());
    tool.args(["plan", "-"]).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = tool.spawn().unwrap();
    child.stdin.take().unwrap().write_all(document.to_string().as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn every_part_is_decided_about_by_its_rules() {
    let content = object!({"sha256": "ab".repeat(32), "bytes": 3});
    let ran = plan(
        &workload(object!({
            "files": [{"path": "/a", "content": content}],
            "source": {"files": []},
            "entrypoint": {"command": ["true"]},
            "steps": [{"commands.run": {"argv": ["true"], "timeout_ms": 5000}}, {"files.mkdir": {"path": "/d"}},
                {"ports.forward": {"guest_port": 80, "host_port": 0}}, {"snapshot": {}}],
        })),
        &["--json"],
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let plan = json(&ran);
    assert_eq!((&plan["schema"], &plan["allowed"]), (&object!("mvm.workload-plan/v1"), &object!(true)));
    let decided: Vec<(&str, &str)> = plan["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|decision| (decision["pointer"].as_str().unwrap(), decision["plan"]["operation"].as_str().unwrap()))
        .collect();
    assert_eq!(
        decided,
        [
            ("", "up"),
            ("/files", "files.in"),
            ("/source", "files.in"),
            ("/entrypoint", "exec"),
            ("/steps/0", "exec"),
            ("/steps/1", "files.in"),
            ("/steps/2", "port"),
            ("/steps/3", "snapshot"),
        ]
    );
    assert_eq!(plan["decisions"][4]["plan"]["enforced"]["timeout_ms"], 5000);
}

#[test]
fn a_refusal_names_the_part_and_the_rule() {
    for (fields, pointer, rule) in [
        (object!({"network": {"egress": [{"host": "example.org", "port": 443}]}}), "", "network.none"),
        (object!({"mounts": [{"host_path": "/etc", "guest_path": "/etc"}]}), "", "directories.host"),
        (object!({"profile": "restrictive", "env": {"A": {"literal": "1"}}}), "", "env.variables"),
        (object!({"profile": "restrictive", "resources": {"memory_mib": 4096}}), "", "limits.memory"),
        (
            object!({"profile": "restrictive", "steps": [{"commands.run": {"argv": ["a"], "user": "0"}}]}),
            "/steps/0",
            "user.unprivileged",
        ),
        (
            object!({"profile": "restrictive", "steps": [{"ports.forward": {"guest_port": 1, "host_port": 0}}]}),
            "/steps/0",
            "ports.forward",
        ),
    ] {
        let ran = plan(&workload(fields.clone()), &["--json"]);
        assert_eq!(ran.code, 126, "{fields}: {}", ran.stderr);
        let plan = json(&ran);
        assert_eq!(plan["allowed"], false);
        let refused: Vec<(&Value, &Value)> = plan["decisions"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|decision| {
                let denials = decision["plan"]["denials"].as_array().unwrap();
                denials.iter().map(move |denial| (&decision["pointer"], &denial["rule"]))
            })
            .collect();
        assert_eq!(refused, [(&object!(pointer), &object!(rule))], "{fields}");
    }
    let shown = plan(&workload(object!({"mounts": [{"host_path": "/etc", "guest_path": "/etc"}]})), &[]);
    assert_eq!(shown.code, 126);
    assert!(shown.stdout.contains("  refused by directories.host: "), "{}", shown.stdout);
    assert!(shown.stdout.ends_with("refused\n"));
}

#[test]
fn a_credential_among_the_literals_is_warned_of_and_not_shown() {
    const TOKEN: &str = "ghp_0123456789abcdefghijABCDEFGHIJ012345";
    let document = workload(object!({
        "env": {"A": {"literal": TOKEN}},
        "entrypoint": {"command": ["x", format!("--token={TOKEN}")]},
        "steps": [{"commands.run": {"argv": ["x", TOKEN], "env": {"B": {"literal": TOKEN}}}}],
    }));
    for args in [&["--json"][..], &[]] {
        let ran = plan(&document, args);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(!ran.stdout.contains("0123456789abc") && ran.stderr.is_empty(), "{}{}", ran.stdout, ran.stderr);
        for pointer in
            ["/env/A", "/entrypoint/command/1", "/steps/0/commands.run/argv/1", "/steps/0/commands.run/env/B"]
        {
            assert!(ran.stdout.contains(pointer), "{pointer}: {}", ran.stdout);
        }
    }
}

#[test]
fn bad_documents_are_refused_with_their_place() {
    let code = |document: &Value, code: i32, kind: &str, text: &str| {
        let ran = plan(document, &["--json"]);
        assert_eq!(ran.code, code, "{}", ran.stdout);
        let said = json(&ran);
        assert_eq!(said["error"]["code"], kind);
        assert!(said["error"]["why"].as_str().unwrap().contains(text), "{said}");
    };
    code(&object!({"schema": "mvm.workload/v2"}), 125, "Incompatible", "mvm.workload/v1");
    code(&object!([]), 125, "InvalidRequest", "no object");
    code(&workload(object!({"profile": "nobodys"})), 125, "NotFound", "");
    code(&workload(object!({"files": [{"path": "/a/../b"}]})), 125, "InvalidRequest", "at /files/0");
    let ran: Ran = command(home()).args(["plan", "/nowhere/workload.json"]).output().unwrap().into();
    assert_eq!(ran.code, 125);
    assert!(ran.stderr.contains("cannot read the workload /nowhere/workload.json"), "{}", ran.stderr);
}
