//! What the host sees of one command's input and output, as commitments and counts: of every byte, before any limit and
//! before anything is redacted. No byte is kept.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mvm_evidence::{Committer, Digest, Field, Salt};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::point;

/// Sees one command, from its start to its end, across saves of its machine.
#[derive(Debug)]
pub struct Witness {
    salt: Salt,
    seen: Mutex<Seen>,
}

#[derive(Debug, Clone)]
struct Seen {
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
}

#[derive(Debug, Clone)]
struct Stream {
    committer: Committer,
    bytes: u64,
}

/// How much went through a stream, and the commitment to it.
#[derive(Debug, Clone, Copy)]
pub struct Sum {
    /// Bytes.
    pub bytes: u64,
    /// The commitment.
    pub commitment: Digest,
}

/// All three streams.
#[derive(Debug, Clone, Copy)]
pub struct Sums {
    /// What was sent to it.
    pub stdin: Sum,
    /// What it wrote.
    pub stdout: Sum,
    /// What it wrote as errors.
    pub stderr: Sum,
}

/// A witness between two lives of a machine. As private as the output itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    salt: String,
    stdin: (String, u64),
    stdout: (String, u64),
    stderr: (String, u64),
}

impl Stream {
    fn new(field: Field, salt: &Salt) -> Stream {
        Stream { committer: Committer::new(field, &salt.of_field(field)), bytes: 0 }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.committer.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn sum(&self) -> Sum {
        Sum { bytes: self.bytes, commitment: self.committer.clone().finish() }
    }

    fn save(&self) -> (String, u64) {
        (self.committer.save(), self.bytes)
    }

    fn load((state, bytes): (String, u64)) -> Result<Stream> {
        let committer = Committer::restore(&state).map_err(|e| point::refused(format!("of a command: {e}")))?;
        Ok(Stream { committer, bytes })
    }
}

impl Witness {
    /// One that has seen nothing yet, with a salt of its own.
    pub fn new() -> Result<Witness> {
        let salt = Salt::generate().map_err(Error::from)?;
        let stream = |field| Stream::new(field, &salt);
        let seen = Seen { stdin: stream(Field::Stdin), stdout: stream(Field::Stdout), stderr: stream(Field::Stderr) };
        Ok(Witness { salt, seen: Mutex::new(seen) })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the salts of all commitments to this command follow from.
    pub fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Sees what is sent to it.
    pub fn stdin(&self, bytes: &[u8]) {
        self.seen().stdin.take(bytes);
    }

    /// Sees what it wrote.
    pub fn stdout(&self, bytes: &[u8]) {
        self.seen().stdout.take(bytes);
    }

    /// Sees what it wrote as errors.
    pub fn stderr(&self, bytes: &[u8]) {
        self.seen().stderr.take(bytes);
    }

    /// All that went through so far.
    pub fn sums(&self) -> Sums {
        let seen = self.seen();
        Sums { stdin: seen.stdin.sum(), stdout: seen.stdout.sum(), stderr: seen.stderr.sum() }
    }

    /// As it is saved with its command's machine.
    pub fn save(&self) -> Saved {
        let seen = self.seen();
        let (stdin, stdout, stderr) = (seen.stdin.save(), seen.stdout.save(), seen.stderr.save());
        Saved { salt: self.salt.to_hex(), stdin, stdout, stderr }
    }

    /// Goes on from what was saved.
    pub fn load(saved: Saved) -> Result<Witness> {
        let salt = Salt::from_hex(&saved.salt).ok_or_else(|| point::refused("the salt of a command is damaged"))?;
        let seen = Seen {
            stdin: Stream::load(saved.stdin)?,
            stdout: Stream::load(saved.stdout)?,
            stderr: Stream::load(saved.stderr)?,
        };
        Ok(Witness { salt, seen: Mutex::new(seen) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_that_was_saved_in_between_has_seen_the_same() {
        let whole = Witness::new().unwrap();
        let mut parted = Witness::load(whole.save()).unwrap();
        for piece in [&b"one"[..], &[b'x'; 100_000], b"", b"two"] {
            whole.stdout(piece);
            parted.stdout(piece);
            parted =
                Witness::load(serde_json::from_str(&serde_json::to_string(&parted.save()).unwrap()).unwrap()).unwrap();
        }
        let (whole, parted) = (whole.sums(), parted.sums());
        assert_eq!((whole.stdout.bytes, whole.stdout.commitment), (100_006, parted.stdout.commitment));
        assert_ne!(whole.stdout.commitment, whole.stderr.commitment);
        assert_eq!(whole.stdin.commitment, parted.stdin.commitment);
    }

    #[test]
    fn two_witnesses_of_the_same_have_other_commitments() {
        let (a, b) = (Witness::new().unwrap(), Witness::new().unwrap());
        a.stdin(b"x");
        b.stdin(b"x");
        assert_ne!(a.sums().stdin.commitment, b.sums().stdin.commitment);
    }

    #[test]
    fn damaged_states_are_refused() {
        let saved = Witness::new().unwrap().save();
        assert!(Witness::load(Saved { salt: "x".into(), ..saved.clone() }).is_err());
        assert!(Witness::load(Saved { stdout: ("x".into(), 1), ..saved }).is_err());
    }
}
