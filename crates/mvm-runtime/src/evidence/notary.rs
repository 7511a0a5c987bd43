//! Signing. It happens in a process of its own, which reads the private record of a command and nothing of a guest's: a
//! defect in what parses guest bytes does not reach the key.

use std::process::{Command, Stdio};

use mvm_evidence::notary;
use mvm_wire::ErrorCode;

use super::records;
use super::records::{Ended, PROOF, RECEIPT};
use crate::error::{Error, IoContext, Result};
use crate::home::{Home, write_whole};

/// The receipt of a command, made if there is none yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The envelope's file.
    pub envelope: Vec<u8>,
    /// The proof's file, which travels beside it.
    pub proof: Vec<u8>,
}

/// The receipt of a command that has ended.
pub fn receipt(home: &Home, of: &Ended) -> Result<Receipt> {
    if let Some(receipt) = stored(home, of)? {
        return Ok(receipt);
    }
    // A clear error here rather than in the other process.
    records::find(home, of)?;
    let what = || format!("cannot sign the receipt of {}", of.run_id);
    let output = Command::new(std::env::current_exe().context(what)?)
        .args(["notary", &of.run_id, &of.sandbox_id])
        .env_clear()
        .env("MVM_HOME", home.root())
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .context(what)?;
    if !output.status.success() {
        let said = crate::text::harmless(String::from_utf8_lossy(&output.stderr).trim());
        let why = said.strip_prefix("mvmctl: ").unwrap_or(&said).to_owned();
        return Err(Error::new(ErrorCode::FileError, what(), why));
    }
    stored(home, of)?.ok_or_else(|| Error::internal(what(), "it is not where it should be"))
}

fn stored(home: &Home, of: &Ended) -> Result<Option<Receipt>> {
    let (envelope, proof) = (records::read(home, of, RECEIPT)?, records::read(home, of, PROOF)?);
    // What the loss of power has emptied is made anew.
    let whole = envelope.zip(proof).filter(|(envelope, proof)| envelope.ends_with(b"\n") && proof.ends_with(b"\n"));
    Ok(whole.map(|(envelope, proof)| Receipt { envelope, proof }))
}

/// Signs the receipt of a command and keeps it beside its record. What `mvmctl notary` does, and nothing else in its process.
pub fn notarise(home: &Home, of: &Ended) -> Result<()> {
    let record = records::find(home, of)?;
    // One at a time: the second finds what the first has made.
    let _signing = home.lock("notary", || {})?;
    if stored(home, of)?.is_some() {
        return Ok(());
    }
    let (_, log) = super::prepare(home)?;
    let signed = notary::sign_receipt(&log, &super::keys(home), &record.statement()?, record.ended)?;
    write_whole(&of.path(home, PROOF), signed.proof.as_bytes())?;
    write_whole(&of.path(home, RECEIPT), &signed.envelope)
}
