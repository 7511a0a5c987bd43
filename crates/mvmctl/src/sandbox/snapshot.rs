//! `mvmctl snapshot`, `restore`, `fork`: sandboxes that are saved, come back, and multiply.

use mvm_runtime::{Home, Result, reconcile, sandboxes, snapshots};
use mvm_wire::api::{CreateRequest, ForkRequest, Forked, Sandbox, Snapshot, SnapshotRequest};
use serde_json::json;

use super::args::{ForkArgs, OneArgs, RestoreArgs, SnapshotCommand};
use super::{ending, find, span, verb};
use crate::progress::Drawn;
use crate::{output, secrets};

/// `mvmctl snapshot`.
pub fn snapshot(command: SnapshotCommand) -> u8 {
    match command {
        SnapshotCommand::Save { one, name } => save(one, name),
        SnapshotCommand::Ls { json } => list(json),
        SnapshotCommand::Inspect { snapshot, json } => inspect(&snapshot, json),
        SnapshotCommand::Rm { snapshots, json } => remove(&snapshots, json),
    }
}

fn save(one: OneArgs, name: String) -> u8 {
    verb(one.json, async {
        let client = find(&one.sandbox)?.client;
        let saved: Snapshot = client.post_patiently("/v1/snapshots", &SnapshotRequest { name }).await?;
        if one.json {
            output::print_json(&json!(saved));
            return Ok(output::SUCCESS);
        }
        let (name, size) = (&saved.name, output::bytes(saved.disk_bytes));
        output::line(&format!(
            "{name} is saved: {} with {}, {size}",
            saved.sandbox_name,
            output::count(saved.running_jobs, "running job", "running jobs")
        ));
        output::line("  sensitive: it holds the guest's memory, and whatever secrets were in it");
        output::line(&format!("  try:  mvmctl restore {name}"));
        Ok(output::SUCCESS)
    })
}

fn list(json: bool) -> u8 {
    verb(json, async {
        let all: Vec<Snapshot> = snapshots::list(&Home::locate()?).iter().map(snapshots::Snapshot::describe).collect();
        if json {
            output::print_json(&json!({ "snapshots": all }));
        } else if all.is_empty() {
            output::line("No snapshots. Try: mvmctl snapshot save SANDBOX");
        } else {
            let mut rows = vec![["NAME", "OF", "IMAGE", "AGE", "SIZE", "JOBS"].map(str::to_owned).to_vec()];
            rows.extend(all.iter().map(|snapshot| {
                if let Some(damage) = &snapshot.damage {
                    return vec![snapshot.name.clone(), format!("damaged: {damage}")];
                }
                let age = span(mvm_runtime::time::now_ms().saturating_sub(snapshot.created_at_ms));
                let (size, jobs) = (output::bytes(snapshot.disk_bytes), snapshot.running_jobs.to_string());
                vec![snapshot.name.clone(), snapshot.sandbox_name.clone(), snapshot.image.clone(), age, size, jobs]
            }));
            output::table(&rows);
        }
        Ok(output::SUCCESS)
    })
}

fn inspect(name: &str, json: bool) -> u8 {
    verb(json, async {
        let snapshot = snapshots::find(&Home::locate()?, name)?;
        let shown = Snapshot { damage: snapshots::verify(&snapshot).err(), ..snapshot.describe() };
        if json {
            output::print_json(&json!(shown));
            return Ok(output::SUCCESS);
        }
        let machine = shown.machine;
        let disk = output::bytes(machine.disk_bytes);
        let rows = [
            ("name", shown.name),
            ("id", shown.id),
            ("of", format!("{} ({})", shown.sandbox_name, shown.sandbox)),
            ("image", format!("{} ({})", shown.image, shown.image_digest)),
            ("machine", format!("{} CPU, {} MiB, {disk} disk", machine.cpus, machine.memory_mib)),
            ("kernel", shown.kernel),
            ("backend", format!("{}, {}", shown.backend, shown.accelerator)),
            ("running jobs", shown.running_jobs.to_string()),
            ("size", output::bytes(shown.disk_bytes)),
            ("digest", shown.digest),
            ("sensitive", "it holds the guest's memory, and whatever secrets were in it".to_owned()),
            ("whole", shown.damage.map_or_else(|| "yes".to_owned(), |why| format!("no: {why}"))),
        ];
        output::table(&rows.map(|(name, value)| vec![name.to_owned(), value]));
        Ok(output::SUCCESS)
    })
}

fn remove(names: &[String], json: bool) -> u8 {
    verb(json, async {
        let home = Home::locate()?;
        let removed: Vec<_> = names.iter().map(|name| snapshots::remove(&home, name)).collect::<Result<_>>()?;
        if json {
            let gone = removed.iter().map(|snapshot| json!({ "id": snapshot.id(), "name": snapshot.name() }));
            output::print_json(&json!({ "removed": gone.collect::<Vec<_>>() }));
        } else {
            removed.iter().for_each(|snapshot| output::line(&format!("{} is removed", snapshot.name())));
        }
        Ok(output::SUCCESS)
    })
}

/// `mvmctl restore`.
pub fn restore(args: RestoreArgs) -> u8 {
    verb(args.json, async {
        let home = Home::locate()?;
        let _ = reconcile::reconcile(&home)?;
        let request = CreateRequest {
            name: args.name.clone(),
            owner: args.end.owner.clone(),
            ttl_ms: args.end.ttl_ms(),
            no_ttl: args.end.no_ttl(),
            on_expiry: args.on_expiry.into(),
            lease: args.end.lease,
            idempotency_key: args.idempotency_key.clone(),
            snapshot: args.snapshot.clone(),
            disk_only: args.disk_only,
            secrets: args.secrets.references()?,
            ..CreateRequest::default()
        };
        let missing = missing_secrets(&home, &request)?;
        let progress = Drawn::new(args.quiet || args.json);
        let mut warnings = Vec::new();
        let read = |request: &CreateRequest| secrets::read(&request.secrets, &request.env, &mut warnings);
        let (sandbox, made) = sandboxes::create(&home, request, read, &progress).await?;
        drop(progress);
        secrets::warn(&warnings, args.quiet || args.json);
        if args.json {
            let mut object = json!(sandbox);
            object["created"] = json!(made);
            object["warnings"] = json!(warnings);
            object["missing_secrets"] = json!(missing);
            output::print_json(&object);
        } else if args.quiet {
            output::line(&sandbox.name);
        } else {
            let from = if args.disk_only { "the disk of " } else { "" };
            output::line(&format!("{} is {} from {from}{}", sandbox.name, sandbox.state, args.snapshot));
            output::line(&format!("  ends: {}", ending(&sandbox)));
            if !missing.is_empty() {
                output::line(&format!("  its commands no longer get the secrets {}", missing.join(", ")));
                output::line("  (give them with `mvmctl restore --secret NAME`, or to each command)");
            }
            output::line(&format!("  try:  mvmctl jobs {}", sandbox.name));
        }
        Ok(output::SUCCESS)
    })
}

/// Names of the secrets that the snapshot's sandbox had and this request does not give.
pub fn missing_secrets(home: &Home, request: &CreateRequest) -> Result<Vec<String>> {
    let snapshot = snapshots::find(home, &request.snapshot)?;
    let had = snapshot.record().map(|record| record.request.secrets.clone()).unwrap_or_default();
    Ok(had.into_keys().filter(|name| !request.secrets.contains_key(name)).collect())
}

/// `mvmctl fork`.
pub fn fork(args: ForkArgs) -> u8 {
    let ForkArgs { one, count, name, end, on_expiry } = args;
    verb(one.json, async {
        let request = ForkRequest {
            count,
            name,
            ttl_ms: end.ttl_ms(),
            no_ttl: end.no_ttl(),
            lease: end.lease,
            on_expiry: on_expiry.map(Into::into),
            owner: end.owner,
        };
        let client = find(&one.sandbox)?.client;
        let Forked { sandboxes } = client.post_patiently("/v1/sandbox/fork", &request).await?;
        if one.json {
            output::print_json(&json!({ "sandboxes": sandboxes }));
            return Ok(output::SUCCESS);
        }
        let row = |sandbox: &Sandbox| vec![sandbox.name.clone(), sandbox.state.to_string(), ending(sandbox)];
        output::table(&sandboxes.iter().map(row).collect::<Vec<_>>());
        if let Some(first) = sandboxes.first() {
            output::line(&format!("  try:  mvmctl exec {} -- hostname", first.name));
        }
        Ok(output::SUCCESS)
    })
}
