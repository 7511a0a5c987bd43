//! `mvmctl compile`: the bundle of a workload.

use std::path::{Path, PathBuf};

use clap::Args;
use mvm_runtime::bundle::Bundle;
use mvm_runtime::text::harmless;
use mvm_runtime::{Error, ErrorCode, Result, workload};
use serde_json::json;

use crate::input::Found;
use crate::script::record;
use crate::{input, output};

/// `mvmctl compile`.
#[derive(Debug, Args)]
#[command(
    after_help = "A bundle is a workload (mvm.workload/v1) with all that it names by digest: a directory, or one file if \
    its name ends in .tar.zst. What it is made of decides every byte of it. Without --out the workload is printed.\n\n\
    What a source file declares (@mvm.app in Python, mvm.app in TypeScript) is read from its syntax: nothing of it is \
    imported or run.\n\n\
    With --record the script runs on this host, with the interpreter for its ending and with all that you may do: its SDK \
    starts no sandbox and writes down what would be done with one.\n\nExamples:\n  \
    mvmctl compile ./web.py --out web.bundle\n  mvmctl compile --record ./agent.py --out agent.bundle\n  mvmctl compile workload.json --out web.tar.zst\n  \
    mvmctl run --mode record --out calls.json ./agent.ts && mvmctl compile --from-recording calls.json | mvmctl plan -",
    override_usage = "mvmctl compile [OPTIONS] <INPUT>\n       mvmctl compile --record [OPTIONS] <SCRIPT> [ARG]...\n       \
    mvmctl compile --from-recording <FILE> [OPTIONS]"
)]
pub struct CompileArgs {
    /// A source file that declares a workload (.py, .ts), a document or a bundle; - is a document on standard input
    #[arg(value_name = "INPUT", required_unless_present = "from_recording")]
    pub input: Option<PathBuf>,
    /// Run the script INPUT on this host, and compile what its SDK would do
    #[arg(long)]
    pub record: bool,
    /// Compile a recording that was made before
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input", "record"])]
    pub from_recording: Option<PathBuf>,
    /// Write the bundle there. A bundle that is there is replaced
    #[arg(long, short, value_name = "DIR|FILE.tar.zst")]
    pub out: Option<PathBuf>,
    /// Print what was made as JSON
    #[arg(long, requires = "out")]
    pub json: bool,
    /// Print nothing but warnings and errors
    #[arg(long, short)]
    pub quiet: bool,
    /// Arguments of the script
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG", requires = "record")]
    pub arguments: Vec<String>,
}

/// Runs the verb.
pub fn compile(args: &CompileArgs) -> u8 {
    let compiled = || -> Found<()> {
        let bundle = bundle(args)?;
        let digest = workload::digest(bundle.workload())?;
        match &args.out {
            Some(out) => {
                bundle.write(out)?;
                report(args, &bundle, &digest, out);
            }
            None => print(&bundle)?,
        }
        Ok(())
    };
    compiled().map_or_else(|failure| failure.report(args.json), |()| output::SUCCESS)
}

fn bundle(args: &CompileArgs) -> Found<Bundle> {
    if let Some(file) = &args.from_recording {
        return Ok(input::recording(&input::shown(file), &input::bytes(file, mvm_ir::MAX_RECORDING_BYTES)?)?);
    }
    let Some(path) = &args.input else {
        return Err(Error::new(ErrorCode::InvalidRequest, "cannot compile", "nothing was named").into());
    };
    if args.record {
        let recording = record::record(path, &args.arguments, args.quiet || args.json)?;
        return Ok(input::recording(&format!("of {}", path.display()), &recording)?);
    }
    input::bundle(path, args.out.as_deref())
}

/// Prints the document as it is in a bundle.
fn print(bundle: &Bundle) -> Result<()> {
    warn(bundle);
    let document = workload::canonical(bundle.workload())?;
    output::line(&String::from_utf8_lossy(&document));
    Ok(())
}

fn report(args: &CompileArgs, bundle: &Bundle, digest: &str, out: &Path) {
    let (count, bytes) = bundle.size();
    let workload = bundle.workload();
    if args.json {
        let warnings = workload::warnings(workload);
        output::print_json(&json!({
            "name": workload.name, "digest": digest, "out": out, "contents": count, "bytes": bytes, "warnings": warnings,
        }));
        return;
    }
    warn(bundle);
    if !args.quiet {
        let contents = output::count(count as u64, "content", "contents");
        output::line(&format!("workload {} ({digest})", workload.name));
        output::line(&format!("{contents}, {} in {}", output::bytes(bytes), out.display()));
        output::line(&format!("  try:  mvmctl plan {}", out.display()));
    }
}

fn warn(bundle: &Bundle) {
    for warning in workload::warnings(bundle.workload()) {
        eprintln!("mvmctl: warning: {}: {}", harmless(&warning.pointer), warning.text);
    }
}
