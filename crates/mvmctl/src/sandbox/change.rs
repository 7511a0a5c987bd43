//! `mvmctl stop`, `down`, `start`, `kill`, `destroy`, `keep`, `detach`, `gc`: what changes a sandbox, or ends it.

use std::time::Duration;

use mvm_runtime::{ErrorCode, Home, Result, evidence, reconcile};
use mvm_wire::api::{DeletionReport, DetachRequest, KeepRequest, Sandbox, SignalRequest, State};
use serde_json::json;

use super::args::{DestroyArgs, DetachArgs, DownArgs, GcArgs, KeepArgs, KillArgs, OneArgs, Ttl};
use super::{Found, ending, find, verb};
use crate::output;

/// `mvmctl stop`, and `down` without `--destroy`.
pub fn stop(args: OneArgs) -> u8 {
    change(args, "stop", |name| format!("its disk is kept; try: mvmctl start {name}"))
}

/// `mvmctl down`.
pub fn down(args: DownArgs) -> u8 {
    if !args.destroy {
        return stop(args.one);
    }
    destroy(DestroyArgs { sandboxes: vec![args.one.sandbox], all: false, json: args.one.json })
}

/// `mvmctl start`.
pub fn start(args: OneArgs) -> u8 {
    change(args, "start", |name| format!("try: mvmctl exec {name} -- uname -a"))
}

/// `mvmctl pause`.
pub fn pause(args: OneArgs) -> u8 {
    change(args, "pause", |name| format!("its memory is saved; try: mvmctl resume {name}"))
}

/// `mvmctl freeze`.
pub fn freeze(args: OneArgs) -> u8 {
    change(args, "freeze", |name| format!("its memory stays where it is; try: mvmctl resume {name}"))
}

/// `mvmctl resume`.
pub fn resume(args: OneArgs) -> u8 {
    change(args, "resume", |name| format!("try: mvmctl jobs {name}"))
}

fn change(args: OneArgs, how: &str, note: impl FnOnce(&str) -> String) -> u8 {
    verb(args.json, async {
        let sandbox: Sandbox = find(&args.sandbox)?.client.post_slowly(&format!("/v1/sandbox/{how}")).await?;
        changed(&sandbox, &note(&sandbox.name), args.json);
        Ok(output::SUCCESS)
    })
}

/// `mvmctl keep`.
pub fn keep(args: KeepArgs) -> u8 {
    verb(args.one.json, async {
        let ttl_ms = args.ttl.as_millis() as u64;
        let request = KeepRequest { ttl_ms, on_expiry: args.on_expiry.map(Into::into) };
        let sandbox: Sandbox = find(&args.one.sandbox)?.client.post("/v1/sandbox/keep", Some(&request)).await?;
        changed(&sandbox, &ending(&sandbox), args.one.json);
        Ok(output::SUCCESS)
    })
}

/// `mvmctl detach`.
pub fn detach(args: DetachArgs) -> u8 {
    verb(args.one.json, async {
        let (ttl_ms, no_ttl) = (args.ttl.and_then(Ttl::ms), args.ttl == Some(Ttl::None));
        let request = DetachRequest { owner: args.owner, ttl_ms, no_ttl, on_expiry: args.on_expiry.into() };
        let sandbox: Sandbox = find(&args.one.sandbox)?.client.post("/v1/sandbox/detach", Some(&request)).await?;
        changed(&sandbox, &format!("ends: {}", ending(&sandbox)), args.one.json);
        Ok(output::SUCCESS)
    })
}

fn changed(sandbox: &Sandbox, note: &str, json: bool) {
    if json {
        output::print_json(&json!(sandbox));
    } else {
        output::line(&format!("{} is {}; {note}", sandbox.name, sandbox.state));
    }
}

/// `mvmctl kill`: the sandbox, at once and whatever its supervisor does; or one job.
pub fn kill(args: KillArgs) -> u8 {
    let json = args.one.json;
    verb(json, async move {
        if let Some(job) = &args.job {
            let found = find(&args.one.sandbox)?;
            let path = format!("/v1/jobs/{}/signal", super::exec::plain(job)?);
            let () = found.client.post(&path, Some(&SignalRequest { signal: args.signal })).await?;
            if json {
                output::print_json(&json!({ "run_id": job, "signal": args.signal }));
            }
            return Ok(output::SUCCESS);
        }
        let home = Home::locate()?;
        let store = reconcile::reconcile(&home)?;
        let report = match store.find(&args.one.sandbox) {
            Ok(record) => reconcile::destroy_by_force(&home, &record.id, "kill was asked for")?,
            // Killed before: that is what was asked for.
            Err(e) => store.find_destroyed(&args.one.sandbox)?.and_then(|record| record.report).ok_or(e)?,
        };
        print_reports(&[report], json);
        Ok(output::SUCCESS)
    })
}

/// `mvmctl destroy`.
pub fn destroy(args: DestroyArgs) -> u8 {
    verb(args.json, async {
        let home = Home::locate()?;
        let names = match args.all {
            true => reconcile::reconcile(&home)?.list(false)?.into_iter().map(|record| record.id).collect(),
            false => args.sandboxes.clone(),
        };
        let mut reports = Vec::new();
        for name in names {
            match destroy_one(&home, &name).await {
                // With --all: somebody else was faster.
                Err(e) if args.all && matches!(e.code, ErrorCode::NotFound | ErrorCode::InvalidState) => {}
                result => reports.push(result?),
            }
        }
        print_reports(&reports, args.json);
        Ok(output::SUCCESS)
    })
}

/// Asks its supervisor; one that does not do it is killed, and the machine with it.
async fn destroy_one(home: &Home, name: &str) -> Result<DeletionReport> {
    let store = reconcile::reconcile(home)?;
    let found = match find(name) {
        Err(e) => return store.find_destroyed(name)?.and_then(|record| record.report).ok_or(e),
        Ok(found) => found,
    };
    let Found { record, client, .. } = found;
    let asked = tokio::time::timeout(Duration::from_secs(15), client.post_slowly("/v1/sandbox/destroy")).await;
    match asked {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(e)) if !matches!(e.code, ErrorCode::TransportError | ErrorCode::SandboxUnavailable) => Err(e),
        _ => reconcile::destroy_by_force(home, &record.id, "destroy was asked for; its supervisor did not answer"),
    }
}

fn print_reports(reports: &[DeletionReport], json: bool) {
    if json {
        output::print_json(&json!({ "destroyed": reports }));
        return;
    }
    for report in reports {
        output::line(&format!("{} ({}) is destroyed; its name is free.", report.name, report.id));
        let rows: Vec<Vec<String>> = report
            .removed
            .iter()
            .map(|gone| vec![format!("  {}", gone.what), output::bytes(gone.bytes), gone.how.clone()])
            .collect();
        output::table(&rows);
    }
    if let Some(report) = reports.first() {
        output::line("What this does not mean:");
        report.limits.iter().for_each(|limit| output::line(&format!("  - {limit}")));
    } else {
        output::line("Nothing to destroy.");
    }
}

/// `mvmctl gc`: what every verb does first, and the records of those that are gone.
pub fn gc(args: GcArgs) -> u8 {
    verb(args.json, async {
        let home = Home::locate()?;
        home.create()?;
        home.sweep();
        evidence::sweep(&home);
        let store = reconcile::reconcile(&home)?;
        let all = store.list(true)?;
        let gone = all.iter().filter(|record| record.state == State::Destroyed).count();
        let forgotten = store.forget_destroyed()?;
        if args.json {
            output::print_json(&json!({ "live": all.len() - gone, "records_removed": forgotten }));
        } else {
            output::line(&format!(
                "{} live; {} of destroyed sandboxes removed.",
                all.len() - gone,
                output::count(forgotten as u64, "record", "records")
            ));
        }
        Ok(output::SUCCESS)
    })
}
