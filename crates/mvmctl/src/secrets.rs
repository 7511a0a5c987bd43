//! `--secret`: secrets by reference on a command line. Their values are read here, in the user's own process.

use std::collections::BTreeMap;

use clap::Args;
use mvm_runtime::secrets::{self, Resolved, Source};
use mvm_runtime::{Result, text};
use mvm_wire::api::SecretValues;

/// Secrets of a command or of a sandbox.
#[derive(Debug, Clone, Default, Args)]
pub struct SecretArgs {
    /// Give a secret in the variable NAME, redacted in all output. Its value does not stand here, where others could read
    /// it: NAME takes it from your variable NAME, NAME=env:VAR from another one, NAME=file:PATH from a file
    #[arg(long = "secret", value_name = "NAME[=env:VAR|=file:PATH]", value_parser = unread)]
    given: Vec<Unread>,
}

/// An argument that was not looked at: the parser would print one that it refuses, and it may be a secret.
#[derive(Clone)]
struct Unread(String);

impl std::fmt::Debug for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

fn unread(text: &str) -> std::result::Result<Unread, std::convert::Infallible> {
    Ok(Unread(text.to_owned()))
}

impl SecretArgs {
    /// Where the values are.
    fn sources(&self) -> Result<Vec<Source>> {
        self.given.iter().map(|given| Source::parse(&given.0)).collect()
    }

    /// Where the values are, by name, as it is kept.
    pub fn references(&self) -> Result<BTreeMap<String, String>> {
        let sources = self.sources()?;
        secrets::check_names(sources.iter().map(Source::name), std::iter::empty())?;
        Ok(sources.iter().map(|source| (source.name().to_owned(), source.reference())).collect())
    }

    /// Reads the values. `env` are the names of the variables that are given openly.
    pub fn resolve<'a>(&self, env: impl Iterator<Item = &'a str>) -> Result<Resolved> {
        resolve(&self.sources()?, env)
    }
}

/// Reads the values that the secrets of a request refer to, and notes what is to be said of them. `env` is what it gives openly.
pub fn read(
    secrets: &BTreeMap<String, String>,
    env: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Result<SecretValues> {
    let resolved = resolve(&secrets::references(secrets)?, env.keys().map(String::as_str))?;
    warnings.extend(resolved.warnings);
    Ok(resolved.values)
}

fn resolve<'a>(sources: &[Source], env: impl Iterator<Item = &'a str>) -> Result<Resolved> {
    if !sources.is_empty() {
        mvm_runtime::process::dump_no_core();
    }
    secrets::resolve(sources, env)
}

/// Says on standard error what is to be said of how secrets are kept.
pub fn warn(warnings: &[String], quiet: bool) {
    for warning in warnings.iter().filter(|_| !quiet) {
        eprintln!("mvmctl: warning: {}", text::harmless(warning));
    }
}
