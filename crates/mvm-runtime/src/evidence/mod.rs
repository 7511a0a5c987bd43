//! What is put on record of all that happens: the audit log, and what a receipt of each command is made from.
//!
//! What authorises is durable before it takes effect; what describes is written at once and synced with the next that is.

mod notary;
mod records;
mod testimony;

use std::sync::Arc;

use mvm_evidence::{Durability, Entry, KeyRing, Log, PublicKey, Statement};
use mvm_wire::api::Plan;

use crate::error::{Error, Result};
use crate::home::Home;
use crate::policy::{self, Operation};

pub use notary::{Receipt, notarise, receipt};
pub use records::{Ended, Record, find as find_record, sweep};
pub use testimony::{Testimony, environment};

/// The audit log of a home.
#[derive(Debug, Clone)]
pub struct Evidence {
    home: Home,
    log: Arc<Log>,
}

impl Evidence {
    /// Opens the log of a home; makes it if there is none.
    pub fn open(home: &Home) -> Result<Evidence> {
        home.create()?;
        Ok(Evidence { home: home.clone(), log: Arc::new(Log::open(home.audit())?) })
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Records that a plan was admitted, durably, or that it was refused. Returns the entry's index if it may happen: its
    /// audit id.
    pub fn authorise(&self, operation: Operation, plan: &Plan, of: Of<'_>) -> Result<u64> {
        self.allowed(operation, plan, of)?;
        let entry = of
            .entry(&format!("{}.authorised", operation.name()))
            .field("profile", &plan.profile)
            .field("profile_digest", &plan.profile_digest)
            .field("plan", policy::digest(plan));
        let entry = match plan.allowed_missing.as_slice() {
            [] => entry,
            missing => entry.field("allowed_missing", Statement::prose(&missing.join(" "))),
        };
        self.log.append(&entry, Durability::Durable).map_err(|e| unrecorded(operation, e.into()))
    }

    /// Lets what was admitted happen without an entry of its own, because another one has authorised it. A refusal is
    /// recorded.
    pub fn allowed(&self, operation: Operation, plan: &Plan, of: Of<'_>) -> Result<()> {
        policy::decided(operation, plan).inspect_err(|_| {
            // A log that cannot be written is no reason to forget the refusal.
            let _ = self.denied(operation, plan, of);
        })
    }

    fn denied(&self, operation: Operation, plan: &Plan, of: Of<'_>) -> Result<u64> {
        let rules: std::collections::BTreeSet<&str> = plan.denials.iter().map(|denial| denial.rule.as_str()).collect();
        let entry = of
            .entry(&format!("{}.denied", operation.name()))
            .field("profile", &plan.profile)
            .field("plan", policy::digest(plan))
            .field("rules", rules.into_iter().collect::<Vec<_>>().join(" "));
        Ok(self.log.append(&entry, Durability::Batched)?)
    }

    /// Records something that has happened. Returns the entry's index.
    pub fn describe(&self, event: &str, of: Of<'_>, fields: &[(&str, &str)]) -> Result<u64> {
        let entry =
            fields.iter().fold(of.entry(event), |entry, (name, value)| entry.field(name, Statement::prose(value)));
        Ok(self.log.append(&entry, Durability::Batched)?)
    }
}

/// The user's keys.
pub fn keys(home: &Home) -> KeyRing {
    KeyRing::at(home.keys())
}

/// Makes the signing key and the audit log if they are missing, and returns them. A key that is made is on record.
pub fn prepare(home: &Home) -> Result<(PublicKey, Log)> {
    home.create()?;
    let first = keys(home).public_keys()?.is_empty();
    let key = keys(home).ensure()?;
    let log = open_log(home)?;
    if first {
        log.append(&Entry::now("key.created").field("key", key.id()), Durability::Durable)?;
    }
    Ok((key, log))
}

/// Opens the audit log, and makes it if it is missing.
pub fn open_log(home: &Home) -> Result<Log> {
    home.create()?;
    let log = Log::open(home.audit())?;
    // One that was changed is found to be before anything is done that it would have to tell.
    log.size()?;
    Ok(log)
}

/// What an entry is about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Of<'a> {
    /// A sandbox, by its id; empty if none.
    pub sandbox: &'a str,
    /// A command, by its id; empty if none.
    pub run: &'a str,
}

impl Of<'_> {
    fn entry(self, event: &str) -> Entry {
        let mut entry = Entry::now(event);
        if !self.sandbox.is_empty() {
            entry = entry.sandbox(self.sandbox);
        }
        if !self.run.is_empty() {
            entry = entry.run(self.run);
        }
        entry
    }
}

/// Nothing happens that cannot be recorded.
fn unrecorded(operation: Operation, e: Error) -> Error {
    let why = format!("it could not be recorded in the audit log: {}: {}", e.what, e.why);
    Error { why, what: operation.what().to_owned(), ..e }
}
