//! Makes a tar archive of the root disk, which is mounted beside this machine's own root: nothing of it runs, and no link on
//! it is followed.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Error, ErrorKind, Read, Result, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use mvm_wire::frame::{self, Kind as FrameKind};
use mvm_wire::tar::{self, Entry, Kind};
use rustix::fs::{major, minor};
use rustix::io::Errno;
use tokio::sync::mpsc::Sender;

use crate::unpack::place;

/// What is sent in one frame.
const PIECE: usize = 128 << 10;
/// What every disk of this kind has, for its repair.
const REPAIR: &[u8] = b"lost+found";

/// Packs all that is below the new root and hands it on in frames.
pub fn pack(frames: Sender<Vec<u8>>) -> Result<()> {
    let mut archive = BufWriter::with_capacity(PIECE, Frames(frames));
    let mut names = HashMap::new();
    let mut waiting = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        let at = place(&path);
        let meta = fs::symlink_metadata(&at)?;
        let Some(kind) = kind(&at, &meta, &path, &mut names)? else { continue };
        let xattrs = if matches!(kind, Kind::Link(_)) { BTreeMap::new() } else { attributes(&at)? };
        let size = if kind == Kind::File { meta.size() } else { 0 };
        let (mode, mtime) = (meta.mode() & 0o7777, u64::try_from(meta.mtime()).unwrap_or(0));
        let entry = Entry { path, kind, mode, uid: meta.uid(), gid: meta.gid(), mtime, size, xattrs };
        tar::write(&mut archive, &entry)?;
        if entry.kind == Kind::File {
            if io::copy(&mut File::open(&at)?.take(size), &mut archive)? < size {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            archive.write_all(&tar::END[..tar::padding(size) as usize])?;
        }
        if meta.is_dir() {
            waiting.extend(children(&at, &entry.path)?);
        }
    }
    archive.write_all(&tar::END)?;
    archive.flush()
}

/// The paths in a directory, the last first.
fn children(dir: &Path, path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().into_vec();
        if !path.is_empty() {
            names.push([path, b"/", &name].concat());
        } else if name != REPAIR {
            names.push(name);
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

/// What something is. A file's second name is a link to its first; a socket is nothing.
fn kind(at: &Path, meta: &Metadata, path: &[u8], names: &mut HashMap<u64, Vec<u8>>) -> Result<Option<Kind>> {
    let kind = meta.file_type();
    if !kind.is_dir() && meta.nlink() > 1 {
        if let Some(first) = names.get(&meta.ino()) {
            return Ok(Some(Kind::Link(first.clone())));
        }
        names.insert(meta.ino(), path.to_vec());
    }
    let (major, minor) = (major(meta.rdev()), minor(meta.rdev()));
    Ok(Some(match kind {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_symlink() => Kind::Symlink(fs::read_link(at)?.as_os_str().as_bytes().to_vec()),
        kind if kind.is_fifo() => Kind::Fifo,
        kind if kind.is_char_device() => Kind::Char(major, minor),
        kind if kind.is_block_device() => Kind::Block(major, minor),
        _ => return Ok(None),
    }))
}

fn attributes(at: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(at, &mut list)?;
    let mut attributes = BTreeMap::new();
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        match rustix::fs::lgetxattr(at, name, &mut value) {
            Ok(length) => value.truncate(length),
            // The kernel knows of it, and has none.
            Err(Errno::NODATA) => continue,
            Err(e) => return Err(e.into()),
        }
        attributes.insert(name.to_vec(), value);
    }
    Ok(attributes)
}

/// Sends what is written as frames.
struct Frames(Sender<Vec<u8>>);

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let length = bytes.len().min(PIECE);
        let frame = [&frame::header(FrameKind::Stdout, length), &bytes[..length]].concat();
        self.0.blocking_send(frame).map_err(|_| Error::from(ErrorKind::BrokenPipe))?;
        Ok(length)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
