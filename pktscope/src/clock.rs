//! The sole clock: every other module gets its time as an argument.

use std::time::Duration;

use crate::core::time::{BootTime, Moment, WallTime};

/// Now, on both clocks.
pub fn now() -> Moment {
    Moment {
        boot: BootTime(u64::try_from(read(libc::CLOCK_BOOTTIME).as_nanos()).unwrap_or(u64::MAX)),
        wall: WallTime(i64::try_from(read(libc::CLOCK_REALTIME).as_nanos()).unwrap_or(i64::MAX)),
    }
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is a valid timespec for the call's duration; both clock ids exist since Linux 2.6.39, so it cannot fail.
    unsafe { libc::clock_gettime(clock, &raw mut at) };
    Duration::new(u64::try_from(at.tv_sec).unwrap_or(0), u32::try_from(at.tv_nsec).unwrap_or(0))
}
