//! `mvmctl audit`: the log of all that was done.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mvm_evidence::checkpoint::MAX_CHECKPOINT;
use mvm_evidence::{Checkpoint, Entry, Log, Report, verify as check};
use mvm_runtime::{Home, Result, evidence};
use serde_json::{Value, json};

use super::args::{AuditCommand, AuditVerifyArgs};
use super::list::{self, time};
use super::{read, trusted_keys, verb};
use crate::{output, replace};

/// How often the log is looked at for new entries.
const ROUND: Duration = Duration::from_millis(200);

/// Runs the verb.
pub fn audit(command: AuditCommand) -> u8 {
    match command {
        AuditCommand::Tail { count, follow, json } => verb(json, || tail(count, follow, json)),
        AuditCommand::Show { index, json } => verb(json, || show(index, json)),
        AuditCommand::Verify(args) => verb(args.json, || verify(&args)),
        AuditCommand::Prove { index, json } => verb(json, || prove(index, json)),
        AuditCommand::Checkpoint { witness, json } => verb(json, || checkpoint(witness.as_deref(), json)),
    }
}

fn own_log() -> Result<Log> {
    Ok(Log::open_existing(Home::locate()?.audit())?)
}

fn tail(count: u64, follow: bool, as_json: bool) -> Result<u8> {
    let log = own_log()?;
    let mut entries = log.entries(log.size()?.saturating_sub(count));
    loop {
        for item in entries.by_ref() {
            let (index, entry) = item?;
            let line = if as_json { object(index, &entry).to_string() } else { in_a_line(index, &entry) };
            if !output::try_line(&line) {
                return Ok(output::SUCCESS);
            }
        }
        if !follow {
            return Ok(output::SUCCESS);
        }
        std::thread::sleep(ROUND);
    }
}

fn object(index: u64, entry: &Entry) -> Value {
    json!({ "index": index, "entry": entry })
}

fn in_a_line(index: u64, entry: &Entry) -> String {
    let about = [("sandbox", &entry.sandbox), ("run", &entry.run)];
    let about = about.into_iter().filter_map(|(name, id)| Some(format!("{name}={}", id.as_ref()?)));
    let fields = entry.fields.iter().map(|(name, value)| format!("{name}={value}"));
    let rest: Vec<String> = about.chain(fields).collect();
    format!("{index:>6}  {}  {:16} {}", time(entry.at_ms), entry.event, rest.join(" ")).trim_end().to_owned()
}

fn show(index: u64, as_json: bool) -> Result<u8> {
    let entry = own_log()?.entry(index)?;
    if as_json {
        output::print_json(&object(index, &entry));
        return Ok(output::SUCCESS);
    }
    let mut rows = vec![("entry", index.to_string()), ("time", time(entry.at_ms)), ("event", entry.event)];
    rows.extend(entry.sandbox.map(|id| ("sandbox", id)));
    rows.extend(entry.run.map(|id| ("run", id)));
    rows.extend(entry.fields.iter().map(|(name, value)| (name.as_str(), value.clone())));
    list::rows("", &rows);
    output::line(&format!("  try: mvmctl audit prove {index}"));
    Ok(output::SUCCESS)
}

fn verify(args: &AuditVerifyArgs) -> Result<u8> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        // Without it there is no log at all. With it, whatever is missing there is for the report.
        None => Home::locate()?.audit(),
    };
    if !dir.exists() {
        Log::open_existing(&dir)?;
    }
    let witnesses = args.witnesses.iter().map(|file| read(file, MAX_CHECKPOINT)).collect::<Result<Vec<_>>>()?;
    let report = check(&dir, &trusted_keys(&args.keys)?, &witnesses)?;
    if args.json {
        let mut object = json!(report);
        object["good"] = json!(report.is_good());
        output::print_json(&object);
    } else {
        print(&dir, &report);
    }
    Ok(report.exit_status())
}

fn print(dir: &Path, report: &Report) {
    let size = output::count(report.size, "entry", "entries");
    if report.is_good() {
        output::line(&format!("The log in {} is as it was written: {size}.", dir.display()));
    } else {
        output::line(&format!("The log in {} was changed. {size} could be read.", dir.display()));
    }
    for finding in &report.findings {
        output::line(&format!("  {}: {}", finding.name, finding.what));
    }
    if report.more_findings > 0 {
        output::line(&format!("  and {} more", report.more_findings));
    }
    let seen = |seen: &mvm_evidence::verify::Seen| {
        format!("{}, signed by {}", output::count(seen.size, "entry", "entries"), seen.keyid)
    };
    let mut rows = vec![("log", report.origin.clone())];
    rows.extend(report.checkpoint.iter().map(|checkpoint| ("checkpoint", seen(checkpoint))));
    rows.extend(report.witnesses.iter().map(|witness| ("kept elsewhere", seen(witness))));
    let events: Vec<_> = report.events.iter().map(|(event, count)| format!("{event} {count}")).collect();
    rows.push(("events", events.join(", ")));
    if let Some(first) = report.first_clock_step {
        rows.push(("clock", format!("set back {} times, first before entry {first}", report.clock_steps)));
    }
    if report.torn_bytes > 0 {
        rows.push(("torn", format!("{} bytes of a write that was cut short at the end", report.torn_bytes)));
    }
    list::rows("  ", &rows);
    output::line("No check of the log can show");
    report.unseen.iter().for_each(|what| output::line(&format!("  - {what}")));
    if !report.is_good() {
        output::line(&format!("  try: keep it for those who look into it: cp -a {0} {0}.changed", dir.display()));
    }
}

fn prove(index: u64, as_json: bool) -> Result<u8> {
    let log = own_log()?;
    let keys = evidence::keys(&Home::locate()?);
    let known = log.latest_checkpoint()?.filter(|checkpoint| index < checkpoint.size());
    let known = known.filter(|checkpoint| keys.public_keys().is_ok_and(|keys| checkpoint.verify(&keys).is_ok()));
    // Before a checkpoint is made for it: that there is such an entry at all.
    log.entry(index)?;
    let checkpoint = known.map_or_else(|| log.checkpoint(&keys.signer()?), Ok)?;
    let proof = log.prove(index, &checkpoint)?.to_text();
    if as_json {
        output::print_json(&json!({ "index": index, "proof": proof }));
    } else {
        output::line(proof.trim_end());
    }
    Ok(output::SUCCESS)
}

fn checkpoint(witness: Option<&Path>, as_json: bool) -> Result<u8> {
    let home = Home::locate()?;
    let log = own_log()?;
    if let Some(file) = witness {
        replace::check(file)?;
    }
    let earlier = match witness.filter(|file| file.exists()) {
        Some(file) => Some((file.to_owned(), read(file, MAX_CHECKPOINT)?)),
        None => None,
    };
    if let Some((_, bytes)) = &earlier {
        let report = check(log.dir(), &trusted_keys(&[])?, std::slice::from_ref(bytes))?;
        if !report.is_good() {
            if as_json {
                output::print_json(&json!(report));
            } else {
                print(log.dir(), &report);
            }
            return Ok(report.exit_status());
        }
    }
    let checkpoint = log.checkpoint(&evidence::keys(&home).signer()?)?;
    if let Some(file) = witness {
        replace::replace(file, checkpoint.as_str().as_bytes())?;
    }
    if as_json {
        let object = json!({
            "origin": checkpoint.origin(),
            "size": checkpoint.size(),
            "root": checkpoint.root(),
            "checkpoint": checkpoint.as_str(),
            "compared": earlier.is_some(),
        });
        output::print_json(&object);
    } else if let Some(file) = witness {
        print_witnessed(file, earlier, &checkpoint);
    } else {
        output::line(checkpoint.as_str().trim_end());
    }
    Ok(output::SUCCESS)
}

fn print_witnessed(file: &Path, earlier: Option<(PathBuf, Vec<u8>)>, checkpoint: &Checkpoint) {
    let compared = match earlier.and_then(|(_, bytes)| Checkpoint::parse(&bytes).ok()) {
        Some(earlier) => format!("still has the {} that were there", output::count(earlier.size(), "entry", "entries")),
        None => "was not compared with anything: there was no checkpoint in the file".to_owned(),
    };
    output::line(&format!("The log {compared}; {} are signed now.", checkpoint.size()));
    output::line(&format!("  kept in {}; run the same again later", file.display()));
}
