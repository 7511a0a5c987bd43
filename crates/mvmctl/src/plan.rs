//! `mvmctl plan`: what admission says to a workload.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use mvm_runtime::text::harmless;
use mvm_runtime::workload::{self, WorkloadPlan};
use mvm_runtime::{Error, ErrorCode, Home, Result};
use serde_json::json;

use crate::output;

/// `mvmctl plan`.
#[derive(Debug, Args)]
#[command(
    after_help = "A workload is a JSON document (mvm.workload/v1): an image, files, environment, ports, what runs. Nothing of \
    it happens here, and no secret is read.\n\nExit status: 126 if something of it would be refused.\n\nExamples:\n  \
    mvmctl plan workload.json\n  mvmctl plan - < workload.json\n  mvmctl policy schema workload"
)]
pub struct PlanArgs {
    /// The workload's file; - is standard input
    #[arg(value_name = "FILE")]
    pub input: PathBuf,
    /// Print the plan as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
pub fn plan(args: &PlanArgs) -> u8 {
    let planned = || workload::plan(&Home::locate()?, &read(args)?);
    match planned() {
        Ok(plan) => print(&plan, args.json),
        Err(error) => output::error(&error, args.json),
    }
}

fn read(args: &PlanArgs) -> Result<mvm_ir::Workload> {
    let (from, what) = (args.input.display().to_string(), format!("cannot read the workload {}", args.input.display()));
    let mut bytes = Vec::new();
    // One byte too many is seen, and refused.
    let limit = mvm_ir::MAX_BYTES as u64 + 1;
    if from == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(|e| Error::io(what, e))?;
        return workload::read("on standard input", &bytes);
    }
    let meta = std::fs::metadata(&args.input).map_err(|e| Error::named(&what, e))?;
    if !meta.is_file() {
        return Err(Error::new(ErrorCode::InvalidRequest, what, "it is no file").hint("mvmctl plan workload.json"));
    }
    let file = File::open(&args.input).map_err(|e| Error::io(&what, e))?;
    file.take(limit).read_to_end(&mut bytes).map_err(|e| Error::io(what, e))?;
    workload::read(&from, &bytes)
}

/// Prints it, and returns the status that says whether it is allowed.
fn print(plan: &WorkloadPlan, as_json: bool) -> u8 {
    if as_json {
        output::print_json(&json!(plan));
    } else {
        output::line(&format!("workload {} ({})", plan.name, plan.digest));
        for decision in &plan.decisions {
            let part = if decision.pointer.is_empty() { "the sandbox" } else { &decision.pointer };
            let (part, admitted) = (harmless(part), &decision.plan);
            output::line(&format!("{part}: {} under the profile {}", admitted.operation, admitted.profile));
            let rows = admitted.lines.iter().map(|line| vec![format!("  {}", line.rule), line.effect.clone()]);
            output::table(&rows.collect::<Vec<_>>());
            for denial in &admitted.denials {
                output::line(&format!("  refused by {}: {}", denial.rule, harmless(&denial.reason)));
                output::line(&format!("    try: {}", harmless(&denial.remedy)));
            }
        }
        for warning in &plan.warnings {
            output::line(&format!("warning: {}: {}", harmless(&warning.pointer), warning.text));
        }
        output::line(if plan.allowed { "allowed; nothing was started" } else { "refused" });
    }
    if plan.allowed { output::SUCCESS } else { ErrorCode::PolicyDenied.exit_status() }
}
