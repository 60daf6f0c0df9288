//! Every byte counted: flows against the counters of an interface that carries nothing else.

use std::net::SocketAddr;

use crate::standing::{AGENT, pair};
use pktscope_tests::{
    event::Event,
    flow::{self, DEADLINE, Side, end_of, expect_volume},
    machine::{missing_privilege, missing_program, missing_socket, older_than, output_of},
    namespace::{FAMILIES, Family, Pair},
    offload,
    server::{RawServer, SCTP, SctpServer, TcpServer, UdpServer},
    skip_if,
    traffic::{Report, Traffic},
    wait::wait_until,
};

/// Runs the generator and waits for the end of its flow.
fn run(pair: &Pair, arguments: &str) -> Report {
    let report = Traffic::new(&pair.near.namespace, arguments).run().unwrap();
    end_of(&AGENT, &report);
    report
}

fn sent_bytes(end: &Event) -> u64 {
    end.number("source.bytes")
}

/// Compares both ends' flows with both ends' interfaces.
fn expect_both_ends(pair: &Pair, family: Family, what: &str) {
    expect_volume(&AGENT, &pair.near, family, Side::Opener, what);
    expect_volume(&AGENT, &pair.far, family, Side::Acceptor, what);
}

fn check_streams(family: Family, arguments: &[&str]) {
    skip_if!(missing_privilege());
    for arguments in arguments {
        let pair = pair();
        let server = TcpServer::start(&pair.far.namespace, pair.far.addr(family), 70_000).unwrap();
        run(&pair, &format!("tcp --to {} --bytes 400000 {arguments}", server.addr));
        expect_both_ends(&pair, family, arguments);
    }
}

const STREAMS: [&str; 15] = [
    "--way send",
    "--way write",
    "--way writev",
    "--way sendto",
    "--way sendmsg",
    "--way sendmmsg",
    "--way sendfile",
    "--way splice",
    "--way zerocopy",
    "--way uring",
    "--uring-connect",
    "--reading uring",
    "--reading recvmmsg",
    "--reading splice",
    "--fast-open",
];

#[test]
fn every_way_of_moving_a_stream_is_counted_as_the_wire_is() {
    check_streams(Family::V4, &STREAMS);
}

#[test]
fn streams_over_ipv6_are_counted_as_the_wire_is() {
    check_streams(Family::V6, &["--way send", "--way splice", "--uring-connect", "--fast-open"]);
}

#[test]
fn a_v4_mapped_stream_is_an_ipv4_flow() {
    check_streams(Family::V4, &["--mapped"]);
}

#[test]
fn multipath_tcp_is_counted_as_the_wire_is() {
    skip_if!(missing_socket("MPTCP", libc::AF_INET, libc::SOCK_STREAM, 262));
    check_streams(Family::V4, &["--mptcp"]);
    check_streams(Family::V6, &["--mptcp"]);
}

#[test]
fn sctp_is_counted_as_the_wire_is_and_its_sender_named() {
    skip_if!(missing_privilege());
    skip_if!(missing_socket("SCTP", libc::AF_INET, libc::SOCK_STREAM, SCTP));
    let pair = pair();
    let server = SctpServer::start(&pair.far.namespace, pair.far.v4.into()).unwrap();
    let sent = run(&pair, &format!("sctp --to {} --bytes 20000", server.addr));
    let end = end_of(&AGENT, &sent);
    assert_eq!((end.pid(), end.text("network.transport")), (sent.pid, "sctp"), "{end}");
    wait_until(DEADLINE, || (server.received.units() == 1).then_some(())).expect("the server reads to the end");
    assert_eq!(server.received.bytes(), 20_000);
    expect_volume(&AGENT, &pair.near, Family::V4, Side::Opener, "sctp");
}

#[test]
fn datagrams_are_counted_as_the_wire_is() {
    skip_if!(missing_privilege());
    let ways = ["", "--connected", "--way sendmsg", "--way sendmmsg", "--way uring", "--way segment", "--echo"];
    for family in FAMILIES {
        for arguments in ways {
            let pair = pair();
            let is_echo = arguments == "--echo";
            let server = UdpServer::start(&pair.far.namespace, pair.far.addr(family), is_echo).unwrap();
            run(&pair, &format!("udp --to {} --bytes 300 --count 200 {arguments}", server.addr));
            expect_volume(&AGENT, &pair.near, family, Side::Opener, arguments);
        }
    }
}

#[test]
fn a_v4_mapped_datagram_is_an_ipv4_flow() {
    skip_if!(missing_privilege());
    let pair = pair();
    let server = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap();
    run(&pair, &format!("udp --mapped --to {}", server.addr));
    expect_volume(&AGENT, &pair.near, Family::V4, Side::Opener, "v4-mapped");
}

#[test]
fn fragments_are_counted_as_the_wire_is() {
    skip_if!(missing_privilege());
    for family in FAMILIES {
        let pair = pair();
        let server = UdpServer::start(&pair.far.namespace, pair.far.addr(family), true).unwrap();
        run(&pair, &format!("udp --to {} --bytes 8000 --count 20 --echo", server.addr));
        expect_volume(&AGENT, &pair.near, family, Side::Opener, "fragments");
    }
}

#[test]
fn one_socket_with_many_destinations_gives_a_flow_for_each() {
    skip_if!(missing_privilege());
    let pair = pair();
    let to = "203.0.113.1:9";
    Traffic::new(&pair.near.namespace, &format!("udp --to {to} --destinations 100 --count 500")).run().unwrap();
    expect_volume(&AGENT, &pair.near, Family::V4, Side::Opener, "many destinations");
    let flows = flow::newest(&AGENT, &pair.near, Family::V4, Side::Opener);
    assert_eq!(flows.len(), 100);
    for flow in &flows {
        assert_eq!((flow.number("source.packets"), flow.number("source.bytes")), (5, 5 * 128), "{flow}");
    }
}

#[test]
fn every_destination_s_flow_ends_with_its_socket() {
    skip_if!(missing_privilege());
    let pair = pair();
    let run = "udp --to 203.0.113.1:9 --destinations 100 --count 500";
    let report = Traffic::new(&pair.near.namespace, run).run().unwrap();
    AGENT.expect_count(DEADLINE, 100, |event| event.is_flow_end() && event.pid() == report.pid);
}

#[test]
fn udp_lite_is_counted_as_the_wire_is() {
    skip_if!(missing_privilege());
    skip_if!(missing_socket("UDP-Lite", libc::AF_INET, libc::SOCK_DGRAM, 136));
    for arguments in ["--connected", ""] {
        let pair = pair();
        let server = UdpServer::start_lite(&pair.far.namespace, pair.far.v4.into()).unwrap();
        let report = run(&pair, &format!("udp --lite --to {} {arguments}", server.addr));
        let end = end_of(&AGENT, &report);
        assert_eq!(end.text("network.transport"), "udplite");
        assert_eq!(sent_bytes(&end), pair.near.counters().sent_bytes);
    }
}

#[test]
fn raw_packets_of_any_protocol_are_counted_as_the_wire_is() {
    skip_if!(missing_privilege());
    // What is sent as TCP has no TCP socket, and is no segment that anyone answers.
    for (family, protocol) in FAMILIES.into_iter().flat_map(|family| [(family, 253), (family, 6)]) {
        let pair = pair();
        let to = pair.far.addr(family);
        let _sink = RawServer::start(&pair.far.namespace, to, protocol).unwrap();
        let run = format!("raw --to {to} --protocol {protocol}");
        let report = Traffic::new(&pair.near.namespace, &run).run().unwrap();
        let end = AGENT.expect(DEADLINE, "the flow's end", |event| event.is_flow_end() && event.pid() == report.pid);
        assert_eq!(end.number("network.iana_number"), u64::from(protocol.unsigned_abs()), "{end}");
        expect_volume(&AGENT, &pair.near, family, Side::Opener, "raw");
    }
}

#[test]
fn pings_are_counted_as_the_wire_is() {
    skip_if!(missing_privilege());
    for family in FAMILIES {
        for arguments in ["", "--raw"] {
            let pair = pair();
            pair.near.namespace.set("ipv4/ping_group_range", "0 0").unwrap();
            let report = run(&pair, &format!("ping --to {} {arguments}", pair.far.addr(family)));
            let end = end_of(&AGENT, &report);
            let transport = if family == Family::V4 { "icmp" } else { "ipv6-icmp" };
            assert_eq!((end.text("network.transport"), end.pid()), (transport, report.pid));
            expect_volume(&AGENT, &pair.near, family, Side::Opener, arguments);
        }
    }
}

#[test]
fn loopback_is_counted_from_both_ends() {
    skip_if!(missing_privilege());
    let pair = pair();
    // The pair's own address, so that no other test's loopback flows are meant.
    let addr = pair.near.v4;
    pair.near.namespace.run(|| offload::turn_off("lo")).unwrap();
    let server = TcpServer::start(&pair.near.namespace, addr.into(), 10_000).unwrap();
    let report = run(&pair, &format!("tcp --to {} --bytes 100000", server.addr));
    let opener = end_of(&AGENT, &report);
    let acceptor = AGENT.expect(DEADLINE, "the server's flow", |event| {
        let (source, destination) = (report.local.unwrap(), report.remote.unwrap());
        event.is_flow_end() && Side::Acceptor.is_of(event) && flow::joins(event, source, destination)
    });
    assert_eq!((opener.pid(), acceptor.pid()), (report.pid, std::process::id()));
    let counted = pair.near.loopback_counters();
    for end in [opener, acceptor] {
        assert_eq!(end.number("network.bytes"), counted.sent_bytes, "{end}");
        assert_eq!(end.number("network.packets"), counted.sent_packets, "{end}");
    }
}

#[test]
fn retransmissions_are_counted() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("nft"));
    let pair = pair();
    let rules = "add table inet loss; add chain inet loss in { type filter hook prerouting priority -300; }; \
                 add rule inet loss in meta length > 200 numgen inc mod 20 == 7 drop";
    output_of(pair.far.namespace.command("nft").arg(rules));
    let server = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 100).unwrap();
    let report = run(&pair, &format!("tcp --to {} --bytes 300000", server.addr));
    let end = end_of(&AGENT, &report);
    assert!(sent_bytes(&end) > 310_000, "segments were sent twice: {end}");
    expect_volume(&AGENT, &pair.near, Family::V4, Side::Opener, "retransmissions");
}

#[test]
fn a_refused_connection_is_counted_and_named() {
    skip_if!(missing_privilege());
    for family in FAMILIES {
        let pair = pair();
        let to = SocketAddr::new(pair.far.addr(family), 1);
        let mut client = Traffic::new(&pair.near.namespace, &format!("tcp --to {to}"));
        client.command().stderr(std::process::Stdio::null());
        let running = client.start().unwrap();
        let pid = running.pid();
        running.finish().unwrap_err();
        let end = AGENT.expect(DEADLINE, "the refused flow", |event| event.is_flow_end() && event.pid() == pid);
        assert_eq!(end.endpoint("destination"), Some(to));
        assert_eq!(end.text("pktscope.conn_state"), "REJ", "{end}");
        expect_volume(&AGENT, &pair.near, family, Side::Opener, "refused");
    }
}

#[test]
fn payload_is_told_beside_the_wire() {
    skip_if!(missing_privilege());
    let pair = pair();
    let server = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 12_345).unwrap();
    let report = run(&pair, &format!("tcp --to {} --bytes 54321", server.addr));
    let end = end_of(&AGENT, &report);
    let payload = |side: &str| end.number(&format!("pktscope.payload.{side}_bytes"));
    assert_eq!((payload("source"), payload("destination")), (54_321, 12_345), "{end}");
    wait_until(DEADLINE, || (server.received.bytes() == 54_321).then_some(())).expect("the server counts the same");
}

#[test]
fn received_bytes_are_the_wire_s_where_the_device_joins_segments() {
    skip_if!(missing_privilege());
    // Before, a veth device joined nothing without an XDP program (drivers/net/veth.c).
    skip_if!(older_than(5, 13));
    for family in FAMILIES {
        let pair = pair();
        pair.near.namespace.run(|| offload::turn_on_receive(&pair.near.device)).unwrap();
        let server = TcpServer::start(&pair.far.namespace, pair.far.addr(family), 2_000_000).unwrap();
        let end = end_of(&AGENT, &run(&pair, &format!("tcp --to {}", server.addr)));
        let counted = pair.near.receiving_counters();
        assert_eq!(end.volume(), counted.into(), "{end}");
    }
}

#[test]
fn many_small_connections_of_one_process_are_each_a_flow() {
    skip_if!(missing_privilege());
    let pair = pair();
    let server = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 2).unwrap();
    let run = format!("tcp --to {} --times 300", server.addr);
    let reports = Traffic::new(&pair.near.namespace, &run).run_all().unwrap();
    let ends = AGENT.expect_count(DEADLINE, 300, |event| event.is_flow_end() && event.pid() == reports[0].pid);
    assert_eq!(ends.len(), 300);
    expect_both_ends(&pair, Family::V4, "many small connections");
}

#[test]
fn a_burst_of_processes_is_told_apart() {
    skip_if!(missing_privilege());
    let pair = pair();
    let server = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 1_000).unwrap();
    let run = format!("tcp --to {} --bytes 50000", server.addr);
    let all: Vec<_> = (0..40).map(|_| Traffic::new(&pair.near.namespace, &run).start().unwrap()).collect();
    let reports: Vec<Report> = all.into_iter().map(|running| running.finish().unwrap().pop().unwrap()).collect();
    for report in &reports {
        let end = end_of(&AGENT, report);
        assert_eq!((end.pid(), end.number("pktscope.payload.source_bytes")), (report.pid, 50_000), "{end}");
    }
    // A reset that comes after its socket is gone reaches no program of the sensor's, so only what was sent is compared.
    let flows = flow::newest(&AGENT, &pair.near, Family::V4, Side::Opener);
    assert_eq!(flows.iter().map(sent_bytes).sum::<u64>(), pair.near.counters().sent_bytes);
}

#[test]
fn floods_at_the_ports_of_names_are_counted() {
    skip_if!(missing_privilege());
    for port in [53, 443] {
        let pair = pair();
        let to = SocketAddr::from((pair.far.v4, port));
        let _server = UdpServer::start_on(&pair.far.namespace, to, false).unwrap();
        run(&pair, &format!("udp --to {to} --bytes 32 --count 20000 --way sendmmsg --connected"));
        expect_volume(&AGENT, &pair.near, Family::V4, Side::Opener, "flood");
    }
}

#[test]
fn a_slow_trickle_is_counted() {
    skip_if!(missing_privilege());
    let pair = pair();
    let _server = UdpServer::start_on(&pair.far.namespace, (pair.far.v6, 7000).into(), false).unwrap();
    run(&pair, &format!("udp --to [{}]:7000 --bytes 1 --count 12 --gap 250", pair.far.v6));
    expect_volume(&AGENT, &pair.near, Family::V6, Side::Opener, "trickle");
}

#[test]
fn a_socket_that_connects_again_makes_another_flow() {
    skip_if!(missing_privilege());
    let pair = pair();
    let server = |port| UdpServer::start_on(&pair.far.namespace, (pair.far.v4, port).into(), false).unwrap();
    let (first, second) = (server(7001), server(7002));
    let arguments = format!("udp --to {} --connected --count 7 --then {}", first.addr, second.addr);
    let report = Traffic::new(&pair.near.namespace, &arguments).run().unwrap();
    for to in [first.addr, second.addr] {
        let end = AGENT.expect(DEADLINE, &format!("flow to {to}"), |event| {
            event.is_flow_end() && event.pid() == report.pid && event.endpoint("destination") == Some(to)
        });
        assert_eq!((end.number("source.packets"), sent_bytes(&end)), (7, 7 * 128), "{end}");
    }
    expect_volume(&AGENT, &pair.near, Family::V4, Side::Opener, "connected again");
}

#[test]
fn a_reset_connection_is_counted_and_named() {
    skip_if!(missing_privilege());
    let pair = pair();
    let server = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 0).unwrap();
    let report = run(&pair, &format!("tcp --to {} --bytes 5000 --abort", server.addr));
    let end = end_of(&AGENT, &report);
    assert_eq!((end.text("event.reason"), end.text("pktscope.conn_state")), ("reset", "RSTO"), "{end}");
    expect_both_ends(&pair, Family::V4, "reset");
}

#[test]
fn an_unanswered_connection_is_counted_and_named() {
    skip_if!(missing_privilege());
    let pair = pair();
    // The far end does not forward, so nobody answers.
    let report = Traffic::new(&pair.near.namespace, "scan --to 203.0.113.7 --ports 1").run().unwrap();
    let end = AGENT.expect(DEADLINE, "the unanswered flow", |event| event.is_flow_end() && event.pid() == report.pid);
    assert_eq!(end.text("pktscope.conn_state"), "S0", "{end}");
    assert_eq!(end.volume(), pair.near.counters().into());
}
