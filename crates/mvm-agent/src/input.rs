//! A command's standard input: what came from the host and the command has not read yet. It outlives the stream on which
//! it came, so that a save in between loses none of it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::Result;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use futures_util::io::AsyncRead;
use mvm_wire::frame::Kind;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::link::watch;
use crate::serve::read_frame;

/// Pieces that wait for a command that does not read. A suspension takes what is on its way besides, which is no more
/// than a stream's window.
const MAX_WAITING: usize = 1;
/// What a terminal takes for the end of its input.
const END_OF_TRANSMISSION: u8 = 0x04;

/// The way to a command's standard input.
#[derive(Debug)]
pub struct Input {
    /// `None` if it takes no input, or no longer.
    sink: Option<AsyncFd<OwnedFd>>,
    queue: Queue,
}

#[derive(Debug, Default)]
struct Queue {
    terminal: bool,
    waiting: RefCell<VecDeque<Rc<Vec<u8>>>>,
    /// How much of the first piece was written.
    written: Cell<usize>,
    ended: Cell<bool>,
    changed: Notify,
}

/// Whether a suspension wants everything that is on its way.
#[derive(Debug, Default)]
pub struct Suspension {
    wanted: Cell<bool>,
    changed: Notify,
}

impl Suspension {
    /// Begins or ends it.
    pub fn set(&self, wanted: bool) {
        self.wanted.set(wanted);
        self.changed.notify_waiters();
    }
}

impl Input {
    /// For a command that reads there, if it reads at all.
    pub fn new(fd: Option<OwnedFd>, terminal: bool) -> Input {
        let sink = fd.and_then(|fd| {
            rustix::io::ioctl_fionbio(&fd, true).ok()?;
            watch(fd, Interest::WRITABLE).ok()
        });
        Input { sink, queue: Queue { terminal, ..Queue::default() } }
    }

    /// Passes input on. True at the mark that precedes a save; false when the caller is gone. The end of input is neither.
    pub async fn feed<R: AsyncRead + Unpin>(&mut self, suspension: &Suspension, reader: R) -> bool {
        let Input { sink, queue } = self;
        tokio::select! {
            marked = queue.take_all(suspension, reader) => marked,
            never = queue.pass_on(sink) => match never {},
        }
    }
}

impl Queue {
    async fn take_all<R: AsyncRead + Unpin>(&self, suspension: &Suspension, mut reader: R) -> bool {
        let mut payload = Vec::new();
        loop {
            match read_frame(&mut reader, &mut payload).await {
                Ok(Kind::Stdin) if payload.is_empty() => self.end(),
                Ok(Kind::Stdin) => {
                    self.put(std::mem::take(&mut payload));
                    self.room(suspension).await;
                }
                Ok(Kind::Mark) => return true,
                _ => return false,
            }
        }
    }

    fn put(&self, piece: Vec<u8>) {
        self.waiting.borrow_mut().push_back(Rc::new(piece));
        self.changed.notify_waiters();
    }

    fn end(&self) {
        if self.terminal {
            self.put(vec![END_OF_TRANSMISSION]);
        }
        self.ended.set(true);
        self.changed.notify_waiters();
    }

    async fn room(&self, suspension: &Suspension) {
        loop {
            let (passed_on, suspended) = (self.changed.notified(), suspension.changed.notified());
            if self.waiting.borrow().len() <= MAX_WAITING || suspension.wanted.get() {
                return;
            }
            tokio::select! {
                () = passed_on => {}
                () = suspended => {}
            }
        }
    }

    /// Writes what waits, piece by piece. A command that closed its input is no reason to stop listening to the caller.
    async fn pass_on(&self, sink: &mut Option<AsyncFd<OwnedFd>>) -> std::convert::Infallible {
        loop {
            let changed = self.changed.notified();
            let first = self.waiting.borrow().front().cloned();
            let Some(piece) = first else {
                if self.ended.get() && !self.terminal {
                    *sink = None;
                }
                changed.await;
                continue;
            };
            let rest = &piece[self.written.get()..];
            let written = match sink {
                Some(fd) => write(fd, rest).await.unwrap_or_else(|_| {
                    *sink = None;
                    rest.len()
                }),
                None => rest.len(),
            };
            self.written.set(self.written.get() + written);
            if self.written.get() == piece.len() {
                self.written.set(0);
                self.waiting.borrow_mut().pop_front();
                self.changed.notify_waiters();
            }
        }
    }
}

async fn write(fd: &AsyncFd<OwnedFd>, bytes: &[u8]) -> Result<usize> {
    loop {
        let mut guard = fd.writable().await?;
        if let Ok(written) = guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
            return written;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::io::{AsyncReadExt, Cursor};
    use mvm_wire::frame;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    fn frames(pieces: &[(Kind, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, payload) in pieces {
            bytes.extend(frame::header(*kind, payload.len()));
            bytes.extend(*payload);
        }
        bytes
    }

    /// A caller that is there and sends nothing.
    struct Silence;

    impl AsyncRead for Silence {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<Result<usize>> {
            Poll::Pending
        }
    }

    fn block_on(work: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    }

    #[test]
    fn what_a_suspension_finds_on_its_way_is_read_after_it() {
        block_on(async {
            let (read_end, write_end) = rustix::pipe::pipe().unwrap();
            rustix::io::ioctl_fionbio(&read_end, true).unwrap();
            let mut input = Input::new(Some(write_end), false);
            let suspension = Suspension::default();
            suspension.set(true);
            // More than a pipe holds, and nobody reads.
            let data: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
            let mut sent: Vec<(Kind, &[u8])> = data.chunks(100_000).map(|piece| (Kind::Stdin, piece)).collect();
            sent.push((Kind::Mark, &[]));
            assert!(input.feed(&suspension, Cursor::new(frames(&sent))).await);
            suspension.set(false);
            let rest = Cursor::new(frames(&[(Kind::Stdin, b"last"), (Kind::Stdin, b"")])).chain(Silence);
            let read = async {
                let read_end = watch(read_end, Interest::READABLE).unwrap();
                let (mut got, mut chunk) = (Vec::new(), [0; 4096]);
                loop {
                    let mut guard = read_end.readable().await.unwrap();
                    match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut chunk)?)) {
                        Ok(Ok(0)) => return got,
                        Ok(len) => got.extend_from_slice(&chunk[..len.unwrap()]),
                        Err(_) => {}
                    }
                }
            };
            let got = tokio::select! {
                got = read => got,
                _ = input.feed(&suspension, rest) => panic!("the caller is still there"),
            };
            assert!(got == [data.as_slice(), b"last"].concat());
        });
    }

    #[test]
    fn a_command_that_reads_nothing_is_still_listened_for() {
        block_on(async {
            let mut input = Input::new(None, false);
            let suspension = Suspension::default();
            let sent = frames(&[(Kind::Stdin, b"ignored"), (Kind::Stdin, b""), (Kind::Mark, b"")]);
            assert!(input.feed(&suspension, Cursor::new(sent)).await);
            assert!(!input.feed(&suspension, Cursor::new(Vec::new())).await);
        });
    }
}
