//! Connections told at once, and what is waited for.

use super::*;

/// Takes whole flows.
#[derive(Default)]
struct Patient(Changes);

impl Observer<()> for Patient {
    fn change(&mut self, action: FlowAction, _at: BootTime, flow: FlowSnapshot, _user: &mut ()) {
        self.0.push((action, flow));
    }

    fn takes_whole(&self) -> bool {
        true
    }
}

#[test]
fn a_short_connection_is_told_once_to_who_waits_for_its_end() {
    let (mut tracker, mut seen) = (tracker(), Patient::default());
    let closed = SocketReport { is_closed: true, ..report() };
    tracker.report(&closed, &mut seen);
    let late = SocketReport { cookie: 0, scope: SocketScope::Kernel, sent: volume(1, 52), tcp: None, ..closed.clone() };
    tracker.report(&SocketReport { received: Volume::default(), ..late }, &mut seen);
    tracker.tick(at(10), &mut seen);
    assert!(seen.0.is_empty(), "what the kernel sends for it may still come");
    tracker.tick(at(12), &mut seen);
    assert_eq!(actions(&seen.0), [(FlowAction::Whole, 1)]);
    let flow = &seen.0[0].1;
    assert_eq!((flow.sent.packets, flow.received.packets), (6, 5), "with the ACK, and the FIN that it answers");
    assert_eq!(flow.ended, Some((at(10), EndReason::EndOfFlow)));
    assert!(tracker.is_empty());
}

#[test]
fn a_connection_that_both_sides_closed_is_told_at_once() {
    let (mut tracker, mut seen) = (tracker(), Patient::default());
    let last = tcp(7).map(|tcp| TcpReport { has_fin_received: true, ..tcp });
    let closed = SocketReport { is_closed: true, tcp: last, ..report() };
    let counted = tracker.report(&closed, &mut seen);
    assert_eq!(counted.growth.wire_bytes, [1000, 2000]);
    assert_eq!(actions(&seen.0), [(FlowAction::Whole, 1)]);
    let flow = &seen.0[0].1;
    assert_eq!((flow.sent, flow.received), (volume(5, 1000), volume(4, 2000)));
    assert_eq!((flow.started_at, flow.last_seen, flow.ended), (at(9), at(10), Some((at(10), EndReason::EndOfFlow))));
    assert_eq!(pid_of(flow), Some(7));
    let again =
        SocketReport { cookie: 0, scope: SocketScope::Kernel, sent: volume(1, 52), tcp: None, ..closed.clone() };
    let late = tracker.report(&SocketReport { received: Volume::default(), ..again }, &mut seen);
    assert_eq!(late.growth.wire_bytes[0], 52, "the kernel's answer to a FIN that came again is the owner's");
    tracker.report(&SocketReport { at: at(30), started_at: at(29), cookie: 101, ..closed }, &mut seen);
    tracker.tick(at(40), &mut seen);
    assert_eq!(actions(&seen.0), [(FlowAction::Whole, 1), (FlowAction::Whole, 2)]);
    assert!(tracker.is_empty());
}

#[test]
fn what_else_may_come_is_waited_for() {
    let closed = |change: fn(&mut TcpReport)| {
        let mut last = TcpReport { has_fin_received: true, ..tcp(7).unwrap() };
        change(&mut last);
        SocketReport { is_closed: true, tcp: Some(last), ..report() }
    };
    let waits = [
        closed(|tcp| tcp.has_fin_received = false),
        closed(|tcp| tcp.is_reset_received = true),
        closed(|tcp| tcp.is_reset_sent = true),
        closed(|tcp| tcp.error = 32),
        closed(|tcp| tcp.is_established = false),
        SocketReport { is_closed: false, ..closed(|_| {}) },
        SocketReport { scope: SocketScope::Peer, ..closed(|_| {}) },
    ];
    for report in waits {
        let (mut tracker, mut seen) = (tracker(), Patient::default());
        tracker.report(&report, &mut seen);
        assert!(seen.0.iter().all(|(action, _)| *action == FlowAction::Started), "{report:?}");
    }
}

#[test]
fn an_open_connection_is_told_at_once_whoever_waits() {
    let (mut tracker, mut seen) = (tracker(), Patient::default());
    tracker.report(&report(), &mut seen);
    tracker.report(&SocketReport { is_closed: true, at: at(11), ..report() }, &mut seen);
    tracker.tick(at(13), &mut seen);
    assert_eq!(actions(&seen.0), [(FlowAction::Started, 1), (FlowAction::Ended, 1)]);
}

#[test]
fn connections_that_close_out_of_order_end_in_order() {
    let (mut tracker, mut seen) = (tracker(), Patient::default());
    for (cookie, millis) in [(1, 500), (2, 100), (3, 300), (4, 900)] {
        let remote = Endpoint { port: 1000 + cookie as u16, ..report().remote };
        let closed_at = BootTime(at(10).0 + millis * 1_000_000);
        tracker.report(&SocketReport { cookie, remote, at: closed_at, is_closed: true, ..report() }, &mut seen);
    }
    tracker.tick(BootTime(at(11).0 + 400_000_000), &mut seen);
    assert_eq!(actions(&seen.0), [(FlowAction::Whole, 2), (FlowAction::Whole, 3), (FlowAction::Whole, 1)]);
    tracker.finish(at(12), EndReason::ForcedEnd, &mut seen);
    assert_eq!(seen.0[3].1.ended, Some((BootTime(at(10).0 + 900_000_000), EndReason::EndOfFlow)));
}
