//! One entry of the audit log: a time, an event, which sandbox and run it is about, and a few named values. No payload,
//! no argument, no variable and no path of the host has a place in it.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::refusal::{Part, Refusal};
use crate::text::{is_name, is_prose};

/// The longest entry, in bytes of canonical JSON.
pub const MAX_ENTRY: usize = 4096;

const MAX_ID: usize = 64;
const MAX_VALUE: usize = 1024;
const MAX_FIELDS: usize = 32;

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When it was made, in milliseconds since 1970 by the host's clock, which may be set.
    pub at_ms: u64,
    /// What happened: lower-case words with dots between, such as `run.ended`.
    pub event: String,
    /// More about it. Names are lower-case; values are short text without control characters.
    pub fields: BTreeMap<String, String>,
    /// The run it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run: Option<String>,
    /// The sandbox it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sandbox: Option<String>,
}

impl Entry {
    /// An entry of this moment.
    pub fn now(event: &str) -> Entry {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Entry { at_ms, event: event.to_owned(), fields: BTreeMap::new(), run: None, sandbox: None }
    }

    /// Says which sandbox it is about.
    #[must_use]
    pub fn sandbox(mut self, id: &str) -> Entry {
        self.sandbox = Some(id.to_owned());
        self
    }

    /// Says which run it is about.
    #[must_use]
    pub fn run(mut self, id: &str) -> Entry {
        self.run = Some(id.to_owned());
        self
    }

    /// Adds a named value.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl ToString) -> Entry {
        self.fields.insert(name.to_owned(), value.to_string());
        self
    }

    /// The bytes that the log keeps and hashes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Refusal> {
        self.check()?;
        let bytes = canonical::to_vec(self).map_err(|why| Refusal::bounds(Part::Entry, why.to_string()))?;
        if bytes.len() > MAX_ENTRY { Err(Refusal::TooLarge(Part::Entry)) } else { Ok(bytes) }
    }

    /// Reads an entry, and only from the bytes that [`Entry::to_bytes`] makes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Entry, Refusal> {
        if bytes.len() > MAX_ENTRY {
            return Err(Refusal::TooLarge(Part::Entry));
        }
        let entry: Entry = canonical::from_slice(Part::Entry, bytes)?;
        entry.check()?;
        Ok(entry)
    }

    fn check(&self) -> Result<(), Refusal> {
        let require = |holds: bool, what: &str| if holds { Ok(()) } else { Err(Refusal::bounds(Part::Entry, what)) };
        require(is_word(&self.event), "event")?;
        require(self.sandbox.as_ref().is_none_or(|id| is_name(id, MAX_ID)), "sandbox")?;
        require(self.run.as_ref().is_none_or(|id| is_name(id, MAX_ID)), "run")?;
        require(self.fields.len() <= MAX_FIELDS, "more fields than allowed")?;
        for (name, value) in &self.fields {
            require(is_word(name), "the name of a field")?;
            require(is_prose(value, MAX_VALUE), name)?;
        }
        Ok(())
    }
}

/// Lower-case letters, digits and `._-`, with a letter first.
fn is_word(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    text.len() <= MAX_ID && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_one_spelling() {
        let entry =
            Entry { at_ms: 5, ..Entry::now("run.ended") }.run("r1").sandbox("s1").field("b", 2).field("a", "x y");
        let bytes = entry.to_bytes().unwrap();
        let text = r#"{"at_ms":5,"event":"run.ended","fields":{"a":"x y","b":"2"},"run":"r1","sandbox":"s1"}"#;
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), text);
        assert_eq!(Entry::from_bytes(&bytes).unwrap(), entry);
        let refused = |text: &str| Entry::from_bytes(text.as_bytes()).unwrap_err().name();
        assert_eq!(refused(""), "not-json");
        assert_eq!(refused(&text.replace(',', ", ")), "not-canonical");
        assert_eq!(refused(&text.replace(r#""s1""#, "null")), "not-canonical");
        assert_eq!(refused(&text.replace(r#""a":"x y","b":"2""#, r#""b":"2","a":"x y""#)), "not-canonical");
        assert_eq!(refused(&text.replace(r#""b":"2""#, r#""a":"2""#)), "not-canonical");
        assert_eq!(refused(&text.replace("at_ms", "time")), "unknown-field");
        assert_eq!(refused(&text.replace(r#","run":"r1""#, r#","run":"r1","x":1"#)), "unknown-field");
        assert_eq!(refused(&text.replace(":5", ":5.5")), "wrong-shape");
        assert_eq!(refused(&text.replace(":5", ":9007199254740992")), "out-of-bounds");
        assert_eq!(refused(&text.replace("x y", r"x\ny")), "out-of-bounds");
        assert_eq!(refused(&text.replace("run.ended", "Run")), "out-of-bounds");
        assert_eq!(refused(&"x".repeat(5000)), "too-large");
    }

    #[test]
    fn what_is_too_much_is_not_written() {
        let long = "x".repeat(MAX_VALUE);
        let entry = (0..3).fold(Entry::now("e"), |entry, n| entry.field(&format!("f{n}"), &long));
        assert!(entry.to_bytes().is_ok());
        assert_eq!(entry.clone().field("f3", &long).to_bytes().unwrap_err().name(), "too-large");
        assert_eq!(entry.field("f3", format!("{long}x")).to_bytes().unwrap_err().name(), "out-of-bounds");
        let many = (0..33).fold(Entry::now("e"), |entry, n| entry.field(&format!("f{n}"), n));
        assert_eq!(many.to_bytes().unwrap_err().name(), "out-of-bounds");
    }
}
