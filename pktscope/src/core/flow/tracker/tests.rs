use std::{net::IpAddr, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::core::{
    flow::{ConnState, Endpoint},
    packet::{Detail, Packet, TcpHeader},
};

mod faults;

pub(super) type Changes = Vec<(FlowAction, FlowSnapshot)>;

pub(super) const SYN: u8 = TcpHeader::SYN;
pub(super) const ACK: u8 = TcpHeader::ACK;
pub(super) const FIN: u8 = TcpHeader::FIN;
pub(super) const RST: u8 = TcpHeader::RST;
pub(super) const SECOND: u64 = 1_000_000_000;

pub(super) fn at(millis: u64) -> BootTime {
    BootTime(100 * SECOND + millis * 1_000_000)
}

pub(super) fn endpoint(host: u8, port: u16) -> Endpoint {
    Endpoint { addr: IpAddr::from([10, 0, 0, host]), port }
}

pub(super) fn packet(
    transport: Transport,
    from: Endpoint,
    to: Endpoint,
    payload: u32,
    detail: Detail,
) -> Packet<'static> {
    let (key, sender) = FlowKey::of_endpoints(transport, from, to);
    let ip_bytes = payload + if transport == Transport::TCP { 40 } else { 28 };
    Packet { key, sender, ip_bytes, packets: 1, payload_bytes: payload, payload: &[], detail }
}

/// A TCP segment: who sends (client 1:1000 or server 2:80), flags, sequence, acknowledgement, payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment(pub(super) bool, pub(super) u8, pub(super) u32, pub(super) u32, pub(super) u32);

pub(super) fn client(flags: u8, sequence: u32, acknowledgement: u32, payload: u32) -> Segment {
    Segment(true, flags, sequence, acknowledgement, payload)
}

pub(super) fn server(flags: u8, sequence: u32, acknowledgement: u32, payload: u32) -> Segment {
    Segment(false, flags, sequence, acknowledgement, payload)
}

impl Segment {
    pub(super) fn packet(self) -> Packet<'static> {
        let (a, b) = (endpoint(1, 1000), endpoint(2, 80));
        let (from, to) = if self.0 { (a, b) } else { (b, a) };
        let header =
            TcpHeader { flags: self.1, sequence: self.2, acknowledgement: self.3, window: 65_000, window_scale: None };
        packet(Transport::TCP, from, to, self.4, Detail::Tcp(header))
    }
}

/// Handshake, 100 bytes asked, 200 answered: the client is at 201, the server at 701.
pub(super) const EXCHANGE: [Segment; 6] = [
    Segment(true, SYN, 100, 0, 0),
    Segment(false, SYN | ACK, 500, 101, 0),
    Segment(true, ACK, 101, 501, 0),
    Segment(true, ACK, 101, 501, 100),
    Segment(false, ACK, 501, 201, 200),
    Segment(true, ACK, 201, 701, 0),
];

/// FIN both ways.
pub(super) const CLOSE: [Segment; 3] =
    [Segment(true, FIN | ACK, 201, 701, 0), Segment(false, FIN | ACK, 701, 202, 0), Segment(true, ACK, 202, 702, 0)];

/// Feeds segments 10 ms apart, then lets everything end.
pub(super) fn run(segments: &[Segment]) -> Changes {
    let (mut tracker, mut changes) = (Tracker::<()>::new(FlowSettings::default(), FlowId(1)), Changes::new());
    for (index, segment) in segments.iter().enumerate() {
        tracker.packet(&segment.packet(), at(10 * index as u64), &mut changes);
    }
    tracker.tick(at(10_000_000), &mut changes);
    changes
}

pub(super) fn ended(changes: &Changes) -> Vec<&FlowSnapshot> {
    changes.iter().filter(|(action, _)| *action == FlowAction::Ended).map(|(_, flow)| flow).collect()
}

pub(super) fn only(changes: &Changes) -> FlowSnapshot {
    let ended = ended(changes);
    assert_eq!(ended.len(), 1, "{changes:#?}");
    ended[0].clone()
}

fn check(segments: &[Segment], history: &str, state: ConnState, reason: EndReason) {
    let flow = only(&run(segments));
    let tcp = flow.tcp.clone().unwrap();
    assert_eq!((&*tcp.history, tcp.conn_state, flow.ended.unwrap().1), (history, state, reason), "{segments:?}");
    assert_eq!(flow.source, endpoint(1, 1000));
    let sent: u64 = segments.iter().filter(|segment| segment.0).count() as u64;
    assert_eq!((flow.sent.packets, flow.received.packets), (sent, segments.len() as u64 - sent));
}

fn with(before: &[Segment], after: &[Segment]) -> Vec<Segment> {
    [before, after].concat()
}

#[test]
fn tcp_states_and_histories_are_zeeks() {
    use ConnState::{OTH, REJ, RSTO, RSTOS0, RSTR, RSTRH, S0, S1, S2, S3, SF, SH, SHR};
    use EndReason::{EndOfFlow, IdleTimeout, Reset};
    let syn = client(SYN, 100, 0, 0);
    let syn_ack = server(SYN | ACK, 500, 101, 0);
    check(&[syn], "S", S0, IdleTimeout);
    check(&[syn, syn_ack], "Sh", S1, IdleTimeout);
    check(&EXCHANGE, "ShADd", S1, IdleTimeout);
    check(&with(&EXCHANGE, &CLOSE), "ShADdFf", SF, EndOfFlow);
    check(&with(&EXCHANGE, &CLOSE[..1]), "ShADdF", S2, IdleTimeout);
    check(&with(&EXCHANGE, &[server(FIN | ACK, 701, 201, 0)]), "ShADdf", S3, IdleTimeout);
    check(&[syn, server(RST | ACK, 0, 101, 0)], "Sr", REJ, Reset);
    check(&[syn, client(RST, 101, 0, 0)], "SR", RSTOS0, Reset);
    check(&with(&EXCHANGE, &[client(RST | ACK, 201, 701, 0)]), "ShADdR", RSTO, Reset);
    check(&with(&EXCHANGE, &[server(RST, 701, 0, 0)]), "ShADdr", RSTR, Reset);
    check(&[syn, client(FIN | ACK, 101, 0, 0)], "SF", SH, IdleTimeout);
    check(&[syn_ack], "^h", OTH, IdleTimeout);
    check(&[syn_ack, server(RST, 501, 0, 0)], "^hr", RSTRH, Reset);
    check(&[syn_ack, server(FIN | ACK, 501, 101, 0)], "^hf", SHR, IdleTimeout);
    check(&[client(ACK, 7, 9, 50), server(ACK, 9, 57, 50)], "Dd", OTH, IdleTimeout);
}

#[test]
fn losses_are_told_apart() {
    let data = |sequence, payload| client(ACK, sequence, 501, payload);
    let ack = |number| server(ACK, 501, number, 0);
    // (segments after the handshake, retransmitted, out of order, gap bytes, history)
    let cases: [(&[Segment], u64, u64, u64, &str); 7] = [
        (&[data(101, 100), data(101, 100)], 1, 0, 0, "ShDT"),
        (&[data(101, 100), data(301, 100), data(201, 100)], 0, 1, 0, "ShD"),
        (&[data(101, 100), data(301, 100), ack(401)], 0, 0, 100, "ShDaG"),
        (&[data(101, 100), data(301, 100)], 0, 0, 100, "ShD"),
        (&[data(101, 100), ack(301)], 0, 0, 100, "ShDaG"),
        // A keep-alive probe is no retransmission.
        (&[data(101, 100), client(ACK, 200, 501, 0), client(ACK, 200, 501, 1)], 0, 0, 0, "ShDA"),
        (&[data(101, 100), data(301, 300), data(401, 100), data(201, 100)], 1, 1, 0, "ShDT"),
    ];
    for (segments, retransmitted, out_of_order, gap_bytes, history) in cases {
        let tcp = only(&run(&with(&EXCHANGE[..2], segments))).tcp.unwrap();
        let found = (tcp.retransmitted[0].unwrap(), tcp.out_of_order.unwrap()[0], tcp.gap_bytes.unwrap()[0]);
        assert_eq!(found, (retransmitted, out_of_order, gap_bytes), "{segments:?}");
        assert_eq!(&*tcp.history, history);
    }
}

#[test]
fn sequence_numbers_wrap() {
    let top = u32::MAX - 99;
    let segments = [
        client(SYN, top - 1, 0, 0),
        server(SYN | ACK, 500, top, 0),
        client(ACK, top, 501, 100),
        client(ACK, 0, 501, 100),
        server(ACK, 501, 100, 0),
        client(RST, 100, 0, 0),
    ];
    let tcp = only(&run(&segments)).tcp.unwrap();
    assert_eq!((tcp.retransmitted, tcp.gap_bytes, &*tcp.history), ([Some(0); 2], Some([0; 2]), "ShDaR"));
}

#[test]
fn the_handshakes_round_trip_is_from_syn_to_the_last_ack_and_unknowable_where_the_syn_was_repeated() {
    let rtt = |segments: &[Segment]| only(&run(segments)).tcp.unwrap().handshake_rtt;
    assert_eq!(rtt(&EXCHANGE), Some(Duration::from_millis(20)));
    assert_eq!(rtt(&with(&EXCHANGE[..1], &EXCHANGE)), None);
    assert_eq!(rtt(&EXCHANGE[2..]), None);
}

#[test]
fn echoes_are_paired_and_two_pings_are_two_flows() {
    let ping = |host: u8, kind: u8, identifier: u16| {
        let (a, b) = ([10, 0, 0, host], [10, 0, 0, 3 - host]);
        let shared = crate::core::flow::icmp_ports(1, kind, 0, identifier);
        let words = crate::core::flow::v4_words;
        let (key, sender) = FlowKey::of_portless(1, words(a), words(b), shared);
        Packet { key, sender, ip_bytes: 84, packets: 1, payload_bytes: 56, payload: &[], detail: Detail::Icmp(kind, 0) }
    };
    let (mut tracker, mut changes) = (Tracker::<()>::new(FlowSettings::default(), FlowId(1)), Changes::new());
    for (index, packet) in [ping(1, 8, 7), ping(2, 0, 7), ping(1, 8, 8), ping(2, 0, 9)].iter().enumerate() {
        tracker.packet(packet, at(index as u64), &mut changes);
    }
    tracker.finish(EndReason::ForcedEnd, &mut changes);
    let flows = ended(&changes);
    assert_eq!(
        flows.iter().map(|flow| (flow.sent.packets, flow.received.packets)).collect::<Vec<_>>(),
        [(1, 1), (1, 0), (0, 1)]
    );
    assert!(flows.iter().all(|flow| flow.source == endpoint(1, 0)));
    assert_eq!(flows[0].icmp, Some((8, 0)));
}

#[test]
fn updates_come_at_most_once_an_interval() {
    let (mut tracker, mut changes) = (Tracker::<()>::new(FlowSettings::default(), FlowId(1)), Changes::new());
    for second in 0..200 {
        let packet = packet(Transport::UDP, endpoint(1, 5000), endpoint(2, 6000), 10, Detail::None);
        tracker.packet(&packet, at(second * 1000), &mut changes);
    }
    let updates = changes.iter().filter(|(action, _)| *action == FlowAction::Updated).count();
    assert!((2..=3).contains(&updates), "{updates}");
    tracker.tick(at(400_000), &mut changes);
    assert_eq!(only(&changes).sent.packets, 200);
    assert_eq!(only(&changes).ended, Some((at(259_000), EndReason::IdleTimeout)));
}

#[test]
fn the_active_timeout_splits_a_flow_and_keeps_its_sides() {
    let settings = FlowSettings { active_timeout: Some(Duration::from_secs(100)), ..FlowSettings::default() };
    let (mut tracker, mut changes) = (Tracker::<()>::new(settings, FlowId(1)), Changes::new());
    for second in 0..150 {
        let (from, to) = match second % 2 {
            0 => (endpoint(1, 5000), endpoint(2, 6000)),
            _ => (endpoint(2, 6000), endpoint(1, 5000)),
        };
        tracker.packet(&packet(Transport::UDP, from, to, 10, Detail::None), at(second * 1000), &mut changes);
    }
    tracker.finish(EndReason::ForcedEnd, &mut changes);
    let flows = ended(&changes);
    assert_eq!(flows.len(), 2);
    assert_eq!(flows[0].ended.unwrap().1, EndReason::ActiveTimeout);
    assert_eq!(flows.iter().map(|flow| flow.sent.packets + flow.received.packets).sum::<u64>(), 150);
    assert!(flows.iter().all(|flow| flow.source == endpoint(1, 5000)));
}

#[test]
fn one_way_udp_does_not_evict_two_way_udp() {
    let settings = FlowSettings { max_flows: 64, ..FlowSettings::default() };
    let (mut tracker, mut changes) = (Tracker::<()>::new(settings, FlowId(1)), Changes::new());
    for port in 0..40 {
        let (a, b) = (endpoint(1, 2000 + port), endpoint(2, 3000));
        tracker.packet(&packet(Transport::UDP, a, b, 10, Detail::None), at(0), &mut changes);
        tracker.packet(&packet(Transport::UDP, b, a, 10, Detail::None), at(1), &mut changes);
    }
    for port in 0..10_000 {
        let flood = packet(Transport::UDP, endpoint(3, 2000 + port), endpoint(2, 3000), 10, Detail::None);
        tracker.packet(&flood, at(2), &mut changes);
    }
    assert_eq!(tracker.len(), 64);
    assert_eq!(tracker.statistics().evicted_confirmed, 0);
    assert_eq!(tracker.statistics().evicted_unconfirmed, 10_000 - 24);
}

/// The approximation of LRU: of two-way flows used in turn, what is evicted is nearly always of the older half, and its
/// mean rank is in the oldest tenth.
#[test]
fn eviction_among_confirmed_flows_takes_the_long_unused() {
    const FLOWS: u16 = 7000;
    let settings = FlowSettings { max_flows: 8000, ..FlowSettings::default() };
    let (mut tracker, mut changes) = (Tracker::<()>::new(settings, FlowId(1)), Changes::new());
    let both = |tracker: &mut Tracker, changes: &mut Changes, port: u16, time: u64| {
        let (a, b) = (endpoint(1, 2000 + port), endpoint(2, 3000));
        tracker.packet(&packet(Transport::UDP, a, b, 10, Detail::None), at(time), changes);
        tracker.packet(&packet(Transport::UDP, b, a, 10, Detail::None), at(time), changes);
    };
    for port in 0..FLOWS {
        both(&mut tracker, &mut changes, port, u64::from(port));
    }
    changes.clear();
    for port in 0..500 {
        both(&mut tracker, &mut changes, FLOWS + port, u64::from(FLOWS));
    }
    let ranks: Vec<u64> = ended(&changes).iter().map(|flow| u64::from(flow.source.port) - 2000).collect();
    assert_eq!(ranks.len(), 500);
    let older_half = ranks.iter().filter(|rank| **rank < 3500).count();
    assert!(older_half >= 495, "{older_half}");
    assert!(ranks.iter().sum::<u64>() / 500 < 700);
}

#[test]
fn a_smaller_bound_ends_flows_with_events() {
    let (mut tracker, mut changes) = (Tracker::<()>::new(FlowSettings::default(), FlowId(1)), Changes::new());
    for port in 0..100 {
        let packet = packet(Transport::UDP, endpoint(1, 2000 + port), endpoint(2, 3000), 10, Detail::None);
        tracker.packet(&packet, at(0), &mut changes);
    }
    tracker.set_settings(FlowSettings { max_flows: 10, ..FlowSettings::default() }, &mut changes);
    assert_eq!((tracker.len(), ended(&changes).len()), (10, 90));
}

#[test]
fn steps_of_tcp_are_told() {
    struct Steps(Vec<TcpEvent>);
    impl Observer<()> for Steps {
        fn change(&mut self, _: FlowAction, _: BootTime, _: FlowSnapshot, _: &mut ()) {}
        fn tcp(&mut self, _: FlowId, event: TcpEvent, _: BootTime, _: &mut ()) {
            self.0.push(event);
        }
    }
    let (mut tracker, mut steps) = (Tracker::<()>::new(FlowSettings::default(), FlowId(1)), Steps(Vec::new()));
    for (index, segment) in with(&EXCHANGE, &CLOSE).into_iter().enumerate() {
        tracker.packet(&segment.packet(), at(index as u64), &mut steps);
    }
    assert_eq!(steps.0, [TcpEvent::Established, TcpEvent::HalfClosed, TcpEvent::Closed]);
}

fn any_packet() -> impl Strategy<Value = (u64, Packet<'static>)> {
    let detail = (any::<u8>(), any::<u32>(), any::<u32>(), any::<u16>(), prop::option::of(0u8..15));
    let ends = (0u8..3, 0u16..3, 0u8..3, 0u16..3);
    let protocol = prop_oneof![4 => Just(6u8), 2 => Just(17u8), 1 => any::<u8>()];
    (any::<u64>(), protocol, ends, 0u32..2000, detail).prop_map(|(time, protocol, ends, payload, detail)| {
        let (flags, sequence, acknowledgement, window, window_scale) = detail;
        let header = TcpHeader { flags, sequence, acknowledgement, window, window_scale };
        let detail = if protocol == 6 { Detail::Tcp(header) } else { Detail::None };
        let packet = packet(Transport(protocol), endpoint(ends.0, ends.1), endpoint(ends.2, ends.3), payload, detail);
        (time, packet)
    })
}

proptest! {
    /// Any packets at any times: nothing panics, the bound holds, and the flows hold what came in.
    #[test]
    fn packets_and_bytes_are_conserved(
        packets in prop::collection::vec(any_packet(), 1..300),
        max_flows in 1usize..20,
        shift in 0u32..63,
        active in prop::option::of(1u64..1000),
    ) {
        let settings = FlowSettings { max_flows, active_timeout: active.map(Duration::from_secs), ..FlowSettings::default() };
        let (mut tracker, mut changes) = (Tracker::<()>::new(settings, FlowId(1)), Changes::new());
        let batch: Vec<_> = packets.iter().map(|(time, packet)| (BootTime(time >> shift), *packet)).collect();
        for part in batch.chunks(37) {
            tracker.packets(part, &mut changes);
            prop_assert!(tracker.len() <= max_flows);
        }
        tracker.finish(EndReason::ForcedEnd, &mut changes);
        prop_assert!(tracker.is_empty());
        let flows = ended(&changes);
        let packets_out: u64 = flows.iter().map(|flow| flow.sent.packets + flow.received.packets).sum();
        let bytes_out: u64 = flows.iter().map(|flow| flow.sent.ip_bytes + flow.received.ip_bytes).sum();
        let payload_out: u64 = flows.iter().map(|flow| flow.sent.payload_bytes + flow.received.payload_bytes).sum();
        prop_assert_eq!(packets_out, packets.len() as u64);
        prop_assert_eq!(bytes_out, packets.iter().map(|(_, packet)| u64::from(packet.ip_bytes)).sum::<u64>());
        prop_assert_eq!(payload_out, packets.iter().map(|(_, packet)| u64::from(packet.payload_bytes)).sum::<u64>());
        prop_assert_eq!(tracker.statistics().started, flows.len() as u64);
        prop_assert!(flows.iter().all(|flow| flow.started_at <= flow.last_seen));
    }

    /// One by one and in batches is the same.
    #[test]
    fn batches_change_nothing(packets in prop::collection::vec(any_packet(), 1..100), max_flows in 1usize..20) {
        let settings = FlowSettings { max_flows, ..FlowSettings::default() };
        let batch: Vec<_> = packets.iter().map(|(time, packet)| (BootTime(time >> 20), *packet)).collect();
        let run = |is_batched: bool| {
            let (mut tracker, mut changes) = (Tracker::<()>::new(settings.clone(), FlowId(1)), Changes::new());
            match is_batched {
                true => tracker.packets(&batch, &mut changes),
                false => batch.iter().for_each(|(at, packet)| tracker.packet(packet, *at, &mut changes)),
            }
            changes
        };
        prop_assert_eq!(run(true), run(false));
    }
}
