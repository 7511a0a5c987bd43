//! A change in words. What comes from a document is printable, on one line and of bounded length, however it was written.

use serde_json::Value;

use crate::diff::{Change, ChangeKind};

/// The most characters of one value that are shown.
const MAX_CHARS: usize = 120;
/// How many characters are shown before the one where two long values differ.
const CONTEXT: usize = 20;

/// A pointer.
pub fn place(pointer: &str) -> String {
    shortened(&pointer.escape_debug().to_string(), 0)
}

/// What changed.
pub fn change(change: &Change) -> String {
    let name = change.pointer.rsplit('/').next().unwrap_or_default();
    let [before, after] = [&change.before, &change.after].map(|value| value.as_ref().map(|value| shown(name, value)));
    let [before, after] = [before, after].map(Option::unwrap_or_default);
    let what = match change.change {
        ChangeKind::Added => format!("added: {}", shortened(&after, 0)),
        ChangeKind::Removed => format!("removed: {}", shortened(&before, 0)),
        ChangeKind::Changed => {
            let same = same(&before, &after);
            format!("{} → {}", shortened(&before, same), shortened(&after, same))
        }
    };
    match &change.item {
        Some(item) => format!("{}: {what}", shortened(&shown("", item), 0)),
        None => what,
    }
}

/// The digest and the length of a content; none if the value is something else.
pub fn content(value: &Value) -> Option<(&str, u64)> {
    Some((value.get("sha256")?.as_str()?, value.get("bytes")?.as_u64()?))
}

/// How many characters of two texts are left out at the beginning, so that what is long does not hide where they differ.
fn same(before: &str, after: &str) -> usize {
    if [before, after].iter().all(|text| text.chars().count() <= MAX_CHARS) {
        return 0;
    }
    let same = before.chars().zip(after.chars()).take_while(|(one, other)| one == other).count();
    same.saturating_sub(CONTEXT)
}

fn shortened(text: &str, skip: usize) -> String {
    let mut rest = text.chars().skip(skip);
    let head: String = rest.by_ref().take(MAX_CHARS).collect();
    let begins = if skip > 0 { "…" } else { "" };
    let ends = if rest.next().is_some() { "…" } else { "" };
    format!("{begins}{head}{ends}")
}

/// A value of the field `name`.
fn shown(name: &str, value: &Value) -> String {
    match value {
        Value::Object(fields) => match content(value) {
            Some((digest, bytes)) => format!("{} ({bytes} B)", digest.chars().take(12).collect::<String>()),
            None => {
                // The only field of an object is what was chosen, and is shown even if it is empty.
                let fields = fields.iter().filter(|(_, value)| is_set(value) || fields.len() == 1 && !value.is_null());
                list(fields.map(|(name, value)| format!("{} {}", text(name), inner(name, value))))
            }
        },
        Value::Array(items) => format!("[{}]", list(items.iter().map(|item| inner("", item)))),
        Value::String(value) => text(value),
        Value::Number(mode) if name == "mode" => mode.as_u64().map_or_else(String::new, |mode| format!("{mode:#o}")),
        other => other.to_string(),
    }
}

fn inner(name: &str, value: &Value) -> String {
    let shown = shown(name, value);
    if value.is_object() && content(value).is_none() { format!("{{{shown}}}") } else { shown }
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// Whether a field says more than that there is nothing.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// A text as it is, or in quotes with escapes if it could be taken for something else.
fn text(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=~*".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}
