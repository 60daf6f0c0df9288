//! How long each class of flows may be silent.

use std::time::Duration;

use crate::core::flow::{
    FlowSettings, Transport,
    table::{Class, Entry},
};

/// Nanoseconds by class.
#[derive(Debug)]
pub(super) struct Timeouts {
    pub(super) half_open: u64,
    pub(super) closed: u64,
    pub(super) tcp: u64,
    pub(super) udp: u64,
    pub(super) other: u64,
    pub(super) update: u64,
    pub(super) active: u64,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Timeouts {
    pub(super) fn new(settings: &FlowSettings) -> Self {
        Self {
            half_open: nanos(settings.tcp_half_open_timeout),
            closed: nanos(settings.tcp_closed_timeout),
            tcp: nanos(settings.tcp_timeout),
            udp: nanos(settings.udp_timeout),
            other: nanos(settings.other_timeout),
            update: nanos(settings.update_interval).max(1),
            active: settings.active_timeout.map_or(u64::MAX, nanos),
        }
    }

    #[inline]
    pub(super) fn idle(&self, entry: &Entry) -> u64 {
        match (entry.class(), Transport(entry.transport)) {
            (Class::HalfOpen, _) => self.half_open,
            (Class::Closed, _) => self.closed,
            (_, Transport::TCP) => self.tcp,
            (_, Transport::UDP) => self.udp,
            _ => self.other,
        }
    }

    #[inline]
    pub(super) fn deadline(&self, entry: &Entry) -> u64 {
        entry.last_seen.saturating_add(self.idle(entry))
    }
}
