//! What blocks: reading, listing and changing directories.

use std::ffi::OsStr;
use std::fs::{self, File, FileType, Metadata};
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, lchown};
use std::path::{Path, PathBuf};

use mvm_wire::files::{Entry, FileKind, FileReply, FileRequest};
use mvm_wire::frame::{self, HEADER_LEN, Kind};
use mvm_wire::guest::Reply;
use rustix::fs::{Mode, OFlags};
use tokio::sync::mpsc::Sender;

use super::{Fault, Outcome, PIECE, owner};

/// Entries are sent once they take this much; the last of them may be a link of 4 KiB.
const BATCH: usize = 64 << 10;
/// The most that an entry takes beside its name and target.
const ENTRY: usize = 64;

/// A path without doubled, trailing or meaningless parts, so that it names the file itself.
pub fn path_of(bytes: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(bytes)).components().collect()
}

/// What has no stream of bytes.
pub fn perform(request: FileRequest) -> Outcome {
    match request {
        FileRequest::Stat { path, follow } => return stat(&path, follow),
        FileRequest::Mkdir { path, mode, parents, owner: spec } => {
            make_dir(&path_of(&path), mode, parents, owner(&spec)?)?;
        }
        FileRequest::Rename { from, to } => fs::rename(path_of(&from), path_of(&to))?,
        FileRequest::Remove { path, recursive } => remove(&path_of(&path), recursive)?,
        FileRequest::Symlink { path, target, owner: spec } => {
            let (path, owner) = (path_of(&path), owner(&spec)?);
            std::os::unix::fs::symlink(OsStr::from_bytes(&target), &path)?;
            if let Some((uid, gid)) = owner {
                lchown(&path, Some(uid), Some(gid))?;
            }
        }
        FileRequest::Read { .. } | FileRequest::Write(_) | FileRequest::List { .. } => {
            return Err(Fault::errno(libc::ENOSYS));
        }
    }
    Ok(FileReply::Done)
}

/// Sends a file in frames. One that grows meanwhile is sent as far as it then goes.
pub fn read(path: &[u8], offset: u64, len: Option<u64>, frames: &Sender<Vec<u8>>) -> Outcome {
    let path = path_of(path);
    // Before it is opened, because to open a pipe or a device can have an effect; and after, because it can change.
    check_readable(fs::metadata(&path)?.file_type(), len)?;
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file = File::options().read(true).custom_flags(flags.bits() as i32).open(&path)?;
    check_readable(file.metadata()?.file_type(), len)?;
    if offset > 0 {
        file.seek(SeekFrom::Start(offset))?;
    }
    let limit = len.unwrap_or(u64::MAX);
    let mut bytes = 0;
    while bytes < limit {
        let want = (limit - bytes).min(PIECE as u64);
        let mut piece = Vec::with_capacity(HEADER_LEN + PIECE);
        piece.extend([0; HEADER_LEN]);
        let got = (&file).take(want).read_to_end(&mut piece)?;
        if got > 0 {
            piece[..HEADER_LEN].copy_from_slice(&frame::header(Kind::Stdout, got));
            frames.blocking_send(piece).map_err(|_| Error::from(ErrorKind::BrokenPipe))?;
        }
        bytes += got as u64;
        if (got as u64) < want {
            break;
        }
    }
    Ok(FileReply::Read { bytes })
}

/// Regular files, and as much of a character device as was asked for. The rest could keep its reader for ever.
fn check_readable(kind: FileType, len: Option<u64>) -> Result<()> {
    if kind.is_file() || (kind.is_char_device() && len.is_some()) {
        Ok(())
    } else {
        Err(Error::from_raw_os_error(if kind.is_dir() { libc::EISDIR } else { libc::EOPNOTSUPP }))
    }
}

/// Sends a directory in batches, in the order in which the file system has it: to sort it is the host's part, which
/// has bounds on how many it takes.
pub fn list(path: &[u8], frames: &Sender<Vec<u8>>) -> Outcome {
    let (mut batch, mut size, mut count) = (Vec::new(), 0, 0);
    for item in fs::read_dir(path_of(path))? {
        let item = item?;
        let described =
            item.metadata().and_then(|metadata| describe(item.file_name().as_bytes(), &item.path(), &metadata));
        let entry = match described {
            Ok(entry) => entry,
            // It was removed meanwhile.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(e.into()),
        };
        size += ENTRY + entry.name.len() + entry.target.as_ref().map_or(0, Vec::len);
        batch.push(entry);
        count += 1;
        if size >= BATCH {
            send_batch(std::mem::take(&mut batch), frames)?;
            size = 0;
        }
    }
    if !batch.is_empty() {
        send_batch(batch, frames)?;
    }
    Ok(FileReply::Listed { count })
}

fn send_batch(batch: Vec<Entry>, frames: &Sender<Vec<u8>>) -> Result<()> {
    let reply = Reply::File(FileReply::Entries(batch));
    let bytes = frame::message(Kind::Reply, &reply).map_err(|e| Error::new(ErrorKind::InvalidData, e))?;
    frames.blocking_send(bytes).map_err(|_| ErrorKind::BrokenPipe.into())
}

fn stat(path: &[u8], follow: bool) -> Outcome {
    let path = path_of(path);
    let metadata = if follow { fs::metadata(&path)? } else { fs::symlink_metadata(&path)? };
    let name = path.file_name().unwrap_or_default();
    Ok(FileReply::Entry(describe(name.as_bytes(), &path, &metadata)?))
}

fn describe(name: &[u8], path: &Path, metadata: &Metadata) -> Result<Entry> {
    let kind = kind_of(metadata.file_type());
    let target = match kind {
        FileKind::Symlink => Some(fs::read_link(path)?.into_os_string().into_vec()),
        _ => None,
    };
    Ok(Entry {
        name: name.to_vec(),
        kind,
        size: metadata.size(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
        target,
    })
}

fn kind_of(kind: FileType) -> FileKind {
    match kind {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Symlink,
        kind if kind.is_fifo() => FileKind::Fifo,
        kind if kind.is_socket() => FileKind::Socket,
        kind if kind.is_char_device() => FileKind::CharDevice,
        kind if kind.is_block_device() => FileKind::BlockDevice,
        _ => FileKind::Unknown,
    }
}

fn make_dir(path: &Path, mode: u32, parents: bool, owner: Option<(u32, u32)>) -> Result<()> {
    if let Some(parent) = path.parent().filter(|_| parents) {
        make_dirs(parent, owner)?;
    }
    match make_one(path, mode, owner) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && parents && path.is_dir() => Ok(()),
        result => result,
    }
}

/// Makes what is missing of a directory's path.
pub fn make_dirs(path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    let mut missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
    while let Some(dir) = missing.pop() {
        match make_one(dir, 0o755, owner) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && dir.is_dir() => {}
            result => result?,
        }
    }
    Ok(())
}

/// Makes a directory, then changes what it made and not what may have come in its place.
fn make_one(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
    rustix::fs::mkdir(path, Mode::RWXU)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty())?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::fchown(&dir, Some(uid), Some(gid))?;
    }
    Ok(rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode & 0o7777))?)
}

fn remove(path: &Path, recursive: bool) -> Result<()> {
    if path == Path::new("/") {
        return Err(Error::from_raw_os_error(libc::EBUSY));
    }
    match (fs::symlink_metadata(path)?.is_dir(), recursive) {
        (false, _) => fs::remove_file(path),
        (true, false) => fs::remove_dir(path),
        (true, true) => fs::remove_dir_all(path),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
