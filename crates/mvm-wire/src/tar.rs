//! Tar archives, in which images travel between host and guest: one entry at a time, from and to anything that has bytes.
//!
//! Read are the formats that others write: the old one, ustar, GNU's long names, and PAX with extended attributes.
//! Written is one form only: the same entries are the same bytes. Whoever reads gets nothing that leads elsewhere: paths are
//! relative, without `.` and `..`, and everything that has a length has a bound. What an archive says of names of users, of
//! fractions of seconds and of other times than the last change is left behind.

mod read;
mod write;

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};

use crate::files::{MAX_NAME, MAX_PATH, check_name};

pub use read::read;
pub use write::write;

/// Content is padded to whole blocks of this many bytes.
pub const BLOCK: u64 = 512;
/// What one entry may have in headers besides its own: long names, attributes. In bytes.
pub const MAX_HEADERS: u64 = 1 << 20;
/// What stands behind the last entry.
pub const END: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];
/// The permissions of an entry, with setuid, setgid and sticky.
const MODE: u32 = 0o7777;
/// The name of an attribute is behind this.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// The largest time that a header has room for in digits.
const MAX_TIME: u64 = 0o77_777_777_777;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file; its content follows.
    File,
    /// Another name of the file with this path.
    Link(Vec<u8>),
    /// A symbolic link, and what it says. It may say anything.
    Symlink(Vec<u8>),
    /// A directory.
    Directory,
    /// A pipe.
    Fifo,
    /// A character device: major and minor number.
    Char(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
}

/// One entry, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is: parts divided by `/`, none of them `.` or `..`; empty for the root itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was last changed, in seconds since 1970.
    pub mtime: u64,
    /// Bytes of content; 0 for all but files.
    pub size: u64,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// How many bytes stand between a content of this size and the next block.
pub fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK
}

/// The path that an archive means, without what it may begin with (`/`, `./`). Refused is what leads out, or what no file
/// system can have.
pub fn clean(path: &[u8]) -> Result<Vec<u8>, String> {
    let mut clean = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")) {
        check_name(part).map_err(|_| match part {
            b".." => "its path has a part ..".to_owned(),
            part if part.len() > MAX_NAME => format!("a part of its path is longer than {MAX_NAME} bytes"),
            _ => "its path has a zero byte".to_owned(),
        })?;
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend(part);
    }
    if clean.len() > MAX_PATH { Err(format!("its path is longer than {MAX_PATH} bytes")) } else { Ok(clean) }
}

/// The error for an entry that is not as it may be.
fn bad(path: &[u8], why: impl std::fmt::Display) -> Error {
    let (shown, more) = if path.len() > 200 { (&path[..200], "…") } else { (path, "") };
    let name = String::from_utf8_lossy(shown);
    Error::new(ErrorKind::InvalidData, if path.is_empty() { why.to_string() } else { format!("{name}{more}: {why}") })
}

#[cfg(test)]
mod tests;
