//! Connections into a guest: to a port of the machine, with the bytes of both directions on one stream.
//!
//! An empty frame is the end of its direction, and the other one goes on. A stream that ends without it was given up, by
//! the guest or with its machine, and then the client's connection is reset, so that nobody takes a part for the whole.
//! Who does not read is waited for, on that connection alone.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mvm_wire::ErrorCode;
use mvm_wire::frame::{self, HEADER_LEN, Kind};
use mvm_wire::guest::{Failure, Reply, Request};
use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use crate::error::{Error, Result};
use crate::vmm::guest::{Channel, Frame, Frames, Guest, Input, SPLIT, broken, describe};

/// How long a connection may take to come about, the wait for the machine's agent included.
pub const LIMIT: Duration = Duration::from_secs(10);
/// What an idle connection has room for, and what one that moves much sends at once: as a frame exactly what the session
/// sends in two.
const LITTLE: usize = 4096;
const MUCH: usize = 2 * SPLIT - HEADER_LEN;

impl Guest {
    /// Connects to a TCP port of the machine.
    pub async fn connect_to(&self, port: u16) -> Result<Channel> {
        let what = || format!("cannot connect to port {port} of the guest");
        let work = async {
            let mut channel = self.open(&Request::Connect { port }).await?;
            let reply = match channel.reply().await? {
                Reply::Connecting => channel.reply().await?,
                reply => reply,
            };
            match reply {
                Reply::Done => Ok(channel),
                Reply::Failed(failure) => Err(refused(what(), &failure)),
                _ => Err(broken("read from the guest", "it answered something that was not asked")),
            }
        };
        let late = |_| Err(Error::new(ErrorCode::Timeout, what(), "nothing came of it within 10 s"));
        tokio::time::timeout(LIMIT, work).await.unwrap_or_else(late)
    }
}

fn refused(what: String, failure: &Failure) -> Error {
    let why = match failure.errno {
        libc::ECONNREFUSED => "nothing listens there".to_owned(),
        libc::ETIMEDOUT => "what listens there accepts no more".to_owned(),
        _ => describe(failure),
    };
    Error::new(ErrorCode::SandboxUnavailable, what, why).errno(failure.errno)
}

/// Has the client's connection reset when it is closed. [`carry`] undoes this once both directions have ended.
pub fn prepare(client: &TcpStream) -> std::io::Result<()> {
    client.set_zero_linger()?;
    client.set_nodelay(true)
}

/// Carries bytes between a client, which was prepared, and the guest until both directions have ended or one broke.
pub async fn carry(mut client: TcpStream, channel: Channel) -> Result<()> {
    let Channel { mut frames, mut input } = channel;
    both_ways(&mut client, &mut frames, &mut input).await?;
    input.close().await;
    sockopt::set_socket_linger(&client, None).map_err(|e| broken("close a connection", e))
}

/// How the direction to the client ended.
enum Outward {
    /// With its last byte.
    Whole,
    /// The client takes no more.
    Unread,
}

async fn both_ways(client: &mut TcpStream, frames: &mut Frames, input: &mut Input) -> Result<()> {
    let reset = || broken("carry a connection", "the client is gone");
    let last_sent = AtomicBool::new(false);
    let (mut from, to) = client.split();
    let mut inward = pin!(send(&mut from, input, &last_sent));
    let outward = {
        let mut outward = pin!(receive(frames, to.as_ref()));
        tokio::select! {
            sent = &mut inward => {
                sent?;
                return match outward.await? {
                    Outward::Whole => Ok(()),
                    Outward::Unread => Err(reset()),
                };
            }
            outward = &mut outward => outward?,
        }
    };
    match outward {
        // What it sent before it went is still to be delivered.
        Outward::Unread => inward.await.and(Err(reset())),
        Outward::Whole => tokio::select! {
            biased;
            sent = &mut inward => sent,
            // The guest has closed the stream because it has the end, or it has lost it.
            () = frames.stirred() => match last_sent.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err(broken("carry a connection", "the guest gave it up")),
            },
        },
    }
}

/// Sends what the client sends, to its end.
async fn send(from: &mut ReadHalf<'_>, input: &mut Input, last_sent: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; HEADER_LEN + LITTLE];
    loop {
        let mut room = ReadBuf::new(&mut buffer[HEADER_LEN..]);
        let read = poll_fn(|cx| Pin::new(&mut *from).poll_read(cx, &mut room)).await;
        read.map_err(|e| broken("read from the client", e))?;
        let (len, full) = (room.filled().len(), room.remaining() == 0);
        buffer[..HEADER_LEN].copy_from_slice(&frame::header(Kind::Stdin, len));
        last_sent.store(len == 0, Ordering::Relaxed);
        input.whole_frame(&buffer[..HEADER_LEN + len]).await?;
        if len == 0 {
            return Ok(());
        }
        if full {
            buffer.resize(HEADER_LEN + MUCH, 0);
        }
    }
}

/// Passes on what the guest sends, to its end. An error is the guest's.
async fn receive(frames: &mut Frames, to: &TcpStream) -> Result<Outward> {
    loop {
        let Frame::Stdout(bytes) = frames.next().await? else {
            return Err(broken("read from the guest", "it answered something that was not asked"));
        };
        if bytes.is_empty() {
            return Ok(shutdown(to, Shutdown::Write).map_or(Outward::Unread, |()| Outward::Whole));
        }
        if pass_on(to, bytes).await.is_err() {
            return Ok(Outward::Unread);
        }
    }
}

async fn pass_on(to: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => to.writable().await?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
