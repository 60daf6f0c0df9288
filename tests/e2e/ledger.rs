//! The ledger, against the interfaces of a namespace that has nothing but the test's own traffic.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use pktscope_tests::{
    agent::{Agent, AgentOptions},
    event::Event,
    flow::DEADLINE,
    machine::{missing_privilege, missing_program, older_than, output_of},
    namespace::{FAMILIES, Family, Host, Namespace, Pair},
    server::{RawServer, TcpServer, UdpServer},
    skip_if,
    traffic::Traffic,
    wait::wait_until,
};

/// Closed every second, and flows told as often; what nobody owns is not excused by the agent's being new.
const CONFIG: &str = "[ledger]\ninterval = \"1s\"\n[flow]\nupdate_interval = \"1s\"\n[detect.unattributed_egress]\nstart_grace = \"0s\"\n";

/// An agent that lives in the pair's near end and closes its ledger every second.
pub(crate) fn agent_inside(namespace: &Namespace) -> Agent {
    let options = AgentOptions::new().unwrap().config(CONFIG).unwrap();
    options.flag("--learning-window", "0s").inside(namespace).start().unwrap()
}

/// One direction's entries, added up over all intervals.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) interface: u64,
    pub(crate) attributed: u64,
    pub(crate) kernel: u64,
    pub(crate) forwarded: u64,
    pub(crate) unknown: u64,
}

impl Sum {
    fn explained(&self) -> u64 {
        self.attributed + self.kernel + self.forwarded
    }
}

fn sum(agent: &Agent, side: &str) -> Sum {
    let mut sum = Sum::default();
    for event in agent.events(|event| event.is("ledger")) {
        let of = |name: &str| event.number(&format!("pktscope.ledger.{side}.{name}_bytes"));
        let parts = [of("attributed"), of("kernel"), of("forwarded"), of("unknown")];
        assert_eq!(of("interface"), parts.iter().sum::<u64>(), "an interval adds up: {event}");
        sum.interface += of("interface");
        sum.attributed += parts[0];
        sum.kernel += parts[1];
        sum.forwarded += parts[2];
        sum.unknown += parts[3];
    }
    sum
}

/// Waits until the ledger has everything that the interface has counted.
pub(crate) fn settle(agent: &Agent, pair: &Pair) -> (Sum, Sum) {
    let both = || (sum(agent, "tx"), sum(agent, "rx"));
    let settled = wait_until(DEADLINE, || {
        let ((tx, rx), counted) = (both(), pair.near.counters());
        (tx.interface >= counted.sent_bytes && rx.interface >= counted.received_bytes).then_some(())
    });
    let ((tx, rx), counted) = (both(), pair.near.counters());
    assert!(settled.is_some(), "{tx:?} {rx:?}, the interface counted {counted:?}\n{}", agent.log());
    (tx, rx)
}

#[test]
fn ordinary_traffic_is_explained_to_the_byte() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let agent = agent_inside(&pair.near.namespace);
    let tcp = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 200_000).unwrap();
    let udp = UdpServer::start(&pair.far.namespace, pair.far.v6.into(), true).unwrap();
    let _raw = RawServer::start(&pair.far.namespace, pair.far.v4.into(), 253).unwrap();
    let runs = [
        format!("tcp --to {} --bytes 300000 --times 3", tcp.addr),
        format!("udp --to {} --count 100 --echo", udp.addr),
        format!("raw --to {}", pair.far.v4),
        format!("ping --to {} --raw", pair.far.v6),
    ];
    for run in runs {
        Traffic::new(&pair.near.namespace, &run).run().unwrap();
    }
    expect_explained(&agent, &pair);
}

/// A connection that its opener leaves first; gives the other end.
fn leave(pair: &Pair, family: Family) -> TcpStream {
    let listener = pair.far.namespace.run(|| TcpListener::bind((pair.far.addr(family), 0))).unwrap();
    Traffic::new(&pair.near.namespace, &format!("tcp --to {} --leave", listener.local_addr().unwrap())).run().unwrap();
    let (mut left, _) = listener.accept().unwrap();
    left.read_to_end(&mut Vec::new()).unwrap();
    left
}

/// Until the far end has no socket left that would send its FIN once more: a line for each is below the first.
fn wait_closed(pair: &Pair, family: Family) {
    let table = format!("/proc/thread-self/net/tcp{}", if family == Family::V6 { "6" } else { "" });
    let sockets = || pair.far.namespace.run(|| fs::read_to_string(&table)).unwrap();
    wait_until(DEADLINE, || (sockets().lines().count() == 1).then_some(())).expect("the other side hears the ACK");
}

/// Closes the other end where it does not hear the last ACK at once.
fn close_unheard(pair: &Pair, left: TcpStream) {
    let nft = |rules: &str| output_of(pair.far.namespace.command("nft").arg(rules));
    nft("add table inet loss; add chain inet loss in { type filter hook prerouting priority -300; policy drop; }");
    let before = pair.near.counters().received_packets;
    drop(left);
    let has_come_again = || (before + 2 <= pair.near.counters().received_packets).then_some(());
    wait_until(DEADLINE, has_come_again).expect("the FIN comes again");
    nft("delete table inet loss");
}

/// The ledger explains every byte that the interface counted.
fn expect_explained(agent: &Agent, pair: &Pair) {
    let (tx, rx) = settle(agent, pair);
    let counted = pair.near.counters();
    assert_eq!((tx.explained(), tx.unknown), (counted.sent_bytes, 0), "{tx:?}");
    assert_eq!((rx.explained(), rx.unknown), (counted.received_bytes, 0), "{rx:?}");
}

#[test]
fn a_fin_that_time_wait_gets_again_is_its_connection_s() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("nft"));
    // Before, what TIME_WAIT gets again is not seen, and its answer is the kernel's.
    skip_if!(older_than(6, 13));
    let pair = Pair::new().unwrap();
    let agent = agent_inside(&pair.near.namespace);
    for family in FAMILIES {
        close_unheard(&pair, leave(&pair, family));
        wait_closed(&pair, family);
    }
    expect_explained(&agent, &pair);
}

#[test]
fn a_fin_that_comes_after_its_flow_has_ended_is_its_connection_s_and_no_flow() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let agent = agent_inside(&pair.near.namespace);
    for family in FAMILIES {
        let left = leave(&pair, family);
        let port = left.local_addr().unwrap().port();
        let is_its = |event: &Event| event.endpoint("destination").is_some_and(|end| end.port() == port);
        agent.expect(DEADLINE, "the end of the flow", |event| event.is_flow_end() && is_its(event));
        drop(left);
        wait_closed(&pair, family);
        expect_explained(&agent, &pair);
        let starts =
            agent.events(|event| event.is("flow") && event.text("event.action") == "flow_started" && is_its(event));
        let from_here = |event: &&Event| event.text("network.direction") == "egress";
        assert_eq!(starts.iter().filter(from_here).count(), 1, "{starts:?}");
    }
}

/// Sends all that the other side, which does not read, has room for, and more, and lets go of it.
fn abandon(mut stream: TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let is_taken = |stream: &mut TcpStream| stream.write(&[7; 65_536]).is_ok();
    while is_taken(&mut stream) {}
}

fn connect(end: &Host, to: &TcpListener) -> std::io::Result<TcpStream> {
    end.namespace.run(|| TcpStream::connect(to.local_addr().unwrap()))
}

#[test]
fn connections_that_no_process_holds_are_explained_while_they_are_open() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let agent = agent_inside(&pair.near.namespace);
    for family in FAMILIES {
        let listen = |end: &Host| end.namespace.run(|| TcpListener::bind((end.addr(family), 0))).unwrap();
        let [near, far] = [&pair.near, &pair.far].map(listen);
        abandon(connect(&pair.near, &far).unwrap());
        let mut unaccepted = connect(&pair.far, &near).unwrap();
        unaccepted.write_all(&[8; 5_000]).unwrap();
        // While they are open the one side asks again and again whether the other has room.
        let (tx, rx) = settle(&agent, &pair);
        assert_eq!((tx.unknown, rx.unknown), (0, 0), "{tx:?} {rx:?}");
        let mut left = far.accept().unwrap().0;
        left.read_to_end(&mut Vec::new()).unwrap();
        drop((left, near, unaccepted, far));
        wait_closed(&pair, family);
        expect_explained(&agent, &pair);
    }
}

#[test]
fn replies_of_the_kernel_are_the_kernel_s() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let agent = agent_inside(&pair.near.namespace);
    // Nobody listens there and nobody asked for an echo: the resets and replies are the near kernel's own.
    let refused = format!("tcp --to {}:1", pair.near.v4);
    let mut client = Traffic::new(&pair.far.namespace, &refused);
    client.command().stderr(std::process::Stdio::null());
    client.run().unwrap_err();
    Traffic::new(&pair.far.namespace, &format!("ping --to {} --raw", pair.near.v4)).run().unwrap();
    let (tx, rx) = settle(&agent, &pair);
    let counted = pair.near.counters();
    assert_eq!((tx.kernel, tx.attributed, tx.unknown), (counted.sent_bytes, 0, 0), "{tx:?}");
    // What it answers reached no process either, whether or not a socket of its own took it.
    assert_eq!((rx.attributed, rx.forwarded, rx.explained() + rx.unknown), (0, 0, counted.received_bytes), "{rx:?}");
}

#[test]
fn what_the_kernel_sends_in_another_namespace_with_the_same_addresses_is_not_in_the_ledger() {
    skip_if!(missing_privilege());
    // Before, packets of the kernel's own sockets cannot be asked for their namespace (net/core/filter.c,
    // cg_skb_func_proto).
    skip_if!(older_than(6, 15));
    let pair = Pair::new().unwrap();
    let agent = agent_inside(&pair.near.namespace);
    let twin = pair.twin().unwrap();
    let echo = |pair: &Pair| {
        let run = format!("ping --to {} --raw --count 7", pair.near.v4);
        Traffic::new(&pair.far.namespace, &run).run().unwrap();
    };
    echo(&twin);
    echo(&pair);
    let (tx, _) = settle(&agent, &pair);
    assert_eq!(twin.near.counters(), pair.near.counters());
    assert_eq!((tx.interface, tx.kernel), (pair.near.counters().sent_bytes, pair.near.counters().sent_bytes), "{tx:?}");
    let twice = |event: &Event| event.number("pktscope.ledger.tx.counted_twice_bytes");
    assert_eq!(agent.events(|event| event.is("ledger")).iter().map(twice).sum::<u64>(), 0);
}

#[test]
fn older_sockets_of_another_namespace_are_not_in_the_ledger() {
    skip_if!(missing_privilege());
    let (pair, other) = (Pair::new().unwrap(), Pair::new().unwrap());
    let server = TcpServer::start(&other.far.namespace, other.far.v4.into(), 0).unwrap();
    let run = format!("tcp --to {} --bytes 90000 --pause --linger", server.addr);
    let mut older = Traffic::new(&other.near.namespace, &run).start().unwrap();
    let sent = older.report().unwrap();
    // Of the other end nobody tells whose it is: it waits to be accepted.
    let unaccepting = other.near.namespace.run(|| TcpListener::bind((other.near.v4, 0))).unwrap();
    let mut unaccepted = connect(&other.far, &unaccepting).unwrap();
    let agent = agent_inside(&pair.near.namespace);
    unaccepted.write_all(&[7; 9_000]).unwrap();
    older.go_on().unwrap();
    agent.expect(DEADLINE, "the older socket's flow", |event| {
        event.is("flow") && event.pid() == sent.pid && event.volume().sent_bytes >= 90_000
    });
    Traffic::new(&pair.near.namespace, &format!("raw --to {} --count 5", pair.far.v4)).run().unwrap();
    let (tx, _) = settle(&agent, &pair);
    assert_eq!((tx.attributed, tx.unknown), (pair.near.counters().sent_bytes, 0), "{tx:?}");
    let twice = |event: &Event| event.number("pktscope.ledger.tx.counted_twice_bytes");
    assert_eq!(agent.events(|event| event.is("ledger")).iter().map(twice).sum::<u64>(), 0);
    older.finish().unwrap();
    drop((unaccepted, unaccepting));
}

#[test]
fn what_no_socket_receives_is_unknown_for_that_reason() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let agent = agent_inside(&pair.near.namespace);
    // UDP from anywhere to a broadcast address's port that nobody has: not even the kernel answers.
    let (from, to) = (format!("{}:4000", pair.far.v4), "255.255.255.255:4001");
    let run = format!("packet --device {} --from {from} --to {to} --count 10 --bytes 12", pair.far.device);
    Traffic::new(&pair.far.namespace, &run).run().unwrap();
    let (tx, rx) = settle(&agent, &pair);
    assert_eq!((rx.unknown, rx.explained(), tx.interface), (10 * 40, 0, 0), "{rx:?} {tx:?}");
    let reasons = |event: &Event| event.number("pktscope.ledger.rx.by_reason.no_socket");
    assert_eq!(agent.events(|event| event.is("ledger")).iter().map(reasons).sum::<u64>(), 10 * 40);
}

#[test]
fn frames_of_a_packet_socket_are_its_owner_s() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let agent = agent_inside(&pair.near.namespace);
    let (from, to) = (format!("{}:4000", pair.near.v4), format!("{}:4001", pair.far.v4));
    let device = &pair.near.device;
    let run = format!("packet --device {device} --from {from} --to {to} --count 100 --bytes 500 --pause");
    let mut running = Traffic::new(&pair.near.namespace, &run).start().unwrap();
    let sender = running.report().unwrap();
    running.go_on().unwrap();
    running.finish().unwrap();
    let (tx, _) = settle(&agent, &pair);
    assert_eq!((tx.attributed, tx.unknown), (pair.near.counters().sent_bytes, 0), "{tx:?}");
    let flow = agent.expect(DEADLINE, "the frames' flow", |event| event.is("flow") && event.pid() == sender.pid);
    assert_eq!(flow.text("network.transport"), "udp");
}

#[test]
fn what_skips_the_queueing_discipline_is_unknown_and_alerted() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let agent = agent_inside(&pair.near.namespace);
    let (from, to) = (format!("{}:4000", pair.near.v4), format!("{}:4001", pair.far.v4));
    let device = &pair.near.device;
    let run = format!("packet --device {device} --from {from} --to {to} --count 20000 --bytes 1000 --bypass");
    Traffic::new(&pair.near.namespace, &run).run().unwrap();
    let (tx, _) = settle(&agent, &pair);
    assert_eq!(tx.unknown, pair.near.counters().sent_bytes, "{tx:?}");
    let alert = agent.expect(Duration::from_secs(30), "alert of unattributed egress", |event: &Event| {
        event.is_alert("unattributed_egress")
    });
    assert!(alert.get("pktscope.alert.evidence").is_some(), "{alert}");
}

#[test]
fn forwarded_packets_are_nobody_s() {
    skip_if!(missing_privilege());
    let (left, right) = (Pair::new().unwrap(), Namespace::new().unwrap());
    // The near end of the pair becomes a router between the far end and a third namespace.
    let router = &left.near.namespace;
    router.set("ipv4/ip_forward", "1").unwrap();
    router.ip(&format!("link add beyond0 type veth peer name beyond1 netns {}", right.path().display())).unwrap();
    for (namespace, device, addr) in [(router, "beyond0", "192.0.2.1/24"), (&right, "beyond1", "192.0.2.2/24")] {
        namespace.set(&format!("ipv6/conf/{device}/disable_ipv6"), "1").unwrap();
        namespace.ip(&format!("link set {device} address 02:70:6b:74:73:02 arp off")).unwrap();
        namespace.ip(&format!("addr add {addr} dev {device}")).unwrap();
        namespace.ip(&format!("link set {device} up")).unwrap();
    }
    right.ip("route add default via 192.0.2.1 dev beyond1 onlink").unwrap();
    left.far.namespace.ip(&format!("route add 192.0.2.0/24 via {} dev far0 onlink", left.near.v4)).unwrap();
    let agent = agent_inside(router);
    let server = UdpServer::start(&right, [192, 0, 2, 2].into(), true).unwrap();
    let run = format!("udp --to {} --count 200 --bytes 500 --echo", server.addr);
    Traffic::new(&left.far.namespace, &run).run().unwrap();
    let forwarded = 2 * 200 * 528;
    let settled = wait_until(DEADLINE, || (sum(&agent, "tx").interface >= forwarded).then_some(()));
    let (tx, rx) = (sum(&agent, "tx"), sum(&agent, "rx"));
    assert!(settled.is_some(), "{tx:?}");
    assert_eq!((tx.forwarded, tx.attributed, tx.unknown), (forwarded, 0, 0), "{tx:?}");
    assert_eq!((rx.forwarded, rx.attributed, rx.unknown), (forwarded, 0, 0), "{rx:?}");
}
