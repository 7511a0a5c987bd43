//! Commands in a sandbox: what starts them, what they write, how they end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ErrorObject;
use super::secrets::{self, SecretValues};

/// A command to run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment, on top of the sandbox's.
    pub env: BTreeMap<String, String>,
    /// Secrets that this command alone has as variables, by name: 32 at most, each of 8 bytes to 64 KiB. They are never
    /// answered, kept or logged, and redacted in all that the sandbox writes.
    #[serde(serialize_with = "secrets::hand_over", deserialize_with = "secrets::take_in")]
    #[schema(value_type = BTreeMap<String, String>, write_only, default = json!({}))]
    pub secrets: SecretValues,
    /// Working directory; the image's if empty.
    pub cwd: String,
    /// User; the image's if empty.
    pub user: String,
    /// Whether input will be sent (`PUT /v1/jobs/{job}/stdin`).
    pub stdin: bool,
    /// Give it a terminal of this size.
    #[serde(deserialize_with = "crate::object::optional")]
    pub tty: Option<TerminalSize>,
    /// Kill it after this many milliseconds.
    pub timeout_ms: Option<u64>,
    /// The command ends when the request's connection does, and its output is never dropped: it waits for the reader.
    pub attached: bool,
    /// Leave secrets in its output as they are. Only of a command that is attached: its output is its caller's.
    pub no_redact: bool,
    /// A repeated request with this key, of at most 256 bytes, starts nothing and returns the job that the first one started.
    #[schema(max_length = 256)]
    pub idempotency_key: String,
}

/// Columns and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TerminalSize {
    /// Rows.
    #[schema(maximum = 65535)]
    pub rows: u16,
    /// Columns.
    #[schema(maximum = 65535)]
    pub cols: u16,
}

/// A command that was started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its run id.
    pub run_id: String,
    /// Its program.
    pub program: String,
    /// When it was started, milliseconds since 1970.
    pub started_at_ms: u64,
    /// Whether it ends with the connection that started it.
    pub attached: bool,
    /// Offset of the first byte of output that is still kept.
    pub first_offset: u64,
    /// Bytes of output so far, on both streams together, as they are kept: with secrets redacted.
    pub end_offset: u64,
    /// Its result; null while it runs.
    pub result: Option<JobResult>,
    /// The entry of the audit log that authorised it (`mvmctl audit show`).
    pub audit_id: u64,
}

/// How a command ended. Reported only when all of its processes are gone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobResult {
    /// Exit code; null if a signal ended it or it did not start.
    pub exit_code: Option<u8>,
    /// Signal that ended it.
    pub signal: Option<u8>,
    /// It was killed because its time was up.
    pub timed_out: bool,
    /// The guest's kernel killed something of it for lack of memory.
    pub oom_killed: bool,
    /// Why its program could not be started.
    pub not_started: Option<NotStarted>,
    /// Why there is no result: it could not be started as asked, or its machine ended first.
    pub error: Option<ErrorObject>,
    /// Milliseconds from its start to its end.
    pub duration_ms: f64,
    /// Bytes it wrote to standard output, counted before secrets were redacted.
    pub stdout_bytes: u64,
    /// Bytes it wrote to standard error, counted before secrets were redacted.
    pub stderr_bytes: u64,
    /// Whether the policy's limit kept back some of its standard output.
    #[serde(default)]
    pub stdout_truncated: bool,
    /// Whether the policy's limit kept back some of its standard error.
    #[serde(default)]
    pub stderr_truncated: bool,
    /// Why its end is not on record, and no receipt can be had; null if it is.
    #[serde(default)]
    pub unrecorded: Option<String>,
    /// Its run id.
    #[serde(default)]
    pub run_id: String,
    /// The entry of the audit log that authorised it (`mvmctl audit show`).
    #[serde(default)]
    pub audit_id: u64,
    /// How often a secret was redacted in its output.
    #[serde(default)]
    pub redactions: u64,
}

/// A command whose program could not be started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotStarted {
    /// `command_not_found` or `command_not_executable`.
    pub reason: String,
    /// The program, made harmless.
    pub command: String,
    /// Linux error number.
    pub errno: i32,
}

/// Which output a piece belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output; with a terminal everything.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a job's output stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum JobEvent {
    /// The job runs.
    Started {
        /// Its run id.
        run_id: String,
        /// The entry of the audit log that authorised it.
        audit_id: u64,
    },
    /// A piece of output.
    Output {
        /// Of which stream.
        stream: Stream,
        /// Where it begins, counted over both streams.
        offset: u64,
        /// The bytes, in base64.
        data: String,
    },
    /// Output that is no longer kept.
    Gap {
        /// Where it begins.
        offset: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// The end, always last.
    Ended {
        /// How it ended.
        result: Box<JobResult>,
    },
}

/// What proves how a command ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// The signed envelope, as its file is to be written, byte for byte.
    pub envelope: String,
    /// The proof that it is in the audit log, as the file beside it is to be written.
    pub proof: String,
}

/// A signal for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Linux signal number. 9 kills the whole tree at once.
    #[schema(minimum = 1, maximum = 64)]
    pub signal: u8,
}

impl JobResult {
    /// The exit status by which a shell reports such an end: the command's own, 128 and the signal, 124 after the time
    /// limit, 127 or 126 if there is no such program or it cannot be executed.
    pub fn exit_status(&self) -> u8 {
        match self {
            JobResult { timed_out: true, .. } => 124,
            JobResult { not_started: Some(not_started), .. } => match not_started.reason == NotStarted::NOT_FOUND {
                true => 127,
                false => 126,
            },
            JobResult { signal: Some(signal), .. } => 128u8.saturating_add(*signal),
            JobResult { exit_code, .. } => exit_code.unwrap_or(125),
        }
    }

    /// The end in a few words: `exit 3`, `signal 9`, `timed out`.
    pub fn in_words(&self) -> String {
        match self {
            JobResult { error: Some(error), .. } => format!("lost ({})", error.why),
            JobResult { timed_out: true, .. } => "timed out".to_owned(),
            JobResult { not_started: Some(not_started), .. } => format!("not started ({})", not_started.reason),
            JobResult { signal: Some(signal), .. } => format!("signal {signal}"),
            result => format!("exit {}", result.exit_status()),
        }
    }
}

impl NotStarted {
    /// There is no such program.
    pub const NOT_FOUND: &str = "command_not_found";
    /// There is one, and it cannot be executed.
    pub const NOT_EXECUTABLE: &str = "command_not_executable";
}
