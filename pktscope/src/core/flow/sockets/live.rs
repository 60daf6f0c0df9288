//! One flow of the live host, and what a report means for it.

use crate::core::{
    event::{Opening, SocketReport, SocketScope},
    flow::{
        ConnState, Direction, EndReason, Endpoint, FlowId, FlowKey, FlowSettings, FlowSnapshot, Ownership, SocketOwner,
        TcpSummary, Transport, Volume, icmp_ports, icmp_question,
        socket_tcp::{self, Histories, SocketTcp},
    },
    time::BootTime,
};

/// When nothing is to be looked at.
pub(super) const NEVER: BootTime = BootTime(u64::MAX);

/// A connection's addresses in one network namespace.
pub(super) type Tuple = (u64, FlowKey);

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// The socket is closed; ended for this reason, once the linger is over.
    Closed(BootTime, EndReason),
}

#[derive(Debug)]
pub(super) struct LiveFlow<U> {
    netns: u64,
    /// Of its key, which has no ports where the transport has none.
    ports: [u16; 2],
    pub(super) transport: Transport,
    pub(super) local: Endpoint,
    pub(super) remote: Endpoint,
    pub(super) icmp: Option<(u8, u8)>,
    pub(super) opening: Opening,
    pub(super) sent: Volume,
    pub(super) received: Volume,
    pub(super) started_at: BootTime,
    pub(super) last_seen: BootTime,
    pub(super) ownership: Ownership,
    pub(super) tcp: SocketTcp,
    pub(super) has_primary: bool,
    pub(super) phase: Phase,
    pub(super) is_changed: bool,
    pub(super) reported_at: BootTime,
    /// When to look at it again, as in the agenda; [`NEVER`] where it is not there.
    pub(super) due: BootTime,
    /// The last sweep that still had it.
    pub(super) sweep: u64,
    pub(super) user: U,
}

impl<U: Default> LiveFlow<U> {
    /// A flow that begins with a report, before anything of it is counted.
    pub(super) fn new(tuple: Tuple, report: &SocketReport, started_at: BootTime, sweep: u64) -> Self {
        let (opening, icmp) = answered(report);
        Self {
            netns: tuple.0,
            ports: tuple.1.ports,
            transport: report.transport,
            local: report.local,
            remote: report.remote,
            icmp,
            opening,
            sent: Volume::default(),
            received: Volume::default(),
            started_at,
            last_seen: started_at,
            ownership: owner_of(report),
            tcp: SocketTcp::default(),
            has_primary: false,
            phase: Phase::Open,
            is_changed: true,
            reported_at: BootTime::default(),
            due: NEVER,
            sweep,
            user: U::default(),
        }
    }
}

impl<U> LiveFlow<U> {
    /// What it is found by.
    pub(super) fn tuple(&self) -> Tuple {
        let (key, _) = FlowKey::of_endpoints(self.transport, self.local, self.remote);
        (self.netns, FlowKey { ports: self.ports, ..key })
    }

    pub(super) fn is_confirmed(&self) -> bool {
        self.sent.packets > 0 && self.received.packets > 0
    }

    pub(super) fn age(&self, id: FlowId) -> (bool, BootTime, FlowId) {
        (self.is_confirmed(), self.last_seen, id)
    }

    /// When it ends if nothing comes; `None` while a socket holds it open.
    pub(super) fn idle_at(&self, settings: &FlowSettings) -> Option<BootTime> {
        let timeout = match self.transport {
            Transport::TCP if self.has_primary => return None,
            Transport::TCP => settings.tcp_half_open_timeout,
            Transport::UDP => settings.udp_timeout,
            _ => settings.other_timeout,
        };
        Some(self.last_seen.plus(timeout))
    }

    pub(super) fn next_look(&self, settings: &FlowSettings) -> BootTime {
        if matches!(self.phase, Phase::Closed(..)) {
            // In the order of their close, not in the agenda.
            return NEVER;
        }
        let update = self.is_changed.then(|| self.reported_at.plus(settings.update_interval));
        let active = settings.active_timeout.map(|timeout| self.started_at.plus(timeout));
        let looks = [self.idle_at(settings), update, active];
        looks.into_iter().flatten().min().unwrap_or(NEVER)
    }

    /// Whether its start has been told.
    pub(super) fn is_told(&self) -> bool {
        self.reported_at != BootTime::default()
    }

    /// Takes what a report says beside its totals.
    pub(super) fn take_facts(&mut self, report: &SocketReport, sweep: u64) {
        // Who sends frames is known once the first system call returns.
        if matches!(report.scope, SocketScope::Primary | SocketScope::Frames) {
            let ownership = owner_of(report);
            self.is_changed |= self.ownership != ownership;
            self.ownership = ownership;
        }
        if report.scope == SocketScope::Primary {
            if !self.has_primary {
                self.phase = Phase::Open;
            }
            (self.opening, self.has_primary) = (report.opening, true);
        }
        if report.scope == SocketScope::Primary || !self.has_primary {
            self.sweep = sweep;
        }
        if let Some(tcp) = &report.tcp {
            self.tcp.update(tcp, report.is_closed);
        }
    }

    pub(super) fn snapshot(
        &self,
        id: FlowId,
        ended: Option<(BootTime, EndReason)>,
        histories: &mut Histories,
    ) -> FlowSnapshot {
        let (source, destination, sent, received, direction) = match self.opening {
            Opening::Active => (self.local, self.remote, self.sent, self.received, Direction::Egress),
            Opening::Passive => (self.remote, self.local, self.received, self.sent, Direction::Ingress),
        };
        FlowSnapshot {
            id,
            transport: self.transport,
            source,
            destination,
            icmp: self.icmp,
            direction,
            sent,
            received,
            started_at: self.started_at,
            last_seen: self.last_seen,
            ended,
            ownership: self.ownership,
            tcp: (self.transport == Transport::TCP).then(|| self.tcp_summary(histories)),
        }
    }

    fn tcp_summary(&self, histories: &mut Histories) -> TcpSummary {
        let summary = self.tcp.summary(self.opening, &self.sent, &self.received, histories);
        match self.ownership {
            // Without a socket the kernel has no connection, only answers to segments of which no hook told.
            Ownership::Kernel => TcpSummary { conn_state: ConnState::OTH, ..summary },
            Ownership::Socket(_) | Ownership::Capture => summary,
        }
    }
}

pub(super) fn grown(now: &Volume, before: &Volume) -> Option<Volume> {
    Some(Volume {
        ip_bytes: now.ip_bytes.checked_sub(before.ip_bytes)?,
        packets: now.packets.checked_sub(before.packets)?,
        // Counted elsewhere than the packets (by the socket itself), so it may lag behind them.
        payload_bytes: now.payload_bytes.saturating_sub(before.payload_bytes),
    })
}

pub(super) fn add(total: &mut Volume, more: &Volume) {
    total.ip_bytes += more.ip_bytes;
    total.packets += more.packets;
    total.payload_bytes += more.payload_bytes;
}

fn owner_of(report: &SocketReport) -> Ownership {
    if report.scope == SocketScope::Kernel {
        return Ownership::Kernel;
    }
    Ownership::Socket(SocketOwner {
        cookie: report.cookie,
        user: report.user,
        creator: report.creator,
        method: report.method,
        unknown: report.unknown,
        is_shared: report.is_shared,
    })
}

pub(super) fn key_of(report: &SocketReport) -> FlowKey {
    let (mut key, _) = FlowKey::of_endpoints(report.transport, report.local, report.remote);
    if let (Some((kind, code)), [0, 0]) = (report.icmp, key.ports) {
        key.ports = icmp_ports(report.transport.0, kind, code, 0);
    }
    key
}

/// Who opened a report's flow, and its first ICMP message. Of its own accord the kernel opens no TCP connection: what it
/// sends without a socket answers a segment (RFC 9293, 3.10.7.1); so do ICMP's answers, whose questions pass no hook.
fn answered(report: &SocketReport) -> (Opening, Option<(u8, u8)>) {
    if report.scope != SocketScope::Kernel || report.remote.addr.is_multicast() {
        return (report.opening, report.icmp);
    }
    let question = report.icmp.and_then(|(kind, _)| icmp_question(report.transport.0, kind));
    match (question, report.transport) {
        (Some(question), _) => (Opening::Passive, Some((question, 0))),
        (None, Transport::TCP) => (Opening::Passive, None),
        (None, _) => (report.opening, report.icmp),
    }
}

/// Whether a kernel's packets are answers to echo requests.
pub(super) fn is_echo(report: &SocketReport) -> bool {
    const ECHO_REPLIES: [(Transport, u8); 2] = [(Transport::ICMP, 0), (Transport::ICMPV6, 129)];
    report.icmp.is_some_and(|(kind, _)| ECHO_REPLIES.contains(&(report.transport, kind)))
}

/// Whether a kernel's packets answer the FIN of a connection that this host closed first and in order.
pub(super) fn is_time_wait_answer<U>(live: &LiveFlow<U>, report: &SocketReport) -> bool {
    let is_in_order = matches!(live.phase, Phase::Closed(_, EndReason::EndOfFlow));
    live.has_primary && is_in_order && report.received.packets == 0 && socket_tcp::is_active_close(&live.tcp)
}
