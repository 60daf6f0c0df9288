//! Single settings: how each type is written in TOML.

use std::{path::PathBuf, time::Duration};

use super::section::a_kind;
use crate::core::alert::RuleId;

/// A value with one line in the configuration.
pub trait Setting: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong and what to write instead.
    fn read(value: &toml::Value) -> Result<Self, String>;

    /// How it is written; `None` where it is not set.
    fn show(&self) -> Option<String>;
}

fn quoted(text: &str) -> Option<String> {
    Some(toml::Value::String(text.to_owned()).to_string())
}

fn text<'a>(value: &'a toml::Value, example: &str) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("a string is needed, not {}; for example {example}", a_kind(value)))
}

impl Setting for bool {
    fn read(value: &toml::Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| format!("true or false is needed, not {}", a_kind(value)))
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

macro_rules! unsigned {
    ($($type:ty),+) => {$(
        impl Setting for $type {
            fn read(value: &toml::Value) -> Result<Self, String> {
                let number = value.as_integer().ok_or_else(|| format!("a whole number is needed, not {}", a_kind(value)))?;
                Self::try_from(number).map_err(|_| format!("{number} is out of range; from 0 to {} can be set", Self::MAX))
            }

            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )+};
}

unsigned!(u8, u16, u32, u64, usize);

impl Setting for f64 {
    fn read(value: &toml::Value) -> Result<Self, String> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a person wrote the integer; 2^53 is beyond any setting's range"
        )]
        let number = value.as_float().or_else(|| value.as_integer().map(|whole| whole as Self));
        number.filter(|number| number.is_finite()).ok_or_else(|| format!("a number is needed, not {}", a_kind(value)))
    }

    fn show(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

impl<const N: usize> Setting for [u64; N] {
    fn read(value: &toml::Value) -> Result<Self, String> {
        let items = list(value, N)?;
        let numbers: Vec<u64> = items.iter().map(u64::read).collect::<Result<_, _>>()?;
        numbers.try_into().map_err(|_| format!("a list of {N} numbers is needed"))
    }

    fn show(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

impl<A: Setting, B: Setting> Setting for (A, B) {
    fn read(value: &toml::Value) -> Result<Self, String> {
        let items = list(value, 2)?;
        Ok((A::read(&items[0])?, B::read(&items[1])?))
    }

    fn show(&self) -> Option<String> {
        Some(format!("[{}, {}]", self.0.show()?, self.1.show()?))
    }
}

fn list(value: &toml::Value, length: usize) -> Result<&[toml::Value], String> {
    let items = value.as_array().filter(|items| items.len() == length);
    items.map(Vec::as_slice).ok_or_else(|| format!("a list of {length} numbers is needed, not {value}"))
}

impl Setting for Vec<RuleId> {
    fn read(value: &toml::Value) -> Result<Self, String> {
        let known = || RuleId::ALL.map(RuleId::id).join(", ");
        let rule = |id: &String| {
            RuleId::from_id(id).ok_or_else(|| format!("there is no rule \"{id}\"; there are: {}", known()))
        };
        Vec::<String>::read(value)?.iter().map(rule).collect()
    }

    fn show(&self) -> Option<String> {
        self.iter().map(|rule| rule.id().to_owned()).collect::<Vec<_>>().show()
    }
}

impl Setting for String {
    fn read(value: &toml::Value) -> Result<Self, String> {
        text(value, "\"text\"").map(str::to_owned)
    }

    fn show(&self) -> Option<String> {
        quoted(self)
    }
}

impl Setting for PathBuf {
    fn read(value: &toml::Value) -> Result<Self, String> {
        match text(value, "\"/var/lib/pktscope\"")? {
            "" => Err("a path is needed; leave the key out where there is none".to_owned()),
            path => Ok(path.into()),
        }
    }

    fn show(&self) -> Option<String> {
        quoted(&self.to_string_lossy())
    }
}

impl Setting for Vec<String> {
    fn read(value: &toml::Value) -> Result<Self, String> {
        let wrong = || format!("a list of strings is needed, not {}; for example [\"one\", \"two\"]", a_kind(value));
        let items = value.as_array().ok_or_else(wrong)?;
        items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
    }

    fn show(&self) -> Option<String> {
        Some(format!("[{}]", self.iter().filter_map(|item| quoted(item)).collect::<Vec<_>>().join(", ")))
    }
}

impl<T: Setting> Setting for Option<T> {
    fn read(value: &toml::Value) -> Result<Self, String> {
        T::read(value).map(Some)
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(Setting::show)
    }
}

impl Setting for Duration {
    fn read(value: &toml::Value) -> Result<Self, String> {
        parse_duration(text(value, "\"60s\", \"1h30m\" or \"7d\"")?)
    }

    fn show(&self) -> Option<String> {
        quoted(&format_duration(*self))
    }
}

/// A span of time as `7d`, `60s`, `1h30m`, `500ms`; days have 24 hours.
///
/// # Errors
/// What is wrong and what to write instead.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a duration; write it as \"60s\", \"1h30m\" or \"7d\"");
    let span: jiff::Span = text.trim().parse().map_err(|_| wrong())?;
    let length = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(length).map_err(|_| wrong())
}

const UNITS: [(u128, &str); 7] = [
    (86_400_000_000_000, "d"),
    (3_600_000_000_000, "h"),
    (60_000_000_000, "m"),
    (1_000_000_000, "s"),
    (1_000_000, "ms"),
    (1_000, "us"),
    (1, "ns"),
];

/// A span of time as [`parse_duration`] reads it, exactly.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut out = String::new();
    for (size, unit) in UNITS {
        if size <= rest {
            out.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const BYTE_UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl Bytes {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (digits, shift) =
            BYTE_UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift))).unwrap_or((text, 0));
        digits.trim().parse::<u64>().ok()?.checked_mul(1 << shift).map(Self)
    }
}

impl Setting for Bytes {
    fn read(value: &toml::Value) -> Result<Self, String> {
        let wrong = || format!("{value} is not a size; write it as \"64KiB\", \"8MiB\" or \"2GiB\"");
        match value {
            toml::Value::Integer(number) => u64::try_from(*number).map(Self).map_err(|_| wrong()),
            toml::Value::String(text) => Self::parse(text).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }

    fn show(&self) -> Option<String> {
        let is_whole = |shift: u32| 1 << shift <= self.0 && self.0.is_multiple_of(1 << shift);
        let (unit, shift) = BYTE_UNITS.iter().find(|(_, shift)| is_whole(*shift)).copied().unwrap_or(("B", 0));
        quoted(&format!("{}{unit}", self.0 >> shift))
    }
}

/// Where a syslog server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogAddress {
    /// A datagram a message (RFC 5426).
    Udp(String),
    /// Octet-counted frames (RFC 6587).
    Tcp(String),
    /// The local log's datagram socket.
    Unix(PathBuf),
}

impl SyslogAddress {
    fn parse(text: &str) -> Option<Self> {
        let has_port = |host: &str| {
            let port = host.rsplit_once(':').map(|(name, port)| (name, port.parse::<u16>()));
            matches!(port, Some((name, Ok(_))) if !name.is_empty())
        };
        match text.split_once("://")? {
            ("udp", host) if has_port(host) => Some(Self::Udp(host.to_owned())),
            ("tcp", host) if has_port(host) => Some(Self::Tcp(host.to_owned())),
            ("unix", path) if path.starts_with('/') => Some(Self::Unix(path.into())),
            _ => None,
        }
    }
}

impl std::fmt::Display for SyslogAddress {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Udp(host) => write!(out, "udp://{host}"),
            Self::Tcp(host) => write!(out, "tcp://{host}"),
            Self::Unix(path) => write!(out, "unix://{}", path.display()),
        }
    }
}

impl Setting for SyslogAddress {
    fn read(value: &toml::Value) -> Result<Self, String> {
        value.as_str().and_then(Self::parse).ok_or_else(|| {
            format!("{value} is no syslog address; write \"udp://HOST:514\", \"tcp://HOST:601\" or \"unix:///dev/log\"")
        })
    }

    fn show(&self) -> Option<String> {
        quoted(&self.to_string())
    }
}

/// Names of syslog's facilities in the order of their numbers (RFC 5424, table 1).
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
    "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

/// A syslog facility, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(pub u8);

impl Default for Facility {
    fn default() -> Self {
        const DAEMON: u8 = 3;
        Self(DAEMON)
    }
}

impl Setting for Facility {
    fn read(value: &toml::Value) -> Result<Self, String> {
        let index = FACILITIES.iter().position(|name| value.as_str() == Some(name));
        let number = index.and_then(|index| u8::try_from(index).ok());
        number.map(Self).ok_or_else(|| format!("{value} is no facility; there are: {}", FACILITIES.join(", ")))
    }

    fn show(&self) -> Option<String> {
        quoted(FACILITIES.get(usize::from(self.0)).unwrap_or(&"daemon"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let seconds = |text| parse_duration(text).map(|duration| duration.as_secs_f64());
        for (text, expected) in
            [("0s", 0.0), ("60s", 60.0), ("1h30m", 5400.0), ("7d", 604_800.0), ("500ms", 0.5), ("1w", 604_800.0)]
        {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "60", "fast", "-5s", "1y", "5 s m"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_is_shown_as_it_is_read() {
        for nanos in [0, 1, 999, 1_500_000, 90_061_000_000_000, 86_400_000_000_000 * 365] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [("0B", 0), ("8MiB", 8 << 20), ("1536KiB", 1536 << 10), ("12", 12)] {
            assert_eq!(Bytes::parse(text), Some(Bytes(bytes)), "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "8MB", "99999999TiB"] {
            assert_eq!(Bytes::parse(text), None, "{text}");
        }
        assert_eq!(Bytes(1536 << 10).show().unwrap(), "\"1536KiB\"");
    }
}
