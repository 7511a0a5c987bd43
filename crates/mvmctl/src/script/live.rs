//! `mvmctl run --mode live`: a script as it is.

use std::path::Path;

use mvm_runtime::policy::{self, Ask};
use mvm_runtime::{Error, Home, Result};

use super::receipts::Wanted;
use super::{attend, command, exit_status, what};
use crate::args::RunArgs;
use crate::output;

/// Runs the script to its end and returns its exit status.
pub fn run(script: &Path, arguments: &[String], args: &RunArgs) -> Result<u8> {
    check_profile(args.policy.profile.as_deref())?;
    let mut command = command(script, arguments, "live")?;
    let ourselves = std::env::current_exe().map_err(|e| Error::io(what(script), e))?;
    command.env("MVM_CLI_BIN", ourselves).envs(args.policy.profile.as_ref().map(|profile| ("MVM_PROFILE", profile)));
    let home = Home::locate()?;
    let receipts = args.receipt.as_deref().map(|dir| Wanted::prepare(&home, dir)).transpose()?;
    command.envs(receipts.as_ref().map(|receipts| ("MVM_SDK_RUNS", receipts.list())));
    if !args.quiet {
        eprintln!(
            "mvmctl: {} runs on this host and is not sandboxed; the sandboxes that it makes are",
            script.display()
        );
    }
    let status = attend(&mut command).map_err(|e| Error::io(what(script), e))?;
    let complete = receipts.is_none_or(|receipts| receipts.collect(args.quiet));
    Ok(match exit_status(status) {
        output::SUCCESS if !complete => output::MVM_FAILED,
        code => code,
    })
}

/// Refuses a profile that cannot be used, before anything starts. One that has to be acknowledged is for each sandbox to name.
fn check_profile(name: Option<&str>) -> Result<()> {
    let Some(profile) = name.map(policy::load).transpose()? else { return Ok(()) };
    let bound = policy::bound();
    let mut denials = policy::unusable(&Ask { bound: bound.as_deref(), ..Ask::default() }, &profile);
    for denial in denials.iter_mut().filter(|denial| denial.rule == policy::PROFILE_ACKNOWLEDGED) {
        denial.remedy = "another profile; or none here, and accept_risk for each sandbox in the script".into();
    }
    if denials.is_empty() { Ok(()) } else { Err(Error::denied("cannot run the script", denials)) }
}
