//! `--receipt FILE`: the receipt of a command that this process has run, and the proof beside it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use mvm_runtime::evidence::{self, Ended, Receipt};
use mvm_runtime::{Error, Home, Result};

/// What the proof's file is called after the receipt's.
const PROOF_ENDING: &str = ".tlog-proof";

/// Refuses a place where no receipt can be written, before anything runs.
pub fn check(file: Option<&Path>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let what = || format!("cannot write the receipt {}", file.display());
    if file.is_dir() {
        return Err(Error::io(what(), std::io::Error::from_raw_os_error(libc::EISDIR)).hint("name a file"));
    }
    // The way there, and that something can be made there.
    let dir = directory(file);
    let probe = dir.join(format!(".mvm-{}", std::process::id()));
    File::options().create_new(true).write(true).open(&probe).map_err(|e| Error::io(what(), e))?;
    std::fs::remove_file(probe).map_err(|e| Error::io(what(), e))
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

fn directory(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A reader finds the old file or the new one, never a part.
fn replace(file: &Path, content: &[u8]) -> Result<()> {
    let what = || format!("cannot write {}", file.display());
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(format!(".new-{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let write = || -> std::io::Result<()> {
        File::create(&temporary)?.write_all(content)?;
        std::fs::rename(&temporary, file)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&temporary))).map_err(|e| Error::io(what(), e))
}
