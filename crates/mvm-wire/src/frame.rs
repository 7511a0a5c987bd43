//! Frames: what travels inside one stream of a session.
//!
//! `kind: u8 | length: u32 little-endian | payload`. Output and input are raw payloads, so that they are never copied
//! through an encoder; everything else is postcard.

/// Bytes before the payload.
pub const HEADER_LEN: usize = 5;
/// The longest payload either side accepts. A longer one ends the stream (guest side) or the machine (host side).
pub const MAX_PAYLOAD: usize = 256 * 1024;

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Host to guest, first on every stream: a [`crate::guest::Request`].
    Request = 1,
    /// Guest to host: a [`crate::guest::Reply`].
    Reply = 2,
    /// Host to guest: bytes for standard input; an empty one is its end.
    Stdin = 3,
    /// Guest to host: bytes of standard output (of the terminal, if there is one).
    Stdout = 4,
    /// Guest to host: bytes of standard error.
    Stderr = 5,
    /// Host to guest, empty: no input comes on this stream any more, because the machine is about to be saved.
    Mark = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        let all = [Kind::Request, Kind::Reply, Kind::Stdin, Kind::Stdout, Kind::Stderr, Kind::Mark];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame that no honest peer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The kind byte is none of ours.
    UnknownKind(u8),
    /// The payload would be longer than [`MAX_PAYLOAD`].
    TooLong(u32),
    /// The payload is not what its kind says.
    Malformed,
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FrameError::UnknownKind(kind) => write!(f, "a frame of unknown kind {kind}"),
            FrameError::TooLong(len) => write!(f, "a frame of {len} bytes, more than {MAX_PAYLOAD}"),
            FrameError::Malformed => write!(f, "a frame whose payload cannot be read"),
        }
    }
}

impl std::error::Error for FrameError {}

/// The header of a payload of `len` bytes. `len` must be at most [`MAX_PAYLOAD`].
pub fn header(kind: Kind, len: usize) -> [u8; HEADER_LEN] {
    debug_assert!(len <= MAX_PAYLOAD);
    let mut out = [kind as u8; HEADER_LEN];
    out[1..].copy_from_slice(&(len as u32).to_le_bytes());
    out
}

/// Reads a header: the kind and the length of what follows.
pub fn parse_header(bytes: [u8; HEADER_LEN]) -> Result<(Kind, usize), FrameError> {
    let kind = Kind::from_byte(bytes[0]).ok_or(FrameError::UnknownKind(bytes[0]))?;
    let len = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    if len as usize > MAX_PAYLOAD { Err(FrameError::TooLong(len)) } else { Ok((kind, len as usize)) }
}

/// A whole frame around an encoded message. Fails only if the message is longer than a frame may be.
pub fn message<T: serde::Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>, FrameError> {
    let mut out = postcard::to_extend(value, vec![0; HEADER_LEN]).map_err(|_| FrameError::Malformed)?;
    let len = out.len() - HEADER_LEN;
    if len > MAX_PAYLOAD {
        return Err(FrameError::TooLong(u32::try_from(len).unwrap_or(u32::MAX)));
    }
    out[..HEADER_LEN].copy_from_slice(&header(kind, len));
    Ok(out)
}

/// Decodes the payload of a message frame.
pub fn decode<'a, T: serde::Deserialize<'a>>(payload: &'a [u8]) -> Result<T, FrameError> {
    postcard::from_bytes(payload).map_err(|_| FrameError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{Exec, Reply, Request};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_are_accepted_or_refused_never_misread(bytes in any::<[u8; HEADER_LEN]>()) {
            if let Ok((kind, len)) = parse_header(bytes) {
                prop_assert!(len <= MAX_PAYLOAD);
                prop_assert_eq!(header(kind, len), bytes);
            }
        }

        #[test]
        fn hostile_payloads_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Reply>(&bytes);
        }

        #[test]
        fn requests_survive_the_wire(argv in proptest::collection::vec(".*", 1..5), cwd in ".*", stdin: bool) {
            let request = Request::Exec(Exec { argv, cwd, stdin, ..Exec::default() });
            let bytes = message(Kind::Request, &request).unwrap();
            prop_assert_eq!(decode::<Request>(&bytes[HEADER_LEN..]).unwrap(), request);
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_refused() {
        let request = Request::Exec(Exec { argv: vec!["x".repeat(MAX_PAYLOAD)], ..Exec::default() });
        assert!(matches!(message(Kind::Request, &request), Err(FrameError::TooLong(_))));
    }
}
