//! Operations on the guest's files, and the rules for paths and names that both sides check.
//!
//! Paths and names are bytes, because that is what they are in Linux: a name that is no UTF-8 arrives as it is.

use serde::{Deserialize, Serialize};

/// The longest path, without its closing NUL.
pub const MAX_PATH: usize = 4095;
/// The longest name of one file.
pub const MAX_NAME: usize = 255;

/// What to do with the guest's files. Done as root of the guest; links in the guest are followed in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileRequest {
    /// Read a file: output frames, then [`FileReply::Read`].
    Read {
        /// The file. A character device can be read only with a `len`; directories, pipes and sockets cannot.
        path: Vec<u8>,
        /// Where to begin.
        offset: u64,
        /// How much at most; everything if `None`.
        len: Option<u64>,
    },
    /// Write a file: input frames, an empty one ends it, then [`FileReply::Written`].
    Write(Write),
    /// List a directory: [`FileReply::Entries`] in any order, then [`FileReply::Listed`].
    List {
        /// The directory.
        path: Vec<u8>,
    },
    /// Describe one file: [`FileReply::Entry`].
    Stat {
        /// The file.
        path: Vec<u8>,
        /// Describe what a link points to, not the link.
        follow: bool,
    },
    /// Make a directory: [`FileReply::Done`].
    Mkdir {
        /// The directory.
        path: Vec<u8>,
        /// Its permissions.
        mode: u32,
        /// Make missing parents too (mode 755), and be content with a directory that is already there.
        parents: bool,
        /// Whose the directories that are made shall be, as in [`crate::guest::Exec::user`].
        owner: String,
    },
    /// Rename a file; what was at `to` is replaced, as rename(2) does: [`FileReply::Done`].
    Rename {
        /// Its present path.
        from: Vec<u8>,
        /// Its new path.
        to: Vec<u8>,
    },
    /// Remove a file or a directory: [`FileReply::Done`].
    Remove {
        /// The file. A link is removed itself, never what it points to.
        path: Vec<u8>,
        /// Remove a directory with all that is in it. Without it a directory must be empty.
        recursive: bool,
    },
    /// Make a symbolic link: [`FileReply::Done`].
    Symlink {
        /// The link.
        path: Vec<u8>,
        /// What it says.
        target: Vec<u8>,
        /// Whose it shall be, as in [`crate::guest::Exec::user`].
        owner: String,
    },
}

impl FileRequest {
    /// The paths that [`check_path`] must accept.
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        let (path, second) = match self {
            FileRequest::Read { path, .. }
            | FileRequest::Write(Write { path, .. })
            | FileRequest::List { path }
            | FileRequest::Stat { path, .. }
            | FileRequest::Mkdir { path, .. }
            | FileRequest::Remove { path, .. }
            | FileRequest::Symlink { path, .. } => (path, None),
            FileRequest::Rename { from, to } => (from, Some(to.as_slice())),
        };
        std::iter::once(path.as_slice()).chain(second)
    }
}

/// How to write a file. Unless it is appended to, a reader sees the old content or all of the new.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The file; a link is written through.
    pub path: Vec<u8>,
    /// Its permissions; those it has if `None`, 644 if it is new.
    pub mode: Option<u32>,
    /// Whose it shall be, as in [`crate::guest::Exec::user`]; if empty whose it is, root's if it is new.
    pub owner: String,
    /// Write at its end, in place.
    pub append: bool,
    /// Answer only once it would survive a power cut.
    pub sync: bool,
    /// Make missing directories on the way, mode 755, of the same owner.
    pub create_parents: bool,
}

/// What the agent answers to a [`FileRequest`] that succeeds. One that fails is a [`crate::guest::Failure`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileReply {
    /// It is done.
    Done,
    /// The end of what was read.
    Read {
        /// How much was sent.
        bytes: u64,
    },
    /// The file is in its place.
    Written {
        /// How much was received.
        bytes: u64,
    },
    /// One file.
    Entry(Entry),
    /// Some of a directory's entries, at least one.
    Entries(Vec<Entry>),
    /// The end of a listing.
    Listed {
        /// How many entries were sent.
        count: u64,
    },
}

/// A file in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name in its directory.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: FileKind,
    /// Its size in bytes.
    pub size: u64,
    /// Its permissions, with the bits for setuid, setgid and sticky.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When its content changed, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// What a symbolic link says.
    pub target: Option<Vec<u8>>,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// None of these.
    Unknown,
}

/// The rule that a path or a name breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// It is empty.
    Empty,
    /// It does not begin with `/`.
    Relative,
    /// A part of it is `..`.
    Parent,
    /// It holds a NUL.
    Nul,
    /// It is longer than [`MAX_PATH`].
    Long(usize),
    /// A part of it is longer than [`MAX_NAME`].
    LongPart(usize),
    /// A name that is `.` or `..` or holds a `/`.
    NotAName,
}

impl std::fmt::Display for PathError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PathError::Empty => write!(f, "the path is empty"),
            PathError::Relative => write!(f, "the path does not begin with /"),
            PathError::Parent => write!(f, "the path has a .. in it"),
            PathError::Nul => write!(f, "the path has a NUL in it"),
            PathError::Long(len) => write!(f, "the path has {len} bytes, more than {MAX_PATH}"),
            PathError::LongPart(len) => write!(f, "a part of the path has {len} bytes, more than {MAX_NAME}"),
            PathError::NotAName => write!(f, "that is no name of a file"),
        }
    }
}

impl std::error::Error for PathError {}

/// The rules for a path in the guest: absolute, without `..` and NUL, and no longer than Linux can use.
pub fn check_path(path: &[u8]) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.len() > MAX_PATH {
        return Err(PathError::Long(path.len()));
    }
    if path[0] != b'/' {
        return Err(PathError::Relative);
    }
    path.split(|byte| *byte == b'/').try_for_each(|part| match part {
        b".." => Err(PathError::Parent),
        part if part.contains(&0) => Err(PathError::Nul),
        part if part.len() > MAX_NAME => Err(PathError::LongPart(part.len())),
        _ => Ok(()),
    })
}

/// The rules for the name of a directory's entry: one part of a path, and not one that means another directory.
pub fn check_name(name: &[u8]) -> Result<(), PathError> {
    match name {
        b"" => Err(PathError::Empty),
        b"." | b".." => Err(PathError::NotAName),
        name if name.contains(&b'/') => Err(PathError::NotAName),
        name if name.contains(&0) => Err(PathError::Nul),
        name if name.len() > MAX_NAME => Err(PathError::LongPart(name.len())),
        _ => Ok(()),
    }
}

/// The path of `name` in `dir`.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if dir.ends_with(b"/") { b"" } else { b"/" };
    [dir, slash, name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{HEADER_LEN, Kind, decode, message};
    use crate::guest::{Reply, Request};
    use proptest::prelude::*;

    #[test]
    fn each_rule_is_named() {
        let long = [b"/".as_slice(), &[b'x'; 256]].concat();
        for (path, broken) in [
            (b"".as_slice(), PathError::Empty),
            (b"etc/passwd", PathError::Relative),
            (b"..", PathError::Relative),
            (b"/..", PathError::Parent),
            (b"/a/../b", PathError::Parent),
            (b"/a/..", PathError::Parent),
            (b"/a\0b", PathError::Nul),
            (&b"/x".repeat(2048), PathError::Long(4096)),
            (&long, PathError::LongPart(256)),
        ] {
            assert_eq!(check_path(path), Err(broken), "{path:?}");
        }
        for path in [b"/".as_slice(), b"/a", b"//a/./b/", b"/...", b"/a/..b", b"/\xff\xfe", &b"/x".repeat(2047)] {
            assert_eq!(check_path(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn names_are_one_part() {
        for name in [b"".as_slice(), b".", b"..", b"a/b", b"/", b"a\0", &[b'x'; 256]] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in [b"a".as_slice(), b"...", b"..a", b"\xff", b"a b\n", &[b'x'; 255]] {
            assert_eq!(check_name(name), Ok(()), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_stays_where_it_points(path in proptest::collection::vec(
            prop_oneof![Just(b'/'), Just(b'.'), Just(b'a'), any::<u8>()], 0..40,
        )) {
            if check_path(&path).is_ok() {
                prop_assert_eq!(path[0], b'/');
                prop_assert!(!path.contains(&0));
                prop_assert!(path.split(|b| *b == b'/').all(|part| part != b".."));
            }
        }

        #[test]
        fn a_good_name_in_a_good_directory_is_a_good_path(name in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(check_name(&name).is_ok(), check_path(&join(b"/d", &name)).is_ok()
                && !name.contains(&b'/') && !matches!(name.as_slice(), b"" | b"."));
        }

        #[test]
        fn entries_survive_the_wire(name: Vec<u8>, target: Option<Vec<u8>>, size: u64, mtime_ns: i64) {
            let kind = FileKind::Symlink;
            let entry = Entry { name, kind, size, mode: 0o777, uid: 1, gid: 2, mtime_ns, target };
            let reply = Reply::File(FileReply::Entries(vec![entry]));
            let bytes = message(Kind::Reply, &reply).unwrap();
            prop_assert_eq!(decode::<Reply>(&bytes[HEADER_LEN..]).unwrap(), reply);
        }

        #[test]
        fn paths_survive_the_wire(path: Vec<u8>, offset: u64, len: Option<u64>) {
            let request = Request::File(FileRequest::Read { path, offset, len });
            let bytes = message(Kind::Request, &request).unwrap();
            prop_assert_eq!(decode::<Request>(&bytes[HEADER_LEN..]).unwrap(), request);
        }
    }
}
