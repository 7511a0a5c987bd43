//! Reading entries, beside any number of writers.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::journal::{Journal, MAX_JOURNAL};
use super::tile::{self, Kind, MAX_BUNDLE};
use super::{BUNDLE, Log, damaged};
use crate::entry::Entry;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::file;

impl Log {
    /// How many entries there are.
    pub fn size(&self) -> Result<u64> {
        Ok(snapshot(&self.dir)?.size())
    }

    /// The entry with this index.
    pub fn entry(&self, index: u64) -> Result<Entry> {
        Entry::from_bytes(&self.entry_bytes(index)?).map_err(|why| damaged(&self.dir, format!("entry {index}: {why}")))
    }

    /// The entry with this index, as it is hashed.
    pub fn entry_bytes(&self, index: u64) -> Result<Vec<u8>> {
        let journal = snapshot(&self.dir)?;
        if index >= journal.size() {
            let why = format!("the log in {} has {} entries", self.dir.display(), journal.size());
            return Err(Error::new(ErrorKind::NotFound, format!("there is no entry {index}"), why)
                .hint("see the last ones: mvmctl audit tail"));
        }
        if let Some(entry) = journal.get(index) {
            return Ok(entry.to_vec());
        }
        let bundle = read_bundle(&self.dir, index / BUNDLE)?;
        let entries = tile::entries(&bundle).map_err(|why| damaged(&self.dir, why))?;
        let entry = entries.get((index % BUNDLE) as usize);
        entry.map(|entry| entry.to_vec()).ok_or_else(|| damaged(&self.dir, format!("entry {index} is missing")))
    }

    /// The last `count` entries with their indices, in order.
    pub fn tail(&self, count: u64) -> Result<Vec<(u64, Entry)>> {
        let size = self.size()?;
        self.entries(size.saturating_sub(count))
            .take_while(|item| item.as_ref().map_or(true, |(i, _)| *i < size))
            .collect()
    }

    /// The entries from an index on. When it has come to the end it can be asked again later: what was added since
    /// follows.
    pub fn entries(&self, from: u64) -> Entries {
        Entries { dir: self.dir.clone(), next: from, read: VecDeque::new(), failed: false }
    }
}

/// Entries in order; see [`Log::entries`]. An error is the last item.
#[derive(Debug)]
pub struct Entries {
    dir: PathBuf,
    next: u64,
    read: VecDeque<Vec<u8>>,
    failed: bool,
}

impl Entries {
    fn read_more(&mut self) -> Result<()> {
        let journal = snapshot(&self.dir)?;
        if self.next >= journal.base {
            self.read.extend((self.next..journal.size()).filter_map(|index| journal.get(index)).map(<[u8]>::to_vec));
            return Ok(());
        }
        let bundle = read_bundle(&self.dir, self.next / BUNDLE)?;
        let entries = tile::entries(&bundle).map_err(|why| damaged(&self.dir, why))?;
        if entries.len() as u64 != BUNDLE {
            return Err(damaged(&self.dir, format!("bundle {} is not full", self.next / BUNDLE)));
        }
        self.read.extend(entries.into_iter().skip((self.next % BUNDLE) as usize).map(<[u8]>::to_vec));
        Ok(())
    }
}

impl Iterator for Entries {
    type Item = Result<(u64, Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.read.is_empty() {
            if let Err(error) = self.read_more() {
                self.failed = true;
                return Some(Err(error));
            }
        }
        let bytes = self.read.pop_front()?;
        let index = self.next;
        self.next += 1;
        let entry = Entry::from_bytes(&bytes).map_err(|why| damaged(&self.dir, format!("entry {index}: {why}")));
        self.failed = entry.is_err();
        Some(entry.map(|entry| (index, entry)))
    }
}

/// The journal as it is now.
pub(crate) fn snapshot(dir: &Path) -> Result<Journal> {
    let _lock = file::lock_shared(&dir.join("lock"))?;
    snapshot_unlocked(dir)
}

/// The same for who holds the lock.
pub(super) fn snapshot_unlocked(dir: &Path) -> Result<Journal> {
    let bytes = file::read(&dir.join("journal"), MAX_JOURNAL)?;
    let bytes = bytes.ok_or_else(|| damaged(dir, "the file `journal` is missing"))?;
    Journal::parse(bytes).map_err(|why| damaged(dir, why))
}

/// A full bundle.
pub(crate) fn read_bundle(dir: &Path, index: u64) -> Result<Vec<u8>> {
    let path = tile::path(Kind::Entries, index, BUNDLE);
    file::read(&dir.join(&path), MAX_BUNDLE)?.ok_or_else(|| damaged(dir, format!("{} is missing", path.display())))
}
