//! A profile as it is written: everything may be left out, sizes and times are as people write them, and what is not known
//! is an error.

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::profile::{Directories, Files, HostAccess, Isolation, Limits, Names, Ports, Profile, Root, Snapshots, User};
use crate::units;

/// A profile as it is written: what is left out is as in the one it builds on.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Written {
    /// The profile it builds on; `standard` if left out.
    pub extends: Option<String>,
    /// What it is for.
    description: Option<String>,
    /// Whoever uses it has to say that they accept the risk.
    acknowledge: Option<bool>,
    env: WrittenNames,
    secrets: WrittenNames,
    user: WrittenUser,
    root: WrittenRoot,
    ports: WrittenPorts,
    files: WrittenFiles,
    snapshots: WrittenSnapshots,
    host: WrittenHost,
    limits: WrittenLimits,
    isolation: WrittenIsolation,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenNames {
    /// `"any"`, or a list of names.
    allow: Option<Names>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenUser {
    /// Whether commands may run as root.
    root: Option<bool>,
    /// Whom commands run as if nobody is named.
    default: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenRoot {
    /// Whether commands may write to the root file system.
    writable: Option<bool>,
    /// Room in `/tmp` if not.
    scratch: Option<Size>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenPorts {
    /// `"none"`, `"loopback"` or `"any"`.
    allow: Option<Ports>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenFiles {
    /// Whether callers may change files of a sandbox.
    #[serde(rename = "in")]
    into: Option<bool>,
    /// Whether callers may read them.
    out: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenSnapshots {
    /// Whether memory may be saved.
    save: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenHost {
    /// `"none"`, `"read-only"` or `"writable"`.
    directories: Option<Directories>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenLimits {
    cpus: Option<Bound<Count>>,
    memory: Option<Bound<Size>>,
    disk: Option<Bound<Size>>,
    processes: Option<Bound<Count>>,
    output: Option<Bound<Size>>,
    time: Option<Bound<Time>>,
    ttl: Option<Bound<Time>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenIsolation {
    /// Layers that must apply, all of them.
    require: Option<Vec<String>>,
}

/// A limit, or that there is none.
#[derive(Debug, Clone, Copy)]
enum Bound<T> {
    None,
    AtMost(T),
}

#[derive(Debug, Clone, Copy)]
struct Size(u64);
#[derive(Debug, Clone, Copy)]
struct Time(u64);
#[derive(Debug, Clone, Copy)]
struct Count(u32);

/// A value that is written as a number or as text.
trait Spelt: Sized {
    const EXPECTED: &'static str;
    fn from_number(number: u64) -> std::result::Result<Self, String>;
    fn from_text(text: &str) -> std::result::Result<Self, String>;
}

impl Spelt for Size {
    const EXPECTED: &'static str = "a size such as \"512M\"";
    fn from_number(bytes: u64) -> std::result::Result<Self, String> {
        Ok(Size(bytes))
    }
    fn from_text(text: &str) -> std::result::Result<Self, String> {
        units::parse_size(text).map(Size)
    }
}

impl Spelt for Time {
    const EXPECTED: &'static str = "a time such as \"5m\"";
    fn from_number(seconds: u64) -> std::result::Result<Self, String> {
        Time::from_text(&seconds.to_string())
    }
    fn from_text(text: &str) -> std::result::Result<Self, String> {
        units::parse_duration(text).map(|time| Time((time.as_millis() as u64).max(1)))
    }
}

impl Spelt for Count {
    const EXPECTED: &'static str = "a number above zero";
    fn from_number(number: u64) -> std::result::Result<Self, String> {
        u32::try_from(number).ok().filter(|n| *n > 0).map(Count).ok_or_else(|| "not above zero, or too large".into())
    }
    fn from_text(_: &str) -> std::result::Result<Self, String> {
        Err("not a number".into())
    }
}

impl<T: Spelt> Spelt for Bound<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn from_number(number: u64) -> std::result::Result<Self, String> {
        T::from_number(number).map(Bound::AtMost)
    }
    fn from_text(text: &str) -> std::result::Result<Self, String> {
        if text == "none" { Ok(Bound::None) } else { T::from_text(text).map(Bound::AtMost) }
    }
}

struct SpeltVisitor<T>(std::marker::PhantomData<T>);

impl<T: Spelt> Visitor<'_> for SpeltVisitor<T> {
    type Value = T;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(T::EXPECTED)
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> std::result::Result<T, E> {
        let number = u64::try_from(number).map_err(|_| E::custom("below zero"))?;
        T::from_number(number).map_err(E::custom)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<T, E> {
        T::from_text(text).map_err(|why| E::custom(format!("{why}; expected {}", T::EXPECTED)))
    }
}

impl<'de, T: Spelt> Deserialize<'de> for Bound<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(SpeltVisitor(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(SpeltVisitor(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Names;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"any\" or a list of names")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Names, E> {
                if text == "any" { Ok(Names::Any) } else { Err(E::custom("expected \"any\" or a list of names")) }
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(Names::Only(names))
            }
        }
        deserializer.deserialize_any(List)
    }
}

impl Written {
    /// What it changes in the profile that it builds on.
    pub fn apply(self, name: &str, base: Profile) -> Profile {
        let limits = &base.limits;
        Profile {
            name: name.to_owned(),
            description: self.description.unwrap_or(base.description),
            acknowledge: self.acknowledge.unwrap_or(base.acknowledge),
            env: self.env.allow.unwrap_or(base.env),
            secrets: self.secrets.allow.unwrap_or(base.secrets),
            user: User {
                root: self.user.root.unwrap_or(base.user.root),
                default: self.user.default.unwrap_or(base.user.default),
            },
            root: Root {
                writable: self.root.writable.unwrap_or(base.root.writable),
                scratch: self.root.scratch.map_or(base.root.scratch, |scratch| scratch.0),
            },
            ports: self.ports.allow.unwrap_or(base.ports),
            files: Files {
                into: self.files.into.unwrap_or(base.files.into),
                out: self.files.out.unwrap_or(base.files.out),
            },
            snapshots: Snapshots { save: self.snapshots.save.unwrap_or(base.snapshots.save) },
            host: HostAccess { directories: self.host.directories.unwrap_or(base.host.directories) },
            limits: Limits {
                cpus: over(self.limits.cpus, limits.cpus, |count| count.0),
                memory: over(self.limits.memory, limits.memory, |size| size.0),
                disk: over(self.limits.disk, limits.disk, |size| size.0),
                processes: over(self.limits.processes, limits.processes, |count| count.0),
                output: over(self.limits.output, limits.output, |size| size.0),
                time: over(self.limits.time, limits.time, |time| time.0),
                ttl: over(self.limits.ttl, limits.ttl, |time| time.0),
            },
            isolation: Isolation { require: self.isolation.require.unwrap_or(base.isolation.require) },
        }
    }
}

/// A limit as it is written over the one that it builds on.
fn over<T, U>(written: Option<Bound<T>>, base: Option<U>, value: impl FnOnce(T) -> U) -> Option<U> {
    match written {
        None => base,
        Some(Bound::None) => None,
        Some(Bound::AtMost(most)) => Some(value(most)),
    }
}
