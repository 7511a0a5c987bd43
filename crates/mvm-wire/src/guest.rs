//! What the host asks of the guest agent, and what the agent answers.
//!
//! Encoded with postcard, so within one protocol version fields and variants are frozen; a change is a new version in
//! [`crate::hello::VERSIONS`], and a host keeps speaking the versions of the snapshots it can still restore.

use serde::{Deserialize, Serialize};

use crate::files::{FileReply, FileRequest};

/// The first frame on a stream. Each stream carries one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Become a machine of its own. Until it is answered well, `Exec` is refused.
    Admit(Admit),
    /// Run a command; the stream then carries its input and output.
    Exec(Exec),
    /// Send a signal to a command's whole tree.
    Signal(Signal),
    /// The size of a command's terminal changed.
    Resize {
        /// From [`Reply::Started`].
        job: u64,
        /// The new size.
        size: TermSize,
    },
    /// Freeze all commands, sync, and end the session right after the answer: the machine is about to be stopped.
    Quiesce(Quiesce),
    /// Kill all commands and write everything to the disk: the machine is about to be switched off.
    Halt,
    /// Write a tar archive, sent as input frames, onto the root disk. Only a build machine does this.
    Unpack,
    /// Do something with the machine's files. Like `Exec` only once it is admitted.
    File(FileRequest),
    /// Leave the streams of all commands, each at its [`crate::frame::Kind::Mark`]. Answered when all have been left.
    Suspend,
    /// Take part in a command again that a suspension left; the stream then carries its input and output.
    Resume {
        /// From [`Reply::Started`].
        job: u64,
    },
    /// Let the commands go on that a quiesce has frozen. The host asks for it once the machine is admitted.
    Thaw,
    /// Connect to what listens on this TCP port of the machine; the stream then carries the bytes of both directions, in
    /// `Stdin` and `Stdout` frames. An empty frame ends its direction. A stream that ends without one was given up.
    Connect {
        /// The port.
        port: u16,
    },
    /// Send a tar archive of the root disk, as output frames, then `Done`. Only a build machine does this: one that was
    /// booted a moment ago, from this version's agent, and never one that was saved.
    Pack,
}

/// Why the machine is about to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiesce {
    /// It becomes a template: wait until the kernel has done all that each clone would otherwise do again.
    pub settle: bool,
}

/// A new machine's identity and the randomness and time it starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admit {
    /// Fresh from the host's generator; credited in full.
    pub entropy: [u8; 32],
    /// Host time, nanoseconds since 1970.
    pub realtime_ns: u64,
    /// Host name, a valid DNS label.
    pub hostname: String,
    /// 32 hex digits, for `/etc/machine-id`.
    pub machine_id: String,
    /// A UUID, for `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Commands cannot write to the root file system, and find this much room, in bytes, in `/tmp`; 0 leaves both as they
    /// are. It is for the life of the machine.
    pub scratch_bytes: u64,
}

/// What the guest found after an [`Admit`], read back from its kernel. The host compares it with what it sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// `uname -n`.
    pub hostname: String,
    /// Content of `/etc/machine-id`.
    pub machine_id: String,
    /// Content of `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The guest's clock after it was set.
    pub realtime_ns: u64,
    /// Whether the kernel took the entropy and reseeded from it.
    pub reseeded: bool,
    /// Whether the root file system is read-only for commands.
    pub read_only: bool,
}

/// A command to run.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments; the program is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment. The agent adds only what is missing of HOME, USER, LOGNAME and PATH.
    pub env: Vec<(String, String)>,
    /// Working directory; empty for the user's home.
    pub cwd: String,
    /// `name`, `uid`, `name:group` or `uid:gid`; empty for root.
    pub user: String,
    /// Give it a terminal of this size.
    pub tty: Option<TermSize>,
    /// Whether input frames follow; otherwise its standard input is empty.
    pub stdin: bool,
    /// It must run as an ordinary user, and none of its processes ever gains privileges.
    pub unprivileged: bool,
    /// Processes and threads it may have at once; 0 for as many as the machine can have.
    pub max_processes: u32,
}

impl std::fmt::Debug for Exec {
    /// Of the environment only the names: secrets are in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Exec { argv, env, cwd, user, tty, stdin, unprivileged, max_processes } = self;
        let names: Vec<&str> = env.iter().map(|(name, _)| name.as_str()).collect();
        let mut debug = f.debug_struct("Exec");
        debug.field("argv", argv).field("env", &names).field("cwd", cwd).field("user", user).field("tty", tty);
        debug.field("stdin", stdin).field("unprivileged", unprivileged).field("max_processes", max_processes).finish()
    }
}

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// A signal for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// From [`Reply::Started`].
    pub job: u64,
    /// Linux signal number. 9 kills the whole tree at once, whatever it did with process groups and sessions.
    pub number: u8,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To `Signal`, `Resize`, `Suspend`, `Quiesce`, `Thaw`, `Halt`, `Unpack`, `Pack` and `Connect`: it
    /// is done.
    Done,
    /// To `Admit`.
    Admitted(Admitted),
    /// To `Exec` and `Resume`: the command runs.
    Started {
        /// Names it in `Signal` and `Resize`.
        job: u64,
    },
    /// Last on an `Exec` stream: the command and everything it started are gone, all output was sent.
    Exited(Exited),
    /// The request failed.
    Failed(Failure),
    /// To `File`.
    File(FileReply),
    /// Last on the stream of a command that was suspended: all that it wrote so far was sent, and all input before the
    /// mark was taken.
    Suspended,
    /// To `Connect`, if nobody has answered at once: `Done` or `Failed` follows.
    Connecting,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Exit code, or the signal that ended it.
    pub status: Status,
    /// The guest's kernel killed something of its tree for lack of memory.
    pub oom_killed: bool,
}

/// Exit code or signal, exactly as the guest's kernel reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It exited with this code.
    Code(u8),
    /// It was ended by this signal.
    Signal(u8),
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step that failed.
    pub step: Step,
    /// Linux error number; 0 if there is none.
    pub errno: i32,
    /// What it was about, for people. Guest text: neutralise before printing.
    pub detail: String,
}

/// Where a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// The program could not be executed: `ENOENT` it does not exist, `EACCES` or `ENOEXEC` it is not executable.
    Program,
    /// The working directory could not be entered.
    Cwd,
    /// There is no such user or group.
    User,
    /// The guest is out of processes, memory or descriptors.
    Spawn,
    /// The machine has not been admitted.
    NotAdmitted,
    /// There is no such job.
    NoJob,
    /// The request or what followed it could not be understood.
    Protocol,
    /// Anything else; see the detail.
    Other,
    /// An operation on a file.
    File,
    /// A connection to a port.
    Connect,
}
