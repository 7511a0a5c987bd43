//! Adding an entry: at the end of the journal, under the lock, and all of it or nothing.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::PoisonError;

use super::journal::{self, Journal, MAX_JOURNAL};
use super::tile::{self, Kind};
use super::{BUNDLE, Log, damaged, fill};
use crate::entry::Entry;
use crate::error::{Context, Error, Kind as ErrorKind, Result};
use crate::file;

/// What an append waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The entry, and all before it, survive the loss of power.
    Durable,
    /// The entry survives the end of this process; the next durable append or checkpoint makes it durable.
    Batched,
}

/// Where a journal ends, and the state in which this process saw it.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    state: State,
    base: u64,
    count: u64,
    end: u64,
}

/// What tells whether a file is the one that it was: every write to it, and every other file in its place, changes this.
/// Two writes within one tick of the kernel's clock, of the same length, do not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    length: u64,
    /// Unlike the time of the last write, nobody can set it: seconds and nanoseconds.
    changed: (i64, i64),
}

impl State {
    fn of(file: &File) -> std::io::Result<State> {
        let meta = file.metadata()?;
        let changed = (meta.ctime(), meta.ctime_nsec());
        Ok(State { device: meta.dev(), inode: meta.ino(), length: meta.len(), changed })
    }
}

impl Log {
    /// Adds an entry and returns its index. If the disk is full the log is as it was before. A write that a crash cut
    /// short is cleared away first; an entry that is not as it was written is an error.
    pub fn append(&self, entry: &Entry, durability: Durability) -> Result<u64> {
        let bytes = entry.to_bytes().map_err(|why| Error::new(ErrorKind::Invalid, "cannot log this", why))?;
        let mut known = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let _lock = self.lock()?;
        // What has no name is no log.
        self.origin()?;
        let (mut journal, mut tail) = self.find_end(known.take())?;
        if tail.count == BUNDLE {
            fill::fill(self)?;
            (journal, tail) = self.find_end(None)?;
        }
        let index = tail.base + tail.count;
        let record = journal::record(index, &bytes);
        let what = || format!("cannot write to the audit log in {}", self.dir.display());
        if tail.state.length > tail.end {
            journal.set_len(tail.end).context(what)?;
        }
        let write = || -> std::io::Result<()> {
            journal.write_all_at(&record, tail.end)?;
            if durability == Durability::Durable { journal.sync_data() } else { Ok(()) }
        };
        // Should this fail too, then a torn record stays, and the next append clears it away.
        write().inspect_err(|_| drop(journal.set_len(tail.end))).context(what)?;
        tail.count += 1;
        tail.end += record.len() as u64;
        // The entry is there, even if this cannot be told.
        *known = State::of(&journal).ok().map(|state| Tail { state, ..tail });
        Ok(index)
    }

    /// Waits for its turn to write.
    pub(super) fn lock(&self) -> Result<File> {
        file::lock(&self.dir.join("lock"))
    }

    /// The journal, and where it ends. It is read, and each entry checked, unless this process was the last to write.
    fn find_end(&self, known: Option<Tail>) -> Result<(File, Tail)> {
        let path = self.dir.join("journal");
        let journal = File::options().read(true).write(true).open(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => damaged(&self.dir, "the file `journal` is missing"),
            _ => Error::io(format!("cannot open {}", path.display()), e),
        })?;
        let state = State::of(&journal).context(|| format!("cannot read {}", path.display()))?;
        if let Some(tail) = known.filter(|tail| tail.state == state) {
            return Ok((journal, tail));
        }
        let read = self.read_whole(&journal)?;
        let tail = Tail { state, base: read.base, count: read.size() - read.base, end: read.end as u64 };
        Ok((journal, tail))
    }

    fn read_whole(&self, journal: &File) -> Result<Journal> {
        let duplicate = journal.try_clone().context(|| "cannot read the journal".to_owned())?;
        let bytes = file::read_open(duplicate, MAX_JOURNAL).map_err(|e| match e {
            file::ReadError::Io(e) => Error::io(format!("cannot read the audit log in {}", self.dir.display()), e),
            _ => damaged(&self.dir, "the file `journal` is not one"),
        })?;
        let journal = Journal::parse(bytes).map_err(|why| damaged(&self.dir, why))?;
        self.check_place(&journal)?;
        Ok(journal)
    }

    /// A journal that was put back, or emptied, does not go with the bundles that are there.
    pub(super) fn check_place(&self, journal: &Journal) -> Result<()> {
        let bundle = journal.base / BUNDLE;
        let is_there = |index| self.dir.join(tile::path(Kind::Entries, index, BUNDLE)).exists();
        if bundle > 0 && !is_there(bundle - 1) {
            return Err(damaged(&self.dir, format!("the bundle before the journal is missing, number {}", bundle - 1)));
        }
        if !journal.is_full() && is_there(bundle) {
            return Err(damaged(&self.dir, "the journal is older than the bundles"));
        }
        Ok(())
    }
}
