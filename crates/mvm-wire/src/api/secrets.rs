//! Values that are secret: taken in from JSON, written only where that is asked for by name, and never shown.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// The value of a secret. Overwritten when it is dropped; it cannot be printed or serialized by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<String>);

/// Secrets by name.
pub type SecretValues = BTreeMap<String, SecretValue>;

impl SecretValue {
    /// The value itself, for the one who is to have it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretValue {
    fn from(value: String) -> SecretValue {
        SecretValue(Zeroizing::new(value))
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Writes the values out: on a sandbox's Unix socket, or to a supervisor's standard input. For `serialize_with`.
pub fn hand_over<S: Serializer>(values: &SecretValues, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(values.len()))?;
    for (name, value) in values {
        map.serialize_entry(name, value.expose())?;
    }
    map.end()
}

/// Reads values. An error does not show what was there in place of one: it may be one. For `deserialize_with`.
pub fn take_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretValues, D::Error> {
    let malformed = || D::Error::custom("secrets are an object of names, each with a text as its value");
    let Value::Object(map) = Value::deserialize(deserializer).map_err(|_| malformed())? else {
        return Err(malformed());
    };
    let read = |(name, value)| match value {
        Value::String(value) => Ok((name, value.into())),
        _ => Err(malformed()),
    };
    map.into_iter().map(read).collect()
}

/// How a secret was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretKind {
    /// As a variable of the environment of the command that made the sandbox.
    Env,
    /// As a file of this host.
    File,
    /// With the request for one command, which alone has it.
    Request,
}

/// A secret that commands of a sandbox have. Its value is shown nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretInfo {
    /// The variable that it is in the guest.
    pub name: String,
    /// How it was given.
    pub kind: SecretKind,
    /// Which variable of the host, or which file: `env:VAR` or `file:PATH`; null with a request.
    pub reference: Option<String>,
    /// The one command that has it; null if all have.
    pub run_id: Option<String>,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// Whether its value is known. Without it no command can have it, and it cannot be redacted.
    pub known: bool,
}

#[cfg(test)]
mod tests {
    use crate::api::JobRequest;

    #[test]
    fn a_value_is_never_shown() {
        let request: JobRequest = serde_json::from_str(r#"{"secrets": {"TOKEN": "hunter2-hunter2"}}"#).unwrap();
        assert_eq!(request.secrets["TOKEN"].expose(), "hunter2-hunter2");
        let shown = format!("{request:?} {request:#?}");
        assert!(shown.contains("TOKEN") && shown.contains("<secret>") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn what_is_no_value_is_not_shown_either() {
        for secrets in [
            r#""hunter2""#,
            r#"["hunter2"]"#,
            r#"{"A": ["hunter2"]}"#,
            r#"{"A": {"hunter2": 1}}"#,
            r#"{"A": 42425}"#,
            "42425",
            "null",
            r#"{"A": "hunter2"#,
            r#"{"A": "hunter2" "#,
        ] {
            let error = serde_json::from_str::<JobRequest>(&format!(r#"{{"secrets": {secrets}}}"#)).unwrap_err();
            let error = error.to_string();
            assert!(!error.contains("hunter2") && !error.contains("42425"), "{error}");
        }
    }
}
