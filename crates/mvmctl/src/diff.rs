//! `mvmctl diff`: what changed between two workloads.

use std::path::{Path, PathBuf};

use clap::Args;
use mvm_ir::Change;
use mvm_runtime::text::harmless;
use mvm_runtime::{Error, ErrorCode, secrets, workload};
use serde_json::{Value, json};

use crate::input::Found;
use crate::{input, output};

/// What a comparison says it is.
const SCHEMA: &str = "mvm.workload-diff/v1";
/// Exit status if something changed, as that of diff(1).
const CHANGED: u8 = 1;

/// `mvmctl diff`.
#[derive(Debug, Args)]
#[command(
    after_help = "Defaults count as if they were written out. The order of files, ports, mounts, hosts and packages is no \
    change; that of steps and arguments is. What looks like a credential is hidden.\n\nExit status: 0 if nothing changed, \
    1 if something did, 125 if mvm failed.\n\nExamples:\n  mvmctl diff reviewed.json agent.bundle\n  \
    git show HEAD:workload.json | mvmctl diff - workload.json"
)]
pub struct DiffArgs {
    /// The workload as it was: a document, a bundle, or a source file that declares it; - is standard input
    #[arg(value_name = "BEFORE")]
    pub before: PathBuf,
    /// The workload as it is now, likewise
    #[arg(value_name = "AFTER")]
    pub after: PathBuf,
    /// Print the changes as JSON, with whole values
    #[arg(long)]
    pub json: bool,
}

/// What came of a comparison.
struct Comparison {
    before: String,
    after: String,
    changes: Vec<Change>,
}

/// Runs the verb.
pub fn diff(args: &DiffArgs) -> u8 {
    match compare(&args.before, &args.after) {
        Ok(comparison) => print(&comparison, args.json),
        Err(failure) => failure.report(args.json),
    }
}

fn compare(before: &Path, after: &Path) -> Found<Comparison> {
    if [before, after].into_iter().all(input::is_stdin) {
        let (what, why) = ("cannot compare the workloads", "only one of them can be on standard input");
        return Err(Error::new(ErrorCode::InvalidRequest, what, why).hint("mvmctl diff - workload.json").into());
    }
    let (before, after) = (input::workload(before)?, input::workload(after)?);
    let mut changes = mvm_ir::diff(&before, &after);
    for change in &mut changes {
        [&mut change.item, &mut change.before, &mut change.after].into_iter().flatten().for_each(hide);
    }
    Ok(Comparison { before: workload::digest(&before)?, after: workload::digest(&after)?, changes })
}

/// Puts markers where texts look like credentials.
fn hide(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(rule) = secrets::looks_like(text) {
                *text = secrets::marker(rule);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(fields) => fields.values_mut().for_each(hide),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Prints it, and returns the status that says whether something changed.
fn print(comparison: &Comparison, as_json: bool) -> u8 {
    let Comparison { before, after, changes } = comparison;
    if as_json {
        output::print_json(&json!({ "schema": SCHEMA, "before": before, "after": after, "changes": changes }));
    } else {
        let rows = changes.iter().map(|change| vec![harmless(&change.place()), harmless(&change.words())]);
        output::table(&rows.collect::<Vec<_>>());
        if before != after {
            output::table(
                &[("before", before), ("after", after)].map(|(which, digest)| vec![which.into(), digest.clone()]),
            );
        }
        output::line(&match changes.len() {
            0 if before != after => "no changes; only the order in a list differs".to_owned(),
            0 => "no changes".to_owned(),
            many => output::count(many as u64, "change", "changes"),
        });
    }
    if changes.is_empty() { output::SUCCESS } else { CHANGED }
}
