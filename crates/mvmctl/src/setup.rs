//! `mvmctl setup`: everything a run would otherwise wait for.

use mvm_runtime::{Home, Result, evidence, image, setup as runtime};
use serde_json::json;

use crate::args::SetupArgs;
use crate::commands::block_on;
use crate::progress::Drawn;
use crate::run::DEFAULT_SHAPE;
use crate::{output, signals};

/// Runs the verb.
pub fn setup(args: &SetupArgs) -> u8 {
    let _signals = signals::listen();
    match prepare(args) {
        Ok(images) => {
            if args.json {
                output::print_json(&json!({ "images": images }));
            } else {
                output::line("Ready. Try: mvmctl run -- uname -a");
            }
            output::SUCCESS
        }
        Err(error) => output::error(&error, args.json),
    }
}

fn prepare(args: &SetupArgs) -> Result<Vec<String>> {
    let home = Home::locate()?;
    evidence::prepare(&home)?;
    let progress = Drawn::new(args.json);
    if let Some(kernel) = &args.kernel {
        runtime::use_kernel(&home, kernel, args.modules.as_deref(), &progress)?;
    }
    let images = if args.images.is_empty() { image::BUILTIN.map(str::to_owned).to_vec() } else { args.images.clone() };
    block_on(runtime::everything(&home, &DEFAULT_SHAPE, &images, &progress))?;
    Ok(images)
}
