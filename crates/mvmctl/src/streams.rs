//! A command's input and output at this end: passed on as they come, or kept within a limit for one JSON object.

use std::io::Read;

use base64::Engine;
use mvm_runtime::command::Streams;
use mvm_runtime::{Error, ErrorCode, Result};
use mvm_wire::api::{JobResult, NotStarted};
use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// How much of each output a JSON result holds unless the caller says otherwise.
pub const JSON_OUTPUT_LIMIT: u64 = 8 << 20;

/// Standard input in pieces, read on a thread of its own. Without `--interactive` it is at its end.
pub fn input(interactive: bool) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    if interactive {
        std::thread::spawn(move || {
            let mut stdin = std::io::stdin().lock();
            loop {
                let mut piece = vec![0; 64 * 1024];
                match stdin.read(&mut piece) {
                    Ok(0) | Err(_) => return,
                    Ok(len) => piece.truncate(len),
                }
                if sender.blocking_send(piece).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

/// Says on standard error what the command's own output does not show.
pub fn report(result: &JobResult, streamed: &Streamed, image: &str, timeout: Option<std::time::Duration>, quiet: bool) {
    if let Some(failure) = &result.not_started {
        eprintln!("mvmctl: {}", not_started(failure, image));
    }
    if quiet {
        return;
    }
    if let (true, Some(limit)) = (result.timed_out, timeout) {
        eprintln!("mvmctl: the command was killed after {} s (--timeout)", limit.as_secs_f64());
    }
    if let Some(why) = &result.unrecorded {
        eprintln!("mvmctl: how the command ended is not on record: {why}");
    }
    if result.oom_killed {
        eprintln!("mvmctl: the guest ran out of memory and killed a process; give it more with --memory");
    }
    let stdout = ("stdout", &streamed.stdout.meter, result.stdout_bytes, result.stdout_truncated);
    let stderr = ("stderr", &streamed.stderr.meter, result.stderr_bytes, result.stderr_truncated);
    for (name, meter, written, cut_before) in [stdout, stderr] {
        if meter.truncated() || cut_before {
            let (kept, all) = (meter.kept, meter.seen.max(written));
            eprintln!(
                "mvmctl: {name} was cut: {kept} of {all} bytes shown (--max-output, or limits.output of the profile)"
            );
        }
    }
}

fn not_started(failure: &NotStarted, image: &str) -> String {
    let program = &failure.command;
    if failure.reason == NotStarted::NOT_FOUND {
        format!("there is no command {program:?} in the image {image}")
    } else {
        let why = std::io::Error::from_raw_os_error(failure.errno);
        format!("the command {program:?} is in the image {image} but cannot be executed: {why}")
    }
}

/// A result and the output kept of it, as one object.
pub fn as_json(result: &JobResult, captured: &Captured) -> Value {
    let not_started = result.not_started.is_some();
    let mut object = json!({
        "exit_code": if not_started { Some(result.exit_status()) } else { result.exit_code },
        "signal": result.signal,
        "timed_out": result.timed_out,
        "oom_killed": result.oom_killed,
        "not_started": result.not_started,
        "duration_ms": result.duration_ms,
        "redactions": result.redactions,
        "run_id": result.run_id,
        "audit_id": result.audit_id,
        "unrecorded": result.unrecorded,
    });
    let stdout = ("stdout", &captured.stdout, result.stdout_bytes, result.stdout_truncated);
    let stderr = ("stderr", &captured.stderr, result.stderr_bytes, result.stderr_truncated);
    for (name, (kept, meter), written, cut_before) in [stdout, stderr] {
        // Text where it is text; anything else must come back byte for byte.
        let (value, encoding) = match std::str::from_utf8(kept) {
            Ok(text) => (text.to_owned(), "utf-8"),
            Err(_) => (base64::engine::general_purpose::STANDARD.encode(kept), "base64"),
        };
        object[name] = json!(value);
        object[format!("{name}_encoding")] = json!(encoding);
        object[format!("{name}_bytes")] = json!(written);
        object[format!("{name}_truncated")] = json!(meter.truncated() || cut_before);
    }
    object
}

/// Counts bytes and says how many of them to keep.
#[derive(Debug)]
struct Meter {
    limit: u64,
    seen: u64,
    kept: u64,
}

impl Meter {
    fn new(limit: u64) -> Meter {
        Meter { limit, seen: 0, kept: 0 }
    }

    /// The part of the next bytes that is within the limit.
    fn admit<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let room = self.limit - self.kept;
        let len = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        self.seen += bytes.len() as u64;
        self.kept += len as u64;
        &bytes[..len]
    }

    fn truncated(&self) -> bool {
        self.kept < self.seen
    }
}

/// Keeps output in memory, within a limit.
#[derive(Debug)]
pub struct Captured {
    stdout: (Vec<u8>, Meter),
    stderr: (Vec<u8>, Meter),
}

impl Captured {
    /// Keeps this much of each stream.
    pub fn new(limit: u64) -> Captured {
        Captured { stdout: (Vec::new(), Meter::new(limit)), stderr: (Vec::new(), Meter::new(limit)) }
    }
}

impl Streams for Captured {
    async fn stdout(&mut self, bytes: &[u8]) -> Result<()> {
        self.stdout.0.extend_from_slice(self.stdout.1.admit(bytes));
        Ok(())
    }

    async fn stderr(&mut self, bytes: &[u8]) -> Result<()> {
        self.stderr.0.extend_from_slice(self.stderr.1.admit(bytes));
        Ok(())
    }
}

/// Passes output on as it comes.
pub struct Streamed {
    stdout: Sink<tokio::io::Stdout>,
    stderr: Sink<tokio::io::Stderr>,
}

struct Sink<W> {
    writer: W,
    meter: Meter,
}

impl Streamed {
    /// Passes this much of each stream on.
    pub fn new(limit: Option<u64>) -> Streamed {
        let limit = limit.unwrap_or(u64::MAX);
        Streamed {
            stdout: Sink { writer: tokio::io::stdout(), meter: Meter::new(limit) },
            stderr: Sink { writer: tokio::io::stderr(), meter: Meter::new(limit) },
        }
    }

    /// Waits until everything is written, unless a reader has stopped reading.
    pub async fn flush(&mut self) {
        let all = async {
            let _ = self.stdout.writer.flush().await;
            let _ = self.stderr.writer.flush().await;
        };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), all).await;
    }
}

impl<W: AsyncWrite + Unpin> Sink<W> {
    async fn pass(&mut self, bytes: &[u8]) -> Result<()> {
        let kept = self.meter.admit(bytes);
        if kept.is_empty() {
            return Ok(());
        }
        let write = async {
            self.writer.write_all(kept).await?;
            self.writer.flush().await
        };
        write.await.map_err(|e| match e.kind() {
            std::io::ErrorKind::BrokenPipe => {
                Error::new(ErrorCode::ClosedHandle, "cannot write the output", "nobody reads it")
            }
            _ => Error::io("cannot write the output", e),
        })
    }
}

impl Streams for Streamed {
    async fn stdout(&mut self, bytes: &[u8]) -> Result<()> {
        self.stdout.pass(bytes).await
    }

    async fn stderr(&mut self, bytes: &[u8]) -> Result<()> {
        self.stderr.pass(bytes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meter_keeps_what_fits_and_counts_the_rest() {
        let mut meter = Meter::new(5);
        assert_eq!(meter.admit(b"abc"), b"abc");
        assert_eq!(meter.admit(b"defg"), b"de");
        assert_eq!(meter.admit(b"h"), b"");
        assert_eq!((meter.seen, meter.kept, meter.truncated()), (8, 5, true));
        assert!(!Meter::new(0).truncated());
    }
}
