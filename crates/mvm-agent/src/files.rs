//! Operations on the machine's files, one on each stream.
//!
//! File systems block, and this program has one thread for everything else; so each operation runs on a thread of a
//! small pool, and bytes travel between it and its stream through a channel of a few pieces. Who reads or writes slowly
//! slows down only that thread, through the channel and the session's flow control.

mod disk;
mod write;

use std::io::{Error, ErrorKind, Result};

use futures_util::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use mvm_wire::files::{FileReply, FileRequest, PathError, Write, check_path};
use mvm_wire::frame::{HEADER_LEN, Kind};
use mvm_wire::guest::{Failure, Reply, Step};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::serve::{SPLIT, read_frame, write_reply};
use crate::user::User;

/// Operations at once; more wait. With [`DEPTH`] it bounds what they can hold: 1 MiB each at most.
pub const MAX_THREADS: usize = 32;
/// Pieces between a stream and its thread.
const DEPTH: usize = 2;
/// What a read sends at once: as a frame exactly what the session sends in four.
const PIECE: usize = 4 * SPLIT - HEADER_LEN;

/// Why an operation failed.
#[derive(Debug)]
enum Fault {
    /// The kernel's word.
    Io(Error),
    /// There is no such user.
    User(String),
}

impl From<Error> for Fault {
    fn from(e: Error) -> Fault {
        Fault::Io(e)
    }
}

impl From<rustix::io::Errno> for Fault {
    fn from(e: rustix::io::Errno) -> Fault {
        Fault::Io(e.into())
    }
}

impl Fault {
    fn errno(number: i32) -> Fault {
        Fault::Io(Error::from_raw_os_error(number))
    }

    fn about(self, path: &[u8]) -> Failure {
        match self {
            Fault::Io(e) => Failure {
                step: Step::File,
                errno: e.raw_os_error().unwrap_or(libc::EIO),
                detail: String::from_utf8_lossy(path).into_owned(),
            },
            Fault::User(detail) => Failure { step: Step::User, errno: 0, detail },
        }
    }
}

type Outcome = std::result::Result<FileReply, Fault>;

/// Performs a request, answers it and ends its stream.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(request: FileRequest, stream: S) -> Result<()> {
    let (reader, mut writer) = stream.split();
    let path = request.paths().next().unwrap_or_default().to_vec();
    let checked = request.paths().try_for_each(check_path);
    let outcome = match checked {
        Err(broken) => Err(Fault::errno(errno_of(broken))),
        Ok(()) => perform(request, reader, &mut writer).await?,
    };
    let reply = outcome.map_or_else(|fault| Reply::Failed(fault.about(&path)), Reply::File);
    write_reply(&mut writer, &reply).await?;
    writer.close().await
}

async fn perform<R, W>(request: FileRequest, reader: R, writer: &mut W) -> Result<Outcome>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    match request {
        FileRequest::Read { path, offset, len } => {
            send(writer, move |frames| disk::read(&path, offset, len, &frames)).await
        }
        FileRequest::List { path } => send(writer, move |frames| disk::list(&path, &frames)).await,
        FileRequest::Write(write) => receive(reader, write).await,
        other => ended(spawn_blocking(move || disk::perform(other))).await,
    }
}

fn errno_of(broken: PathError) -> i32 {
    match broken {
        PathError::Empty => libc::ENOENT,
        PathError::Long(_) | PathError::LongPart(_) => libc::ENAMETOOLONG,
        _ => libc::EINVAL,
    }
}

async fn ended(work: JoinHandle<Outcome>) -> Result<Outcome> {
    work.await.map_err(Error::other)
}

/// Sends the frames that `work` makes.
async fn send<W: AsyncWrite + Unpin>(
    writer: &mut W,
    work: impl FnOnce(mpsc::Sender<Vec<u8>>) -> Outcome + Send + 'static,
) -> Result<Outcome> {
    let (sender, mut frames) = mpsc::channel::<Vec<u8>>(DEPTH);
    let work = spawn_blocking(move || work(sender));
    while let Some(frame) = frames.recv().await {
        writer.write_all(&frame).await?;
        writer.flush().await?;
    }
    ended(work).await
}

/// Hands what comes to the thread that writes it. A stream that ends early drops the channel, and with it the file.
async fn receive<R: AsyncRead + Unpin>(mut reader: R, request: Write) -> Result<Outcome> {
    let (sender, pieces) = mpsc::channel(DEPTH);
    let work = spawn_blocking(move || write::write(&request, pieces));
    loop {
        let mut payload = Vec::new();
        let kind = tokio::select! {
            kind = read_frame(&mut reader, &mut payload) => kind?,
            // It failed, and says so now, however long the next piece may take.
            () = sender.closed() => break,
        };
        if kind != Kind::Stdin {
            return Err(ErrorKind::InvalidData.into());
        }
        let end = payload.is_empty();
        if sender.send(payload).await.is_err() || end {
            break;
        }
    }
    drop(sender);
    ended(work).await
}

/// The ids that a request names; nobody if it names none.
fn owner(spec: &str) -> std::result::Result<Option<(u32, u32)>, Fault> {
    match spec {
        "" => Ok(None),
        spec => User::resolve(spec).map(|user| Some((user.uid, user.gid))).map_err(Fault::User),
    }
}
