//! Where a secret's value is, and reading it there, in the process of whoever wants it used.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mvm_wire::ErrorCode;
use mvm_wire::api::{SecretKind, SecretValue, SecretValues};
use rustix::fs::{CWD, Mode, OFlags};
use zeroize::Zeroizing;

use super::{MAX_VALUE, check_name, check_names, check_value};
use crate::error::{Error, Result};

const HINT: &str = "write --secret NAME (the variable NAME of your environment), NAME=env:VAR or NAME=file:PATH";

/// A secret by reference: what it is called in the guest, and where its value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    name: String,
    origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Env(String),
    File(PathBuf),
}

/// Values that were read, and what there is to say about how they are kept.
#[derive(Debug, Default)]
pub struct Resolved {
    /// The values by name.
    pub values: SecretValues,
    /// For people: a file that others can read, a value that looks like a word.
    pub warnings: Vec<String>,
}

impl Source {
    /// `NAME`, `NAME=env:VAR` or `NAME=file:PATH`. What stands after a `=` is shown in no error unless it is one of
    /// these forms: it may be the secret itself.
    pub fn parse(text: &str) -> Result<Source> {
        match text.split_once('=') {
            None => {
                check_name(text)?;
                Ok(Source { name: text.to_owned(), origin: Origin::Env(text.to_owned()) })
            }
            Some((name, reference)) => Source::of_reference(name, reference),
        }
    }

    /// A name with `env:VAR` or `file:PATH`. A relative path is one of this process.
    pub fn of_reference(name: &str, reference: &str) -> Result<Source> {
        check_name(name)?;
        let refuse = |why: &str| {
            Err(Error::new(ErrorCode::InvalidRequest, format!("cannot use the secret {name}"), why).hint(HINT))
        };
        let origin = match reference.split_once(':') {
            Some(("env", variable)) if check_name(variable).is_ok() => Origin::Env(variable.to_owned()),
            Some(("env", _)) => return refuse("what follows env: is no variable's name"),
            Some(("file", "")) => return refuse("no path follows file:"),
            Some(("file", path)) if !path.contains('\0') => match std::path::absolute(path) {
                Ok(path) => Origin::File(path),
                Err(e) => return refuse(&format!("its path cannot be understood: {e}")),
            },
            _ => {
                return refuse(
                    "its value may not be given here, where every user of this computer can read it, only where it is",
                );
            }
        };
        Ok(Source { name: name.to_owned(), origin })
    }

    /// What it is called in the guest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its value is: `env:VAR` or `file:PATH`, absolute.
    pub fn reference(&self) -> String {
        match &self.origin {
            Origin::Env(variable) => format!("env:{variable}"),
            Origin::File(path) => format!("file:{}", path.display()),
        }
    }

    /// Of which kind that place is.
    pub fn kind(&self) -> SecretKind {
        match self.origin {
            Origin::Env(_) => SecretKind::Env,
            Origin::File(_) => SecretKind::File,
        }
    }

    /// Reads the value, and says what is wrong with how it is kept.
    pub fn resolve(&self) -> Result<(SecretValue, Vec<String>)> {
        let (bytes, mut warnings) = match &self.origin {
            Origin::Env(variable) => (self.variable(variable)?, Vec::new()),
            Origin::File(path) => self.file(path)?,
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| self.no_text())?;
        check_value(&self.name, text)?;
        if looks_like_a_word(text) {
            warnings.push(format!("the secret {} looks like a word: where it is redacted it shows itself", self.name));
        }
        Ok((text.to_owned().into(), warnings))
    }

    fn what(&self) -> String {
        format!("cannot use the secret {}", self.name)
    }

    fn no_text(&self) -> Error {
        let why = "its value is not UTF-8, and variables are text";
        Error::new(ErrorCode::InvalidRequest, self.what(), why).hint("encode it, for instance in base64")
    }

    fn variable(&self, variable: &str) -> Result<Zeroizing<Vec<u8>>> {
        use std::os::unix::ffi::OsStringExt;
        match std::env::var_os(variable) {
            Some(value) => Ok(Zeroizing::new(value.into_vec())),
            None => Err(Error::new(ErrorCode::NotFound, self.what(), format!("the variable {variable} is not set"))
                .hint(format!("set and export it, or write --secret {}=file:PATH", self.name))),
        }
    }

    /// Reads a regular file, whatever is put in its place meanwhile; nothing else is even opened for reading.
    fn file(&self, path: &Path) -> Result<(Zeroizing<Vec<u8>>, Vec<String>)> {
        let shown = crate::text::harmless(&path.display().to_string());
        let failed = |e: std::io::Error| {
            Error::named(format!("{}: {shown}", self.what()), e).hint("check the path, and that you may read the file")
        };
        let found = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let found = File::from(found.map_err(|e| failed(e.into()))?);
        let meta = found.metadata().map_err(failed)?;
        if !meta.is_file() {
            let why = format!("{shown} is no regular file");
            return Err(Error::new(ErrorCode::InvalidRequest, self.what(), why).hint(HINT));
        }
        // The very file that was looked at.
        let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(failed)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_VALUE + 3));
        file.take(MAX_VALUE as u64 + 3).read_to_end(&mut bytes).map_err(failed)?;
        let newline = [&b"\r\n"[..], b"\n"].into_iter().find(|end| bytes.ends_with(end)).map_or(0, <[u8]>::len);
        let len = bytes.len() - newline;
        bytes.truncate(len);
        let exposed = meta.permissions().mode() & 0o077 != 0;
        let warning = || format!("the secret {} is in a file that others may read: {shown} (chmod 600)", self.name);
        Ok((bytes, exposed.then(warning).into_iter().collect()))
    }
}

/// Only lower-case letters, only digits, or only blanks.
fn looks_like_a_word(value: &str) -> bool {
    let all = |of: fn(&u8) -> bool| value.as_bytes().iter().all(of);
    all(u8::is_ascii_lowercase) || all(u8::is_ascii_digit) || all(u8::is_ascii_whitespace)
}

/// Reads all of them. `env` are the names of variables that are given openly beside them.
pub fn resolve<'a>(sources: &[Source], env: impl Iterator<Item = &'a str>) -> Result<Resolved> {
    check_names(sources.iter().map(Source::name), env)?;
    let mut resolved = Resolved::default();
    for source in sources {
        let (value, warnings) = source.resolve()?;
        resolved.values.insert(source.name.clone(), value);
        resolved.warnings.extend(warnings);
    }
    Ok(resolved)
}

/// References as they are kept, by name.
pub fn references(references: &BTreeMap<String, String>) -> Result<Vec<Source>> {
    references.iter().map(|(name, reference)| Source::of_reference(name, reference)).collect()
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
