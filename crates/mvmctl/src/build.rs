//! `mvmctl build`: the image of a workload.

use std::path::PathBuf;

use clap::Args;
use mvm_runtime::{Home, build};
use serde_json::json;

use crate::commands::block_on;
use crate::input::Found;
use crate::progress::Drawn;
use crate::{input, output, signals};

/// `mvmctl build`.
#[derive(Debug, Args)]
#[command(
    after_help = "A machine boots on a copy of the image that the workload is built on, without a network, takes the \
    workload's files and source, and halts. Its disk is the new image; nothing of the workload runs. The same files on the \
    same image are built once.\n\nExamples:\n  mvmctl build web.bundle\n  mvmctl build ./web.py --tag web-2\n  \
    mvmctl run --image web -- ls /app"
)]
pub struct BuildArgs {
    /// A bundle, a source file that declares a workload, or a document
    #[arg(value_name = "INPUT")]
    pub input: PathBuf,
    /// What to call the image; the workload's name if left out. An image that is called so already loses the name
    #[arg(long, short, value_name = "NAME")]
    pub tag: Option<String>,
    /// Print what was built as JSON
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// Runs the verb.
pub fn build(args: &BuildArgs) -> u8 {
    let _signals = signals::listen();
    make(args).map_or_else(|failure| failure.report(args.json), |()| output::SUCCESS)
}

fn make(args: &BuildArgs) -> Found<()> {
    let bundle = input::bundle(&args.input, None)?;
    let tag = args.tag.as_deref().unwrap_or(&bundle.workload().name);
    let progress = Drawn::new(args.quiet || args.json);
    let built = block_on(build::build(&Home::locate()?, &bundle, tag, &progress))?;
    drop(progress);
    let image = &built.image;
    if args.json {
        let bytes = image.disk_bytes;
        output::print_json(
            &json!({ "name": tag, "digest": image.digest, "disk_bytes": bytes, "cached": built.cached }),
        );
    } else if !args.quiet {
        let how = if built.cached { "was built before" } else { "is built" };
        output::line(&format!("image {tag} {how} ({})", image.digest));
        output::line(&format!("  try:  mvmctl run --image {tag} -- ls -R /app"));
    }
    Ok(())
}
