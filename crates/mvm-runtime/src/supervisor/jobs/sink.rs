//! Where a command's output goes: into what is kept of it, and into the log.

use mvm_wire::api::Stream;

use super::redaction::Redaction;
use super::{Job, STREAMS};
use crate::command::Streams;
use crate::error::Result;
use crate::secrets::Piece;
use crate::supervisor::log::{Lines, Log};

/// A job's output as a run's. The caller of an attached command has its output; that of any other is logged.
pub struct Sink<'a> {
    job: &'a Job,
    log: &'a Log,
    lines: Option<[Lines; 2]>,
}

impl<'a> Sink<'a> {
    /// Of this job.
    pub fn new(job: &'a Job, log: &'a Log) -> Sink<'a> {
        let lines = || STREAMS.map(|stream| log.of_job(&job.run_id, stream));
        Sink { job, log, lines: (!job.attached).then(lines) }
    }

    /// Passes on what is within the policy's limit; the rest is only counted.
    async fn take(&mut self, stream: Stream, bytes: &[u8]) -> Result<()> {
        let (within, beyond) = bytes.split_at(self.job.room(stream).min(bytes.len()));
        if !within.is_empty() {
            self.pass_on(stream, within).await;
        }
        if !beyond.is_empty() {
            self.job.output.push(stream, beyond.len(), &[]).await;
        }
        Ok(())
    }

    async fn pass_on(&mut self, stream: Stream, bytes: &[u8]) {
        if !self.job.redaction().passes(&self.job.known) {
            self.redact(stream, bytes.len(), |redaction, emit| redaction.take(stream, bytes, emit)).await;
            return;
        }
        self.job.output.push(stream, bytes.len(), bytes).await;
        let log = self.log;
        if let Some(lines) = self.lines_of(stream) {
            lines.push(log, bytes);
        }
    }

    /// Keeps and logs what the redaction lets through of so many bytes that were written.
    async fn redact(
        &mut self,
        stream: Stream,
        written: usize,
        work: impl FnOnce(&mut Redaction, &mut dyn FnMut(Piece<'_>)),
    ) {
        let mut shown = Vec::with_capacity(written);
        let (job, log) = (self.job, self.log);
        let mut lines = self.lines_of(stream);
        work(&mut job.redaction(), &mut |piece| {
            shown.extend_from_slice(piece.bytes());
            if let Some(lines) = &mut lines {
                lines.take(log, piece);
            }
        });
        job.output.push(stream, written, &shown).await;
    }

    fn lines_of(&mut self, stream: Stream) -> Option<&mut Lines> {
        self.lines.as_mut().map(|[stdout, stderr]| if stream == Stream::Stdout { stdout } else { stderr })
    }

    /// No more comes: what was held back is passed on.
    pub async fn let_go(&mut self) {
        for stream in STREAMS {
            self.redact(stream, 0, |redaction, emit| redaction.end(stream, emit)).await;
        }
    }

    /// Nobody stays with the command any longer: what it wrote so far is logged.
    pub fn end(&mut self) {
        self.lines.iter_mut().flatten().for_each(|lines| lines.end(self.log));
    }
}

impl Streams for Sink<'_> {
    async fn stdout(&mut self, bytes: &[u8]) -> Result<()> {
        self.take(Stream::Stdout, bytes).await
    }

    async fn stderr(&mut self, bytes: &[u8]) -> Result<()> {
        self.take(Stream::Stderr, bytes).await
    }
}
