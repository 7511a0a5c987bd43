//! What makes one machine this machine: its id, and the identity it is admitted with.

use std::time::{SystemTime, UNIX_EPOCH};

use mvm_wire::guest::Admit;

use crate::error::{Error, Result};
use crate::vmm::guest::fill_random;

/// A new sandbox id: `mvm-` and 12 hex digits. It is also the guest's host name.
pub fn new_id() -> Result<String> {
    let mut bytes = [0; 6];
    fill_random(&mut bytes)?;
    Ok(format!("mvm-{}", hex::encode(bytes)))
}

/// A new run id: `run-` and 16 hex digits.
pub fn new_run_id() -> Result<String> {
    let mut bytes = [0; 8];
    fill_random(&mut bytes)?;
    Ok(format!("run-{}", hex::encode(bytes)))
}

/// A fresh identity for the sandbox: nothing in it is shared with any other machine.
pub fn admission(id: &str) -> Result<Admit> {
    let mut entropy = [0; 32];
    let mut machine = [0; 16];
    let mut boot = [0; 16];
    fill_random(&mut entropy)?;
    fill_random(&mut machine)?;
    fill_random(&mut boot)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|e| Error::internal("the host's clock is before 1970", e))?;
    Ok(Admit {
        entropy,
        realtime_ns: now.as_nanos() as u64,
        hostname: id.to_owned(),
        machine_id: hex::encode(machine),
        boot_id: uuid(boot),
    })
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
        let (a, b) = (admission("mvm-1").unwrap(), admission("mvm-1").unwrap());
        assert_ne!((a.entropy, &a.machine_id, &a.boot_id), (b.entropy, &b.machine_id, &b.boot_id));
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(a.machine_id.len(), 32);
    }
}
