//! `mvmctl receipt`: what a receipt proves.

use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mvm_evidence::envelope::MAX_ENVELOPE;
use mvm_evidence::opening::{MAX_OPENING, MAX_VALUE};
use mvm_evidence::proof::MAX_PROOF;
use mvm_evidence::statement::{GuestReported, HostObserved, Isolation, Limits, RunKind, Statement};
use mvm_evidence::{Envelope, Field, Included, Opening, PublicKey, Refusal, Verified, notary};
use mvm_runtime::evidence::{self, Ended, Record};
use mvm_runtime::text::harmless;
use mvm_runtime::{Error, ErrorCode, Home, Result};
use serde_json::json;

use super::args::{ReceiptCommand, ReceiptOpenArgs, ReceiptVerifyArgs};
use super::list::{self, time};
use super::{read, trusted_keys, verb};
use crate::output;
use crate::receipts::{self, Wanted};

/// Runs the verb.
pub fn receipt(command: ReceiptCommand) -> u8 {
    match command {
        ReceiptCommand::Show { run, sandbox, output, json } => {
            verb(json, || show(&run, sandbox.as_deref(), output.as_deref(), json))
        }
        ReceiptCommand::Verify(args) => verb(args.json, || verify(&args)),
        ReceiptCommand::Open(args) => verb(args.json, || open(&args)),
    }
}

/// What was found of a receipt: the receipt itself, and its entry of the log if a proof came with it.
type Found = (Verified, Option<Included>);

fn check(envelope: &[u8], proof: Option<&[u8]>, keys: &[PublicKey]) -> std::result::Result<Found, Refusal> {
    let receipt = Envelope::verify(envelope, keys)?;
    let logged = proof.map(|proof| notary::verify_logged(&receipt, proof, keys)).transpose()?;
    Ok((receipt, logged))
}

fn verify(args: &ReceiptVerifyArgs) -> Result<u8> {
    let keys = trusted_keys(&args.keys)?;
    let envelope = read(&args.file, MAX_ENVELOPE)?;
    let beside = receipts::proof_of(&args.file);
    let proof = match &args.proof {
        Some(file) => Some(read(file, MAX_PROOF)?),
        None if beside.exists() => Some(read(&beside, MAX_PROOF)?),
        None => None,
    };
    let opening = args.opening.as_ref().map(|file| read(file, MAX_OPENING)).transpose()?;
    let checked = check(&envelope, proof.as_deref(), &keys).and_then(|(receipt, logged)| {
        let opened = opening.map(|bytes| Opening::from_bytes(&bytes)?.check(&receipt.statement)).transpose()?;
        Ok((receipt, logged, opened))
    });
    match checked {
        Ok((receipt, logged, opened)) if args.json => {
            let mut object = object(&receipt, logged.as_ref());
            object["opened"] =
                json!(opened.map(|(field, value)| {
                    json!({ "field": field.name(), "value_base64": STANDARD.encode(value) })
                }));
            output::print_json(&object);
            Ok(output::SUCCESS)
        }
        Ok((receipt, logged, opened)) => {
            print(&receipt, logged.as_ref(), &format!("there is no {}", beside.display()));
            if let Some((field, value)) = opened {
                output::line(&format!("Its {} is proven to be", field.name()));
                output::line(&harmless(&String::from_utf8_lossy(&value)));
            }
            Ok(output::SUCCESS)
        }
        Err(refusal) => Ok(refuse(&args.file, &refusal, args.json)),
    }
}

fn show(run: &str, sandbox: Option<&str>, file: Option<&Path>, as_json: bool) -> Result<u8> {
    let home = Home::locate()?;
    let of = Ended::find(&home, run, sandbox)?;
    Wanted::check(&home, file)?;
    let signed = evidence::receipt(&home, &of)?;
    if let Some(file) = file {
        receipts::write(&home, &of, file)?;
    }
    let (receipt, logged) = match check(&signed.envelope, Some(&signed.proof), &trusted_keys(&[])?) {
        Ok(found) => found,
        Err(refusal) => return Ok(refuse(&of.path(&home, "receipt"), &refusal, as_json)),
    };
    if as_json {
        let mut object = object(&receipt, logged.as_ref());
        object["envelope"] = json!(String::from_utf8_lossy(&signed.envelope));
        object["proof"] = json!(String::from_utf8_lossy(&signed.proof));
        output::print_json(&object);
    } else {
        print(&receipt, logged.as_ref(), "there is no proof");
    }
    Ok(output::SUCCESS)
}

fn open(args: &ReceiptOpenArgs) -> Result<u8> {
    let home = Home::locate()?;
    let receipt = match Envelope::verify(&read(&args.file, MAX_ENVELOPE)?, &trusted_keys(&[])?) {
        Ok(receipt) => receipt,
        Err(refusal) => return Ok(refuse(&args.file, &refusal, args.json)),
    };
    let statement = &receipt.statement;
    let record = evidence::find_record(&home, &Ended::new(&statement.run.run_id, &statement.run.sandbox_id)?)?;
    let field = Field::ALL.into_iter().find(|field| field.name() == args.field);
    let field = field.ok_or_else(|| Error::internal("cannot open the receipt", "there is no such field"))?;
    let value = value(args, field, &record)?;
    match Opening::new(statement, field, &record.salt()?.of_field(field), &value).and_then(|opening| opening.to_bytes())
    {
        Ok(opening) => {
            output::line(String::from_utf8_lossy(&opening).trim_end());
            Ok(output::SUCCESS)
        }
        Err(refusal) => Ok(refuse(&args.file, &refusal, args.json)),
    }
}

/// The value, in the form in which it was committed to.
fn value(args: &ReceiptOpenArgs, field: Field, record: &Record) -> Result<Vec<u8>> {
    let what = format!("cannot open the {} of the receipt", field.name());
    let canonical = |value: serde_json::Value| {
        mvm_evidence::canonical::to_vec(&value).map_err(|e| Error::new(ErrorCode::InvalidRequest, what.clone(), e))
    };
    let bytes = match &args.value {
        None if field == Field::Argv => return canonical(json!(record.argv)),
        None => {
            let why = "its value is not kept";
            return Err(Error::new(ErrorCode::InvalidRequest, what, why).hint("bring it: --value FILE"));
        }
        Some(file) if file.as_os_str() == "-" => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .take(MAX_VALUE as u64 + 1)
                .read_to_end(&mut bytes)
                .map_err(|e| Error::io(what.clone(), e))?;
            bytes
        }
        Some(file) => read(file, MAX_VALUE)?,
    };
    match field {
        Field::Argv | Field::Env => {
            let json = serde_json::from_slice(&bytes);
            canonical(
                json.map_err(|e| Error::new(ErrorCode::InvalidRequest, what.clone(), format!("it is no JSON: {e}")))?,
            )
        }
        Field::Stdin | Field::Stdout | Field::Stderr => Ok(bytes),
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

fn print(receipt: &Verified, logged: Option<&Included>, unproven: &str) {
    let statement = &receipt.statement;
    output::line(&format!(
        "The receipt of {} is genuine: not a byte was changed since it was signed.",
        statement.run.run_id
    ));
    let logged = match logged {
        Some(included) => format!("entry {} of {} in {}", included.index, included.size, included.origin),
        None => format!("not checked: {unproven}"),
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
