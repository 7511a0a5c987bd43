//! Documents that the tests share.

use serde_json::{Value, json};

/// A document with these fields besides what each has.
pub fn with(fields: Value) -> Value {
    let mut document = json!({"schema": "mvm.workload/v1", "name": "web"});
    document.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    document
}

/// One with everything in it.
pub fn everything() -> Value {
    let content = json!({"sha256": "ab".repeat(32), "bytes": 3});
    with(json!({
        "image": {"debian": {"packages": ["nodejs", "libstdc++6"]}},
        "resources": {"cpus": 2, "memory_mib": 512, "disk_mib": 8192},
        "network": {"mode": "deny", "ports": [{"guest_port": 80, "host_port": 8080}], "egress": [{"host": "example.org", "port": 443}]},
        "mounts": [{"host_path": "/srv", "guest_path": "/srv"}],
        "env": {"LANG": {"literal": "C"}, "TOKEN": {"secret": "env:TOKEN"}},
        "files": [{"path": "/etc/a", "content": content}],
        "source": {"include": ["**/*.py"], "files": [{"path": "app/main.py", "content": content, "executable": true}]},
        "profile": "dev", "ttl_ms": 60_000, "on_expiry": "stop",
        "entrypoint": {"function": {"language": "python", "module": "app.main", "function": "serve"}},
        "steps": [
            {"commands.run": {"argv": ["true"], "check": true}}, {"commands.start": {"argv": ["sleep", "1"]}},
            {"files.write": {"path": "/a", "content": content, "mode": 420}}, {"files.mkdir": {"path": "/d", "parents": true}},
            {"files.move": {"source": "/a", "destination": "/b"}}, {"files.remove": {"path": "/d", "recursive": true}},
            {"files.upload": {"guest_path": "/c", "entries": [{"path": "", "what": {"directory": {"mode": 493}}},
                {"path": "a", "what": {"file": {"content": content, "mode": 420}}}, {"path": "b", "what": {"link": "a"}}]}},
            {"ports.forward": {"guest_port": 81, "host_port": 0}}, {"snapshot": {"name": "ready"}},
        ],
    }))
}

/// Pointers to all that is in a document, and to itself.
pub fn pointers(document: &Value) -> Vec<String> {
    let mut all = Vec::new();
    collect(document, String::new(), &mut all);
    all
}

fn collect(value: &Value, here: String, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| collect(value, format!("{here}/{}", mvm_ir::escaped(name)), all));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| collect(value, format!("{here}/{index}"), all));
        }
        _ => {}
    }
    all.push(here);
}
