//! QEMU's machine protocol: one JSON object a line over a socket pair. Every call has a deadline.
//!
//! By hand because what is needed is five commands and the passing of descriptors, which the generated clients lack.

use std::io::{ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use mvm_wire::ErrorCode;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::error::{Error, Result};

/// How long QEMU may take to answer a command. It answers in under a millisecond unless it hangs.
const DEADLINE: Duration = Duration::from_secs(10);
/// The set of descriptors in which QEMU finds the file to save to.
const STATE_FDSET: u32 = 1000;
/// A longer line is not QEMU's.
const MAX_LINE: usize = 1 << 20;

/// A QMP session.
#[derive(Debug)]
pub struct Qmp {
    socket: UnixStream,
    received: Vec<u8>,
}

impl Qmp {
    /// Takes over a connection on which `sent` commands were written before: waits for QEMU's greeting and their answers.
    /// The first of them must leave negotiation mode; if there are none, that is done here.
    pub async fn connect(socket: UnixStream, sent: usize) -> Result<Qmp> {
        let mut qmp = Qmp { socket, received: Vec::new() };
        let greeting = within(DEADLINE, "greet", qmp.line()).await?;
        if greeting.get("QMP").is_none() {
            return Err(transport("greet", "something other than QMP answered"));
        }
        if sent == 0 {
            qmp.execute("qmp_capabilities", Value::Null).await?;
        }
        for _ in 0..sent {
            within(DEADLINE, "start", qmp.answer("start")).await?;
        }
        Ok(qmp)
    }

    /// Runs a command and returns what it answers. Events that arrive meanwhile are passed over.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.execute_with_fd(command, arguments, None).await
    }

    /// As [`Qmp::execute`], with a descriptor for commands such as `getfd`.
    pub async fn execute_with_fd(
        &mut self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Value> {
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        within(DEADLINE, command, async {
            self.send(format!("{request}\n").as_bytes(), fd).await.map_err(|e| transport(command, e))?;
            self.answer(command).await
        })
        .await
    }

    async fn answer(&mut self, command: &str) -> Result<Value> {
        loop {
            let mut answer = self.line().await?;
            if let Some(error) = answer.get("error") {
                let why = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
                return Err(Error::internal(format!("QEMU refused {command}"), why));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Stops the machine's processors and has its disk written to the host.
    pub async fn stop(&mut self) -> Result<()> {
        self.execute("stop", Value::Null).await.map(drop)
    }

    /// An error unless the machine is there and its processors are stopped.
    pub async fn held(&mut self) -> Result<()> {
        let status = self.execute("query-status", Value::Null).await?;
        match status.get("running").and_then(Value::as_bool) {
            Some(false) => Ok(()),
            _ => Err(Error::internal("the machine does not hold still", "its processors run")),
        }
    }

    /// Lets the processors run.
    pub async fn run(&mut self) -> Result<()> {
        self.execute("cont", Value::Null).await.map(drop)
    }

    /// Saves the state of a stopped machine's devices into a file that was opened for writing only. What loads it runs.
    ///
    /// The command is named after Xen, which saves memory by itself like we do; it has nothing else to do with it.
    pub async fn save_devices(&mut self, file: BorrowedFd<'_>) -> Result<()> {
        let set = json!({ "fdset-id": STATE_FDSET });
        self.execute_with_fd("add-fd", set.clone(), Some(file)).await?;
        let path = format!("/dev/fdset/{STATE_FDSET}");
        let saved = self.execute("xen-save-devices-state", json!({ "filename": path, "live": false })).await;
        self.execute("remove-fd", set).await?;
        saved.map(drop)
    }

    /// Waits until the state that the machine was started from is loaded.
    pub async fn loaded(&mut self) -> Result<()> {
        let loaded = async {
            loop {
                let info = self.execute("query-migrate", Value::Null).await?;
                match info.get("status").and_then(Value::as_str) {
                    Some("completed") => return Ok(()),
                    Some("failed" | "cancelled") => {
                        let why = info.get("error-desc").and_then(Value::as_str).unwrap_or("no reason given");
                        return Err(Error::internal("QEMU cannot load the saved state", why));
                    }
                    _ => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        within(DEADLINE, "migrate-incoming", loaded).await
    }

    async fn send(&mut self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> std::io::Result<()> {
        let mut sent = 0;
        while sent < bytes.len() {
            self.socket.writable().await?;
            let attempt = self.socket.try_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let fds = fd.map(|fd| [fd]);
                if let (0, Some(fds)) = (sent, &fds) {
                    control.push(SendAncillaryMessage::ScmRights(fds));
                }
                let io = [IoSlice::new(&bytes[sent..])];
                Ok(rustix::net::sendmsg(&self.socket, &io, &mut control, SendFlags::NOSIGNAL)?)
            });
            match attempt {
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    async fn line(&mut self) -> Result<Value> {
        loop {
            if let Some(end) = self.received.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|e| transport("read", e));
            }
            self.socket.readable().await.map_err(|e| transport("read", e))?;
            match self.socket.try_read_buf(&mut self.received) {
                Ok(0) => return Err(transport("read", "QEMU ended")),
                Ok(_) if self.received.len() > MAX_LINE => return Err(transport("read", "a line without end")),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(transport("read", e)),
            }
        }
    }
}

async fn within<T>(limit: Duration, command: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(transport(command, format!("no answer within {} s", limit.as_secs()))))
}

fn transport(command: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::TransportError, format!("QEMU's control connection broke ({command})"), why)
}
