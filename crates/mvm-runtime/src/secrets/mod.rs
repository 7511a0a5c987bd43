//! Secrets: named by references, read in the caller's process, given to the commands they are meant for, and redacted
//! in everything that these write. Pure, but for [`source`], which reads variables and files.

mod forms;
mod known;
mod output;
mod redact;
mod rules;
mod shapes;
mod source;

use std::collections::{BTreeMap, BTreeSet};

use mvm_wire::ErrorCode;
use mvm_wire::api::SecretValues;

use crate::error::{Error, Result};

pub use known::{Grant, Handover, Known};
pub use output::{Redacted, Redactors, redact_error, redact_result};
pub use redact::{Patterns, Piece, Redactor};
pub use rules::{Rule, Step, rules};
pub use shapes::{LogFilter, looks_like};
pub use source::{Resolved, Source, references, resolve};

/// The most secrets of one request.
pub const MAX_SECRETS: usize = 32;
/// The longest name of a secret, in bytes.
pub const MAX_NAME: usize = 128;
/// The shortest value, in bytes. A shorter one cannot be told from ordinary text.
pub const MIN_VALUE: usize = 8;
/// The longest value, in bytes.
pub const MAX_VALUE: usize = 64 << 10;

/// What stands in output where a secret was.
pub fn marker(name: &str) -> String {
    format!("[redacted:{name}]")
}

/// Refuses what can be no name of a secret: it becomes a variable's. The error does not show it: it may be the secret.
pub fn check_name(name: &str) -> Result<()> {
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let bytes = name.as_bytes();
    let well_formed =
        bytes.first().is_some_and(|first| letter(*first)) && bytes.iter().all(|b| letter(*b) || b.is_ascii_digit());
    if well_formed && bytes.len() <= MAX_NAME {
        return Ok(());
    }
    let why = "its name is no variable's: letters, digits and _, not a digit first, at most 128 bytes";
    Err(Error::new(ErrorCode::InvalidRequest, "cannot use a secret", why).hint("--secret API_TOKEN"))
}

/// Refuses what can be no value of a secret, without showing it.
pub fn check_value(name: &str, value: &str) -> Result<()> {
    let refuse = |why: &str, hint: &str| {
        Err(Error::new(ErrorCode::InvalidRequest, format!("cannot use the secret {name}"), why).hint(hint))
    };
    match value.len() {
        0 => refuse("its value is empty", "check where it comes from; what may be empty is given with --env"),
        len if len < MIN_VALUE => refuse(
            "its value is shorter than 8 bytes: in output it could not be told from ordinary text",
            "use a longer one; what is no secret is given with --env",
        ),
        len if len > MAX_VALUE => {
            refuse("its value is larger than 64 KiB", "pass it as a file (`mvmctl fs write`), which is not redacted")
        }
        _ if value.contains('\0') => {
            refuse("there is a NUL in its value, which no variable can hold", "encode it, for instance in base64")
        }
        _ if marker(name).contains(value) => {
            refuse("its value is part of what stands for it in output", "give it another name")
        }
        _ => Ok(()),
    }
}

/// Refuses secrets that no request can have. `env` are the variables that it gives openly.
pub fn check<V>(secrets: &SecretValues, env: &BTreeMap<String, V>) -> Result<()> {
    check_names(secrets.keys().map(String::as_str), env.keys().map(String::as_str))?;
    secrets.iter().try_for_each(|(name, value)| check_value(name, value.expose()))
}

/// The same of their names alone. Each may be there only once.
pub fn check_names<'a, 'b>(names: impl Iterator<Item = &'a str>, env: impl Iterator<Item = &'b str>) -> Result<()> {
    let refuse = |what: String, why: &str, hint: &str| Err(Error::new(ErrorCode::InvalidRequest, what, why).hint(hint));
    let env: BTreeSet<&str> = env.collect();
    let mut seen = BTreeSet::new();
    for name in names {
        check_name(name)?;
        let what = format!("cannot use the secret {name}");
        if !seen.insert(name) {
            return refuse(what, "it is given twice", "give each name once");
        }
        if env.contains(name) {
            return refuse(what, "a variable of this name is also given openly", "leave out one of --secret and --env");
        }
    }
    if seen.len() > MAX_SECRETS {
        let why = format!("there are {}, and at most {MAX_SECRETS} are taken", seen.len());
        return refuse("cannot use so many secrets".into(), &why, "put several into one file");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_variables_names() {
        for good in ["A", "_", "API_TOKEN", "a1", &"N".repeat(MAX_NAME)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "1A", "A-B", "A B", "A=B", "Ä", "A\0", "A\n", &"N".repeat(MAX_NAME + 1)] {
            let error = check_name(bad).unwrap_err();
            assert!(bad.len() < 2 || !format!("{error} {}", error.hint).contains(bad), "{error}");
        }
    }

    #[test]
    fn values_that_cannot_be_redacted_or_passed_are_refused_and_not_shown() {
        for (value, why) in [
            ("", "empty"),
            ("x", "shorter than 8"),
            ("1234567", "shorter than 8"),
            ("hunter2\0hunter2", "NUL"),
            (&"hunter2".repeat(10_000), "larger than 64 KiB"),
        ] {
            let error = check_value("TOKEN", value).unwrap_err();
            assert!(error.why.contains(why) && error.what.contains("TOKEN"), "{error}");
            assert!(!format!("{error} {}", error.hint).contains("hunter2"), "{error}");
        }
        assert!(check_value("PASSWORD", "PASSWORD").unwrap_err().why.contains("stands for it"));
        assert!(check_value("TOKEN", "redacted").is_err());
        assert!(check_value("TOKEN", "12345678").is_ok() && check_value("TOKEN", &"x".repeat(MAX_VALUE)).is_ok());
    }

    #[test]
    fn a_set_has_each_name_once_and_is_bounded() {
        let names: Vec<String> = (0..=MAX_SECRETS).map(|n| format!("S{n}")).collect();
        let check = |names: &[String], env: &[&'static str]| {
            let names: Vec<String> = names.to_vec();
            check_names(names.iter().map(String::as_str), env.iter().copied()).map_err(|e| e.to_string())
        };
        assert!(check(&names[1..], &["OTHER"]).is_ok());
        assert!(check(&names, &[]).unwrap_err().contains("at most 32"));
        assert!(check(&["A".into(), "A".into()], &[]).unwrap_err().contains("twice"));
        assert!(check(&["A".into()], &["B", "A"]).unwrap_err().contains("openly"));
    }
}
