//! The roots of complete subtrees, from the tiles that are on disk and the entries in the journal.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::journal::Journal;
use super::tile::{self, Kind, MAX_TILE};
use super::{BUNDLE, damaged};
use crate::digest::Digest;
use crate::error::Result;
use crate::file;
use crate::merkle::node_hash;

/// Tiles kept at once: 4 MiB.
const CACHED: usize = 512;

/// Finds hashes of one state of a log.
pub(super) struct Nodes<'a> {
    dir: PathBuf,
    journal: &'a Journal,
    cache: HashMap<(u32, u64), Option<Vec<Digest>>>,
}

impl Nodes<'_> {
    pub(super) fn new<'a>(dir: &Path, journal: &'a Journal) -> Nodes<'a> {
        Nodes { dir: dir.to_owned(), journal, cache: HashMap::new() }
    }

    /// The root of the entries `index << height .. (index + 1) << height`, all of which there must be.
    pub(super) fn node(&mut self, height: u32, index: u64) -> Result<Digest> {
        if height % 8 == 0 {
            if let Some(hash) = self.stored(height / 8, index)? {
                return Ok(hash);
            }
        }
        if height == 0 {
            return Err(damaged(&self.dir, format!("the hash of entry {index} is missing")));
        }
        Ok(node_hash(self.node(height - 1, index * 2)?, self.node(height - 1, index * 2 + 1)?))
    }

    fn stored(&mut self, level: u32, index: u64) -> Result<Option<Digest>> {
        if level == 0 && index >= self.journal.base {
            return Ok(self.journal.leaves.get((index - self.journal.base) as usize).copied());
        }
        let tile = index / BUNDLE;
        if !self.cache.contains_key(&(level, tile)) {
            if self.cache.len() >= CACHED {
                self.cache.clear();
            }
            let read = self.read(level, tile)?;
            self.cache.insert((level, tile), read);
        }
        let hashes = self.cache.get(&(level, tile)).and_then(Option::as_ref);
        Ok(hashes.and_then(|hashes| hashes.get((index % BUNDLE) as usize)).copied())
    }

    /// A tile as far as bundles are full. It can be missing above the lowest level: then it is made of those below.
    fn read(&self, level: u32, tile: u64) -> Result<Option<Vec<Digest>>> {
        let there = if level < 7 { self.journal.base >> (8 * level) } else { 0 };
        let width = there.saturating_sub(tile * BUNDLE).min(BUNDLE);
        if width == 0 {
            return Ok(None);
        }
        let path = tile::path(Kind::Hashes(level), tile, width);
        let Some(bytes) = file::read(&self.dir.join(&path), MAX_TILE)? else { return Ok(None) };
        match tile::hashes(&bytes).filter(|hashes| hashes.len() as u64 == width) {
            Some(hashes) => Ok(Some(hashes)),
            None => Err(damaged(&self.dir, format!("{} has another length", path.display()))),
        }
    }
}
