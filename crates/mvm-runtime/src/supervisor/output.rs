//! What a command wrote: a bounded ring that readers follow by offset. Offsets count the bytes of both streams together,
//! in the order in which they came, as they are kept: with secrets redacted.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mvm_wire::api::Stream;
use tokio::sync::Notify;

use super::jobs::SavedOutput;
use crate::error::Result;
use crate::point;

/// How much of a command's output is kept.
pub const KEPT_BYTES: u64 = 1 << 20;
/// The largest piece that a reader gets, and that the ring holds as one.
const PIECE: usize = 64 << 10;

/// A command's output.
#[derive(Debug, Default)]
pub struct Output {
    state: Mutex<Ring>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Ring {
    pieces: VecDeque<(Stream, Vec<u8>)>,
    first: u64,
    end: u64,
    /// Bytes that were written, before anything was redacted in them.
    stdout: u64,
    stderr: u64,
    closed: bool,
    /// Where the reader is that must miss nothing. The command waits for it.
    reader: Option<u64>,
    /// The command does not wait at the moment: what is on its way is taken in, and nothing that the reader needs is dropped.
    flowing: bool,
}

/// What a reader finds at its offset.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of one stream.
    Bytes(Stream, u64, Vec<u8>),
    /// So many bytes from this offset are no longer kept.
    Gap(u64, u64),
    /// There is nothing more and will be nothing more.
    End,
}

impl Output {
    /// For a reader that must miss nothing.
    pub fn lossless() -> Output {
        let ring = Ring { reader: Some(0), ..Ring::default() };
        Output { state: Mutex::new(ring), changed: Notify::new() }
    }

    /// What is kept, to be saved; of output that must not be saved nothing but how much it was.
    pub fn save(&self, whole: bool) -> SavedOutput {
        let ring = self.ring();
        if !whole {
            return SavedOutput { first: ring.end, stdout: ring.stdout, stderr: ring.stderr, pieces: Vec::new() };
        }
        let pieces = ring.pieces.iter().map(|(stream, bytes)| (*stream, STANDARD.encode(bytes))).collect();
        SavedOutput { first: ring.first, stdout: ring.stdout, stderr: ring.stderr, pieces }
    }

    /// What was saved; whether more will come.
    pub fn load(saved: SavedOutput, closed: bool) -> Result<Output> {
        let damaged = |e| point::refused(format!("the output of a command cannot be read: {e}"));
        let decode = |(stream, piece): (Stream, String)| Ok((stream, STANDARD.decode(piece).map_err(damaged)?));
        let pieces = saved.pieces.into_iter().map(decode).collect::<Result<VecDeque<_>>>()?;
        let SavedOutput { first, stdout, stderr, .. } = saved;
        let end = first + pieces.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        let ring = Ring { pieces, first, end, stdout, stderr, closed, ..Ring::default() };
        Ok(Output { state: Mutex::new(ring), changed: Notify::new() })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends what is left of so many bytes that were written. Drops the oldest bytes that no longer fit, or waits for the
    /// reader that must miss nothing.
    pub async fn push(&self, stream: Stream, written: usize, bytes: &[u8]) {
        self.ring().count(stream, written as u64);
        for bytes in bytes.chunks(PIECE) {
            loop {
                let changed = self.changed.notified();
                if self.ring().admits(bytes.len() as u64) {
                    break;
                }
                changed.await;
            }
            self.ring().append(stream, bytes);
            self.changed.notify_waiters();
        }
    }

    /// No more will come, but for a few bytes of each stream that were held back.
    pub fn close(&self, held: [(Stream, Vec<u8>); 2]) {
        let mut ring = self.ring();
        let late = ring.closed;
        for (stream, bytes) in held.iter().filter(|(_, bytes)| !late && !bytes.is_empty()) {
            ring.append(*stream, bytes);
        }
        ring.closed = true;
        drop(ring);
        self.changed.notify_waiters();
    }

    /// What there is from this offset on; waits if there is nothing yet.
    pub async fn read(&self, offset: u64) -> Piece {
        loop {
            let changed = self.changed.notified();
            if let Some(piece) = self.look(offset) {
                return piece;
            }
            changed.await;
        }
    }

    /// What there is from this offset on at this moment. The reader that must miss nothing has had all before it.
    pub fn look(&self, offset: u64) -> Option<Piece> {
        let mut ring = self.ring();
        if ring.reader.is_some_and(|reader| reader != offset) {
            ring.reader = Some(offset);
            self.changed.notify_waiters();
        }
        ring.at(offset)
    }

    /// Offsets of the first byte that is kept and of the end; bytes that were written to standard output and standard error,
    /// which are others where secrets were redacted.
    pub fn counts(&self) -> (u64, u64, u64, u64) {
        let ring = self.ring();
        (ring.first, ring.end, ring.stdout, ring.stderr)
    }

    /// Whether the command waits for a reader that must miss nothing, as it does unless its machine is about to be saved.
    pub fn hold_back(&self, held: bool) {
        self.ring().flowing = !held;
        self.changed.notify_waiters();
    }

    /// The reader that must miss nothing is gone; nobody waits for it.
    pub fn release(&self) {
        self.ring().reader = None;
        self.changed.notify_waiters();
    }

    /// Drops what is kept: readers find a gap.
    pub fn forget(&self) {
        let mut ring = self.ring();
        ring.pieces.clear();
        ring.first = ring.end;
    }
}

impl Ring {
    /// Whether the reader that must miss nothing is so close that nothing it needs would be dropped. Whole pieces are
    /// dropped, so it may be behind by one less than is kept.
    fn admits(&self, len: u64) -> bool {
        self.flowing
            || self.reader.is_none_or(|reader| self.end + len - reader.min(self.end) <= KEPT_BYTES - PIECE as u64)
    }

    fn count(&mut self, stream: Stream, written: u64) {
        *(if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr }) += written;
    }

    fn append(&mut self, stream: Stream, bytes: &[u8]) {
        let len = bytes.len() as u64;
        match self.pieces.back_mut() {
            Some((last, piece)) if *last == stream && piece.len() + bytes.len() <= PIECE => piece.extend(bytes),
            _ => self.pieces.push_back((stream, bytes.to_vec())),
        }
        self.end += len;
        while self.end - self.first > KEPT_BYTES {
            let oldest = self.pieces.front().map_or(0, |(_, piece)| piece.len() as u64);
            if oldest == 0 || self.reader.is_some_and(|reader| self.first + oldest > reader) {
                return;
            }
            self.pieces.pop_front();
            self.first += oldest;
        }
    }

    fn at(&self, offset: u64) -> Option<Piece> {
        if offset < self.first {
            return Some(Piece::Gap(offset, self.first - offset));
        }
        let mut start = self.first;
        for (stream, bytes) in &self.pieces {
            let end = start + bytes.len() as u64;
            if offset < end {
                let bytes = bytes[(offset - start) as usize..].to_vec();
                return Some(Piece::Bytes(*stream, offset, bytes));
            }
            start = end;
        }
        self.closed.then_some(Piece::End)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOTHING: [(Stream, Vec<u8>); 2] = [(Stream::Stdout, Vec::new()), (Stream::Stderr, Vec::new())];

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    /// Everything from an offset to the end: the bytes of each stream, and how many were missed.
    async fn drain(output: &Output, mut offset: u64) -> (Vec<u8>, Vec<u8>, u64) {
        let (mut stdout, mut stderr, mut missed) = (Vec::new(), Vec::new(), 0);
        loop {
            match output.read(offset).await {
                Piece::Bytes(stream, at, bytes) => {
                    assert_eq!(at, offset);
                    offset += bytes.len() as u64;
                    (if stream == Stream::Stdout { &mut stdout } else { &mut stderr }).extend(bytes);
                }
                Piece::Gap(at, bytes) => {
                    assert_eq!(at, offset);
                    offset += bytes;
                    missed += bytes;
                }
                Piece::End => return (stdout, stderr, missed),
            }
        }
    }

    fn kept(output: &Output) -> u64 {
        let (first, end, ..) = output.counts();
        end - first
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_or_counted(pieces in prop::collection::vec((any::<bool>(), 1usize..200_000), 0..20), offset in 0u64..100) {
            block_on(async {
                let output = Output::default();
                let (mut all, mut stderr_bytes) = (0, 0);
                for (error, len) in &pieces {
                    output.push(if *error { Stream::Stderr } else { Stream::Stdout }, *len, &vec![7; *len]).await;
                    all += *len as u64;
                    stderr_bytes += if *error { *len as u64 } else { 0 };
                }
                output.close(NOTHING);
                let offset = offset.min(all);
                let (stdout, stderr, missed) = drain(&output, offset).await;
                assert_eq!((stdout.len() + stderr.len()) as u64 + missed, all - offset);
                assert!(kept(&output) <= KEPT_BYTES);
                assert_eq!(output.counts().3, stderr_bytes);
            });
        }
    }

    #[test]
    fn a_lossless_reader_misses_nothing_and_holds_the_writer() {
        const TOTAL: usize = 5 << 20;
        block_on(async {
            let output = Output::lossless();
            let write = async {
                for _ in 0..TOTAL / 1000 {
                    output.push(Stream::Stdout, 1000, &[1; 1000]).await;
                    assert!(kept(&output) <= KEPT_BYTES);
                }
                output.close(NOTHING);
            };
            let ((), (stdout, _, missed)) = tokio::join!(write, drain(&output, 0));
            assert_eq!((stdout.len(), missed), (TOTAL / 1000 * 1000, 0));
        });
    }

    #[test]
    fn what_is_saved_goes_on_where_it_was() {
        block_on(async {
            let output = Output::default();
            output.push(Stream::Stdout, 2 << 20, &vec![1; 2 << 20]).await;
            output.push(Stream::Stderr, 5, b"error").await;
            let again = Output::load(output.save(true), false).unwrap();
            assert_eq!(again.counts(), output.counts());
            again.push(Stream::Stdout, 4, b"more").await;
            again.close(NOTHING);
            let (stdout, stderr, missed) = drain(&again, 0).await;
            assert_eq!((stdout.len() as u64 + missed, stderr.as_slice()), ((2 << 20) + 4, b"error".as_slice()));
        });
    }

    #[test]
    fn nothing_is_lost_to_a_slow_reader_while_its_machine_is_saved() {
        block_on(async {
            let output = Output::lossless();
            output.hold_back(false);
            output.push(Stream::Stdout, 3 << 20, &vec![1; 3 << 20]).await;
            output.hold_back(true);
            output.close(NOTHING);
            let (stdout, _, missed) = drain(&output, 0).await;
            assert_eq!((stdout.len(), missed), (3 << 20, 0));
        });
    }

    #[test]
    fn a_reader_that_comes_late_is_told_what_it_missed() {
        block_on(async {
            let output = Output::default();
            output.push(Stream::Stdout, 3 << 20, &vec![0; 3 << 20]).await;
            output.close(NOTHING);
            let (stdout, _, missed) = drain(&output, 0).await;
            assert_eq!(stdout.len() as u64 + missed, 3 << 20);
            assert!(missed > 0);
        });
    }

    #[test]
    fn what_was_written_and_what_is_kept_are_counted_apart() {
        block_on(async {
            let output = Output::default();
            output.push(Stream::Stdout, 100, b"short").await;
            output.push(Stream::Stderr, 50, b"").await;
            output.close([(Stream::Stdout, b"held".to_vec()), (Stream::Stderr, b"too".to_vec())]);
            output.close([(Stream::Stdout, b"again".to_vec()), (Stream::Stderr, Vec::new())]);
            assert_eq!(output.counts(), (0, 12, 100, 50));
            assert_eq!(drain(&output, 0).await, (b"shortheld".to_vec(), b"too".to_vec(), 0));
            let saved = Output::load(output.save(false), true).unwrap();
            assert_eq!(saved.counts(), (12, 12, 100, 50));
            assert_eq!(drain(&saved, 0).await.2, 12);
        });
    }
}
