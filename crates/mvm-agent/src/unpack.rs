//! Fills an empty root disk from a tar archive, as root of the guest: ownership, modes, extended attributes, links and
//! devices come out as they are in the archive, whoever runs mvm on the host.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{lchown, symlink};
use std::path::{Path, PathBuf};

use mvm_wire::tar::{self, Entry, Kind};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat};

use crate::boot::NEW_ROOT;

/// Unpacks everything that `archive` yields below the new root, then unmounts it, so that the file system is clean.
pub fn unpack(mut archive: impl Read) -> Result<()> {
    // Directories around what is being unpacked: their times must survive what is made in them, which must not inherit their
    // attributes. An archive has all that is in a directory right behind it.
    let mut around: Vec<Entry> = Vec::new();
    while let Some(entry) = tar::read(&mut archive)? {
        while around.last().is_some_and(|dir| !is_beneath(&entry.path, &dir.path)) {
            around.pop().map_or(Ok(()), |left| finish(&left).map_err(|e| named(&left, &e)))?;
        }
        make(&entry, &mut archive).map_err(|e| named(&entry, &e))?;
        if entry.kind == Kind::Directory {
            around.push(entry);
        }
    }
    while let Some(left) = around.pop() {
        finish(&left).map_err(|e| named(&left, &e))?;
    }
    rustix::fs::sync();
    rustix::mount::unmount(NEW_ROOT, rustix::mount::UnmountFlags::empty())?;
    Ok(())
}

fn is_beneath(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"))
}

/// Where a path of the archive is now.
pub fn place(path: &[u8]) -> PathBuf {
    Path::new(NEW_ROOT).join(OsStr::from_bytes(path))
}

fn named(entry: &Entry, e: &Error) -> Error {
    Error::new(e.kind(), format!("{}: {e}", String::from_utf8_lossy(&entry.path)))
}

fn make(entry: &Entry, archive: &mut impl Read) -> Result<()> {
    let path = place(&entry.path);
    if let Some(parent) = path.parent().filter(|_| !entry.path.is_empty()) {
        fs::create_dir_all(parent)?;
    }
    let node = |kind, number| mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), number);
    match &entry.kind {
        Kind::File => fill(File::create_new(&path)?, entry.size, archive)?,
        // The file it is has all that an entry says.
        Kind::Link(target) => return fs::hard_link(place(target), &path),
        Kind::Symlink(target) => symlink(OsStr::from_bytes(target), &path)?,
        Kind::Directory => match fs::create_dir(&path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && fs::symlink_metadata(&path)?.is_dir() => {}
            result => result?,
        },
        Kind::Fifo => node(FileType::Fifo, 0)?,
        Kind::Char(major, minor) => node(FileType::CharacterDevice, makedev(*major, *minor))?,
        Kind::Block(major, minor) => node(FileType::BlockDevice, makedev(*major, *minor))?,
    }
    // The owner first: to change it takes setuid, setgid and capabilities away.
    lchown(&path, Some(entry.uid), Some(entry.gid))?;
    if !matches!(entry.kind, Kind::Symlink(_)) {
        rustix::fs::chmod(&path, Mode::from_raw_mode(entry.mode))?;
    }
    if entry.kind == Kind::Directory { Ok(()) } else { finish(entry) }
}

fn fill(mut file: File, size: u64, archive: &mut impl Read) -> Result<()> {
    let content = std::io::copy(&mut archive.take(size), &mut file)?;
    let padding = tar::padding(size);
    let padded = std::io::copy(&mut archive.take(padding), &mut std::io::sink())?;
    if (content, padded) == (size, padding) { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

/// Gives what is made its attributes and its time.
fn finish(entry: &Entry) -> Result<()> {
    let path = place(&entry.path);
    for (name, value) in &entry.xattrs {
        rustix::fs::lsetxattr(&path, name.as_slice(), value, XattrFlags::empty())?;
    }
    let time = Timespec { tv_sec: entry.mtime as i64, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
