//! Comparing workloads: what is a change, where it is, and how it is said.

mod common;

use common::{everything, pointers, with};
use mvm_ir::{Change, ChangeKind, Workload, canonical, diff, read};
use proptest::prelude::*;
use serde_json::{Value, json};

fn workload(document: &Value) -> Workload {
    read(document.to_string().as_bytes()).unwrap()
}

/// Place and words of each change between two documents with these fields.
fn said(before: Value, after: Value) -> Vec<(String, String)> {
    let changes = diff(&workload(&with(before)), &workload(&with(after)));
    changes.iter().map(|change| (change.place(), change.words())).collect()
}

/// What is changed in a document that has one field twice, with the older and with the newer value.
fn changed(name: &str, before: Value, after: Value) -> Vec<(String, String)> {
    said(json!({name: before}), json!({name: after}))
}

fn lines(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(place, words)| ((*place).to_owned(), (*words).to_owned())).collect()
}

fn run(argv: &[&str]) -> Value {
    json!({"commands.run": {"argv": argv}})
}

fn file(path: &str, digit: &str, bytes: u64) -> Value {
    json!({"path": path, "content": {"sha256": digit.repeat(64), "bytes": bytes}})
}

#[test]
fn defaults_and_the_order_of_things_are_no_change() {
    let spelt = json!({"profile": "standard", "ttl_ms": null, "resources": {"cpus": 1}, "env": {}});
    assert_eq!(said(json!({}), spelt), []);
    let fields = |reversed: bool| {
        let list = |mut items: Vec<Value>| {
            if reversed {
                items.reverse();
            }
            Value::Array(items)
        };
        let port = |host: &str, host_port| json!({"guest_port": 80, "host_port": host_port, "host": host});
        json!({
            "files": list(vec![file("/a", "a", 1), file("/b", "b", 2)]),
            "source": {"files": list(vec![file("a", "a", 1), file("b", "b", 2)])},
            "mounts": list(vec![json!({"host_path": "/x", "guest_path": "/a"}), json!({"host_path": "/x", "guest_path": "/b"})]),
            "network": {
                "ports": list(vec![port("127.0.0.1", 8080), port("127.0.0.2", 0)]),
                "egress": list(vec![json!({"host": "a", "port": 1}), json!({"host": "a", "port": 2})]),
            },
            "image": {"debian": {"packages": list(vec!["curl".into(), "git".into()])}},
        })
    };
    assert_eq!(said(fields(false), fields(true)), []);
}

#[test]
fn things_are_told_apart_by_what_they_are_and_not_by_where_they_stand() {
    let files = json!([file("/b", "c", 12), file("/c", "c", 1)]);
    assert_eq!(
        changed("files", json!([file("/a", "a", 1), file("/b", "b", 2)]), files),
        lines(&[
            ("/files/0", "removed: content aaaaaaaaaaaa (1 B), mode 0o644, path /a"),
            ("/files/0/content", "path /b: bbbbbbbbbbbb (2 B) → cccccccccccc (12 B)"),
            ("/files/1", "added: content cccccccccccc (1 B), mode 0o644, path /c"),
        ])
    );
    let port = |guest: u16, host: u16| json!({"guest_port": guest, "host_port": host});
    assert_eq!(
        changed("network", json!({"ports": [port(80, 0), port(81, 0)]}), json!({"ports": [port(81, 8081)]})),
        lines(&[
            ("/network/ports/0", "removed: guest_port 80, host 127.0.0.1, host_port 0, protocol tcp"),
            ("/network/ports/0/host_port", "guest_port 81: 0 → 8081"),
        ])
    );
    // Two ports of the host that lead to one of the sandbox.
    assert_eq!(
        changed("network", json!({"ports": [port(80, 1), port(80, 2)]}), json!({"ports": [port(80, 1)]})),
        lines(&[("/network/ports/1", "removed: guest_port 80, host 127.0.0.1, host_port 2, protocol tcp")])
    );
    let packages = |names: &[&str]| json!({"debian": {"packages": names}});
    assert_eq!(
        changed("image", packages(&["curl", "git"]), packages(&["git", "nodejs"])),
        lines(&[("/image/debian/packages/0", "removed: curl"), ("/image/debian/packages/1", "added: nodejs")])
    );
    assert_eq!(
        changed(
            "mounts",
            json!([{"host_path": "/x", "guest_path": "/a"}]),
            json!([{"host_path": "/y", "guest_path": "/a", "writable": true}])
        ),
        lines(&[
            ("/mounts/0/host_path", "guest_path /a: /x → /y"),
            ("/mounts/0/writable", "guest_path /a: false → true"),
        ])
    );
}

#[test]
fn a_choice_is_one_change_and_names_are_names() {
    let env = json!({"files": {"literal": ""}, "mode": {"secret": "env:MODE"}});
    assert_eq!(
        changed("env", json!({"env": {"literal": "1"}, "mode": {"literal": "0"}}), env),
        lines(&[
            ("/env/env", "removed: literal 1"),
            ("/env/files", r#"added: literal """#),
            ("/env/mode", "literal 0 → secret env:MODE"),
        ])
    );
    assert_eq!(
        changed("image", json!({"named": "base"}), json!({"debian": {"packages": []}})),
        lines(&[("/image", "named base → debian {packages []}")])
    );
    assert_eq!(
        said(json!({"ttl_ms": 1000}), json!({"entrypoint": {"command": ["echo", "a b"]}})),
        lines(&[("/entrypoint", r#"added: command [echo, "a b"]"#), ("/ttl_ms", "removed: 1000")])
    );
}

#[test]
fn a_step_that_is_put_in_between_is_one_step_more() {
    let (a, b, c) = (run(&["mkdir", "/a"]), run(&["touch", "/b"]), json!({"snapshot": {}}));
    let new = run(&["apt-get", "update"]);
    let added = lines(&[("/steps/1", "added: commands.run {argv [apt-get, update]}")]);
    assert_eq!(changed("steps", json!([a, b, c]), json!([a, new, b, c])), added);
    // One that has changed besides is known by its program, its path or its kind.
    let other = run(&["touch", "/c"]);
    assert_eq!(
        changed("steps", json!([a, b, c]), json!([a, new, other, {"snapshot": {"name": "x"}}])),
        lines(&[
            ("/steps/1", "added: commands.run {argv [apt-get, update]}"),
            ("/steps/2/commands.run/argv/1", "/b → /c"),
            ("/steps/3/snapshot/name", "added: x"),
        ])
    );
    assert_eq!(
        changed("steps", json!([a, c]), json!([c, a])),
        lines(&[
            ("/steps/0", "removed: commands.run {argv [mkdir, /a]}"),
            ("/steps/1", "added: commands.run {argv [mkdir, /a]}"),
        ])
    );
    assert_eq!(
        changed("steps", json!([a]), json!([{"files.mkdir": {"path": "/a"}}])),
        lines(&[
            ("/steps/0", "removed: commands.run {argv [mkdir, /a]}"),
            ("/steps/0", "added: files.mkdir {path /a}"),
        ])
    );
}

#[test]
fn the_largest_lists_are_compared() {
    let steps = |letter: &str| (0..1000).map(|n| run(&[letter, &n.to_string()])).collect::<Vec<_>>();
    assert_eq!(changed("steps", json!(steps("a")), json!(steps("b"))).len(), 1000);
    let files = |n: u32| (n..n + 20_000).map(|n| file(&format!("/{n}"), "a", 1)).collect::<Vec<_>>();
    assert_eq!(changed("files", json!(files(0)), json!(files(10_000))).len(), 20_000);
}

#[test]
fn what_is_long_does_not_hide_where_it_differs() {
    let long = |end: &str| json!({"command": [format!("{}{end}", "x".repeat(1000))]});
    let [(_, words)] = &changed("entrypoint", long("evil"), long("good"))[..] else { panic!() };
    assert_eq!(*words, format!("…{0}evil → …{0}good", "x".repeat(20)));
    let [(_, words)] = &said(json!({}), json!({"entrypoint": long("")}))[..] else { panic!() };
    assert!(words.starts_with("added: command [xxx") && words.ends_with("xxx…"), "{words}");
}

#[test]
fn a_change_is_an_object_with_what_was_and_what_is() {
    let changes = diff(&workload(&with(json!({"ttl_ms": 5}))), &workload(&with(json!({"profile": "dev"}))));
    assert_eq!(
        json!(changes),
        json!([
            {"pointer": "/profile", "change": "changed", "before": "standard", "after": "dev"},
            {"pointer": "/ttl_ms", "change": "removed", "before": 5},
        ])
    );
}

/// Other values, one of which makes sense in its place.
fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::Null => vec![json!(1), json!("x"), json!({"sha256": "c".repeat(64), "bytes": 1})],
        Value::Bool(value) => vec![json!(!value)],
        Value::Number(number) => vec![json!(number.as_u64().unwrap() + 1)],
        Value::String(text) => {
            let more = format!("{text}x");
            [&more, "c".repeat(64).as_str(), "127.0.0.2", "cold", "typescript"].map(|text| json!(text)).to_vec()
        }
        Value::Array(_) | Value::Object(_) => vec![],
    }
}

/// Where a change of what is at a place is: there, unless it makes another thing of it, or is of a content, which is a whole.
fn place_of_change(at: &str) -> &str {
    let told_apart_by: [(&str, &[&str]); 5] = [
        ("/files/0", &["path"]),
        ("/source/files/0", &["path"]),
        ("/mounts/0", &["guest_path"]),
        ("/network/ports/0", &["guest_port", "host", "protocol"]),
        ("/network/egress/0", &["host", "port"]),
    ];
    let (above, name) = at.rsplit_once('/').unwrap_or_default();
    let is_identity = told_apart_by.iter().any(|(thing, by)| *thing == above && by.contains(&name));
    if is_identity || above.ends_with("/content") { above } else { at }
}

fn canonical_everything() -> Value {
    serde_json::from_slice(&canonical(&workload(&everything())).unwrap()).unwrap()
}

/// Puts a value into the document that has everything, and holds every change to be there. False if it is refused there.
fn is_found(at: &str, value: Value) -> bool {
    let mut document = canonical_everything();
    let before = workload(&document);
    *document.pointer_mut(at).unwrap() = value;
    let Ok(after) = read(document.to_string().as_bytes()) else { return false };
    let changes = diff(&before, &after);
    assert_eq!(changes.is_empty(), before == after, "{at}");
    let place = place_of_change(at);
    let is_there = |change: &Change| {
        change.pointer.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    assert!(changes.iter().all(is_there), "{at}: {changes:?}");
    true
}

#[test]
fn every_field_is_compared() {
    let document = canonical_everything();
    let values = |at: &String| others(document.pointer(at).unwrap());
    let unfound: Vec<String> = pointers(&document)
        .into_iter()
        .filter(|at| !values(at).is_empty() && !values(at).into_iter().any(|value| is_found(at, value)))
        .collect();
    // What has one value only.
    let single = [
        "/network/mode",
        "/network/ports/0/protocol",
        "/schema",
        "/steps/1/commands.start/check",
        "/steps/6/files.upload/entries/0/path",
        "/steps/7/ports.forward/protocol",
    ];
    assert_eq!(unfound, single);
}

fn step() -> impl Strategy<Value = Value> {
    prop_oneof![
        ("[ab]", "[ab]").prop_map(|(program, argument)| run(&[&program, &argument])),
        "/[ab]".prop_map(|path| json!({"files.mkdir": {"path": path}})),
        Just(json!({"snapshot": {}})),
    ]
}

proptest! {
    #[test]
    fn any_value_anywhere_is_found_there(place: prop::sample::Index, value in prop_oneof![
        Just(json!(null)), Just(json!([])), Just(json!({})), Just(json!(0)), Just(json!(7)), Just(json!(true)), Just(json!("")),
        Just(json!("/x")), Just(json!("x")), Just(json!("base")), Just(json!({"named": "x"})), Just(json!({"literal": "x"})),
        Just(json!({"sha256": "c".repeat(64), "bytes": 3})), Just(json!(["x"])), Just(json!({"command": ["x"]})),
    ]) {
        let places = pointers(&canonical_everything());
        is_found(&places[place.index(places.len())], value);
    }

    #[test]
    fn nothing_changes_between_one_and_itself(steps in prop::collection::vec(step(), 0..12)) {
        let same = workload(&with(json!({"steps": steps})));
        prop_assert_eq!(diff(&same, &same), []);
    }

    /// Whatever stands around it, twice or not.
    #[test]
    fn one_step_more_or_less_is_one_change(steps in prop::collection::vec(step(), 0..12), new in step(), at: prop::sample::Index) {
        let mut longer = steps.clone();
        longer.insert(at.index(steps.len() + 1), new.clone());
        let [shorter, longer] = [steps, longer].map(|steps| workload(&with(json!({"steps": steps}))));
        let kinds = |changes: Vec<Change>| changes.iter().map(|change| change.change).collect::<Vec<_>>();
        prop_assert_eq!(kinds(diff(&shorter, &longer)), [ChangeKind::Added]);
        prop_assert_eq!(kinds(diff(&longer, &shorter)), [ChangeKind::Removed]);
    }

    #[test]
    fn words_are_printable_and_bounded(name in "[^=\0]{1,300}", old: String, new in "[^\0]{0,300}") {
        let env = |value: String| json!({name.clone(): {"literal": value.replace('\0', "")}});
        for (place, words) in changed("env", env(old), env(new)) {
            for text in [place, words] {
                prop_assert!(!text.chars().any(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)), "{text:?}");
                prop_assert!(text.chars().count() < 400, "{text}");
            }
        }
    }
}
