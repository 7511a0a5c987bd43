//! The identity of a file that must never change: what is cheap to check before every use, and what proves it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// What is known of a file since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// Length in bytes.
    pub size: u64,
    /// Inode number: another file under the same name has another one.
    pub inode: u64,
    /// Change time in nanoseconds since 1970: every write, truncation and change of mode moves it.
    pub ctime_ns: i64,
    /// SHA-256 of the content, in hex.
    pub sha256: String,
}

impl FileStamp {
    /// Stamps a file that is finished. It may still move along with its directory.
    pub fn of(path: &Path) -> Result<FileStamp> {
        let context = |e| Error::io(format!("cannot read {}", path.display()), e);
        let mut file = File::open(path).map_err(context)?;
        let sha256 = digest(&mut file).map_err(context)?;
        let meta = file.metadata().map_err(context)?;
        Ok(FileStamp { size: meta.size(), inode: meta.ino(), ctime_ns: ctime_ns(&meta), sha256 })
    }

    /// Cheap: whether size, inode and change time are as they were. The error says what is not.
    pub fn check(&self, path: &Path) -> std::result::Result<(), String> {
        let name = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let meta = std::fs::symlink_metadata(path).map_err(|e| format!("{} cannot be read: {e}", name()))?;
        if meta.size() != self.size {
            Err(format!("{} has {} bytes instead of {}", name(), meta.size(), self.size))
        } else if meta.ino() != self.inode || !meta.is_file() {
            Err(format!("{} was replaced", name()))
        } else if ctime_ns(&meta) != self.ctime_ns {
            Err(format!("{} was changed", name()))
        } else {
            Ok(())
        }
    }

    /// Dear: the check above, and every byte.
    pub fn verify(&self, path: &Path) -> std::result::Result<(), String> {
        self.check(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let found = File::open(path)
            .and_then(|mut file| digest(&mut file))
            .map_err(|e| format!("{name} cannot be read: {e}"))?;
        if found == self.sha256 { Ok(()) } else { Err(format!("{name} has another content")) }
    }
}

/// The identity of a file that other directories may have too, as hard links: what a link changes is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContentStamp {
    /// Length in bytes.
    pub size: u64,
    /// When it was last written to, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// SHA-256 of the content, in hex, where it was taken.
    pub sha256: Option<String>,
}

impl ContentStamp {
    /// Stamps a file that is finished; with its digest, which takes a second for each GiB, or without.
    pub fn of(path: &Path, with_digest: bool) -> Result<ContentStamp> {
        let context = |e| Error::io(format!("cannot read {}", path.display()), e);
        let mut file = File::open(path).map_err(context)?;
        let sha256 = if with_digest { Some(digest(&mut file).map_err(context)?) } else { None };
        let meta = file.metadata().map_err(context)?;
        Ok(ContentStamp { size: meta.size(), mtime_ns: mtime_ns(&meta), sha256 })
    }

    /// Whether the content is what it was: cheap if nobody wrote to it, by every byte if somebody did.
    pub fn check(&self, path: &Path) -> std::result::Result<(), String> {
        let name = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let meta = std::fs::symlink_metadata(path).map_err(|e| format!("{} cannot be read: {e}", name()))?;
        if meta.size() != self.size || !meta.is_file() {
            Err(format!("{} has {} bytes instead of {}", name(), meta.size(), self.size))
        } else if mtime_ns(&meta) == self.mtime_ns {
            Ok(())
        } else if self.sha256.is_some() {
            self.verify(path)
        } else {
            Err(format!("{} was changed", name()))
        }
    }

    /// Every byte, where there is a digest to compare with.
    pub fn verify(&self, path: &Path) -> std::result::Result<(), String> {
        let name = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(expected) = &self.sha256 else { return self.check(path) };
        let found = File::open(path).and_then(|mut file| digest(&mut file));
        match found {
            Ok(found) if found == *expected => Ok(()),
            Ok(_) => Err(format!("{} has another content", name())),
            Err(e) => Err(format!("{} cannot be read: {e}", name())),
        }
    }
}

fn mtime_ns(meta: &std::fs::Metadata) -> i64 {
    meta.mtime() * 1_000_000_000 + meta.mtime_nsec()
}

fn ctime_ns(meta: &std::fs::Metadata) -> i64 {
    meta.ctime() * 1_000_000_000 + meta.ctime_nsec()
}

fn digest(file: &mut File) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            len => hasher.update(&buffer[..len]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_kind_of_tampering_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let fresh = |content: &str| {
            fs::write(&path, content).unwrap();
            FileStamp::of(&path).unwrap()
        };
        let stamp = fresh("content");
        assert_eq!(stamp.verify(&path), Ok(()));
        fs::write(&path, "cont").unwrap();
        assert_eq!(stamp.check(&path).unwrap_err(), "f has 4 bytes instead of 7");

        let stamp = fresh("content");
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&path, "CONTENT").unwrap();
        assert_eq!(stamp.check(&path).unwrap_err(), "f was changed");

        let stamp = fresh("content");
        fs::write(dir.path().join("g"), "content").unwrap();
        fs::rename(dir.path().join("g"), &path).unwrap();
        assert_eq!(stamp.check(&path).unwrap_err(), "f was replaced");

        fs::remove_file(&path).unwrap();
        assert!(stamp.check(&path).unwrap_err().starts_with("f cannot be read"));
    }

    #[test]
    fn a_link_changes_nothing_and_a_write_everything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "content").unwrap();
        let (stamp, undigested) = (ContentStamp::of(&path, true).unwrap(), ContentStamp::of(&path, false).unwrap());
        fs::hard_link(&path, dir.path().join("g")).unwrap();
        assert_eq!((stamp.check(&path), undigested.check(&path)), (Ok(()), Ok(())));
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&path, "content").unwrap();
        assert_eq!(stamp.check(&path), Ok(()), "written with the same bytes");
        assert_eq!(undigested.check(&path).unwrap_err(), "f was changed");
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&path, "CONTENT").unwrap();
        assert_eq!(stamp.check(&path).unwrap_err(), "f has another content");
        fs::write(&path, "c").unwrap();
        assert_eq!(stamp.check(&path).unwrap_err(), "f has 1 bytes instead of 7");
    }
}
