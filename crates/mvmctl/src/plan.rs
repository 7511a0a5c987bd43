//! `mvmctl plan`: what admission says to a workload.

use std::path::PathBuf;

use clap::Args;
use mvm_ir::Workload;
use mvm_runtime::text::harmless;
use mvm_runtime::workload::{self, WorkloadPlan};
use mvm_runtime::{ErrorCode, Home, Result};
use serde_json::json;

use crate::input::Found;
use crate::{input, output};

/// `mvmctl plan`.
#[derive(Debug, Args)]
#[command(
    after_help = "A workload is a JSON document (mvm.workload/v1): an image, files, environment, ports, what runs. A file of \
    Python or TypeScript may declare one: it is read, and not run. Nothing happens here, and no secret is read.\n\nExit status: 126 if something of it would be refused.\n\nExamples:\n  \
    mvmctl plan workload.json\n  mvmctl plan ./web.py\n  mvmctl plan - < workload.json\n  mvmctl policy schema workload"
)]
pub struct PlanArgs {
    /// The workload's document or bundle, or a source file that declares it; - is a document on standard input
    #[arg(value_name = "INPUT")]
    pub input: PathBuf,
    /// Print the plan as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
pub fn show(args: &PlanArgs) -> u8 {
    let planned = || -> Found<u8> { Ok(plan(&input::workload(&args.input)?, args.json)?) };
    planned().unwrap_or_else(|failure| failure.report(args.json))
}

/// Plans a workload, prints that, and returns the status that says whether it is allowed.
pub fn plan(workload: &Workload, as_json: bool) -> Result<u8> {
    let request = workload::create_request(workload)?;
    Ok(print(&workload::plan(&Home::locate()?, workload, request)?, as_json))
}

/// Prints a plan, and returns the status that says whether it is allowed.
pub fn print(plan: &WorkloadPlan, as_json: bool) -> u8 {
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
