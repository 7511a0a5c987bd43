//! What a command was given in secrets, and its output without them.

use std::collections::BTreeMap;
use std::sync::Arc;

use mvm_wire::api::{SecretValue, SecretValues, Stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::secrets::{Grant, Known, Piece, Redactors};
use crate::vmm::guest::fill_random;

/// Which secrets a command was given, without their values: of each a mark that tells whether a value is the same. It is
/// saved with the machine, whose memory has the values themselves.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holds {
    salt: [u8; 16],
    /// Marks of those that were given with the request, by name.
    with_request: BTreeMap<String, String>,
    /// Marks of those that the command has because every command has.
    of_sandbox: BTreeMap<String, String>,
}

impl Holds {
    /// With its request, and as every command.
    pub fn of(values: &SecretValues, of_sandbox: &SecretValues) -> Result<Holds> {
        let mut holds = Holds::default();
        fill_random(&mut holds.salt)?;
        (holds.with_request, holds.of_sandbox) = (holds.marks(values), holds.marks(of_sandbox));
        Ok(holds)
    }

    fn marks(&self, values: &SecretValues) -> BTreeMap<String, String> {
        values.iter().map(|(name, value)| (name.clone(), self.mark(value))).collect()
    }

    fn mark(&self, value: &SecretValue) -> String {
        hex::encode(Sha256::new().chain_update(self.salt).chain_update(value.expose()).finalize())
    }

    /// Names of those that were given with the request.
    pub fn with_request(&self) -> impl Iterator<Item = &String> {
        self.with_request.keys()
    }

    /// Whether these were given with the request.
    pub fn were_given(&self, values: &SecretValues) -> bool {
        self.with_request == self.marks(values)
    }

    /// Names of those whose values are not known here. Another value of the same name is another secret.
    fn unknown(&self, known: &Known) -> Vec<String> {
        let all = self.with_request.iter().chain(&self.of_sandbox);
        let unknown = all.filter(|(name, mark)| !known.any(name, |value| self.mark(value) == **mark));
        unknown.map(|(name, _)| name.clone()).collect()
    }
}

/// How a command's output becomes what is kept of it. It lasts as long as the command: what is held back at a save is
/// still held when the machine goes on. What is saved of the command does not have it, so a copy of it may miss that
/// much of its output.
#[derive(Debug)]
pub struct Redaction {
    how: How,
    /// What it was given is remembered as long as this is held.
    grant: Option<Arc<Grant>>,
}

#[derive(Debug)]
enum How {
    /// The caller has it as it is.
    Off,
    /// Secrets are redacted, once there are any.
    On(Option<Redactors>),
    /// Nothing is shown: it has secrets that are not known here. Once that was said, true.
    Withheld(Vec<String>, bool),
}

impl Redaction {
    /// Of a command that begins here. Without redaction its output is as it wrote it.
    pub fn new(redact: bool, grant: Option<Arc<Grant>>) -> Redaction {
        Redaction { how: if redact { How::On(None) } else { How::Off }, grant }
    }

    /// Of a command that another supervisor started.
    pub fn of_saved(holds: &Holds, known: &Known) -> Redaction {
        let unknown = holds.unknown(known);
        let how = if unknown.is_empty() { How::On(None) } else { How::Withheld(unknown, false) };
        Redaction { how, grant: None }
    }

    /// Whether output is kept as it was written, which is for its caller alone and must not be saved.
    pub fn is_off(&self) -> bool {
        matches!(self.how, How::Off)
    }

    /// Whether all of the output is passed on as it is at the moment.
    pub fn passes(&mut self, known: &Known) -> bool {
        match &mut self.how {
            How::Off => true,
            How::Withheld(..) => false,
            How::On(redactors) => {
                if let Some(patterns) = known.patterns() {
                    redactors.get_or_insert_with(|| Redactors::new(&patterns)).renew(&patterns);
                }
                redactors.is_none()
            }
        }
    }

    /// Takes output that does not pass as it is.
    pub fn take(&mut self, stream: Stream, bytes: &[u8], emit: &mut dyn FnMut(Piece<'_>)) {
        match &mut self.how {
            How::Off | How::On(None) => emit(Piece::Text(bytes)),
            How::On(Some(redactors)) => redactors.pass(stream, bytes, emit),
            How::Withheld(_, true) => {}
            How::Withheld(names, told) => {
                *told = true;
                let names = names.join(", ");
                let notice = format!("[withheld: the values of this command's secrets are not known here: {names}]\n");
                emit(Piece::Text(notice.as_bytes()));
            }
        }
    }

    /// No more comes on a stream: passes on what was held.
    pub fn end(&mut self, stream: Stream, emit: &mut dyn FnMut(Piece<'_>)) {
        if let How::On(Some(redactors)) = &mut self.how {
            redactors.end(stream, emit);
        }
    }

    /// The same, as bytes.
    pub fn held(&mut self, stream: Stream) -> Vec<u8> {
        let mut held = Vec::new();
        self.end(stream, &mut |piece| held.extend_from_slice(piece.bytes()));
        held
    }

    /// The command is over: what it was given may be forgotten.
    pub fn close(&mut self) {
        self.grant = None;
    }

    /// How often a secret was redacted.
    pub fn total(&self) -> u64 {
        match &self.how {
            How::On(Some(redactors)) => redactors.total(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::Handover;

    fn values(pairs: &[(&str, &str)]) -> SecretValues {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string().into())).collect()
    }

    fn output(redaction: &mut Redaction, known: &Known, bytes: &[u8]) -> String {
        let mut shown = Vec::new();
        let _ = redaction.passes(known);
        redaction.take(Stream::Stdout, bytes, &mut |piece| shown.extend_from_slice(piece.bytes()));
        redaction.end(Stream::Stdout, &mut |piece| shown.extend_from_slice(piece.bytes()));
        String::from_utf8(shown).unwrap()
    }

    /// What a command holds, after it was saved.
    fn holds(with_request: &[(&str, &str)], of_sandbox: &[(&str, &str)]) -> Holds {
        let holds = Holds::of(&values(with_request), &values(of_sandbox)).unwrap();
        serde_json::from_str(&serde_json::to_string(&holds).unwrap()).unwrap()
    }

    #[test]
    fn requests_are_told_apart_by_their_values_too() {
        let first = holds(&[("A", "12345678")], &[("Z", "of-the-sandbox")]);
        assert!(first.were_given(&values(&[("A", "12345678")])));
        for other in [&[("A", "12345679")][..], &[("B", "12345678")], &[], &[("A", "12345678"), ("B", "12345678")]] {
            assert!(!first.were_given(&values(other)), "{other:?}");
        }
        assert_eq!(first.with_request().collect::<Vec<_>>(), ["A"]);
        assert!(!serde_json::to_string(&first).unwrap().contains("12345678"));
    }

    #[test]
    fn secrets_that_come_later_are_redacted_too() {
        let known = Known::default();
        let mut redaction = Redaction::new(true, None);
        assert!(redaction.passes(&known));
        assert_eq!(output(&mut redaction, &known, b"later-value"), "later-value");
        known.grant(values(&[("LATER", "later-value")]));
        assert!(!redaction.passes(&known));
        assert_eq!(output(&mut redaction, &known, b"later-value"), "[redacted:LATER]");
        assert_eq!(redaction.total(), 1);
        assert_eq!(output(&mut Redaction::new(false, None), &known, b"later-value"), "later-value");
    }

    #[test]
    fn output_that_cannot_be_redacted_is_withheld() {
        let known = Known::new(Handover::of(values(&[("A", "known-value")])));
        let saved = |holds: Holds| Redaction::of_saved(&holds, &known);
        let mut other = saved(holds(&[("A", "known-value")], &[("B", "unknown-value")]));
        assert!(!other.passes(&known));
        let told = output(&mut other, &known, b"unknown-value");
        assert!(
            told.starts_with("[withheld") && told.contains("known here: B]") && !told.contains("value\n"),
            "{told}"
        );
        assert_eq!(output(&mut other, &known, b"unknown-value"), "");
        // A value that was changed since, under the same name, is not the one that the command has.
        let mut changed = saved(holds(&[], &[("A", "the-old-value")]));
        assert!(output(&mut changed, &known, b"the-old-value").starts_with("[withheld"));
        let mut same = saved(holds(&[], &[("A", "known-value")]));
        assert_eq!(output(&mut same, &known, b"known-value"), "[redacted:A]");
    }
}
