//! `mvmctl exec` and `attach`: commands in a running sandbox.

use std::io::IsTerminal;
use std::time::Duration;

use base64::Engine;
use hyper::Method;
use mvm_runtime::client::{Client, Lines};
use mvm_runtime::command::{Control, Streams};
use mvm_runtime::evidence::{Evidence, Of};
use mvm_runtime::policy::{Ask, Operation, Profile};
use mvm_runtime::secrets::Resolved;
use mvm_runtime::store::Record;
use mvm_runtime::{Error, ErrorCode, Home, Result};
use mvm_wire::api::{Job, JobEvent, JobRequest, JobResult, SignalRequest, Stream, TerminalSize};
use serde_json::json;
use tokio::sync::mpsc;

use super::args::{AttachArgs, ExecArgs};
use super::{Found, find};
use crate::commands::block_on;
use crate::receipts::Wanted;
use crate::streams::{self, Captured, JSON_OUTPUT_LIMIT, Streamed};
use crate::{output, secrets, signals, terminal};

/// How a shell reports a program whose reader has gone (128 + SIGPIPE).
const READER_GONE: u8 = 141;

/// What is shown besides the output.
#[derive(Default)]
pub struct Shown<'a> {
    /// Image, for messages.
    pub image: &'a str,
    /// The time limit, for messages.
    pub timeout: Option<Duration>,
    /// The most that is shown of each stream.
    pub max_output: Option<u64>,
    /// Nothing but the output.
    pub quiet: bool,
}

/// `mvmctl exec`.
pub fn exec(args: ExecArgs) -> u8 {
    let json = args.json;
    finish(block_on(execute(args)), json)
}

/// `mvmctl attach`.
pub fn attach(args: AttachArgs) -> u8 {
    let json = args.json;
    finish(block_on(follow(args)), json)
}

fn finish(result: Result<u8>, json: bool) -> u8 {
    terminal::restore();
    match result {
        Ok(code) => code,
        Err(error) if error.code == ErrorCode::ClosedHandle => READER_GONE,
        Err(error) => output::error(&error, json),
    }
}

async fn execute(args: ExecArgs) -> Result<u8> {
    let mut control = signals::listen();
    if args.tty && args.interactive && !std::io::stdin().is_terminal() {
        let why = "standard input is not a terminal";
        return Err(Error::new(ErrorCode::InvalidRequest, "cannot pass a terminal on", why).hint("leave out --tty"));
    }
    let Found { home, record, client } = find(&args.sandbox)?;
    let request = request(&args, &record.policy.profile);
    admitted(&home, &record, &args, &request)?;
    let receipt = Wanted::check(&home, args.receipt.as_deref())?;
    let Resolved { values, warnings } = args.secrets.resolve(args.env.iter().map(|(name, _)| name.as_str()))?;
    secrets::warn(&warnings, args.quiet || args.json);
    let request = JobRequest { secrets: values, no_redact: args.no_redact, ..request };
    if args.detach {
        let job: Job = client.post("/v1/jobs", Some(&request)).await?;
        match args.json {
            true => {
                let mut object = json!(job);
                object["warnings"] = json!(warnings);
                output::print_json(&object);
            }
            false => output::line(&job.run_id),
        }
        return Ok(output::SUCCESS);
    }
    let raw = if args.tty && args.interactive { terminal::Raw::enter() } else { None };
    signals::command_runs();
    if args.json {
        let mut captured = Captured::new(args.max_output.unwrap_or(JSON_OUTPUT_LIMIT));
        let result = converse(&client, &request, &mut control, &mut captured).await?;
        let mut object = streams::as_json(&result, &captured);
        object["sandbox_id"] = json!(record.id);
        object["warnings"] = json!(warnings);
        return Ok(receipt.finish_json(object, &result, &record.id));
    }
    let timeout = args.timeout.or(record.policy.profile.limits.time.map(Duration::from_millis));
    let shown = Shown { image: &record.request.image, timeout, max_output: args.max_output, quiet: args.quiet };
    let result = stream(&client, &request, &mut control, &shown).await;
    drop(raw);
    let result = result?;
    receipt.make(&result, &record.id)?;
    Ok(result.exit_status())
}

/// Before a secret is read for a command, whether that may run. The sandbox decides again.
fn admitted(home: &Home, record: &Record, args: &ExecArgs, request: &JobRequest) -> Result<()> {
    let references = args.secrets.references()?;
    if references.is_empty() {
        return Ok(());
    }
    let ask = Ask::of_command(request, references.keys());
    let of = Of { sandbox: &record.id, run: "" };
    Evidence::open(home)?.allowed(Operation::Exec, &record.policy.admit(Operation::Exec, &ask), of)
}

fn request(args: &ExecArgs, profile: &Profile) -> JobRequest {
    let mut env: std::collections::BTreeMap<_, _> = args.env.iter().cloned().collect();
    if let (true, Some(kind)) = (args.tty, terminal::kind(profile)) {
        // What the guest's programs draw is drawn by the user's terminal.
        env.entry("TERM".to_owned()).or_insert(kind);
    }
    let size = terminal::size();
    JobRequest {
        argv: args.command.clone(),
        env,
        cwd: args.cwd.clone(),
        user: args.user.clone(),
        stdin: args.interactive,
        tty: args.tty.then_some(TerminalSize { rows: size.rows, cols: size.cols }),
        timeout_ms: args.timeout.map(|timeout| timeout.as_millis().max(1) as u64),
        attached: !args.detach,
        idempotency_key: args.idempotency_key.clone(),
        ..JobRequest::default()
    }
}

/// Runs a command and passes its output on.
pub async fn stream(
    client: &Client,
    request: &JobRequest,
    control: &mut mpsc::Receiver<Control>,
    shown: &Shown<'_>,
) -> Result<JobResult> {
    let mut streamed = Streamed::new(shown.max_output);
    let result = converse(client, request, control, &mut streamed).await?;
    streamed.flush().await;
    streams::report(&result, &streamed, shown.image, shown.timeout, shown.quiet);
    Ok(result)
}

/// Starts an attached command and stays with it: its output comes, input, signals and sizes go.
async fn converse(
    client: &Client,
    request: &JobRequest,
    control: &mut mpsc::Receiver<Control>,
    streams: &mut impl Streams,
) -> Result<JobResult> {
    let mut lines = client.lines(Method::POST, "/v1/jobs", Some(request)).await?;
    let Some(JobEvent::Started { run_id, .. }) = lines.next().await? else { return Err(unfinished()) };
    if request.stdin {
        let (client, path) = (client.clone(), format!("/v1/jobs/{run_id}/stdin"));
        let feed = streams::input(true);
        // That it fails shows in how the command ends.
        tokio::spawn(async move { client.put::<()>(&path, feed).await });
    }
    loop {
        tokio::select! {
            event = lines.next() => match show(event?, streams).await? {
                Some(result) => return Ok(result),
                None => continue,
            },
            Some(wanted) = control.recv() => obey(client, &run_id, wanted).await?,
        }
    }
}

/// Passes an event on; returns the result if it was the last.
async fn show(event: Option<JobEvent>, streams: &mut impl Streams) -> Result<Option<JobResult>> {
    match event.ok_or_else(unfinished)? {
        JobEvent::Started { .. } => {}
        JobEvent::Output { stream, data, .. } => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(data).map_err(|_| unfinished())?;
            match stream {
                Stream::Stdout => streams.stdout(&bytes).await?,
                Stream::Stderr => streams.stderr(&bytes).await?,
            }
        }
        JobEvent::Gap { bytes, .. } => eprintln!("mvmctl: {bytes} bytes of output are no longer kept"),
        JobEvent::Ended { result } => {
            return match result.error {
                Some(error) => Err(error.into()),
                None => Ok(Some(*result)),
            };
        }
    }
    Ok(None)
}

async fn obey(client: &Client, run_id: &str, wanted: Control) -> Result<()> {
    match wanted {
        Control::Signal(signal) => {
            client.post(&format!("/v1/jobs/{run_id}/signal"), Some(&SignalRequest { signal })).await
        }
        Control::Resize(size) => {
            let size = TerminalSize { rows: size.rows, cols: size.cols };
            client.post(&format!("/v1/jobs/{run_id}/resize"), Some(&size)).await
        }
    }
}

fn unfinished() -> Error {
    Error::new(ErrorCode::TransportError, "lost the connection to the sandbox", "it ended before the command's result")
        .hint("mvmctl ps shows the sandbox's state")
}

/// A job's id, which becomes part of a path.
pub fn plain(job: &str) -> Result<&str> {
    if !job.is_empty() && job.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Ok(job);
    }
    Err(Error::new(ErrorCode::InvalidRequest, format!("cannot find the job {job:?}"), "this is no run id")
        .hint("mvmctl jobs NAME"))
}

async fn follow(args: AttachArgs) -> Result<u8> {
    let found = find(&args.sandbox)?;
    let path = format!("/v1/jobs/{}/output?follow=true&offset={}", plain(&args.job)?, args.offset);
    let mut lines = found.client.lines(Method::GET, &path, None::<&()>).await?;
    if args.json {
        return print_events(&mut lines).await;
    }
    let mut streamed = Streamed::new(None);
    loop {
        if let Some(result) = show(lines.next().await?, &mut streamed).await? {
            streamed.flush().await;
            streams::report(&result, &streamed, &found.record.request.image, None, false);
            return Ok(result.exit_status());
        }
    }
}

async fn print_events(lines: &mut Lines) -> Result<u8> {
    loop {
        let event: JobEvent = lines.next().await?.ok_or_else(unfinished)?;
        output::line(&json!(event).to_string());
        if let JobEvent::Ended { result } = event {
            return Ok(result.exit_status());
        }
    }
}
