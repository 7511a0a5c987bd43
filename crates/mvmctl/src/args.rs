//! The command line as types. Help texts are written for somebody who has never seen mvm.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
pub use mvm_runtime::units::{parse_duration, parse_size};

use crate::build::BuildArgs;
use crate::compile::CompileArgs;
use crate::diff::DiffArgs;
use crate::evidence::args::{AuditCommand, KeyCommand, ReceiptCommand};
use crate::image::ImageCommand;
use crate::plan::PlanArgs;
use crate::policy::{PolicyArgs, PolicyCommand};
use crate::sandbox::args::{
    AttachArgs, CpArgs, DestroyArgs, DetachArgs, DownArgs, ExecArgs, ForkArgs, FsCommand, GcArgs, KeepArgs, KillArgs,
    LogsArgs, OneArgs, PortCommand, PsArgs, RestoreArgs, SecretCommand, SnapshotCommand, UpArgs, WaitArgs,
};
use crate::secrets::SecretArgs;

/// Run code you do not trust in a real virtual machine on your own computer.
#[derive(Debug, Parser)]
#[command(
    name = "mvmctl",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = false,
    after_help = "Start here:\n  mvmctl setup\n  mvmctl run -- uname -a\n  mvmctl up --name box\n\nFiles live in $MVM_HOME (default: ~/.local/share/mvm)."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one command in a fresh microVM and exit with its code
    Run(RunArgs),
    /// Make a sandbox that stays, and return when commands can run in it
    Up(Box<UpArgs>),
    /// List sandboxes
    Ps(PsArgs),
    /// Show everything about a sandbox
    Inspect(OneArgs),
    /// Run a command in a running sandbox and exit with its code
    Exec(Box<ExecArgs>),
    /// List the commands that were started in a sandbox
    Jobs(OneArgs),
    /// Show a job's output and follow it to its end
    Attach(AttachArgs),
    /// Show what a sandbox's console printed, what its jobs wrote, and what was done with it
    Logs(LogsArgs),
    /// List the secrets that commands in sandboxes have, without their values
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Read, write and list a sandbox's files
    #[command(subcommand)]
    Fs(FsCommand),
    /// Copy files and directories between this host and a sandbox
    Cp(CpArgs),
    /// Have ports of this host lead into a sandbox
    #[command(subcommand)]
    Port(PortCommand),
    /// Wait until a sandbox is in a state, or one of its jobs has ended
    Wait(WaitArgs),
    /// Show what a sandbox uses
    Stats(OneArgs),
    /// End a sandbox's machine; its disk is kept
    Stop(OneArgs),
    /// The same as stop; with --destroy delete it
    Down(DownArgs),
    /// Boot a stopped sandbox on its disk
    Start(OneArgs),
    /// Save a sandbox's memory with its disk and end all that runs of it, until resume
    Pause(OneArgs),
    /// Stop a sandbox's processors; its memory stays where it is
    Freeze(OneArgs),
    /// Have a paused or frozen sandbox go on where it was
    Resume(OneArgs),
    /// Save sandboxes with their memory, list and remove what was saved
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Make a sandbox that goes on from a snapshot
    Restore(RestoreArgs),
    /// Make running copies of a running sandbox
    Fork(ForkArgs),
    /// Destroy a sandbox at once, or send a signal to one of its jobs
    Kill(KillArgs),
    /// Delete sandboxes, and report what was deleted
    Destroy(DestroyArgs),
    /// Give a sandbox another time to live
    Keep(KeepArgs),
    /// Have a sandbox go on without its client, until its time is up or somebody ends it
    Detach(DetachArgs),
    /// Make the bundle of a workload: the document that says what it is, and all that it names
    Compile(CompileArgs),
    /// Build the image of a workload: what it is built on, with its files
    Build(BuildArgs),
    /// Import, export, list, show and remove images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Show what would be allowed of a workload, and by which rules, before anything of it runs
    Plan(PlanArgs),
    /// Show what changed between two workloads
    Diff(DiffArgs),
    /// Show and check the profiles that decide what may run
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Set right what crashes left, and forget the records of destroyed sandboxes
    Gc(GcArgs),
    /// Verify receipts: what was run, in what, under which limits and isolation
    #[command(subcommand)]
    Receipt(ReceiptCommand),
    /// Read, verify and prove the log of all that was done
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Show, replace and export the keys that sign receipts and the audit log
    #[command(subcommand)]
    Key(KeyCommand),
    /// Supervise one sandbox; called by `up`, not by people
    #[command(hide = true)]
    Supervise {
        /// Its id
        id: String,
    },
    /// Sign the receipt of one command; called by other verbs, not by people
    #[command(hide = true)]
    Notary {
        /// Id of the command
        run: String,
        /// Id of the sandbox that it ran in
        sandbox: String,
    },
    /// Take the types out of a module of TypeScript; called by `build`, not by people
    #[command(hide = true)]
    EraseTypes,
    /// Print the versions of mvmctl and of its API
    Version {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the OpenAPI document of the API on each sandbox's socket
    Openapi,
    /// Get the guest kernel, build the images, prepare the templates, make the signing key
    Setup(SetupArgs),
    /// Check this machine: what works, what is missing, and how to fix it
    Doctor(DoctorArgs),
    /// List, remove or clean up templates, the saved machines that runs are cloned from
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Measure this machine: start-up times, command round trips, transfer rates, memory
    Bench(BenchArgs),
    /// Print a completion script for your shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory
    Man {
        /// Where to write them; it must exist
        directory: PathBuf,
    },
}

/// `mvmctl run`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: the command's own; 128+N if signal N ended it; 124 if --timeout ended it; 125 if mvm \
    failed; 126 if a policy refused it or the command is not executable; 127 if there is no such command.\n\nExamples:\n  \
    mvmctl run -- python3 -c 'print(1 + 1)'\n  echo hi | mvmctl run -i -- tr a-z A-Z\n  \
    mvmctl run --timeout 10s --memory 512M -- ./untrusted.sh\n  mvmctl run -it -- bash\n  \
    mvmctl run --profile restrictive -- python3 generated.py\n  \
    mvmctl run --secret API_TOKEN=file:token.txt -- ./upload.py\n  \
    mvmctl run --mode live --profile restrictive ./agent.py\n  mvmctl run --mode plan ./agent.py\n\nWith --mode live the script is not sandboxed: it runs on \
    this host, with the interpreter for its ending (.py, .ts, .mts, .js, .mjs) and with all that you may do. The \
    sandboxes that it makes are. Its exit status is mvmctl's. With --profile they are made under that profile and no \
    other (MVM_PROFILE); with --receipt, a directory, there is a receipt of each command that its SDK has run.\n\nWith \
    --mode record or plan it runs on this host just so, but its SDK starts nothing: it writes down what it would do, for \
    mvmctl compile --from-recording, or for the plan that is shown. A file that declares a workload is not run with --mode plan, but read.",
    override_usage = "mvmctl run [OPTIONS] -- <CMD>...\n       mvmctl run --mode <MODE> [OPTIONS] <SCRIPT> [ARG]..."
)]
pub struct RunArgs {
    /// Run a script that uses an SDK, on this host, instead of a command in a microVM
    #[arg(long, value_enum, conflicts_with_all = [
        "image", "cpus", "memory", "disk", "accept_risk", "require", "allow_missing", "dry_run", "timeout", "env", "given",
        "no_redact", "cwd", "user", "interactive", "tty", "max_output", "no_template", "request",
    ])]
    pub mode: Option<Mode>,
    /// With --mode record: write the recording there
    #[arg(long, value_name = "FILE", requires = "mode")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub machine: MachineArgs,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Kill the command after this time (10s, 1.5m, 500ms; a plain number is seconds); then exit with 124
    #[arg(long, value_name = "TIME", value_parser = parse_duration, allow_hyphen_values = true)]
    pub timeout: Option<Duration>,
    /// Set an environment variable in the guest. Nothing of the host's environment is passed on
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = parse_env)]
    pub env: Vec<(String, String)>,
    #[command(flatten)]
    pub secrets: SecretArgs,
    /// Leave secrets in the output as they are
    #[arg(long)]
    pub no_redact: bool,
    /// Start in this directory of the guest
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    pub cwd: String,
    /// Run as this user of the guest: name, uid, name:group or uid:gid
    #[arg(long, short, value_name = "USER", default_value = "", hide_default_value = true)]
    pub user: String,
    /// Pass standard input to the command; otherwise it reads nothing
    #[arg(long, short)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// Keep at most this much of standard output and of standard error each; the rest is counted and dropped
    /// [default: no limit, 8M with --json]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_output: Option<u64>,
    /// Print one JSON object with the result instead of the output as it comes
    #[arg(long, conflicts_with_all = ["tty"])]
    pub json: bool,
    /// Print nothing but the command's output and errors
    #[arg(long, short)]
    pub quiet: bool,
    /// Have what ran signed, and write the receipt there; the proof that it is in the audit log goes into FILE.tlog-proof.
    /// With --mode live a directory for the receipts of all commands
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    /// Boot the machine afresh instead of cloning a saved one; slow, for comparison
    #[arg(long)]
    pub no_template: bool,
    /// Read the request as a line of JSON from standard input (`-`), so that neither command nor environment appears among a
    /// process's arguments; with -i the rest is the command's input
    #[arg(long, value_name = "-", value_parser = ["-"], conflicts_with_all = [
        "image", "cpus", "memory", "disk", "profile", "accept_risk", "require", "allow_missing", "timeout", "env", "given",
        "cwd", "user", "max_output", "command",
    ])]
    pub request: Option<String>,
    /// The command and its arguments, after --; with --mode live the script and its arguments
    #[arg(required_unless_present = "request", value_name = "CMD", trailing_var_arg = true)]
    pub command: Vec<String>,
}

impl RunArgs {
    /// Whether the command stands after --. It is the end of this process's arguments.
    pub fn is_behind_dashes(&self) -> bool {
        std::env::args_os().rev().nth(self.command.len()).is_some_and(|before| before == "--")
    }
}

/// What else can be run than a command in a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A script on this host, which makes sandboxes
    Live,
    /// A script on this host, whose SDK starts nothing and writes down what it would do
    Record,
    /// The same, to show what would be allowed of it
    Plan,
}

/// The machine to run in.
#[derive(Debug, Args, Clone)]
pub struct MachineArgs {
    /// Image to run: debian, base, or one of your own (mvmctl image ls)
    #[arg(long, default_value = "debian")]
    pub image: String,
    /// Virtual processors
    #[arg(long, default_value_t = 1, value_parser = parse_cpus)]
    pub cpus: u32,
    /// Memory of the machine (256M, 1G; a plain number is MiB)
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_memory, allow_hyphen_values = true)]
    pub memory: u32,
    /// Size of its disk; it takes space on the host only as it fills
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = parse_disk)]
    pub disk: u64,
}

/// `mvmctl setup`.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// Use this kernel (a bzImage or an ELF vmlinux) instead of the distribution's
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// The kernel's modules, a directory such as /lib/modules/6.1.0; not needed if its drivers are built in
    #[arg(long, value_name = "DIR", requires = "kernel")]
    pub modules: Option<PathBuf>,
    /// Prepare only these images
    #[arg(long = "image", value_name = "NAME")]
    pub images: Vec<String>,
    /// Print one JSON object at the end
    #[arg(long)]
    pub json: bool,
}

/// `mvmctl doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// `mvmctl template`.
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// List the templates, the last used first
    Ls {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove templates by key; runs that use them are not disturbed
    Rm {
        /// Keys, as `mvmctl template ls` shows them
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        /// Print what was removed as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove damaged templates, then the least recently used ones until the rest fits
    Gc {
        /// How much disk the templates may take together
        #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = parse_size, conflicts_with = "all")]
        max: u64,
        /// Remove every template
        #[arg(long)]
        all: bool,
        /// Print what was removed as JSON
        #[arg(long)]
        json: bool,
    },
}

/// `mvmctl bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Samples for each lane
    #[arg(long, short = 'n', default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..=1000))]
    pub samples: u32,
    /// Measure only these lanes
    #[arg(long = "lane", value_name = "LANE")]
    pub lanes: Vec<String>,
    /// Print everything, raw samples included, as JSON
    #[arg(long)]
    pub json: bool,
    /// Also write the results into this Markdown file
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// Parses the process's arguments.
pub fn parse() -> Result<Cli, clap::Error> {
    Cli::try_parse()
}

/// A memory size; a plain number is MiB. Returns MiB.
fn parse_memory(text: &str) -> Result<u32, String> {
    let bytes =
        if text.bytes().all(|b| b.is_ascii_digit()) { parse_size(&format!("{text}M"))? } else { parse_size(text)? };
    match u32::try_from(bytes >> 20) {
        Ok(0) => Err("a machine has memory; give it 256M or more".into()),
        other => other.map_err(|_| "more than any machine has".into()),
    }
}

/// A number of processors.
fn parse_cpus(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|cpus| *cpus > 0).ok_or_else(|| "a machine has 1 or more processors".to_owned())
}

/// The size of a disk.
fn parse_disk(text: &str) -> Result<u64, String> {
    parse_size(text)
        .and_then(|bytes| if bytes == 0 { Err("a disk has a size; give it 64M or more".into()) } else { Ok(bytes) })
}

/// `NAME=VALUE`.
pub fn parse_env(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) => Err("the name is empty; write it NAME=VALUE".into()),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err("write it NAME=VALUE; nothing is taken over from the host's environment".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_memory("256"), Ok(256));
        assert_eq!(parse_memory("1G"), Ok(1024));
        assert!(parse_memory("0").is_err() && parse_memory("1000K").is_err() && parse_disk("0").is_err());
        assert!(parse_cpus("0").is_err() && parse_cpus("-1").is_err() && parse_cpus("2") == Ok(2));
    }

    #[test]
    fn environment() {
        assert_eq!(parse_env("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(parse_env("A="), Ok(("A".into(), String::new())));
        assert!(parse_env("=b").is_err() && parse_env("A").is_err());
    }
}
