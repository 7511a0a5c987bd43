//! When the journal has the entries of a whole bundle: they become one, with the hashes over them, and it begins anew.
//!
//! Every step can be done again. The journal is replaced last, so until then it still has all the entries; what a crash
//! left behind is found to be equal, or completed.

use std::fs;
use std::path::Path;

use super::journal::{self, Journal, MAX_JOURNAL};
use super::nodes::Nodes;
use super::tile::{self, Kind};
use super::{BUNDLE, Log, damaged};
use crate::digest::Digest;
use crate::error::{Context, Result};
use crate::file;
use crate::merkle;

/// Makes a bundle of a full journal. The caller holds the lock.
pub(super) fn fill(log: &Log) -> Result<()> {
    let dir = &log.dir;
    let path = dir.join("journal");
    let bytes = file::read(&path, MAX_JOURNAL)?.ok_or_else(|| damaged(dir, "the file `journal` is missing"))?;
    let journal = Journal::parse(bytes).map_err(|why| damaged(dir, why))?;
    if !journal.is_full() {
        return Ok(());
    }
    fs::File::open(&path).and_then(|file| file.sync_data()).context(|| format!("cannot sync {}", path.display()))?;
    let index = journal.base / BUNDLE;
    put(dir, Kind::Entries, index, BUNDLE, &tile::bundle(journal.iter()))?;
    put(dir, Kind::Hashes(0), index, BUNDLE, &tile::tile(&journal.leaves))?;
    let highest = put_above(dir, &journal, index)?;
    remove_partials(dir, Kind::Entries, index);
    for level in 0..=highest {
        remove_partials(dir, Kind::Hashes(level), index >> (8 * level));
    }
    file::replace(&path, journal::header(journal.base + BUNDLE).as_bytes())
}

/// Adds the root of a full tile to the tile above it, and so on while that becomes full too. Returns the highest level
/// with a full tile.
fn put_above(dir: &Path, journal: &Journal, mut index: u64) -> Result<u32> {
    let mut nodes = Nodes::new(dir, journal);
    let mut root = merkle::root(&journal.leaves);
    for level in 1..8 {
        let (above, place) = (index / BUNDLE, index % BUNDLE);
        let before = (index - place..index).map(|child| nodes.node(8 * level, child));
        let hashes: Vec<Digest> = before.chain([Ok(root)]).collect::<Result<_>>()?;
        put(dir, Kind::Hashes(level), above, place + 1, &tile::tile(&hashes))?;
        if place + 1 < BUNDLE {
            return Ok(level - 1);
        }
        root = merkle::root(&hashes);
        index = above;
    }
    // There are no more than 2^52 entries.
    Ok(7)
}

/// Writes a tile that never changes again, or finds that it is there.
pub(super) fn put(dir: &Path, kind: Kind, index: u64, width: u64, content: &[u8]) -> Result<()> {
    let relative = tile::path(kind, index, width);
    let path = dir.join(&relative);
    match file::read(&path, content.len() as u64 + 1)? {
        Some(there) if there == content => file::sync_dir(path.parent().unwrap_or(dir)),
        Some(_) => Err(damaged(dir, format!("{} does not hold what the journal has", relative.display()))),
        None => {
            make_parents(dir, &relative)?;
            file::replace(&path, content)
        }
    }
}

/// Makes the directories of a file beneath `dir`, each durable before the next.
fn make_parents(dir: &Path, relative: &Path) -> Result<()> {
    let mut at = dir.to_owned();
    for part in relative.parent().into_iter().flat_map(Path::components) {
        let above = at.clone();
        at.push(part);
        if !at.is_dir() {
            file::create_dir(&at)?;
            file::sync_dir(&above)?;
        }
    }
    Ok(())
}

/// Nobody needs the partial forms of a full tile. If they cannot be removed, they only take space.
fn remove_partials(dir: &Path, kind: Kind, index: u64) {
    let _ = fs::remove_dir_all(dir.join(tile::partials(kind, index)));
}
