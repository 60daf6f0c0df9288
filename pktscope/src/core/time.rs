//! Two clocks, kept apart: boot time measures, wall time is shown and stored.

use std::time::Duration;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// Nanoseconds since boot, suspend included (`CLOCK_BOOTTIME`); never steps back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Time from `earlier` to `self`; zero where `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `duration` later, held at the end of the range.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Nanoseconds since 1970-01-01T00:00:00Z; may step either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub i64);

impl WallTime {
    /// Whole seconds since the epoch, rounded down.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(NANOS_PER_SECOND)
    }

    /// Time from `earlier` to `self`; zero where `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The moment `duration` later, held at the end of the range.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }
}

/// Year, month and day of days since 1970-01-01, UTC (H. Hinnant, "chrono-compatible low-level date algorithms").
pub fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// One instant on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// What intervals, time-outs and cooldowns are measured with.
    pub boot: BootTime,
    /// What people see and what survives a reboot.
    pub wall: WallTime,
}

impl Moment {
    /// The wall time of a boot time near this moment, by the offset between the clocks at this moment.
    pub fn wall_at(self, at: BootTime) -> WallTime {
        let offset = i128::from(self.wall.0) - i128::from(self.boot.0);
        let nanos = i128::from(at.0) + offset;
        WallTime(i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX }))
    }

    /// The boot time of a wall time, by the offset between the clocks at this moment; held at zero.
    pub fn boot_at(self, at: WallTime) -> BootTime {
        let offset = i128::from(self.boot.0) - i128::from(self.wall.0);
        BootTime(u64::try_from((i128::from(at.0) + offset).max(0)).unwrap_or(u64::MAX))
    }
}
