//! The harness itself, checked without the agent: the generator's own count, the servers' and the interfaces' agree,
//! and nothing but the test's packets passes its veth.

use std::net::SocketAddr;

use pktscope_tests::{
    machine::{missing_privilege, missing_socket},
    namespace::{FAMILIES, Family, Pair},
    server::{TcpServer, UdpServer},
    skip_if,
    traffic::Traffic,
    wait::wait_until,
};

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// Bytes of an IP header without options.
fn ip_header(family: Family) -> u64 {
    if family == Family::V4 { 20 } else { 40 }
}

#[test]
fn every_way_of_sending_a_stream_arrives() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let server = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 5_000).unwrap();
    let ways = ["send", "write", "writev", "sendto", "sendmsg", "sendmmsg", "sendfile", "splice", "zerocopy", "uring"];
    let extras = ["--uring-connect", "--fast-open", "--mapped", "--reading uring", "--reading recvmmsg"];
    let has_mptcp = missing_socket("MPTCP", libc::AF_INET, libc::SOCK_STREAM, 262).is_none();
    let extras = extras.into_iter().chain(has_mptcp.then_some("--mptcp"));
    let arguments = ways.iter().map(|way| format!("--way {way}")).chain(extras.map(String::from));
    for (number, arguments) in arguments.enumerate() {
        let run = format!("tcp --to {} --bytes 300000 {arguments}", server.addr);
        let report = Traffic::new(&pair.near.namespace, &run).run().unwrap();
        assert_eq!((report.sent_bytes, report.received_bytes), (300_000, 5_000), "{arguments}");
        let connections = number as u64 + 1;
        wait_until(DEADLINE, || (server.received.units() == connections).then_some(())).expect("the server is done");
        assert_eq!(server.received.bytes(), 300_000 * connections, "{arguments}");
    }
    let sent = pair.near.counters();
    assert!(sent.sent_packets >= server.received.bytes() / 1460, "super-packets on the wire: {sent:?}");
}

#[test]
fn datagrams_are_on_the_wire_as_reported_and_nothing_else_is() {
    skip_if!(missing_privilege());
    for family in FAMILIES {
        let pair = Pair::new().unwrap();
        let server = UdpServer::start(&pair.far.namespace, pair.far.addr(family), false).unwrap();
        let start = pair.near.counters();
        assert_eq!(start.sent_packets + start.received_packets, 0, "the veth is silent");
        let ways = ["", "--connected", "--way sendmsg", "--way sendmmsg", "--way uring", "--way segment"];
        for way in ways {
            let run = format!("udp --to {} --bytes 200 --count 50 {way}", server.addr);
            assert_eq!(Traffic::new(&pair.near.namespace, &run).run().unwrap().sent_bytes, 10_000, "{way}");
        }
        let expected = (50 * ways.len()) as u64;
        wait_until(DEADLINE, || (server.received.units() == expected).then_some(())).expect("all arrive");
        let sent = pair.near.counters().since(start);
        assert_eq!(sent.sent_packets, expected);
        assert_eq!(sent.sent_bytes, expected * (ip_header(family) + 8 + 200));
        assert_eq!(sent.received_packets, 0);
    }
}

#[test]
fn raw_ping_and_packet_sockets_send_what_they_report() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    pair.near.namespace.set("ipv4/ping_group_range", "0 0").unwrap();
    let sent_by = |arguments: &str| {
        let start = pair.near.counters();
        let report = Traffic::new(&pair.near.namespace, arguments).run().unwrap();
        let sent = pair.near.counters().since(start);
        (report.sent_units, sent.sent_packets, sent.sent_bytes)
    };
    for family in FAMILIES {
        let (to, header) = (pair.far.addr(family), ip_header(family));
        assert_eq!(sent_by(&format!("raw --to {to}")), (10, 10, 10 * (header + 100)));
        assert_eq!(sent_by(&format!("ping --to {to}")), (5, 5, 5 * (header + 8 + 56)));
        assert_eq!(sent_by(&format!("ping --to {to} --raw")), (5, 5, 5 * (header + 8 + 56)));
    }
    for bypass in ["", "--bypass"] {
        let (from, to) = (SocketAddr::from((pair.near.v4, 4000)), SocketAddr::from((pair.far.v4, 4001)));
        let run = format!("packet --device {} --from {from} --to {to} {bypass}", pair.near.device);
        assert_eq!(sent_by(&run), (10, 10, 10 * (28 + 100)), "{bypass}");
    }
}

#[test]
fn udp_lite_sends_what_it_reports() {
    skip_if!(missing_privilege());
    skip_if!(missing_socket("UDP-Lite", libc::AF_INET, libc::SOCK_DGRAM, 136));
    let pair = Pair::new().unwrap();
    let run = format!("udp --lite --to {}:9 --bytes 100 --count 10", pair.far.v4);
    Traffic::new(&pair.near.namespace, &run).run().unwrap();
    assert_eq!(pair.near.counters().sent_bytes, 10 * 128);
}

#[test]
fn connections_that_change_hands_name_their_processes() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let server = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 100).unwrap();
    for how in ["inherit", "pass"] {
        let run = format!("handover --to {} --how {how}", server.addr);
        let reports = Traffic::new(&pair.near.namespace, &run).run_all().unwrap();
        let [creator, sender] = reports.as_slice() else { panic!("{reports:?}") };
        assert_eq!((creator.role.as_str(), sender.role.as_str()), ("creator", "sender"));
        assert_ne!(creator.pid, sender.pid);
        assert_eq!((sender.sent_bytes, sender.received_bytes), (1_000, 100));
        assert_eq!(creator.local, sender.local);
    }
}

#[test]
fn disguises_are_put_on() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let server = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 1).unwrap();
    let run = |before: &str| {
        let arguments = format!("{before} tcp --to {}", server.addr);
        Traffic::new(&pair.near.namespace, &arguments).run().unwrap()
    };
    assert_eq!(run("--comm other-name").comm, "other-name");
    assert_eq!(run("--user 65534").uid, 65_534);
    assert!(run("--memfd").executable.starts_with("/memfd:"));
    assert_eq!(run("--thread").comm, "traffic");
    let free = run("").pid;
    assert_eq!(run(&format!("--as-pid {free}")).pid, free);
}

#[test]
fn workers_and_activated_programs_serve() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let listen = SocketAddr::from((pair.near.v4, 8080));
    let activate =
        format!("activate --listen {listen} --program {}", pktscope_tests::traffic::built("traffic").display());
    for serve in [format!("prefork --listen {listen} --workers 1"), activate] {
        let mut serving = Traffic::new(&pair.near.namespace, &serve).start().unwrap();
        let ready = serving.report().unwrap();
        let client = Traffic::new(&pair.far.namespace, &format!("tcp --to {listen}")).run().unwrap();
        assert_eq!(client.received_bytes, 100);
        let served = serving.finish().unwrap().pop().unwrap();
        assert_eq!((served.role.as_str(), served.received_bytes, served.sent_bytes), ("worker", 16, 100));
        assert_eq!(served.remote, client.local);
        assert_eq!(ready.pid == served.pid, serve.starts_with("activate"));
    }
}
