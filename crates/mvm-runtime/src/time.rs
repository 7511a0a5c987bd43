//! Times that mean something to people, and deadlines that survive a sleep, a restart and a clock that is set.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::host::boot_id;
use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Milliseconds since the host started, time asleep included.
fn boottime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.max(0) as u64 * 1000 + now.tv_nsec.max(0) as u64 / 1_000_000
}

/// A moment, as two clocks tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadline {
    /// Milliseconds since 1970.
    pub wall_ms: u64,
    /// Milliseconds since the host's start.
    pub boottime_ms: u64,
    /// Which start.
    pub boot_id: String,
}

impl Deadline {
    /// So long from now.
    pub fn after(time: Duration) -> Deadline {
        let ms = time.as_millis() as u64;
        Deadline { wall_ms: now_ms() + ms, boottime_ms: boottime_ms() + ms, boot_id: boot_id() }
    }

    /// How long until then. The clock on the wall counts only after a restart: it may have been set meanwhile.
    pub fn remaining(&self) -> Duration {
        let (then, now) = match self.boot_id == boot_id() {
            true => (self.boottime_ms, boottime_ms()),
            false => (self.wall_ms, now_ms()),
        };
        Duration::from_millis(then.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_another_boot_goes_by_the_clock_on_the_wall() {
        let mut deadline = Deadline::after(Duration::from_secs(60));
        assert!(deadline.remaining() > Duration::from_secs(50));
        deadline.wall_ms = now_ms();
        assert!(deadline.remaining() > Duration::from_secs(50));
        deadline.boot_id = "another".into();
        assert_eq!(deadline.remaining(), Duration::ZERO);
    }
}
