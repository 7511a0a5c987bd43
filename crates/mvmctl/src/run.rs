//! `mvmctl run`: streams as they come, or one JSON object at the end; exits as the command did.

use std::io::IsTerminal;
use std::time::Duration;

use mvm_runtime::evidence::{Evidence, Of};
use mvm_runtime::policy::{self, Ask, Operation, Policy, Profile};
use mvm_runtime::run::{self as runtime, RunRequest};
use mvm_runtime::secrets::Resolved;
use mvm_runtime::vmm::qemu::Shape;
use mvm_runtime::{Error, ErrorCode, Home, Result};
use mvm_wire::api::{Machine, SecretValues};
use serde_json::json;

use crate::args::{MachineArgs, RunArgs};
use crate::commands::block_on;
use crate::progress::Drawn;
use crate::receipts::Wanted;
use crate::streams::{self, Captured, JSON_OUTPUT_LIMIT, Streamed, input};
use crate::{output, secrets, signals, terminal};

/// The machine that is prepared ahead, and the one that `run` uses unless it is told otherwise.
pub const DEFAULT_SHAPE: Shape = Shape { memory_mib: 256, cpus: 1, disk_bytes: 4 << 30 };
/// How a shell reports a program whose reader has gone (128 + SIGPIPE).
const READER_GONE: u8 = 141;

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
    let profile = policy::load(&args.policy.profile)?;
    let policy = decide(&home, &args, &profile)?;
    if args.policy.dry_run {
        return Ok(crate::policy::print(&policy.plan, args.json));
    }
    Evidence::open(&home)?.allowed(Operation::Run, &policy.plan, Of::default())?;
    let receipt = Wanted::check(&home, args.receipt.as_deref())?;
    let Resolved { values, warnings } = args.secrets.resolve(args.env.iter().map(|(name, _)| name.as_str()))?;
    secrets::warn(&warnings, args.quiet || args.json);
    let request = RunRequest { secrets: values, policy, ..request(&args, &profile)? };
    let (max_output, timeout) = bounds(&request.policy);
    let progress = Drawn::new(args.quiet || args.json);
    let prepared = runtime::prepare(&home, &request, &progress).await?;
    drop(progress);
    let feed = input(args.interactive);
    let raw = if args.tty && args.interactive { terminal::Raw::enter() } else { None };
    signals::command_runs();
    if args.json {
        let mut captured =
            Captured::new(args.max_output.unwrap_or(JSON_OUTPUT_LIMIT).min(max_output.unwrap_or(u64::MAX)));
        let result = runtime::run(&prepared, &request, feed, &mut control, &mut captured).await?;
        let mut object = streams::as_json(&result.result, &captured);
        object["sandbox_id"] = json!(result.sandbox_id);
        object["image_digest"] = json!(result.image_digest);
        object["isolation"] = json!(result.isolation);
        object["warnings"] = json!(warnings);
        return Ok(receipt.finish_json(object, &result.result, &result.sandbox_id));
    }
    let mut streamed = Streamed::new(max_output);
    let result = runtime::run(&prepared, &request, feed, &mut control, &mut streamed).await?;
    drop(raw);
    streamed.flush().await;
    streams::report(&result.result, &streamed, &request.image, timeout, args.quiet);
    receipt.make(&result.result, &result.sandbox_id)?;
    Ok(result.result.exit_status())
}

/// Bytes of each output stream, and the time that the command may take.
fn bounds(policy: &Policy) -> (Option<u64>, Option<Duration>) {
    let enforced = &policy.plan.enforced;
    (enforced.output_bytes, enforced.timeout_ms.map(Duration::from_millis))
}

/// Decides about the run by what is asked for: no secret is read for that.
fn decide(home: &Home, args: &RunArgs, profile: &Profile) -> Result<Policy> {
    let secrets = args.secrets.references()?;
    let MachineArgs { cpus, memory, disk, .. } = args.machine;
    let ask = Ask {
        env: args.env.iter().map(|(name, _)| name.as_str()).collect(),
        secrets: secrets.keys().map(String::as_str).collect(),
        user: &args.user,
        machine: Some(Machine { cpus, memory_mib: memory, disk_bytes: disk }),
        timeout_ms: args.timeout.map(|timeout| (timeout.as_millis() as u64).max(1)),
        output_bytes: args.max_output,
        ..args.policy.ask()
    };
    runtime::decide(home, Operation::Run, &ask, profile.clone())
}

fn request(args: &RunArgs, profile: &Profile) -> Result<RunRequest> {
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
        env: environment(args, profile),
        secrets: SecretValues::new(),
        no_redact: args.no_redact,
        cwd: args.cwd.clone(),
        user: args.user.clone(),
        stdin: args.interactive,
        tty: args.tty.then(terminal::size),
        no_template: args.no_template,
        policy: Policy::default(),
    })
}

fn environment(args: &RunArgs, profile: &Profile) -> Vec<(String, String)> {
    let mut env = Vec::new();
    if args.tty {
        // What the guest's programs draw is drawn by the user's terminal.
        env.push(("TERM".to_owned(), terminal::kind(profile).unwrap_or_else(|| "xterm".to_owned())));
    }
    env.extend(args.env.iter().cloned());
    env
}
