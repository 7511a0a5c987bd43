//! That an entry is in a log, in a file that needs nothing else: a C2SP tlog-proof, version 1. Its extra data is the entry
//! itself, so what was logged can be read from the proof, and is believed only because it hashes to the signed root.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::checkpoint::{Checkpoint, MAX_CHECKPOINT, number};
use crate::digest::Digest;
use crate::entry::{Entry, MAX_ENTRY};
use crate::keys::PublicKey;
use crate::merkle::{leaf_hash, root_of_inclusion};
use crate::refusal::{Part, Refusal};

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
/// The longest proof, in bytes.
pub const MAX_PROOF: usize = MAX_CHECKPOINT + MAX_ENTRY * 2 + 64 * 64;
/// A tree of 2^52 entries is no higher.
const MAX_HASHES: usize = 52;

/// An inclusion proof. Only [`Proof::verify`] says that it is true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    pub(crate) entry: Vec<u8>,
    pub(crate) index: u64,
    pub(crate) path: Vec<Digest>,
    pub(crate) checkpoint: Checkpoint,
}

/// What a good proof proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Included {
    /// The log's name.
    pub origin: String,
    /// The entry's index.
    pub index: u64,
    /// The entry.
    pub entry: Entry,
    /// How many entries the log had when it was signed.
    pub size: u64,
    /// The id of the key that signed the log.
    pub keyid: Digest,
}

impl Proof {
    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\nextra {}\nindex {}\n", STANDARD.encode(&self.entry), self.index);
        for hash in &self.path {
            text += &STANDARD.encode(hash.0);
            text.push('\n');
        }
        text.push('\n');
        text + self.checkpoint.as_str()
    }

    /// Reads a proof without believing it.
    pub fn parse(bytes: &[u8]) -> Result<Proof, Refusal> {
        let bad = |what: &str| Refusal::shape(Part::Proof, what);
        if bytes.len() > MAX_PROOF {
            return Err(Refusal::TooLarge(Part::Proof));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not text in UTF-8"))?;
        let (head, checkpoint) =
            text.split_once("\n\n").ok_or_else(|| bad("no blank line is before its checkpoint"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return Err(bad("its first line is not that of a proof"));
        }
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| Refusal::BadBase64(Part::Proof));
        let mut named =
            |name: &str, what: &str| lines.next().and_then(|line| line.strip_prefix(name)).ok_or_else(|| bad(what));
        let entry = decode(named("extra ", "the line with the entry is missing")?)?;
        let index = number(named("index ", "the line with the index is missing")?)
            .ok_or_else(|| bad("the index is no number"))?;
        let hash = |line| Ok(Digest(decode(line)?.try_into().map_err(|_| bad("a line is not a hash"))?));
        let path = lines.map(hash).collect::<Result<Vec<_>, Refusal>>()?;
        if path.len() > MAX_HASHES {
            return Err(bad("it has more hashes than any tree is high"));
        }
        Ok(Proof { entry, index, path, checkpoint: Checkpoint::parse(checkpoint.as_bytes())? })
    }

    /// Checks everything: the log's signature, that the entry leads to the signed root, and that it is one.
    pub fn verify(bytes: &[u8], keys: &[PublicKey]) -> Result<Included, Refusal> {
        let Proof { entry, index, path, checkpoint } = Proof::parse(bytes)?;
        let keyid = checkpoint.verify(keys)?;
        if root_of_inclusion(leaf_hash(&entry), index, checkpoint.size(), &path) != Some(checkpoint.root()) {
            return Err(Refusal::NotIncluded);
        }
        let entry = Entry::from_bytes(&entry)?;
        Ok(Included { origin: checkpoint.origin().to_owned(), index, entry, size: checkpoint.size(), keyid })
    }
}
