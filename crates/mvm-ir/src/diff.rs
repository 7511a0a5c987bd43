//! What differs between two workloads, thing by thing: a file is the same file wherever it stands in a list.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};

use crate::align::align;
use crate::model::Workload;
use crate::read::escaped;
use crate::words;

/// One difference between two documents. What is null in a document is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Where: a JSON pointer into the later document; into the earlier one for what was removed.
    pub pointer: String,
    /// What became of it.
    pub change: ChangeKind,
    /// What tells the file, the port or the mount that it is a part of from others: `{"path": "/etc/motd"}`.
    #[serde(skip)]
    pub item: Option<Value>,
    /// What was there; none if it was added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What is there now; none if it was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// The kinds of difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is in the later document alone.
    Added,
    /// It is in the earlier document alone.
    Removed,
    /// It is another.
    Changed,
}

impl Change {
    /// The pointer for people: one printable line of bounded length.
    pub fn place(&self) -> String {
        words::place(&self.pointer)
    }

    /// What changed, for people: one printable line of bounded length. Contents are their digests' first digits, and what is
    /// not set is left out.
    pub fn words(&self) -> String {
        words::change(self)
    }
}

/// Compares two documents that were read, with all defaults written out. The order of files, ports, mounts, hosts and packages
/// is no difference; that of steps, patterns and arguments is.
pub fn diff(before: &Workload, after: &Workload) -> Vec<Change> {
    let mut comparison = Comparison::default();
    comparison.compare(Some(&json!(before)), Some(&json!(after)), None);
    comparison.changes
}

#[derive(Default)]
struct Comparison {
    /// Names and indexes down to where it is.
    path: Vec<String>,
    changes: Vec<Change>,
}

/// A part of what is compared: its name or index, and what it is in either document.
struct Part<'a> {
    name: String,
    before: Option<&'a Value>,
    after: Option<&'a Value>,
    /// What tells it from others, if it is in both.
    item: Option<Value>,
}

impl Comparison {
    fn compare(&mut self, before: Option<&Value>, after: Option<&Value>, item: Option<&Value>) {
        let [before, after] = [before, after].map(|value| value.filter(|value| !value.is_null()));
        if before == after {
            return;
        }
        match before.zip(after).and_then(|(before, after)| self.parts(before, after)) {
            Some(parts) => {
                for part in parts {
                    self.path.push(part.name);
                    self.compare(part.before, part.after, part.item.as_ref().or(item));
                    self.path.pop();
                }
            }
            None => self.found(before, after, item),
        }
    }

    fn found(&mut self, before: Option<&Value>, after: Option<&Value>, item: Option<&Value>) {
        let change = match (before, after) {
            (None, _) => ChangeKind::Added,
            (_, None) => ChangeKind::Removed,
            _ => ChangeKind::Changed,
        };
        let pointer = self.path.iter().map(|part| format!("/{}", escaped(part))).collect();
        let [item, before, after] = [item, before, after].map(Option::<&Value>::cloned);
        self.changes.push(Change { pointer, change, item, before, after });
    }

    /// The parts of two values; none if they are compared as a whole.
    fn parts<'a>(&self, before: &'a Value, after: &'a Value) -> Option<Vec<Part<'a>>> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        match (before, after) {
            (Value::Object(fields), Value::Object(others)) => {
                let is_map = matches!(path[..], ["env"] | ["steps", _, _, "env"]);
                // With other fields it is another choice.
                let is_alike = fields.keys().eq(others.keys()) && words::content(before).is_none();
                (is_map || is_alike).then(|| {
                    let names: BTreeSet<&String> = fields.keys().chain(others.keys()).collect();
                    let part = |name: &String| part(name, fields.get(name), others.get(name));
                    names.into_iter().map(part).collect()
                })
            }
            (Value::Array(before), Value::Array(after)) => Some(match path[..] {
                ["network", "ports"] => things(before, after, &["guest_port", "host", "protocol"]),
                ["network", "egress"] => things(before, after, &["host", "port"]),
                ["mounts"] => things(before, after, &["guest_path"]),
                ["files"] | ["source", "files"] => things(before, after, &["path"]),
                ["image", "debian", "packages"] => things(before, after, &[]),
                ["steps"] => {
                    let part = |(old, new)| placed((old, before), (new, after));
                    align(before, after).into_iter().map(part).collect()
                }
                _ => (0..before.len().max(after.len()))
                    .map(|index| part(index, before.get(index), after.get(index)))
                    .collect(),
            }),
            _ => None,
        }
    }
}

fn part<'a>(name: impl ToString, before: Option<&'a Value>, after: Option<&'a Value>) -> Part<'a> {
    Part { name: name.to_string(), before, after, item: None }
}

/// An item of two lists by its index in either. Its place is that in the later one, if it is there.
fn placed<'a>(before: (Option<usize>, &'a [Value]), after: (Option<usize>, &'a [Value])) -> Part<'a> {
    let get = |(index, list): (Option<usize>, &'a [Value])| list.get(index?);
    part(after.0.or(before.0).unwrap_or_default(), get(before), get(after))
}

/// Compares lists of things that are told apart by these fields, or by all of them: what was removed, then what is there.
fn things<'a>(before: &'a [Value], after: &'a [Value], by: &[&str]) -> Vec<Part<'a>> {
    let mut old: BTreeMap<_, usize> = identities(before, by).into_iter().zip(0..).collect();
    let there: Vec<Part> = identities(after, by)
        .into_iter()
        .enumerate()
        .map(|(index, identity)| {
            let old = old.remove(&identity);
            let item = old.and(by.first()).map(|field| json!({ *field: after[index][*field] }));
            Part { item, ..placed((old, before), (Some(index), after)) }
        })
        .collect();
    let mut gone: Vec<usize> = old.into_values().collect();
    gone.sort_unstable();
    gone.into_iter().map(|index| part(index, before.get(index), None)).chain(there).collect()
}

/// What tells things apart, each with its number among equal ones: two ports of the host may lead to one.
fn identities(things: &[Value], by: &[&str]) -> Vec<(String, usize)> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let identity = |thing: &Value| match by {
        [] => thing.to_string(),
        _ => by.iter().map(|field| thing[field].to_string()).collect::<Vec<_>>().join(" "),
    };
    let mut counted = |identity: String| {
        let count = seen.entry(identity.clone()).or_default();
        *count += 1;
        (identity, *count)
    };
    things.iter().map(|thing| counted(identity(thing))).collect()
}
