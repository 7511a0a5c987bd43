//! The command line of the verbs for saved sandboxes and copies.

use clap::{Args, Subcommand};

use super::{Expiry, OneArgs, Ttl, parse_ttl};
use crate::secrets::SecretArgs;

/// `mvmctl snapshot`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "A snapshot holds the guest's memory, with whatever secrets were in it. Its files can be read by you alone.\n\n\
    Examples:\n  mvmctl snapshot save box --name before\n  mvmctl restore before --name box-2\n  mvmctl snapshot rm before"
)]
pub enum SnapshotCommand {
    /// Save a sandbox as it is at this moment; it goes on
    Save {
        #[command(flatten)]
        one: OneArgs,
        /// The snapshot's name; its id if left out
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
    },
    /// List the snapshots, the oldest first
    Ls {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show everything about a snapshot, and whether it is whole
    Inspect {
        /// Name or id of the snapshot
        #[arg(value_name = "SNAPSHOT")]
        snapshot: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove snapshots; what was restored from them is not disturbed
    Rm {
        /// Names or ids of snapshots
        #[arg(required = true, value_name = "SNAPSHOT")]
        snapshots: Vec<String>,
        /// Print what was removed as JSON
        #[arg(long)]
        json: bool,
    },
}

/// How a sandbox ends, and who answers for it.
#[derive(Debug, Args, Clone)]
pub struct EndArgs {
    /// Who answers for it
    #[arg(long, default_value = "", hide_default_value = true)]
    pub owner: String,
    /// How long it lives (30m, 8h, 7d), or `none`, which needs an --owner [default: 1h; of a copy, the original's]
    #[arg(long, value_parser = parse_ttl)]
    pub ttl: Option<Ttl>,
    /// It ends with the client that claims it through its API, until `detach`; after 5 s if none does
    #[arg(long, conflicts_with = "ttl")]
    pub lease: bool,
}

impl EndArgs {
    /// The time to live in milliseconds, if one was given.
    pub fn ttl_ms(&self) -> Option<u64> {
        self.ttl.and_then(Ttl::ms)
    }

    /// Whether it is to have none.
    pub fn no_ttl(&self) -> bool {
        self.ttl == Some(Ttl::None)
    }
}

/// `mvmctl restore`.
#[derive(Debug, Args)]
#[command(
    after_help = "The new sandbox goes on where the snapshot was saved, with the same commands running, and an identity and \
    randomness of its own. What programs drew from their own random generators before is known to all that come from one \
    snapshot. Secrets are not in it, but for what programs have of them in memory: give them again with --secret. Output \
    of commands with secrets that are not known is withheld.\n\nExamples:\n  mvmctl restore before --name box-2\n  mvmctl restore before --disk-only"
)]
pub struct RestoreArgs {
    /// Name or id of the snapshot
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: String,
    /// Name of the new sandbox; made up if left out
    #[arg(long, default_value = "", hide_default_value = true)]
    pub name: String,
    #[command(flatten)]
    pub secrets: SecretArgs,
    #[command(flatten)]
    pub end: EndArgs,
    /// What happens when its time is up
    #[arg(long, value_enum, default_value_t = Expiry::Destroy)]
    pub on_expiry: Expiry,
    /// Boot on the snapshot's disk, without its memory
    #[arg(long)]
    pub disk_only: bool,
    /// A repeated `restore` with this key finds the sandbox that the first one made
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    pub idempotency_key: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Print only the sandbox's name
    #[arg(long, short)]
    pub quiet: bool,
}

/// `mvmctl fork`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each copy goes on where the sandbox is, with its memory, disk and commands, and an identity and randomness \
    of its own; host ports are not copied. All are made or none. They end as the sandbox does unless you say \
    otherwise.\n\nExamples:\n  mvmctl fork box\n  mvmctl fork box --count 10 --name try"
)]
pub struct ForkArgs {
    #[command(flatten)]
    pub one: OneArgs,
    /// How many copies
    #[arg(long, short = 'n', default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Call them NAME-1, NAME-2, …
    #[arg(long, default_value = "", hide_default_value = true)]
    pub name: String,
    #[command(flatten)]
    pub end: EndArgs,
    /// What happens when their time is up; as for the sandbox if left out
    #[arg(long, value_enum)]
    pub on_expiry: Option<Expiry>,
}
