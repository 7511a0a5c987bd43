//! A log's size and root, signed: a C2SP checkpoint, which is a signed note.
//!
//! A note may carry signatures of others too, such as witnesses; what the verifier has no key for is passed over, as the
//! specification asks. The log's own signature must be there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::digest::Digest;
use crate::keys::{PublicKey, Signer};
use crate::log::is_origin;
use crate::refusal::{Part, Refusal};

/// The longest checkpoint, in bytes. It leaves room for cosignatures.
pub const MAX_CHECKPOINT: usize = 64 << 10;
/// More signatures than these are refused.
const MAX_SIGNATURES: usize = 16;
/// Ed25519, as signed notes number it.
const ALGORITHM: u8 = 1;

/// What a log was at some moment. Only [`Checkpoint::verify`] says that it is true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Digest,
    note: String,
    /// Length of the signed text at the beginning of the note.
    signed: usize,
}

impl Checkpoint {
    /// Signs a state of a log.
    pub(crate) fn sign(origin: &str, size: u64, root: Digest, signer: &Signer) -> Checkpoint {
        let text = format!("{origin}\n{size}\n{}\n", STANDARD.encode(root.0));
        let signature = [&key_hash(origin, signer.public())[..], &signer.sign(text.as_bytes())].concat();
        let note = format!("{text}\n\u{2014} {origin} {}\n", STANDARD.encode(signature));
        Checkpoint { origin: origin.to_owned(), size, root, note, signed: text.len() }
    }

    /// Reads a checkpoint without believing it.
    pub fn parse(bytes: &[u8]) -> Result<Checkpoint, Refusal> {
        let bad = |what: &str| Refusal::shape(Part::Checkpoint, what);
        if bytes.len() > MAX_CHECKPOINT {
            return Err(Refusal::TooLarge(Part::Checkpoint));
        }
        let note = std::str::from_utf8(bytes).map_err(|_| bad("it is not text in UTF-8"))?;
        let (text, signatures) =
            note.rsplit_once("\n\n").ok_or_else(|| bad("no blank line is before its signatures"))?;
        let [origin, size, root] = text.split('\n').collect::<Vec<_>>()[..] else {
            return Err(bad("it does not have a line each for origin, size and root, and nothing more"));
        };
        if !is_origin(origin) {
            return Err(bad("it is not of a log of mvm"));
        }
        let root = STANDARD.decode(root).map_err(|_| Refusal::BadBase64(Part::Checkpoint))?;
        let checkpoint = Checkpoint {
            origin: origin.to_owned(),
            size: number(size).ok_or_else(|| bad("its size is no number"))?,
            root: Digest(root.try_into().map_err(|_| bad("its root is not a hash"))?),
            note: note.to_owned(),
            signed: text.len() + 1,
        };
        let lines = signatures.strip_suffix('\n').ok_or_else(|| bad("its last line does not end"))?.split('\n');
        if lines.clone().count() > MAX_SIGNATURES {
            return Err(bad("it has more signatures than allowed"));
        }
        lines.map(signature).collect::<Result<Vec<_>, _>>()?;
        Ok(checkpoint)
    }

    /// Checks the log's signature against the keys that are trusted, and returns the id of the one that made it.
    pub fn verify(&self, keys: &[PublicKey]) -> Result<Digest, Refusal> {
        let text = &self.note.as_bytes()[..self.signed];
        let mut refusal = Refusal::UnknownKey(Part::Checkpoint);
        for line in self.note[self.signed + 1..].lines() {
            let (name, hash, bytes) = signature(line)?;
            for key in keys.iter().filter(|key| name == self.origin && hash == key_hash(name, key)) {
                match <[u8; 64]>::try_from(&bytes[..]) {
                    Ok(bytes) if key.verify(text, &bytes) => return Ok(key.id()),
                    _ => refusal = Refusal::BadSignature(Part::Checkpoint),
                }
            }
        }
        Err(refusal)
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// How many entries it covers.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree of these entries.
    pub fn root(&self) -> Digest {
        self.root
    }

    /// The whole signed note.
    pub fn as_str(&self) -> &str {
        &self.note
    }
}

/// A signature line: key name, key hash, signature.
fn signature(line: &str) -> Result<(&str, [u8; 4], Vec<u8>), Refusal> {
    let bad = || Refusal::shape(Part::Checkpoint, "a line is not a signature's");
    let (name, encoded) = line.strip_prefix("\u{2014} ").and_then(|rest| rest.split_once(' ')).ok_or_else(bad)?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+') {
        return Err(bad());
    }
    let bytes = STANDARD.decode(encoded).map_err(|_| Refusal::BadBase64(Part::Checkpoint))?;
    let (hash, signature) = bytes.split_first_chunk::<4>().ok_or_else(bad)?;
    Ok((name, *hash, signature.to_vec()))
}

/// How a signature line names its key.
fn key_hash(name: &str, key: &PublicKey) -> [u8; 4] {
    let [a, b, c, d, ..] = Digest::of(&[name.as_bytes(), b"\n", &[ALGORITHM], key.as_bytes()].concat()).0;
    [a, b, c, d]
}

/// A number in decimal digits, with no zero before it, within the bounds of a log.
pub(crate) fn number(text: &str) -> Option<u64> {
    let plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    text.parse().ok().filter(|number| plain && *number < 1 << 52)
}
