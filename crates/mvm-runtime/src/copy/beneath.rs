//! A directory of the host in which files are named by single names, and no link is ever followed.
//!
//! Each step down opens one name, without `/` and not `..`, relative to a descriptor and with `O_NOFOLLOW`. That is what
//! `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS` would enforce for a longer path, on every kernel.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use mvm_wire::files::{Entry, FileKind, check_name};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::KEPT_MODE;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How much of a file is read at once.
const PIECE: usize = 256 << 10;

/// An open directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dir(Arc<OwnedFd>);

impl Dir {
    /// The one that the user named; their own links are followed.
    pub fn open(path: &Path) -> Result<Dir> {
        Ok(Dir(Arc::new(rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())?)))
    }

    /// The directory `name` in this one.
    pub fn enter(&self, name: &[u8]) -> Result<Dir> {
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        match rustix::fs::openat(&self.0, checked(name)?, flags, Mode::empty()) {
            Ok(dir) => Ok(Dir(Arc::new(dir))),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(in_the_way("and is no directory")),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes the directory `name`, or enters the one that is there. Its owner can always use it.
    pub fn make(&self, name: &[u8], mode: u32) -> Result<Dir> {
        let mode = Mode::from_raw_mode(mode & KEPT_MODE | 0o700);
        match rustix::fs::mkdirat(&self.0, checked(name)?, mode) {
            Ok(()) | Err(Errno::EXIST) => self.enter(name),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes a link, or finds that the same one is there.
    pub fn link(&self, name: &[u8], target: &[u8]) -> Result<()> {
        match rustix::fs::symlinkat(target, &self.0, checked(name)?) {
            Err(Errno::EXIST) if self.target(name).is_ok_and(|there| there == target) => Ok(()),
            Err(Errno::EXIST) => Err(in_the_way("and is not this link")),
            result => Ok(result?),
        }
    }

    /// What a link says.
    pub fn target(&self, name: &[u8]) -> Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.0, checked(name)?, Vec::new())?.into_bytes())
    }

    /// A file that is not there yet, to be filled and then placed.
    pub fn draft(&self, mode: u32) -> Result<Draft> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!(".mvm-{:016x}", u64::from_ne_bytes(random));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, &name, flags, Mode::from_raw_mode(mode & KEPT_MODE))?;
        Ok(Draft { dir: self.clone(), file: file.into(), name, placed: false })
    }

    /// Opens a regular file for reading.
    pub fn read(&self, name: &[u8]) -> Result<File> {
        // Not to wait if it has become a pipe.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.0, checked(name)?, flags, Mode::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(Errno::INVAL.into()) }
    }

    /// The names in it in their order, at most `limit` and one.
    pub fn names(&self, limit: u64) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for item in rustix::fs::Dir::read_from(self.0.as_fd())? {
            let name = item?.file_name().to_bytes().to_vec();
            if !matches!(name.as_slice(), b"." | b"..") {
                names.push(name);
            }
            if names.len() as u64 > limit {
                break;
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What `name` in it is.
    pub fn stat(&self, name: &[u8]) -> Result<Stat> {
        Ok(rustix::fs::statat(&self.0, checked(name)?, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// What it is itself.
    pub fn stat_itself(&self) -> Result<Stat> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    /// The extended attributes of `name` in it.
    pub fn attributes(&self, name: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        self.attributes_at(checked(name)?)
    }

    /// Its own extended attributes.
    pub fn attributes_itself(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        self.attributes_at(b".")
    }

    /// There is no call for them that begins at a descriptor; the kernel's name for it does, and the last part is not followed.
    fn attributes_at(&self, name: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let path = [format!("/proc/self/fd/{}/", self.0.as_raw_fd()).as_bytes(), name].concat();
        let mut list = vec![0; 64 << 10];
        let length = match rustix::fs::llistxattr(path.as_slice(), &mut list) {
            // A file system without any.
            Err(Errno::OPNOTSUPP) => 0,
            result => result?,
        };
        let mut attributes = BTreeMap::new();
        for attribute in list[..length].split(|byte| *byte == 0).filter(|attribute| !attribute.is_empty()) {
            let mut value = vec![0; 64 << 10];
            match rustix::fs::lgetxattr(path.as_slice(), attribute, &mut value) {
                Ok(length) => value.truncate(length),
                // It was removed meanwhile.
                Err(Errno::NODATA) => continue,
                Err(e) => return Err(e.into()),
            }
            attributes.insert(attribute.to_vec(), value);
        }
        Ok(attributes)
    }

    /// What is in it, at most `limit` entries and one.
    pub fn list(&self, limit: u64) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for item in rustix::fs::Dir::read_from(self.0.as_fd())? {
            let item = item?;
            let name = item.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            match rustix::fs::statat(&self.0, item.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => entries.push(entry(name, &stat)),
                // It was removed meanwhile.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
            if entries.len() as u64 > limit {
                break;
            }
        }
        Ok(entries)
    }
}

fn entry(name: &[u8], stat: &Stat) -> Entry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Unknown => FileKind::Unknown,
    };
    let mode = stat.st_mode & 0o7777;
    Entry { name: name.to_vec(), kind, size: 0, mode, uid: stat.st_uid, gid: stat.st_gid, mtime_ns: 0, target: None }
}

/// A name that cannot mean anything outside its directory.
fn checked(name: &[u8]) -> Result<&[u8]> {
    check_name(name).map_err(|e| Error::new(ErrorKind::InvalidInput, e))?;
    Ok(name)
}

fn in_the_way(what: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("something of that name is there already, {what}"))
}

/// A file that is being made. Dropped before it is placed, it leaves nothing.
#[derive(Debug)]
pub struct Draft {
    dir: Dir,
    file: File,
    name: String,
    placed: bool,
}

/// How filling a file ended short of an error of the host.
#[derive(Debug, PartialEq, Eq)]
pub enum Filled {
    /// It took all of this many bytes.
    All(u64),
    /// It would be more than the limit.
    TooMuch,
}

impl Draft {
    /// Writes all pieces. Blocks.
    pub fn fill(&mut self, mut pieces: mpsc::Receiver<Vec<u8>>, limit: u64) -> Result<Filled> {
        let mut bytes = 0;
        while let Some(piece) = pieces.blocking_recv() {
            bytes += piece.len() as u64;
            if bytes > limit {
                return Ok(Filled::TooMuch);
            }
            self.file.write_all(&piece)?;
        }
        Ok(Filled::All(bytes))
    }

    /// Gives it its name. It may replace a regular file and nothing else.
    pub fn place(mut self, name: &[u8]) -> Result<()> {
        let (dir, name) = (&self.dir.0, checked(name)?);
        let flags = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => RenameFlags::NOREPLACE,
            Err(e) => return Err(e.into()),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => RenameFlags::empty(),
            Ok(_) => return Err(in_the_way("and is no regular file")),
        };
        match rustix::fs::renameat_with(dir, &self.name, dir, name, flags) {
            // A file system that knows no flags. To replace a link by a file follows nothing either.
            Err(Errno::INVAL) => rustix::fs::renameat(dir, &self.name, dir, name)?,
            result => result?,
        }
        self.placed = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.placed {
            let _ = rustix::fs::unlinkat(&self.dir.0, &self.name, AtFlags::empty());
        }
    }
}

/// Sends a file's content. Blocks.
pub fn send(file: &File, pieces: &mpsc::Sender<Vec<u8>>) -> Result<()> {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        file.take(PIECE as u64).read_to_end(&mut piece)?;
        // A receiver that is gone has its own reason to tell.
        if piece.is_empty() || pieces.blocking_send(piece).is_err() {
            return Ok(());
        }
    }
}

/// The last part of a path of the host.
pub fn name_of(path: &Path) -> Result<&[u8]> {
    let name = path.file_name().ok_or_else(|| Error::new(ErrorKind::InvalidInput, "it has no name of its own"))?;
    checked(name.as_bytes())
}
