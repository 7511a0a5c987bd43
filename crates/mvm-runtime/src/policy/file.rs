//! Profiles of the user's own: one TOML file each, which builds on another profile and says what differs.
//!
//! Strict: what is not known is an error with its line and column, because a rule that was misspelt would not be held.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mvm_wire::ErrorCode;

use super::profile::{BUILT_IN, Profile, built_in};
use super::written::Written;
use super::{DEFAULT_PROFILE, check_layers};
use crate::error::{Error, IoContext, Result};
use crate::request::check_name;
use crate::text::harmless;

/// The largest profile, in bytes.
const MAX_BYTES: u64 = 64 << 10;
/// The longest chain of profiles that build on each other.
const MAX_DEPTH: usize = 8;
/// The least memory that a machine can have, in bytes.
const MIN_MEMORY: u64 = 128 << 20;
/// The least scratch space that is of any use, in bytes.
const MIN_SCRATCH: u64 = 64 << 10;

/// Where the user's profiles are: `$XDG_CONFIG_HOME/mvm/profiles`, else `~/.config/mvm/profiles`.
pub fn directory() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = var("XDG_CONFIG_HOME").or_else(|| var("HOME").map(|home| home.join(".config")));
    config.filter(|config| config.is_absolute()).map(|config| config.join("mvm/profiles"))
}

/// The profile that the environment demands of all sandboxes that are made in it, if it does: `$MVM_PROFILE`.
pub fn bound() -> Option<String> {
    std::env::var_os("MVM_PROFILE").filter(|name| !name.is_empty()).map(|name| name.to_string_lossy().into_owned())
}

/// This name; if it is empty the profile that holds where none is named.
pub fn or_default(name: String) -> String {
    if name.is_empty() { bound().unwrap_or_else(|| DEFAULT_PROFILE.into()) } else { name }
}

/// The names of all profiles: the built-in ones, then the user's in alphabetical order.
pub fn names() -> Vec<String> {
    let entries = directory().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let mut own: Vec<String> = entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
        .filter(|name| !BUILT_IN.contains(&name.as_str()))
        .collect();
    own.sort();
    BUILT_IN.iter().map(|name| (*name).to_owned()).chain(own).collect()
}

/// The profile of this name, with all that it builds on; the default one if the name is empty.
pub fn load(name: &str) -> Result<Profile> {
    resolve(if name.is_empty() { DEFAULT_PROFILE } else { name }, &mut Vec::new())
}

/// The profile in a file, wherever that is.
pub fn check(path: &Path) -> Result<Profile> {
    let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    if BUILT_IN.contains(&name.as_str()) {
        let what = format!("cannot use the profile {}", path.display());
        return Err(invalid(what, format!("there is a built-in profile {name}, which is used in its place"))
            .hint("give it another name"));
    }
    check_name(&name, &format!("use the profile {}", path.display()), "mvm-")?;
    parse(&name, &path.display().to_string(), &read(path)?)
}

/// The profile of this name that a text describes, with all that it builds on. Errors say `place`, where the text was found.
pub fn parse(name: &str, place: &str, text: &str) -> Result<Profile> {
    build(name, place, text, &mut vec![name.to_owned()])
}

/// `chain` holds the names that led here.
fn resolve(name: &str, chain: &mut Vec<String>) -> Result<Profile> {
    if let Some(profile) = built_in(name) {
        return Ok(profile);
    }
    check_name(name, &harmless(&format!("use the profile {name:?}")), "mvm-")?;
    if chain.iter().any(|earlier| earlier == name) || chain.len() >= MAX_DEPTH {
        let why = match chain.len() >= MAX_DEPTH {
            true => format!("more than {MAX_DEPTH} profiles build on each other"),
            false => format!("it builds on itself: {} → {name}", chain.join(" → ")),
        };
        return Err(invalid(format!("cannot use the profile {name}"), why));
    }
    chain.push(name.to_owned());
    let path = directory().map(|dir| dir.join(format!("{name}.toml"))).filter(|path| path.exists());
    let path = path.ok_or_else(|| {
        let why = format!("there is none of this name; there are {}", names().join(", "));
        Error::new(ErrorCode::NotFound, format!("cannot use the profile {name}"), why).hint("mvmctl policy show")
    })?;
    build(name, &path.display().to_string(), &read(&path)?, chain)
}

/// `chain` holds the names that led here, this one too.
fn build(name: &str, place: &str, text: &str, chain: &mut Vec<String>) -> Result<Profile> {
    let what = || format!("cannot use the profile {place}");
    let written: Written = toml::from_str(text).map_err(|e| invalid(what(), spot(text, &e)))?;
    let base = resolve(written.extends.as_deref().unwrap_or(DEFAULT_PROFILE), chain)?;
    let profile = written.apply(name, base);
    match contradiction(&profile) {
        None => check_layers(&profile.isolation.require)
            .map(|()| profile)
            .map_err(|e| invalid(what(), format!("isolation.require: {e}"))),
        Some(why) => Err(invalid(what(), why)),
    }
}

/// Reads a profile, unless somebody else could have written it.
fn read(path: &Path) -> Result<String> {
    let what = || format!("cannot read the profile {}", path.display());
    // A pipe in its place must not be waited for.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(|e| Error::named(what(), e))?;
    let meta = file.metadata().context(what)?;
    let us = rustix::process::geteuid().as_raw();
    let problem = match &meta {
        meta if !meta.is_file() => Some("it is no regular file".to_owned()),
        meta if meta.mode() & 0o022 != 0 => Some(format!("others may write to it (mode {:o})", meta.mode() & 0o7777)),
        meta if meta.uid() != us && meta.uid() != 0 => Some("it belongs to somebody else".to_owned()),
        meta if meta.len() > MAX_BYTES => Some(format!("it is larger than {} KiB", MAX_BYTES >> 10)),
        _ => None,
    };
    if let Some(why) = problem {
        let hint = format!("chmod go-w {0}, and look at what is in it", path.display());
        return Err(invalid(what(), why).hint(if meta.is_file() { hint } else { String::new() }));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).context(what)?;
    String::from_utf8(bytes).map_err(|_| invalid(what(), "it is not UTF-8"))
}

/// What is wrong, and where.
fn spot(text: &str, error: &toml::de::Error) -> String {
    let why = harmless(error.message()).replace('\n', " ");
    let Some(at) = error.span().map(|span| span.start.min(text.len())) else { return why };
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: {why}")
}

/// What no machine could be held to.
fn contradiction(profile: &Profile) -> Option<String> {
    let limits = &profile.limits;
    let root_by_default = profile.user.default.is_empty() || super::judge::names_root(&profile.user.default);
    let twice = |names: &[String]| {
        names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)).map(|(_, n)| n.clone())
    };
    if !profile.root.writable && profile.user.root {
        return Some("root.writable = false with user.root = true: root could undo it".into());
    }
    if !profile.user.root && root_by_default {
        return Some(
            "user.root = false, but user.default names no ordinary user: give one such as \"65534:65534\"".into(),
        );
    }
    if !profile.root.writable && profile.root.scratch < MIN_SCRATCH {
        return Some("root.scratch is less than 64K: programs could not even make a small file".into());
    }
    if let Some(memory) = limits.memory.filter(|memory| *memory < MIN_MEMORY) {
        return Some(format!(
            "limits.memory is {}, and no machine boots in less than 128M",
            crate::units::size(memory)
        ));
    }
    if let (false, Some(memory)) =
        (profile.root.writable, limits.memory.filter(|memory| profile.root.scratch > *memory))
    {
        return Some(format!("root.scratch is more than limits.memory, {}: it is memory", crate::units::size(memory)));
    }
    if limits.disk.is_some_and(|disk| disk < 64 << 20) {
        return Some("limits.disk is less than 64M, the smallest disk".into());
    }
    if limits.output == Some(0) {
        return Some("limits.output is 0: nobody would see what a command says".into());
    }
    twice(&profile.isolation.require).map(|name| format!("isolation.require names {name} twice"))
}

fn invalid(what: String, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::InvalidRequest, what, why).hint("mvmctl policy schema describes what a profile may hold")
}
