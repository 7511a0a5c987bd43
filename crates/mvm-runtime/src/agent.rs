//! The guest agent's program, built with this crate and part of it.

/// A static ELF executable.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mvm-agent"));
/// Its SHA-256, in hex.
pub const SHA256: &str = env!("MVM_AGENT_SHA256");
