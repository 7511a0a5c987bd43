//! The files that an image is made of: those of a directory, or those of an archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};

use mvm_wire::ErrorCode;
use mvm_wire::tar::{Kind, clean};

use crate::copy::beneath::Dir;
use crate::error::{Error, Result};
use crate::layers::{Region, damaged, invalid};

/// An image with all its layers has fewer files than this; what has more is a root file system.
const MAX_PARTS: usize = 10_000;

/// Where the files are.
pub enum Parts {
    Directory(Dir),
    Archive(Index),
}

impl Parts {
    /// Opens one by its path, of which no part is a link to somewhere else.
    pub fn open(&self, path: &str) -> Result<Box<dyn Read>> {
        let clean = clean(path.as_bytes()).map_err(|why| invalid(format!("{path}: {why}")))?;
        match self {
            Parts::Directory(dir) => match beneath(dir, &clean) {
                Ok(file) => Ok(Box::new(file)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Err(missing(path)),
                Err(e) => Err(damaged(path, &io::Error::other(e.to_string()))),
            },
            Parts::Archive(index) => Ok(Box::new(index.region(&clean).ok_or_else(|| missing(path))?.reader())),
        }
    }

    pub fn has(&self, path: &str) -> bool {
        self.open(path).is_ok()
    }
}

fn missing(path: &str) -> Error {
    let why = crate::text::harmless(&format!("{path} is not in it"));
    Error::new(ErrorCode::InvalidRequest, "cannot import the image", why)
}

fn beneath(dir: &Dir, path: &[u8]) -> io::Result<File> {
    let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let name = parts.pop().unwrap_or_default();
    let dir = parts.into_iter().try_fold(dir.clone(), |dir, part| dir.enter(part))?;
    dir.read(name)
}

/// The files of an archive by their paths.
pub struct Index(HashMap<Vec<u8>, Part>);

enum Part {
    File(Region),
    Link(Vec<u8>),
}

impl Index {
    /// Reads the whole archive.
    pub fn of(archive: &Region) -> io::Result<Index> {
        let mut parts = HashMap::new();
        for found in archive.entries() {
            let found = found?;
            let part = match &found.entry.kind {
                Kind::File => Part::File(archive.content(&found)),
                Kind::Symlink(target) | Kind::Link(target) => Part::Link(target.clone()),
                _ => continue,
            };
            if parts.len() <= MAX_PARTS {
                parts.insert(found.entry.path, part);
            }
        }
        if parts.len() > MAX_PARTS {
            parts.clear();
        }
        Ok(Index(parts))
    }

    /// A file, or the one that a link in its place means: docker writes a layer once and links to it.
    fn region(&self, path: &[u8]) -> Option<&Region> {
        let target = match self.0.get(path)? {
            Part::File(region) => return Some(region),
            Part::Link(target) => target,
        };
        let mut at: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        at.pop();
        for part in target.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(at.pop()?),
                part => at.push(part),
            }
        }
        match self.0.get(&at.join(&b'/'))? {
            Part::File(region) => Some(region),
            Part::Link(_) => None,
        }
    }
}
