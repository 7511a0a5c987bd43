//! Scripts that are recorded: their SDK writes down what they would do, and starts nothing. The script itself runs on this
//! host, as it is.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use mvm_runtime::{Error, ErrorCode, Home, Result};

use super::{attend, command, exit_status, what};
use crate::args::RunArgs;
use crate::input::Found;
use crate::{declared, input, output, plan, replace};

/// Runs the script, and writes its recording where it is wanted.
pub fn run(script: &Path, arguments: &[String], args: &RunArgs) -> Result<u8> {
    let Some(out) = &args.out else {
        let error = Error::new(ErrorCode::InvalidRequest, what(script), "nothing says where the recording is written");
        return Err(error.hint(format!("mvmctl run --mode record --out recording.json {}", script.display())));
    };
    replace::check(out)?;
    let recording = record(script, arguments, args.quiet)?;
    // What would not compile is known now.
    input::recording(&format!("of {}", script.display()), &recording)?;
    replace::replace(out, &recording)?;
    if !args.quiet {
        output::line(&format!("recorded {} in {}", script.display(), out.display()));
        output::line(&format!("  try:  mvmctl compile --from-recording {} --out DIR", out.display()));
    }
    Ok(output::SUCCESS)
}

/// Shows what would be allowed of what the script declares; of one that declares nothing, runs it, and shows what would be
/// allowed of what it would do.
pub fn plan(script: &Path, arguments: &[String], args: &RunArgs) -> Found<u8> {
    let declared = declared::language(script).map(|language| declared::bundle(script, language, None)).transpose()?;
    if let Some(bundle) = declared.flatten() {
        return Ok(plan::plan(bundle.workload(), args.json)?);
    }
    let recording = record(script, arguments, args.quiet || args.json)?;
    let bundle = input::recording(&format!("of {}", script.display()), &recording)?;
    Ok(plan::plan(bundle.workload(), args.json)?)
}

/// Runs a script and returns its recording. What it prints goes to standard error.
pub fn record(script: &Path, arguments: &[String], quiet: bool) -> Result<Vec<u8>> {
    let mut command = command(script, arguments, "record")?;
    let staging = Home::locate()?.staging("record")?;
    let file = staging.path().join("recording.json");
    command.env("MVM_SDK_OUT_PATH", &file).env_remove("MVM_SDK_RUNS").env_remove("MVM_PROFILE");
    command.stdout(rustix::io::dup(rustix::stdio::stderr()).map_err(|e| Error::io(what(script), e))?);
    if !quiet {
        eprintln!("mvmctl: {} runs on this host to be recorded, and is not sandboxed", script.display());
    }
    let status = exit_status(attend(&mut command).map_err(|e| Error::io(what(script), e))?);
    if status != output::SUCCESS {
        return Err(refused(
            script,
            format!("it ended with exit status {status}, and only what ends well is recorded"),
        ));
    }
    let mut recording = Vec::new();
    // One byte too many is seen, and refused.
    let limit = mvm_ir::MAX_RECORDING_BYTES as u64 + 1;
    match File::open(&file).and_then(|file| file.take(limit).read_to_end(&mut recording)) {
        Ok(_) => Ok(recording),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(refused(script, "its SDK wrote no recording: it creates no sandbox, or could not be recorded"))
        }
        Err(e) => Err(Error::io(format!("cannot read the recording of {}", script.display()), e)),
    }
}

fn refused(script: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::NotRecordable, format!("cannot record {}", script.display()), why)
        .hint("docs/recording.md says which calls can be recorded")
}
