//! What came of checking a log, and what no check of it can show.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::digest::Digest;
use crate::text::printable;

/// How many findings are kept; more are counted.
const MAX_FINDINGS: usize = 100;
/// How many kinds of events are counted by name.
const MAX_EVENTS: usize = 200;
/// Entries are stamped before their writer's turn comes, so a little disorder is no clock that was set.
const CLOCK_TOLERANCE_MS: u64 = 1000;

/// The exit status of a program that found a log changed.
pub const CHANGED: u8 = 60;

/// Something that is not as mvm wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A name that stays the same in every version.
    pub name: String,
    /// Where and what.
    pub what: String,
}

/// A checkpoint whose signature fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// How many entries it covers.
    pub size: u64,
    /// The key that signed it.
    pub keyid: Digest,
}

/// What came of checking a log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The log's name.
    pub origin: String,
    /// How many entries were read.
    pub size: u64,
    /// How many there are of each event.
    pub events: BTreeMap<String, u64>,
    /// The log's own checkpoint.
    pub checkpoint: Option<Seen>,
    /// The checkpoints from elsewhere.
    pub witnesses: Vec<Seen>,
    /// How many entries bear a time more than a second before that of the one before them. A clock that was set does that;
    /// it is no finding.
    pub clock_steps: u64,
    /// The first of these entries.
    pub first_clock_step: Option<u64>,
    /// Bytes of a write that a crash cut short. The next append clears them away; they are no finding.
    pub torn_bytes: u64,
    /// What was changed. Nothing, if the log is good.
    pub findings: Vec<Finding>,
    /// Findings beyond those that are listed.
    pub more_findings: u64,
    /// What this check cannot show.
    pub unseen: Vec<String>,
    #[serde(skip)]
    last_at_ms: u64,
}

impl Report {
    /// Whether nothing was found.
    pub fn is_good(&self) -> bool {
        self.findings.is_empty()
    }

    /// Zero, or [`CHANGED`].
    pub fn exit_status(&self) -> u8 {
        if self.is_good() { 0 } else { CHANGED }
    }

    pub(super) fn find(&mut self, name: &str, what: impl std::fmt::Display) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { name: name.to_owned(), what: printable(&what.to_string()) });
        } else {
            self.more_findings += 1;
        }
    }

    pub(super) fn count(&mut self, index: u64, event: &str, at_ms: u64) {
        if let Some(count) = self.events.get_mut(event) {
            *count += 1;
        } else if self.events.len() < MAX_EVENTS {
            self.events.insert(event.to_owned(), 1);
        }
        if at_ms.saturating_add(CLOCK_TOLERANCE_MS) < self.last_at_ms {
            self.clock_steps += 1;
            self.first_clock_step.get_or_insert(index);
        }
        self.last_at_ms = at_ms;
    }

    /// Says what nobody could have found.
    pub(super) fn conclude(&mut self) {
        let witnessed = self.witnesses.iter().map(|seen| seen.size).max();
        self.unseen.push(match witnessed {
            Some(size) => format!(
                "whether the entries from {size} on are those that were there first: whoever holds the signing key can \
                 write them anew; keep newer checkpoints elsewhere (mvmctl audit checkpoint --witness FILE)"
            ),
            None => {
                "whether the log was written anew as a whole by whoever holds the signing key: only a checkpoint kept \
                     elsewhere shows that (mvmctl audit checkpoint --witness FILE)"
                    .to_owned()
            }
        });
        self.unseen.push(match &self.checkpoint {
            Some(seen) if seen.size >= self.size => {
                "whether entries behind the checkpoint were cut off: there are none now".to_owned()
            }
            Some(seen) => format!(
                "whether the {} entries behind the checkpoint were changed, or others cut off there",
                self.size - seen.size
            ),
            None => {
                "whether anything was changed by somebody who made the hashes fit: the log has no checkpoint that is \
                     signed by a known key"
                    .to_owned()
            }
        });
        self.unseen.push("whether something happened that was never logged".to_owned());
        self.unseen.push("whether the times are right: they are of the host's clock".to_owned());
    }
}
