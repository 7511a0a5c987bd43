//! From a guest to the host.

use std::path::Path;

use mvm_wire::ErrorCode;
use mvm_wire::files::{Entry, FileKind, check_path, join};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::beneath::{Dir, Filled, name_of};
use super::{DEPTH, Limits, MAX_DEPTH, Report, Source, Tally, too_deep, too_many_bytes};
use crate::error::{Error, IoContext, Result};
use crate::files::{check_listing, shown};

/// A directory that is being copied.
struct Level {
    dir: Dir,
    path: Vec<u8>,
    rest: std::vec::IntoIter<Entry>,
    /// Made last, so that nothing that is copied could meet them.
    links: Vec<Entry>,
    held: usize,
}

/// Copies the file or directory `from` of a guest to `to`, which is the name that the copy shall have. A directory that
/// is there already is added to, a regular file replaced, anything else is in the way.
pub async fn copy_out(source: &impl Source, from: &[u8], to: &Path, limits: Limits) -> Result<Report> {
    let mut tally = Tally::new(limits);
    let top = source.stat(from).await?;
    let what = || format!("cannot write {}", to.display());
    match top.kind {
        FileKind::File => {
            let parent = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let dir = Dir::open(parent).map_err(|e| Error::named(what(), e))?;
            let entry = Entry { name: name_of(to).context(what)?.to_vec(), ..top };
            file(source, &dir, &entry, from, &mut tally).await?;
        }
        FileKind::Directory => {
            let dir = top_dir(to, top.mode).map_err(|e| Error::named(what(), e))?;
            tree(source, dir, from, &mut tally).await?;
        }
        _ => {
            let why = "it is neither a regular file nor a directory";
            return Err(Error::new(ErrorCode::FileError, format!("cannot copy {}", shown(from)), why));
        }
    }
    Ok(tally.report)
}

/// The destination itself, which the user named: a link of theirs to a directory is as good as one.
fn top_dir(to: &Path, mode: u32) -> std::io::Result<Dir> {
    if to.is_dir() {
        return Dir::open(to);
    }
    let parent = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Dir::open(parent)?.make(name_of(to)?, mode)
}

async fn tree(source: &impl Source, dir: Dir, from: &[u8], tally: &mut Tally) -> Result<()> {
    let mut stack = vec![enter(source, dir, from.to_vec(), tally).await?];
    loop {
        let deep = stack.len() == MAX_DEPTH;
        let Some(level) = stack.last_mut() else { break };
        let Some(entry) = level.rest.next() else {
            let depth = stack.len() - 1;
            if let Some(level) = stack.pop() {
                links(level, depth, tally)?;
            }
            continue;
        };
        let path = join(&level.path, &entry.name);
        if check_path(&path).is_err() {
            tally.skip(path, "its path is too long")?;
            continue;
        }
        match entry.kind {
            FileKind::File => {
                let copied = file(source, &level.dir, &entry, &path, tally).await;
                unless_gone(copied, path, tally)?;
            }
            FileKind::Directory if deep => return Err(too_deep(&path)),
            FileKind::Directory => {
                let dir = level.dir.make(&entry.name, entry.mode).context(|| cannot_copy(&path))?;
                let entered = enter(source, dir, path.clone(), tally).await;
                stack.extend(unless_gone(entered, path, tally)?);
            }
            FileKind::Symlink => level.links.push(entry),
            _ => tally.skip(path, "it is a device, a pipe or a socket")?,
        }
    }
    Ok(())
}

fn cannot_copy(path: &[u8]) -> String {
    format!("cannot copy {}", shown(path))
}

/// What goes away while it is copied is left out; any other failure ends the copy.
fn unless_gone<T>(copied: Result<T>, path: Vec<u8>, tally: &mut Tally) -> Result<Option<T>> {
    match copied {
        Ok(done) => Ok(Some(done)),
        Err(e) if e.code == ErrorCode::NotFound => tally.skip(path, "it went away meanwhile").map(|()| None),
        Err(e) => Err(e),
    }
}

async fn enter(source: &impl Source, dir: Dir, path: Vec<u8>, tally: &mut Tally) -> Result<Level> {
    let mut entries = source.list(&path).await?;
    check_listing(&mut entries).map_err(|why| Error::new(ErrorCode::TransportError, cannot_copy(&path), why))?;
    let held = tally.hold(&entries)?;
    tally.report.dirs += 1;
    Ok(Level { dir, path, rest: entries.into_iter(), links: Vec::new(), held })
}

/// Copies one file. Its bytes go to a thread, because disks block.
async fn file(source: &impl Source, dir: &Dir, entry: &Entry, path: &[u8], tally: &mut Tally) -> Result<()> {
    let mut draft = dir.draft(entry.mode).context(|| cannot_copy(path))?;
    let (sender, pieces) = mpsc::channel(DEPTH);
    let limit = tally.bytes_left();
    let writing = spawn_blocking(move || draft.fill(pieces, limit).map(|filled| (draft, filled)));
    let read = source.read(path, sender).await;
    // If it failed, that is why the read did.
    let (draft, filled) =
        writing.await.map_err(|e| Error::internal("cannot copy", e))?.context(|| cannot_copy(path))?;
    let Filled::All(bytes) = filled else { return Err(too_many_bytes()) };
    read?;
    draft.place(&entry.name).context(|| cannot_copy(path))?;
    tally.file(bytes);
    Ok(())
}

/// Makes the links of a directory that lies `depth` below the destination, now that all else in it is there.
fn links(level: Level, depth: usize, tally: &mut Tally) -> Result<()> {
    for entry in level.links {
        let path = join(&level.path, &entry.name);
        let target = entry.target.unwrap_or_default();
        if !stays_inside(&target, depth) {
            tally.skip(path, "it is a link that is absolute or may lead out of the copy")?;
            continue;
        }
        level.dir.link(&entry.name, &target).context(|| cannot_copy(&path))?;
        tally.report.links += 1;
    }
    tally.release(level.held);
    Ok(())
}

/// Whether a link in a directory `depth` below the destination cannot lead out of it. `..` counts only at its beginning,
/// where it leaves directories that we made; behind a name, which may be a link, nobody knows where it leads.
fn stays_inside(target: &[u8], depth: usize) -> bool {
    let mut parts = target.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let up = parts.by_ref().take_while(|part| *part == b"..").count();
    !target.is_empty() && target[0] != b'/' && up <= depth && parts.all(|part| part != b"..")
}

#[cfg(test)]
#[path = "out_tests.rs"]
mod tests;
