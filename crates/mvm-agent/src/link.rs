//! The one byte stream to the host: finding it, waiting for a hello on it, and carrying a session over it.

use std::fs::{self, File};
use std::io::{Error, Result};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use mvm_wire::hello::{Hello, Scanner};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How often a port that says it is closed is looked at before it is used nevertheless, a millisecond apart.
const MAX_CLOSED_LOOKS: u32 = 5000;
/// The port's name, the same on the host's QEMU command line.
const PORT_NAME: &str = "org.mvm.agent";

/// The virtio-serial port as an asynchronous byte stream.
#[derive(Debug)]
pub struct Port {
    fd: AsyncFd<OwnedFd>,
}

impl Port {
    /// Finds the port by its name: the number in its device's name changes with the machine's other devices.
    pub fn open() -> Result<Port> {
        for entry in fs::read_dir("/sys/class/virtio-ports")?.flatten() {
            if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim_end() == PORT_NAME) {
                let device = std::path::Path::new("/dev").join(entry.file_name());
                let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(device)?;
                return Ok(Port { fd: watch(file.into(), Interest::READABLE | Interest::WRITABLE)? });
            }
        }
        Err(Error::other(format!("no virtio port is called {PORT_NAME}")))
    }

    /// Discards bytes until a whole hello was read, and answers it. Returns the version agreed, 0 if none, and the port
    /// for the session.
    ///
    /// The port is asked again and again, not waited for. After a restore it says for a moment that nobody holds the
    /// other end; the wake-up when that changes gets lost (measured: in two of three), and an event loop that has once
    /// seen "closed" takes it as final and would spin on every empty read. So the session gets a new registration, once
    /// the port no longer says so: a hello can be read before that.
    pub async fn greet(self) -> Result<(u16, Port)> {
        let fd = self.fd.into_inner();
        let mut scanner = Scanner::default();
        // The host sends nothing after its hello until it has the answer, so no byte of the session is lost here.
        let mut chunk = [0; 4096];
        let hello = loop {
            let len = match rustix::io::read(&fd, &mut chunk) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                Ok(len) => len,
                Err(e) => return Err(e.into()),
            };
            if let Some(hello) = chunk[..len].iter().find_map(|byte| scanner.push(*byte)) {
                break hello;
            }
        };
        for _ in 0..MAX_CLOSED_LOOKS {
            if !says_closed(&fd)? {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut port = Port { fd: watch(fd, Interest::READABLE | Interest::WRITABLE)? };
        let answer: Hello = hello.answer();
        port.write_all(&answer.encode()).await?;
        Ok((answer.max, port))
    }
}

/// Whether the port says at this moment that nobody holds the other end.
fn says_closed(fd: &OwnedFd) -> Result<bool> {
    let mut looked = [PollFd::new(fd, PollFlags::IN | PollFlags::OUT)];
    rustix::event::poll(&mut looked, Some(&Timespec::default()))?;
    Ok(looked[0].revents().contains(PollFlags::HUP))
}

/// Has the event loop watch a descriptor, which must be non-blocking.
pub fn watch(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays the same open descriptor for as long as the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

impl AsyncRead for Port {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut *buf)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), buf)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The port outlives every session.
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}
