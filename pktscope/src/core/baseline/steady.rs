//! The clock of the baseline: reads like wall time, runs like boot time.
//!
//! Intervals and cooldowns must not follow a stepped wall clock, yet must mean something after a reboot. So the wall
//! clock is read once, at the first moment, and from then on the boot clock carries it.

use std::time::Duration;

use crate::core::time::{BootTime, Moment, civil};

const NANOS_PER_SECOND: i64 = 1_000_000_000;
/// Seconds of a day.
pub const DAY_SECONDS: i64 = 86_400;

/// Nanoseconds since 1970 as the wall clock had them when the agent started, carried on by the boot clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Steady(pub i64);

impl Steady {
    /// Time from `earlier` to `self`; zero where `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The time `duration` later, held at the end of the range.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// The time `duration` earlier, held at the start of the range.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// Whole seconds since 1970, rounded down, held in the range.
    pub fn seconds(self) -> u32 {
        u32::try_from(self.0.div_euclid(NANOS_PER_SECOND).max(0)).unwrap_or(u32::MAX)
    }

    /// Seconds since 1970 with their fraction.
    #[expect(clippy::cast_precision_loss, reason = "a quarter of a microsecond at today's dates is below every jitter")]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Whole days since 1970.
    pub fn day(self) -> u32 {
        self.minute() / 1_440
    }

    /// Whole minutes since 1970.
    pub fn minute(self) -> u32 {
        self.seconds() / 60
    }

    /// Hour of the week, 0 at Monday 00:00 UTC, up to 167.
    pub fn hour_of_week(self) -> u8 {
        // 1970-01-01 was a Thursday, the fourth day of a week that starts on Monday.
        let hours = (i64::from(self.seconds()) / 3_600 + 3 * 24).rem_euclid(168);
        u8::try_from(hours).unwrap_or(0)
    }

    /// From whole seconds since 1970.
    pub fn from_seconds(seconds: u32) -> Self {
        Self(i64::from(seconds) * NANOS_PER_SECOND)
    }

    /// The date, `2026-03-02`.
    pub fn date(self) -> String {
        let (year, month, day) = civil(i64::from(self.seconds()).div_euclid(DAY_SECONDS));
        format!("{year:04}-{month:02}-{day:02}")
    }
}

/// Turns moments into steady times.
#[derive(Clone, Copy, Debug, Default)]
pub struct SteadyClock {
    /// Steady time less boot time; `None` before the first moment.
    offset: Option<i64>,
    /// Never to be fallen below: the latest time in the restored rows.
    floor: Steady,
}

impl SteadyClock {
    /// Keeps the clock at or above a time that was stored earlier.
    pub fn hold_above(&mut self, floor: Steady) {
        self.floor = self.floor.max(floor);
    }

    /// The steady time of a moment; the first one sets the clock.
    pub fn read(&mut self, now: Moment) -> Steady {
        if self.offset.is_none() {
            let start = now.wall.0.max(self.floor.0);
            self.offset = Some(start.saturating_sub(boot_nanos(now.boot)));
        }
        self.at(now.boot)
    }

    /// The steady time of a boot time.
    pub fn at(&self, boot: BootTime) -> Steady {
        Steady(boot_nanos(boot).saturating_add(self.offset.unwrap_or(0)))
    }

    /// The boot time of a steady time, held at zero.
    pub fn boot(&self, at: Steady) -> BootTime {
        BootTime(u64::try_from(at.0.saturating_sub(self.offset.unwrap_or(0))).unwrap_or(0))
    }
}

fn boot_nanos(boot: BootTime) -> i64 {
    i64::try_from(boot.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::WallTime;

    fn moment(boot_seconds: u64, wall_seconds: i64) -> Moment {
        Moment { boot: BootTime(boot_seconds * 1_000_000_000), wall: WallTime(wall_seconds * 1_000_000_000) }
    }

    #[test]
    fn a_stepped_wall_clock_changes_nothing() {
        let mut clock = SteadyClock::default();
        let start = clock.read(moment(100, 1_000_000));
        assert_eq!(clock.read(moment(160, 1_000_060 - 86_400)).since(start), Duration::from_secs(60));
        assert_eq!(clock.read(moment(220, 1_000_120 + 86_400)).since(start), Duration::from_secs(120));
    }

    #[test]
    fn a_restart_with_the_wall_clock_behind_goes_on_from_the_stored_time() {
        let mut clock = SteadyClock::default();
        clock.hold_above(Steady::from_seconds(2_000_000));
        assert_eq!(clock.read(moment(5, 1_000_000)), Steady::from_seconds(2_000_000));
    }

    #[test]
    fn hours_and_dates_are_the_calendar_s() {
        let monday = Steady::from_seconds(1_772_409_600);
        assert_eq!((monday.date().as_str(), monday.hour_of_week()), ("2026-03-02", 0));
        let sunday = monday.minus(Duration::from_secs(1));
        assert_eq!((sunday.date().as_str(), sunday.hour_of_week()), ("2026-03-01", 167));
    }
}
