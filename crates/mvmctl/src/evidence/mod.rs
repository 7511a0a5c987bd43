//! The verbs of what proves afterwards what ran: keys, the audit log, receipts.

pub mod args;
pub mod audit;
pub mod key;
mod list;
pub mod receipt;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use mvm_evidence::PublicKey;
use mvm_runtime::error::IoContext;
use mvm_runtime::{Error, ErrorCode, Home, Result, evidence};

use crate::output;

/// Runs a verb: its status, or its error printed.
fn verb(json: bool, work: impl FnOnce() -> Result<u8>) -> u8 {
    work().unwrap_or_else(|error| output::error(&error, json))
}

/// The public keys in these files; without any, all of the user's own.
fn trusted_keys(files: &[PathBuf]) -> Result<Vec<PublicKey>> {
    if !files.is_empty() {
        return files.iter().map(|file| read_key(file)).collect();
    }
    let keys = evidence::keys(&Home::locate()?).public_keys()?;
    if keys.is_empty() {
        return Err(Error::new(ErrorCode::NotFound, "cannot check signatures", "there is no key to check them with")
            .hint("give the signer's public key with --key FILE"));
    }
    Ok(keys)
}

fn read_key(file: &Path) -> Result<PublicKey> {
    let bytes = read(file, 16 << 10)?;
    PublicKey::from_pem(&String::from_utf8_lossy(&bytes)).map_err(|error| {
        let error = Error::from(error);
        Error { what: format!("{} {}", error.what, file.display()), ..error }
    })
}

/// The first bytes of a file that the caller named: `max` of them and one more, so that too long a file is seen to be.
fn read(file: &Path, max: usize) -> Result<Vec<u8>> {
    let what = || format!("cannot read {}", file.display());
    let opened = File::open(file).map_err(|e| Error::named(what(), e))?;
    let mut bytes = Vec::new();
    opened.take(max as u64 + 1).read_to_end(&mut bytes).context(what)?;
    Ok(bytes)
}
