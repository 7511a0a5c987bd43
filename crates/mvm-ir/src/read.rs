//! Reading a document: strictly, within bounds, and with the place of what is wrong as a JSON pointer (RFC 6901).

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use serde_path_to_error::Segment;

use crate::check;
use crate::model::{SCHEMA, Workload};

/// The largest document, in bytes.
pub const MAX_BYTES: usize = 16 << 20;

/// Why a document is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of failure it is.
    pub fault: Fault,
    /// Where: a JSON pointer; empty for the whole document.
    pub pointer: String,
    /// What is wrong there. No value of the document is in it but names.
    pub why: String,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is of another version.
    Version,
    /// Something in it is wrong.
    Invalid,
}

impl Refusal {
    pub(crate) fn invalid(pointer: impl Into<String>, why: impl fmt::Display) -> Refusal {
        Refusal { fault: Fault::Invalid, pointer: pointer.into(), why: why.to_string() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer.as_str() {
            "" => f.write_str(&self.why),
            pointer => write!(f, "at {pointer}: {}", self.why),
        }
    }
}

impl std::error::Error for Refusal {}

/// Reads a document. What it says is sound, but for what only the host knows: profiles, images, secrets.
pub fn read(bytes: &[u8]) -> Result<Workload, Refusal> {
    if bytes.len() > MAX_BYTES {
        return Err(Refusal::invalid("", format!("it is larger than {} MiB", MAX_BYTES >> 20)));
    }
    let (document, workload): (Value, Workload) = versioned(bytes, SCHEMA)?;
    sound(&document, workload)
}

/// As [`read`], of a document of this version that was put together here.
pub(crate) fn understood(document: &Value) -> Result<Workload, Refusal> {
    let workload: Workload = serde_path_to_error::deserialize(document).map_err(|e| {
        let why = said(e.inner());
        Refusal::invalid(pointer(e.path()), why)
    })?;
    sound(document, workload)
}

/// What was read of a document, if it holds all of that and makes sense.
fn sound(document: &Value, workload: Workload) -> Result<Workload, Refusal> {
    let understood = serde_json::to_value(&workload).map_err(|e| Refusal::invalid("", e))?;
    is_held(document, &understood, "")?;
    check::check(&workload)?;
    Ok(workload)
}

/// Reads a document of one version, as JSON and as what it says.
pub(crate) fn versioned<T: DeserializeOwned>(bytes: &[u8], schema: &str) -> Result<(Value, T), Refusal> {
    let document: Value = serde_json::from_slice(bytes).map_err(|e| Refusal::invalid("", said(&e)))?;
    let version = version(&document, schema)?;
    if version != schema {
        let family = schema.rsplit_once('/').map_or(schema, |(family, _)| family);
        let other = version.strip_prefix(family).is_some_and(|rest| rest.starts_with("/v"));
        let fault = if other { Fault::Version } else { Fault::Invalid };
        return Err(Refusal { fault, pointer: "/schema".into(), why: format!("this version of mvm reads {schema}") });
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut reader).map_err(|e| {
        let why = said(e.inner());
        Refusal::invalid(pointer(e.path()), why)
    })?;
    reader.end().map_err(|e| Refusal::invalid("", said(&e)))?;
    Ok((document, read))
}

/// The version that a document says it is of, before anything else of it is judged.
fn version<'a>(document: &'a Value, schema: &str) -> Result<&'a str, Refusal> {
    let Value::Object(fields) = document else { return Err(Refusal::invalid("", "it is no object")) };
    match fields.get("schema") {
        Some(Value::String(version)) => Ok(version),
        Some(_) => Err(Refusal::invalid("/schema", "it is no text")),
        None => {
            Err(Refusal::invalid("/schema", format!("it is missing; such a document says \"schema\": \"{schema}\"")))
        }
    }
}

/// Refuses a document of which something was read as something else: what serde derives takes a list for an object, too.
fn is_held(given: &Value, understood: &Value, pointer: &str) -> Result<(), Refusal> {
    let deeper = |part: &str, given: &Value, understood: Option<&Value>| {
        is_held(given, understood.unwrap_or(&Value::Null), &format!("{pointer}/{}", escaped(part)))
    };
    match (given, understood) {
        (Value::Object(given), Value::Object(understood)) => {
            given.iter().try_for_each(|(name, value)| deeper(name, value, understood.get(name)))
        }
        (Value::Array(given), Value::Array(understood)) if given.len() == understood.len() => {
            let mut items = given.iter().zip(understood).enumerate();
            items.try_for_each(|(index, (given, understood))| deeper(&index.to_string(), given, Some(understood)))
        }
        _ if given == understood => Ok(()),
        _ => Err(Refusal::invalid(pointer, "a value of another type belongs here")),
    }
}

/// What the parser says, without the value that it says it of: that may be a secret that was pasted in.
fn said(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let place = format!(" at line {} column {}", e.line(), e.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    let expected = text.rsplit_once(", expected ").map(|(_, expected)| expected);
    let shown = match (text.split(": ").next(), expected) {
        (Some("invalid type" | "invalid value" | "invalid length"), Some(expected)) => {
            let expected = match expected {
                "u16" => "a whole number from 0 to 65535",
                "u32" => "a whole number from 0 to 4294967295",
                "u64" => "a whole number from 0",
                other => other,
            };
            format!("{expected} belongs here")
        }
        (Some("invalid type" | "invalid value" | "invalid length"), None) => "another value belongs here".to_owned(),
        // What stands there may be a value that was put where a choice belongs.
        _ if text.starts_with("unknown variant ") => {
            let choices = expected.map_or("the choices", |expected| expected.trim_start_matches("one of "));
            format!("this is none of {choices}")
        }
        _ => text.to_owned(),
    };
    match e.line() {
        0 => shown,
        line => format!("{shown} (line {line}, column {})", e.column()),
    }
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut out = String::new();
    for segment in path {
        let part = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.clone(),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => continue,
        };
        out.push('/');
        out.push_str(&escaped(&part));
    }
    out
}

/// A name as a part of a JSON pointer.
pub fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A map in which no name is twice: of two values for one variable, readers would take different ones.
pub(crate) fn distinct<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, T>, D::Error> {
    struct Distinct<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Distinct<T> {
        type Value = BTreeMap<String, T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut all = BTreeMap::new();
            while let Some((name, value)) = map.next_entry::<String, T>()? {
                if all.insert(name, value).is_some() {
                    return Err(A::Error::custom("a name is there twice"));
                }
            }
            Ok(all)
        }
    }

    deserializer.deserialize_map(Distinct(PhantomData))
}
