//! A user of its own for each VMM, and no capabilities.

use std::io::{Error as IoError, Result as IoResult};

use libc::c_ulong;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// User and group ids for VMMs under root: one at random from a range that no distribution gives out.
/// So large that two sandboxes do not meet.
const OWN_USERS: std::ops::Range<u32> = 1_900_000_000..2_000_000_000;
/// A user and group id for one VMM. The error says why it cannot have one.
pub fn own_user() -> std::result::Result<u32, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can give it another user; it runs as yours".into());
    }
    // To change the user, and then to read the names it opens and to end it.
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SYS_PTRACE | CapabilitySet::KILL;
    let have = rustix::thread::capabilities(None).map_err(|e| e.to_string())?.effective;
    if !have.contains(needed) {
        return Err(format!("root lacks capabilities here ({:?})", needed - have));
    }
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).map_err(|e| e.to_string())?;
    Ok(OWN_USERS.start + u32::from_le_bytes(bytes) % (OWN_USERS.end - OWN_USERS.start))
}

/// Empties the bounding set. Allocates nothing: it runs between fork and exec, as does [`drop_capabilities`].
pub fn empty_bounding_set() -> IoResult<()> {
    for capability in 0..64 as c_ulong {
        // SAFETY: takes integers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            let error = IoError::last_os_error();
            return match error.raw_os_error() {
                // Beyond the last capability that this kernel has.
                Some(libc::EINVAL) => Ok(()),
                // Whoever may not do this has no privileges to lose, and gets none back without new ones.
                Some(libc::EPERM) => Ok(()),
                _ => Err(error),
            };
        }
    }
    Ok(())
}

/// Gives up every capability it has or could pass on.
pub fn drop_capabilities() -> IoResult<()> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::clear_ambient_capability_set()?;
    Ok(rustix::thread::set_capabilities(None, none)?)
}
