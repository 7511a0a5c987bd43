//! A sandbox's log: what its console printed, what its started commands wrote, and what its supervisor did.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Stream;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// The machine's serial console.
    Console,
    /// The supervisor: changes of state, commands that began and ended.
    Supervisor,
    /// A command that was started and not attached.
    Job,
}

impl LogSource {
    /// Every source.
    pub const ALL: [LogSource; 3] = [LogSource::Console, LogSource::Supervisor, LogSource::Job];

    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            LogSource::Console => "console",
            LogSource::Supervisor => "supervisor",
            LogSource::Job => "job",
        }
    }
}

/// One line of the log, or lines that are missing, or the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum LogEvent {
    /// A line.
    Line(LogLine),
    /// Lines that are not in the log.
    Gap(LogGap),
    /// The end of the answer, always last.
    Summary(LogSummary),
}

/// What an answer had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogSummary {
    /// How many lines.
    pub lines: u64,
    /// How often something was redacted in them.
    pub redactions: u64,
    /// How many of these only for this answer: what is kept has it still.
    pub on_reading: u64,
    /// The rules that found these, in the order of their first finding.
    #[serde(default)]
    pub rules: Vec<LogRule>,
}

/// A rule that knows credentials by their shape, and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogRule {
    /// Its id (`mvmctl logs --redact show-rules`).
    pub rule: String,
    /// How often it found something.
    pub redactions: u64,
}

/// Whether credentials that are known by their shape are redacted when the log is read. Secrets that commands were given
/// were redacted before it was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Redact {
    /// They are.
    #[default]
    On,
    /// Lines are shown as they are kept.
    Off,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Its number; they go up by one.
    pub seq: u64,
    /// When it was complete, milliseconds since 1970, by the host's clock.
    pub at_ms: u64,
    /// Where it came from.
    pub source: LogSource,
    /// Which command wrote it.
    pub run_id: Option<String>,
    /// On which of its outputs.
    pub stream: Option<Stream>,
    /// The line without its end. Bytes that are no UTF-8 are U+FFFD; what is over 4 KiB is on the next line.
    pub text: String,
    /// How often something was redacted in it.
    #[serde(default)]
    pub redactions: u64,
}

/// Lines that are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogGap {
    /// The number of the first line that is missing, or of this entry if they never had one.
    pub seq: u64,
    /// When it was noticed, milliseconds since 1970; null if nobody knows.
    pub at_ms: Option<u64>,
    /// How many lines.
    pub lines: u64,
    /// Why.
    pub cause: GapCause,
    /// Where they came from, if from one source.
    pub source: Option<LogSource>,
    /// Which command wrote them.
    pub run_id: Option<String>,
}

/// Why lines are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GapCause {
    /// The log is bounded, and newer lines took their place.
    Overrun,
    /// They came faster than they are logged.
    Flood,
}

impl LogEvent {
    /// Its number, if it is in the log.
    pub fn seq(&self) -> Option<u64> {
        match self {
            LogEvent::Line(line) => Some(line.seq),
            LogEvent::Gap(gap) => Some(gap.seq),
            LogEvent::Summary(_) => None,
        }
    }

    /// Its time, if it has one.
    pub fn at_ms(&self) -> Option<u64> {
        match self {
            LogEvent::Line(line) => Some(line.at_ms),
            LogEvent::Gap(gap) => gap.at_ms,
            LogEvent::Summary(_) => None,
        }
    }

    /// Its source, if it has one.
    pub fn source(&self) -> Option<LogSource> {
        match self {
            LogEvent::Line(line) => Some(line.source),
            LogEvent::Gap(gap) => gap.source,
            LogEvent::Summary(_) => None,
        }
    }
}
