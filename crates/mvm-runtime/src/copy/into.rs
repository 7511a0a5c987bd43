//! From the host to a guest. The guest may do with it what it likes; what matters here is what is read on the host.

use std::path::Path;

use mvm_wire::ErrorCode;
use mvm_wire::files::{Entry, FileKind, Write, check_path, join};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::beneath::{self, Dir};
use super::{DEPTH, KEPT_MODE, Limits, MAX_DEPTH, Report, Tally, too_deep, too_many_bytes};
use crate::error::{Error, IoContext, Result};
use crate::vmm::guest::Guest;

/// A directory that is being copied.
struct Level {
    dir: Dir,
    path: Vec<u8>,
    rest: std::vec::IntoIter<Entry>,
    held: usize,
}

/// A copy on its way into a guest.
struct Copy<'a> {
    guest: &'a Guest,
    owner: &'a str,
    tally: Tally,
}

/// Copies the file or directory `from` of the host to the path `to` of a guest, where missing directories are made. It
/// belongs to `owner`, as in [`mvm_wire::guest::Exec::user`]. Links in the tree are copied as links, with what they say.
pub async fn copy_in(guest: &Guest, from: &Path, to: &[u8], owner: &str, limits: Limits) -> Result<Report> {
    let what = || format!("cannot read {}", from.display());
    let mut copy = Copy { guest, owner, tally: Tally::new(limits) };
    let metadata = std::fs::metadata(from).map_err(|e| Error::named(what(), e))?;
    let mode = std::os::unix::fs::MetadataExt::mode(&metadata);
    if metadata.is_dir() {
        copy.tree(Dir::open(from).context(what)?, mode, to).await?;
    } else if metadata.is_file() {
        copy.file(std::fs::File::open(from).context(what)?, mode, to).await?;
    } else {
        return Err(Error::new(ErrorCode::FileError, what(), "it is neither a regular file nor a directory"));
    }
    Ok(copy.tally.report)
}

impl Copy<'_> {
    async fn tree(&mut self, dir: Dir, mode: u32, to: &[u8]) -> Result<()> {
        let mut stack = vec![self.enter(dir, mode, to.to_vec()).await?];
        loop {
            let deep = stack.len() == MAX_DEPTH;
            let Some(level) = stack.last_mut() else { break };
            let Some(entry) = level.rest.next() else {
                self.tally.release(level.held);
                stack.pop();
                continue;
            };
            let path = join(&level.path, &entry.name);
            let what = || format!("cannot read {}, to be copied", crate::files::shown(&path));
            if check_path(&path).is_err() {
                self.tally.skip(path, "its path is too long")?;
                continue;
            }
            match entry.kind {
                FileKind::File => {
                    let file = level.dir.read(&entry.name).context(what)?;
                    self.file(file, entry.mode, &path).await?;
                }
                FileKind::Directory if deep => return Err(too_deep(&path)),
                FileKind::Directory => {
                    let dir = level.dir.enter(&entry.name).context(what)?;
                    let below = self.enter(dir, entry.mode, path).await?;
                    stack.push(below);
                }
                FileKind::Symlink => {
                    let target = level.dir.target(&entry.name).context(what)?;
                    self.link(&path, &target).await?;
                }
                _ => self.tally.skip(path, "it is a device, a pipe or a socket")?,
            }
        }
        Ok(())
    }

    async fn enter(&mut self, dir: Dir, mode: u32, path: Vec<u8>) -> Result<Level> {
        self.guest.mkdir(&path, mode & KEPT_MODE, true, self.owner).await?;
        let (listed, limit) = (dir.clone(), self.tally.limits.entries);
        let entries =
            spawn_blocking(move || listed.list(limit)).await.map_err(|e| Error::internal("cannot copy", e))?;
        let entries = entries.context(|| format!("cannot list the directory for {}", crate::files::shown(&path)))?;
        let held = self.tally.hold(&entries)?;
        self.tally.report.dirs += 1;
        Ok(Level { dir, path, rest: entries.into_iter(), held })
    }

    /// Copies one file. Its bytes come from a thread, because disks block.
    async fn file(&mut self, file: std::fs::File, mode: u32, path: &[u8]) -> Result<()> {
        let (sender, mut pieces) = mpsc::channel(DEPTH);
        let write = Write {
            path: path.to_vec(),
            mode: Some(mode & KEPT_MODE),
            owner: self.owner.to_owned(),
            create_parents: true,
            ..Write::default()
        };
        let mut writing = self.guest.write_file(write).await?;
        let reading = spawn_blocking(move || beneath::send(&file, &sender));
        let (mut left, mut bytes) = (self.tally.bytes_left(), 0);
        while let Some(piece) = pieces.recv().await {
            left = left.checked_sub(piece.len() as u64).ok_or_else(too_many_bytes)?;
            writing.send(&piece).await?;
            bytes += piece.len() as u64;
        }
        let read = reading.await.map_err(|e| Error::internal("cannot copy", e))?;
        read.context(|| format!("cannot read what goes to {}", crate::files::shown(path)))?;
        writing.finish().await?;
        self.tally.file(bytes);
        Ok(())
    }

    /// Makes a link; another link that is in its place goes.
    async fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let made = match self.guest.symlink(path, target, self.owner).await {
            Err(e) if e.code == ErrorCode::AlreadyExists => {
                if self.guest.stat(path, false).await?.kind != FileKind::Symlink {
                    return Err(e);
                }
                self.guest.remove(path, false).await?;
                self.guest.symlink(path, target, self.owner).await
            }
            made => made,
        };
        self.tally.report.links += u64::from(made.is_ok());
        made
    }
}
