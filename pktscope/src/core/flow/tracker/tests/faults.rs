//! What known trackers get wrong, one test each.

use super::*;

/// Joined mid-stream, FIN both ways: over at once, not after 300 s of silence.
#[test]
fn fin_ends_a_flow_joined_mid_stream() {
    let flow = only(&run(&with(&EXCHANGE[3..], &CLOSE)));
    assert_eq!(flow.ended.unwrap().1, EndReason::EndOfFlow);
    assert_eq!(flow.tcp.unwrap().conn_state, ConnState::SF);
}

/// A FIN sent again after the close is absorbed; no ghost flow with the server as initiator.
#[test]
fn a_repeated_fin_after_the_close_makes_no_ghost() {
    let late = [server(FIN | ACK, 701, 202, 0), client(ACK, 202, 702, 0)];
    let changes = run(&with(&with(&EXCHANGE, &CLOSE), &late));
    let flow = only(&changes);
    assert_eq!((flow.source, flow.sent.packets, flow.received.packets), (endpoint(1, 1000), 7, 4));
}

/// SYN with ACK first: the client is the initiator nevertheless.
#[test]
fn a_syn_ack_first_names_the_client_initiator() {
    let changes = run(&with(&with(&EXCHANGE[1..], &[]), &CLOSE));
    assert_eq!(changes[0].1.source, endpoint(1, 1000));
    let flow = only(&changes);
    let tcp = flow.tcp.unwrap();
    assert_eq!((tcp.conn_state, &*tcp.history), (ConnState::SF, "^hADdFf"));
}

/// An RST outside the window ends nothing, and what follows stays in the flow.
#[test]
fn an_rst_outside_the_window_ends_nothing() {
    let blind = [server(RST, 4_000_000_000, 0, 0), client(RST, 50_000_000, 0, 0)];
    let flow = only(&run(&with(&with(&EXCHANGE, &blind), &CLOSE)));
    assert_eq!((flow.sent.packets, flow.received.packets), (7, 4));
    assert_eq!(flow.ended.unwrap().1, EndReason::EndOfFlow);

    let after = [server(RST, 701, 0, 0), client(ACK, 201, 701, 10)];
    let flow = only(&run(&with(&EXCHANGE, &after)));
    assert_eq!((flow.ended.unwrap().1, flow.sent.packets), (EndReason::Reset, 5));
}

/// The client's FIN sent twice does not close the server's half.
#[test]
fn one_sides_fin_twice_is_half_a_close() {
    let twice = [CLOSE[0], CLOSE[0], server(ACK, 701, 202, 1000), server(ACK, 1701, 202, 1000)];
    let changes = run(&with(&EXCHANGE, &twice));
    let flow = only(&changes);
    assert_eq!((flow.received.packets, flow.tcp.unwrap().conn_state), (4, ConnState::S2));
    assert_eq!(flow.ended.unwrap().1, EndReason::IdleTimeout);
}

/// 100,000 SYNs into a table of 1,000: not one of its 500 established flows goes.
#[test]
fn a_syn_flood_evicts_no_established_flow() {
    let settings = FlowSettings { max_flows: 1000, ..FlowSettings::default() };
    let (mut tracker, mut changes) = (Tracker::<()>::new(settings, FlowId(1)), Changes::new());
    let from = |segment: Segment, port: u16| {
        let header = segment.packet();
        let (a, b) = (endpoint(1, port), endpoint(2, 80));
        let (from, to) = if segment.0 { (a, b) } else { (b, a) };
        packet(Transport::TCP, from, to, segment.4, header.detail)
    };
    for port in 0..500 {
        for segment in &EXCHANGE {
            tracker.packet(&from(*segment, 10_000 + port), at(0), &mut changes);
        }
    }
    for number in 0..100_000_u32 {
        let source = Endpoint { addr: IpAddr::from(number.to_be_bytes()), port: 1 };
        let header = TcpHeader { flags: SYN, sequence: number, ..TcpHeader::default() };
        let syn = packet(Transport::TCP, source, endpoint(2, 80), 0, Detail::Tcp(header));
        tracker.packet(&syn, at(u64::from(number) / 100), &mut changes);
    }
    assert_eq!((tracker.len(), tracker.statistics().evicted_confirmed), (1000, 0));
    for port in 0..500 {
        assert!(tracker.find(&from(EXCHANGE[0], 10_000 + port).key).is_some());
    }
}

/// A handshake that does not complete is gone after 30 s, not 300; also where the server answered.
#[test]
fn half_open_flows_have_their_own_timeout() {
    for segments in [&EXCHANGE[..1], &EXCHANGE[..2]] {
        let (mut tracker, mut changes) = (Tracker::<()>::new(FlowSettings::default(), FlowId(1)), Changes::new());
        for segment in segments {
            tracker.packet(&segment.packet(), at(0), &mut changes);
        }
        tracker.tick(at(29_000), &mut changes);
        assert_eq!(tracker.len(), 1);
        tracker.tick(at(33_000), &mut changes);
        assert_eq!(only(&changes).ended, Some((at(30_000), EndReason::IdleTimeout)));
    }
}

/// A clock set back by a day: time-outs go on by the new clock.
#[test]
fn a_clock_set_back_does_not_stop_expiry() {
    let day = 86_400_000;
    let (mut tracker, mut changes) = (Tracker::<()>::new(FlowSettings::default(), FlowId(1)), Changes::new());
    let udp = |port| packet(Transport::UDP, endpoint(1, port), endpoint(2, 3000), 10, Detail::None);
    tracker.packet(&udp(5000), at(day), &mut changes);
    tracker.packet(&udp(5001), at(1000), &mut changes);
    tracker.tick(at(30_000), &mut changes);
    assert_eq!(ended(&changes).len(), 0);
    tracker.tick(at(65_000), &mut changes);
    assert_eq!(ended(&changes).len(), 2);
    assert_eq!(tracker.statistics().clock_steps, 1);
}

/// Packets out of order by little: `last_seen` never moves back.
#[test]
fn last_seen_never_moves_back() {
    let (mut tracker, mut changes) = (Tracker::<()>::new(FlowSettings::default(), FlowId(1)), Changes::new());
    for (segment, millis) in EXCHANGE.iter().zip([0, 50, 40, 30, 90, 80]) {
        tracker.packet(&segment.packet(), at(millis), &mut changes);
    }
    tracker.finish(EndReason::ForcedEnd, &mut changes);
    assert_eq!(only(&changes).last_seen, at(90));
    assert_eq!(tracker.statistics().packets_back_in_time, 3);
}

/// Any number of data segments: the history keeps its ending.
#[test]
fn a_long_history_keeps_its_ending() {
    let mut segments = EXCHANGE.to_vec();
    for index in 0..2000 {
        segments.push(client(ACK, 201 + index * 10, 701, 10));
        segments.push(client(ACK, 201 + index * 10, 701, 10));
        segments.push(server(ACK, 701, 211 + index * 10, 0));
        segments.push(Segment(false, ACK, 701, 211 + index * 10, 0));
    }
    segments.push(client(FIN | ACK, 20_201, 701, 0));
    segments.push(server(RST, 701, 0, 0));
    let tcp = only(&run(&segments)).tcp.unwrap();
    assert!(tcp.history.starts_with("ShADd") && tcp.history.ends_with("Fr"), "{}", tcp.history);
    assert_eq!(tcp.retransmitted[0], Some(2000));
}

/// A new SYN on an established tuple is a new connection.
#[test]
fn a_reused_tuple_is_a_new_flow() {
    let second = EXCHANGE.map(|mut segment| {
        if segment.0 {
            (segment.2, segment.3) = (segment.2 + 70_000, segment.3.wrapping_add(9));
        } else {
            (segment.2, segment.3) = (segment.2 + 9, segment.3 + 70_000);
        }
        segment
    });
    let changes = run(&with(&EXCHANGE, &second));
    let flows = ended(&changes);
    assert_eq!(flows.len(), 2);
    for flow in flows {
        assert_eq!((flow.sent.packets, flow.received.packets), (4, 2));
        assert_eq!(&*flow.tcp.clone().unwrap().history, "ShADd");
    }
    // The same SYN again is only a SYN again.
    assert_eq!(only(&run(&with(&EXCHANGE[..1], &EXCHANGE))).sent.packets, 5);
    // After the close, whatever side opens.
    let reverse = [server(SYN, 9000, 0, 0), client(SYN | ACK, 90, 9001, 0)];
    let changes = run(&with(&with(&EXCHANGE, &CLOSE), &reverse));
    assert_eq!(ended(&changes)[1].source, endpoint(2, 80));
}

/// Expiry costs what is due: with nothing due, a tick looks at no flow, however many there are.
#[test]
fn a_tick_with_nothing_due_looks_at_nothing() {
    let (mut tracker, mut changes) = (Tracker::<()>::new(FlowSettings::default(), FlowId(1)), Changes::new());
    for port in 0..50_000 {
        let packet = packet(Transport::UDP, endpoint(1, port), endpoint(2, 3000), 10, Detail::None);
        tracker.packet(&packet, at(0), &mut changes);
    }
    changes.clear();
    let before = tracker.looks;
    for second in 1..50 {
        tracker.tick(at(second * 1000), &mut changes);
    }
    assert_eq!(tracker.looks, before);
    tracker.tick(at(63_000), &mut changes);
    assert_eq!((tracker.looks - before, ended(&changes).len(), tracker.len()), (50_000, 50_000, 0));
}

/// Nobody has to call `tick`: packets move time.
#[test]
fn packets_alone_expire_flows() {
    let (mut tracker, mut changes) = (Tracker::<()>::new(FlowSettings::default(), FlowId(1)), Changes::new());
    for minute in 0..60_u64 {
        let packet = packet(Transport::UDP, endpoint(1, 1000 + minute as u16), endpoint(2, 3000), 10, Detail::None);
        tracker.packet(&packet, at(minute * 60_000), &mut changes);
    }
    assert!(tracker.len() <= 3, "{}", tracker.len());
}
