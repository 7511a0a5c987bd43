//! Copies of whole trees between the host and a guest that may be hostile.
//!
//! What comes from a guest cannot land outside its destination. Every directory on the host is made or opened by one
//! checked name beneath the descriptor of the one above it, never through a link ([`beneath::Dir`]), so no name and no
//! order of entries leads elsewhere; a file is written beside its place and renamed, so nothing is written through what
//! lies there. Links are made after everything else in their directory and never followed. Those that are absolute or
//! might lead out of the destination are left out and reported, as are devices, pipes and sockets. Setuid, setgid and
//! sticky bits are dropped, owners are not kept, hard links become files of their own.

pub(crate) mod beneath;
mod into;
mod out;

use mvm_wire::ErrorCode;
use mvm_wire::files::Entry;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::files::{listed_size, shown};
use crate::vmm::guest::Guest;

pub use into::copy_in;
pub use out::copy_out;

/// How deep a tree may be: one descriptor is held for each level.
const MAX_DEPTH: usize = 64;
/// What listings and reports of one copy may hold in memory.
const MAX_HELD: usize = 256 << 20;
/// Pieces between a stream and the thread that has the file.
const DEPTH: usize = 4;
/// The permissions that a copy keeps.
const KEPT_MODE: u32 = 0o777;

/// How much a copy may copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of all kinds.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { entries: 1_000_000, bytes: u64::MAX }
    }
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes in files.
    pub bytes: u64,
    /// What was left out.
    pub skipped: Vec<Skipped>,
}

/// Something that was not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its path where it lies. For a person to read it goes through [`shown`].
    pub path: Vec<u8>,
    /// Why it was left out.
    pub why: &'static str,
}

/// Where a copy to the host comes from: a guest. Nothing that it says is believed.
pub trait Source: Sync {
    /// What is at a path; links are followed.
    fn stat(&self, path: &[u8]) -> impl Future<Output = Result<Entry>> + Send;
    /// What is in a directory.
    fn list(&self, path: &[u8]) -> impl Future<Output = Result<Vec<Entry>>> + Send;
    /// Sends a file's content; fails if it is not all of it.
    fn read(&self, path: &[u8], pieces: mpsc::Sender<Vec<u8>>) -> impl Future<Output = Result<()>> + Send;
}

impl Source for Guest {
    async fn stat(&self, path: &[u8]) -> Result<Entry> {
        Guest::stat(self, path, true).await
    }

    async fn list(&self, path: &[u8]) -> Result<Vec<Entry>> {
        self.list_dir(path).await
    }

    async fn read(&self, path: &[u8], pieces: mpsc::Sender<Vec<u8>>) -> Result<()> {
        let mut reading = self.read_file(path, 0, None).await?;
        while let Some(piece) = reading.next().await? {
            if pieces.send(piece.to_vec()).await.is_err() {
                return Err(Error::new(ErrorCode::FileError, "cannot copy", "its destination failed"));
            }
        }
        Ok(())
    }
}

/// What was done so far, against what may be done.
#[derive(Debug)]
struct Tally {
    limits: Limits,
    report: Report,
    entries: u64,
    held: usize,
}

impl Tally {
    fn new(limits: Limits) -> Tally {
        Tally { limits, report: Report::default(), entries: 0, held: 0 }
    }

    /// Takes a directory's listing into account. Returns what [`Tally::release`] gives back when it is done with.
    fn hold(&mut self, listing: &[Entry]) -> Result<usize> {
        self.entries += listing.len() as u64;
        if self.entries > self.limits.entries {
            return Err(too_much(format!("it has more than {} files and directories", self.limits.entries)));
        }
        let size = listing.iter().map(|entry| size_of::<Entry>() + listed_size(entry)).sum();
        self.take(size)?;
        Ok(size)
    }

    fn release(&mut self, size: usize) {
        self.held -= size;
    }

    fn take(&mut self, size: usize) -> Result<()> {
        self.held += size;
        if self.held > MAX_HELD { Err(too_much("its listings do not fit into memory".into())) } else { Ok(()) }
    }

    fn skip(&mut self, path: Vec<u8>, why: &'static str) -> Result<()> {
        self.take(size_of::<Skipped>() + path.len())?;
        self.report.skipped.push(Skipped { path, why });
        Ok(())
    }

    fn bytes_left(&self) -> u64 {
        self.limits.bytes - self.report.bytes
    }

    fn file(&mut self, bytes: u64) {
        self.report.files += 1;
        self.report.bytes += bytes;
    }
}

fn too_much(why: String) -> Error {
    Error::new(ErrorCode::ResourceExhausted, "cannot copy all of it", why).hint("copy a part of it, or an archive")
}

fn too_many_bytes() -> Error {
    too_much("it has more bytes than the limit allows".into())
}

fn too_deep(path: &[u8]) -> Error {
    Error::new(
        ErrorCode::ResourceExhausted,
        format!("cannot copy {}", shown(path)),
        format!("it lies more than {MAX_DEPTH} directories deep"),
    )
    .hint("copy a part of it, or an archive")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers run these on any thread; that they can is checked when this is compiled.
    #[allow(dead_code, reason = "it is only compiled")]
    fn futures_can_move_between_threads(guest: &Guest, mut writing: crate::files::Writing) {
        fn movable(_: impl Send) {}
        let path = std::path::Path::new("/x");
        movable(copy_in(guest, path, b"/x", "", Limits::default()));
        movable(copy_out(guest, b"/x", path, Limits::default()));
        movable(guest.list_dir(b"/x"));
        movable(async move { writing.send(b"x").await });
        movable(async move { guest.read_file(b"/x", 0, None).await?.next().await.map(drop) });
    }
}
