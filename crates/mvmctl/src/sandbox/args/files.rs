//! The command line of the verbs that bring bytes in and out: files, copies, ports.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mvm_wire::api::{PortName, PortRequest};

use super::OneArgs;
use crate::args::parse_size;

/// `mvmctl fs`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Paths are absolute and of the guest, without `..`. Everything is done as root of the guest.\n\n\
    Examples:\n  echo hello | mvmctl fs write box /root/f\n  mvmctl fs read box /root/f\n  mvmctl fs ls box /etc"
)]
pub enum FsCommand {
    /// Write a file: the old content or all of the new, never a part
    Write(FsWriteArgs),
    /// Read a file
    Read(FsReadArgs),
    /// List a directory
    Ls(FsPathArgs),
    /// Describe a file
    Stat {
        #[command(flatten)]
        at: FsPathArgs,
        /// Describe what a link points to, not the link
        #[arg(long, short = 'L')]
        follow: bool,
    },
    /// Make a directory
    Mkdir {
        #[command(flatten)]
        at: FsPathArgs,
        /// Make missing parents too, and be content with a directory that is there
        #[arg(long, short)]
        parents: bool,
        /// Its permissions, in octal
        #[arg(long, value_parser = parse_mode, default_value = "755")]
        mode: u32,
    },
    /// Rename a file; what has the new name is replaced
    Mv {
        #[command(flatten)]
        at: FsPathArgs,
        /// Its new path
        #[arg(value_name = "NEW_PATH")]
        to: String,
    },
    /// Remove a file or an empty directory
    Rm {
        #[command(flatten)]
        at: FsPathArgs,
        /// Remove a directory with all that is in it
        #[arg(long, short)]
        recursive: bool,
    },
}

/// A file of a sandbox, and how to print.
#[derive(Debug, Args)]
pub struct FsPathArgs {
    /// Name or id of the sandbox
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// An absolute path of the guest
    #[arg(value_name = "PATH")]
    pub path: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `mvmctl fs write`.
#[derive(Debug, Args)]
pub struct FsWriteArgs {
    #[command(flatten)]
    pub at: FsPathArgs,
    /// The file of the host to read; `-` is standard input
    #[arg(value_name = "SOURCE", default_value = "-")]
    pub source: PathBuf,
    /// Its permissions, in octal [default: as they are, 644 for a new one]
    #[arg(long, value_parser = parse_mode)]
    pub mode: Option<u32>,
    /// Whose it shall be: name, uid, name:group or uid:gid [default: as it is, root for a new one]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub owner: String,
    /// Write at its end instead of replacing it
    #[arg(long, short)]
    pub append: bool,
    /// Return only once the write survives the loss of the machine; otherwise it is in the guest's memory first
    #[arg(long)]
    pub sync: bool,
    /// Make missing directories on the way
    #[arg(long, short)]
    pub parents: bool,
}

/// `mvmctl fs read`.
#[derive(Debug, Args)]
pub struct FsReadArgs {
    /// Name or id of the sandbox
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// An absolute path of the guest
    #[arg(value_name = "PATH")]
    pub path: String,
    /// The file of the host to write; `-` is standard output
    #[arg(value_name = "DESTINATION", default_value = "-")]
    pub destination: PathBuf,
    /// Where to begin, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub offset: u64,
    /// How much at most
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub len: Option<u64>,
    /// Print an error as one JSON object: on standard output, or on standard error if some of the file is printed already
    #[arg(long)]
    pub json: bool,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| "not permissions; write them in octal, like 644".to_owned())
}

/// `mvmctl port`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "A port stays until it is removed or the sandbox is destroyed; while no machine runs, connections are \
    reset.\nOther machines can reach it only if an address says so, such as 0.0.0.0.\n\nExamples:\n  \
    mvmctl port add box 8080:80\n  mvmctl port add box 0:80\n  mvmctl port add box '[::1]:8080:80'\n  \
    mvmctl port rm box 8080"
)]
pub enum PortCommand {
    /// Have a port of this host lead to one in the sandbox
    Add {
        /// Name or id of the sandbox
        #[arg(value_name = "SANDBOX")]
        sandbox: String,
        /// The port of this host, 0 for any that is free, and the port in the sandbox
        #[arg(value_name = "[ADDRESS:]HOST:GUEST")]
        port: PortRequest,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the ports that lead into the sandbox
    Ls(OneArgs),
    /// Close a port, and reset its connections
    Rm {
        /// Name or id of the sandbox
        #[arg(value_name = "SANDBOX")]
        sandbox: String,
        /// The port of this host
        #[arg(value_name = "[ADDRESS:]HOST")]
        port: PortName,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// `mvmctl cp`.
#[derive(Debug, Args)]
#[command(
    after_help = "One side is SANDBOX:/PATH, the other a path of the host. A directory is copied with all that is in \
    it. A destination that is a directory, or ends with /, gets the source's name in it.\n\nOut of a guest nothing is \
    written outside the destination: links that lead out of it, devices, pipes and sockets are left out and listed.\n\n\
    Examples:\n  mvmctl cp ./src box:/work/\n  mvmctl cp box:/work/out.txt ."
)]
pub struct CpArgs {
    /// What to copy
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Where to
    #[arg(value_name = "DESTINATION")]
    pub destination: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
