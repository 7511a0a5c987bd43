//! The command line of keys, the audit log and receipts.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mvm_evidence::verify::CHANGED;
use mvm_evidence::{Digest, Refusal};

/// `mvmctl key`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "A key's id is the SHA-256 of its public half: openssl pkey -pubin -in FILE -outform DER | sha256sum"
)]
pub enum KeyCommand {
    /// List the keys: the one that signs, and those before it
    Show {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Sign with a new key from now on, and delete the private half of the present one
    Rotate {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print a public key, for those who verify receipts
    Export {
        /// Its id, as `mvmctl key show` prints it [default: the key that signs]
        #[arg(value_name = "KEYID")]
        id: Option<Digest>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// `mvmctl audit`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Print the last entries
    Tail {
        /// How many
        #[arg(long = "lines", short = 'n', value_name = "N", default_value_t = 20)]
        count: u64,
        /// Go on with what is added, until interrupted
        #[arg(long, short)]
        follow: bool,
        /// Print each entry as a line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one entry
    Show {
        /// Its number in the log: the audit id that a run reports
        #[arg(value_name = "ID")]
        index: u64,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Check the whole log: every entry, every hash, every signature
    Verify(AuditVerifyArgs),
    /// Print a proof that an entry is in the log, which can be checked on any machine
    Prove {
        /// Its number in the log
        #[arg(value_name = "ID")]
        index: u64,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Sign the log as it is now, and print what was signed
    Checkpoint {
        /// Check the log against the checkpoint in this file, then keep the new one there. A file that nobody who can
        /// write to the log can write to shows later whether the log was written anew
        #[arg(long, value_name = "FILE")]
        witness: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// `mvmctl audit verify`.
#[derive(Debug, Args)]
#[command(after_help = format!("Exit status: 0 if nothing was changed, {CHANGED} if something was, 125 if mvm could not look."))]
pub struct AuditVerifyArgs {
    /// Also check against a checkpoint that was kept elsewhere (`mvmctl audit checkpoint --witness FILE`)
    #[arg(long = "witness", value_name = "FILE")]
    pub witnesses: Vec<PathBuf>,
    /// A public key that may have signed the log [default: all of your own]
    #[arg(long = "key", value_name = "FILE")]
    pub keys: Vec<PathBuf>,
    /// Check the log in this directory [default: your own]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `mvmctl receipt`.
#[derive(Debug, Subcommand)]
pub enum ReceiptCommand {
    /// Show what the receipt of a command proves; it is signed now if it was not yet
    Show {
        /// Id of the command, as results and `mvmctl audit tail` have it
        #[arg(value_name = "RUN")]
        run: String,
        /// The sandbox, if the command ended in several copies of one
        #[arg(long, value_name = "ID")]
        sandbox: Option<String>,
        /// Also write the receipt there, and its proof into FILE.tlog-proof
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Print one JSON object, with the receipt and its proof
        #[arg(long)]
        json: bool,
    },
    /// Check a receipt, and say what it proves; needs nothing but the file and a public key
    Verify(ReceiptVerifyArgs),
    /// Prove a value that a receipt commits to, from the private record of the command
    Open(ReceiptOpenArgs),
}

/// `mvmctl receipt verify`.
#[derive(Debug, Args)]
#[command(
    after_help = format!(
        "The proof that the receipt was logged is checked too, if it lies beside it as FILE.tlog-proof.\n\n\
         Exit status: 0 if all is good, 125 if mvm could not look, else why it is refused:\n{}",
        refusals()
    )
)]
pub struct ReceiptVerifyArgs {
    /// The receipt
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// A public key that may have signed it [default: all of your own]
    #[arg(long = "key", value_name = "FILE")]
    pub keys: Vec<PathBuf>,
    /// The proof that it was logged [default: FILE.tlog-proof, if there is one]
    #[arg(long, value_name = "FILE")]
    pub proof: Option<PathBuf>,
    /// Also check an opening of one of its commitments (`mvmctl receipt open`)
    #[arg(long, value_name = "FILE")]
    pub opening: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `mvmctl receipt open`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints an opening: the value and the salt of its commitment, which `mvmctl receipt verify FILE --opening \
    OPENING` checks on any machine. It says nothing about the receipt's other commitments. Values other than the arguments \
    are not kept: bring them with --value. An environment is a JSON object of strings, without the secrets.\n\nExamples:\n  \
    mvmctl receipt open r.json argv\n  mvmctl receipt open r.json stdout --value out.txt > opening.json"
)]
pub struct ReceiptOpenArgs {
    /// The receipt
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What to prove
    #[arg(value_name = "FIELD", value_parser = ["argv", "env", "stdin", "stdout", "stderr"])]
    pub field: String,
    /// A file with the value, or - for standard input [default: what the record keeps, which is argv]
    #[arg(long, value_name = "FILE")]
    pub value: Option<PathBuf>,
    /// Print an error as JSON
    #[arg(long)]
    pub json: bool,
}

/// Every reason for which a receipt is refused, with its exit status.
fn refusals() -> String {
    let row = |refusal: &Refusal| format!("  {}  {}", refusal.exit_status(), refusal.name());
    Refusal::all().iter().map(row).collect::<Vec<_>>().join("\n")
}
