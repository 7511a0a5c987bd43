//! Files that are there whole or not at all, also after a crash, and locks that die with their holder.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags};

use crate::error::{Context, Error, Kind, Result};

/// How the names of files end that are being written.
const UNFINISHED: &str = "new";

/// Makes a directory and those above it, private to the user.
pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).context(|| format!("cannot create {}", dir.display()))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).context(|| format!("cannot sync {}", dir.display()))
}

/// Replaces a file by a whole new one. The caller holds the lock of the directory: the temporary name is a fixed one.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let Some(dir) = path.parent() else {
        return Err(Error::new(Kind::Invalid, format!("cannot write {}", path.display()), "it is in no directory"));
    };
    let temporary = path.with_extension(UNFINISHED);
    let write = || -> std::io::Result<()> {
        // What a killed process left is not written into: it may be a link.
        let _ = fs::remove_file(&temporary);
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write()
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
        .context(|| format!("cannot write {}", path.display()))?;
    sync_dir(dir)
}

/// Removes what [`replace`] was killed at. The caller holds the lock of the directory. What cannot be removed only takes
/// space.
pub(crate) fn remove_unfinished(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == UNFINISHED) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// A file's content, if it is a plain file of at most `max` bytes. `None` if there is none.
pub(crate) fn read(path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
    let what = || format!("cannot read {}", path.display());
    let options = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = match File::options().read(true).custom_flags(options).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(what(), e)),
    };
    read_open(file, max).map(Some).map_err(|e| match e {
        ReadError::Io(e) => Error::io(what(), e),
        ReadError::NotPlain => Error::new(Kind::Damaged, what(), "it is not a plain file"),
        ReadError::TooLong => Error::new(Kind::Damaged, what(), format!("it has more than {max} bytes")),
    })
}

/// Why an open file could not be read.
pub(crate) enum ReadError {
    Io(std::io::Error),
    NotPlain,
    TooLong,
}

impl From<std::io::Error> for ReadError {
    fn from(e: std::io::Error) -> ReadError {
        ReadError::Io(e)
    }
}

/// The content of an open file, from its present position.
pub(crate) fn read_open(file: File, max: u64) -> std::result::Result<Vec<u8>, ReadError> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(ReadError::NotPlain);
    }
    let mut content = Vec::with_capacity(meta.len().min(max) as usize);
    file.take(max + 1).read_to_end(&mut content)?;
    if content.len() as u64 > max { Err(ReadError::TooLong) } else { Ok(content) }
}

/// Takes the lock `path` for writers, making it if it is missing; it is held until the file is dropped.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let what = || format!("cannot lock {}", path.display());
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path).context(what)?;
    flock(&file, FlockOperation::LockExclusive).context(what)?;
    Ok(file)
}

/// Takes the lock `path` beside other readers. `None` if there is no such file.
pub(crate) fn lock_shared(path: &Path) -> Result<Option<File>> {
    let what = || format!("cannot lock {}", path.display());
    match File::open(path) {
        Ok(file) => flock(&file, FlockOperation::LockShared).context(what).map(|()| Some(file)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(what(), e)),
    }
}

fn flock(file: &File, operation: FlockOperation) -> rustix::io::Result<()> {
    rustix::io::retry_on_intr(|| rustix::fs::flock(file, operation))
}
