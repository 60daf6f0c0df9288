//! Typed access to the agent's events.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

/// One line of `--events`.
#[derive(Clone, Debug, PartialEq)]
pub struct Event(Value);

impl Event {
    /// Parses one line.
    ///
    /// # Errors
    /// Where it is not JSON.
    pub fn parse(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line).map(Self)
    }

    /// The value at a dotted path, nested or flat.
    pub fn get(&self, path: &str) -> Option<&Value> {
        let nested = path.split('.').try_fold(&self.0, |value, key| value.get(key));
        nested.or_else(|| self.0.get(path)).filter(|value| !value.is_null())
    }

    /// A text field; empty where it is absent.
    pub fn text(&self, path: &str) -> &str {
        self.get(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number or a numeric text; 0 where it is absent.
    pub fn number(&self, path: &str) -> u64 {
        let value = self.get(path);
        value.and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok())).unwrap_or_default()
    }

    /// An address field.
    pub fn addr(&self, path: &str) -> Option<IpAddr> {
        self.text(path).parse().ok()
    }

    /// `source` or `destination` as an address with its port.
    pub fn endpoint(&self, side: &str) -> Option<SocketAddr> {
        let port = u16::try_from(self.number(&format!("{side}.port"))).ok()?;
        Some(SocketAddr::new(self.addr(&format!("{side}.ip"))?, port))
    }

    /// Whether this is an event of the data set `pktscope.<name>`.
    pub fn is(&self, name: &str) -> bool {
        self.text("event.dataset").strip_prefix("pktscope.") == Some(name)
    }

    /// Whether its action is this one.
    pub fn has_action(&self, action: &str) -> bool {
        self.text("event.action") == action
    }

    /// Whether this is the end of a flow.
    pub fn is_flow_end(&self) -> bool {
        self.is("flow") && self.has_action("flow_ended")
    }

    /// Whether this is an alert of the rule.
    pub fn is_alert(&self, rule: &str) -> bool {
        self.is("alert") && self.text("rule.id") == rule
    }

    /// Whether the flow's source or destination has this address.
    pub fn touches(&self, addr: IpAddr) -> bool {
        [self.addr("source.ip"), self.addr("destination.ip")].contains(&Some(addr))
    }

    /// The flow's identifier, as it is written.
    pub fn flow_id(&self) -> String {
        self.get("pktscope.flow_id").map(Value::to_string).unwrap_or_default()
    }

    /// Process that owns the flow; 0 where none is named.
    pub fn pid(&self) -> u32 {
        u32::try_from(self.number("process.pid")).unwrap_or_default()
    }

    /// What the flow's source sent and received, seen from it.
    pub fn volume(&self) -> Volume {
        Volume {
            sent_bytes: self.number("source.bytes"),
            sent_packets: self.number("source.packets"),
            received_bytes: self.number("destination.bytes"),
            received_packets: self.number("destination.packets"),
        }
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

/// IP-layer bytes and packets both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
}

impl Volume {
    /// The same, seen from the other side.
    pub fn reversed(self) -> Self {
        Self {
            sent_bytes: self.received_bytes,
            sent_packets: self.received_packets,
            received_bytes: self.sent_bytes,
            received_packets: self.sent_packets,
        }
    }
}

impl std::ops::Add for Volume {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes + other.sent_bytes,
            sent_packets: self.sent_packets + other.sent_packets,
            received_bytes: self.received_bytes + other.received_bytes,
            received_packets: self.received_packets + other.received_packets,
        }
    }
}

impl std::iter::Sum for Volume {
    fn sum<I: Iterator<Item = Self>>(volumes: I) -> Self {
        volumes.fold(Self::default(), |sum, volume| sum + volume)
    }
}

impl From<crate::namespace::Counters> for Volume {
    fn from(counters: crate::namespace::Counters) -> Self {
        Self {
            sent_bytes: counters.sent_bytes,
            sent_packets: counters.sent_packets,
            received_bytes: counters.received_bytes,
            received_packets: counters.received_packets,
        }
    }
}
