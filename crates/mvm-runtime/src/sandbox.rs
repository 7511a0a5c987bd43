//! What makes one machine this machine: its id, and the identity it is admitted with.

use std::time::{SystemTime, UNIX_EPOCH};

use mvm_wire::guest::Admit;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::vmm::guest::fill_random;

/// A new sandbox id: `mvm-` and 12 hex digits. It is also the guest's host name.
pub fn new_id() -> Result<String> {
    Ok(format!("mvm-{}", random_hex::<6>()?))
}

/// A new run id: `run-` and 16 hex digits.
pub fn new_run_id() -> Result<String> {
    Ok(format!("run-{}", random_hex::<8>()?))
}

/// A new snapshot id: `snap-` and 12 hex digits.
pub fn new_snapshot_id() -> Result<String> {
    Ok(format!("snap-{}", random_hex::<6>()?))
}

fn random_hex<const BYTES: usize>() -> Result<String> {
    let mut bytes = [0; BYTES];
    fill_random(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// What a machine is known by, to itself and to its programs. It stays when the machine comes back from its own memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    hostname: String,
    machine_id: String,
    boot_id: String,
}

impl Identity {
    /// A new one for the sandbox with this id: nothing in it is shared with any other machine.
    pub fn new(id: &str) -> Result<Identity> {
        let mut boot = [0; 16];
        fill_random(&mut boot)?;
        Ok(Identity { hostname: id.to_owned(), machine_id: random_hex::<16>()?, boot_id: uuid(boot) })
    }

    /// An admission of a machine with this identity, now: with randomness that no other admission has. Commands find so many
    /// bytes of scratch space and a read-only root; 0 leaves the root as it is.
    pub fn admission(&self, scratch_bytes: u64) -> Result<Admit> {
        let mut entropy = [0; 32];
        fill_random(&mut entropy)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_err(|e| Error::internal("the host's clock is before 1970", e))?;
        Ok(Admit {
            entropy,
            realtime_ns: now.as_nanos() as u64,
            hostname: self.hostname.clone(),
            machine_id: self.machine_id.clone(),
            boot_id: self.boot_id.clone(),
            scratch_bytes,
        })
    }
}

/// A version 4 UUID from random bytes.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_well_formed_and_never_alike() {
        let (a, b) = (Identity::new("mvm-1").unwrap(), Identity::new("mvm-1").unwrap());
        assert!(a.machine_id != b.machine_id && a.boot_id != b.boot_id);
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(a.machine_id.len(), 32);
    }

    #[test]
    fn one_identity_is_admitted_twice_with_different_randomness() {
        let identity = Identity::new("mvm-1").unwrap();
        let (a, b) = (identity.admission(0).unwrap(), identity.admission(0).unwrap());
        assert_ne!(a.entropy, b.entropy);
        assert_eq!((a.boot_id, a.machine_id), (b.boot_id, b.machine_id));
    }
}
