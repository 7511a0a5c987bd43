//! Connections to what listens in this machine: one on each stream, with the bytes of both directions.
//!
//! An empty frame is the end of its direction, and the other one goes on. A stream that ends without it was given up, and
//! then the connection is reset, so that nobody takes a part for the whole. Who does not read is waited for, on that
//! stream alone: a connection holds a piece each way, and what the session's flow control lets through.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use mvm_wire::frame::{self, HEADER_LEN, Kind};
use mvm_wire::guest::{Failure, Reply, Step};
use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::timeout;

use crate::serve::{SPLIT, read_frame, write_reply};

/// Who answers at all answers in this time. After it the host is told to wait: a session opens no more streams while
/// many wait for their first reply.
const AT_ONCE: Duration = Duration::from_millis(100);
/// How long what listens may take to accept.
const LIMIT: Duration = Duration::from_secs(10);
/// What an idle connection has room for, and what one that moves much sends at once: as a frame exactly what the session
/// sends in two.
const LITTLE: usize = 4096;
const MUCH: usize = 2 * SPLIT - HEADER_LEN;

/// Connects to a port, says what came of it, and carries bytes until both directions have ended or one broke.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(port: u16, stream: S) -> Result<()> {
    let (reader, mut writer) = stream.split();
    let mut connecting = pin!(connect(port));
    let connected = match timeout(AT_ONCE, &mut connecting).await {
        Ok(connected) => connected,
        Err(_) => {
            write_reply(&mut writer, &Reply::Connecting).await?;
            timeout(LIMIT, connecting).await.unwrap_or_else(|_| Err(Error::from_raw_os_error(libc::ETIMEDOUT)))
        }
    };
    match connected {
        Ok(mut socket) => {
            write_reply(&mut writer, &Reply::Done).await?;
            carry(&mut socket, reader, &mut writer).await?;
            sockopt::set_socket_linger(&socket, None)?;
        }
        Err(e) => {
            let errno = e.raw_os_error().unwrap_or(libc::EIO);
            write_reply(&mut writer, &Reply::Failed(Failure { step: Step::Connect, errno, detail: String::new() }))
                .await?;
        }
    }
    writer.close().await
}

/// What only listens on `::1` is found, too. Until both directions have ended, closing the socket resets the connection.
async fn connect(port: u16) -> Result<TcpStream> {
    let socket = match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        Ok(socket) => socket,
        Err(e) => TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.map_err(|_| e)?,
    };
    socket.set_nodelay(true)?;
    socket.set_zero_linger()?;
    Ok(socket)
}

/// How the direction into the machine ended.
enum Inward {
    /// With its last byte.
    Whole,
    /// Nobody takes any more.
    Unread,
}

/// An error if a direction broke.
async fn carry<R, W>(socket: &mut TcpStream, mut reader: R, writer: &mut W) -> Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let last_sent = Cell::new(false);
    let (mut from, to) = socket.split();
    let mut outward = pin!(send(&mut from, writer, &last_sent));
    let inward = {
        let mut inward = pin!(receive(&mut reader, to.as_ref()));
        tokio::select! {
            sent = &mut outward => {
                sent?;
                return match inward.await? {
                    Inward::Whole => Ok(()),
                    Inward::Unread => Err(ErrorKind::ConnectionReset.into()),
                };
            }
            inward = &mut inward => inward?,
        }
    };
    let mut byte = [0];
    match inward {
        // What it wrote before it went is still to be had.
        Inward::Unread => outward.await.and(Err(ErrorKind::ConnectionReset.into())),
        Inward::Whole => tokio::select! {
            biased;
            sent = &mut outward => sent,
            // Only the host's loss of interest can still come, or its thanks for the end that it has.
            _ = reader.read(&mut byte) => if last_sent.get() { Ok(()) } else { Err(ErrorKind::BrokenPipe.into()) },
        },
    }
}

/// Sends what comes, to its end.
async fn send<W: AsyncWrite + Unpin>(from: &mut ReadHalf<'_>, writer: &mut W, last_sent: &Cell<bool>) -> Result<()> {
    let mut buffer = vec![0; HEADER_LEN + LITTLE];
    loop {
        let mut room = ReadBuf::new(&mut buffer[HEADER_LEN..]);
        poll_fn(|cx| Pin::new(&mut *from).poll_read(cx, &mut room)).await?;
        let (len, full) = (room.filled().len(), room.remaining() == 0);
        buffer[..HEADER_LEN].copy_from_slice(&frame::header(Kind::Stdout, len));
        last_sent.set(len == 0);
        writer.write_all(&buffer[..HEADER_LEN + len]).await?;
        writer.flush().await?;
        if len == 0 {
            return Ok(());
        }
        if full {
            buffer.resize(HEADER_LEN + MUCH, 0);
        }
    }
}

/// Passes on what the host sends, to its end. An error is the stream's.
async fn receive<R: AsyncRead + Unpin>(reader: &mut R, to: &TcpStream) -> Result<Inward> {
    let mut payload = Vec::new();
    loop {
        if read_frame(reader, &mut payload).await? != Kind::Stdin {
            return Err(ErrorKind::InvalidData.into());
        }
        let passed_on = if payload.is_empty() {
            shutdown(to, Shutdown::Write).map_err(Into::into)
        } else {
            pass_on(to, &payload).await
        };
        match passed_on {
            Err(_) => return Ok(Inward::Unread),
            Ok(()) if payload.is_empty() => return Ok(Inward::Whole),
            Ok(()) => {}
        }
    }
}

async fn pass_on(to: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => to.writable().await?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
