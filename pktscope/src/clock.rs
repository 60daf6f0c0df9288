//! The sole clock: every other module gets its time as an argument.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use crate::core::time::{BootTime, Moment, WallTime};

/// Wall time less boot time, as last noted. The two clocks are read one after the other, so each reading of the offset
/// differs by some hundred nanoseconds: one value is kept, so that an instant has one wall time in all events.
static OFFSET: AtomicI64 = AtomicI64::new(0);
/// A change beyond this is the wall clock's: stepped, or slewed for a while.
const OFFSET_TOLERANCE: i64 = 1_000_000;

/// Now, on both clocks.
pub fn now() -> Moment {
    let boot = i64::try_from(read(libc::CLOCK_BOOTTIME).as_nanos()).unwrap_or(i64::MAX);
    let wall = i64::try_from(read(libc::CLOCK_REALTIME).as_nanos()).unwrap_or(i64::MAX);
    let offset = steady_offset(wall.saturating_sub(boot));
    Moment { boot: BootTime(boot.unsigned_abs()), wall: WallTime(boot.saturating_add(offset)) }
}

fn steady_offset(read: i64) -> i64 {
    let kept = OFFSET.load(Ordering::Relaxed);
    if kept.abs_diff(read) <= OFFSET_TOLERANCE.unsigned_abs() {
        return kept;
    }
    OFFSET.store(read, Ordering::Relaxed);
    read
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is a valid timespec for the call's duration; both clock ids exist since Linux 2.6.39, so it cannot fail.
    unsafe { libc::clock_gettime(clock, &raw mut at) };
    Duration::new(u64::try_from(at.tv_sec).unwrap_or(0), u32::try_from(at.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_has_one_wall_time_however_often_the_clocks_are_read() {
        let (first, second) = (now(), now());
        assert_eq!(first.wall_at(BootTime(5)), second.wall_at(BootTime(5)));
        assert!(first.boot <= second.boot);
    }
}
