//! A bundle that is a directory. Whatever else lies in it is refused, and no link in it is followed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use mvm_wire::ErrorCode;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{Bundle, CONTENTS, DOCUMENT, Wanted, document, refused};
use crate::copy::beneath::Dir;
use crate::error::{Error, IoContext, Result};
use crate::home::Draft;
use crate::packages::{FILE as LOCK, Lock, MAX_LOCK};

const WHAT: &str = "cannot read the bundle";

/// Reads one.
pub fn read(path: &Path) -> Result<Bundle> {
    let dir = Dir::open(path).context(|| WHAT.to_owned())?;
    let workload = document(&bytes(&dir, DOCUMENT, mvm_ir::MAX_BYTES as u64)?)?;
    let mut wanted = Wanted::of(&workload)?;
    let mut contents = BTreeMap::new();
    let mut there = vec![DOCUMENT];
    let lock = match dir.read(LOCK.as_bytes()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        _ => {
            there.push(LOCK);
            Some(Lock::read(&bytes(&dir, LOCK, MAX_LOCK)?)?)
        }
    };
    if !wanted.0.is_empty() {
        there.push(CONTENTS);
        let inner = dir.enter(CONTENTS.as_bytes()).map_err(|e| refused(format!("{CONTENTS}: {e}")))?;
        for (digest, size) in wanted.0.clone() {
            let bytes = bytes(&inner, &digest, size)?;
            wanted.check(&digest, &bytes)?;
            contents.insert(digest, bytes);
        }
        nothing_else(&inner, contents.len(), |name| contents.contains_key(name))?;
    }
    nothing_else(&dir, there.len(), |name| there.contains(&name))?;
    Ok(Bundle { workload, contents, lock })
}

/// A file, of which one byte too many is seen.
fn bytes(dir: &Dir, name: &str, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = || dir.read(name.as_bytes())?.take(limit + 1).read_to_end(&mut bytes);
    let read: io::Result<usize> = { read }();
    match read {
        Ok(read) if read as u64 > limit => Err(refused(format!("{name} is larger than it should be"))),
        Ok(_) => Ok(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(refused(format!("there is no {name} in it"))),
        Err(e) => Err(refused(format!("{name}: {e}"))),
    }
}

fn nothing_else(dir: &Dir, count: usize, known: impl Fn(&str) -> bool) -> Result<()> {
    let listed = dir.names(count as u64).context(|| WHAT.to_owned())?;
    match listed.iter().find(|name| !std::str::from_utf8(name).is_ok_and(&known)) {
        Some(name) => Err(refused(format!("{} is no part of a bundle", crate::files::shown(name)))),
        None => Ok(()),
    }
}

/// Writes one beside its place, and puts it there.
pub fn write(path: &Path, head: &[(&str, Vec<u8>)], contents: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let what = || "cannot write the bundle".to_owned();
    let place = std::path::absolute(path).context(what)?;
    let parent = place.parent().ok_or_else(|| Error::new(ErrorCode::InvalidRequest, what(), "it has no name"))?;
    let replaces = replaces(&place)?;
    let draft = Draft::beside(&place);
    fill(draft.path(), head, contents).context(what)?;
    let flags = if replaces { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    match renameat_with(CWD, draft.path(), CWD, &place, flags) {
        Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(in_the_way()),
        done => done.context(what)?,
    }
    File::open(parent).and_then(|dir| dir.sync_all()).context(what)
}

fn in_the_way() -> Error {
    Error::new(ErrorCode::AlreadyExists, "cannot write the bundle", "something else is there")
        .hint("name another place, or remove it")
}

/// Whether something is there that may be replaced: a bundle, also one that is damaged, or an empty directory.
fn replaces(place: &Path) -> Result<bool> {
    match fs::symlink_metadata(place) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io("cannot write the bundle", e)),
        Ok(meta) if !meta.is_dir() => return Err(in_the_way()),
        Ok(_) => {}
    }
    let mut entries = fs::read_dir(place).context(|| "cannot write the bundle".to_owned())?;
    let ours = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| [DOCUMENT, LOCK, CONTENTS].iter().any(|name| entry.file_name() == *name))
    };
    if entries.all(ours) { Ok(true) } else { Err(in_the_way()) }
}

fn fill(dir: &Path, head: &[(&str, Vec<u8>)], contents: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    fs::create_dir(dir)?;
    head.iter().try_for_each(|(name, bytes)| put(&dir.join(name), bytes))?;
    if !contents.is_empty() {
        let inner = dir.join(CONTENTS);
        fs::create_dir(&inner)?;
        contents.iter().try_for_each(|(digest, bytes)| put(&inner.join(digest), bytes))?;
        File::open(&inner)?.sync_all()?;
    }
    File::open(dir)?.sync_all()
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().create_new(true).write(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
