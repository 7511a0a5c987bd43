//! A profile from anybody: its text is a profile or an error, and what it comes to can be written down, read back as the
//! same, and decided by.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mvm_runtime::policy::{self, Ask, Operation, Profile};
use mvm_wire::api::Machine;
use serde_json::Value;

/// A text that says everything the profile says. JSON's values are TOML's too.
fn written(profile: &Profile) -> String {
    let Ok(Value::Object(sections)) = serde_json::to_value(profile) else { unreachable!("a profile has sections") };
    let mut lines = Vec::new();
    for (section, value) in sections.iter().filter(|(section, _)| *section != "name") {
        match value {
            Value::Object(fields) => {
                lines
                    .extend(fields.iter().map(|(field, value)| format!("{section}.{field} = {}", spelt(field, value))));
            }
            value if ["env", "secrets", "ports"].contains(&section.as_str()) => {
                lines.push(format!("{section}.allow = {}", spelt("allow", value)));
            }
            value => lines.push(format!("{section} = {}", spelt(section, value))),
        }
    }
    lines.join("\n")
}

fn spelt(field: &str, value: &Value) -> String {
    match (field, value) {
        (_, Value::Null) => "\"none\"".to_owned(),
        ("time" | "ttl", ms) => format!("\"{ms}ms\""),
        // Beyond what a number of TOML holds.
        ("memory" | "disk" | "output" | "scratch", bytes) => format!("\"{bytes}\""),
        // The one character that JSON lets stand and TOML does not.
        (_, value) => value.to_string().replace('\u{7f}', "\\u007f"),
    }
}

/// Whether a terminal shows the text and does nothing else.
fn harmless(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t')
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let profile = match policy::parse("mine", "a text", text) {
        Ok(profile) => profile,
        Err(error) => {
            assert!(harmless(&error.to_string()) && harmless(&error.hint), "{error:?}");
            return;
        }
    };
    let again = written(&profile);
    assert_eq!(policy::parse("mine", "a text", &again).as_ref(), Ok(&profile), "{again}");
    let machine = Some(Machine { cpus: 1, memory_mib: 256, disk_bytes: 4 << 30 });
    let ask = Ask { env: vec!["LANG"], machine, ttl_ms: Some(None), ..Ask::default() };
    for operation in [Operation::Run, Operation::Up, Operation::Exec, Operation::Snapshot, Operation::FilesOut] {
        let plan = policy::admit(operation, &ask, &profile);
        assert!(plan.allowed == plan.denials.is_empty() && plan.profile == "mine");
        assert!(plan.lines.iter().all(|line| policy::find(&line.rule).is_some() && harmless(&line.effect)), "{plan:?}");
        assert!(plan.denials.iter().all(|denial| harmless(&denial.reason) && harmless(&denial.remedy)), "{plan:?}");
    }
});
