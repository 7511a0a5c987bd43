//! Reading workloads: what is taken, what is refused and where, and that one workload has one digest.

mod common;

use common::{everything, pointers, with};
use mvm_ir::{Fault, canonical, digest, json_schema, read};
use proptest::prelude::*;
use serde_json::{Value, json};

fn refusal(document: &Value) -> (String, String) {
    let refusal = read(document.to_string().as_bytes()).unwrap_err();
    assert_eq!(refusal.fault, Fault::Invalid);
    (refusal.pointer, refusal.why)
}

#[test]
fn what_is_left_out_is_written_out_and_the_digest_is_the_same() {
    for document in [with(json!({})), everything()] {
        let workload = read(document.to_string().as_bytes()).unwrap();
        let text = canonical(&workload).unwrap();
        let again = read(&text).unwrap();
        assert_eq!(again, workload);
        assert_eq!(canonical(&again).unwrap(), text);
        assert_eq!(digest(&again), digest(&workload));
    }
    let spelt = |document: Value| digest(&read(document.to_string().as_bytes()).unwrap()).unwrap();
    let default = spelt(with(json!({})));
    assert_eq!(
        spelt(with(json!({"profile": "standard", "env": {}, "ttl_ms": null, "resources": {"cpus": 1}}))),
        default
    );
    assert_ne!(spelt(with(json!({"profile": "dev"}))), default);
    // It is in other people's reviews: it changes with the version of the document, and with nothing else.
    assert_eq!(default, "sha256:6e0b4b99e23e73a0502ae03dc2bf237b778a11e397625d9336e207bd030c414f");
}

#[test]
fn other_versions_are_incompatible_and_other_documents_invalid() {
    let fault = |text: &str| read(text.as_bytes()).map_err(|refusal| (refusal.fault, refusal.pointer)).unwrap_err();
    let schema = || "/schema".to_owned();
    assert_eq!(fault(r#"{"schema": "mvm.workload/v2", "what": "is new"}"#), (Fault::Version, schema()));
    for text in [r#"{"schema": "mvm.plan/v1"}"#, r#"{"schema": 1}"#, r#"{"name": "x"}"#, "{}"] {
        assert_eq!(fault(text), (Fault::Invalid, schema()), "{text}");
    }
    for text in ["", "[]", "null", "{", "{} {}", "\u{feff}{}", "nothing"] {
        assert_eq!(fault(text).0, Fault::Invalid, "{text}");
    }
    assert_eq!(fault(&"[".repeat(1 << 20)).0, Fault::Invalid);
    assert!(read(&vec![b' '; mvm_ir::MAX_BYTES + 1]).unwrap_err().why.contains("larger than"));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let content = json!({"sha256": "ab".repeat(32), "bytes": 3});
    let file = |path: &str| json!({"path": path, "content": content});
    for (fields, pointer, why) in [
        (json!({"nmae": "x"}), "/nmae", "unknown field"),
        (json!({"name": "-x"}), "/name", "hyphens"),
        (json!({"name": "mvm-x"}), "/name", "begin with mvm-"),
        (json!({"resources": {"cpus": 0}}), "/resources/cpus", "above zero"),
        (json!({"resources": [1, 2, 3]}), "/resources", "another type"),
        (json!({"resources": {"cpus": 1.5}}), "/resources/cpus", "belongs here"),
        (json!({"image": {"debian": {"packages": ["--force"]}}}), "/image/debian/packages/0", "no name of a package"),
        (json!({"image": {"debian": {"packages": ["ab", "ab"]}}}), "/image/debian/packages/1", "twice"),
        (json!({"network": {"mode": "allow"}}), "/network/mode", "none of"),
        (json!({"network": {"ports": [{"guest_port": 0, "host_port": 1}]}}), "/network/ports/0/guest_port", "1 to"),
        (json!({"env": {"A/B": {"secret": "hunter2"}}}), "/env/A~1B/secret", "env:VAR or file:PATH"),
        (json!({"env": {"": {"literal": "1"}}}), "/env", "empty"),
        (json!({"env": {"A": "1"}}), "/env/A", ""),
        (json!({"files": [file("/a"), file("/a")]}), "/files/1/path", "/files/0/path"),
        (json!({"files": [file("/a/b"), file("/a")]}), "/files/0/path", "beneath a file"),
        (json!({"files": [file("/../etc/passwd")]}), "/files/0/path", ".."),
        (json!({"files": [file("etc")]}), "/files/0/path", "absolute"),
        (
            json!({"files": [{"path": "/a", "content": {"sha256": "AB", "bytes": 1}}]}),
            "/files/0/content/sha256",
            "SHA-256",
        ),
        (json!({"files": vec![file("/a"); 100_000]}), "/files", "more than"),
        (json!({"source": {"files": [file("/a")]}}), "/source/files/0/path", "empty"),
        (json!({"ttl_ms": 0}), "/ttl_ms", "above zero"),
        (json!({"entrypoint": {"command": []}}), "/entrypoint/command", "a program"),
        (
            json!({"entrypoint": {"function": {"language": "python", "module": "a", "function": "f"}}}),
            "/entrypoint/function",
            "source",
        ),
        (
            json!({"steps": [{"commands.run": {"argv": ["a"], "cdw": "/"}}]}),
            "/steps/0/commands.run/cdw",
            "unknown field",
        ),
        (
            json!({"steps": [{"commands.start": {"argv": ["a"], "check": true}}]}),
            "/steps/0/commands.start/check",
            "nobody",
        ),
        (json!({"steps": [{"files.remove": {"path": "/"}}]}), "/steps/0/files.remove/path", "empty"),
        (json!({"steps": [{"files.read": {"path": "/a"}}]}), "/steps/0", "none of"),
    ] {
        let (at, said) = refusal(&with(fields.clone()));
        assert_eq!(at, pointer, "{said}");
        assert!(said.contains(why), "{fields}: {said}");
    }
}

#[test]
fn names_are_there_once_and_values_are_in_no_refusal() {
    for text in [
        r#"{"schema": "mvm.workload/v1", "name": "a", "name": "b"}"#,
        r#"{"schema": "mvm.workload/v1", "name": "a", "env": {"A": {"literal": "1"}, "A": {"literal": "2"}}}"#,
        r#"{"schema": "mvm.workload/v1", "name": "a", "env": {"A": {"literal": "1", "secret": "env:A"}}}"#,
    ] {
        assert!(read(text.as_bytes()).is_err(), "{text}");
    }
    for fields in [
        json!({"env": {"A": {"secret": "hunter2hunter2"}}}),
        json!({"env": {"A": "hunter2hunter2"}}),
        json!({"ttl_ms": "hunter2hunter2"}),
        json!({"resources": {"cpus": "hunter2hunter2"}}),
        json!({"resources": "hunter2hunter2"}),
    ] {
        let (_, why) = refusal(&with(fields));
        assert!(!why.contains("hunter2"), "{why}");
    }
}

#[test]
fn the_schema_has_every_field_and_refuses_others() {
    let schema = json_schema();
    let document = serde_json::to_value(read(everything().to_string().as_bytes()).unwrap()).unwrap();
    let named: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(named, document.as_object().unwrap().keys().collect::<Vec<_>>());
    assert_eq!(schema["additionalProperties"], false);
    assert!(!schema.to_string().contains("#/components/"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = read(&bytes);
    }

    /// Whatever value stands in whatever place: what is taken has a canonical form that is taken again, with its digest.
    #[test]
    fn what_is_taken_is_taken_again(place in 0..200usize, value in prop_oneof![
        Just(json!(null)), Just(json!([])), Just(json!({})), Just(json!(0)), Just(json!(u64::MAX)), Just(json!(-1)), Just(json!(0.5)),
        Just(json!("")), Just(json!("/a")), Just(json!("../a")), Just(json!("\0")), Just(json!("a")), Just(json!([[]])),
    ]) {
        let mut document = everything();
        let places = pointers(&document);
        let at = &places[place % places.len()];
        *document.pointer_mut(at).unwrap() = value;
        if let Ok(workload) = read(document.to_string().as_bytes()) {
            let text = canonical(&workload).unwrap();
            prop_assert_eq!(read(&text).unwrap(), workload);
        }
    }
}
