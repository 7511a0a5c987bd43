//! The command line of the verbs for sandboxes that stay.

mod files;
mod saved;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use mvm_wire::api::{LogSource, OnExpiry, PortRequest, State};

pub use files::{CpArgs, FsCommand, FsPathArgs, FsReadArgs, FsWriteArgs, PortCommand};
pub use saved::{EndArgs, ForkArgs, RestoreArgs, SnapshotCommand};

use crate::args::{MachineArgs, parse_duration, parse_env, parse_size};
use crate::policy::PolicyArgs;
use crate::secrets::SecretArgs;

/// `mvmctl up`.
#[derive(Debug, Args)]
#[command(
    after_help = "The sandbox is ready when this returns, and ends after its time to live whether mvmctl is called again \
    or not.\n\nExamples:\n  mvmctl up --name box\n  mvmctl up --name web --ttl 8h -- python3 -m http.server\n  \
    mvmctl up --attach -- bash -c 'echo gone when this ends'\n  mvmctl up web.bundle --name web-1 --ttl 8h"
)]
pub struct UpArgs {
    /// A workload to bring up: a bundle, a source file that declares it, a document, or an image that was built of one. Its
    /// image is built first, its recorded steps are done, and its entrypoint is started
    #[arg(value_name = "WORKLOAD", conflicts_with_all = [
        "image", "cpus", "memory", "disk", "env", "given", "profile", "ports", "on_expiry", "idempotency_key", "attach", "lease",
        "request", "command",
    ])]
    pub workload: Option<PathBuf>,
    /// Its name: lower-case letters, digits and hyphens; made up if left out
    #[arg(long, default_value = "", hide_default_value = true)]
    pub name: String,
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Set an environment variable for every command in it. Nothing of the host's environment is passed on
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = parse_env)]
    pub env: Vec<(String, String)>,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub secrets: SecretArgs,
    /// Have a port of this host lead into it; the address is 127.0.0.1 unless another one is given
    #[arg(long = "port", value_name = "[ADDRESS:]HOST:GUEST")]
    pub ports: Vec<PortRequest>,
    #[command(flatten)]
    pub end: EndArgs,
    /// What happens when its time is up
    #[arg(long, value_enum, default_value_t = Expiry::Destroy)]
    pub on_expiry: Expiry,
    /// A repeated `up` with this key finds the sandbox that the first one made
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    pub idempotency_key: String,
    /// Stay, show the command's output, and destroy the sandbox at the end
    #[arg(long, conflicts_with_all = ["ttl", "lease", "json"])]
    pub attach: bool,
    /// Read the request as JSON from standard input (`-`), so that no value appears among a process's arguments
    #[arg(long, value_name = "-", value_parser = ["-"], conflicts_with_all = [
        "name", "image", "cpus", "memory", "disk", "env", "given", "profile", "accept_risk", "require", "allow_missing", "ports",
        "owner", "ttl", "on_expiry", "idempotency_key", "lease", "attach",
    ])]
    pub request: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Print only what was asked for
    #[arg(long, short)]
    pub quiet: bool,
    /// A command to start in it, after --
    #[arg(value_name = "CMD", last = true)]
    pub command: Vec<String>,
}

/// A time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// So long.
    For(Duration),
    /// Until somebody ends it.
    None,
}

impl Ttl {
    /// The time in milliseconds, if it is one.
    pub fn ms(self) -> Option<u64> {
        match self {
            Ttl::For(ttl) => Some(ttl.as_millis() as u64),
            Ttl::None => None,
        }
    }
}

fn parse_ttl(text: &str) -> Result<Ttl, String> {
    if text == "none" { Ok(Ttl::None) } else { parse_duration(text).map(Ttl::For) }
}

/// What happens when a sandbox's time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Expiry {
    /// It is destroyed, with its disk
    Destroy,
    /// It is stopped; its disk is kept
    Stop,
    /// It is paused: its memory is saved with its disk
    Cold,
}

impl From<Expiry> for OnExpiry {
    fn from(expiry: Expiry) -> OnExpiry {
        match expiry {
            Expiry::Destroy => OnExpiry::Destroy,
            Expiry::Stop => OnExpiry::Stop,
            Expiry::Cold => OnExpiry::Cold,
        }
    }
}

/// A sandbox, and how to print.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// Name or id of the sandbox
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `mvmctl ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Also those that were destroyed
    #[arg(long, short)]
    pub all: bool,
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
}

/// `mvmctl wait`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: with a job, the job's; without, 0 when the sandbox is in the state. 124 after --timeout."
)]
pub struct WaitArgs {
    #[command(flatten)]
    pub one: OneArgs,
    /// A job to wait for, by its run id
    #[arg(value_name = "JOB")]
    pub job: Option<String>,
    /// The state to wait for
    #[arg(long, value_parser = parse_state, default_value = "running", conflicts_with = "job")]
    pub state: State,
    /// Wait at most so long
    #[arg(long, value_name = "TIME", value_parser = parse_duration, allow_hyphen_values = true)]
    pub timeout: Option<Duration>,
}

fn parse_state(text: &str) -> Result<State, String> {
    State::from_name(text).ok_or_else(|| format!("not a state; there are {}", State::ALL.map(State::name).join(", ")))
}

/// `mvmctl down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    #[command(flatten)]
    pub one: OneArgs,
    /// Delete it, disk and all, instead of keeping the disk
    #[arg(long)]
    pub destroy: bool,
}

/// `mvmctl kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    #[command(flatten)]
    pub one: OneArgs,
    /// Only this job, by its run id, not the sandbox
    #[arg(value_name = "JOB")]
    pub job: Option<String>,
    /// The signal for the job, by number; 9 takes its whole tree
    #[arg(long, value_name = "NUMBER", default_value_t = 9, requires = "job", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub signal: u8,
}

/// `mvmctl destroy`.
#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// Names or ids of sandboxes
    #[arg(value_name = "SANDBOX", required_unless_present = "all")]
    pub sandboxes: Vec<String>,
    /// Every sandbox
    #[arg(long, conflicts_with = "sandboxes")]
    pub all: bool,
    /// Print the reports as JSON
    #[arg(long)]
    pub json: bool,
}

/// `mvmctl keep`.
#[derive(Debug, Args)]
pub struct KeepArgs {
    #[command(flatten)]
    pub one: OneArgs,
    /// How long from now
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1h", allow_hyphen_values = true)]
    pub ttl: Duration,
    /// What happens then; as before if left out
    #[arg(long, value_enum)]
    pub on_expiry: Option<Expiry>,
}

/// `mvmctl detach`.
#[derive(Debug, Args)]
#[command(
    after_help = "A sandbox with a lease (`up --lease`, or a program's own) then goes on when its client ends. Of any other \
    one, owner and end are set anew.\n\nExamples:\n  mvmctl detach box\n  mvmctl detach box --ttl none --owner alice\n  \
    mvmctl detach box --ttl 8h --on-expiry stop"
)]
pub struct DetachArgs {
    #[command(flatten)]
    pub one: OneArgs,
    /// Who answers for it; as before if left out
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub owner: String,
    /// How long from now (30m, 8h, 7d), or `none`, which needs an owner [default: 1h, or what its profile allows]
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    pub ttl: Option<Ttl>,
    /// What happens then
    #[arg(long, value_enum, default_value_t = Expiry::Destroy)]
    pub on_expiry: Expiry,
}

/// `mvmctl gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Print what was done as JSON
    #[arg(long)]
    pub json: bool,
}

/// `mvmctl exec`.
#[derive(Debug, Args)]
#[command(
    after_help = "The command ends when this does, however that comes about; with --detach it goes on.\n\nExit status: as \
    of `mvmctl run`.\n\nExamples:\n  mvmctl exec box -- ls -l /\n  mvmctl exec -it box -- bash\n  \
    mvmctl exec --detach box -- sh -c 'sleep 60; echo done'\n  \
    mvmctl exec --secret API_TOKEN=file:token.txt box -- ./upload.py"
)]
pub struct ExecArgs {
    /// Name or id of the sandbox
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// Kill the command after this time (10s, 1.5m, 500ms); then exit with 124
    #[arg(long, value_name = "TIME", value_parser = parse_duration, allow_hyphen_values = true)]
    pub timeout: Option<Duration>,
    /// Set an environment variable
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = parse_env)]
    pub env: Vec<(String, String)>,
    #[command(flatten)]
    pub secrets: SecretArgs,
    /// Leave secrets in the output as they are
    #[arg(long, conflicts_with = "detach")]
    pub no_redact: bool,
    /// Start in this directory of the guest
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    pub cwd: String,
    /// Run as this user of the guest: name, uid, name:group or uid:gid
    #[arg(long, short, value_name = "USER", default_value = "", hide_default_value = true)]
    pub user: String,
    /// Pass standard input to the command; otherwise it reads nothing
    #[arg(long, short, conflicts_with = "detach")]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// Keep at most this much of standard output and of standard error each; the rest is counted and dropped
    /// [default: no limit, 8M with --json]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "detach")]
    pub max_output: Option<u64>,
    /// Have what ran signed, and write the receipt there; the proof that it is in the audit log goes into FILE.tlog-proof
    #[arg(long, value_name = "FILE", conflicts_with = "detach")]
    pub receipt: Option<PathBuf>,
    /// Start it, print its run id, and leave it running
    #[arg(long, short)]
    pub detach: bool,
    /// A repeated `exec --detach` with this key starts nothing and prints the first one's run id
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true, requires = "detach")]
    pub idempotency_key: String,
    /// Print one JSON object with the result instead of the output as it comes
    #[arg(long, conflicts_with = "tty")]
    pub json: bool,
    /// Print nothing but the command's output and errors
    #[arg(long, short)]
    pub quiet: bool,
    /// The command and its arguments, after --
    #[arg(required = true, value_name = "CMD", last = true)]
    pub command: Vec<String>,
}

/// `mvmctl attach`.
#[derive(Debug, Args)]
#[command(
    after_help = "Shows what is kept of the job's output from there on, then follows it to its end. Ctrl-C leaves the job running.\n\nExit status: the job's."
)]
pub struct AttachArgs {
    /// Name or id of the sandbox
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// The job's run id
    #[arg(value_name = "JOB")]
    pub job: String,
    /// Where to begin, in bytes of both streams together
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub offset: u64,
    /// Print one JSON object for each event
    #[arg(long)]
    pub json: bool,
}

/// `mvmctl logs`.
#[derive(Debug, Args)]
#[command(
    after_help = "What its console printed, what its supervisor did, and what started commands wrote, a line each. The \
    output of commands that `exec` waited for went to their caller and is not in it. The log is bounded: lines that are \
    no longer kept are counted.\n\nSecrets that commands were given (--secret) were redacted before the log was written, \
    and nothing brings them back. What else looks like a credential is redacted when you read it; --redact off shows \
    it.\n\nExamples:\n  mvmctl logs box --tail 20\n  mvmctl logs box -f --source job\n  \
    mvmctl logs box --since 10m\n  mvmctl logs --redact show-rules"
)]
pub struct LogsArgs {
    /// Name or id of the sandbox
    #[arg(value_name = "SANDBOX", required_unless_present = "redact")]
    pub sandbox: Option<String>,
    /// Whether what looks like a credential is redacted in what is shown; or show the rules, and nothing else
    #[arg(long, value_enum, default_value_t = RedactMode::On)]
    pub redact: RedactMode,
    /// Stay and show what comes
    #[arg(long, short)]
    pub follow: bool,
    /// Nothing earlier: so long ago (10m, 2h) or a time (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub since: Option<u64>,
    /// Nothing later
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub until: Option<u64>,
    /// Of what there is already, only the last so many lines
    #[arg(long, short = 'n', value_name = "LINES")]
    pub tail: Option<usize>,
    /// Only lines from there
    #[arg(long, value_parser = parse_source)]
    pub source: Option<LogSource>,
    /// Print one JSON object for each line
    #[arg(long)]
    pub json: bool,
}

/// What is done about credentials when a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RedactMode {
    /// They are redacted
    On,
    /// They are shown; secrets that commands were given are not in the log
    Off,
    /// Print the rules of what is redacted
    ShowRules,
}

/// `mvmctl secret`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "A secret is given with --secret to `run`, `exec`, `up` and `restore`: by reference, never by value. mvm \
    keeps only the reference; the value is in the memory of the command's machine and of the sandbox's supervisor.\n\n\
    Examples:\n  mvmctl secret ls\n  mvmctl secret ls box --json"
)]
pub enum SecretCommand {
    /// List the secrets that commands have: their names, and where each came from
    Ls {
        /// Name or id of the sandbox; all if left out
        #[arg(value_name = "SANDBOX")]
        sandbox: Option<String>,
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
}

/// A time, as milliseconds since 1970.
fn parse_moment(text: &str) -> Result<u64, String> {
    if let Ok(ago) = parse_duration(text) {
        return Ok(mvm_runtime::time::now_ms().saturating_sub(ago.as_millis() as u64));
    }
    let moment = humantime::parse_rfc3339_weak(text)
        .map_err(|_| "not a time; write it like 10m (so long ago) or 2026-01-31T12:00:00Z".to_owned())?;
    Ok(moment.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}

fn parse_source(text: &str) -> Result<LogSource, String> {
    let names = LogSource::ALL.map(LogSource::name).join(", ");
    LogSource::ALL.into_iter().find(|source| source.name() == text).ok_or(format!("not a source; there are {names}"))
}
