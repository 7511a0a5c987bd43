//! `--receipt FILE`: the receipt of a command that this process has run, and the proof beside it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use mvm_runtime::evidence::{self, Ended, Receipt};
use mvm_runtime::home::unique;
use mvm_runtime::{Error, ErrorCode, Home, Result};

/// What the proof's file is called after the receipt's.
const PROOF_ENDING: &str = ".tlog-proof";

/// Refuses a place where no receipt can be written, and a home without a key to sign it, before anything runs.
pub fn check(home: &Home, file: Option<&Path>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let what = || format!("cannot write the receipt {}", file.display());
    if std::fs::symlink_metadata(file).is_ok_and(|meta| !meta.is_file()) {
        let why = "there is something in its place that is no regular file";
        return Err(Error::new(ErrorCode::FileError, what(), why).hint("name a file"));
    }
    // The way there, and that something can be made there.
    let probe = beside(file);
    File::options().create_new(true).write(true).open(&probe).map_err(|e| Error::io(what(), e))?;
    std::fs::remove_file(probe).map_err(|e| Error::io(what(), e))?;
    // Its private half is for the process that signs.
    evidence::prepare(home).map(drop)
}

/// Has the receipt of a command signed and writes it where it was asked for.
pub fn write(home: &Home, of: &Ended, file: &Path) -> Result<()> {
    let Receipt { envelope, proof } = evidence::receipt(home, of)?;
    // The proof first: whoever finds a receipt finds what goes with it.
    replace(&proof_of(file), &proof)?;
    replace(file, &envelope)
}

/// Where the proof is that travels with a receipt.
pub fn proof_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(PROOF_ENDING);
    PathBuf::from(name)
}

/// A new name in the same directory, which nobody can foresee.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".new-{}", unique()));
    PathBuf::from(name)
}

/// A reader finds the old file or the new one, never a part.
fn replace(file: &Path, content: &[u8]) -> Result<()> {
    let temporary = beside(file);
    let write = || -> std::io::Result<()> {
        File::options().create_new(true).write(true).open(&temporary)?.write_all(content)?;
        std::fs::rename(&temporary, file)
    };
    let what = || format!("cannot write {}", file.display());
    write().inspect_err(|_| drop(std::fs::remove_file(&temporary))).map_err(|e| Error::io(what(), e))
}
