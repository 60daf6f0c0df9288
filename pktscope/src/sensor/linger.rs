//! Ends of TCP connections that TIME_WAIT goes on with.
//!
//! Where this side closes first, its socket is replaced by a TIME_WAIT one before the other side's FIN comes. That FIN
//! and the ACK to it belong to the connection, but no program sees the one, and the other leaves by a socket of the
//! kernel. So the report of the end is held until the kernel tells of the ACK, at most [`HOLD`]. It may tell so before the
//! end: TIME_WAIT takes over a moment before the socket dies, and another processor may be quicker. What it tells of
//! besides, of a FIN that comes late or again, or of a reset, is reported apart.

use std::{
    collections::{VecDeque, hash_map::Entry},
    time::Duration,
};

use ahash::{AHashMap, AHashSet};

use crate::core::{
    event::{Event, SocketReport, SocketScope},
    flow::{Endpoint, Transport, Volume},
    time::BootTime,
};

/// How long an end is held: the other side closes right away, or at its own leisure.
const HOLD: Duration = Duration::from_secs(1);
/// Ends held at most; one that finds no place is reported as it is.
const MAX_HELD: usize = 65_536;
/// How long what TIME_WAIT tells waits for its end: another processor is about to write that record. Ends that the ring had
/// no room for are read before it is looked at.
const AWAIT_END: Duration = Duration::from_secs(1);
/// Connections of which so much waits at most; the first is reported apart before its time.
const MAX_EARLY: usize = 16_384;
/// Connections remembered whose end is told: a FIN comes again after some milliseconds, or a fifth of a second
/// (net/ipv4/tcp_timer.c, `TCP_RTO_MIN`), or hardly ever.
const MAX_ENDED: usize = 4_096;

/// Ends that are held, and what came before its end.
#[derive(Default)]
pub(super) struct Lingering {
    by_cookie: AHashMap<u64, SocketReport>,
    /// In the order of their ends.
    held: VecDeque<(BootTime, u64)>,
    early: AHashMap<u64, SocketReport>,
    /// In the order of its coming.
    awaiting: VecDeque<(BootTime, u64)>,
    /// Cookies and network namespaces of connections whose end was told last. Few are asked for, so they have no index.
    ended: VecDeque<(u64, u64)>,
}

impl Lingering {
    /// Passes on an event that nothing is awaited for; remembers whose end it was.
    pub(super) fn pass(&mut self, event: Event, events: &mut Vec<Event>) {
        match event {
            Event::Socket(report) if report.is_closed && report.transport == Transport::TCP => {
                self.tell(report, events)
            }
            other => events.push(other),
        }
    }

    /// Tells an end.
    fn tell(&mut self, end: SocketReport, events: &mut Vec<Event>) {
        if self.ended.len() == MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back((end.cookie, end.netns));
        events.push(Event::Socket(end));
    }

    /// Holds a socket's end, unless its FIN is there already.
    pub(super) fn hold(&mut self, mut report: SocketReport, events: &mut Vec<Event>) {
        if let Some(early) = self.early.remove(&report.cookie) {
            join(&mut report, &early);
            return self.tell(report, events);
        }
        if self.by_cookie.len() >= MAX_HELD {
            return self.tell(report, events);
        }
        self.held.push_back((report.at, report.cookie));
        self.by_cookie.insert(report.cookie, report);
    }

    /// Adds what TIME_WAIT sent and received to the end that is held for it, or keeps it for the end that will come; it is
    /// reported apart where that was told already.
    pub(super) fn settle(&mut self, lingered: SocketReport, events: &mut Vec<Event>) {
        let Some(mut end) = self.by_cookie.remove(&lingered.cookie) else {
            return match self.ended.iter().rev().find(|(cookie, _)| *cookie == lingered.cookie) {
                // Packets of older kernels' own sockets cannot be asked for theirs.
                Some(&(_, netns)) => events.push(Event::Socket(SocketReport { netns, ..lingered })),
                None => self.remember(lingered, events),
            };
        };
        join(&mut end, &lingered);
        self.tell(end, events);
    }

    fn remember(&mut self, lingered: SocketReport, events: &mut Vec<Event>) {
        match self.early.entry(lingered.cookie) {
            Entry::Occupied(mut known) => add_all(known.get_mut(), &lingered),
            Entry::Vacant(room) => {
                self.awaiting.push_back((lingered.at, lingered.cookie));
                room.insert(lingered);
            }
        }
        while MAX_EARLY < self.awaiting.len() {
            let oldest = self.awaiting.pop_front().and_then(|(_, cookie)| self.early.remove(&cookie));
            events.extend(oldest.map(Event::Socket));
        }
    }

    /// Reports the ends of connections that the kernel answers for in `events`, before them: it has no TIME_WAIT socket
    /// for them (`net.ipv4.tcp_max_tw_buckets`), and resets what still comes. Linear in what is held, where there are any.
    pub(super) fn report_answered(&mut self, events: &mut Vec<Event>) {
        let answered: AHashSet<_> = events.iter().filter_map(answered_by_kernel).collect();
        if answered.is_empty() {
            return;
        }
        let (mut told, mut ends) = (Vec::new(), Vec::new());
        self.held.retain(|&(_, cookie)| {
            let Entry::Occupied(held) = self.by_cookie.entry(cookie) else { return false };
            let is_answered = answered.contains(&(held.get().local, held.get().remote));
            if is_answered {
                told.push(held.remove());
            }
            !is_answered
        });
        told.into_iter().for_each(|end| self.tell(end, &mut ends));
        ends.append(events);
        *events = ends;
    }

    /// Reports the ends that were held for long enough by `now`, and what has waited for its end in vain.
    pub(super) fn expire(&mut self, now: BootTime, events: &mut Vec<Event>) {
        while let Some(cookie) = pop_older(&mut self.held, now, HOLD) {
            self.by_cookie.remove(&cookie).into_iter().for_each(|end| self.tell(end, events));
        }
        while let Some(cookie) = pop_older(&mut self.awaiting, now, AWAIT_END) {
            events.extend(self.early.remove(&cookie).map(Event::Socket));
        }
    }

    /// Tells what the connections whose ends are held have carried so far, for who closes an account now. Linear in them.
    pub(super) fn tell_totals(&self, events: &mut Vec<Event>) {
        let ends = self.held.iter().filter_map(|(_, cookie)| self.by_cookie.get(cookie));
        events.extend(ends.map(|end| Event::Socket(SocketReport { is_closed: false, ..end.clone() })));
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
fn join(end: &mut SocketReport, lingered: &SocketReport) {
    add_all(end, lingered);
    if let Some(tcp) = &mut end.tcp {
        // A FIN is answered, a reset is not.
        tcp.has_fin_received |= lingered.sent.packets != 0;
    }
}

fn add_all(total: &mut SocketReport, more: &SocketReport) {
    total.at = total.at.max(more.at);
    add(&mut total.sent, &more.sent);
    add(&mut total.received, &more.received);
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

    fn ack(cookie: u64, at: u64) -> SocketReport {
        let volume = Volume { ip_bytes: 52, packets: 1, payload_bytes: 0 };
        SocketReport { scope: SocketScope::TimeWait, sent: volume, received: volume, ..end(cookie, at) }
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
        lingering.settle(ack(1, 20), &mut events);
        assert_eq!(sent(&events), [(SocketScope::Primary, 152, 112)]);
        lingering.flush(&mut events);
        assert_eq!(events.len(), 1);
    }

    #[test]
    fn a_fin_may_come_before_the_end() {
        let (mut lingering, mut events) = (Lingering::default(), Vec::new());
        lingering.settle(ack(1, 9), &mut events);
        assert!(events.is_empty());
        lingering.hold(end(1, 10), &mut events);
        assert_eq!(sent(&events), [(SocketScope::Primary, 152, 112)]);
        lingering.flush(&mut events);
        assert_eq!(events.len(), 1);
    }

    #[test]
    fn a_fin_that_comes_again_is_answered_again() {
        let (mut lingering, mut events) = (Lingering::default(), Vec::new());
        lingering.settle(ack(1, 9), &mut events);
        lingering.settle(ack(1, 10), &mut events);
        lingering.hold(end(1, 11), &mut events);
        lingering.settle(ack(1, 20), &mut events);
        lingering.settle(ack(1, 30), &mut events);
        lingering.flush(&mut events);
        let again = (SocketScope::TimeWait, 52, 52);
        assert_eq!(sent(&events), [(SocketScope::Primary, 204, 164), again, again]);
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
    fn fins_whose_end_does_not_come_are_reported_apart() {
        let (mut lingering, mut events) = (Lingering::default(), Vec::new());
        (0..20_000).for_each(|cookie| lingering.settle(ack(cookie, 9), &mut events));
        assert_eq!((events.len(), lingering.early.len(), lingering.awaiting.len()), (3_616, MAX_EARLY, MAX_EARLY));
        lingering.expire(BootTime(9).plus(AWAIT_END), &mut events);
        assert!(lingering.early.is_empty() && lingering.awaiting.is_empty());
        assert_eq!(sent(&events), [(SocketScope::TimeWait, 52, 52)].repeat(20_000));
    }

    #[test]
    fn totals_are_told_while_an_end_is_held() {
        let (mut lingering, mut events) = (Lingering::default(), Vec::new());
        lingering.hold(end(1, 0), &mut events);
        lingering.tell_totals(&mut events);
        lingering.settle(ack(1, 20), &mut events);
        lingering.tell_totals(&mut events);
        assert_eq!(sent(&events), [(SocketScope::Primary, 100, 60), (SocketScope::Primary, 152, 112)]);
        let is_closed = |event: &Event| matches!(event, Event::Socket(report) if report.is_closed);
        assert_eq!(events.iter().map(is_closed).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn a_late_fin_is_reported_apart() {
        let (mut lingering, mut events) = (Lingering::default(), Vec::new());
        lingering.hold(end(1, 0), &mut events);
        lingering.expire(BootTime(999_999_999), &mut events);
        assert!(events.is_empty());
        lingering.expire(BootTime(1_000_000_000), &mut events);
        lingering.settle(ack(1, 2_000_000_000), &mut events);
        lingering.expire(BootTime(3_000_000_000), &mut events);
        assert_eq!(sent(&events), [(SocketScope::Primary, 100, 60), (SocketScope::TimeWait, 52, 52)]);
        assert!(lingering.by_cookie.is_empty() && lingering.held.is_empty());
    }
}
