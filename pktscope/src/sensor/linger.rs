//! Ends of TCP connections that TIME_WAIT goes on with.
//!
//! Where this side closes first, its socket is replaced by a TIME_WAIT one before the other side's FIN comes. That FIN
//! and the ACK to it belong to the connection, but no program sees the one, and the other leaves by a socket of the
//! kernel. So the report of the end is held until the kernel tells of the ACK, at most [`HOLD`]. It may tell so before the
//! end: TIME_WAIT takes over a moment before the socket dies, and another processor may be quicker.

use std::{collections::VecDeque, time::Duration};

use ahash::{AHashMap, AHashSet};

use crate::core::{
    decode::Lingered,
    event::{Event, SocketReport, SocketScope},
    flow::{Endpoint, Transport, Volume},
    time::BootTime,
};

/// How long an end is held: the other side closes right away, or at its own leisure.
const HOLD: Duration = Duration::from_secs(1);
/// How long the kernel waits for the other side's FIN (include/net/tcp.h, `TCP_TIMEWAIT_LEN`, `TCP_FIN_TIMEOUT`).
const FORGET: Duration = Duration::from_secs(61);
/// Connections remembered at most; an end that finds no place is reported as it is.
const MAX_HELD: usize = 65_536;
/// How long a FIN is remembered that no end is held for: another processor is about to write that record, or the ring was
/// full and it is kept until the next sweep.
const AWAIT_END: Duration = Duration::from_secs(5);
/// Such FINs remembered at most.
const MAX_EARLY: usize = 16_384;

struct Held {
    report: SocketReport,
    is_reported: bool,
}

/// Ends that are held, and those reported whose FIN has not come.
#[derive(Default)]
pub(super) struct Lingering {
    by_cookie: AHashMap<u64, Held>,
    /// In the order of their ends: those still held, and those only remembered.
    held: VecDeque<(BootTime, u64)>,
    remembered: VecDeque<(BootTime, u64)>,
    /// What came before its end, and FINs that came again; in the order of their coming.
    early: AHashMap<u64, Lingered>,
    awaiting: VecDeque<(BootTime, u64)>,
}

impl Lingering {
    /// Holds a socket's end, unless its FIN is there already.
    pub(super) fn hold(&mut self, mut report: SocketReport, events: &mut Vec<Event>) {
        if let Some(early) = self.early.remove(&report.cookie) {
            join(&mut report, &early);
            return events.push(Event::Socket(report));
        }
        if self.by_cookie.len() >= MAX_HELD {
            return events.push(Event::Socket(report));
        }
        self.held.push_back((report.at, report.cookie));
        self.by_cookie.insert(report.cookie, Held { report, is_reported: false });
    }

    /// Adds what TIME_WAIT sent and received: to the end where it is still held, else as a report of its own.
    pub(super) fn settle(&mut self, lingered: &Lingered, events: &mut Vec<Event>) {
        let Some(Held { mut report, is_reported }) = self.by_cookie.remove(&lingered.cookie) else {
            return self.remember(lingered);
        };
        if is_reported {
            report.scope = SocketScope::Peer;
            report.started_at = lingered.at;
            (report.sent, report.received) = (Volume::default(), Volume::default());
            report.segment_header_bytes = [0; 2];
        }
        join(&mut report, lingered);
        events.push(Event::Socket(report));
    }

    fn remember(&mut self, lingered: &Lingered) {
        if self.early.insert(lingered.cookie, *lingered).is_none() {
            self.awaiting.push_back((lingered.at, lingered.cookie));
        }
        while MAX_EARLY < self.awaiting.len() {
            self.awaiting.pop_front().and_then(|(_, cookie)| self.early.remove(&cookie));
        }
    }

    /// Reports the ends of connections that the kernel answers for in `events`, before them: it has no TIME_WAIT socket
    /// for them (`net.ipv4.tcp_max_tw_buckets`), and resets what still comes. Linear in what is held, where there are any.
    pub(super) fn report_answered(&mut self, events: &mut Vec<Event>) {
        let answered: AHashSet<_> = events.iter().filter_map(answered_by_kernel).collect();
        if answered.is_empty() {
            return;
        }
        let mut ends = Vec::new();
        self.held.retain(|&(_, cookie)| {
            let Some(held) = self.by_cookie.get_mut(&cookie) else { return false };
            let is_answered = answered.contains(&(held.report.local, held.report.remote));
            if is_answered {
                held.is_reported = true;
                self.remembered.push_back((held.report.at, cookie));
                ends.push(Event::Socket(held.report.clone()));
            }
            !is_answered
        });
        ends.append(events);
        *events = ends;
    }

    /// Reports the ends that were held for long enough by `now`, and forgets those whose FIN can come no more.
    pub(super) fn expire(&mut self, now: BootTime, events: &mut Vec<Event>) {
        while let Some(cookie) = pop_older(&mut self.held, now, HOLD) {
            if let Some(held) = self.by_cookie.get_mut(&cookie) {
                held.is_reported = true;
                self.remembered.push_back((held.report.at, cookie));
                events.push(Event::Socket(held.report.clone()));
            }
        }
        while let Some(cookie) = pop_older(&mut self.remembered, now, FORGET) {
            self.by_cookie.remove(&cookie);
        }
        while let Some(cookie) = pop_older(&mut self.awaiting, now, AWAIT_END) {
            self.early.remove(&cookie);
        }
    }

    /// Reports every end that is held.
    pub(super) fn flush(&mut self, events: &mut Vec<Event>) {
        self.expire(BootTime(u64::MAX), events);
    }
}

/// The ends of a TCP connection that no socket but the kernel's sends for.
fn answered_by_kernel(event: &Event) -> Option<(Endpoint, Endpoint)> {
    match event {
        Event::Socket(SocketReport {
            scope: SocketScope::Kernel, transport: Transport::TCP, local, remote, ..
        }) => Some((*local, *remote)),
        _ => None,
    }
}

/// Adds to an end what TIME_WAIT sent and received after it, or at the same time.
fn join(report: &mut SocketReport, lingered: &Lingered) {
    report.at = report.at.max(lingered.at);
    add(&mut report.sent, &lingered.sent);
    add(&mut report.received, &lingered.received);
    if let Some(tcp) = &mut report.tcp {
        tcp.has_fin_received = true;
    }
}

fn add(total: &mut Volume, more: &Volume) {
    total.ip_bytes += more.ip_bytes;
    total.packets += more.packets;
}

fn pop_older(queue: &mut VecDeque<(BootTime, u64)>, now: BootTime, age: Duration) -> Option<u64> {
    let &(at, cookie) = queue.front()?;
    if now.since(at) < age {
        return None;
    }
    queue.pop_front();
    Some(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{event::Opening, flow::Method};

    fn end(cookie: u64, at: u64) -> SocketReport {
        let endpoint = Endpoint { addr: [127, 0, 0, 1].into(), port: 1 };
        SocketReport {
            cookie,
            netns: 1,
            scope: SocketScope::Primary,
            at: BootTime(at),
            started_at: BootTime(1),
            is_closed: true,
            transport: Transport::TCP,
            local: endpoint,
            remote: endpoint,
            icmp: None,
            opening: Opening::Active,
            interface: 1,
            user: None,
            creator: None,
            method: Method::Connect,
            unknown: None,
            is_shared: false,
            sent: Volume { ip_bytes: 100, packets: 2, payload_bytes: 5 },
            received: Volume { ip_bytes: 60, packets: 1, payload_bytes: 0 },
            segment_header_bytes: [0; 2],
            tcp: None,
        }
    }

    fn ack(cookie: u64, at: u64) -> Lingered {
        let volume = Volume { ip_bytes: 52, packets: 1, payload_bytes: 0 };
        Lingered { at: BootTime(at), cookie, sent: volume, received: volume }
    }

    fn sent(events: &[Event]) -> Vec<(SocketScope, u64, u64)> {
        let of = |event: &Event| match event {
            Event::Socket(report) => (report.scope, report.sent.ip_bytes, report.received.ip_bytes),
            other => panic!("{other:?}"),
        };
        events.iter().map(of).collect()
    }

    #[test]
    fn an_end_waits_for_its_fin() {
        let (mut lingering, mut events) = (Lingering::default(), Vec::new());
        lingering.hold(end(1, 10), &mut events);
        assert!(events.is_empty());
        lingering.settle(&ack(1, 20), &mut events);
        assert_eq!(sent(&events), [(SocketScope::Primary, 152, 112)]);
        lingering.flush(&mut events);
        assert_eq!(events.len(), 1);
    }

    #[test]
    fn a_fin_may_come_before_the_end() {
        let (mut lingering, mut events) = (Lingering::default(), Vec::new());
        lingering.settle(&ack(1, 9), &mut events);
        assert!(events.is_empty());
        lingering.hold(end(1, 10), &mut events);
        assert_eq!(sent(&events), [(SocketScope::Primary, 152, 112)]);
        lingering.settle(&ack(1, 20), &mut events);
        lingering.flush(&mut events);
        assert_eq!(events.len(), 1, "a FIN that comes again is no other");
    }

    #[test]
    fn the_end_comes_before_what_the_kernel_answers_for_it() {
        let (mut lingering, mut events) = (Lingering::default(), Vec::new());
        lingering.hold(end(1, 9), &mut events);
        let reset = SocketReport { scope: SocketScope::Kernel, cookie: 0, ..end(1, 10) };
        let other = Endpoint { addr: [127, 0, 0, 1].into(), port: 2 };
        events.push(Event::Socket(SocketReport { local: other, ..reset.clone() }));
        lingering.report_answered(&mut events);
        assert_eq!(events.len(), 1, "another connection's");
        events.push(Event::Socket(reset));
        lingering.report_answered(&mut events);
        let scopes: Vec<_> = sent(&events).iter().map(|(scope, ..)| *scope).collect();
        assert_eq!(scopes, [SocketScope::Primary, SocketScope::Kernel, SocketScope::Kernel]);
        lingering.flush(&mut events);
        assert_eq!(events.len(), 3, "once");
    }

    #[test]
    fn fins_of_others_are_forgotten() {
        let (mut lingering, mut events) = (Lingering::default(), Vec::new());
        (0..20_000).for_each(|cookie| lingering.settle(&ack(cookie, 9), &mut events));
        assert!(events.is_empty() && lingering.early.len() == MAX_EARLY && lingering.awaiting.len() == MAX_EARLY);
        lingering.expire(BootTime(9).plus(AWAIT_END), &mut events);
        assert!(events.is_empty() && lingering.early.is_empty() && lingering.awaiting.is_empty());
    }

    #[test]
    fn a_late_fin_is_reported_apart() {
        let (mut lingering, mut events) = (Lingering::default(), Vec::new());
        lingering.hold(end(1, 0), &mut events);
        lingering.expire(BootTime(999_999_999), &mut events);
        assert!(events.is_empty());
        lingering.expire(BootTime(1_000_000_000), &mut events);
        lingering.settle(&ack(1, 2_000_000_000), &mut events);
        assert_eq!(sent(&events), [(SocketScope::Primary, 100, 60), (SocketScope::Peer, 52, 52)]);
    }

    #[test]
    fn what_never_comes_is_forgotten() {
        let (mut lingering, mut events) = (Lingering::default(), Vec::new());
        lingering.hold(end(1, 0), &mut events);
        lingering.expire(BootTime(62_000_000_000), &mut events);
        assert!(lingering.by_cookie.is_empty() && lingering.held.is_empty() && lingering.remembered.is_empty());
    }
}
