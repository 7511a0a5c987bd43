//! Fills an empty root disk from a tar archive, as root of the guest: ownership, modes, extended attributes, links and
//! devices come out as they are in the archive, whoever runs mvm on the host.

use std::io::{Error, Read, Result};
use std::os::unix::fs::chown;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::boot::NEW_ROOT;

/// Unpacks everything that `archive` yields below the new root, then unmounts it, so that the file system is clean.
pub fn unpack(archive: impl Read) -> Result<()> {
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(true);
    archive.set_overwrite(true);
    // Directories last: their times and modes must survive the files created in them.
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        match entry.header().entry_type() {
            tar::EntryType::Directory => directories.push(entry),
            tar::EntryType::Char => make_node(&entry, FileType::CharacterDevice)?,
            tar::EntryType::Block => make_node(&entry, FileType::BlockDevice)?,
            tar::EntryType::Fifo => make_node(&entry, FileType::Fifo)?,
            _ => drop(entry.unpack_in(NEW_ROOT)?),
        }
    }
    directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for mut directory in directories {
        directory.unpack_in(NEW_ROOT)?;
    }
    rustix::fs::sync();
    rustix::mount::unmount(NEW_ROOT, rustix::mount::UnmountFlags::empty())?;
    Ok(())
}

/// The tar library leaves devices and pipes out.
fn make_node<R: Read>(entry: &tar::Entry<'_, R>, kind: FileType) -> Result<()> {
    let header = entry.header();
    let target = inside(&entry.path()?)?;
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let number = makedev(header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
    mknodat(CWD, &target, kind, Mode::from_raw_mode(header.mode()?), number)?;
    chown(&target, Some(header.uid()? as u32), Some(header.gid()? as u32))?;
    rustix::fs::chmod(&target, Mode::from_raw_mode(header.mode()?))?;
    Ok(())
}

fn inside(path: &Path) -> Result<PathBuf> {
    let mut target = PathBuf::from(NEW_ROOT);
    for part in path.components() {
        match part {
            Component::Normal(name) => target.push(name),
            Component::CurDir | Component::RootDir => {}
            _ => return Err(Error::other(format!("{} leads out of the image", path.display()))),
        }
    }
    Ok(target)
}
