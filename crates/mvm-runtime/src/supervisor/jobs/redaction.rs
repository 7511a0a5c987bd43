//! What a command was given in secrets, and its output without them.

use std::sync::Arc;
use std::sync::LazyLock;

use mvm_wire::api::{SecretValues, Stream};
use sha2::{Digest, Sha256};

use crate::secrets::{Grant, Known, Piece, Redactors};
use crate::vmm::guest::fill_random;

/// Known to this process alone: nobody else can try values against a mark.
static KEY: LazyLock<Option<[u8; 32]>> = LazyLock::new(|| {
    let mut key = [0; 32];
    fill_random(&mut key).ok().map(|()| key)
});

/// Which secrets a command was given, without their values.
#[derive(Debug, Clone, Default)]
pub struct Holds {
    /// Names of those that were given with the request.
    pub with_request: Vec<String>,
    /// Names of those that the command has because every command has.
    pub of_sandbox: Vec<String>,
    /// Tells values apart. `None` of a command that another supervisor started.
    mark: Option<[u8; 32]>,
}

impl Holds {
    /// With its request, and as every command.
    pub fn of(values: &SecretValues, of_sandbox: &SecretValues) -> Holds {
        let mark = KEY.map(|key| {
            let mut hash = Sha256::new().chain_update(key);
            for text in values.iter().flat_map(|(name, value)| [name.as_str(), value.expose()]) {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
            hash.finalize().into()
        });
        let names = |values: &SecretValues| values.keys().cloned().collect();
        Holds { with_request: names(values), of_sandbox: names(of_sandbox), mark }
    }

    /// What another supervisor saved of them.
    pub fn saved(with_request: Vec<String>, of_sandbox: Vec<String>) -> Holds {
        Holds { with_request, of_sandbox, mark: None }
    }

    /// Whether the same were given with the request, as far as that can be told.
    pub fn matches(&self, other: &Holds) -> bool {
        self.with_request == other.with_request
            && (self.mark.is_none() || other.mark.is_none() || self.mark == other.mark)
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
        let names = holds.with_request.iter().chain(&holds.of_sandbox);
        let unknown: Vec<String> = names.filter(|name| !known.knows(name)).cloned().collect();
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

    #[test]
    fn requests_are_told_apart_by_their_values_too() {
        let holds = |pairs: &[(&str, &str)]| Holds::of(&values(pairs), &values(&[("Z", "of-the-sandbox")]));
        assert!(holds(&[("A", "12345678")]).matches(&holds(&[("A", "12345678")])));
        for other in [&[("A", "12345679")][..], &[("B", "12345678")], &[], &[("A", "12345678"), ("B", "12345678")]] {
            assert!(!holds(&[("A", "12345678")]).matches(&holds(other)), "{other:?}");
        }
        assert!(Holds::saved(vec!["A".into()], vec![]).matches(&holds(&[("A", "12345678")])));
        assert!(!Holds::saved(vec![], vec!["A".into()]).matches(&holds(&[("A", "12345678")])));
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
        let mut saved = Redaction::of_saved(&Holds::saved(vec!["A".into()], vec!["B".into()]), &known);
        assert!(!saved.passes(&known));
        let told = output(&mut saved, &known, b"unknown-value");
        assert!(
            told.starts_with("[withheld") && told.contains("known here: B]") && !told.contains("value\n"),
            "{told}"
        );
        assert_eq!(output(&mut saved, &known, b"unknown-value"), "");
        let mut saved = Redaction::of_saved(&Holds::saved(vec![], vec!["A".into()]), &known);
        assert_eq!(output(&mut saved, &known, b"known-value"), "[redacted:A]");
    }
}
