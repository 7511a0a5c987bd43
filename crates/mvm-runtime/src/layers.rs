//! Layers of a root file system, one upon the other, made into one archive.
//!
//! It is work on archives only: nothing that a layer names is ever made, opened or looked up on the host. A first reading
//! of all headers, from the lowest layer to the top one, says which entry of which layer each path is in the end; a second
//! one copies these. So the memory it takes is that of the paths, not of the content. The result is in one order and form:
//! the same tree is the same bytes, however it was put together.
//!
//! What an upper layer does to those beneath it is what the OCI image specification says:
//!
//! - `.wh.NAME` removes NAME, and `.wh..wh..opq` all that is in its directory, of lower layers only, wherever it stands among
//!   the entries of its own. Other names that begin with `.wh..wh.` are left out.
//! - Of two directories the upper one's owner, mode and attributes count, and both have their entries. Everything else hides
//!   what was there, with all beneath it.
//! - A hard link is another name of the same file, also when the name that it was made from is replaced or removed.
//!
//! Where tools differ, the image is refused: an entry beneath something that is no directory (a link, too: some follow it,
//! others put a directory in its place), and a hard link to what is not there.

mod spool;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use mvm_wire::ErrorCode;
use mvm_wire::tar::{self, Entry, Kind};

use crate::error::{Error, IoContext, Result};
use crate::text::harmless;
use spool::Reader;
use tree::{Node, Place, Tree};

pub use spool::{Entries, Expected, Found, Region, Spool};

/// What a Linux machine mounts on, or programs expect, where an image has nothing of that name. With their modes.
const NEEDED: [(&str, u32); 5] = [("dev", 0o755), ("proc", 0o555), ("run", 0o755), ("sys", 0o555), ("tmp", 0o1777)];
/// Of these a machine has its own.
const MOUNTED: [&[u8]; 4] = [b"dev", b"proc", b"run", b"sys"];
/// Attributes of these kinds can be on a Linux disk.
const XATTRS: [&[u8]; 5] =
    [b"user.", b"trusted.", b"security.", b"system.posix_acl_access", b"system.posix_acl_default"];
/// What a disk has room for of one file's attributes, in bytes.
const MAX_XATTRS: usize = 3900;

/// How much an image may have.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Layers.
    pub layers: usize,
    /// Entries of all layers, and directories that none has an entry of.
    pub entries: u64,
    /// Bytes of all layers, uncompressed.
    pub bytes: u64,
    /// Bytes of all paths.
    pub names: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { layers: 512, entries: 2_000_000, bytes: 32 << 30, names: 256 << 20 }
    }
}

impl Limits {
    /// The same where there is room. What is in an image is kept twice, uncompressed, and once more on a disk: it may be a third
    /// of what is free in a directory, so that no archive fills it.
    ///
    /// # Errors
    ///
    /// That it cannot be told what is free.
    pub fn within(dir: &Path) -> Result<Limits> {
        let free = rustix::fs::statvfs(dir).context(|| format!("cannot tell how much is free in {}", dir.display()))?;
        let limits = Limits::default();
        Ok(Limits { bytes: limits.bytes.min(free.f_bavail * free.f_frsize / 3), ..limits })
    }
}

/// A layer: an archive, uncompressed.
#[derive(Debug, Clone)]
pub struct Layer {
    /// What errors call it.
    pub name: String,
    /// Its bytes.
    pub region: Region,
}

/// Writes the archive of what `layers`, the lowest first, are together, and says how many entries it has.
///
/// # Errors
///
/// `InvalidRequest` for a layer that is damaged or does what none may, `ResourceExhausted` beyond the limits.
pub fn flatten(layers: &[Layer], limits: &Limits, out: &mut impl Write) -> Result<u64> {
    if layers.len() > limits.layers {
        return Err(exhausted(format!("it has {} layers, more than {}", layers.len(), limits.layers)));
    }
    let mut tree = Tree::new(limits);
    for (number, layer) in layers.iter().enumerate() {
        tree.add(number, layer)?;
    }
    for (path, _) in NEEDED {
        tree.need(path.as_bytes());
    }
    if let Some(name) = MOUNTED.into_iter().find(|name| !tree.is_directory(name)) {
        let name = String::from_utf8_lossy(name);
        return Err(invalid(format!("/{name} is no directory in it, and a machine mounts its own there")));
    }
    let (firsts, mut entries) = (tree.first_paths(), 0);
    for (path, node) in tree.nodes() {
        write(layers, &path, node, &firsts, out)?;
        entries += 1;
    }
    out.write_all(&tar::END).context(cannot_write)?;
    Ok(entries)
}

/// Refuses what stands alone and has names that would be removals in a layer upon another.
///
/// # Errors
///
/// `InvalidRequest` for such a name, and for an archive that cannot be read.
pub fn no_removals(layer: &Layer) -> Result<()> {
    for found in layer.region.entries() {
        let path = found.map_err(|e| broken(layer, &e))?.entry.path;
        if path.split(|byte| *byte == b'/').any(|part| part.starts_with(tree::REMOVAL)) {
            return Err(refused(
                layer,
                &path,
                "a name that begins with .wh. is a removal, and here is nothing to remove",
            ));
        }
    }
    Ok(())
}

/// Copies what is at a path. What has other names is a link to the first of them.
fn write(
    layers: &[Layer],
    path: &[u8],
    node: &Node,
    firsts: &HashMap<Place, Vec<u8>>,
    out: &mut impl Write,
) -> Result<()> {
    let place = match node {
        Node::Directory(Some(place)) | Node::Other(place) => *place,
        Node::Directory(None) => return tar::write(out, &directory(path)).context(cannot_write),
    };
    let layer = &layers[place.layer as usize];
    let (mut entry, content) = reread(layer, place.offset)?;
    path.clone_into(&mut entry.path);
    if matches!(entry.kind, Kind::Symlink(_)) {
        // They have none of their own on a disk, and archives say one thing or another.
        entry.mode = 0o777;
    }
    if let Some(first) = firsts.get(&place).filter(|first| *first != path) {
        entry = Entry { kind: Kind::Link(first.clone()), size: 0, xattrs: BTreeMap::new(), ..entry };
    }
    keep_attributes(layer, &mut entry)?;
    tar::write(out, &entry).context(cannot_write)?;
    if io::copy(&mut content.take(entry.size), out).context(cannot_write)? < entry.size {
        return Err(broken(layer, &ErrorKind::UnexpectedEof.into()));
    }
    out.write_all(&tar::END[..tar::padding(entry.size) as usize]).context(cannot_write)
}

fn reread(layer: &Layer, offset: u64) -> Result<(Entry, Reader)> {
    let mut reader = layer.region.reader();
    let entry = reader.seek(SeekFrom::Start(offset)).and_then(|_| tar::read(&mut reader));
    let entry = entry.and_then(|entry| entry.ok_or(ErrorKind::UnexpectedEof.into()));
    Ok((entry.map_err(|e| broken(layer, &e))?, reader))
}

/// A directory that no layer says anything of.
fn directory(path: &[u8]) -> Entry {
    let mode = NEEDED.iter().find(|(needed, _)| needed.as_bytes() == path).map_or(0o755, |(_, mode)| *mode);
    let (path, xattrs) = (path.to_vec(), BTreeMap::new());
    Entry { path, kind: Kind::Directory, mode, uid: 0, gid: 0, mtime: 0, size: 0, xattrs }
}

/// Leaves the attributes that a Linux disk can have.
fn keep_attributes(layer: &Layer, entry: &mut Entry) -> Result<()> {
    let users = matches!(entry.kind, Kind::File | Kind::Directory);
    entry
        .xattrs
        .retain(|name, _| XATTRS.iter().any(|kind| name.starts_with(kind)) && (users || !name.starts_with(b"user.")));
    let bytes: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len() + 20).sum();
    if bytes > MAX_XATTRS {
        return Err(refused(layer, &entry.path, "its extended attributes are more than a disk has room for"));
    }
    Ok(())
}

fn cannot_write() -> String {
    "cannot write the image".to_owned()
}

/// The error for an image that is not as it may be.
pub fn invalid(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::InvalidRequest, "cannot import the image", harmless(&why.to_string()))
}

/// The error for an image that is more than it may be.
pub fn exhausted(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::ResourceExhausted, "cannot import the image", why)
}

/// The error for an image with more bytes in it than there may be.
pub fn too_large(limit: u64) -> Error {
    exhausted(format!("all that is in it is more than {} MiB, which is what there is room for", limit >> 20))
        .hint("make room where mvm keeps its files: it takes three times as much, and 32 GiB at most")
}

fn refused(layer: &Layer, path: &[u8], why: &str) -> Error {
    invalid(format!("{}: {}: {why}", layer.name, String::from_utf8_lossy(path)))
}

fn broken(layer: &Layer, e: &io::Error) -> Error {
    damaged(&layer.name, e)
}

/// The error for an archive that cannot be read.
pub fn damaged(name: &str, e: &io::Error) -> Error {
    match e.raw_os_error() {
        Some(errno) => Error::io("cannot import the image", io::Error::from_raw_os_error(errno)),
        None if e.kind() == ErrorKind::UnexpectedEof => invalid(format!("{name}: it is cut off")),
        None => invalid(format!("{name}: {e}")),
    }
}
