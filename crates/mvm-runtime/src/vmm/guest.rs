//! The host's end of the agent channel. Everything that arrives here comes from a machine that may be hostile:
//! every length, count and wait is bounded, and a peer that breaks the protocol is an error, never a panic.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use mvm_wire::ErrorCode;
use mvm_wire::frame::{self, HEADER_LEN, Kind};
use mvm_wire::guest::{Admit, Admitted, Exec, Failure, Reply, Request};
use mvm_wire::hello::{Hello, Scanner};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode, Stream};

use crate::error::{Error, Result};

/// How many bytes may lie before the answer to our hello: twice what a ring was seen to hold after a restore.
const MAX_STALE_BYTES: u64 = 16 << 20;
/// Requests at once: 200 commands, 400 connections to ports, and room for files and signals. With it goes the most that a
/// guest can make us buffer, 256 KiB each.
const MAX_REQUESTS: usize = 768;
/// Streams at once: also those that nobody holds any more and of whose end the guest has not been told. The session
/// opens no more than 256 that the guest has not heard of. One more than this would be the session's end.
const MAX_STREAMS: usize = MAX_REQUESTS + 256;
/// What the session sends as one piece: with its header of 12 bytes what the guest's port takes at once (measured: a third
/// faster than the default).
pub const SPLIT: usize = 32 * 1024 - 12;
/// How long the agent may take to answer a request that it can answer at once.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// A session with one guest agent. Cheap to clone; the session ends when the last clone is gone.
#[derive(Debug, Clone)]
pub struct Guest {
    opens: mpsc::Sender<oneshot::Sender<std::result::Result<Stream, String>>>,
    requests: Arc<Semaphore>,
}

impl Guest {
    /// Greets the agent and waits, without a bound of its own, until it answers; then starts the session.
    pub async fn connect(mut socket: UnixStream) -> Result<Guest> {
        let mut nonce = [0; 16];
        fill_random(&mut nonce)?;
        socket.write_all(&Hello::from_host(nonce).encode()).await.map_err(|e| broken("greet the guest", e))?;
        let version = await_answer(&mut socket, nonce).await?;
        if version != mvm_wire::hello::VERSIONS.1 {
            return Err(Error::new(
                ErrorCode::Incompatible,
                "cannot talk to the guest agent",
                "it speaks no protocol version that this mvmctl knows",
            )
            .hint("remove the template (`mvmctl template gc --all`) and run again"));
        }
        let mut config = Config::default();
        config.set_max_num_streams(MAX_STREAMS);
        // Exactly so much: no stream gets a larger window than it begins with.
        config.set_max_connection_receive_window(Some(MAX_STREAMS * 256 * 1024));
        config.set_split_send_size(SPLIT);
        let (opens, requests) = mpsc::channel(16);
        tokio::spawn(drive(Connection::new(socket.compat(), config, Mode::Client), requests));
        Ok(Guest { opens, requests: Arc::new(Semaphore::new(MAX_REQUESTS)) })
    }

    /// Sends a request that has one reply.
    pub async fn call(&self, request: &Request) -> Result<Reply> {
        let work = async {
            let mut channel = self.open(request).await?;
            channel.reply().await
        };
        tokio::time::timeout(CALL_DEADLINE, work).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorCode::TransportError, "the guest agent does not answer", "no reply within 30 s"))
        })
    }

    /// Sends a request that is done or fails.
    pub async fn demand(&self, request: &Request, what: &str) -> Result<()> {
        match self.call(request).await? {
            Reply::Done => Ok(()),
            Reply::Failed(failure) => {
                Err(Error::new(ErrorCode::SandboxUnavailable, format!("the guest cannot {what}"), describe(&failure)))
            }
            _ => Err(unexpected()),
        }
    }

    /// Makes the machine one of its own. An error unless the guest confirms every part of it.
    pub async fn admit(&self, admit: Admit) -> Result<Admitted> {
        let what = "the guest did not confirm what it was given";
        match self.call(&Request::Admit(admit.clone())).await? {
            Reply::Admitted(admitted) => confirm(&admit, &admitted)
                .map_or_else(|| Ok(admitted.clone()), |why| Err(Error::new(ErrorCode::SandboxUnavailable, what, why))),
            Reply::Failed(failure) => Err(Error::new(ErrorCode::SandboxUnavailable, what, describe(&failure))),
            _ => Err(unexpected()),
        }
    }

    /// Waits until the session has ended, for the time that an honest agent takes at most.
    pub async fn ended(&self) {
        let _ = tokio::time::timeout(CALL_DEADLINE, self.opens.closed()).await;
    }

    /// Whether both are the same session.
    pub fn is(&self, other: &Guest) -> bool {
        self.opens.same_channel(&other.opens)
    }

    /// Waits until the session has ended: with its machine, or because the agent broke it.
    pub async fn closed(&self) {
        self.opens.closed().await;
    }

    /// Starts a command; its input and output travel over the channel returned.
    pub async fn exec(&self, exec: Exec) -> Result<Channel> {
        self.open(&Request::Exec(exec)).await
    }

    /// Opens a stream and sends its request.
    pub async fn open(&self, request: &Request) -> Result<Channel> {
        let permit = self.requests.clone().try_acquire_owned().map_err(|_| {
            let why = format!("{MAX_REQUESTS} requests to it are open already");
            Error::new(ErrorCode::ResourceExhausted, "cannot ask the guest agent", why).hint("wait for some to end")
        })?;
        let permit = Arc::new(permit);
        let (sender, receiver) = oneshot::channel();
        let gone = || broken("reach the guest agent", "the session has ended");
        self.opens.send(sender).await.map_err(|_| gone())?;
        let stream = receiver.await.map_err(|_| gone())?.map_err(|why| broken("reach the guest agent", why))?;
        let bytes = frame::message(Kind::Request, request).map_err(|e| {
            Error::new(ErrorCode::InvalidRequest, "the command is too long", e)
                .hint("pass large data through standard input or a file")
        })?;
        let (reader, mut writer) = stream.split();
        writer.write_all(&bytes).await.map_err(|e| broken("send a request", e))?;
        writer.flush().await.map_err(|e| broken("send a request", e))?;
        let frames = Frames { reader, payload: Vec::new(), _permit: permit.clone() };
        Ok(Channel { frames, input: Input { writer, _permit: permit } })
    }
}

/// One stream: the frames that come, and the input that goes.
#[derive(Debug)]
pub struct Channel {
    /// What the guest sends.
    pub frames: Frames,
    /// What the command reads.
    pub input: Input,
}

impl Channel {
    /// The next frame, which must be a reply.
    pub async fn reply(&mut self) -> Result<Reply> {
        match self.frames.next().await? {
            Frame::Reply(reply) => Ok(reply),
            Frame::Stdout(_) | Frame::Stderr(_) => Err(unexpected()),
        }
    }
}

/// The guest's half of a stream.
#[derive(Debug)]
pub struct Frames {
    reader: futures_util::io::ReadHalf<Stream>,
    payload: Vec<u8>,
    _permit: Arc<OwnedSemaphorePermit>,
}

/// A frame from the guest.
#[derive(Debug)]
pub enum Frame<'a> {
    /// A message.
    Reply(Reply),
    /// Standard output, or a terminal's.
    Stdout(&'a [u8]),
    /// Standard error.
    Stderr(&'a [u8]),
}

impl Frames {
    /// The next frame. Not safe to cancel: a frame half read is lost, and with it the stream.
    pub async fn next(&mut self) -> Result<Frame<'_>> {
        let mut header = [0; HEADER_LEN];
        self.reader.read_exact(&mut header).await.map_err(|e| broken("read from the guest", e))?;
        let (kind, len) = frame::parse_header(header).map_err(|e| broken("read from the guest", e))?;
        self.payload.resize(len, 0);
        self.reader.read_exact(&mut self.payload).await.map_err(|e| broken("read from the guest", e))?;
        match kind {
            Kind::Stdout => Ok(Frame::Stdout(&self.payload)),
            Kind::Stderr => Ok(Frame::Stderr(&self.payload)),
            Kind::Reply => frame::decode(&self.payload).map(Frame::Reply).map_err(|e| broken("read from the guest", e)),
            Kind::Request | Kind::Stdin | Kind::Mark => Err(unexpected()),
        }
    }

    /// Waits until the guest says anything more, or has closed or lost the stream.
    pub async fn stirred(&mut self) {
        let _ = self.reader.read(&mut [0]).await;
    }
}

/// The command's standard input.
#[derive(Debug)]
pub struct Input {
    writer: futures_util::io::WriteHalf<Stream>,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Input {
    /// Sends bytes; waits while the command does not read.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        for chunk in bytes.chunks(frame::MAX_PAYLOAD) {
            self.frame(Kind::Stdin, chunk).await?;
        }
        Ok(())
    }

    /// Ends the input.
    pub async fn end(&mut self) -> Result<()> {
        self.frame(Kind::Stdin, &[]).await
    }

    /// Says that no more comes on this stream, because the machine is about to be saved.
    pub async fn mark(&mut self) -> Result<()> {
        self.frame(Kind::Mark, &[]).await
    }

    /// Sends one frame that the caller has built, header included: without a copy of it, and without a piece of its own
    /// for the header.
    pub async fn whole_frame(&mut self, frame: &[u8]) -> Result<()> {
        let send = async {
            self.writer.write_all(frame).await?;
            self.writer.flush().await
        };
        send.await.map_err(|e| broken("send to the guest", e))
    }

    /// Closes the stream in order, once its last frame was sent.
    pub async fn close(&mut self) {
        let _ = self.writer.close().await;
    }

    async fn frame(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        let header = frame::header(kind, payload.len());
        let send = async {
            self.writer.write_all(&header).await?;
            self.writer.write_all(payload).await?;
            self.writer.flush().await
        };
        send.await.map_err(|e| broken("send input to the guest", e))
    }
}

/// Carries the session: hands out streams and moves bytes, until nobody needs it or the guest breaks it.
async fn drive(
    mut connection: Connection<Compat<UnixStream>>,
    mut requests: mpsc::Receiver<oneshot::Sender<std::result::Result<Stream, String>>>,
) {
    let mut waiting = VecDeque::new();
    let mut step = |cx: &mut Context<'_>| -> Poll<()> {
        loop {
            match requests.poll_recv(cx) {
                Poll::Ready(Some(request)) => waiting.push_back(request),
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        while let Some(request) = waiting.pop_front() {
            match connection.poll_new_outbound(cx) {
                Poll::Ready(result) => drop(request.send(result.map_err(|e| e.to_string()))),
                Poll::Pending => {
                    waiting.push_front(request);
                    break;
                }
            }
        }
        match connection.poll_next_inbound(cx) {
            // The guest asks for nothing of its own: a stream it opens is dropped, and that resets it.
            Poll::Ready(Some(Ok(_uninvited))) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    };
    poll_fn(&mut step).await;
}

async fn await_answer(socket: &mut UnixStream, nonce: [u8; 16]) -> Result<u16> {
    let mut scanner = Scanner::default();
    let mut chunk = [0; 4096];
    let mut seen = 0;
    loop {
        let len = socket.read(&mut chunk).await.map_err(|e| broken("greet the guest", e))?;
        if len == 0 {
            return Err(broken("greet the guest", "the machine ended"));
        }
        seen += len as u64;
        for byte in &chunk[..len] {
            // Another nonce is an answer from before the save.
            if let Some(hello) = scanner.push(*byte).filter(|hello| hello.nonce == nonce) {
                return Ok(hello.max);
            }
        }
        if seen > MAX_STALE_BYTES {
            return Err(broken("greet the guest", "it sends something else than an answer"));
        }
    }
}

fn confirm(sent: &Admit, got: &Admitted) -> Option<String> {
    /// How far the guest's clock may be from ours right after it was set.
    const CLOCK_TOLERANCE_NS: u64 = 5_000_000_000;
    if !got.reseeded {
        Some("its random generator was not reseeded".into())
    } else if got.hostname != sent.hostname || got.machine_id != sent.machine_id || got.boot_id != sent.boot_id {
        Some("its identity is not the one it was given".into())
    } else if got.realtime_ns.abs_diff(sent.realtime_ns) > CLOCK_TOLERANCE_NS {
        Some("its clock is not the one it was given".into())
    } else if sent.scratch_bytes > 0 && !got.read_only {
        Some("its root file system can be written to".into())
    } else {
        None
    }
}

/// A failure in words, with the guest's text made harmless.
pub fn describe(failure: &Failure) -> String {
    let errno = match failure.errno {
        0 => String::new(),
        errno => format!(" ({})", std::io::Error::from_raw_os_error(errno)),
    };
    format!("{:?}: {}{errno}", failure.step, crate::text::harmless(&failure.detail))
}

/// Fills a buffer from the host's generator.
pub fn fill_random(buffer: &mut [u8]) -> Result<()> {
    rustix::rand::getrandom(buffer, rustix::rand::GetRandomFlags::empty())
        .map(drop)
        .map_err(|e| Error::internal("cannot get random bytes", e))
}

/// The channel broke: the guest, its machine or its protocol.
pub fn broken(what: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::TransportError, format!("cannot {what}"), crate::text::harmless(&why.to_string()))
}

fn unexpected() -> Error {
    broken("read from the guest", "it answered something that was not asked")
}
