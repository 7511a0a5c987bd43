//! Archives, made entry by entry.

use std::collections::BTreeMap;

use mvm_wire::tar::{self, Entry, Kind};

/// An archive in the making.
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn new() -> Tar {
        Tar(Vec::new())
    }

    /// The headers of an entry, whose content may not follow.
    pub fn header(mut self, entry: &Entry) -> Tar {
        tar::write(&mut self.0, entry).unwrap();
        self
    }

    /// An entry without content.
    pub fn put(self, entry: &Entry) -> Tar {
        assert_eq!(entry.size, 0);
        self.header(entry)
    }

    pub fn file(self, path: &str, content: &[u8]) -> Tar {
        let mut tar = self.header(&file(path, content.len()));
        tar.0.extend(content);
        tar.0.extend(vec![0; tar::padding(content.len() as u64) as usize]);
        tar
    }

    /// A file whose path is written as it is.
    pub fn raw_path(self, path: &str) -> Tar {
        let mut tar = self.put(&file(path, 0));
        tar.fix();
        tar
    }

    /// A header of a kind that says so much follows.
    pub fn raw_header(self, kind: u8, size: u64) -> Tar {
        let mut tar = self.header(&Entry { size, ..file("header", 0) });
        let at = tar.0.len() - 512 + 156;
        tar.0[at] = kind;
        tar.fix();
        tar
    }

    /// Gives the last header the right sum.
    fn fix(&mut self) {
        let start = self.0.len() - 512;
        let header = &mut self.0[start..];
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend(tar::END);
        self.0
    }
}

pub fn file(path: &str, size: usize) -> Entry {
    let (path, xattrs) = (path.as_bytes().to_vec(), BTreeMap::new());
    Entry { path, kind: Kind::File, mode: 0o644, uid: 0, gid: 0, mtime: 0, size: size as u64, xattrs }
}

pub fn directory(path: &str) -> Entry {
    Entry { kind: Kind::Directory, mode: 0o755, ..file(path, 0) }
}

pub fn link(path: &str, target: &str) -> Entry {
    Entry { kind: Kind::Link(target.as_bytes().to_vec()), ..file(path, 0) }
}

pub fn symlink(path: &str, target: &str) -> Entry {
    Entry { kind: Kind::Symlink(target.as_bytes().to_vec()), mode: 0o777, ..file(path, 0) }
}
