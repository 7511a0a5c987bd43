//! Checking a whole log: everything is computed anew from the entries, and compared with the tiles, the log's own
//! checkpoint, and those that somebody kept elsewhere. Memory stays bounded however long the log is.

mod report;
mod walk;

use std::path::Path;

pub use report::{CHANGED, Finding, Report, Seen};

use crate::checkpoint::{Checkpoint, MAX_CHECKPOINT};
use crate::error::Result;
use crate::file;
use crate::keys::PublicKey;
use crate::log::read_origin;
use walk::{Claim, Walk};

/// Checks the log in a directory, and changes nothing there. `keys` are the public keys that its checkpoints may be signed
/// with; `witnesses` are checkpoints of it that were kept where whoever can write to the log cannot.
///
/// An error is only what keeps it from looking; what it finds is in the report.
pub fn verify(dir: &Path, keys: &[PublicKey], witnesses: &[Vec<u8>]) -> Result<Report> {
    std::fs::read_dir(dir)
        .map_err(|e| crate::Error::io(format!("cannot read the audit log in {}", dir.display()), e))?;
    let mut report = Report::default();
    match read_origin(dir) {
        Ok(Some(origin)) => report.origin = origin,
        Ok(None) => report.find("origin-missing", "there is no file `origin`, so this is not a log or not a whole one"),
        Err(error) => report.find("origin-changed", error.why),
    }
    let mut claims = Vec::new();
    let own = file::read(&dir.join("checkpoint"), MAX_CHECKPOINT as u64);
    match own {
        Ok(Some(bytes)) => claims.extend(claim(&bytes, keys, false, &mut report)),
        Ok(None) if !witnesses.is_empty() => report.find("checkpoint-missing", "the log has no checkpoint of its own"),
        Ok(None) => {}
        Err(error) => report.find("checkpoint-unreadable", error),
    }
    for bytes in witnesses {
        claims.extend(claim(bytes, keys, true, &mut report));
    }
    Walk::new(dir, claims, &mut report).run();
    report.conclude();
    Ok(report)
}

/// What a checkpoint says, if it is one of this log's and its signature fits.
fn claim(bytes: &[u8], keys: &[PublicKey], witness: bool, report: &mut Report) -> Option<Claim> {
    let (whose, name) = if witness { ("a witness", "witness") } else { ("the log's checkpoint", "checkpoint") };
    let checkpoint = match Checkpoint::parse(bytes) {
        Ok(checkpoint) => checkpoint,
        Err(why) => {
            report.find(&format!("{name}-unreadable"), format!("{whose}: {why}"));
            return None;
        }
    };
    if checkpoint.origin() != report.origin && !report.origin.is_empty() {
        report.find(&format!("{name}-of-another-log"), format!("{whose} is of the log {}", checkpoint.origin()));
        return None;
    }
    match checkpoint.verify(keys) {
        Ok(keyid) => {
            let seen = Seen { size: checkpoint.size(), keyid };
            if witness {
                report.witnesses.push(seen)
            } else {
                report.checkpoint = Some(seen)
            }
            Some(Claim { checkpoint, witness })
        }
        Err(why) => {
            report.find(&format!("{name}-{}", why.name()), format!("{whose}: {why}"));
            None
        }
    }
}
