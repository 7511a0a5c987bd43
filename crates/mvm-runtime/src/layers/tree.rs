//! Which entry of which layer each path is.
//!
//! In here the parts of a path are divided by zeros, which no part has. So in the order of bytes a directory stands right
//! before all that is in it: `a`, `a/b`, and only then `a.b`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;

use mvm_wire::tar::Kind;

use super::{Layer, Limits, broken, exhausted, refused};
use crate::error::{Error, Result};

/// Divides the parts of a path.
const DIVIDER: u8 = 0;
/// A name that begins so is a removal.
pub const REMOVAL: &[u8] = b".wh.";
/// What the layers of some tools have for themselves.
const OWN: &[u8] = b".wh..wh.";
/// The name that removes all that is in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Where the headers of an entry begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    pub layer: u32,
    pub offset: u64,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A directory, and where an entry says its owner and mode.
    Directory(Option<Place>),
    /// Anything else. Paths of one place are names of one file.
    Other(Place),
}

/// The tree of all layers so far. The root is an empty path.
pub struct Tree<'a> {
    nodes: BTreeMap<Vec<u8>, Node>,
    /// The files that were given another name.
    linked: HashSet<Place>,
    limits: &'a Limits,
    entries: u64,
    names: u64,
}

impl<'a> Tree<'a> {
    pub fn new(limits: &'a Limits) -> Tree<'a> {
        let nodes = BTreeMap::from([(Vec::new(), Node::Directory(None))]);
        Tree { nodes, linked: HashSet::new(), limits, entries: 0, names: 0 }
    }

    /// Puts a layer upon all that is there.
    pub fn add(&mut self, number: usize, layer: &Layer) -> Result<()> {
        let removed_from = if number == 0 { Vec::new() } else { self.remove_all(layer)? };
        for found in layer.region.entries() {
            let found = found.map_err(|e| broken(layer, &e))?;
            let path = divided(&found.entry.path);
            self.count(&path)?;
            if role(&path).map_err(|why| refused(layer, &whole(&path), why))? == Role::Addition {
                let place = Place { layer: number as u32, offset: found.offset };
                self.put(&path, &found.entry.kind, place).map_err(|e| e.at(layer, &path))?;
            }
        }
        // A removal through a link, which some would follow.
        match removed_from.iter().find(|dir| !self.is_in_directories(dir)) {
            Some(dir) => Err(refused(layer, &whole(dir), "something is to be removed from it, and it is no directory")),
            None => Ok(()),
        }
    }

    /// Does what a layer's removals say, and tells from which directories something was to be removed.
    fn remove_all(&mut self, layer: &Layer) -> Result<Vec<Vec<u8>>> {
        let mut dirs = Vec::new();
        for found in layer.region.entries() {
            let path = divided(&found.map_err(|e| broken(layer, &e))?.entry.path);
            let (dir, name) = split(&path);
            match role(&path).map_err(|why| refused(layer, &whole(&path), why))? {
                Role::Removal => {
                    let removed = join(dir, &name[REMOVAL.len()..]);
                    self.remove_beneath(&removed);
                    self.nodes.remove(&removed);
                }
                Role::Emptying => self.remove_beneath(dir),
                Role::Addition | Role::Ignored => continue,
            }
            self.count(&path)?;
            dirs.push(dir.to_vec());
        }
        Ok(dirs)
    }

    fn put(&mut self, path: &[u8], kind: &Kind, place: Place) -> std::result::Result<(), Refusal> {
        let node = match kind {
            Kind::Directory => Node::Directory(Some(place)),
            Kind::Link(target) => match self.nodes.get(&divided(target)) {
                Some(Node::Other(place)) => {
                    self.linked.insert(*place);
                    Node::Other(*place)
                }
                Some(Node::Directory(_)) => return Err(Refusal::Why("it is a hard link to a directory")),
                None => return Err(Refusal::Why("it is a hard link to what is not there")),
            },
            _ => Node::Other(place),
        };
        self.make_parents(path)?;
        if matches!(node, Node::Other(_)) {
            self.remove_beneath(path);
        }
        self.nodes.insert(path.to_vec(), node);
        Ok(())
    }

    /// Makes the directories that no layer has an entry of.
    fn make_parents(&mut self, path: &[u8]) -> std::result::Result<(), Refusal> {
        let mut dir = split(path).0;
        let mut missing = Vec::new();
        loop {
            match self.nodes.get(dir) {
                Some(Node::Directory(_)) => break,
                Some(Node::Other(_)) => return Err(Refusal::Why("what it is in is no directory")),
                None => missing.push(dir.to_vec()),
            }
            dir = split(dir).0;
        }
        for dir in missing {
            self.count(&dir).map_err(Refusal::Error)?;
            self.nodes.insert(dir, Node::Directory(None));
        }
        Ok(())
    }

    /// Makes a directory where there is nothing of its name.
    pub fn need(&mut self, name: &[u8]) {
        self.nodes.entry(name.to_vec()).or_insert(Node::Directory(None));
    }

    fn remove_beneath(&mut self, dir: &[u8]) {
        let from = if dir.is_empty() { Vec::new() } else { [dir, &[DIVIDER]].concat() };
        let beneath = self.nodes.range::<[u8], _>((Bound::Excluded(from.as_slice()), Bound::Unbounded));
        let paths: Vec<Vec<u8>> =
            beneath.map(|(path, _)| path).take_while(|path| path.starts_with(&from)).cloned().collect();
        for path in paths {
            self.nodes.remove(&path);
        }
    }

    /// Whether the nearest of it and what it is in that is there is a directory.
    fn is_in_directories(&self, mut dir: &[u8]) -> bool {
        loop {
            match self.nodes.get(dir) {
                Some(node) => return matches!(node, Node::Directory(_)),
                None => dir = split(dir).0,
            }
        }
    }

    pub fn is_directory(&self, path: &[u8]) -> bool {
        matches!(self.nodes.get(path), Some(Node::Directory(_)))
    }

    /// All paths, as others write them: a directory before what is in it.
    pub fn nodes(&self) -> impl Iterator<Item = (Vec<u8>, &Node)> {
        self.nodes.iter().map(|(path, node)| (whole(path), node))
    }

    /// The first path of each file that was given more than one.
    pub fn first_paths(&self) -> HashMap<Place, Vec<u8>> {
        let mut firsts = HashMap::new();
        for (path, node) in self.nodes() {
            if let Node::Other(place) = node {
                if self.linked.contains(place) {
                    firsts.entry(*place).or_insert(path);
                }
            }
        }
        firsts
    }

    fn count(&mut self, path: &[u8]) -> Result<()> {
        self.entries += 1;
        self.names += path.len() as u64;
        if self.entries > self.limits.entries {
            return Err(exhausted(format!("it has more than {} entries", self.limits.entries)));
        }
        if self.names > self.limits.names {
            return Err(exhausted(format!("its paths are more than {} bytes", self.limits.names)));
        }
        Ok(())
    }
}

/// Why an entry cannot be put where it is to be.
enum Refusal {
    Why(&'static str),
    Error(Error),
}

impl Refusal {
    fn at(self, layer: &Layer, path: &[u8]) -> Error {
        match self {
            Refusal::Why(why) => refused(layer, &whole(path), why),
            Refusal::Error(error) => error,
        }
    }
}

/// What an entry is for, by its name.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    Addition,
    /// Removes what its name says behind [`REMOVAL`].
    Removal,
    /// Removes all that is in its directory.
    Emptying,
    Ignored,
}

fn role(path: &[u8]) -> std::result::Result<Role, &'static str> {
    let (dir, name) = split(path);
    let mut parts = path.split(|byte| *byte == DIVIDER);
    if parts.any(|part| part.starts_with(OWN) && part != OPAQUE) {
        return Ok(Role::Ignored);
    }
    if dir.split(|byte| *byte == DIVIDER).any(|part| part.starts_with(REMOVAL)) {
        return Err("it is beneath a removal");
    }
    match name.strip_prefix(REMOVAL) {
        None => Ok(Role::Addition),
        Some(b"" | b"." | b"..") => Err("it removes what can have no name"),
        Some(_) if name == OPAQUE => Ok(Role::Emptying),
        Some(_) => Ok(Role::Removal),
    }
}

fn divided(path: &[u8]) -> Vec<u8> {
    path.iter().map(|byte| if *byte == b'/' { DIVIDER } else { *byte }).collect()
}

fn whole(path: &[u8]) -> Vec<u8> {
    path.iter().map(|byte| if *byte == DIVIDER { b'/' } else { *byte }).collect()
}

/// The directory that a path is in, and its name there. The root is in itself.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == DIVIDER) {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, &[DIVIDER], name].concat() }
}
