//! What makes a clone a machine of its own: randomness, time, identity. Everything is read back for the host to compare.

use std::cell::Cell;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use mvm_wire::guest::{Admit, Admitted};
use rustix::time::{ClockId, Timespec};

use crate::boot::{self, IDENTITY, Role};

/// The kernel's files that an admission writes and reads. They are open from the boot on, because the first walk along
/// a path costs a millisecond after a restore.
#[derive(Debug)]
pub struct Identity {
    random: File,
    /// The stand-ins on memory, and the names under which programs see them. A builder has none.
    machine_id: Option<(File, File)>,
    boot_id: Option<(File, File)>,
    /// The root file system was sealed, by this admission or one before a save.
    sealed: Cell<bool>,
}

impl Identity {
    /// Opens them.
    pub fn open(role: Role) -> Result<Identity> {
        let pair = |name: &str, seen_as: &str| -> Result<Option<(File, File)>> {
            if role == Role::Builder {
                return Ok(None);
            }
            Ok(Some((File::options().write(true).open(format!("{IDENTITY}/{name}"))?, File::open(seen_as)?)))
        };
        Ok(Identity {
            random: File::options().write(true).open("/dev/urandom")?,
            machine_id: pair("machine-id", "/etc/machine-id")?,
            boot_id: pair("boot_id", "/proc/sys/kernel/random/boot_id")?,
            sealed: Cell::new(false),
        })
    }

    /// Applies an admission and reports what the kernel then says.
    pub fn admit(&self, admit: &Admit) -> Result<Admitted> {
        self.reseed(&admit.entropy)?;
        rustix::time::clock_settime(
            ClockId::Realtime,
            Timespec {
                tv_sec: (admit.realtime_ns / 1_000_000_000) as i64,
                tv_nsec: (admit.realtime_ns % 1_000_000_000) as _,
            },
        )?;
        rustix::system::sethostname(admit.hostname.as_bytes())?;
        if admit.scratch_bytes > 0 && !self.sealed.get() {
            boot::seal_root(admit.scratch_bytes)?;
            self.sealed.set(true);
        }
        let now = rustix::time::clock_gettime(ClockId::Realtime);
        Ok(Admitted {
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            machine_id: replace(self.machine_id.as_ref(), &admit.machine_id)?,
            boot_id: replace(self.boot_id.as_ref(), &admit.boot_id)?,
            realtime_ns: now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64,
            reseeded: true,
            read_only: self.sealed.get(),
        })
    }

    /// Credits the bytes in full and has the kernel's generator start from them now, not at its next interval.
    fn reseed(&self, entropy: &[u8; 32]) -> Result<()> {
        #[repr(C)]
        struct PoolInfo {
            entropy_bits: libc::c_int,
            size: libc::c_int,
            bytes: [u8; 32],
        }
        const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
        const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
        let pool = PoolInfo { entropy_bits: 256, size: 32, bytes: *entropy };
        // SAFETY: the kernel reads `size` bytes behind the two integers, all inside `pool`.
        if unsafe { libc::ioctl(self.random.as_raw_fd(), RNDADDENTROPY as _, &raw const pool) } != 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: this request takes no argument.
        if unsafe { libc::ioctl(self.random.as_raw_fd(), RNDRESEEDCRNG as _) } != 0 {
            return Err(Error::last_os_error());
        }
        Ok(())
    }
}

/// Writes a value, which always has the same length, and reads it back where programs read it.
fn replace(files: Option<&(File, File)>, value: &str) -> Result<String> {
    let Some((file, seen)) = files else { return Ok(value.to_owned()) };
    file.write_all_at(format!("{value}\n").as_bytes(), 0)?;
    let mut text = [0; 64];
    let len = seen.read_at(&mut text, 0)?;
    Ok(String::from_utf8_lossy(&text[..len]).trim_end().to_owned())
}
