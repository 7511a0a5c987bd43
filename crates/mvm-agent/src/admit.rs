//! What makes a clone a machine of its own: randomness, time, identity. Everything is read back for the host to compare.

use std::fs::{self, File};
use std::io::{Error, Result};
use std::os::fd::AsRawFd;

use mvm_wire::guest::{Admit, Admitted};
use rustix::time::{ClockId, Timespec};

use crate::boot::IDENTITY;

/// Applies an admission and reports what the kernel then says.
pub fn admit(admit: &Admit) -> Result<Admitted> {
    reseed(&admit.entropy)?;
    rustix::time::clock_settime(
        ClockId::Realtime,
        Timespec {
            tv_sec: (admit.realtime_ns / 1_000_000_000) as i64,
            tv_nsec: (admit.realtime_ns % 1_000_000_000) as _,
        },
    )?;
    rustix::system::sethostname(admit.hostname.as_bytes())?;
    fs::write(format!("{IDENTITY}/machine-id"), format!("{}\n", admit.machine_id))?;
    fs::write(format!("{IDENTITY}/boot_id"), format!("{}\n", admit.boot_id))?;
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    Ok(Admitted {
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        machine_id: fs::read_to_string("/etc/machine-id")?.trim_end().to_owned(),
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned(),
        realtime_ns: now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64,
        reseeded: true,
    })
}

/// Credits the bytes in full and has the kernel's generator start from them now, not at its next interval.
fn reseed(entropy: &[u8; 32]) -> Result<()> {
    #[repr(C)]
    struct PoolInfo {
        entropy_bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; 32],
    }
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    let random = File::options().write(true).open("/dev/urandom")?;
    let pool = PoolInfo { entropy_bits: 256, size: 32, bytes: *entropy };
    // SAFETY: the kernel reads `size` bytes behind the two integers, all inside `pool`.
    if unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, &raw const pool) } != 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: this request takes no argument.
    if unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG as _) } != 0 {
        return Err(Error::last_os_error());
    }
    Ok(())
}
