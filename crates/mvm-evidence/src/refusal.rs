//! Why a document is not accepted: one reason each, with a name and an exit status that scripts can rely on.

use crate::text::printable;

/// Which document, or which part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The DSSE envelope: the file of a receipt.
    Envelope,
    /// The in-toto statement in it.
    Statement,
    /// An entry of the audit log.
    Entry,
    /// A log's signed state.
    Checkpoint,
    /// An inclusion proof.
    Proof,
    /// The opening of a commitment.
    Opening,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Part::Envelope => "envelope",
            Part::Statement => "statement",
            Part::Entry => "log entry",
            Part::Checkpoint => "checkpoint",
            Part::Proof => "proof",
            Part::Opening => "opening",
        })
    }
}

/// Why a document was refused. `Display` is a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Longer than any that mvm writes.
    TooLarge(Part),
    /// Not JSON in UTF-8.
    NotJson(Part),
    /// JSON with a field that this version does not know.
    UnknownField(Part, String),
    /// A field is missing, doubled or of another type, or a line is not where it belongs.
    WrongShape(Part, String),
    /// Right content, but not spelled the one way in which mvm writes it.
    NotCanonical(Part),
    /// A value is longer than allowed, or has characters that it must not have.
    OutOfBounds(Part, String),
    /// The envelope holds something else than an in-toto statement.
    WrongPayloadType,
    /// The envelope has no signature, or more than one.
    NotOneSignature,
    /// Not standard base64 with padding.
    BadBase64(Part),
    /// Signed by a key that the verifier was not given.
    UnknownKey(Part),
    /// The signature is not that key's over these bytes.
    BadSignature(Part),
    /// Not an in-toto statement, version 1.
    WrongStatementType,
    /// A statement about something else than a run, or of another version.
    WrongPredicateType,
    /// The subject is not the run that the predicate describes.
    WrongSubject,
    /// The proof is of another log than the receipt names.
    WrongLog,
    /// The hashes of the proof do not lead from the entry to the signed root.
    NotIncluded,
    /// The entry that the proof proves is not about this receipt.
    WrongEntry,
    /// The opening is not of this receipt, or its value is not the one that was committed to.
    WrongOpening,
}

impl Refusal {
    /// A name that stays the same in every version.
    pub fn name(&self) -> &'static str {
        self.row().0
    }

    /// The exit status of a program that refuses for this reason. None of them is a status that `mvmctl` uses otherwise.
    pub fn exit_status(&self) -> u8 {
        self.row().1
    }

    fn row(&self) -> (&'static str, u8) {
        match self {
            Refusal::TooLarge(_) => ("too-large", 20),
            Refusal::NotJson(_) => ("not-json", 21),
            Refusal::UnknownField(..) => ("unknown-field", 22),
            Refusal::WrongShape(..) => ("wrong-shape", 23),
            Refusal::NotCanonical(_) => ("not-canonical", 24),
            Refusal::OutOfBounds(..) => ("out-of-bounds", 25),
            Refusal::WrongPayloadType => ("wrong-payload-type", 30),
            Refusal::NotOneSignature => ("not-one-signature", 31),
            Refusal::BadBase64(_) => ("bad-base64", 32),
            Refusal::UnknownKey(_) => ("unknown-key", 33),
            Refusal::BadSignature(_) => ("bad-signature", 34),
            Refusal::WrongStatementType => ("wrong-statement-type", 40),
            Refusal::WrongPredicateType => ("wrong-predicate-type", 41),
            Refusal::WrongSubject => ("wrong-subject", 42),
            Refusal::WrongLog => ("wrong-log", 50),
            Refusal::NotIncluded => ("not-included", 51),
            Refusal::WrongEntry => ("wrong-entry", 52),
            Refusal::WrongOpening => ("wrong-opening", 53),
        }
    }

    /// Every reason once, for tables: the details are empty.
    pub fn all() -> Vec<Refusal> {
        let part = Part::Envelope;
        vec![
            Refusal::TooLarge(part),
            Refusal::NotJson(part),
            Refusal::UnknownField(part, String::new()),
            Refusal::WrongShape(part, String::new()),
            Refusal::NotCanonical(part),
            Refusal::OutOfBounds(part, String::new()),
            Refusal::WrongPayloadType,
            Refusal::NotOneSignature,
            Refusal::BadBase64(part),
            Refusal::UnknownKey(part),
            Refusal::BadSignature(part),
            Refusal::WrongStatementType,
            Refusal::WrongPredicateType,
            Refusal::WrongSubject,
            Refusal::WrongLog,
            Refusal::NotIncluded,
            Refusal::WrongEntry,
            Refusal::WrongOpening,
        ]
    }

    /// What the JSON parser says of a document.
    pub(crate) fn json(part: Part, error: &serde_json::Error) -> Refusal {
        if !error.is_data() {
            return Refusal::NotJson(part);
        }
        // Serde has no other way to tell the two apart. Both are refusals; a test holds the wording.
        let said = printable(&error.to_string());
        if said.starts_with("unknown field") {
            Refusal::UnknownField(part, said)
        } else {
            Refusal::WrongShape(part, said)
        }
    }

    pub(crate) fn shape(part: Part, what: impl AsRef<str>) -> Refusal {
        Refusal::WrongShape(part, printable(what.as_ref()))
    }

    pub(crate) fn bounds(part: Part, what: impl AsRef<str>) -> Refusal {
        Refusal::OutOfBounds(part, printable(what.as_ref()))
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::TooLarge(part) => write!(f, "the {part} is longer than any that mvm writes"),
            Refusal::NotJson(part) => write!(f, "the {part} is not JSON"),
            Refusal::UnknownField(part, what) => {
                write!(f, "the {part} has a field that this version does not know: {what}")
            }
            Refusal::WrongShape(part, what) => write!(f, "the {part} does not have the form of one: {what}"),
            Refusal::NotCanonical(part) => write!(f, "the {part} is not spelled the one way in which mvm writes it"),
            Refusal::OutOfBounds(part, what) => write!(f, "the {part} has a value that is not allowed: {what}"),
            Refusal::WrongPayloadType => f.write_str("the envelope holds something else than an in-toto statement"),
            Refusal::NotOneSignature => f.write_str("the envelope does not have exactly one signature"),
            Refusal::BadBase64(part) => write!(f, "the {part} has a part that is not standard base64"),
            Refusal::UnknownKey(part) => write!(f, "the {part} is signed by none of the keys given"),
            Refusal::BadSignature(part) => {
                write!(f, "the {part}'s signature does not fit: it, or what was signed, was changed")
            }
            Refusal::WrongStatementType => f.write_str("the payload is not an in-toto statement of version 1"),
            Refusal::WrongPredicateType => f.write_str("the statement is not a run receipt of version 1"),
            Refusal::WrongSubject => f.write_str("the statement's subject is not the run that it describes"),
            Refusal::WrongLog => f.write_str("the proof is of another audit log than the receipt names"),
            Refusal::NotIncluded => {
                f.write_str("the proof does not lead from the log entry to the signed state of the log")
            }
            Refusal::WrongEntry => f.write_str("the log entry that the proof proves is not about this receipt"),
            Refusal::WrongOpening => f.write_str("the value is not the one that this receipt commits to"),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_and_statuses_are_each_ones_own() {
        let all = Refusal::all();
        assert_eq!(all.iter().map(Refusal::name).collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(all.iter().map(Refusal::exit_status).collect::<BTreeSet<_>>().len(), all.len());
        assert!(all.iter().all(|r| (20..100).contains(&r.exit_status())));
    }

    #[test]
    fn the_parsers_words_are_told_apart() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct One {
            #[allow(dead_code, reason = "only its presence counts")]
            a: u8,
        }
        let name = |text: &str| Refusal::json(Part::Entry, &serde_json::from_str::<One>(text).unwrap_err()).name();
        assert_eq!(name(r#"{"a":1,"b":2}"#), "unknown-field");
        assert_eq!(name(r#"{"a":"x"}"#), "wrong-shape");
        assert_eq!(name("{}"), "wrong-shape");
        assert_eq!(name(r#"{"a":1,"a":1}"#), "wrong-shape");
        assert_eq!(name("{"), "not-json");
        assert_eq!(name("x"), "not-json");
        // What a document says never comes out as it went in.
        let hostile = serde_json::from_str::<One>("{\"\\u001b[2J\":1}").unwrap_err();
        assert!(!Refusal::json(Part::Entry, &hostile).to_string().contains('\x1b'));
    }
}
