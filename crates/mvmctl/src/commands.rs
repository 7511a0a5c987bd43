//! From a parsed command line to the verb's file.

use clap::CommandFactory;
use mvm_runtime::evidence::{self, Ended};
use mvm_runtime::{Error, Home, Result};

use crate::args::{Cli, Command};
use crate::evidence::{audit, key, receipt};
use crate::sandbox::{change, exec, fs, logs, port, secret, show, snapshot, up};
use crate::{bench, build, compile, diff, doctor, image, output, plan, policy, run, setup, template};

/// Does what was asked.
pub fn dispatch(cli: Cli) -> u8 {
    match cli.command {
        Command::Run(args) => run::run(args),
        Command::Up(args) => up::up(*args),
        Command::Ps(args) => show::ps(args),
        Command::Inspect(args) => show::inspect(args),
        Command::Exec(args) => exec::exec(*args),
        Command::Jobs(args) => show::jobs(args),
        Command::Attach(args) => exec::attach(args),
        Command::Logs(args) => logs::logs(args),
        Command::Secret(command) => secret::secret(command),
        Command::Fs(command) => fs::fs(command),
        Command::Cp(args) => fs::cp(args),
        Command::Port(command) => port::port(command),
        Command::Wait(args) => show::wait(args),
        Command::Stats(args) => show::stats(args),
        Command::Stop(args) => change::stop(args),
        Command::Down(args) => change::down(args),
        Command::Start(args) => change::start(args),
        Command::Pause(args) => change::pause(args),
        Command::Freeze(args) => change::freeze(args),
        Command::Resume(args) => change::resume(args),
        Command::Snapshot(command) => snapshot::snapshot(command),
        Command::Restore(args) => snapshot::restore(args),
        Command::Fork(args) => snapshot::fork(args),
        Command::Kill(args) => change::kill(args),
        Command::Destroy(args) => change::destroy(args),
        Command::Keep(args) => change::keep(args),
        Command::Detach(args) => change::detach(args),
        Command::Compile(args) => compile::compile(&args),
        Command::Build(args) => build::build(&args),
        Command::Image(command) => image::image(command),
        Command::Plan(args) => plan::show(&args),
        Command::Diff(args) => diff::diff(&args),
        Command::Policy(command) => policy::policy(command),
        Command::Gc(args) => change::gc(args),
        Command::Receipt(command) => receipt::receipt(command),
        Command::Audit(command) => audit::audit(command),
        Command::Key(command) => key::key(command),
        Command::Supervise { id } => block_on(async { mvm_runtime::supervisor::supervise(Home::locate()?, &id).await })
            .map_or_else(|error| output::error(&error, false), |()| output::SUCCESS),
        Command::Notary { run, sandbox } => notary(&run, &sandbox),
        Command::EraseTypes => {
            mvm_runtime::function::erase().map_or_else(|error| output::error(&error, false), |()| output::SUCCESS)
        }
        Command::Version { json } => output::versions(json),
        Command::Openapi => {
            output::line(&mvm_runtime::supervisor::document());
            output::SUCCESS
        }
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

/// Signs one receipt. Nothing of a guest's is read in this process.
fn notary(run: &str, sandbox: &str) -> u8 {
    let sign = || evidence::notarise(&Home::locate()?, &Ended::new(run, sandbox)?);
    sign().map_or_else(|error| output::error(&error, false), |()| output::SUCCESS)
}

/// Runs asynchronous work on this thread. Machines are started from it, and live as long as it does.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::internal("cannot start the event loop", e))?
        .block_on(work)
}
