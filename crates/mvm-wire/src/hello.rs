//! The plain bytes that host and guest exchange before a multiplexed session, at boot and after every restore.
//!
//! A session never crosses a save, but bytes of an old one can still lie in the virtio ring. So each side reads until it
//! finds a hello: the guest any whole one, the host only the one that repeats its own fresh nonce.
//!
//! ```text
//! offset  0        8             10            12       28
//!         magic    min version  max version   nonce    (all integers little-endian)
//! ```

/// First bytes of a hello in either direction. The first byte occurs only once, so a search never has to back up.
pub const MAGIC: [u8; 8] = *b"\xf5mvm-hi\n";
/// Size of a hello.
pub const HELLO_LEN: usize = 28;
/// The protocol versions this code speaks, lowest and highest.
pub const VERSIONS: (u16, u16) = (1, 1);

/// One side's greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Lowest version spoken.
    pub min: u16,
    /// Highest version spoken; in the guest's answer both are the version chosen, or 0 if there is none.
    pub max: u16,
    /// Chosen by the host for this restore, repeated by the guest.
    pub nonce: [u8; 16],
}

impl Hello {
    /// The host's greeting.
    pub fn from_host(nonce: [u8; 16]) -> Hello {
        Hello { min: VERSIONS.0, max: VERSIONS.1, nonce }
    }

    /// The guest's answer: the highest common version, or 0.
    pub fn answer(&self) -> Hello {
        let highest = self.max.min(VERSIONS.1);
        let version = if highest >= self.min.max(VERSIONS.0) { highest } else { 0 };
        Hello { min: version, max: version, nonce: self.nonce }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; HELLO_LEN] {
        let mut out = [0; HELLO_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&self.min.to_le_bytes());
        out[10..12].copy_from_slice(&self.max.to_le_bytes());
        out[12..].copy_from_slice(&self.nonce);
        out
    }
}

/// Finds hellos in a stream that may begin with anything.
#[derive(Debug, Default)]
pub struct Scanner {
    buffer: Vec<u8>,
}

impl Scanner {
    /// Takes the next byte; returns a hello when that byte completes one.
    pub fn push(&mut self, byte: u8) -> Option<Hello> {
        self.buffer.push(byte);
        let known = self.buffer.len().min(MAGIC.len());
        if self.buffer[..known] != MAGIC[..known] {
            self.buffer.clear();
            if byte == MAGIC[0] {
                self.buffer.push(byte);
            }
            return None;
        }
        if self.buffer.len() < HELLO_LEN {
            return None;
        }
        let bytes = std::mem::take(&mut self.buffer);
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&bytes[12..]);
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Some(Hello { min: word(8), max: word(10), nonce })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(bytes: &[u8]) -> Option<(Hello, usize)> {
        let mut scanner = Scanner::default();
        bytes.iter().enumerate().find_map(|(i, b)| scanner.push(*b).map(|h| (h, i + 1)))
    }

    #[test]
    fn versions_meet_at_the_highest_common_one() {
        let hello = |min, max| Hello { min, max, nonce: [7; 16] };
        assert_eq!(hello(1, 9).answer().max, VERSIONS.1);
        assert_eq!(hello(VERSIONS.1 + 1, 9).answer().max, 0);
        assert_eq!(hello(0, 0).answer().max, 0);
        assert_eq!(hello(1, 1).answer().nonce, [7; 16]);
    }

    proptest! {
        #[test]
        fn a_hello_is_found_after_any_garbage_and_ends_where_it_ends(
            garbage in proptest::collection::vec(any::<u8>().prop_filter("no hello by chance", |b| *b != MAGIC[0]), 0..400),
            partial in 0usize..MAGIC.len(), nonce in any::<[u8; 16]>(), rest in proptest::collection::vec(any::<u8>(), 0..8),
        ) {
            let hello = Hello::from_host(nonce);
            let mut stream = garbage.clone();
            stream.extend(&MAGIC[..partial]);
            stream.extend(hello.encode());
            let end = stream.len();
            stream.extend(rest);
            prop_assert_eq!(scan(&stream), Some((hello, end)));
        }
    }
}
