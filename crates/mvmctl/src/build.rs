//! `mvmctl build`: the image of a workload.

use std::path::{Path, PathBuf};

use clap::Args;
use mvm_runtime::bundle::Bundle;
use mvm_runtime::packages::Lock;
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
    same image are built once. Packages of Debian are fetched by this host's package client and installed in that machine; \
    which they were is written into the bundle, and taken again the next time.\n\nExamples:\n  mvmctl build web.bundle\n  mvmctl build ./web.py --tag web-2\n  \
    mvmctl up web"
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
    let (tag, locked) = (args.tag.clone().unwrap_or_else(|| bundle.workload().name.clone()), bundle.lock().cloned());
    let progress = Drawn::new(args.quiet || args.json);
    let built = block_on(build::build(&Home::locate()?, bundle, &tag, &progress))?;
    drop(progress);
    let image = &built.image;
    keep_lock(&args.input, args.quiet, locked.as_ref(), &built.bundle)?;
    if args.json {
        let bytes = image.disk_bytes;
        output::print_json(&json!({
            "name": tag, "digest": image.digest, "disk_bytes": bytes, "cached": built.cached,
            "packages": built.bundle.lock().map(|lock| &lock.packages),
        }));
    } else if !args.quiet {
        let how = if built.cached { "was built before" } else { "is built" };
        output::line(&format!("image {tag} {how} ({})", image.digest));
        output::line(&format!("  try:  mvmctl up {tag}"));
    }
    Ok(())
}

/// Writes down in the bundle which packages were taken, if others were `locked` before, so that the next build takes the same.
pub fn keep_lock(input: &Path, quiet: bool, locked: Option<&Lock>, bundle: &Bundle) -> Found<()> {
    if bundle.lock() == locked {
        return Ok(());
    }
    if input::is_bundle(input) {
        return Ok(bundle.write(input)?);
    }
    if !quiet {
        let input = input.display();
        eprintln!(
            "mvmctl: warning: the packages are locked in a bundle, and {input} is none: the next build may take others"
        );
    }
    Ok(())
}
