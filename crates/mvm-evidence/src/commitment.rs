//! Salted commitments: a receipt binds what went in and came out of a run without holding any of it.
//!
//! A commitment is `SHA-256("mvm-commitment-v1\n" ‖ field ‖ "\n" ‖ salt ‖ value)`, with a salt of 32 random bytes. Without
//! the salt nobody can guess a short value; with it, its owner can show what the value was.

use std::collections::BTreeMap;

use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256};

use crate::canonical::{self, NotCanonicalizable};
use crate::digest::Digest;
use crate::error::{Context, Error, Kind, Result};

/// What is committed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// The command and its arguments, as a canonical JSON array of strings.
    Argv,
    /// Its environment, as a canonical JSON object of strings.
    Env,
    /// The bytes that went to its standard input.
    Stdin,
    /// The bytes of its standard output, before any limit or redaction.
    Stdout,
    /// The bytes of its standard error, likewise.
    Stderr,
}

impl Field {
    /// All of them.
    pub const ALL: [Field; 5] = [Field::Argv, Field::Env, Field::Stdin, Field::Stdout, Field::Stderr];

    /// The name that goes into the hash.
    pub fn name(self) -> &'static str {
        match self {
            Field::Argv => "argv",
            Field::Env => "env",
            Field::Stdin => "stdin",
            Field::Stdout => "stdout",
            Field::Stderr => "stderr",
        }
    }
}

/// A salt. That of a run belongs in its private record, never in a receipt or a log; each of its commitments has one of its
/// own, which follows from it, so that one can be shown and the others stay as they are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt([u8; 32]);

impl Salt {
    /// A new one, from the kernel's generator.
    pub fn generate() -> Result<Salt> {
        Ok(Salt(random()?))
    }

    /// The salt of one commitment of a run whose salt this is.
    pub fn of_field(self, field: Field) -> Salt {
        let hash = Sha256::new().chain_update("mvm-salt-v1\n").chain_update(field.name()).chain_update("\n");
        Salt(hash.chain_update(self.0).finalize().into())
    }

    /// A known one.
    pub fn from_bytes(bytes: [u8; 32]) -> Salt {
        Salt(bytes)
    }

    /// 64 lower-case hexadecimal digits, as [`Salt::to_hex`] gives them.
    pub fn from_hex(text: &str) -> Option<Salt> {
        text.parse::<Digest>().ok().map(|same_form| Salt(same_form.0))
    }

    /// For the private record.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

/// Never shows the salt.
impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt")
    }
}

/// Makes a commitment from a value that comes in parts.
#[derive(Clone)]
pub struct Committer(Sha256);

/// The form of a saved state: another version of the hash library may need another one.
const SAVED: &str = "mvm-commitment-v1 ";

impl Committer {
    /// A commitment to a value of which nothing has come yet.
    pub fn new(field: Field, salt: &Salt) -> Committer {
        let hash = Sha256::new().chain_update("mvm-commitment-v1\n").chain_update(field.name()).chain_update("\n");
        Committer(hash.chain_update(salt.0))
    }

    /// The next part of the value.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The commitment to all that came.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }

    /// The state in the middle, to go on in another process. It holds up to 63 bytes of the value itself: as private as
    /// the value is.
    pub fn save(&self) -> String {
        format!("{SAVED}{}", hex::encode(self.0.serialize()))
    }

    /// Goes on from a saved state.
    pub fn restore(saved: &str) -> Result<Committer> {
        let bad = |why: &str| Error::new(Kind::Damaged, "cannot go on with a saved commitment", why);
        let digits = saved.strip_prefix(SAVED).ok_or_else(|| bad("it was saved by another version of mvm"))?;
        let bytes = hex::decode(digits).map_err(|e| bad(&e.to_string()))?;
        let state = SerializedState::<Sha256>::try_from(&bytes[..]).map_err(|_| bad("it has another length"))?;
        Sha256::deserialize(&state).map(Committer).map_err(|_| bad("it is no state of a hash"))
    }
}

/// Shows nothing of what came.
impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Committer")
    }
}

/// The commitment to a whole value.
pub fn commit(field: Field, salt: &Salt, value: &[u8]) -> Digest {
    let mut committer = Committer::new(field, salt);
    committer.update(value);
    committer.finish()
}

/// The commitment to a command and its arguments.
pub fn commit_argv(salt: &Salt, argv: &[String]) -> std::result::Result<Digest, NotCanonicalizable> {
    Ok(commit(Field::Argv, salt, &canonical::to_vec(argv)?))
}

/// The commitment to an environment.
pub fn commit_env(salt: &Salt, env: &BTreeMap<String, String>) -> std::result::Result<Digest, NotCanonicalizable> {
    Ok(commit(Field::Env, salt, &canonical::to_vec(env)?))
}

/// Bytes of the kernel's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    match got.context(|| "cannot get random bytes".to_owned())? {
        // The kernel never gives fewer than asked for below 256.
        all if all == N => Ok(bytes),
        _ => Err(Error::new(Kind::Io, "cannot get random bytes", "the system gave too few")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_is_the_documented_one() {
        let salt = Salt::from_bytes([7; 32]);
        let by_hand = [b"mvm-commitment-v1\nstdout\n".as_slice(), &[7; 32], b"hello\n"].concat();
        assert_eq!(commit(Field::Stdout, &salt, b"hello\n"), Digest::of(&by_hand));
    }

    #[test]
    fn fields_and_salts_separate_equal_values() {
        let salts = [Salt::generate().unwrap(), Salt::generate().unwrap()];
        let mut all: Vec<_> = salts.iter().flat_map(|salt| Field::ALL.map(|field| commit(field, salt, b"x"))).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 10);
        assert_eq!(Salt::from_hex(&salts[0].to_hex()), Some(salts[0]));
    }

    #[test]
    fn argv_and_env_are_canonical_json() {
        let salt = Salt::from_bytes([0; 32]);
        let argv = ["echo".to_owned(), "a b".to_owned()];
        assert_eq!(commit_argv(&salt, &argv).unwrap(), commit(Field::Argv, &salt, br#"["echo","a b"]"#));
        let env = BTreeMap::from([("B".to_owned(), "2".to_owned()), ("A".to_owned(), "1".to_owned())]);
        assert_eq!(commit_env(&salt, &env).unwrap(), commit(Field::Env, &salt, br#"{"A":"1","B":"2"}"#));
    }

    #[test]
    fn a_saved_state_goes_on_wherever_it_was_cut() {
        let salt = Salt::from_bytes([1; 32]);
        let value: Vec<u8> = (0..300u16).map(|n| n as u8).collect();
        let whole = commit(Field::Stdout, &salt, &value);
        for cut in 0..=value.len() {
            let mut first = Committer::new(Field::Stdout, &salt);
            first.update(&value[..cut]);
            let mut second = Committer::restore(&first.save()).unwrap();
            second.update(&value[cut..]);
            assert_eq!(second.finish(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_saved_state_is_an_error() {
        let good = Committer::new(Field::Env, &Salt::from_bytes([0; 32])).save();
        for bad in [
            "",
            "mvm-commitment-v1 ",
            "mvm-commitment-v1 zz",
            &good[..good.len() - 2],
            &good[1..],
            &format!("{good}00"),
        ] {
            assert!(Committer::restore(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_private_is_shown() {
        let salt = Salt::from_bytes([0xab; 32]);
        let shown = format!("{salt:?} {:?}", Committer::new(Field::Env, &salt));
        assert_eq!(shown, "Salt Committer");
    }
}
