//! RFC 3339 times of a recording.

/// Nanoseconds since the epoch of an RFC 3339 time; `None` where it is none.
///
/// `2026-03-02T00:00:00.052000000Z`, as this agent writes it, is read directly; any other offset or form by the
/// time library.
pub(super) fn nanoseconds(text: &str) -> Option<i64> {
    utc(text.as_bytes()).or_else(|| i64::try_from(text.parse::<jiff::Timestamp>().ok()?.as_nanosecond()).ok())
}

fn utc(text: &[u8]) -> Option<i64> {
    let (date, rest) = text.split_at_checked(19)?;
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(at, byte)| date[at] != byte) {
        return None;
    }
    let part = |from: usize, to: usize| digits(&date[from..to]);
    let (month, day) = (part(5, 7)?, part(8, 10)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let days = days_from_civil(part(0, 4)?, month, day);
    let seconds = days * 86_400 + part(11, 13)? * 3_600 + part(14, 16)? * 60 + part(17, 19)?;
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction(rest)?)
}

/// Nanoseconds of `.052000000Z` or `Z`.
fn fraction(rest: &[u8]) -> Option<i64> {
    let digits_part = rest.strip_suffix(b"Z")?;
    let Some(after_point) = digits_part.strip_prefix(b".") else { return digits_part.is_empty().then_some(0) };
    if after_point.is_empty() || after_point.len() > 9 {
        return None;
    }
    let missing = u32::try_from(9 - after_point.len()).ok()?;
    Some(digits(after_point)? * 10_i64.pow(missing))
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0_i64, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
}

/// Days since 1970-01-01 of a date of the Gregorian calendar (H. Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_path_agrees_with_the_library() {
        for text in
            ["2026-03-02T00:00:00.052000000Z", "1999-12-31T23:59:59Z", "2024-02-29T12:34:56.5Z", "1970-01-01T00:00:00Z"]
        {
            let known = text.parse::<jiff::Timestamp>().unwrap().as_nanosecond();
            assert_eq!(utc(text.as_bytes()).map(i128::from), Some(known), "{text}");
        }
    }

    #[test]
    fn an_offset_is_read_and_nonsense_is_none() {
        assert_eq!(nanoseconds("1970-01-01T01:00:00+01:00"), Some(0));
        for text in [
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "2026-03-02 00:00:00",
            "2026-03-02T00:00:00.Z",
            "2026-03-02T00:00:0éZ",
        ] {
            assert_eq!(nanoseconds(text), None, "{text}");
        }
    }
}
