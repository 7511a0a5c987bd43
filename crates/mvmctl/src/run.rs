//! `mvmctl run`: streams as they come, or one JSON object at the end; exits as the command did.

use std::io::{IsTerminal, Read};

use base64::Engine;
use mvm_runtime::run::{self as runtime, RunRequest, RunResult, Streams};
use mvm_runtime::vmm::qemu::Shape;
use mvm_runtime::{Error, ErrorCode, Home, Result, text};
use mvm_wire::guest::{Failure, Status};
use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::args::{MachineArgs, RunArgs};
use crate::commands::block_on;
use crate::progress::Drawn;
use crate::{output, signals, terminal};

/// The machine that is prepared ahead, and the one that `run` uses unless it is told otherwise.
pub const DEFAULT_SHAPE: Shape = Shape { memory_mib: 256, cpus: 1, disk_bytes: 4 << 30 };
/// How much of each output a JSON result holds unless the caller says otherwise.
const JSON_OUTPUT_LIMIT: u64 = 1 << 20;
/// How a shell reports a program whose reader has gone (128 + SIGPIPE).
const READER_GONE: u8 = 141;
const COMMAND_NOT_EXECUTABLE: u8 = 126;
const COMMAND_NOT_FOUND: u8 = 127;
const TIMED_OUT: u8 = 124;

/// Runs the verb.
pub fn run(args: RunArgs) -> u8 {
    let json = args.json;
    let result = block_on(execute(args));
    terminal::restore();
    match result {
        Ok(code) => code,
        Err(error) if error.code == ErrorCode::ClosedHandle => READER_GONE,
        Err(error) => output::error(&error, json),
    }
}

async fn execute(args: RunArgs) -> Result<u8> {
    let mut control = signals::listen();
    let home = Home::locate()?;
    let request = request(&args)?;
    let progress = Drawn::new(args.quiet || args.json);
    let prepared = runtime::prepare(&home, &request, &progress).await?;
    drop(progress);
    let feed = input(args.interactive);
    let raw = if args.tty && args.interactive { terminal::Raw::enter() } else { None };
    signals::command_runs();
    if args.json {
        let mut captured = Captured::new(args.max_output.unwrap_or(JSON_OUTPUT_LIMIT));
        let result = runtime::run(&prepared, &request, feed, &mut control, &mut captured).await?;
        output::print_json(&as_json(&result, &captured));
        return Ok(exit_code(&result));
    }
    let mut streamed = Streamed::new(args.max_output);
    let result = runtime::run(&prepared, &request, feed, &mut control, &mut streamed).await?;
    drop(raw);
    streamed.flush().await;
    report(&result, &streamed, &request, args.quiet);
    Ok(exit_code(&result))
}

fn request(args: &RunArgs) -> Result<RunRequest> {
    let MachineArgs { image, cpus, memory, disk } = args.machine.clone();
    if args.tty && args.interactive && !std::io::stdin().is_terminal() {
        return Err(Error::new(
            ErrorCode::InvalidRequest,
            "cannot pass a terminal on",
            "standard input is not a terminal",
        )
        .hint("leave out --tty"));
    }
    Ok(RunRequest {
        image,
        shape: Shape { memory_mib: memory, cpus, disk_bytes: disk },
        argv: args.command.clone(),
        env: environment(args),
        cwd: args.cwd.clone(),
        user: args.user.clone(),
        stdin: args.interactive,
        tty: args.tty.then(terminal::size),
        timeout: args.timeout,
        no_template: args.no_template,
    })
}

fn environment(args: &RunArgs) -> Vec<(String, String)> {
    let mut env = Vec::new();
    if args.tty {
        // What the guest's programs draw is drawn by the user's terminal.
        env.push(("TERM".to_owned(), std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned())));
    }
    env.extend(args.env.iter().cloned());
    env
}

/// Standard input in pieces, read on a thread of its own. Without `--interactive` it is at its end.
fn input(interactive: bool) -> mpsc::Receiver<Vec<u8>> {
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
fn report(result: &RunResult, streamed: &Streamed, request: &RunRequest, quiet: bool) {
    if let Err(failure) = &result.outcome {
        eprintln!("mvmctl: {}", not_started(failure, &request.image));
    }
    if quiet {
        return;
    }
    if let (true, Some(limit)) = (result.timed_out, request.timeout) {
        eprintln!("mvmctl: the command was killed after {} s (--timeout)", limit.as_secs_f64());
    }
    if result.outcome.as_ref().is_ok_and(|exited| exited.oom_killed) {
        eprintln!("mvmctl: the guest ran out of memory and killed a process; give it more with --memory");
    }
    for (name, meter) in [("stdout", &streamed.stdout.meter), ("stderr", &streamed.stderr.meter)] {
        if meter.truncated() {
            eprintln!("mvmctl: {name} was cut: {} of {} bytes shown (--max-output)", meter.kept, meter.seen);
        }
    }
}

fn not_started(failure: &Failure, image: &str) -> String {
    let program = text::harmless(&failure.detail);
    if is_missing(failure) {
        format!("there is no command {program:?} in the image {image}")
    } else {
        let why = std::io::Error::from_raw_os_error(failure.errno);
        format!("the command {program:?} is in the image {image} but cannot be executed: {why}")
    }
}

fn is_missing(failure: &Failure) -> bool {
    matches!(failure.errno, libc::ENOENT | libc::ENOTDIR)
}

fn exit_code(result: &RunResult) -> u8 {
    match &result.outcome {
        _ if result.timed_out => TIMED_OUT,
        Ok(exited) => match exited.status {
            Status::Code(code) => code,
            Status::Signal(signal) => 128u8.saturating_add(signal),
        },
        Err(failure) if is_missing(failure) => COMMAND_NOT_FOUND,
        Err(_) => COMMAND_NOT_EXECUTABLE,
    }
}

fn as_json(result: &RunResult, captured: &Captured) -> Value {
    let (exit_code, signal) = match result.outcome.as_ref().map(|exited| exited.status) {
        Ok(Status::Code(code)) => (json!(code), Value::Null),
        Ok(Status::Signal(signal)) => (Value::Null, json!(signal)),
        Err(failure) if is_missing(failure) => (json!(COMMAND_NOT_FOUND), Value::Null),
        Err(_) => (json!(COMMAND_NOT_EXECUTABLE), Value::Null),
    };
    let not_started = result.outcome.as_ref().err().map(|failure| {
        let reason = if is_missing(failure) { "command_not_found" } else { "command_not_executable" };
        json!({ "reason": reason, "command": text::harmless(&failure.detail), "errno": failure.errno })
    });
    let mut object = json!({
        "run_id": result.run_id,
        "sandbox_id": result.sandbox_id,
        "exit_code": exit_code,
        "signal": signal,
        "timed_out": result.timed_out,
        "oom_killed": result.outcome.as_ref().is_ok_and(|exited| exited.oom_killed),
        "not_started": not_started,
        "duration_ms": result.duration.as_secs_f64() * 1000.0,
        "image_digest": result.image_digest,
        "isolation": result.isolation,
    });
    for (name, kept, meter) in
        [("stdout", &captured.stdout.0, &captured.stdout.1), ("stderr", &captured.stderr.0, &captured.stderr.1)]
    {
        // Text where it is text; anything else must come back byte for byte.
        let (value, encoding) = match std::str::from_utf8(kept) {
            Ok(text) => (text.to_owned(), "utf-8"),
            Err(_) => (base64::engine::general_purpose::STANDARD.encode(kept), "base64"),
        };
        object[name] = json!(value);
        object[format!("{name}_encoding")] = json!(encoding);
        object[format!("{name}_bytes")] = json!(meter.seen);
        object[format!("{name}_truncated")] = json!(meter.truncated());
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
struct Captured {
    stdout: (Vec<u8>, Meter),
    stderr: (Vec<u8>, Meter),
}

impl Captured {
    fn new(limit: u64) -> Captured {
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
struct Streamed {
    stdout: Sink<tokio::io::Stdout>,
    stderr: Sink<tokio::io::Stderr>,
}

struct Sink<W> {
    writer: W,
    meter: Meter,
}

impl Streamed {
    fn new(limit: Option<u64>) -> Streamed {
        let limit = limit.unwrap_or(u64::MAX);
        Streamed {
            stdout: Sink { writer: tokio::io::stdout(), meter: Meter::new(limit) },
            stderr: Sink { writer: tokio::io::stderr(), meter: Meter::new(limit) },
        }
    }

    /// Waits until everything is written, unless a reader has stopped reading.
    async fn flush(&mut self) {
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
