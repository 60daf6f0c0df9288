use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::core::{
    event::{Opening, Stamp, TcpReport},
    flow::{ConnState, Direction, Endpoint, FlowSnapshot, UnknownReason},
    process::ProcessKey,
};

mod expire;
mod whole;

type Changes = Vec<(FlowAction, FlowSnapshot)>;

fn at(seconds: u64) -> BootTime {
    BootTime(seconds * 1_000_000_000)
}

fn endpoint(text: &str) -> Endpoint {
    let socket: std::net::SocketAddr = text.parse().unwrap();
    Endpoint { addr: socket.ip(), port: socket.port() }
}

fn volume(packets: u64, ip_bytes: u64) -> Volume {
    Volume { ip_bytes, packets, payload_bytes: ip_bytes.saturating_sub(40 * packets) }
}

fn stamp(pid: u32) -> Option<Stamp> {
    Some(Stamp { key: ProcessKey { pid, started_at: at(1) }, uid: 0, cgroup_id: 1 })
}

fn tcp(state: u8) -> Option<TcpReport> {
    Some(TcpReport { state, is_established: true, ..TcpReport::default() })
}

/// A connected TCP socket of process 7 that has sent 5 packets and received 4.
fn report() -> SocketReport {
    SocketReport {
        cookie: 100,
        netns: 1,
        scope: SocketScope::Primary,
        at: at(10),
        started_at: at(9),
        is_closed: false,
        transport: Transport::TCP,
        local: endpoint("10.0.0.2:40000"),
        remote: endpoint("192.0.2.1:443"),
        icmp: None,
        opening: Opening::Active,
        interface: 2,
        user: stamp(7),
        creator: stamp(7),
        method: Default::default(),
        unknown: None,
        is_shared: false,
        sent: volume(5, 1000),
        received: volume(4, 2000),
        segment_header_bytes: [0; 2],
        tcp: tcp(1),
    }
}

fn udp_report() -> SocketReport {
    SocketReport { transport: Transport::UDP, remote: endpoint("192.0.2.53:53"), tcp: None, ..report() }
}

fn tracker() -> SocketTracker {
    SocketTracker::new(FlowSettings::default(), FlowId(1))
}

fn run(reports: &[SocketReport], until: BootTime) -> Changes {
    let (mut tracker, mut changes) = (tracker(), Changes::new());
    for report in reports {
        tracker.tick(report.at, &mut changes);
        tracker.report(report, &mut changes);
    }
    tracker.tick(until, &mut changes);
    changes
}

fn actions(changes: &Changes) -> Vec<(FlowAction, u64)> {
    changes.iter().map(|(action, flow)| (*action, flow.id.0)).collect()
}

fn pid_of(flow: &FlowSnapshot) -> Option<u32> {
    match flow.ownership {
        Ownership::Socket(owner) => owner.user.map(|stamp| stamp.key.pid),
        Ownership::Kernel | Ownership::Capture => None,
    }
}

#[test]
fn a_short_connection_is_one_flow_from_its_last_report_alone() {
    let changes = run(&[SocketReport { is_closed: true, ..report() }], at(20));
    assert_eq!(actions(&changes), [(FlowAction::Started, 1), (FlowAction::Ended, 1)]);
    let flow = &changes[1].1;
    assert_eq!((flow.sent, flow.received), (volume(5, 1000), volume(4, 2000)));
    assert_eq!((flow.direction, flow.started_at), (Direction::Egress, at(9)));
    assert_eq!(flow.ended, Some((at(10), EndReason::EndOfFlow)));
    assert_eq!(pid_of(flow), Some(7));
}

#[test]
fn sweeps_update_at_most_once_an_interval_and_never_lose_growth() {
    let sweeps: Vec<SocketReport> = (0..100)
        .map(|second| SocketReport { at: at(10 + second), sent: volume(5 + second, 1000 + 100 * second), ..report() })
        .collect();
    let changes = run(&sweeps, at(500));
    let shown: Vec<u64> = changes.iter().map(|(_, flow)| flow.sent.packets).collect();
    assert_eq!(shown, [5, 64, 104]);
    assert!(changes.iter().skip(1).all(|(action, _)| *action == FlowAction::Updated));
}

fn accepted(is_closed: bool) -> SocketReport {
    SocketReport {
        cookie: 200,
        local: endpoint("10.0.0.2:80"),
        remote: endpoint("192.0.2.9:5555"),
        opening: Opening::Passive,
        sent: volume(3, 900),
        received: volume(3, 300),
        is_closed,
        tcp: tcp(8),
        ..report()
    }
}

fn handshake() -> SocketReport {
    SocketReport {
        cookie: 50,
        scope: SocketScope::Peer,
        user: stamp(1),
        sent: volume(1, 60),
        received: volume(2, 112),
        tcp: None,
        started_at: at(8),
        ..accepted(false)
    }
}

#[test]
fn a_listeners_handshake_joins_the_accepted_flow_in_either_order() {
    let orders: [[SocketReport; 2]; 3] = [
        [handshake(), accepted(true)],
        [accepted(true), handshake()],
        [accepted(true), SocketReport { is_closed: true, ..handshake() }],
    ];
    for order in orders {
        let changes = run(&order, at(100));
        let (action, flow) = changes.last().unwrap();
        assert_eq!((*action, flow.id), (FlowAction::Ended, FlowId(1)), "{changes:?}");
        assert_eq!((flow.sent.packets, flow.received.packets), (5, 4));
        assert_eq!((flow.sent.ip_bytes, flow.received.ip_bytes), (412, 960));
        assert_eq!((flow.started_at, flow.direction), (at(8), Direction::Ingress));
        assert_eq!(pid_of(flow), Some(7));
        assert_eq!(changes.iter().filter(|(action, _)| *action == FlowAction::Started).count(), 1);
    }
}

#[test]
fn a_second_connection_on_a_tuple_gets_only_its_own_handshake() {
    let second = SocketReport { cookie: 201, at: at(20), started_at: at(19), ..accepted(true) };
    let again = SocketReport { at: at(20), sent: volume(2, 120), received: volume(4, 224), ..handshake() };
    let changes = run(&[handshake(), accepted(true), again, second], at(100));
    let ended: Vec<_> = changes.iter().filter(|(action, _)| *action == FlowAction::Ended).collect();
    assert_eq!(ended.len(), 2);
    for (_, flow) in ended {
        assert_eq!((flow.sent.packets, flow.received.packets), (5, 4));
    }
}

#[test]
fn payload_of_before_the_agent_is_not_the_flows() {
    let payload = |payload_bytes| Volume { payload_bytes, ..volume(5, 1000) };
    let old = SocketReport { sent: payload(60_000), ..report() };
    let next = SocketReport { at: at(11), sent: Volume { payload_bytes: 60_100, ..volume(6, 1140) }, ..old.clone() };
    let changes = run(&[old, SocketReport { is_closed: true, ..next }], at(100));
    let told: Vec<_> = changes.iter().map(|(_, flow)| flow.sent.payload_bytes).collect();
    assert_eq!(told.last(), Some(&900), "at most 800 bytes of the first five packets, then 100 more");
}

/// An ACK that the kernel sends for a connection whose socket is gone.
fn kernels_ack() -> SocketReport {
    SocketReport {
        cookie: 9,
        scope: SocketScope::Kernel,
        sent: volume(1, 52),
        received: Volume::default(),
        user: None,
        creator: None,
        tcp: None,
        ..report()
    }
}

#[test]
fn the_last_ack_of_time_wait_is_the_connections_and_the_fin_it_answers_too() {
    let ack = SocketReport { at: BootTime(at(10).0 + 500_000_000), ..kernels_ack() };
    let changes = run(&[SocketReport { is_closed: true, ..report() }, ack.clone()], at(100));
    assert_eq!(actions(&changes), [(FlowAction::Started, 1), (FlowAction::Ended, 1)]);
    let flow = &changes[1].1;
    assert_eq!((flow.sent.ip_bytes, flow.sent.packets), (1052, 6));
    assert_eq!((flow.received.ip_bytes, flow.received.packets), (2052, 5));

    // Without any connection it is the kernel's, and answers a segment that no hook saw.
    let changes = run(&[ack], at(11));
    let flow = &changes[0].1;
    assert_eq!((flow.ownership, flow.direction), (Ownership::Kernel, Direction::Ingress));
    assert_eq!(flow.source, report().remote);
    assert_eq!(flow.tcp.as_ref().unwrap().conn_state, ConnState::OTH, "no connection of this host");
}

/// A FIN that comes again long after the connection's end was told, and the ACK that TIME-WAIT answers it with.
#[test]
fn what_comes_after_the_end_begins_no_flow_and_is_the_owners() {
    let ack = SocketReport { at: at(30), started_at: at(30), ..kernels_ack() };
    let (mut tracker, mut changes) = (tracker(), Changes::new());
    tracker.report(&SocketReport { is_closed: true, ..report() }, &mut changes);
    tracker.tick(at(29), &mut changes);
    assert_eq!(actions(&changes), [(FlowAction::Started, 1), (FlowAction::Ended, 1)]);
    let counted = tracker.report(&ack, &mut changes);
    assert_eq!((counted.growth.wire_bytes, counted.class), ([52, 52], Some(LedgerClass::Attributed)));
    let again = SocketReport { at: at(31), sent: volume(2, 104), ..ack.clone() };
    assert_eq!(tracker.report(&again, &mut changes).growth.wire_bytes, [52, 52]);
    assert_eq!(tracker.report(&again, &mut changes), Counted::default());
    assert_eq!((changes.len(), tracker.statistics().packets_late), (2, 4));

    // The same where TIME_WAIT tells what it received, and what it answered.
    let told = SocketReport { scope: SocketScope::TimeWait, is_closed: true, cookie: 7, ..ack };
    let told = SocketReport { user: None, creator: None, received: volume(1, 52), tcp: None, ..told };
    for _ in 0..2 {
        let counted = tracker.report(&told, &mut changes);
        assert_eq!((counted.growth.wire_bytes, counted.class), ([52, 52], Some(LedgerClass::Attributed)));
    }
    let others = SocketReport { local: endpoint("10.0.0.2:50000"), ..told };
    assert_eq!(tracker.report(&others, &mut changes), Counted::default(), "nobody's, and no flow");
    assert_eq!((changes.len(), tracker.len(), tracker.statistics().packets_late), (2, 0, 8));

    // A reset that finds only the listener.
    let reset = SocketReport { cookie: 3, sent: Volume::default(), received: volume(1, 40), ..handshake() };
    let late = SocketReport { local: report().local, remote: report().remote, at: at(32), started_at: at(32), ..reset };
    let counted = tracker.report(&late, &mut changes);
    assert_eq!((counted.growth.wire_bytes, counted.class, changes.len()), ([0, 40], Some(LedgerClass::Attributed), 2));

    // TIME-WAIT is over: what comes now has nothing to do with it.
    tracker.tick(at(91), &mut changes);
    tracker.report(&SocketReport { at: at(92), is_closed: true, ..again }, &mut changes);
    tracker.report(&SocketReport { cookie: 10, at: at(92), started_at: at(92), ..ack.clone() }, &mut changes);
    assert_eq!((changes.len(), changes[2].1.ownership), (3, Ownership::Kernel));

    // A new connection on the tuple is a flow, and takes what the kernel sends in its name.
    let (mut tracker, mut changes) = (self::tracker(), Changes::new());
    tracker.report(&SocketReport { is_closed: true, ..report() }, &mut changes);
    tracker.tick(at(20), &mut changes);
    let second = SocketReport { cookie: 101, at: at(25), started_at: at(25), ..report() };
    tracker.report(&SocketReport { is_closed: true, ..second }, &mut changes);
    tracker.report(&SocketReport { at: at(25), ..ack }, &mut changes);
    tracker.tick(at(40), &mut changes);
    assert_eq!(changes.last().unwrap().1.sent.packets, 6);
    assert_eq!(changes.len(), 4);
}

/// The kernel answers a ping: the pinger opened the flow, and sent as much as it got back.
#[test]
fn an_echo_that_the_kernel_answers_is_the_pingers_flow() {
    let reply = |transport, kind| SocketReport {
        cookie: 9,
        scope: SocketScope::Kernel,
        transport,
        local: endpoint("10.0.0.2:77"),
        remote: endpoint("192.0.2.9:77"),
        icmp: Some((kind, 0)),
        sent: volume(5, 420),
        received: Volume::default(),
        user: None,
        creator: None,
        tcp: None,
        ..report()
    };
    for (transport, kind, question) in [(Transport::ICMP, 0, 8), (Transport::ICMPV6, 129, 128)] {
        let changes = run(&[reply(transport, kind)], at(11));
        let flow = &changes[0].1;
        assert_eq!((flow.source, flow.direction), (endpoint("192.0.2.9:77"), Direction::Ingress));
        assert_eq!((flow.icmp, flow.ownership), (Some((question, 0)), Ownership::Kernel));
        assert_eq!((flow.sent, flow.received.ip_bytes), (volume(5, 420), 420));
    }
    // An error is the kernel's own message.
    let flow = &run(&[reply(Transport::ICMP, 3)], at(11))[0].1;
    assert_eq!((flow.source.addr, flow.direction), (report().local.addr, Direction::Egress));
    assert_eq!((flow.sent.packets, flow.received.packets), (5, 0));
}

#[test]
fn the_remotes_fin_is_not_inferred_where_the_remote_closed_first() {
    let ack = SocketReport { cookie: 9, scope: SocketScope::Kernel, at: at(11), sent: volume(1, 40), ..report() };
    let ack = SocketReport { received: Volume::default(), tcp: None, ..ack };
    let changes = run(&[SocketReport { is_closed: true, tcp: tcp(8), ..report() }, ack], at(100));
    assert_eq!(changes[1].1.received, volume(4, 2000));
}

#[test]
fn an_idle_udp_peer_ends_and_begins_anew_with_what_is_new() {
    let changes = run(
        &[
            udp_report(),
            SocketReport { at: at(40), ..udp_report() },
            SocketReport { at: at(200), ..udp_report() },
            SocketReport { at: at(300), sent: volume(6, 1100), ..udp_report() },
        ],
        at(301),
    );
    assert_eq!(actions(&changes), [(FlowAction::Started, 1), (FlowAction::Ended, 1), (FlowAction::Started, 2)]);
    assert_eq!(changes[1].1.ended, Some((at(70), EndReason::IdleTimeout)));
    assert_eq!((changes[2].1.sent.packets, changes[2].1.sent.ip_bytes), (1, 100));
    assert_eq!(changes[2].1.started_at, at(300));
}

#[test]
fn an_idle_tcp_socket_stays_and_a_socket_that_a_sweep_misses_is_gone() {
    let (mut tracker, mut changes) = (tracker(), Changes::new());
    tracker.report(&report(), &mut changes);
    tracker.sweep_done(at(10), &mut changes);
    tracker.report(&SocketReport { at: at(5000), ..report() }, &mut changes);
    tracker.sweep_done(at(5000), &mut changes);
    assert_eq!(actions(&changes), [(FlowAction::Started, 1)]);
    tracker.sweep_done(at(5001), &mut changes);
    assert_eq!(actions(&changes)[1..], [(FlowAction::Ended, 1)]);
    assert!(tracker.is_empty());
}

#[test]
fn both_ends_of_a_loopback_connection_are_flows_of_their_own() {
    let server = SocketReport {
        cookie: 300,
        local: report().remote,
        remote: report().local,
        opening: Opening::Passive,
        user: stamp(8),
        ..report()
    };
    let changes = run(&[report(), server], at(11));
    assert_eq!(actions(&changes), [(FlowAction::Started, 1), (FlowAction::Started, 2)]);
    assert_eq!((changes[0].1.source, changes[0].1.direction), (changes[1].1.source, Direction::Egress));
    assert_eq!(changes[1].1.direction, Direction::Ingress);
}

#[test]
fn what_the_kernel_sends_in_two_network_namespaces_is_two_flows() {
    let kernel = |netns| SocketReport {
        cookie: 0,
        netns,
        scope: SocketScope::Kernel,
        user: None,
        creator: None,
        ..udp_report()
    };
    let (mut tracker, mut changes) = (tracker(), Changes::new());
    let grown = [1, 2].map(|netns| tracker.report(&kernel(netns), &mut changes).growth.wire_bytes);
    assert_eq!(grown[0], grown[1]);
    assert_eq!(tracker.len(), 2);
}

#[test]
fn a_name_does_not_find_the_same_ends_of_another_network_namespace() {
    let (mut tracker, mut changes) = (tracker(), Changes::new());
    tracker.report(&SocketReport { netns: 0, ..udp_report() }, &mut changes);
    let (source, destination) = (udp_report().local, udp_report().remote);
    let flow = FlowRef { cookie: 7, transport: Transport::UDP, source, destination };
    assert!(tracker.find_mut(&flow).is_none());
}

#[test]
fn names_find_their_flow_by_either_direction() {
    let (mut tracker, mut changes) = (tracker(), Changes::new());
    tracker.report(&udp_report(), &mut changes);
    let (local, remote) = (udp_report().local, udp_report().remote);
    for (source, destination) in [(local, remote), (remote, local)] {
        let flow = FlowRef { cookie: 100, transport: Transport::UDP, source, destination };
        assert_eq!(tracker.find_mut(&flow).map(|(id, _)| id), Some(FlowId(1)));
        assert!(tracker.find_mut(&FlowRef { cookie: 101, ..flow }).is_none());
    }
}

#[test]
fn a_full_table_gives_up_the_oldest_that_only_one_side_has_sent_on() {
    let settings = FlowSettings { max_flows: 3, ..FlowSettings::default() };
    let (mut tracker, mut changes) = (SocketTracker::<()>::new(settings, FlowId(1)), Changes::new());
    for cookie in 0..6 {
        let received = if cookie == 0 { volume(1, 50) } else { Volume::default() };
        tracker.report(&SocketReport { cookie, received, at: at(10 + cookie), ..udp_report() }, &mut changes);
    }
    let ended: Vec<_> = changes.iter().filter(|(action, _)| *action == FlowAction::Ended).collect();
    assert_eq!(ended.iter().map(|(_, flow)| flow.id.0).collect::<Vec<_>>(), [2, 3, 4]);
    assert!(ended.iter().all(|(_, flow)| matches!(flow.ended, Some((_, EndReason::LackOfResources)))));
}

#[test]
fn without_room_a_report_waits_for_the_sockets_last() {
    let settings = FlowSettings { max_flows: 1, ..FlowSettings::default() };
    let (mut tracker, mut changes) = (SocketTracker::<()>::new(settings, FlowId(1)), Changes::new());
    for _ in 0..3 {
        for cookie in 0..5 {
            tracker.report(&SocketReport { cookie, ..udp_report() }, &mut changes);
        }
    }
    assert_eq!(tracker.statistics().reports_refused, 3);
    tracker.report(&SocketReport { cookie: 4, is_closed: true, ..udp_report() }, &mut changes);
    let sent: u64 =
        changes.iter().filter(|(action, _)| *action == FlowAction::Ended).map(|(_, flow)| flow.sent.packets).sum();
    assert_eq!(sent, 5 * 5);
}

#[derive(Clone, Debug)]
struct Step {
    cookie: u64,
    scope: SocketScope,
    transport: Transport,
    packets: [u64; 2],
    is_closed: bool,
    /// Since the step before; time may run backwards.
    seconds: i64,
}

fn step() -> impl Strategy<Value = Step> {
    let scope = prop_oneof![Just(SocketScope::Primary), Just(SocketScope::Peer), Just(SocketScope::Kernel)];
    let transport = prop_oneof![Just(Transport::TCP), Just(Transport::UDP)];
    (0u64..3, scope, transport, [0u64..4, 0u64..4], prop::bool::weighted(0.2), -20i64..50).prop_map(
        |(cookie, scope, transport, packets, is_closed, seconds)| Step {
            // The kernel's own sockets have none.
            cookie: if scope == SocketScope::Kernel { 0 } else { cookie },
            scope,
            transport,
            packets,
            is_closed,
            seconds,
        },
    )
}

proptest! {
    /// Whatever the order of reports and of their times, what the flows carry is what the parts counted, and what was inferred, but for what
    /// came after its connection's end was told.
    #[test]
    fn packets_and_bytes_are_conserved(steps in prop::collection::vec(step(), 1..120)) {
        let settings = FlowSettings { max_flows: 8, ..FlowSettings::default() };
        let (mut tracker, mut changes) = (SocketTracker::<()>::new(settings, FlowId(1)), Changes::new());
        let mut totals: std::collections::BTreeMap<(u64, u8, u8), [u64; 2]> = Default::default();
        let (mut now, mut expected, mut counted) = (100_u64, 0, 0);
        for step in steps {
            now = now.saturating_add_signed(step.seconds);
            let total = totals.entry((step.cookie, step.scope as u8, step.transport.0)).or_default();
            for (total, packets) in total.iter_mut().zip(step.packets) {
                *total += packets;
                expected += packets;
            }
            let report = SocketReport {
                cookie: step.cookie,
                scope: step.scope,
                transport: step.transport,
                is_closed: step.is_closed,
                at: at(now),
                sent: volume(total[0], total[0] * 100),
                received: volume(total[1], total[1] * 100),
                ..report()
            };
            if step.is_closed {
                *total = [0; 2];
            }
            counted += tracker.report(&report, &mut changes).growth.wire_bytes.iter().sum::<u64>();
            tracker.tick(at(now), &mut changes);
            prop_assert!(tracker.len() <= 8);
        }
        tracker.finish(at(now), EndReason::ForcedEnd, &mut changes);
        let ended = changes.iter().filter(|(action, _)| *action == FlowAction::Ended);
        let packets: u64 = ended.clone().map(|(_, flow)| flow.sent.packets + flow.received.packets).sum();
        let bytes: u64 = ended.map(|(_, flow)| flow.sent.ip_bytes + flow.received.ip_bytes).sum();
        let (inferred, late) = (tracker.statistics().packets_inferred, tracker.statistics().packets_late);
        prop_assert_eq!(packets + late, expected + inferred);
        prop_assert_eq!(bytes + late * 100, (expected + inferred) * 100);
        // The ledger is given every byte once, whatever flow it is of.
        prop_assert_eq!(counted, (expected + inferred) * 100);
        prop_assert_eq!(tracker.statistics().started, tracker.statistics().ended);
    }
}

fn frames_report() -> SocketReport {
    SocketReport { cookie: 7, scope: SocketScope::Frames, creator: None, tcp: None, ..report() }
}

#[test]
fn frames_are_no_part_of_the_connection_whose_addresses_they_bear() {
    let frames = SocketReport { user: stamp(8), at: at(11), ..frames_report() };
    // A scan from a packet socket: the kernel answers what comes back, because it knows of no such connection.
    let scan = SocketReport { netns: 0, local: endpoint("10.0.0.2:50000"), ..frames.clone() };
    let reset = SocketReport { cookie: 0, scope: SocketScope::Kernel, sent: volume(1, 40), at: at(12), ..scan.clone() };
    let (mut tracker, mut changes) = (tracker(), Changes::new());
    let classes = [&report(), &frames, &scan, &reset].map(|report| tracker.report(report, &mut changes).class);
    assert_eq!(classes[..3], [Some(LedgerClass::Attributed); 3]);
    assert_eq!(classes[3], Some(LedgerClass::Kernel));
    let owners: Vec<_> = changes.iter().map(|(_, flow)| pid_of(flow)).collect();
    assert_eq!(owners, [Some(7), Some(8), Some(8), None]);
    assert_eq!(tracker.len(), 4);
}

#[test]
fn who_sends_frames_may_be_known_only_after_the_first() {
    let first = SocketReport { user: None, unknown: Some(UnknownReason::SocketOlderThanAgent), ..frames_report() };
    let (mut tracker, mut changes) = (tracker(), Changes::new());
    tracker.report(&first, &mut changes);
    let later = SocketReport { user: stamp(8), at: at(11), sent: volume(6, 1100), ..frames_report() };
    let counted = tracker.report(&later, &mut changes);
    assert_eq!((counted.class, counted.growth.wire_bytes), (Some(LedgerClass::Attributed), [100, 0]));
}
