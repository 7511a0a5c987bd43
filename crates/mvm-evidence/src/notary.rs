//! How a receipt and the log belong together.
//!
//! When a run ends, an entry with the digest of its statement is logged ([`record_end`]). When the receipt is signed, maybe
//! later and by another process, an entry with the digest of the envelope is logged, and proven ([`sign_receipt`]). Nothing
//! is signed that was not logged at its end.

use crate::entry::Entry;
use crate::envelope::{Envelope, Verified};
use crate::error::{Error, Kind, Result};
use crate::keys::{KeyRing, PublicKey};
use crate::log::{Durability, Log};
use crate::proof::{Included, Proof};
use crate::refusal::Refusal;
use crate::statement::Statement;

/// The event of the entry that is logged when a run ends.
pub const ENDED: &str = "run.ended";
/// The event of the entry that is logged when a receipt is signed.
pub const RECEIPT: &str = "receipt";
/// The event of the entry that is logged when the signing key is replaced.
pub const KEY_ROTATED: &str = "key.rotated";

/// The field with the SHA-256 of the payload.
const STATEMENT: &str = "statement";
/// The field with the SHA-256 of the envelope's file.
const ENVELOPE: &str = "envelope";
/// The field with the index of the entry of the run's end.
const ENDED_AT: &str = "ended";

/// A receipt and what proves that it was logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The receipt's file.
    pub envelope: Vec<u8>,
    /// The proof's file, to be kept beside it as `FILE.tlog-proof`.
    pub proof: String,
    /// The index of the receipt's entry.
    pub index: u64,
}

/// Logs that a run has ended, with the digest of its statement; signing makes it durable. `details` is an entry with the event
/// [`ENDED`] and whatever else is to be in it; the run, the sandbox and the digest are added. Returns the entry's index,
/// which [`sign_receipt`] asks for.
pub fn record_end(log: &Log, statement: &Statement, details: Entry) -> Result<u64> {
    let digest = statement.digest().map_err(unfit)?;
    let entry = Entry { event: ENDED.to_owned(), ..details };
    let entry = entry.run(&statement.run.run_id).sandbox(&statement.run.sandbox_id).field(STATEMENT, digest);
    log.append(&entry, Durability::Batched)
}

/// Signs the receipt of a run whose end is entry `ended` of the log, logs it, and proves that entry. A statement whose
/// digest is not in that entry is not signed.
pub fn sign_receipt(log: &Log, keys: &KeyRing, statement: &Statement, ended: u64) -> Result<Receipt> {
    let digest = statement.digest().map_err(unfit)?.to_string();
    must_be_logged(log, statement, ended, &digest)?;
    let signer = keys.signer()?;
    let envelope = Envelope::sign(statement, &signer).map_err(unfit)?.to_bytes();
    let entry = Entry::now(RECEIPT)
        .run(&statement.run.run_id)
        .sandbox(&statement.run.sandbox_id)
        .field(ENVELOPE, crate::Digest::of(&envelope))
        .field(STATEMENT, digest)
        .field(ENDED_AT, ended);
    let index = log.append(&entry, Durability::Batched)?;
    // Which makes it durable.
    let checkpoint = log.checkpoint(&signer)?;
    let proof = log.prove(index, &checkpoint)?.to_text();
    Ok(Receipt { envelope, proof, index })
}

fn must_be_logged(log: &Log, statement: &Statement, ended: u64, digest: &str) -> Result<()> {
    let run = &statement.run;
    let refuse = |why: String| {
        Err(Error::new(Kind::Refused, format!("cannot sign the receipt of {}", run.run_id), why)
            .hint("look at the log: mvmctl audit tail"))
    };
    if run.log != log.origin()? {
        return refuse(format!("it names another log, {}", run.log));
    }
    if run.audit_id >= ended {
        return refuse(format!("entry {} cannot have authorised what entry {ended} ended", run.audit_id));
    }
    let end = log.entry(ended)?;
    let is_end = end.event == ENDED && end.run.as_ref() == Some(&run.run_id);
    if !is_end || end.fields.get(STATEMENT).map(String::as_str) != Some(digest) {
        return refuse(format!("entry {ended} of the log is not the end of this run with this result"));
    }
    let authorised = log.entry(run.audit_id)?;
    let is_its = match &authorised.run {
        Some(id) => *id == run.run_id,
        None => authorised.sandbox.as_ref() == Some(&run.sandbox_id),
    };
    if !is_its {
        return refuse(format!("entry {} of the log is not what authorised it", run.audit_id));
    }
    Ok(())
}

/// Checks that a proof is of the log entry about a receipt that was verified.
pub fn verify_logged(receipt: &Verified, proof: &[u8], keys: &[PublicKey]) -> std::result::Result<Included, Refusal> {
    let included = Proof::verify(proof, keys)?;
    let run = &receipt.statement.run;
    if included.origin != run.log {
        return Err(Refusal::WrongLog);
    }
    let entry = &included.entry;
    let says = |field: &str, value: &str| entry.fields.get(field).is_some_and(|said| said == value);
    let about = entry.event == RECEIPT
        && entry.run.as_ref() == Some(&run.run_id)
        && entry.sandbox.as_ref() == Some(&run.sandbox_id)
        && says(ENVELOPE, &receipt.digest.to_string())
        && says(STATEMENT, &receipt.payload_digest.to_string());
    if about { Ok(included) } else { Err(Refusal::WrongEntry) }
}

fn unfit(why: Refusal) -> Error {
    Error::new(Kind::Invalid, "cannot make a receipt of this", why)
}
