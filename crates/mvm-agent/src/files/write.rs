//! Writing a file so that nobody ever sees half of it.

use std::fs::{self, File, Metadata};
use std::io::{Error, ErrorKind, Result, Write as _};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use mvm_wire::files::{FileReply, Write};
use rustix::fs::OFlags;
use tokio::sync::mpsc::Receiver;

use super::disk::{make_dirs, path_of};
use super::{Fault, Outcome, owner};

/// As many links as Linux follows.
const MAX_LINKS: usize = 40;
/// The mode of a file that is new and was not given one.
const NEW_FILE: u32 = 0o644;

/// Writes what `pieces` yields up to an empty one.
///
/// A regular file is replaced by a new one of the same mode and owner; a hard link to the old one keeps the old content.
/// What cannot be replaced, a character device, is written in place, and so is what is appended to. Mount points cannot
/// be replaced either, and nothing can be made in `/proc`: both fail with the kernel's word for it.
pub fn write(request: &Write, mut pieces: Receiver<Vec<u8>>) -> Outcome {
    let owner = owner(&request.owner)?;
    let path = behind_links(path_of(&request.path))?;
    let dir = path.parent().ok_or(Fault::errno(libc::EISDIR))?;
    if request.create_parents {
        make_dirs(dir, owner)?;
    }
    let old = match fs::symlink_metadata(&path) {
        Ok(old) => Some(old),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(e.into()),
    };
    let device = old.as_ref().is_some_and(|old| old.file_type().is_char_device());
    if let Some(old) = old.as_ref().filter(|old| !old.is_file() && !device) {
        return Err(Fault::errno(if old.is_dir() { libc::EISDIR } else { libc::EOPNOTSUPP }));
    }
    let bytes = if request.append || device {
        let mut file = open_in_place(&path, &old)?;
        if !device {
            dress(&file, request, old.as_ref(), owner)?;
        }
        let bytes = fill(&mut file, &mut pieces)?;
        if request.sync && !device {
            file.sync_all()?;
        }
        bytes
    } else {
        let mut draft = Draft::create(dir)?;
        let bytes = fill(&mut draft.file, &mut pieces)?;
        dress(&draft.file, request, old.as_ref(), owner)?;
        if request.sync {
            draft.file.sync_all()?;
        }
        draft.place(&path)?;
        bytes
    };
    if request.sync {
        File::open(dir)?.sync_all()?;
    }
    Ok(FileReply::Written { bytes })
}

/// Where the bytes go in the end: a link is written through, even one that points to nothing yet.
fn behind_links(mut path: PathBuf) -> Result<PathBuf> {
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            // It is no link, or it is not there; what else it is shows when it is opened.
            Err(_) => return Ok(path),
        }
    }
    Err(Error::from_raw_os_error(libc::ELOOP))
}

fn open_in_place(path: &Path, old: &Option<Metadata>) -> Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let mut options = File::options();
    options.append(true).custom_flags(flags.bits() as i32);
    if old.is_none() { options.create_new(true).mode(0o600).open(path) } else { options.open(path) }
}

/// Gives a file the mode and owner that it shall have. In this order, because a change of owner takes bits off the mode.
fn dress(file: &File, request: &Write, old: Option<&Metadata>, owner: Option<(u32, u32)>) -> Result<()> {
    let now = file.metadata()?;
    let (uid, gid) = owner.or(old.map(|old| (old.uid(), old.gid()))).unwrap_or((now.uid(), now.gid()));
    if (uid, gid) != (now.uid(), now.gid()) {
        fchown(file, Some(uid), Some(gid))?;
    }
    let mode = request.mode.or(old.map(Metadata::mode)).unwrap_or(NEW_FILE) & 0o7777;
    if mode != now.mode() & 0o7777 || now.uid() != uid {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Writes the pieces to the last, which is empty. Without one the sender is gone, and the whole write is void.
fn fill(file: &mut File, pieces: &mut Receiver<Vec<u8>>) -> Result<u64> {
    let mut bytes = 0;
    loop {
        match pieces.blocking_recv() {
            Some(piece) if piece.is_empty() => return Ok(bytes),
            Some(piece) => {
                file.write_all(&piece)?;
                bytes += piece.len() as u64;
            }
            None => return Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A file that is not there yet. Dropped before it is placed, it leaves nothing.
struct Draft {
    file: File,
    path: PathBuf,
    placed: bool,
}

impl Draft {
    fn create(dir: &Path) -> Result<Draft> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let path = dir.join(format!(".mvm-{:016x}", u64::from_ne_bytes(random)));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Draft { file, path, placed: false })
    }

    fn place(mut self, path: &Path) -> Result<()> {
        fs::rename(&self.path, path)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.placed {
            let _ = fs::remove_file(&self.path);
        }
    }
}
