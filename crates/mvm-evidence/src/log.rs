//! The audit log: a hash tree of entries in one directory, laid out as C2SP tlog-tiles.
//!
//! - `origin`: the log's name, made once.
//! - `journal`: the entries that are in no full bundle yet; what appends write to.
//! - `tile/`: full bundles of 256 entries and the hashes over them; partial ones for each checkpoint.
//! - `checkpoint`: the signed size and root. Everything above it can be cut off unseen, nothing below it.
//! - `lock`: held by whoever writes.
//!
//! Any number of processes append. An append reads at most the journal, however long the log is.

mod append;
mod checkpoint;
mod fill;
pub(crate) mod journal;
mod nodes;
mod read;
pub(crate) mod tile;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub use append::Durability;
pub use read::Entries;

use crate::commitment::random;
use crate::error::{Error, Kind, Result};
use crate::file;
use append::Tail;
use journal::MAX_JOURNAL;

/// Entries in a full bundle, and hashes in a full tile.
pub(crate) const BUNDLE: u64 = 256;

/// An audit log on disk: whichever is in its directory, also when another one was begun there since it was opened.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    /// Where this process saw the journal end.
    tail: Mutex<Option<Tail>>,
}

impl Log {
    /// Opens the log in a directory, and makes one if there is none.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Log> {
        let dir = dir.into();
        if read_origin(&dir)?.is_some() {
            return Ok(Log { dir, tail: Mutex::default() });
        }
        file::create_dir(&dir)?;
        let _lock = file::lock(&dir.join("lock"))?;
        // Somebody may have been faster.
        if read_origin(&dir)?.is_none() {
            create(&dir)?;
        }
        Ok(Log { dir, tail: Mutex::default() })
    }

    /// Opens the log in a directory, if there is one.
    pub fn open_existing(dir: impl Into<PathBuf>) -> Result<Log> {
        let dir = dir.into();
        match read_origin(&dir)? {
            Some(_) => Ok(Log { dir, tail: Mutex::default() }),
            None => {
                let what = format!("there is no audit log in {}", dir.display());
                Err(Error::new(Kind::NotFound, what, "nothing was logged there yet").hint("make one: mvmctl setup"))
            }
        }
    }

    /// The log's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name of the log that is in the directory now: `mvm/` and 32 random hexadecimal digits. Receipts, checkpoints and
    /// proofs carry it.
    pub fn origin(&self) -> Result<String> {
        read_origin(&self.dir)?.ok_or_else(|| unnamed(&self.dir))
    }
}

/// The name of the log in a directory; `None` if there is no log.
pub(crate) fn read_origin(dir: &Path) -> Result<Option<String>> {
    let Some(bytes) = file::read(&dir.join("origin"), 100)? else { return Ok(None) };
    let origin = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n'));
    match origin.filter(|origin| is_origin(origin)) {
        Some(origin) => Ok(Some(origin.to_owned())),
        None => Err(damaged(dir, "the file `origin` does not hold the name of a log")),
    }
}

/// Whether this is how a log of mvm is named.
pub(crate) fn is_origin(text: &str) -> bool {
    text.strip_prefix("mvm/")
        .is_some_and(|id| id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// Makes an empty log. Its name is written last: without one, there is no log.
fn create(dir: &Path) -> Result<()> {
    if ["tile", "checkpoint"].iter().any(|name| dir.join(name).symlink_metadata().is_ok()) {
        return Err(unnamed(dir));
    }
    let journal = dir.join("journal");
    // An empty one may be what a crash left here before there was a name.
    let empty = journal::header(0);
    if file::read(&journal, MAX_JOURNAL)?.is_some_and(|there| there != empty.as_bytes()) {
        return Err(unnamed(dir));
    }
    let origin = format!("mvm/{}", hex::encode(random::<16>()?));
    file::replace(&journal, empty.as_bytes())?;
    file::replace(&dir.join("origin"), format!("{origin}\n").as_bytes())
}

/// What is there belongs to a log whose name is gone.
fn unnamed(dir: &Path) -> Error {
    damaged(dir, "the file `origin` is missing")
}

/// A log that is not as mvm wrote it.
pub(crate) fn damaged(dir: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Damaged, format!("the audit log in {} was changed", dir.display()), why).hint(format!(
        "look at it with: mvmctl audit verify; to begin another log, keep this one elsewhere: mv {0} {0}.old",
        dir.display()
    ))
}
