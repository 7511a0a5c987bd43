//! Openings: the value behind one commitment of a receipt, with the salt that shows it.
//!
//! The owner of the private record gives one away to prove one value. The salt in it is of that commitment alone, so it says
//! nothing about the others.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::commitment::{Field, Salt, commit};
use crate::digest::Digest;
use crate::refusal::{Part, Refusal};
use crate::statement::Statement;

/// The longest value that can be opened, in bytes.
pub const MAX_VALUE: usize = 16 << 20;
/// Longer than any opening, in bytes.
pub const MAX_OPENING: usize = 24 << 20;

/// A value of a run, and what proves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// What it is the value of: `argv`, `env`, `stdin`, `stdout` or `stderr`.
    pub field: String,
    /// The run.
    pub run_id: String,
    /// The salt of this commitment, in hex.
    pub salt: String,
    /// `urn:mvm:opening:v1`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The value, in base64.
    pub value: String,
}

/// What an opening says it is.
pub const OPENING_TYPE: &str = "urn:mvm:opening:v1";

impl Opening {
    /// Opens a commitment of a statement. `salt` is the commitment's own ([`Salt::of_field`]). Refused if the value is not the
    /// one that was committed to, or is longer than [`MAX_VALUE`].
    pub fn new(statement: &Statement, field: Field, salt: &Salt, value: &[u8]) -> Result<Opening, Refusal> {
        if value.len() > MAX_VALUE {
            return Err(Refusal::TooLarge(Part::Opening));
        }
        let opening = Opening {
            field: field.name().to_owned(),
            run_id: statement.run.run_id.clone(),
            salt: salt.to_hex(),
            kind: OPENING_TYPE.to_owned(),
            value: STANDARD.encode(value),
        };
        opening.check(statement).map(|_| opening)
    }

    /// Its file: canonical JSON and a line end.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Refusal> {
        let mut bytes = canonical::to_vec(self).map_err(|why| Refusal::bounds(Part::Opening, why.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a file, and only from the bytes that [`Opening::to_bytes`] makes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Opening, Refusal> {
        if bytes.len() > MAX_OPENING {
            return Err(Refusal::TooLarge(Part::Opening));
        }
        let text = bytes.strip_suffix(b"\n").ok_or(Refusal::NotCanonical(Part::Opening))?;
        canonical::from_slice(Part::Opening, text)
    }

    /// Whether it opens this statement. Returns what it opens and the value.
    pub fn check(&self, statement: &Statement) -> Result<(Field, Vec<u8>), Refusal> {
        let wrong = || Refusal::WrongOpening;
        let field = Field::ALL.into_iter().find(|field| field.name() == self.field).ok_or_else(wrong)?;
        let salt = Salt::from_hex(&self.salt).ok_or_else(wrong)?;
        let value = STANDARD.decode(&self.value).map_err(|_| wrong())?;
        let same = self.kind == OPENING_TYPE && self.run_id == statement.run.run_id;
        match same && commit(field, &salt, &value) == committed(statement, field) {
            true => Ok((field, value)),
            false => Err(wrong()),
        }
    }
}

fn committed(statement: &Statement, field: Field) -> Digest {
    let commitments = &statement.commitments;
    match field {
        Field::Argv => commitments.argv,
        Field::Env => commitments.env,
        Field::Stdin => commitments.stdin,
        Field::Stdout => commitments.stdout,
        Field::Stderr => commitments.stderr,
    }
}
