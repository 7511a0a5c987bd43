//! From a call of `app` to the document, and from the parts of the document back to their places.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::{Map, Number, Value as Json, json};

use super::source::{Source, shown};
use super::table::{Field, Helper, Makes, Takes, closest, listed};
use super::tree::{Call, Key, Tree, Value};
use super::{Declaration, Finding, Language, LocalPath, nearest};
use crate::model::SCHEMA;
use crate::read::{escaped, understood};

/// What a call of `app` declares; nothing if something was found to be wrong with it.
pub(super) fn declared(
    language: Language,
    call: &Call,
    source: &Source,
    findings: &mut Vec<Finding>,
) -> Option<Declaration> {
    let mut building = Building { language, findings, places: BTreeMap::new() };
    let mut document = building.made(call, "");
    let Building { places, .. } = building;
    if !findings.is_empty() {
        return None;
    }
    document["schema"] = SCHEMA.into();
    if let Some(function) = document.pointer_mut("/entrypoint/function") {
        function["language"] = match language {
            Language::Python => "python".into(),
            Language::TypeScript => "typescript".into(),
        };
    }
    let mut path = None;
    if let Some(Json::Object(tree)) = document.get_mut("source") {
        path = tree.remove("path");
        tree.insert("files".into(), json!([]));
    }
    let at = |pointer: &str| nearest(&places, pointer).cloned().unwrap_or(0..0);
    let local_path = path.and_then(|path| path.as_str().map(str::to_owned)).map(|path| {
        let place = source.place(at("/source/path").start);
        LocalPath { path, place }
    });
    if local_path.as_ref().is_some_and(|local| local.path.is_empty() || local.path.contains('\0')) {
        let why = "the path is empty, or there is a NUL in it";
        findings.push(Finding::new(at("/source/path"), why, "name a directory, such as ."));
        return None;
    }
    match understood(&document) {
        Ok(workload) => {
            let places = places.iter().map(|(pointer, at)| (pointer.clone(), source.place(at.start))).collect();
            Some(Declaration { workload, local_path, places })
        }
        Err(refusal) => {
            let instead = "mvmctl policy schema workload prints what a workload may say";
            findings.push(Finding::new(at(&refusal.pointer), refusal.why, instead));
            None
        }
    }
}

/// A document that is being built.
struct Building<'a> {
    language: Language,
    findings: &'a mut Vec<Finding>,
    /// Where each part is written, by its pointer.
    places: BTreeMap<String, Range<usize>>,
}

impl Building<'_> {
    fn wrong(&mut self, at: &Range<usize>, why: String, instead: String) {
        self.findings.push(Finding::new(at.clone(), why, instead));
    }

    /// What a helper makes of what it is given.
    fn made(&mut self, call: &Call, pointer: &str) -> Json {
        let helper = call.helper;
        let within = match helper.makes {
            Makes::Object => pointer.to_owned(),
            Makes::Choice(name) | Makes::Value(name) => format!("{pointer}/{name}"),
        };
        self.places.entry(within.clone()).or_insert(call.at.clone());
        let mut fields = Map::new();
        for (field, tree) in self.given(call) {
            let pointer = match helper.makes {
                Makes::Value(_) => within.clone(),
                Makes::Object | Makes::Choice(_) => format!("{within}/{}", field.document),
            };
            let given = !matches!(tree.value, Value::Null) || field.required;
            if let Some(value) =
                given.then(|| self.value(field.takes, tree, field.name(self.language), &pointer)).flatten()
            {
                fields.insert(field.document.to_owned(), value);
            }
        }
        match helper.makes {
            Makes::Object => Json::Object(fields),
            Makes::Choice(name) => json!({ name: fields }),
            Makes::Value(name) => json!({ name: fields.into_iter().next().map(|(_, value)| value) }),
        }
    }

    /// The fields that a helper is given, each once, and none that it does not have.
    fn given<'c>(&mut self, call: &'c Call) -> Vec<(&'static Field, &'c Tree)> {
        let Call { helper, at, plain, named } = call;
        let mut given: Vec<(&'static Field, &Tree)> = Vec::new();
        let name = helper.name(self.language);
        for tree in plain {
            match helper.fields.first() {
                Some(field) if field.first && given.is_empty() => given.push((field, tree)),
                // What is unpacked, which is wrong by itself.
                _ if matches!(tree.value, Value::Wrong) => {}
                Some(field) if field.first => {
                    let why = format!("{name} takes one value without a name");
                    self.wrong(&tree.at, why, "leave this one out".to_owned());
                }
                first => {
                    let named = first.map(|field| format!(", such as {}", field.example(self.language)));
                    let instead = format!("name its fields{}", named.unwrap_or_default());
                    self.wrong(&tree.at, format!("{name} takes no value without a name"), instead);
                }
            }
        }
        for (key, tree) in named {
            match helper.fields.iter().find(|field| field.name(self.language) == key.text) {
                None => self.unknown(helper, key),
                Some(field) if given.iter().any(|(other, _)| *other == field) => self.twice(key),
                Some(field) => given.push((field, tree)),
            }
        }
        for field in helper.fields.iter().filter(|field| field.required) {
            if !given.iter().any(|(other, _)| *other == field) {
                let instead = format!("write {}", helper.example(self.language));
                self.wrong(at, format!("{name} is given no {}", field.name(self.language)), instead);
            }
        }
        given
    }

    fn unknown(&mut self, helper: &Helper, key: &Key) {
        let names: Vec<&str> = helper.fields.iter().map(|field| field.name(self.language)).collect();
        let has = format!("{} has {}", helper.name(self.language), listed(&names));
        let instead = match closest(&key.text, &names) {
            Some(meant) => format!("write {meant}; {has}"),
            None => format!("leave it out; {has}"),
        };
        self.wrong(&key.at, format!("{} has no {}", helper.name(self.language), shown(&key.text)), instead);
    }

    fn twice(&mut self, key: &Key) {
        self.wrong(&key.at, format!("{} is given twice", shown(&key.text)), "leave one of them out".to_owned());
    }

    /// A value of what a field takes, and the places of its parts; nothing if something else is there, which is a finding.
    fn value(&mut self, takes: Takes, tree: &Tree, name: &str, pointer: &str) -> Option<Json> {
        self.places.insert(pointer.to_owned(), tree.at.clone());
        match (takes, &tree.value) {
            (_, Value::Wrong) => None,
            (Takes::Text, Value::Text(text)) => Some(text.as_str().into()),
            (Takes::Whole, Value::Whole(number)) => self.number(*number, tree, name),
            (Takes::Time, Value::Whole(number)) => self.number(number.saturating_mul(self.time_unit()), tree, name),
            (Takes::Time, Value::Fraction(seconds)) if self.language == Language::Python && seconds.is_finite() => {
                // A cast keeps to the bounds of its type.
                self.number((seconds * 1000.0).round() as i128, tree, name)
            }
            (Takes::List(of), Value::List(items)) => {
                let name = format!("an item of {name}");
                let mut item = |(index, item)| self.value(*of, item, &name, &format!("{pointer}/{index}"));
                Some(items.iter().enumerate().filter_map(&mut item).collect())
            }
            (Takes::Map(of), Value::Map(entries)) => Some(self.map(*of, entries, name, pointer)),
            (Takes::Helper(names), Value::Call(call)) if names.iter().any(|name| call.helper.is(name)) => {
                Some(self.made(call, pointer))
            }
            _ => {
                let why = format!("{name} is {}", takes.words(self.language));
                let (words, example) = (takes.words(self.language), takes.example(self.language));
                self.wrong(&tree.at, why, format!("write {words}, such as {example}"));
                None
            }
        }
    }

    fn map(&mut self, takes: Takes, entries: &[(Key, Tree)], name: &str, pointer: &str) -> Json {
        let name = format!("a variable of {name}");
        let mut seen = BTreeSet::new();
        let mut map = Map::new();
        for (key, tree) in entries {
            if !seen.insert(&key.text) {
                self.twice(key);
            } else if let Some(value) = self.value(takes, tree, &name, &format!("{pointer}/{}", escaped(&key.text))) {
                map.insert(key.text.clone(), value);
            }
        }
        Json::Object(map)
    }

    fn time_unit(&self) -> i128 {
        match self.language {
            Language::Python => 1000,
            Language::TypeScript => 1,
        }
    }

    fn number(&mut self, number: i128, tree: &Tree, name: &str) -> Option<Json> {
        let number = Number::from_i128(number);
        if number.is_none() {
            self.wrong(&tree.at, format!("{name} is out of all bounds"), "write a smaller number".to_owned());
        }
        number.map(Json::Number)
    }
}
