//! `--receipt FILE`: the receipt of a command that this process has run, and the proof beside it.

use std::path::{Path, PathBuf};

use mvm_runtime::evidence::{self, Ended, Receipt};
use mvm_runtime::{Home, Result};

use crate::replace;

/// What the proof's file is called after the receipt's.
const PROOF_ENDING: &str = ".tlog-proof";

/// Refuses a place where no receipt can be written, and a home without a key to sign it, before anything runs.
pub fn check(home: &Home, file: Option<&Path>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    replace::check(file)?;
    // Its private half is for the process that signs.
    evidence::prepare(home).map(drop)
}

/// Has the receipt of a command signed and writes it where it was asked for.
pub fn write(home: &Home, of: &Ended, file: &Path) -> Result<()> {
    let Receipt { envelope, proof } = evidence::receipt(home, of)?;
    // The proof first: whoever finds a receipt finds what goes with it.
    replace::replace(&proof_of(file), &proof)?;
    replace::replace(file, &envelope)
}

/// Where the proof is that travels with a receipt.
pub fn proof_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(PROOF_ENDING);
    PathBuf::from(name)
}
