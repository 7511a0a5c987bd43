//! The journal: the entries that are in no full bundle yet, in one file that only grows.
//!
//! It begins with `mvm-journal-v1 `, the index of its first entry as 16 hexadecimal digits, and a line end. Each record is
//!
//! ```text
//! length   2 bytes, big-endian: of the entry
//! head     6 bytes: the first of SHA-256(index as 8 bytes ‖ length)
//! body     8 bytes: the first of the entry's leaf hash
//! entry    as the log hashes it
//! ```
//!
//! A crash in the middle of a write leaves the beginning of a record, with nothing or with zeros behind it. Everything
//! else that does not fit was changed by somebody: with a head of its own, a record cannot be passed off as torn by
//! altering its length, and with the index in it, none can change places.

use std::ops::Range;

use super::BUNDLE;
use crate::digest::Digest;
use crate::entry::MAX_ENTRY;
use crate::merkle::leaf_hash;

/// Length of the file's head.
pub(super) const HEADER: usize = 32;
const MAGIC: &str = "mvm-journal-v1 ";
const FRAME: usize = 16;
/// Longer than any journal, with a torn tail of any kind.
pub(crate) const MAX_JOURNAL: u64 = 4 << 20;

/// The head of a journal whose first entry is `base`.
pub(super) fn header(base: u64) -> String {
    format!("{MAGIC}{base:016x}\n")
}

/// An entry as a record.
pub(super) fn record(index: u64, entry: &[u8]) -> Vec<u8> {
    // Entries are at most 4096 bytes long.
    let length = entry.len() as u16;
    let mut record = length.to_be_bytes().to_vec();
    record.extend_from_slice(&head(index, length));
    record.extend_from_slice(&leaf_hash(entry).0[..8]);
    record.extend_from_slice(entry);
    record
}

fn head(index: u64, length: u16) -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = Digest::of(&[&index.to_be_bytes()[..], &length.to_be_bytes()[..]].concat()).0;
    [a, b, c, d, e, f]
}

/// What is in a journal.
#[derive(Debug)]
pub(crate) struct Journal {
    /// The index of its first entry.
    pub base: u64,
    bytes: Vec<u8>,
    entries: Vec<Range<usize>>,
    /// The entries' hashes.
    pub leaves: Vec<Digest>,
    /// Where the last whole record ends.
    pub end: usize,
}

impl Journal {
    /// Reads a whole file. The error says what does not fit.
    pub fn parse(bytes: Vec<u8>) -> Result<Journal, String> {
        let base = bytes
            .get(..HEADER)
            .and_then(|head| std::str::from_utf8(head).ok())
            .and_then(|head| u64::from_str_radix(head.strip_prefix(MAGIC)?.strip_suffix('\n')?, 16).ok())
            .filter(|base| bytes.starts_with(header(*base).as_bytes()) && base % BUNDLE == 0 && *base < 1 << 52)
            .ok_or("its first line is not a journal's")?;
        let mut journal = Journal { base, bytes, entries: Vec::new(), leaves: Vec::new(), end: HEADER };
        while let Some((entry, leaf)) = next(&journal.bytes, journal.end, journal.size())? {
            if journal.leaves.len() as u64 == BUNDLE {
                return Err("it has more entries than a journal can".to_owned());
            }
            journal.end = entry.end;
            journal.entries.push(entry);
            journal.leaves.push(leaf);
        }
        Ok(journal)
    }

    /// How many entries the log has together with these.
    pub fn size(&self) -> u64 {
        self.base + self.leaves.len() as u64
    }

    /// Whether it is to become a bundle.
    pub fn is_full(&self) -> bool {
        self.leaves.len() as u64 == BUNDLE
    }

    /// Bytes of a write that a crash cut short.
    pub fn torn(&self) -> usize {
        self.bytes.len() - self.end
    }

    /// An entry by its index in the log.
    pub fn get(&self, index: u64) -> Option<&[u8]> {
        let place = usize::try_from(index.checked_sub(self.base)?).ok()?;
        self.entries.get(place).map(|range| &self.bytes[range.clone()])
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(|range| &self.bytes[range.clone()])
    }
}

/// The record at `at`, with its entry's hash; `None` at the end, which may be torn.
fn next(bytes: &[u8], at: usize, index: u64) -> Result<Option<(Range<usize>, Digest)>, String> {
    let rest = bytes.get(at..).unwrap_or_default();
    // No entry ends in a zero.
    let written = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let [high, low, ..] = *rest else { return Ok(None) };
    if written < 8 {
        return Ok(None);
    }
    let length = u16::from_be_bytes([high, low]);
    if rest[2..8] != head(index, length) || !(1..=MAX_ENTRY).contains(&usize::from(length)) {
        return Err(format!("what stands where entry {index} belongs is no record of it"));
    }
    let entry = at + FRAME..at + FRAME + usize::from(length);
    if written < FRAME + usize::from(length) {
        return Ok(None);
    }
    let leaf = leaf_hash(&bytes[entry.clone()]);
    if leaf.0[..8] != rest[8..FRAME] {
        return Err(format!("entry {index} is not as it was written"));
    }
    Ok(Some((entry, leaf)))
}
