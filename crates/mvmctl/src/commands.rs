//! From a parsed command line to the verb's file.

use clap::CommandFactory;
use mvm_runtime::{Error, Result};

use crate::args::{Cli, Command};
use crate::{bench, doctor, output, run, setup, template};

/// Does what was asked.
pub fn dispatch(cli: Cli) -> u8 {
    match cli.command {
        Command::Run(args) => run::run(args),
        Command::Setup(args) => setup::setup(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Template(command) => template::template(command),
        Command::Bench(args) => bench::bench(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "mvmctl", &mut std::io::stdout());
            output::SUCCESS
        }
        Command::Man { directory } => match clap_mangen::generate_to(Cli::command(), &directory) {
            Ok(()) => output::SUCCESS,
            Err(e) => {
                output::error(&Error::io(format!("cannot write manual pages to {}", directory.display()), e), false)
            }
        },
    }
}

/// Runs asynchronous work on this thread. Machines are started from it, and live as long as it does.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::internal("cannot start the event loop", e))?
        .block_on(work)
}
