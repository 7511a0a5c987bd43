//! `mvmctl ps`, `inspect`, `stats`, `wait`, `jobs`: what there is.

use std::time::{Duration, Instant};

use mvm_runtime::place::Place;
use mvm_runtime::{Error, ErrorCode, Home, Result, reconcile, sandboxes};
use mvm_wire::api::{Inspection, Job, JobResult, Sandbox, State, Stats};
use serde_json::json;

use super::args::{OneArgs, PsArgs, WaitArgs};
use super::{Found, ending, find, span, verb};
use crate::output;

/// How long one request waits before it is made again.
const ROUND: Duration = Duration::from_secs(50);

/// `mvmctl ps`.
pub fn ps(args: PsArgs) -> u8 {
    verb(args.json, async {
        let home = Home::locate()?;
        let records = reconcile::reconcile(&home)?.list(args.all)?;
        let all: Vec<Sandbox> = records.iter().map(|record| sandboxes::describe(&home, record)).collect();
        if args.json {
            output::print_json(&json!({ "sandboxes": all }));
        } else if all.is_empty() {
            output::line("No sandboxes. Try: mvmctl up --name box");
        } else {
            let mut rows = vec![["NAME", "STATE", "IMAGE", "AGE", "ENDS", "OWNER"].map(str::to_owned).to_vec()];
            rows.extend(all.iter().map(row));
            output::table(&rows);
        }
        Ok(output::SUCCESS)
    })
}

fn row(sandbox: &Sandbox) -> Vec<String> {
    let age = span(mvm_runtime::time::now_ms().saturating_sub(sandbox.created_at_ms));
    let ends = if sandbox.state == State::Destroyed { "-".to_owned() } else { ending(sandbox) };
    let owner = mvm_runtime::text::harmless(&sandbox.owner);
    vec![sandbox.name.clone(), sandbox.state.to_string(), sandbox.image.clone(), age, ends, owner]
}

/// `mvmctl inspect`: from its supervisor if it has one that answers, from the store if not.
pub fn inspect(args: OneArgs) -> u8 {
    verb(args.json, async {
        let home = Home::locate()?;
        let store = reconcile::reconcile(&home)?;
        let record = match store.find(&args.sandbox) {
            Ok(record) => record,
            Err(e) => store.find_destroyed(&args.sandbox)?.ok_or(e)?,
        };
        let stored =
            || -> Result<Inspection> { Ok(sandboxes::inspection(&home, &record, store.history(&record.id)?, None)) };
        let inspection = if record.state == State::Destroyed {
            stored()?
        } else {
            let client = mvm_runtime::client::Client::new(Place::of(&home, &record.id).socket());
            match client.get("/v1/sandbox").await {
                Ok(inspection) => inspection,
                Err(_) => stored()?,
            }
        };
        if args.json {
            let mut object = json!(inspection);
            object["deletion"] = json!(record.report);
            output::print_json(&object);
        } else {
            print_inspection(&inspection);
        }
        Ok(output::SUCCESS)
    })
}

fn print_inspection(inspection: &Inspection) {
    let sandbox = &inspection.sandbox;
    let machine = sandbox.machine;
    let mut rows = vec![
        ("name", sandbox.name.clone()),
        ("id", sandbox.id.clone()),
        ("state", format!("{} ({})", sandbox.state, sandbox.cause)),
        ("image", format!("{} ({})", sandbox.image, sandbox.image_digest)),
        (
            "machine",
            format!("{} CPU, {} MiB, {} disk", machine.cpus, machine.memory_mib, output::bytes(machine.disk_bytes)),
        ),
        ("owner", mvm_runtime::text::harmless(&sandbox.owner)),
        ("ends", ending(sandbox)),
        ("environment", inspection.env.join(", ")),
        ("secrets", inspection.secrets.join(", ")),
        ("socket", sandbox.socket.clone()),
        ("legal now", sandbox.legal.join(", ")),
    ];
    rows.retain(|(_, value)| !value.is_empty());
    output::table(&rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect::<Vec<_>>());
    inspection.ports.iter().for_each(|port| output::line(&format!("  port: {}", super::port::shown(port))));
    for change in &inspection.history {
        let ago = span(mvm_runtime::time::now_ms().saturating_sub(change.at_ms));
        output::line(&format!("  {ago} ago: {} → {}: {}", change.from, change.to, change.cause));
    }
}

/// `mvmctl stats`.
pub fn stats(args: OneArgs) -> u8 {
    verb(args.json, async {
        let stats: Stats = find(&args.sandbox)?.client.get("/v1/sandbox/stats").await?;
        if args.json {
            output::print_json(&json!(stats));
            return Ok(output::SUCCESS);
        }
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "no machine".to_owned());
        output::table(&[
            vec!["processor time".into(), or_none(stats.cpu_seconds.map(|s| format!("{s:.1} s")))],
            vec!["memory, machine".into(), or_none(stats.vmm_private_bytes.map(output::bytes))],
            vec!["memory, supervisor".into(), output::bytes(stats.supervisor_private_bytes)],
            vec!["disk".into(), output::bytes(stats.disk_bytes)],
            vec!["saved memory".into(), output::bytes(stats.saved_bytes)],
            vec!["running jobs".into(), stats.running_jobs.to_string()],
        ]);
        Ok(output::SUCCESS)
    })
}

/// `mvmctl wait`.
pub fn wait(args: WaitArgs) -> u8 {
    verb(args.one.json, async {
        let found = find(&args.one.sandbox)?;
        let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
        match &args.job {
            Some(job) => wait_for_job(&found, job, deadline, args.one.json).await,
            None => wait_for_state(&found, &args, deadline).await,
        }
    })
}

/// Asks again until it is so or the time is up.
async fn patiently<T: serde::de::DeserializeOwned>(found: &Found, path: &str, deadline: Option<Instant>) -> Result<T> {
    loop {
        let left = deadline.map_or(ROUND, |deadline| deadline.saturating_duration_since(Instant::now()));
        let answer = found.client.get_slowly(&format!("{path}timeout_ms={}", left.min(ROUND).as_millis())).await;
        match answer {
            Err(e) if e.code == ErrorCode::Timeout && left > ROUND => {}
            Err(e) if e.code == ErrorCode::Timeout && deadline.is_none() => {}
            other => return other,
        }
    }
}

async fn wait_for_state(found: &Found, args: &WaitArgs, deadline: Option<Instant>) -> Result<u8> {
    let path = format!("/v1/sandbox/wait?state={}&", args.state);
    let answer: Result<Sandbox> = patiently(found, &path, deadline).await;
    let gone = |e: &Error| matches!(e.code, ErrorCode::TransportError | ErrorCode::SandboxUnavailable);
    let sandbox = match answer {
        // Its supervisor ends with it.
        Err(e) if gone(&e) && args.state == State::Destroyed => {
            let record = reconcile::reconcile(&found.home)?.get(&found.record.id)?;
            if record.state != State::Destroyed {
                return Err(e);
            }
            sandboxes::describe(&found.home, &record)
        }
        other => other?,
    };
    if args.one.json {
        output::print_json(&json!(sandbox));
    }
    Ok(output::SUCCESS)
}

async fn wait_for_job(found: &Found, job: &str, deadline: Option<Instant>, json: bool) -> Result<u8> {
    let result: JobResult = patiently(found, &format!("/v1/jobs/{}/wait?", super::exec::plain(job)?), deadline).await?;
    if json {
        output::print_json(&json!({ "run_id": job, "result": result }));
    }
    match result.error {
        Some(error) if !json => Err(error.into()),
        _ => Ok(result.exit_status()),
    }
}

/// `mvmctl jobs`.
pub fn jobs(args: OneArgs) -> u8 {
    verb(args.json, async {
        let jobs: Vec<Job> = find(&args.sandbox)?.client.get("/v1/jobs").await?;
        if args.json {
            output::print_json(&json!({ "jobs": jobs }));
            return Ok(output::SUCCESS);
        }
        let mut rows = vec![["JOB", "STATE", "AGE", "OUTPUT", "PROGRAM"].map(str::to_owned).to_vec()];
        rows.extend(jobs.iter().map(|job| {
            let age = span(mvm_runtime::time::now_ms().saturating_sub(job.started_at_ms));
            let state = job.result.as_ref().map_or_else(|| "running".to_owned(), state_of);
            vec![job.run_id.clone(), state, age, output::bytes(job.end_offset), job.program.clone()]
        }));
        output::table(&rows);
        Ok(output::SUCCESS)
    })
}

fn state_of(result: &JobResult) -> String {
    if result.error.is_some() { "lost".to_owned() } else { result.in_words() }
}
