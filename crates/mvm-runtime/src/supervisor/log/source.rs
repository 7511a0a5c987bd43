//! From bytes as they come to lines of the log.

use std::time::Instant;

use mvm_wire::api::{LogSource, Stream};

use super::Log;
use crate::secrets::Piece;

/// The longest line; a longer one is cut into several.
const MAX_LINE: usize = 4 << 10;
/// What a line takes on disk besides its text, about, in bytes.
const ENVELOPE: usize = 180;
/// What one source may log at once, and in each second after that, in bytes on disk.
const BURST: f64 = (1 << 20) as f64;
const RATE: f64 = (256 << 10) as f64;
/// After a flood, logging begins again when so much may be logged: many lines between two gaps instead of one.
const RECOVERED: f64 = RATE / 4.0;

/// One source's lines. What comes faster than it is logged is counted instead, so that no guest wears out the disk.
#[derive(Debug)]
pub struct Lines {
    source: LogSource,
    of: Option<(String, Stream)>,
    unfinished: Vec<u8>,
    /// Secrets that were redacted in the unfinished line.
    redactions: u64,
    allowance: f64,
    at: Instant,
    /// Lines that were not logged since the last one that was.
    dropped: u64,
}

impl Lines {
    /// For this source; for a job with its run id and which of its outputs.
    pub fn new(source: LogSource, of: Option<(String, Stream)>) -> Lines {
        Lines { source, of, unfinished: Vec::new(), redactions: 0, allowance: BURST, at: Instant::now(), dropped: 0 }
    }

    /// Takes a piece of what came with secrets redacted.
    pub fn take(&mut self, log: &Log, piece: Piece<'_>) {
        self.redactions += u64::from(matches!(piece, Piece::Secret { .. }));
        self.push(log, piece.bytes());
    }

    /// Takes what came and logs the lines that it completes.
    pub fn push(&mut self, log: &Log, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for piece in piece.chunks(MAX_LINE) {
                if self.unfinished.len() + piece.len() > MAX_LINE {
                    self.complete(log);
                }
                self.unfinished.extend_from_slice(piece);
                if self.unfinished.ends_with(b"\n") {
                    self.complete(log);
                }
            }
        }
    }

    /// Nothing more comes.
    pub fn end(&mut self, log: &Log) {
        if !self.unfinished.is_empty() {
            self.complete(log);
        }
        self.tell_dropped(log);
    }

    fn complete(&mut self, log: &Log) {
        let line = std::mem::take(&mut self.unfinished);
        let redactions = std::mem::take(&mut self.redactions);
        if !self.allows(ENVELOPE + line.len()) {
            self.dropped += 1;
            return;
        }
        self.tell_dropped(log);
        let end = line.len() - line.iter().rev().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        let text = String::from_utf8_lossy(&line[..end]).into_owned();
        log.line(self.source, self.of.as_ref(), text, redactions);
    }

    fn allows(&mut self, bytes: usize) -> bool {
        let now = Instant::now();
        self.allowance = (self.allowance + now.duration_since(self.at).as_secs_f64() * RATE).min(BURST);
        self.at = now;
        let needed = if self.dropped > 0 { RECOVERED } else { bytes as f64 };
        let allowed = self.allowance >= needed;
        if allowed {
            self.allowance -= bytes as f64;
        }
        allowed
    }

    fn tell_dropped(&mut self, log: &Log) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            log.flood(self.source, self.of.as_ref().map(|(run_id, _)| run_id.clone()), dropped);
        }
    }
}
