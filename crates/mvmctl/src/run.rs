//! `mvmctl run`: streams as they come, or one JSON object at the end; exits as the command did.

use std::io::IsTerminal;
use std::time::Duration;

use mvm_runtime::evidence::{Evidence, Of};
use mvm_runtime::policy::{self, Ask, Operation, Policy, Profile};
use mvm_runtime::request::{check_env, complete_run};
use mvm_runtime::run::{self as runtime, RunRequest};
use mvm_runtime::vmm::qemu::Shape;
use mvm_runtime::{Error, ErrorCode, Home, Result};
use mvm_wire::api::{self, Machine, SecretValues};
use serde_json::json;

use crate::args::{MachineArgs, RunArgs};
use crate::commands::block_on;
use crate::policy::PolicyArgs;
use crate::progress::Drawn;
use crate::receipts::Wanted;
use crate::streams::{self, Captured, JSON_OUTPUT_LIMIT, Streamed, input};
use crate::{output, request, script, secrets, signals, terminal};

/// The machine that is prepared ahead, and the one that `run` uses unless it is told otherwise.
pub const DEFAULT_SHAPE: Shape = Shape { memory_mib: 256, cpus: 1, disk_bytes: 4 << 30 };
/// How a shell reports a program whose reader has gone (128 + SIGPIPE).
const READER_GONE: u8 = 141;

/// Runs the verb.
pub fn run(args: RunArgs) -> u8 {
    let json = args.json;
    if let Some(mode) = args.mode {
        return script::run(mode, &args).unwrap_or_else(|failure| failure.report(json));
    }
    if args.request.is_none() && !args.is_behind_dashes() {
        return output::error(&script::unclear(&args.command), json);
    }
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
    let asked = complete_run(asked(&args)?)?;
    let home = Home::locate()?;
    let profile = policy::load(&asked.profile)?;
    let policy = decide(&home, &asked, &profile)?;
    if args.policy.dry_run {
        return Ok(crate::policy::print(&policy.plan, args.json));
    }
    Evidence::open(&home)?.allowed(Operation::Run, &policy.plan, Of::default())?;
    let receipt = Wanted::check(&home, args.receipt.as_deref())?;
    let mut warnings = Vec::new();
    let secrets = secrets::read(&asked.secrets, &asked.env, &mut warnings)?;
    secrets::warn(&warnings, args.quiet || args.json);
    let request = request(&args, &asked, secrets, policy, &profile)?;
    let (max_output, timeout) = bounds(&request.policy);
    let progress = Drawn::new(args.quiet || args.json);
    let prepared = runtime::prepare(&home, &request, &progress).await?;
    drop(progress);
    let feed = input(args.interactive);
    let raw = if args.tty && args.interactive { terminal::Raw::enter() } else { None };
    signals::command_runs();
    if args.json {
        let mut captured =
            Captured::new(asked.max_output.unwrap_or(JSON_OUTPUT_LIMIT).min(max_output.unwrap_or(u64::MAX)));
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

/// What is asked for, on standard input or by options.
fn asked(args: &RunArgs) -> Result<api::RunRequest> {
    if args.request.is_some() {
        request::end_with_caller()?;
        return request::line("echo '{\"argv\": [\"uname\", \"-a\"]}' | mvmctl run --request -");
    }
    let MachineArgs { image, cpus, memory, disk } = args.machine.clone();
    let PolicyArgs { profile, accept_risk, require, allow_missing, .. } = args.policy.clone();
    Ok(api::RunRequest {
        argv: args.command.clone(),
        image,
        cpus,
        memory_mib: memory,
        disk_bytes: disk,
        env: args.env.iter().cloned().collect(),
        secrets: args.secrets.references()?,
        cwd: args.cwd.clone(),
        user: args.user.clone(),
        timeout_ms: args.timeout.map(|timeout| (timeout.as_millis() as u64).max(1)),
        max_output: args.max_output,
        profile: profile.unwrap_or_default(),
        accept_risk,
        require,
        allow_missing,
    })
}

/// Decides about the run by what is asked for: no secret is read for that.
fn decide(home: &Home, asked: &api::RunRequest, profile: &Profile) -> Result<Policy> {
    let api::RunRequest { cpus, memory_mib, disk_bytes, .. } = *asked;
    let ask = Ask {
        accept_risk: asked.accept_risk,
        env: asked.env.keys().map(String::as_str).collect(),
        secrets: asked.secrets.keys().map(String::as_str).collect(),
        user: &asked.user,
        machine: Some(Machine { cpus, memory_mib, disk_bytes }),
        timeout_ms: asked.timeout_ms,
        output_bytes: asked.max_output,
        require: &asked.require,
        allow_missing: &asked.allow_missing,
        ..Ask::default()
    };
    runtime::decide(home, Operation::Run, &ask, profile.clone())
}

/// What is run.
fn request(
    args: &RunArgs,
    asked: &api::RunRequest,
    secrets: SecretValues,
    policy: Policy,
    profile: &Profile,
) -> Result<RunRequest> {
    let invalid = |what: &str, why: &str| Error::new(ErrorCode::InvalidRequest, what, why);
    if args.tty && args.interactive && !std::io::stdin().is_terminal() {
        let error = invalid("cannot pass a terminal on", "standard input is not a terminal");
        return Err(error.hint("leave out --tty"));
    }
    check_env(&asked.env, &secrets).map_err(|why| invalid("cannot run the command", why))?;
    Ok(RunRequest {
        image: asked.image.clone(),
        shape: Shape { memory_mib: asked.memory_mib, cpus: asked.cpus, disk_bytes: asked.disk_bytes },
        argv: asked.argv.clone(),
        env: environment(args, asked, profile),
        secrets,
        no_redact: args.no_redact,
        cwd: asked.cwd.clone(),
        user: asked.user.clone(),
        stdin: args.interactive,
        tty: args.tty.then(terminal::size),
        no_template: args.no_template,
        policy,
    })
}

fn environment(args: &RunArgs, asked: &api::RunRequest, profile: &Profile) -> Vec<(String, String)> {
    let mut env = Vec::new();
    if args.tty {
        // What the guest's programs draw is drawn by the user's terminal.
        env.push(("TERM".to_owned(), terminal::kind(profile).unwrap_or_else(|| "xterm".to_owned())));
    }
    env.extend(asked.env.clone());
    env
}
