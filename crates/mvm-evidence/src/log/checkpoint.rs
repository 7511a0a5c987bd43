//! Signing the state of a log, and proving that an entry is in a signed one.

use std::fs::File;

use super::journal::Journal;
use super::nodes::Nodes;
use super::read::snapshot_unlocked;
use super::tile::{self, Kind};
use super::{BUNDLE, Log, damaged, fill, read};
use crate::checkpoint::{Checkpoint, MAX_CHECKPOINT};
use crate::digest::Digest;
use crate::error::{Context, Error, Kind as ErrorKind, Result};
use crate::file;
use crate::keys::Signer;
use crate::merkle::{self, leaf_hash, root_of_inclusion};
use crate::proof::Proof;

impl Log {
    /// Signs the log as it is, makes all that this covers durable, and keeps the result as the log's checkpoint. Refuses
    /// to sign what contradicts the present one: a log only grows.
    pub fn checkpoint(&self, signer: &Signer) -> Result<Checkpoint> {
        let _lock = self.lock()?;
        fill::fill(self)?;
        let journal = snapshot_unlocked(&self.dir)?;
        self.check_place(&journal)?;
        let root = self.root_at(&journal, journal.size())?;
        if let Some(present) = self.latest_checkpoint()? {
            self.must_contain(&journal, &present, "the present checkpoint")?;
            if present.size() == journal.size() && present.verify(std::slice::from_ref(signer.public())).is_ok() {
                return Ok(present);
            }
        }
        let path = self.dir.join("journal");
        File::open(&path).and_then(|file| file.sync_data()).context(|| format!("cannot sync {}", path.display()))?;
        self.put_partials(&journal)?;
        let checkpoint = Checkpoint::sign(&self.origin()?, journal.size(), root, signer);
        file::replace(&self.dir.join("checkpoint"), checkpoint.as_str().as_bytes())?;
        Ok(checkpoint)
    }

    /// The log's present checkpoint, as it is in its file. Nothing says yet that its signature fits.
    pub fn latest_checkpoint(&self) -> Result<Option<Checkpoint>> {
        let Some(bytes) = file::read(&self.dir.join("checkpoint"), MAX_CHECKPOINT as u64)? else { return Ok(None) };
        Checkpoint::parse(&bytes).map(Some).map_err(|why| damaged(&self.dir, why))
    }

    /// An error if the log is not one that grew from `earlier`, a checkpoint that was kept somewhere else.
    pub fn must_agree(&self, earlier: &Checkpoint) -> Result<()> {
        self.must_contain(&read::snapshot(&self.dir)?, earlier, "that checkpoint")
    }

    /// Proves that an entry is in the log as a checkpoint has it.
    pub fn prove(&self, index: u64, checkpoint: &Checkpoint) -> Result<Proof> {
        let entry = self.entry_bytes(index)?;
        let journal = read::snapshot(&self.dir)?;
        if index >= checkpoint.size() {
            let why = format!("the checkpoint covers {} entries", checkpoint.size());
            return Err(Error::new(ErrorKind::Invalid, format!("cannot prove entry {index}"), why)
                .hint("make a newer one: mvmctl audit checkpoint"));
        }
        self.must_contain(&journal, checkpoint, "the checkpoint")?;
        let mut nodes = Nodes::new(&self.dir, &journal);
        let path = merkle::inclusion(index, checkpoint.size(), &mut |height, index| nodes.node(height, index))?;
        if root_of_inclusion(leaf_hash(&entry), index, checkpoint.size(), &path) != Some(checkpoint.root()) {
            return Err(damaged(&self.dir, format!("entry {index} does not hash to what the tiles have")));
        }
        Ok(Proof { entry, index, path, checkpoint: checkpoint.clone() })
    }

    fn root_at(&self, journal: &Journal, size: u64) -> Result<Digest> {
        let mut nodes = Nodes::new(&self.dir, journal);
        merkle::range_root(0, size, &mut |height, index| nodes.node(height, index))
    }

    fn must_contain(&self, journal: &Journal, earlier: &Checkpoint, name: &str) -> Result<()> {
        let why = if earlier.origin() != self.origin()? {
            format!("{name} is of another log, {}", earlier.origin())
        } else if earlier.size() > journal.size() {
            format!("{name} covers {} entries, and there are {}", earlier.size(), journal.size())
        } else if self.root_at(journal, earlier.size())? != earlier.root() {
            format!("the entries are not those that {name} covers")
        } else {
            return Ok(());
        };
        let what = format!("the audit log in {} does not go with {name}", self.dir.display());
        Err(Error::new(ErrorKind::Refused, what, why).hint("find out more: mvmctl audit verify"))
    }

    /// Writes the tiles that are not full, as the checkpoint has them.
    fn put_partials(&self, journal: &Journal) -> Result<()> {
        let width = journal.size() % BUNDLE;
        if width > 0 {
            let index = journal.base / BUNDLE;
            fill::put(&self.dir, Kind::Entries, index, width, &tile::bundle(journal.iter()))?;
            fill::put(&self.dir, Kind::Hashes(0), index, width, &tile::tile(&journal.leaves))?;
        }
        let mut nodes = Nodes::new(&self.dir, journal);
        for level in (1..8).take_while(|level| journal.base >> (8 * level) > 0) {
            let there = journal.base >> (8 * level);
            let (index, width) = (there / BUNDLE, there % BUNDLE);
            if width > 0 {
                let hashes = (there - width..there).map(|child| nodes.node(8 * level, child));
                let hashes = hashes.collect::<Result<Vec<_>>>()?;
                fill::put(&self.dir, Kind::Hashes(level), index, width, &tile::tile(&hashes))?;
            }
        }
        Ok(())
    }
}
