//! One pass over all entries, with the right edge of the tree in memory.

use std::fs;
use std::path::Path;

use super::Report;
use crate::checkpoint::Checkpoint;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::file;
use crate::log::BUNDLE;
use crate::log::journal::{Journal, MAX_JOURNAL};
use crate::log::tile::{self, Kind, MAX_BUNDLE, MAX_TILE};
use crate::merkle::{self, Edge, leaf_hash};

/// What a checkpoint with a good signature says.
pub(super) struct Claim {
    pub checkpoint: Checkpoint,
    pub witness: bool,
}

pub(super) struct Walk<'a> {
    dir: &'a Path,
    report: &'a mut Report,
    /// Ordered by size; those before `met` were reached.
    claims: Vec<Claim>,
    met: usize,
    edge: Edge,
    /// The hashes of the tile at the right edge of each level.
    levels: Vec<Vec<Digest>>,
}

impl Walk<'_> {
    pub(super) fn new<'a>(dir: &'a Path, mut claims: Vec<Claim>, report: &'a mut Report) -> Walk<'a> {
        claims.sort_by_key(|claim| claim.checkpoint.size());
        Walk { dir, report, claims, met: 0, edge: Edge::default(), levels: vec![Vec::new()] }
    }

    /// Reads everything once.
    pub(super) fn run(mut self) {
        self.meet_claims();
        let journal = self.journal();
        let bundles = journal.as_ref().map(|journal| journal.base / BUNDLE);
        let complete = self.bundles(bundles);
        if let Some(journal) = journal.filter(|_| complete) {
            self.rest(&journal);
        }
        if complete {
            self.partial_tiles();
            self.signed_partials();
        }
        self.report.size = self.edge.size();
        self.unmet_claims(complete);
    }

    fn journal(&mut self) -> Option<Journal> {
        let _lock = file::lock_shared(&self.dir.join("lock"));
        let journal = match file::read(&self.dir.join("journal"), MAX_JOURNAL) {
            Ok(Some(bytes)) => Journal::parse(bytes),
            Ok(None) => {
                self.report.find("journal-missing", "there is no file `journal`");
                return None;
            }
            Err(error) => Err(error.why),
        };
        match journal {
            Ok(journal) => {
                self.report.torn_bytes = journal.torn() as u64;
                Some(journal)
            }
            Err(why) => {
                self.report.find("journal-changed", why);
                None
            }
        }
    }

    /// The entries in the journal. If it is full, a crash may have left any part of what it becomes.
    fn rest(&mut self, journal: &Journal) {
        journal.iter().for_each(|entry| self.entry(entry));
        self.partial_bundles(journal);
        let index = journal.base / BUNDLE;
        let bundle = tile::path(Kind::Entries, index, BUNDLE);
        let there = file::read(&self.dir.join(&bundle), MAX_BUNDLE);
        if !journal.is_full() {
            if !matches!(there, Ok(None)) {
                let what = format!("{} is there, and the journal ends before it", bundle.display());
                self.report.find("journal-older", what);
            }
            return;
        }
        match there {
            Ok(None) => {}
            Ok(Some(bytes)) if bytes == tile::bundle(journal.iter()) => {}
            _ => {
                let what = format!("{} does not have the journal's entries", bundle.display());
                self.report.find("bundle-changed", what);
            }
        }
        self.full_tiles(index, false);
    }

    /// All full bundles: as many as the journal says, or as there are. False if one is missing or cannot be read.
    fn bundles(&mut self, count: Option<u64>) -> bool {
        for index in 0..count.unwrap_or(u64::MAX) {
            let path = tile::path(Kind::Entries, index, BUNDLE);
            let bytes = match file::read(&self.dir.join(&path), MAX_BUNDLE) {
                Ok(Some(bytes)) => bytes,
                Ok(None) if count.is_none() => return true,
                Ok(None) => {
                    self.report.find("bundle-missing", format!("{} is missing", path.display()));
                    return false;
                }
                Err(error) => {
                    self.report.find("bundle-changed", error);
                    return false;
                }
            };
            match tile::entries(&bytes) {
                Ok(entries) if entries.len() as u64 == BUNDLE => {
                    entries.into_iter().for_each(|entry| self.entry(entry))
                }
                Ok(entries) => {
                    self.report.find("bundle-changed", format!("{} has {} entries", path.display(), entries.len()));
                    return false;
                }
                Err(why) => {
                    self.report.find("bundle-changed", format!("{}: {why}", path.display()));
                    return false;
                }
            }
            self.full_tiles(index, true);
        }
        true
    }

    fn entry(&mut self, bytes: &[u8]) {
        let index = self.edge.size();
        match Entry::from_bytes(bytes) {
            Ok(entry) => self.report.count(index, &entry.event, entry.at_ms),
            Err(why) => self.report.find("entry-changed", format!("entry {index}: {why}")),
        }
        let leaf = leaf_hash(bytes);
        self.edge.push(leaf);
        self.levels[0].push(leaf);
        self.meet_claims();
    }

    /// The tiles that bundle `index` made full, which must be there or may be.
    fn full_tiles(&mut self, mut index: u64, must: bool) {
        for level in 0.. {
            let hashes = std::mem::take(&mut self.levels[level]);
            self.tile(level as u32, index, BUNDLE, &hashes, must);
            if self.levels.len() == level + 1 {
                self.levels.push(Vec::new());
            }
            self.levels[level + 1].push(merkle::root(&hashes));
            if self.levels[level + 1].len() as u64 != BUNDLE {
                return;
            }
            index /= BUNDLE;
        }
    }

    /// Compares a tile with the hashes that it must have.
    fn tile(&mut self, level: u32, index: u64, width: u64, expected: &[Digest], must: bool) {
        let path = tile::path(Kind::Hashes(level), index, width);
        match file::read(&self.dir.join(&path), MAX_TILE) {
            Ok(Some(bytes)) if bytes == tile::tile(expected) => {}
            Ok(Some(bytes)) => {
                let there = tile::hashes(&bytes).unwrap_or_default();
                let place =
                    expected.iter().zip(&there).position(|(a, b)| a != b).unwrap_or(there.len().min(expected.len()));
                let first = (index * BUNDLE + place as u64) << (8 * level);
                self.report
                    .find("tile-differs", format!("{} does not fit the entries from {first} on", path.display()));
            }
            Ok(None) if must => self.report.find("tile-missing", format!("{} is missing", path.display())),
            Ok(None) => {}
            Err(error) => self.report.find("tile-differs", error),
        }
    }

    /// The partial tiles at the right edge, which older checkpoints left.
    fn partial_tiles(&mut self) {
        let filled = self.edge.size() - self.levels[0].len() as u64;
        for level in 0..self.levels.len() {
            let hashes = std::mem::take(&mut self.levels[level]);
            let index = (filled >> (8 * level)) / BUNDLE;
            for width in self.widths(Kind::Hashes(level as u32), index) {
                match hashes.get(..width as usize) {
                    Some(expected) => self.tile(level as u32, index, width, expected, true),
                    None => {
                        let path = tile::path(Kind::Hashes(level as u32), index, width);
                        let what = format!(
                            "{} has more than {} hashes, and no more entries are there",
                            path.display(),
                            hashes.len()
                        );
                        self.report.find("entries-missing", what);
                    }
                }
            }
            self.levels[level] = hashes;
        }
    }

    fn partial_bundles(&mut self, journal: &Journal) {
        let index = journal.base / BUNDLE;
        for width in self.widths(Kind::Entries, index) {
            let path = tile::path(Kind::Entries, index, width);
            let there = file::read(&self.dir.join(&path), MAX_BUNDLE);
            let expected = tile::bundle(journal.iter().take(width as usize));
            if !matches!(there, Ok(Some(bytes)) if bytes == expected) {
                self.report.find("bundle-changed", format!("{} does not have the journal's entries", path.display()));
            }
        }
    }

    /// Of which widths a partial tile is there.
    fn widths(&self, kind: Kind, index: u64) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(self.dir.join(tile::partials(kind, index))) else { return Vec::new() };
        let width = |entry: fs::DirEntry| crate::checkpoint::number(entry.file_name().to_str()?);
        let mut widths: Vec<u64> =
            entries.flatten().filter_map(width).filter(|width| (1..BUNDLE).contains(width)).collect();
        widths.sort_unstable();
        widths
    }

    /// The partial tiles that the log's own checkpoint needs must be there, until a full one takes their place.
    fn signed_partials(&mut self) {
        let own = self.claims.iter().find(|claim| !claim.witness).map(|claim| claim.checkpoint.size());
        let Some(size) = own.filter(|size| *size <= self.edge.size()) else { return };
        for level in 0..self.levels.len() {
            let there = size >> (8 * level);
            let (index, width) = (there / BUNDLE, there % BUNDLE);
            let kinds = [Some(Kind::Hashes(level as u32)), (level == 0).then_some(Kind::Entries)];
            for kind in kinds.into_iter().flatten().filter(|_| width > 0) {
                let is_there = |width| self.dir.join(tile::path(kind, index, width)).exists();
                if !is_there(width) && !is_there(BUNDLE) {
                    let path = tile::path(kind, index, width);
                    self.report.find("tile-missing", format!("{} is missing", path.display()));
                }
            }
        }
    }

    /// Compares the root with the claims about a log of just this size.
    fn meet_claims(&mut self) {
        while let Some(claim) = self.claims.get(self.met).filter(|claim| claim.checkpoint.size() == self.edge.size()) {
            if claim.checkpoint.root() != self.edge.root() {
                let (name, whose) = named(claim);
                let what = format!("the first {} entries are not those that {whose} covers", self.edge.size());
                self.report.find(&format!("{name}-differs"), what);
            }
            self.met += 1;
        }
    }

    fn unmet_claims(&mut self, complete: bool) {
        for claim in &self.claims[self.met..] {
            let (name, whose) = named(claim);
            let (has, covers) = (self.edge.size(), claim.checkpoint.size());
            if complete {
                let what = format!("{whose} covers {covers} entries, and there are {has}");
                self.report.find(if claim.witness { "truncated-behind-witness" } else { "truncated" }, what);
            } else {
                let what = format!("{whose} covers {covers} entries, and only {has} could be read");
                self.report.find(&format!("{name}-not-reached"), what);
            }
        }
    }
}

fn named(claim: &Claim) -> (&'static str, &'static str) {
    if claim.witness { ("witness", "a checkpoint kept elsewhere") } else { ("checkpoint", "the log's checkpoint") }
}
