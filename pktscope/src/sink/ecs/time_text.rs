//! Wall times as text: RFC 3339 UTC with nanoseconds, without allocation.

use crate::core::time::{WallTime, civil};

/// `2026-11-20T23:12:41.000000001Z`
#[derive(Clone, Copy)]
pub(crate) struct Rfc3339([u8; 30]);

impl Rfc3339 {
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Any 64-bit nanosecond count lies in the years 1677 to 2262, so four digits hold the year.
pub(crate) fn rfc3339(at: WallTime) -> Rfc3339 {
    let (seconds, nanos) = (at.0.div_euclid(NANOS_PER_SECOND), at.0.rem_euclid(NANOS_PER_SECOND));
    let (year, month, day) = civil(seconds.div_euclid(SECONDS_PER_DAY));
    let second = seconds.rem_euclid(SECONDS_PER_DAY);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], second / 3600);
    digits(&mut text[14..16], second / 60 % 60);
    digits(&mut text[17..19], second % 60);
    digits(&mut text[20..29], nanos);
    Rfc3339(text)
}

fn digits(place: &mut [u8], mut value: i64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_reads_as_an_independent_library_writes_it() {
        let step = i64::MAX / 5_003;
        for nanos in (-5_003..=5_003).map(|index| index * step).chain([i64::MAX, i64::MIN, 0, -1]) {
            let expected = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap();
            assert_eq!(rfc3339(WallTime(nanos)).as_str(), format!("{expected:.9}"));
        }
    }
}
