//! Bundles: a workload, and all that it names by digest.
//!
//! A bundle is a directory, or the same as one file (`.tar.zst`): `workload.json`, the canonical document, and `contents/` with
//! each content under its SHA-256. What a workload is made of decides every byte of its bundle, so the digest of the document
//! is the digest of the whole, without its lock: a build that takes packages adds `packages.lock.json`, which says which.

mod archive;
mod directory;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mvm_evidence::Digest;
use mvm_ir::{Content, Workload};
use mvm_wire::ErrorCode;

use crate::error::{Error, Result};
use crate::packages::{FILE as LOCK, Lock};
use crate::workload;

/// Bytes of all contents together.
pub const MAX_CONTENTS: u64 = 256 << 20;
/// How the one that is a file is called.
pub const ARCHIVE: &str = ".tar.zst";
/// The document.
const DOCUMENT: &str = "workload.json";
/// The directory of the contents.
const CONTENTS: &str = "contents";

/// A workload, and all that it names by digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    workload: Workload,
    contents: BTreeMap<String, Vec<u8>>,
    lock: Option<Lock>,
}

impl Bundle {
    /// A workload with its contents, by their SHA-256 in hex. Each must be named by it, and none may be missing.
    pub fn new(workload: Workload, contents: BTreeMap<String, Vec<u8>>) -> Result<Bundle> {
        let mut wanted = Wanted::of(&workload)?;
        for (digest, bytes) in &contents {
            wanted.check(digest, bytes)?;
        }
        wanted.none_is_missing()?;
        Ok(Bundle { workload, contents, lock: None })
    }

    /// Which packages are to be taken, and no others.
    pub fn lock(&self) -> Option<&Lock> {
        self.lock.as_ref()
    }

    /// The same with these packages.
    pub fn with_lock(self, lock: Option<Lock>) -> Bundle {
        Bundle { lock, ..self }
    }

    /// Every file of it but the contents, by name, in their order.
    fn head(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let document = mvm_ir::canonical(&self.workload).map_err(|e| Error::internal("cannot write the bundle", e))?;
        let mut head = vec![(DOCUMENT, document)];
        if let Some(lock) = &self.lock {
            head.push((LOCK, lock.bytes()?));
        }
        Ok(head)
    }

    /// The workload.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// The bytes that a content names.
    pub fn content(&self, content: &Content) -> Option<&[u8]> {
        self.contents.get(&content.sha256).map(Vec::as_slice)
    }

    /// How many contents there are, and how many bytes in them.
    pub fn size(&self) -> (usize, u64) {
        (self.contents.len(), self.contents.values().map(|bytes| bytes.len() as u64).sum())
    }

    /// Reads a directory, or a file that [`is_archive`].
    pub fn read(path: &Path) -> Result<Bundle> {
        if path.is_dir() { directory::read(path) } else { archive::read(path) }
            .map_err(|error| Error { what: format!("cannot read the bundle {}", path.display()), ..error })
    }

    /// Writes it: as one file if the name ends so, and as a directory otherwise. It is there whole or not at all. A bundle
    /// that is there is replaced, anything else is [`ErrorCode::AlreadyExists`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let head = self.head()?;
        let named = path.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(ARCHIVE.as_bytes()));
        if named { archive::write(path, &head, &self.contents) } else { directory::write(path, &head, &self.contents) }
            .map_err(|error| Error { what: format!("cannot write the bundle {}", path.display()), ..error })
    }
}

/// Whether bytes are the beginning of a bundle that is one file.
pub fn is_archive(beginning: &[u8]) -> bool {
    beginning.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
}

fn refused(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::InvalidRequest, "cannot read the bundle", why).hint("mvmctl compile makes one")
}

/// Reads the document of a bundle.
fn document(bytes: &[u8]) -> Result<Workload> {
    workload::read(DOCUMENT, bytes).map_err(|error| refused(format!("{DOCUMENT}: {}", error.why)))
}

/// The contents that a workload names and that were not seen yet.
struct Wanted(BTreeMap<String, u64>, BTreeSet<String>);

impl Wanted {
    /// All of them. Their sizes are bounded, and one that is named twice has one size.
    fn of(workload: &Workload) -> Result<Wanted> {
        let mut sizes = BTreeMap::new();
        for content in workload.contents() {
            if *sizes.entry(content.sha256.clone()).or_insert(content.bytes) != content.bytes {
                return Err(refused(format!("it gives the content {} two sizes", content.sha256)));
            }
        }
        let total = sizes.values().fold(0u64, |total, size| total.saturating_add(*size));
        if total > MAX_CONTENTS {
            return Err(Error::new(
                ErrorCode::ResourceExhausted,
                "cannot read the bundle",
                format!("a bundle holds {} MiB of contents, and its have {} MiB", MAX_CONTENTS >> 20, total >> 20),
            ));
        }
        Ok(Wanted(sizes, BTreeSet::new()))
    }

    /// The size of a content; an error if it is not named, or was there before.
    fn size(&mut self, digest: &str) -> Result<u64> {
        let size = self.0.get(digest).ok_or_else(|| refused(format!("no content {digest} is named in it")))?;
        if self.1.insert(digest.to_owned()) { Ok(*size) } else { Err(refused(format!("{digest} is in it twice"))) }
    }

    /// Accepts the bytes of a content.
    fn check(&mut self, digest: &str, bytes: &[u8]) -> Result<()> {
        let size = self.size(digest)?;
        if bytes.len() as u64 != size || Digest::of(bytes).to_string() != digest {
            return Err(refused(format!("the content {digest} is not what its digest says")));
        }
        Ok(())
    }

    fn none_is_missing(&self) -> Result<()> {
        match self.0.keys().find(|digest| !self.1.contains(*digest)) {
            Some(digest) => Err(refused(format!("the content {digest} is missing"))),
            None => Ok(()),
        }
    }
}
