//! `mvmctl receipt`: what a receipt proves.

use std::path::{Path, PathBuf};

use mvm_evidence::envelope::MAX_ENVELOPE;
use mvm_evidence::proof::MAX_PROOF;
use mvm_evidence::statement::{GuestReported, HostObserved, Isolation, Limits, RunKind, Statement};
use mvm_evidence::{Envelope, Included, Refusal, Verified, notary};
use mvm_runtime::Result;
use mvm_runtime::text::harmless;
use serde_json::json;

use super::args::{ReceiptCommand, ReceiptVerifyArgs};
use super::list::{self, time};
use super::{read, trusted_keys, verb};
use crate::output;

/// Runs the verb.
pub fn receipt(command: ReceiptCommand) -> u8 {
    match command {
        ReceiptCommand::Verify(args) => verb(args.json, || verify(&args)),
    }
}

fn verify(args: &ReceiptVerifyArgs) -> Result<u8> {
    let keys = trusted_keys(&args.keys)?;
    let envelope = read(&args.file, MAX_ENVELOPE)?;
    let beside = PathBuf::from(format!("{}.tlog-proof", args.file.display()));
    let proof = match &args.proof {
        Some(file) => Some(read(file, MAX_PROOF)?),
        None if beside.exists() => Some(read(&beside, MAX_PROOF)?),
        None => None,
    };
    let checked = Envelope::verify(&envelope, &keys).and_then(|receipt| {
        let logged = proof.map(|proof| notary::verify_logged(&receipt, &proof, &keys)).transpose()?;
        Ok((receipt, logged))
    });
    match checked {
        Ok((receipt, logged)) => {
            if args.json {
                output::print_json(&object(&receipt, logged.as_ref()));
            } else {
                print(&receipt, logged.as_ref(), &beside);
            }
            Ok(output::SUCCESS)
        }
        Err(refusal) => Ok(refuse(&args.file, &refusal, args.json)),
    }
}

fn refuse(file: &Path, refusal: &Refusal, as_json: bool) -> u8 {
    if as_json {
        let object =
            json!({ "name": refusal.name(), "why": refusal.to_string(), "exit_status": refusal.exit_status() });
        output::print_json(&json!({ "verified": false, "refusal": object }));
    } else {
        eprintln!("mvmctl: {} is refused ({}): {refusal}", file.display(), refusal.name());
    }
    refusal.exit_status()
}

fn object(receipt: &Verified, logged: Option<&Included>) -> serde_json::Value {
    let logged = logged.map(|included| {
        json!({
            "origin": included.origin, "index": included.index, "size": included.size, "keyid": included.keyid,
            "entry": included.entry,
        })
    });
    json!({
        "verified": true,
        "keyid": receipt.keyid,
        "digest": receipt.digest,
        "statement": receipt.statement,
        "logged": logged,
    })
}

fn print(receipt: &Verified, logged: Option<&Included>, beside: &Path) {
    let statement = &receipt.statement;
    output::line(&format!(
        "The receipt of {} is genuine: not a byte was changed since it was signed.",
        statement.run.run_id
    ));
    let logged = match logged {
        Some(included) => format!("entry {} of {} in {}", included.index, included.size, included.origin),
        None => format!("not checked: there is no {}", beside.display()),
    };
    let mut rows = vec![("signed by", receipt.keyid.to_string()), ("logged", logged)];
    rows.extend(admitted(statement));
    list::rows("  ", &rows);
    output::line("The host saw");
    list::rows("  ", &observed(&statement.host_observed));
    output::line("The guest said, and may have lied");
    list::rows("  ", &reported(statement.guest_reported.as_ref()));
    output::line("  try: --json for all of it, the commitments too");
}

/// What was decided before the run.
fn admitted(statement: &Statement) -> Vec<(&'static str, String)> {
    let Statement { run, image, policy, limits, isolation, secrets, tool, .. } = statement;
    let kind = match run.kind {
        RunKind::Run => "alone in it",
        RunKind::Exec => "one of those in it",
    };
    vec![
        ("sandbox", format!("{}; the run was {kind}", run.sandbox_id)),
        ("authorised", format!("entry {} of {}", run.audit_id, run.log)),
        ("image", format!("{} ({})", image.name, image.digest)),
        ("policy", format!("{}, plan {}", policy.profile, policy.plan_digest)),
        ("limits", limits_in_words(limits)),
        ("machine", machine(isolation)),
        ("isolated by", layers(isolation, true)),
        ("without", layers(isolation, false)),
        ("allowed to miss", policy.allowed_missing.join(", ")),
        ("secrets", secrets.join(", ")),
        ("made by", format!("{} {}", tool.name, tool.version)),
    ]
}

fn limits_in_words(limits: &Limits) -> String {
    let Limits { cpus, memory_mib, disk_bytes, .. } = limits;
    let mut words = vec![
        output::count(u64::from(*cpus), "CPU", "CPUs"),
        format!("{memory_mib} MiB of memory"),
        format!("{} of disk", output::bytes(*disk_bytes)),
    ];
    words.extend(limits.scratch_bytes.map(|bytes| format!("{} of scratch", output::bytes(bytes))));
    words.extend(limits.processes.map(|count| output::count(count, "process", "processes")));
    words.extend(limits.output_bytes.map(|bytes| format!("{} of output", output::bytes(bytes))));
    words.extend(limits.timeout_ms.map(|ms| format!("{} s", ms as f64 / 1000.0)));
    words.join(", ")
}

fn machine(isolation: &Isolation) -> String {
    let Isolation { backend, backend_version, accelerator, template, .. } = isolation;
    let origin = if *template { "cloned from a saved one" } else { "booted afresh" };
    format!("{backend} {backend_version}, {accelerator}, {origin}")
}

fn layers(isolation: &Isolation, applied: bool) -> String {
    let layers = isolation.layers.iter().filter(|layer| layer.applied == applied);
    layers.map(|layer| layer.layer.as_str()).collect::<Vec<_>>().join(", ")
}

fn observed(host: &HostObserved) -> Vec<(&'static str, String)> {
    let took = format!("{} ms", host.duration_us as f64 / 1000.0);
    let killed = if host.timed_out { ", then ended it: its time was up" } else { "" };
    vec![
        ("started", time(host.started_at_ms)),
        ("ended", time(host.ended_at_ms)),
        ("took", format!("{took}{killed}")),
        ("input", format!("{} bytes", host.stdin_bytes)),
        ("output", format!("{} bytes, and {} on standard error", host.stdout_bytes, host.stderr_bytes)),
        ("redacted", if host.redactions == 0 { String::new() } else { format!("{} times", host.redactions) }),
        ("lost", host.error.clone().unwrap_or_default()),
    ]
}

fn reported(guest: Option<&GuestReported>) -> Vec<(&'static str, String)> {
    let Some(guest) = guest else { return vec![("nothing", "the run was lost before".to_owned())] };
    vec![
        ("exit code", guest.exit_code.map(|code| code.to_string()).unwrap_or_default()),
        ("signal", guest.signal.map(|signal| signal.to_string()).unwrap_or_default()),
        ("out of memory", if guest.oom_killed { "yes".to_owned() } else { String::new() }),
        ("not started", guest.not_started.as_deref().map(harmless).unwrap_or_default()),
    ]
}
