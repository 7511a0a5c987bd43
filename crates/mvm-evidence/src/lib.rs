//! What proves afterwards what ran: receipts, the keys that sign them, and the audit log.
//!
//! It may touch the files of a key ring and of a log, and nothing else: no network, no guest, no clock but the one that
//! stamps an entry. It never prints. Every format is described byte for byte in `docs/evidence.md`; whatever is read is
//! compared with the one way in which it could have been written, and a difference is a [`Refusal`].

#![forbid(unsafe_code)]

pub mod canonical;
pub mod checkpoint;
pub mod commitment;
pub mod digest;
pub mod entry;
pub mod envelope;
pub mod error;
mod file;
pub mod keys;
pub mod log;
pub mod merkle;
pub mod notary;
pub mod opening;
pub mod proof;
pub mod refusal;
pub mod statement;
mod text;
pub mod verify;

pub use checkpoint::Checkpoint;
pub use commitment::{Committer, Field, Salt};
pub use digest::Digest;
pub use entry::Entry;
pub use envelope::{Envelope, Verified};
pub use error::{Error, Kind, Result};
pub use keys::{KeyRing, PublicKey, Signer};
pub use log::{Durability, Log};
pub use opening::Opening;
pub use proof::{Included, Proof};
pub use refusal::{Part, Refusal};
pub use statement::Statement;
pub use verify::{Report, verify};
