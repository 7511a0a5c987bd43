//! The files of a source tree, as they go into a workload. A tree is read beneath its directory's handle, and no link in it is
//! followed.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use mvm_evidence::Digest;
use mvm_ir::{Content, SourceFile};
use mvm_wire::ErrorCode;
use mvm_wire::files::{Entry, FileKind};

use crate::bundle::MAX_CONTENTS;
use crate::copy::beneath::Dir;
use crate::error::{Error, Result};
use crate::files::shown;

/// The most files of a tree, as in a workload.
const MAX_FILES: usize = 20_000;
/// The most entries of a directory, of which patterns may leave out any.
const MAX_ENTRIES: usize = 2 * MAX_FILES;
/// How deep a tree may be: one descriptor is held for each level.
const MAX_DEPTH: usize = 64;
/// What tools make of a source, and is made anew from it.
const MADE: [&str; 4] = [".git", "__pycache__", "node_modules", ".venv"];
/// Any bit that lets somebody run a file.
const EXECUTABLE: u32 = 0o111;

/// Which files of a tree are taken.
pub struct Patterns {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Patterns {
    /// Patterns for paths in the tree: `*` and `?` stop at `/`, `**` does not. All files are taken that one of `include`
    /// matches, but for those that one of `exclude` matches, or that are in a directory that it matches. Without `include` all
    /// are, but for what tools make (`.git`, `__pycache__`, `node_modules`, `.venv`). An error names the pattern that makes no
    /// sense.
    pub fn new(include: &[String], exclude: &[String]) -> std::result::Result<Patterns, String> {
        let include = if include.is_empty() { None } else { Some(set(include)?) };
        Ok(Patterns { include, exclude: set(exclude)? })
    }

    fn takes(&self, path: &str) -> bool {
        self.include.as_ref().is_none_or(|include| include.is_match(path)) && !self.exclude.is_match(path)
    }

    fn enters(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        !self.exclude.is_match(path) && (self.include.is_some() || !MADE.contains(&name))
    }
}

fn set(patterns: &[String]) -> std::result::Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build();
        set.add(glob.map_err(|e| format!("{pattern:?}: {}", e.kind()))?);
    }
    set.build().map_err(|e| e.to_string())
}

/// What was taken of a tree.
#[derive(Debug, Default)]
pub struct Tree {
    /// The files, by their paths.
    pub files: Vec<SourceFile>,
    /// Their bytes, by SHA-256 in hex.
    pub contents: BTreeMap<String, Vec<u8>>,
}

/// Reads the tree at `path` beneath `base`, out of which it may not lead. A link, a device or a name that is no text is
/// refused, unless a pattern leaves it out. `skip` is a place in it that is left out, too: what is being made of it.
pub fn read(base: &Path, path: &Path, patterns: &Patterns, skip: Option<&Path>) -> Result<Tree> {
    let directory = base.join(path);
    let read = || {
        let dir = open(base, path)?;
        let skip = skip.and_then(|skip| beneath(&directory, skip));
        let mut reader = Reader { patterns, skip, tree: Tree::default(), size: 0 };
        reader.enter(&dir, "", 1)?;
        Ok(reader.tree)
    };
    read().map_err(|error: Error| Error { what: format!("cannot read the source {}", directory.display()), ..error })
}

fn open(base: &Path, path: &Path) -> Result<Dir> {
    let mut dir = Dir::open(base).map_err(|e| Error::named("", e))?;
    for part in path.components() {
        dir = match part {
            Component::CurDir => dir,
            Component::Normal(name) => dir.enter(name.as_bytes()).map_err(|e| Error::named("", e))?,
            _ => {
                let why = "it leads out of the directory of its file";
                return Err(Error::new(ErrorCode::InvalidRequest, "", why).hint("name a directory beside the file"));
            }
        };
    }
    Ok(dir)
}

/// The path of a place in a directory, as text; none if it is elsewhere.
fn beneath(directory: &Path, place: &Path) -> Option<String> {
    let (directory, parent) = (std::fs::canonicalize(directory).ok()?, std::path::absolute(place).ok()?);
    let place = std::fs::canonicalize(parent.parent()?).ok()?.join(parent.file_name()?);
    place.strip_prefix(directory).ok()?.to_str().map(str::to_owned)
}

struct Reader<'a> {
    patterns: &'a Patterns,
    skip: Option<String>,
    tree: Tree,
    /// Bytes of its files together.
    size: u64,
}

impl Reader<'_> {
    /// Takes what is in a directory, by the bytes of the names.
    fn enter(&mut self, dir: &Dir, path: &str, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(refused(path, format!("it is more than {MAX_DEPTH} directories deep")));
        }
        let mut entries = dir.list(MAX_ENTRIES as u64).map_err(|e| failed(path, e))?;
        if entries.len() > MAX_ENTRIES {
            let place = if path.is_empty() { "it".to_owned() } else { crate::text::harmless(path) };
            return Err(too_much(format!("there are more than {MAX_ENTRIES} files in {place}")));
        }
        entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        for entry in entries {
            self.entry(dir, path, &entry, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, dir: &Dir, above: &str, entry: &Entry, depth: usize) -> Result<()> {
        let Ok(name) = std::str::from_utf8(&entry.name) else {
            return Err(refused(&format!("{above}/{}", shown(&entry.name)), "its name is no UTF-8"));
        };
        let path = if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") };
        if self.skip.as_deref() == Some(path.as_str()) {
            return Ok(());
        }
        match entry.kind {
            FileKind::Directory if !self.patterns.enters(&path) => Ok(()),
            FileKind::Directory => self.enter(&dir.enter(&entry.name).map_err(|e| failed(&path, e))?, &path, depth + 1),
            _ if !self.patterns.takes(&path) => Ok(()),
            FileKind::File => self.file(dir, path, entry),
            FileKind::Symlink => Err(refused(&path, "it is a symbolic link, and a workload has none")),
            _ => Err(refused(&path, "it is a device, a pipe or a socket")),
        }
    }

    fn file(&mut self, dir: &Dir, path: String, entry: &Entry) -> Result<()> {
        if self.tree.files.len() == MAX_FILES {
            return Err(too_much(format!("there are more than {MAX_FILES} files in it")));
        }
        let (mut bytes, left) = (Vec::new(), MAX_CONTENTS - self.size);
        let read = dir.read(&entry.name).and_then(|file| file.take(left + 1).read_to_end(&mut bytes));
        read.map_err(|e| failed(&path, e))?;
        if bytes.len() as u64 > left {
            return Err(too_much(format!("its files have more than {} MiB", MAX_CONTENTS >> 20)));
        }
        self.size += bytes.len() as u64;
        let content = Content { sha256: Digest::of(&bytes).to_string(), bytes: bytes.len() as u64 };
        self.tree.contents.insert(content.sha256.clone(), bytes);
        self.tree.files.push(SourceFile { path, content, executable: entry.mode & EXECUTABLE != 0 });
        Ok(())
    }
}

fn failed(path: &str, e: std::io::Error) -> Error {
    let why = format!("{}: {e}", crate::text::harmless(path));
    Error { why, ..Error::io("cannot read the source", e) }
}

fn refused(path: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::InvalidRequest, "cannot read the source", format!("{}: {why}", crate::text::harmless(path)))
        .hint("leave it out with exclude")
}

fn too_much(why: String) -> Error {
    Error::new(ErrorCode::ResourceExhausted, "cannot read the source", why).hint("name what belongs to it with include")
}
