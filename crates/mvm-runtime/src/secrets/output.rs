//! The output of one command, redacted on its way.

use std::sync::Arc;

use mvm_wire::api::{JobResult, Stream};

use super::{Patterns, Piece, Redactor};
use crate::command::Streams;
use crate::error::{Error, Result};

/// Redacts both outputs of a command, each by itself.
#[derive(Debug)]
pub struct Redactors {
    stdout: Redactor,
    stderr: Redactor,
}

impl Redactors {
    /// For one command.
    pub fn new(patterns: &Arc<Patterns>) -> Redactors {
        let new = || Redactor::new(patterns.clone());
        Redactors { stdout: new(), stderr: new() }
    }

    /// Looks for these from now on.
    pub fn renew(&mut self, patterns: &Arc<Patterns>) {
        self.stdout.renew(patterns);
        self.stderr.renew(patterns);
    }

    /// Takes what came on a stream, and passes on what can be shown.
    pub fn pass(&mut self, stream: Stream, bytes: &[u8], emit: &mut dyn FnMut(Piece<'_>)) {
        self.of(stream).pass(bytes, emit);
    }

    /// No more will come on a stream: passes on what was held.
    pub fn end(&mut self, stream: Stream, emit: &mut dyn FnMut(Piece<'_>)) {
        self.of(stream).end(emit);
    }

    /// How often a secret was redacted.
    pub fn total(&self) -> u64 {
        self.stdout.total() + self.stderr.total()
    }

    fn of(&mut self, stream: Stream) -> &mut Redactor {
        if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr }
    }
}

/// Passes a command's output on redacted, and counts it as it was written.
#[derive(Debug)]
pub struct Redacted<'a, S> {
    to: &'a mut S,
    redactors: Option<Redactors>,
    /// Bytes on standard output and on standard error.
    pub written: [u64; 2],
}

impl<'a, S: Streams> Redacted<'a, S> {
    /// Without patterns everything is passed on as it is.
    pub fn new(to: &'a mut S, patterns: Option<&Arc<Patterns>>) -> Redacted<'a, S> {
        Redacted { to, redactors: patterns.map(Redactors::new), written: [0; 2] }
    }

    /// Passes on what was held. Returns how often a secret was redacted.
    pub async fn end(&mut self) -> Result<u64> {
        let Some(redactors) = &mut self.redactors else { return Ok(0) };
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut rest = Vec::new();
            redactors.end(stream, &mut |piece| rest.extend_from_slice(piece.bytes()));
            send(self.to, stream, &rest).await?;
        }
        Ok(redactors.total())
    }

    async fn take(&mut self, stream: Stream, bytes: &[u8]) -> Result<()> {
        self.written[usize::from(stream == Stream::Stderr)] += bytes.len() as u64;
        let Some(redactors) = &mut self.redactors else { return send(self.to, stream, bytes).await };
        let mut shown = Vec::with_capacity(bytes.len());
        redactors.pass(stream, bytes, &mut |piece| shown.extend_from_slice(piece.bytes()));
        send(self.to, stream, &shown).await
    }
}

async fn send(to: &mut impl Streams, stream: Stream, bytes: &[u8]) -> Result<()> {
    match stream {
        _ if bytes.is_empty() => Ok(()),
        Stream::Stdout => to.stdout(bytes).await,
        Stream::Stderr => to.stderr(bytes).await,
    }
}

impl<S: Streams + Send> Streams for Redacted<'_, S> {
    async fn stdout(&mut self, bytes: &[u8]) -> Result<()> {
        self.take(Stream::Stdout, bytes).await
    }

    async fn stderr(&mut self, bytes: &[u8]) -> Result<()> {
        self.take(Stream::Stderr, bytes).await
    }
}

/// An error without secrets: guest text and the end of the console are in some.
pub fn redact_error(patterns: Option<&Patterns>, error: Error) -> Error {
    let Some(patterns) = patterns else { return error };
    let redacted = |text: &str| patterns.text(text).into_owned();
    Error { what: redacted(&error.what), why: redacted(&error.why), hint: redacted(&error.hint), ..error }
}

/// The same of a result, which holds the name of a program that could not be started, or an error.
pub fn redact_result(patterns: Option<&Patterns>, mut result: JobResult) -> JobResult {
    let Some(patterns) = patterns else { return result };
    if let Some(not_started) = &mut result.not_started {
        not_started.command = patterns.text(&not_started.command).into_owned();
    }
    result.error = result.error.map(|error| redact_error(Some(patterns), error.into()).into());
    result
}
