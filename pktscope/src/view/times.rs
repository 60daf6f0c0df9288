//! Times as people read them, seen from a given now in a given time zone.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};

use crate::core::time::WallTime;

/// The now and the time zone that times are shown at.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The now.
    pub now: WallTime,
    /// The time zone.
    pub zone: TimeZone,
}

impl Clock {
    /// `14:05:06` of today, `Nov 20 14:05` of this year, `2025-11-20` of another.
    pub fn time(&self, at: WallTime) -> String {
        let (Some(at), Some(now)) = (self.zoned(at), self.zoned(self.now)) else { return "?".to_owned() };
        if at.date() == now.date() {
            at.strftime("%H:%M:%S").to_string()
        } else if at.year() == now.year() {
            at.strftime("%b %e %H:%M").to_string()
        } else {
            at.strftime("%Y-%m-%d").to_string()
        }
    }

    /// `2026-11-20 14:05:06`.
    pub fn date_time(&self, at: WallTime) -> String {
        self.zoned(at).map_or_else(|| "?".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string())
    }

    fn zoned(&self, at: WallTime) -> Option<jiff::Zoned> {
        let at = Timestamp::from_nanosecond(i128::from(at.0)).ok()?;
        Some(at.to_zoned(self.zone.clone()))
    }
}

/// A span by its two largest units: `850 ms`, `3.2 s`, `5m 10s`, `2h 3m`, `3d 4h`.
pub fn span(span: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 3_600;
    const DAY: u64 = 86_400;
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..MINUTE => format!("{seconds}.{} s", span.subsec_millis() / 100),
        MINUTE..HOUR => format!("{}m {}s", seconds / MINUTE, seconds % MINUTE),
        HOUR..DAY => format!("{}h {}m", seconds / HOUR, seconds % HOUR / MINUTE),
        _ => format!("{}d {}h", seconds / DAY, seconds % DAY / HOUR),
    }
}

/// How long ago: `5m 10s ago`; `now` of the last second and of the future.
pub fn ago(at: WallTime, now: WallTime) -> String {
    match now.since(at) {
        past if past < Duration::from_secs(1) => "now".to_owned(),
        past => format!("{} ago", span(Duration::from_secs(past.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> WallTime {
        WallTime(i64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap())
    }

    #[test]
    fn times_are_as_long_as_they_must_be() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let clock = Clock { now: at("2026-11-20T23:30:00Z"), zone };
        assert_eq!(clock.time(at("2026-11-20T23:05:06Z")), "00:05:06");
        assert_eq!(clock.time(at("2026-11-20T22:05:06Z")), "Nov 20 23:05");
        assert_eq!(clock.time(at("2025-11-20T22:05:06Z")), "2025-11-20");
        assert_eq!(clock.date_time(at("2025-11-20T22:05:06Z")), "2025-11-20 23:05:06");
    }

    #[test]
    fn spans_have_two_units() {
        for (millis, text) in [
            (0, "0 ms"),
            (850, "850 ms"),
            (3_290, "3.2 s"),
            (310_000, "5m 10s"),
            (7_380_000, "2h 3m"),
            (273_600_000, "3d 4h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
        assert_eq!(ago(WallTime(0), WallTime(61_500_000_000)), "1m 1s ago");
        assert_eq!(ago(WallTime(5), WallTime(0)), "now");
    }
}
