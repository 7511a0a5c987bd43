//! Operations on a guest's files, from the host's side.
//!
//! What the guest answers is checked before anybody sees it: names, counts and lengths that no honest agent sends end
//! the operation as a broken channel. A transfer has no deadline as a whole; each step of it has.

use std::time::Duration;

use mvm_wire::ErrorCode;
use mvm_wire::files::{Entry, FileKind, FileReply, FileRequest, MAX_PATH, Write, check_name, check_path};
use mvm_wire::guest::{Failure, Reply, Request, Step};
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::text::harmless;
use crate::vmm::guest::{Channel, Frame, Frames, Guest, Input, broken, describe};

/// How long nothing may come or go in a transfer.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long the guest may work without a sign of it: to remove a large tree, to write all to its disk.
const WORK_LIMIT: Duration = Duration::from_secs(600);
/// The largest directory that is listed: how many entries, and how many bytes of names and targets.
const MAX_ENTRIES: usize = 250_000;
const MAX_LISTING: usize = 32 << 20;

impl Guest {
    /// Begins to read a file, from `offset` on and at most `len` bytes. Without a `len` only regular files are read.
    pub async fn read_file(&self, path: &[u8], offset: u64, len: Option<u64>) -> Result<Reading> {
        let what = format!("cannot read {}", shown(path));
        let request = FileRequest::Read { path: path.to_vec(), offset, len };
        let channel = begin(self, request, &what).await?;
        Ok(Reading { channel, what, bytes: 0, limit: len.unwrap_or(u64::MAX), ended: false })
    }

    /// Begins to write a file. It has its new content once [`Writing::finish`] says so.
    pub async fn write_file(&self, write: Write) -> Result<Writing> {
        let what = format!("cannot write {}", shown(&write.path));
        let Channel { mut frames, input } = begin(self, FileRequest::Write(write), &what).await?;
        let answer = tokio::spawn(async move { read_reply(&mut frames).await });
        Ok(Writing { input, answer, what, bytes: 0, failed: None })
    }

    /// What is in a directory, sorted by name. One with more than 250,000 entries is refused.
    pub async fn list_dir(&self, path: &[u8]) -> Result<Vec<Entry>> {
        let what = format!("cannot list {}", shown(path));
        let mut channel = begin(self, FileRequest::List { path: path.to_vec() }, &what).await?;
        let (mut entries, mut size) = (Vec::new(), 0);
        loop {
            match in_time(IDLE_LIMIT, &what, channel.reply()).await? {
                Reply::File(FileReply::Entries(batch)) if !batch.is_empty() => {
                    size += batch.iter().map(listed_size).sum::<usize>();
                    entries.extend(batch);
                }
                Reply::File(FileReply::Listed { count }) if count == entries.len() as u64 => break,
                other => return Err(unexpected(&what, other)),
            }
            if entries.len() > MAX_ENTRIES || size > MAX_LISTING {
                let why = format!("it has more than {MAX_ENTRIES} entries, or more than {MAX_LISTING} bytes of names");
                return Err(Error::new(ErrorCode::ResourceExhausted, what, why)
                    .hint("list it with a command in the guest, which can leave entries out"));
            }
        }
        check_listing(&mut entries).map_err(|why| broken_by(&what, &why))?;
        Ok(entries)
    }

    /// Describes a file; with `follow`, what it points to if it is a link.
    pub async fn stat(&self, path: &[u8], follow: bool) -> Result<Entry> {
        let what = format!("cannot look at {}", shown(path));
        let request = FileRequest::Stat { path: path.to_vec(), follow };
        match ask(self, request, IDLE_LIMIT, &what).await? {
            FileReply::Entry(mut entry) => {
                // We know what we asked for.
                entry.name = path.rsplit(|b| *b == b'/').find(|part| !part.is_empty()).unwrap_or_default().to_vec();
                check_metadata(&entry).map_err(|why| broken_by(&what, &why))?;
                Ok(entry)
            }
            other => Err(unexpected(&what, Reply::File(other))),
        }
    }

    /// Makes a directory; with `parents` also what is missing above it, and one that is there is no failure.
    pub async fn mkdir(&self, path: &[u8], mode: u32, parents: bool, owner: &str) -> Result<()> {
        let what = format!("cannot make the directory {}", shown(path));
        let request = FileRequest::Mkdir { path: path.to_vec(), mode, parents, owner: owner.to_owned() };
        done(self, request, IDLE_LIMIT, &what).await
    }

    /// Renames a file; what has the new name is replaced.
    pub async fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let what = format!("cannot rename {} to {}", shown(from), shown(to));
        done(self, FileRequest::Rename { from: from.to_vec(), to: to.to_vec() }, IDLE_LIMIT, &what).await
    }

    /// Removes a file, a link, or a directory; with `recursive` all that is in it.
    pub async fn remove(&self, path: &[u8], recursive: bool) -> Result<()> {
        let what = format!("cannot remove {}", shown(path));
        done(self, FileRequest::Remove { path: path.to_vec(), recursive }, WORK_LIMIT, &what).await
    }

    /// Makes a symbolic link.
    pub async fn symlink(&self, path: &[u8], target: &[u8], owner: &str) -> Result<()> {
        let what = format!("cannot make the link {}", shown(path));
        let request = FileRequest::Symlink { path: path.to_vec(), target: target.to_vec(), owner: owner.to_owned() };
        done(self, request, IDLE_LIMIT, &what).await
    }
}

/// A file that is being read.
#[derive(Debug)]
pub struct Reading {
    channel: Channel,
    what: String,
    bytes: u64,
    limit: u64,
    ended: bool,
}

impl Reading {
    /// The next piece, of at most 256 KiB; `None` at the end. Not safe to cancel, except by giving up the read.
    pub async fn next(&mut self) -> Result<Option<&[u8]>> {
        if self.ended {
            return Ok(None);
        }
        let what = &self.what;
        match in_time(IDLE_LIMIT, what, self.channel.frames.next()).await? {
            Frame::Stdout(piece) if !piece.is_empty() && piece.len() as u64 <= self.limit - self.bytes => {
                self.bytes += piece.len() as u64;
                Ok(Some(piece))
            }
            Frame::Reply(Reply::File(FileReply::Read { bytes })) if bytes == self.bytes => {
                self.ended = true;
                Ok(None)
            }
            Frame::Reply(other) => Err(unexpected(what, other)),
            Frame::Stdout(_) | Frame::Stderr(_) => Err(broken_by(what, "the guest sent more than was asked for")),
        }
    }
}

/// A file that is being written. Dropped before it is finished, the guest keeps the old one.
#[derive(Debug)]
pub struct Writing {
    input: Input,
    /// Awaited on a task of its own, so that a failure is seen while we still send.
    answer: JoinHandle<Result<Reply>>,
    what: String,
    bytes: u64,
    failed: Option<Error>,
}

impl Writing {
    /// Sends bytes, as fast as the guest takes them. Fails as soon as the guest has failed, and from then on. Not safe to
    /// cancel, except by giving up the write.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        // Pieces as the deadline means them, however much the caller has.
        for piece in bytes.chunks(mvm_wire::frame::MAX_PAYLOAD) {
            self.step(piece).await?;
            self.bytes += piece.len() as u64;
        }
        Ok(())
    }

    /// Ends the file and waits until it is in its place. Returns how long it is, or what was added to it.
    pub async fn finish(mut self) -> Result<u64> {
        self.step(&[]).await?;
        match in_time(WORK_LIMIT, &self.what, answer(&mut self.answer)).await? {
            Reply::File(FileReply::Written { bytes }) if bytes == self.bytes => Ok(bytes),
            other => Err(unexpected(&self.what, other)),
        }
    }

    /// Sends one frame; an empty one is the end.
    async fn step(&mut self, piece: &[u8]) -> Result<()> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let send = async { if piece.is_empty() { self.input.end().await } else { self.input.send(piece).await } };
        let sent = tokio::select! {
            biased;
            early = answer(&mut self.answer) => early.and_then(|reply| Err(unexpected(&self.what, reply))),
            sent = in_time(IDLE_LIMIT, &self.what, send) => match sent {
                // A guest that failed closes the stream, and what it said before says why.
                Err(e) if e.code == ErrorCode::TransportError => {
                    match in_time(IDLE_LIMIT, &self.what, answer(&mut self.answer)).await {
                        Ok(reply) => Err(unexpected(&self.what, reply)),
                        Err(_) => Err(e),
                    }
                }
                sent => sent,
            },
        };
        self.failed = sent.clone().err();
        sent
    }
}

async fn answer(task: &mut JoinHandle<Result<Reply>>) -> Result<Reply> {
    task.await.unwrap_or_else(|e| Err(Error::internal("cannot write a file", e)))
}

impl Drop for Writing {
    fn drop(&mut self) {
        // It holds the stream, and the guest sees its end only when nobody holds it.
        self.answer.abort();
    }
}

async fn read_reply(frames: &mut Frames) -> Result<Reply> {
    match frames.next().await? {
        Frame::Reply(reply) => Ok(reply),
        Frame::Stdout(_) | Frame::Stderr(_) => Err(broken("write a file", "the guest sent output")),
    }
}

/// Checks a request by the rules that the agent has too, and sends it.
async fn begin(guest: &Guest, request: FileRequest, what: &str) -> Result<Channel> {
    request.paths().try_for_each(check_path).map_err(|why| {
        Error::new(ErrorCode::InvalidRequest, what, why).hint("give an absolute path of the guest, without ..")
    })?;
    in_time(IDLE_LIMIT, what, guest.open(&Request::File(request))).await
}

async fn ask(guest: &Guest, request: FileRequest, limit: Duration, what: &str) -> Result<FileReply> {
    let mut channel = begin(guest, request, what).await?;
    match in_time(limit, what, channel.reply()).await? {
        Reply::File(reply) => Ok(reply),
        other => Err(unexpected(what, other)),
    }
}

async fn done(guest: &Guest, request: FileRequest, limit: Duration, what: &str) -> Result<()> {
    match ask(guest, request, limit, what).await? {
        FileReply::Done => Ok(()),
        other => Err(unexpected(what, Reply::File(other))),
    }
}

async fn in_time<T>(limit: Duration, what: &str, step: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| {
        let why = format!("nothing came from the guest for {} s", limit.as_secs());
        Err(Error::new(ErrorCode::Timeout, what, why))
    };
    tokio::time::timeout(limit, step).await.unwrap_or_else(late)
}

/// A reply that is not the one hoped for: a failure, or none that belongs here.
fn unexpected(what: &str, reply: Reply) -> Error {
    match reply {
        Reply::Failed(failure) => failed(what, &failure),
        _ => broken_by(what, "the guest answered something that was not asked"),
    }
}

fn broken_by(what: &str, why: &str) -> Error {
    Error::new(ErrorCode::TransportError, what, why)
}

/// What the guest's kernel refused, in the host's words; of the guest's text only the name of a user is repeated.
fn failed(what: &str, failure: &Failure) -> Error {
    let errno = failure.errno;
    match failure.step {
        Step::File => {
            let (code, hint) = meaning(errno);
            let why = match errno {
                libc::EOPNOTSUPP => "it is neither a regular file nor a directory".to_owned(),
                errno => std::io::Error::from_raw_os_error(errno).to_string(),
            };
            Error::new(code, what, why).hint(hint).errno(errno)
        }
        Step::User => Error::new(ErrorCode::InvalidRequest, what, harmless(&failure.detail))
            .hint("name a user of the image, or uid:gid"),
        _ => Error::new(ErrorCode::SandboxUnavailable, what, describe(failure)),
    }
}

fn meaning(errno: i32) -> (ErrorCode, &'static str) {
    match errno {
        libc::ENOENT => (ErrorCode::NotFound, ""),
        libc::EEXIST => (ErrorCode::AlreadyExists, ""),
        libc::ENOSPC | libc::EDQUOT => (ErrorCode::ResourceExhausted, "give the machine a larger --disk"),
        libc::ENOMEM | libc::EMFILE | libc::ENFILE => (ErrorCode::ResourceExhausted, "give the machine more --memory"),
        libc::EISDIR => (ErrorCode::FileError, "name a file in the directory"),
        libc::ENOTEMPTY => (ErrorCode::FileError, "remove what is in it too, recursively"),
        libc::EOPNOTSUPP => (ErrorCode::FileError, "use a command in the guest for pipes, sockets and devices"),
        _ => (ErrorCode::FileError, ""),
    }
}

/// Sorts a listing, and says what is wrong with it: a name that is none, one that occurs twice, impossible metadata.
pub fn check_listing(entries: &mut [Entry]) -> std::result::Result<(), String> {
    for entry in entries.iter() {
        check_name(&entry.name).map_err(|why| format!("a listing has a bad name: {why}"))?;
        check_metadata(entry)?;
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    match entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(format!("a listing has {} twice", shown(&pair[0].name))),
        None => Ok(()),
    }
}

fn check_metadata(entry: &Entry) -> std::result::Result<(), String> {
    let target_fits = match &entry.target {
        Some(target) => entry.kind == FileKind::Symlink && target.len() <= MAX_PATH && !target.contains(&0),
        None => entry.kind != FileKind::Symlink,
    };
    if target_fits && entry.mode & !0o7777 == 0 {
        Ok(())
    } else {
        Err(format!("what the guest says about {} cannot be", shown(&entry.name)))
    }
}

/// The bytes that an entry's texts take.
pub fn listed_size(entry: &Entry) -> usize {
    entry.name.len() + entry.target.as_ref().map_or(0, Vec::len)
}

/// A path for people. Of one that nobody can read for its length, the beginning and the end.
pub fn shown(path: &[u8]) -> String {
    const LONGEST: usize = 256;
    let path: Vec<char> = harmless(&String::from_utf8_lossy(path)).chars().collect();
    let part = |chars: &[char]| chars.iter().collect::<String>();
    match path.len() {
        0..=LONGEST => part(&path),
        len => format!("{}…{}", part(&path[..LONGEST / 2]), part(&path[len - LONGEST / 2..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_in_a_message_is_short_enough_to_be_read() {
        assert_eq!(shown(b"/a/b"), "/a/b");
        let long = shown(format!("/begin{}end", "x".repeat(4000)).as_bytes());
        assert!(long.starts_with("/beginx") && long.ends_with("xend") && long.chars().count() == 257, "{long}");
    }

    fn entry(name: &[u8], kind: FileKind, target: Option<&[u8]>) -> Entry {
        let target = target.map(<[u8]>::to_vec);
        Entry { name: name.to_vec(), kind, size: 0, mode: 0o644, uid: 0, gid: 0, mtime_ns: 0, target }
    }

    #[test]
    fn listings_that_no_file_system_has_are_refused() {
        let file = |name: &[u8]| entry(name, FileKind::File, None);
        for bad in [
            vec![file(b"..")],
            vec![file(b".")],
            vec![file(b"a/b")],
            vec![file(b"/etc")],
            vec![file(b"a\0b")],
            vec![file(b"")],
            vec![file(b"a"), file(b"b"), entry(b"a", FileKind::Symlink, Some(b"/etc"))],
            vec![entry(b"a", FileKind::File, Some(b"/etc"))],
            vec![entry(b"a", FileKind::Symlink, None)],
            vec![entry(b"a", FileKind::Symlink, Some(b"x\0y"))],
            vec![Entry { mode: 0o100_644, ..file(b"a") }],
        ] {
            assert!(check_listing(&mut bad.clone()).is_err(), "{bad:?}");
        }
        let mut good = vec![file(b"b"), file(b"\xff"), file(b"a")];
        check_listing(&mut good).unwrap();
        assert_eq!(good.iter().map(|e| e.name.as_slice()).collect::<Vec<_>>(), [b"a".as_slice(), b"b", b"\xff"]);
    }

    #[test]
    fn errors_keep_their_number() {
        let failure = |errno| Failure { step: Step::File, errno, detail: "\x1b[2J".into() };
        for (errno, code) in [
            (libc::ENOENT, ErrorCode::NotFound),
            (libc::EEXIST, ErrorCode::AlreadyExists),
            (libc::ENOSPC, ErrorCode::ResourceExhausted),
            (libc::EACCES, ErrorCode::FileError),
            (-7, ErrorCode::FileError),
        ] {
            let error = failed("cannot read /x", &failure(errno));
            assert_eq!((error.code, error.errno), (code, Some(errno)));
            assert!(!error.to_string().contains('\x1b'));
        }
    }

    proptest! {
        #[test]
        fn an_accepted_listing_has_only_plain_distinct_names(
            names in proptest::collection::vec(proptest::collection::vec(
                prop_oneof![Just(b'.'), Just(b'/'), Just(0), Just(b'a'), any::<u8>()], 0..4), 0..12),
        ) {
            let mut entries: Vec<Entry> = names.iter().map(|name| entry(name, FileKind::File, None)).collect();
            if check_listing(&mut entries).is_ok() {
                for entry in &entries {
                    prop_assert!(!entry.name.is_empty() && entry.name != b"." && entry.name != b"..");
                    prop_assert!(!entry.name.contains(&b'/') && !entry.name.contains(&0));
                }
                prop_assert!(entries.windows(2).all(|pair| pair[0].name < pair[1].name));
            }
        }
    }
}
