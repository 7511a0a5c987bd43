//! `mvmctl doctor`: what works here, what does not, and how to fix it.

use std::io::IsTerminal;

use mvm_runtime::doctor::{self as runtime, Finding, Status};
use mvm_runtime::host::Host;
use mvm_runtime::{Home, capabilities};
use mvm_wire::api::Capability;
use serde_json::json;

use crate::args::DoctorArgs;
use crate::output;

/// Something that mvm cannot do without is missing.
const FAILING: u8 = 1;

/// Runs the verb.
pub fn doctor(args: &DoctorArgs) -> u8 {
    let home = match Home::locate() {
        Ok(home) => home,
        Err(error) => return output::error(&error, args.json),
    };
    let findings = runtime::examine(&home);
    let capabilities = Host::load(&home).map(|host| capabilities::of(&host)).unwrap_or_default();
    let failing = findings.iter().filter(|finding| finding.status == Status::Failing).count();
    if args.json {
        output::print_json(&json!({ "ok": failing == 0, "findings": findings, "capabilities": capabilities }));
    } else {
        print(&findings);
        print_capabilities(&capabilities);
        sum_up(&findings, failing);
    }
    if failing > 0 { FAILING } else { output::SUCCESS }
}

fn print_capabilities(capabilities: &[Capability]) {
    let row = |entry: &Capability| {
        vec![if entry.supported { "can" } else { "cannot" }.to_owned(), entry.name.clone(), entry.limits.clone()]
    };
    output::table(&capabilities.iter().map(row).collect::<Vec<_>>());
    output::line("");
}

fn print(findings: &[Finding]) {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    for finding in findings {
        output::line(&format!("{}  {:width$}  {}", mark(finding.status), finding.name, finding.detail));
        if !finding.fix.is_empty() {
            output::line(&format!("{:9}{:width$}  fix: {}", "", "", finding.fix));
        }
    }
    output::line("");
}

fn sum_up(findings: &[Finding], failing: usize) {
    let warnings = findings.iter().filter(|finding| finding.status == Status::Warning).count();
    output::line(&match (failing, warnings) {
        (0, 0) => "Everything is as it should be.".to_owned(),
        (0, _) => format!("mvm works here; {warnings} warnings."),
        _ => format!("mvm does not work here yet; {failing} failing."),
    });
}

fn mark(status: Status) -> String {
    let (text, colour) = match status {
        Status::Ok => ("ok     ", "32"),
        Status::Warning => ("warning", "33"),
        Status::Failing => ("failing", "31"),
    };
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{colour}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
