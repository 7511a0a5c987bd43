//! Workload IR: one JSON document that says what a workload is, for people to review and machines to run.
//!
//! Pure: it reads bytes and gives values, and touches no file, no clock and no network. A document is read strictly; whatever
//! is left out has its default, and [`canonical`] writes it out, so that two spellings of one workload have one [`digest`],
//! and [`diff`] says what changed between two.
//!
//! # Versions
//!
//! `schema` names the version. Within `mvm.workload/v1` no field is removed, renamed or given another meaning, and none is
//! added: a reader refuses what it does not know, because it could not hold it. Anything new is another version, which readers
//! of this one refuse as incompatible.

#![deny(unsafe_code)]

mod align;
mod check;
pub mod declare;
mod diff;
mod model;
mod read;
mod recording;
mod words;

use mvm_evidence::{Digest, canonical as rfc8785};
use utoipa::{PartialSchema, ToSchema};

pub use diff::{Change, ChangeKind, diff};
pub use model::{
    Command, Content, Egress, Entrypoint, EntrypointFunction, File, Image, MakeDirectory, Mount, Move, Network,
    NetworkMode, Port, Remove, Resources, SCHEMA, SnapshotStep, Source, SourceFile, Step, Upload, UploadDirectory,
    UploadEntry, UploadFile, UploadKind, Variable, Workload, WriteFile,
};
pub use read::{Fault, MAX_BYTES, Refusal, escaped, read};
pub use recording::{Lowered, MAX_RECORDING_BYTES, RECORDING_SCHEMA, lower};

/// The document as RFC 8785 writes it, with every default in it.
pub fn canonical(workload: &Workload) -> Result<Vec<u8>, Refusal> {
    rfc8785::to_vec(workload).map_err(|e| Refusal::invalid("", e))
}

/// SHA-256 of the canonical document: `sha256:` and 64 hexadecimal digits.
pub fn digest(workload: &Workload) -> Result<String, Refusal> {
    Ok(format!("sha256:{}", Digest::of(&canonical(workload)?)))
}

/// Parts of a document that say as little as they may, as they are read.
fn least() -> [(&'static str, serde_json::Value); 11] {
    use serde_json::json;
    fn read<T: serde::Serialize + serde::de::DeserializeOwned>(least: serde_json::Value) -> serde_json::Value {
        serde_json::from_value::<T>(least).and_then(serde_json::to_value).unwrap_or_default()
    }
    let content = json!({ "sha256": "", "bytes": 0 });
    [
        ("Workload", read::<Workload>(json!({ "schema": SCHEMA, "name": "" }))),
        ("Command", read::<Command>(json!({ "argv": [] }))),
        ("File", read::<File>(json!({ "path": "", "content": content }))),
        ("MakeDirectory", read::<MakeDirectory>(json!({ "path": "" }))),
        ("Mount", read::<Mount>(json!({ "host_path": "", "guest_path": "" }))),
        ("Port", read::<Port>(json!({ "guest_port": 0, "host_port": 0 }))),
        ("Remove", read::<Remove>(json!({ "path": "" }))),
        ("SnapshotStep", read::<SnapshotStep>(json!({}))),
        ("Source", read::<Source>(json!({ "files": [] }))),
        ("SourceFile", read::<SourceFile>(json!({ "path": "", "content": content }))),
        ("WriteFile", read::<WriteFile>(json!({ "path": "", "content": content }))),
    ]
}

/// The JSON Schema of a document. What a schema cannot say, such as that no two files have one path, [`read`] holds.
pub fn json_schema() -> serde_json::Value {
    let mut parts = Vec::new();
    Workload::schemas(&mut parts);
    let mut whole = serde_json::to_value(Workload::schema()).unwrap_or_default();
    whole["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    whole["title"] = "A workload of mvm".into();
    whole["properties"]["schema"] =
        serde_json::json!({ "const": SCHEMA, "description": "The version of this document." });
    whole["$defs"] =
        parts.into_iter().map(|(name, part)| (name, serde_json::to_value(part).unwrap_or_default())).collect();
    for (name, least) in least() {
        let part = if name == "Workload" { &mut whole } else { &mut whole["$defs"][name] };
        let required = part["required"].as_array().cloned().unwrap_or_default();
        for (field, value) in least.as_object().into_iter().flatten() {
            if !required.contains(&field.as_str().into()) && !value.is_null() {
                part["properties"][field]["default"] = value.clone();
            }
        }
    }
    let text = whole.to_string().replace("#/components/schemas/", "#/$defs/");
    serde_json::from_str(&text).unwrap_or_default()
}
