//! A root file system that is a directory of the host, made into an archive: owners, modes, attributes, links and devices as
//! they are there. Directories of another file system that are mounted in it are empty.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;

use mvm_wire::tar::{self, Entry, Kind};
use rustix::fs::{FileType, Stat, major, minor};

use crate::copy::beneath::Dir;
use crate::error::{Error, IoContext, Result};
use crate::layers::{Limits, Region, exhausted, invalid};

/// How deep it may be: one descriptor is held for each level.
const MAX_DEPTH: usize = 256;

/// Writes the archive of a directory into a file.
pub fn pack(dir: &Dir, file: File, limits: &Limits) -> Result<Region> {
    let stat = dir.stat_itself().context(|| "cannot read the directory".to_owned())?;
    let out = BufWriter::with_capacity(1 << 20, file);
    let (entries, bytes, names) = (limits.entries, limits.bytes, limits.names);
    let mut packer = Packer { out, names: HashMap::new(), device: stat.st_dev, left: (entries, bytes, names) };
    let xattrs = dir.attributes_itself().context(|| "cannot read the directory".to_owned())?;
    packer.add(Vec::new(), Kind::Directory, &stat, xattrs, None)?;
    packer.walk(dir, &[], 1)?;
    let file = packer.out.into_inner().map_err(|e| e.into_error()).context(cannot_write)?;
    Region::whole(file).context(cannot_write)
}

fn cannot_write() -> String {
    "cannot write the image".to_owned()
}

struct Packer {
    out: BufWriter<File>,
    /// The first names of files that have more than one, by device and inode.
    names: HashMap<(u64, u64), Vec<u8>>,
    /// The file system that is packed.
    device: u64,
    /// Entries, bytes and bytes of paths that there may still be.
    left: (u64, u64, u64),
}

impl Packer {
    fn walk(&mut self, dir: &Dir, path: &[u8], depth: usize) -> Result<()> {
        let at = |e: io::Error, path: &[u8]| Error::io(format!("cannot read {}", shown(path)), e);
        if depth > MAX_DEPTH {
            return Err(exhausted(format!("its directories are more than {MAX_DEPTH} deep")));
        }
        for name in dir.names(self.left.0).map_err(|e| at(e, path))? {
            let path = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
            let stat = dir.stat(&name).map_err(|e| at(e, &path))?;
            let Some((kind, file)) = self.kind(dir, &name, &path, &stat).map_err(|e| at(e, &path))? else { continue };
            let descend = kind == Kind::Directory && stat.st_dev == self.device;
            let linked = matches!(kind, Kind::Link(_));
            let xattrs = if linked { BTreeMap::new() } else { dir.attributes(&name).map_err(|e| at(e, &path))? };
            self.add(path.clone(), kind, &stat, xattrs, file)?;
            if descend {
                self.walk(&dir.enter(&name).map_err(|e| at(e, &path))?, &path, depth + 1)?;
            }
        }
        Ok(())
    }

    /// What something is, and its content. Sockets are nothing without the program that made them.
    fn kind(&mut self, dir: &Dir, name: &[u8], path: &[u8], stat: &Stat) -> io::Result<Option<(Kind, Option<File>)>> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !kind.is_dir() && stat.st_nlink > 1 {
            match self.names.get(&(stat.st_dev, stat.st_ino)) {
                Some(first) => return Ok(Some((Kind::Link(first.clone()), None))),
                None => drop(self.names.insert((stat.st_dev, stat.st_ino), path.to_vec())),
            }
        }
        let device = (major(stat.st_rdev), minor(stat.st_rdev));
        Ok(Some(match kind {
            FileType::RegularFile => (Kind::File, Some(dir.read(name)?)),
            FileType::Directory => (Kind::Directory, None),
            FileType::Symlink => (Kind::Symlink(dir.target(name)?), None),
            FileType::Fifo => (Kind::Fifo, None),
            FileType::CharacterDevice => (Kind::Char(device.0, device.1), None),
            FileType::BlockDevice => (Kind::Block(device.0, device.1), None),
            FileType::Socket | FileType::Unknown => return Ok(None),
        }))
    }

    fn add(
        &mut self,
        path: Vec<u8>,
        kind: Kind,
        stat: &Stat,
        xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
        content: Option<File>,
    ) -> Result<()> {
        let cannot_read = || format!("cannot read {}", shown(&path));
        let size =
            content.as_ref().map_or(Ok(0), |file| file.metadata().map(|meta| meta.size())).context(cannot_read)?;
        let (entries, bytes, names) = self.left;
        let left = (entries.checked_sub(1), bytes.checked_sub(size), names.checked_sub(path.len() as u64));
        let (Some(entries), Some(bytes), Some(names)) = left else {
            return Err(exhausted("there is more in it than an image may have, or than there is room for"));
        };
        self.left = (entries, bytes, names);
        let mtime = u64::try_from(stat.st_mtime).unwrap_or(0);
        let mode = stat.st_mode & 0o7777;
        let entry = Entry { path, kind, mode, uid: stat.st_uid, gid: stat.st_gid, mtime, size, xattrs };
        tar::write(&mut self.out, &entry).context(cannot_write)?;
        if let Some(file) = content {
            let copied = io::copy(&mut file.take(size), &mut self.out)
                .context(|| format!("cannot read {}", shown(&entry.path)))?;
            if copied < size {
                return Err(invalid(format!("{} became shorter while it was read", shown(&entry.path))));
            }
        }
        self.out.write_all(&tar::END[..tar::padding(size) as usize]).context(cannot_write)
    }
}

fn shown(path: &[u8]) -> String {
    crate::text::harmless(&String::from_utf8_lossy(path))
}
