//! A client of one sandbox's API, over its Unix socket. Every call has a deadline: a supervisor that hangs is an error.

use std::io::{ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use mvm_wire::ErrorCode;
use mvm_wire::api::ErrorBody;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::error::{Error, Result};

/// How long a supervisor may take to answer what it can answer at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take where a machine starts or stops, or where it was asked to wait.
pub const WORK_LIMIT: Duration = Duration::from_secs(120);
/// How long a stream may be silent: while there is nothing to say, its supervisor says so every 10 s.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// The largest answer, and the longest line of a stream.
const MAX_ANSWER: usize = 64 << 20;

type Body = Either<Full<Bytes>, StreamBody<Pieces>>;

/// Input in pieces.
pub struct Pieces(mpsc::Receiver<Vec<u8>>);

impl futures_util::Stream for Pieces {
    type Item = std::result::Result<Frame<Bytes>, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece.into()))))
    }
}

/// A connection on which an answer can still be read when nobody takes the request any more: it says why.
struct Connection(UnixStream);

/// Takes for sent what nobody takes.
fn sent(written: Poll<std::io::Result<usize>>, len: usize) -> Poll<std::io::Result<usize>> {
    written.map(|written| match written {
        Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(len),
        other => other,
    })
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        sent(Pin::new(&mut self.0).poll_write(cx, buf), buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        sent(Pin::new(&mut self.0).poll_write_vectored(cx, bufs), bufs.iter().map(|buf| buf.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The way to one sandbox.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the sandbox with this socket. Connects only when something is asked.
    pub fn new(socket: impl AsRef<Path>) -> Client {
        Client { socket: socket.as_ref().to_owned() }
    }

    /// Asks without a body.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, None::<&()>, ANSWER_LIMIT).await
    }

    /// The same for what may take its time.
    pub async fn get_slowly<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, None::<&()>, WORK_LIMIT).await
    }

    /// Has something done that takes a moment.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: Option<&impl Serialize>) -> Result<T> {
        self.call(Method::POST, path, body, ANSWER_LIMIT).await
    }

    /// Has a machine started or stopped.
    pub async fn post_slowly<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::POST, path, None::<&()>, WORK_LIMIT).await
    }

    /// Has something done that takes as long as it takes.
    pub async fn post_patiently<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        decode(&collect(checked(self.exchange(request(Method::POST, path, Some(body))?, None).await?).await?).await?)
    }

    /// Sends bytes to their end: a command's input, a file.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, pieces: mpsc::Receiver<Vec<u8>>) -> Result<T> {
        let request = Request::put(path).header("host", "sandbox").body(Either::Right(StreamBody::new(Pieces(pieces))));
        decode(&collect(checked(self.exchange(request, None).await?).await?).await?)
    }

    /// Asks for bytes as they are.
    pub async fn bytes(&self, path: &str) -> Result<Raw> {
        let response = self.exchange(request(Method::GET, path, None::<&()>)?, Some(WORK_LIMIT)).await?;
        Ok(Raw { body: checked(response).await?.into_body() })
    }

    /// Asks for a stream of JSON lines. It ends when the result is dropped.
    pub async fn lines(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Lines> {
        let response = self.exchange(request(method, path, body)?, Some(ANSWER_LIMIT)).await?;
        Ok(Lines { body: checked(response).await?.into_body(), buffer: BytesMut::new() })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        limit: Duration,
    ) -> Result<T> {
        let work = async {
            let response = checked(self.exchange(request(method, path, body)?, Some(limit)).await?).await?;
            decode(&collect(response).await?)
        };
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(silent(limit)))
    }

    async fn exchange(
        &self,
        request: std::result::Result<Request<Body>, hyper::http::Error>,
        limit: Option<Duration>,
    ) -> Result<Response<Incoming>> {
        let request = request.map_err(|e| Error::internal("cannot ask the sandbox", e))?;
        let work = async {
            let stream = UnixStream::connect(&self.socket).await.map_err(|e| {
                Error::new(ErrorCode::SandboxUnavailable, "cannot reach the sandbox", e)
                    .hint("mvmctl ps shows its state; mvmctl destroy removes it in any")
            })?;
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(Connection(stream))).await.map_err(|e| broken(e.to_string()))?;
            tokio::spawn(connection);
            sender.send_request(request).await.map_err(|e| broken(e.to_string()))
        };
        match limit {
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(silent(limit))),
            None => work.await,
        }
    }
}

fn request(
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<std::result::Result<Request<Body>, hyper::http::Error>> {
    let bytes = match body {
        Some(body) => serde_json::to_vec(body).map_err(|e| Error::internal("cannot ask the sandbox", e))?,
        None => Vec::new(),
    };
    let request = Request::builder().method(method).uri(path).header("host", "sandbox");
    let request = if body.is_some() { request.header("content-type", "application/json") } else { request };
    Ok(request.body(Either::Left(Full::new(bytes.into()))))
}

/// A response that is no error.
async fn checked(response: Response<Incoming>) -> Result<Response<Incoming>> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let bytes = collect(response).await?;
    Err(serde_json::from_slice::<ErrorBody>(&bytes)
        .map_or_else(|_| broken(format!("it answered {status}")), |body| body.error.into()))
}

async fn collect(response: Response<Incoming>) -> Result<Bytes> {
    let limited = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
    limited.collect().await.map(http_body_util::Collected::to_bytes).map_err(|e| broken(e.to_string()))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    // What says nothing is said in JSON as null.
    let bytes = if bytes.is_empty() { b"null".as_slice() } else { bytes };
    serde_json::from_slice(bytes).map_err(|e| broken(format!("it answered something unexpected: {e}")))
}

/// A text as part of a query.
pub fn encoded(text: &str) -> impl std::fmt::Display + '_ {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

fn broken(why: String) -> Error {
    Error::new(ErrorCode::TransportError, "lost the connection to the sandbox", why).hint("mvmctl ps shows its state")
}

fn silent(limit: Duration) -> Error {
    let why = format!("its supervisor did not answer within {} s", limit.as_secs());
    Error::new(ErrorCode::TransportError, "cannot reach the sandbox", why)
        .hint("mvmctl kill ends a sandbox whose supervisor hangs")
}

/// A stream of bytes.
pub struct Raw {
    body: Incoming,
}

impl Raw {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_trailers) => {}
                },
                Some(Err(e)) => return Err(broken(e.to_string())),
                None => return Ok(None),
            }
        }
    }
}

/// A stream of JSON lines.
pub struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    /// The next one; `None` at the end.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                if line.is_empty() {
                    continue;
                }
                let value = serde_json::from_slice(&line);
                return value.map(Some).map_err(|e| broken(format!("it sent something unexpected: {e}")));
            }
            let frame = tokio::time::timeout(SILENCE_LIMIT, self.body.frame());
            match frame.await.map_err(|_| silent(SILENCE_LIMIT))? {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(e)) => return Err(broken(e.to_string())),
                None => return Ok(None),
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err(broken("it sent a line without an end".to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A server that answers when it has the head of the request, and closes with most of its body unread.
    fn refuse(listener: &UnixListener) {
        let (mut connection, _) = listener.accept().unwrap();
        assert!(connection.read(&mut [0; 16]).unwrap() > 0);
        let body = r#"{"error":{"code":"FileError","what":"cannot write","why":"full","hint":"","errno":28}}"#;
        let head = format!("HTTP/1.1 422 Unprocessable Entity\r\ncontent-length: {}\r\n\r\n", body.len());
        connection.write_all(format!("{head}{body}").as_bytes()).unwrap();
    }

    #[tokio::test]
    async fn a_refusal_is_read_by_who_still_sends() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let server = std::thread::spawn(move || (0..50).for_each(|_| refuse(&listener)));
        for _ in 0..50 {
            let (sender, pieces) = mpsc::channel(4);
            tokio::spawn(async move { while sender.send(vec![0; 64 << 10]).await.is_ok() {} });
            let error = Client::new(dir.path().join("s")).put::<()>("/", pieces).await.unwrap_err();
            assert_eq!((error.code, error.errno), (ErrorCode::FileError, Some(28)), "{error}");
        }
        server.join().unwrap();
    }
}
