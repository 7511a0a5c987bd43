//! What a declaration may say: the helpers, their fields, and how both languages call them. It is written down here alone.

use super::Language;

/// A function that declarations call.
#[derive(Debug, PartialEq)]
pub(super) struct Helper {
    /// Its names in Python and in TypeScript.
    names: [&'static str; 2],
    pub(super) makes: Makes,
    pub(super) fields: &'static [Field],
}

/// What a helper stands for in the document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Makes {
    /// An object with its fields.
    Object,
    /// A choice: an object with its fields, in one with this name as its only field.
    Choice(&'static str),
    /// A choice of a value: that of its only field.
    Value(&'static str),
}

/// What a helper is given.
#[derive(Debug, PartialEq)]
pub(super) struct Field {
    /// Its names in Python and in TypeScript.
    names: [&'static str; 2],
    /// Its name in the document.
    pub(super) document: &'static str,
    pub(super) takes: Takes,
    pub(super) required: bool,
    /// Whether it stands first and without its name; in Python it may be named all the same.
    pub(super) first: bool,
}

/// What values a field has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Takes {
    Text,
    Whole,
    /// A time: in Python in seconds, in TypeScript in whole milliseconds, as in the rest of the SDKs.
    Time,
    List(&'static Takes),
    Map(&'static Takes),
    /// What one of these helpers makes, by their names in Python.
    Helper(&'static [&'static str]),
}

use Makes::{Choice, Object, Value};
use Takes::{List, Map, Text, Time, Whole};

const fn optional(python: &'static str, typescript: &'static str, document: &'static str, takes: Takes) -> Field {
    Field { names: [python, typescript], document, takes, required: false, first: false }
}

const fn required(name: &'static str, document: &'static str, takes: Takes) -> Field {
    Field { names: [name, name], document, takes, required: true, first: false }
}

const fn first(name: &'static str, takes: Takes) -> Field {
    Field { names: [name, name], document: name, takes, required: true, first: true }
}

const fn helper(python: &'static str, typescript: &'static str, makes: Makes, fields: &'static [Field]) -> Helper {
    Helper { names: [python, typescript], makes, fields }
}

/// The helper that declares; the others say what is in it.
pub(super) static APP: Helper = helper(
    "app",
    "app",
    Object,
    &[
        required("name", "name", Text),
        optional("source", "source", "source", Takes::Helper(&["local_path"])),
        optional("image", "image", "image", Takes::Helper(&["image", "debian"])),
        optional("resources", "resources", "resources", Takes::Helper(&["resources"])),
        optional("network", "network", "network", Takes::Helper(&["network"])),
        optional("env", "env", "env", Map(&Takes::Helper(&["literal", "secret"]))),
        optional(
            "entrypoint",
            "entrypoint",
            "entrypoint",
            Takes::Helper(&["entrypoint_command", "entrypoint_function"]),
        ),
        optional("profile", "profile", "profile", Text),
        optional("ttl", "ttlMs", "ttl_ms", Time),
        optional("on_expiry", "onExpiry", "on_expiry", Text),
    ],
);

static HELPERS: &[Helper] = &[
    helper(
        "local_path",
        "localPath",
        Object,
        &[
            first("path", Text),
            optional("include", "include", "include", List(&Text)),
            optional("exclude", "exclude", "exclude", List(&Text)),
        ],
    ),
    helper("image", "image", Value("named"), &[first("name", Text)]),
    helper("debian", "debian", Choice("debian"), &[required("packages", "packages", List(&Text))]),
    helper(
        "resources",
        "resources",
        Object,
        &[
            optional("cpus", "cpus", "cpus", Whole),
            optional("memory_mib", "memoryMib", "memory_mib", Whole),
            optional("disk_mib", "diskMib", "disk_mib", Whole),
        ],
    ),
    helper(
        "network",
        "network",
        Object,
        &[optional("mode", "mode", "mode", Text), optional("ports", "ports", "ports", List(&Takes::Helper(&["port"])))],
    ),
    helper("port", "port", Object, &[required("guest", "guest_port", Whole), required("host", "host_port", Whole)]),
    helper("literal", "literal", Value("literal"), &[first("value", Text)]),
    helper("secret", "secret", Value("secret"), &[first("reference", Text)]),
    helper("entrypoint_command", "entrypointCommand", Value("command"), &[first("argv", List(&Text))]),
    helper(
        "entrypoint_function",
        "entrypointFunction",
        Choice("function"),
        &[required("module", "module", Text), required("function", "function", Text)],
    ),
];

impl Helper {
    pub(super) fn name(&self, language: Language) -> &'static str {
        self.names[language as usize]
    }

    /// Whether it is the one of this name in Python.
    pub(super) fn is(&self, name: &str) -> bool {
        self.names[0] == name
    }

    /// A call of it with all that it has to be given.
    pub(super) fn example(&self, language: Language) -> String {
        let (first, named): (Vec<&Field>, Vec<&Field>) =
            self.fields.iter().filter(|field| field.required).partition(|field| field.first);
        let mut given: Vec<String> = first.iter().map(|field| field.takes.example(language)).collect();
        let mut named: Vec<String> = named.iter().map(|field| field.example(language)).collect();
        if language == Language::TypeScript && !named.is_empty() {
            named = vec![format!("{{ {} }}", named.join(", "))];
        }
        given.append(&mut named);
        format!("{}({})", self.name(language), given.join(", "))
    }
}

impl Field {
    pub(super) fn name(&self, language: Language) -> &'static str {
        self.names[language as usize]
    }

    /// How it is given, with its name.
    pub(super) fn example(&self, language: Language) -> String {
        let between = match language {
            Language::Python => "=",
            Language::TypeScript => ": ",
        };
        format!("{}{between}{}", self.name(language), self.takes.example(language))
    }
}

impl Takes {
    /// What it is, after "is".
    pub(super) fn words(self, language: Language) -> String {
        match (self, language) {
            (Text, _) => "a text".to_owned(),
            (Whole, _) => "a whole number".to_owned(),
            (Time, Language::Python) => "a number of seconds".to_owned(),
            (Time, Language::TypeScript) => "a whole number of milliseconds".to_owned(),
            (List(_), _) => "a list".to_owned(),
            (Map(_), Language::Python) => "a dict".to_owned(),
            (Map(_), Language::TypeScript) => "an object".to_owned(),
            (Takes::Helper(names), _) => {
                let called =
                    |name: &&str| find(Language::Python, name).map(|helper| helper.name(language).to_owned() + "()");
                names.iter().filter_map(called).collect::<Vec<_>>().join(" or ")
            }
        }
    }

    /// A value of it.
    pub(super) fn example(self, language: Language) -> String {
        match (self, language) {
            (Text, Language::Python) => "\"…\"".to_owned(),
            (Text, Language::TypeScript) => "'…'".to_owned(),
            (Whole, _) => "1".to_owned(),
            (Time, Language::Python) => "3600".to_owned(),
            (Time, Language::TypeScript) => "3600000".to_owned(),
            (List(item), _) => format!("[{}]", item.example(language)),
            (Map(item), Language::Python) => format!("{{\"NAME\": {}}}", item.example(language)),
            (Map(item), Language::TypeScript) => format!("{{ NAME: {} }}", item.example(language)),
            (Takes::Helper(names), _) => {
                let first = names.first().and_then(|name| find(Language::Python, name));
                first.map_or_else(String::new, |helper| helper.example(language))
            }
        }
    }
}

/// All helpers.
pub(super) fn helpers() -> impl Iterator<Item = &'static Helper> {
    std::iter::once(&APP).chain(HELPERS)
}

/// The helper of this name.
pub(super) fn find(language: Language, name: &str) -> Option<&'static Helper> {
    helpers().find(|helper| helper.name(language) == name)
}

/// These names in a sentence.
pub(super) fn listed(names: &[&str]) -> String {
    match names {
        [] => "nothing".to_owned(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// The name that was probably meant: one that goes on, or differs in two letters at most, or in how its words are put together.
pub(super) fn closest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let plain =
        |name: &str| name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).take(64).collect::<Vec<_>>();
    let meant = plain(name);
    let first = meant.first()?;
    let rated = |name: &&'a str| (distance(&meant, &plain(name)), !name.starts_with(*first), *name);
    let (far, _, near) = names.iter().map(rated).min()?;
    let longer = names.iter().find(|name| meant.len() > 2 && plain(name).starts_with(&meant)).copied();
    Some(near).filter(|_| far <= 2 && far * 2 <= meant.len()).or(longer)
}

/// How many letters have to be added, removed or replaced.
fn distance(one: &[char], other: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, a) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}
