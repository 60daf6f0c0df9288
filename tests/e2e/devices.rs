//! What leaves by an interface past the sockets: packet sockets, AF_XDP, tunnels; and the company of others' programs.

use std::process::Stdio;

use pktscope_tests::{
    agent::Agent,
    bpf::{Foreign, tcx_programs},
    event::Event,
    flow::DEADLINE,
    machine::{missing_privilege, missing_socket, missing_tc, older_than, output_of},
    namespace::{Namespace, Pair},
    server::{TcpServer, UdpServer},
    skip_if,
    traffic::{Report, Traffic},
    wait::wait_until,
};

use crate::ledger::{agent_inside, settle};

/// Bytes of IP and UDP headers.
const HEADERS: u64 = 28;

/// Arguments of frames from the pair's near end to its far one.
fn frames(pair: &Pair, device: &str, count: u64, bytes: u64) -> String {
    let (from, to) = (format!("{}:4000", pair.near.v4), format!("{}:4001", pair.far.v4));
    format!("--device {device} --from {from} --to {to} --count {count} --bytes {bytes}")
}

/// The newest event of a process's flows.
fn flow_of(agent: &Agent, pid: u32, what: &str, is_meant: impl Fn(&Event) -> bool) -> Event {
    agent.expect(DEADLINE, what, |event| event.is("flow") && event.pid() == pid && is_meant(event))
}

/// The filters of an interface's way out, as `tc` shows them.
fn filters(namespace: &Namespace, device: &str) -> String {
    let mut tc = namespace.command("tc");
    output_of(tc.args(["filter", "show", "dev", device, "egress"]).stderr(Stdio::null()))
}

/// Gives an interface a clsact qdisc with a filter that has the last word on every packet.
fn add_foreign_filter(namespace: &Namespace, device: &str) {
    for arguments in [
        format!("qdisc add dev {device} clsact"),
        format!("filter add dev {device} egress prio 1 handle 1 bpf da bytecode 1,6 0 0 0,"),
    ] {
        // The program's text is one argument.
        let (head, tail) =
            arguments.split_once("bytecode ").map_or((&*arguments, None), |(head, tail)| (head, Some(tail)));
        let mut tc = namespace.command("tc");
        tc.args(head.split_whitespace());
        if let Some(program) = tail {
            tc.args(["bytecode", program]);
        }
        output_of(&mut tc);
    }
}

/// Whether the agent's program is on an interface's way out.
fn is_covered(namespace: &Namespace, device: &str) -> bool {
    !tcx_programs(namespace, device).unwrap().is_empty() || filters(namespace, device).contains("pktscope")
}

#[test]
fn programs_of_others_survive_the_agent_and_do_not_blind_it() {
    skip_if!(missing_privilege());
    skip_if!(older_than(6, 6));
    let pair = Pair::new().unwrap();
    let (namespace, device) = (&pair.near.namespace, &pair.near.device);
    let _foreign = Foreign::attach(namespace, device).unwrap();
    let before = tcx_programs(namespace, device).unwrap();
    let agent = agent_inside(namespace);
    let meanwhile = tcx_programs(namespace, device).unwrap();
    assert_eq!(
        (meanwhile.len(), &meanwhile[1..]),
        (2, &before[..]),
        "ours goes first, because theirs has the last word"
    );
    let _later = Foreign::attach(namespace, device).unwrap();
    Traffic::new(namespace, &format!("packet {}", frames(&pair, device, 100, 500))).run().unwrap();
    let (tx, _) = settle(&agent, &pair);
    assert_eq!((tx.attributed, tx.unknown), (100 * (HEADERS + 500), 0), "{tx:?}");
    let with_later = tcx_programs(namespace, device).unwrap();
    assert!(agent.stop().success());
    assert_eq!(tcx_programs(namespace, device).unwrap(), with_later[1..]);
}

#[test]
fn filters_of_others_survive_the_agent() {
    skip_if!(missing_privilege());
    skip_if!(missing_tc());
    let pair = Pair::new().unwrap();
    let (namespace, device) = (&pair.near.namespace, &pair.near.device);
    add_foreign_filter(namespace, device);
    let before = filters(namespace, device);
    assert!(before.contains("pref 1 bpf"), "{before}");
    let agent = agent_inside(namespace);
    let meanwhile = filters(namespace, device);
    assert!(before.lines().all(|line| meanwhile.contains(line)), "{before}\n{meanwhile}");
    assert!(agent.stop().success());
    assert_eq!(filters(namespace, device), before);
}

#[test]
fn an_interface_that_comes_later_is_covered_and_may_go() {
    skip_if!(missing_privilege());
    skip_if!(missing_tc());
    let pair = Pair::new().unwrap();
    let near = &pair.near.namespace;
    let agent = agent_inside(near);
    let far = pair.far.namespace.path();
    near.ip(&format!("link add late0 type veth peer name late1 netns {}", far.display())).unwrap();
    near.set("ipv6/conf/late0/disable_ipv6", "1").unwrap();
    pair.far.namespace.set("ipv6/conf/late1/disable_ipv6", "1").unwrap();
    near.ip("link set late0 up").unwrap();
    pair.far.namespace.ip("link set late1 up").unwrap();
    wait_until(DEADLINE, || is_covered(near, "late0").then_some(())).expect("late0 is covered");
    let sent = Traffic::new(near, &format!("packet {}", frames(&pair, "late0", 100, 500))).run().unwrap();
    let flow = flow_of(&agent, sent.pid, "flow by the later interface", |event| event.volume().sent_packets == 100);
    assert_eq!(flow.volume().sent_bytes, 100 * (HEADERS + 500));
    near.ip("link del late0").unwrap();
    Traffic::new(near, &format!("packet {}", frames(&pair, &pair.near.device, 50, 100))).run().unwrap();
    let (tx, _) = settle(&agent, &pair);
    assert_eq!(tx.unknown, 0, "{tx:?}");
}

#[test]
fn frames_that_are_not_ip_are_attributed_without_a_flow() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let agent = agent_inside(&pair.near.namespace);
    let run = format!("packet {} --not-ip", frames(&pair, &pair.near.device, 40, 100));
    let sent = Traffic::new(&pair.near.namespace, &run).run().unwrap();
    let (tx, _) = settle(&agent, &pair);
    assert_eq!((tx.attributed, tx.unknown), (40 * (HEADERS + 100), 0), "{tx:?}");
    assert!(agent.events(|event| event.is("flow") && event.pid() == sent.pid).is_empty());
}

#[test]
fn flows_of_frames_end_when_their_packet_socket_is_closed_and_not_before() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let agent = agent_inside(&pair.near.namespace);
    let run = |port: u16| {
        let (from, to) = (format!("{}:4000", pair.near.v4), format!("{}:{port}", pair.far.v4));
        format!("packet --device {} --from {from} --to {to} --count 10 --linger", pair.near.device)
    };
    let start = |port| {
        let mut running = Traffic::new(&pair.near.namespace, &run(port)).start().unwrap();
        let report = running.report().unwrap();
        (running, report)
    };
    let ((open, stays), (closing, goes)) = (start(4001), start(4002));
    let begun = |sent: &Report| flow_of(&agent, sent.pid, "the frames' flow", |_| true);
    let (lasting, ending) = (begun(&stays).flow_id(), begun(&goes).flow_id());
    closing.finish().unwrap();
    let end = agent.expect(DEADLINE, "the end of the closed socket's flow", |event| {
        event.is_flow_end() && [stays.pid, goes.pid].contains(&event.pid())
    });
    assert_eq!((end.flow_id(), end.volume().sent_packets), (ending, 10), "{end}");
    assert_eq!(end.text("event.reason"), "end_of_flow", "{end}");
    assert!(agent.events(|event| event.is_flow_end() && event.flow_id() == lasting).is_empty());
    open.finish().unwrap();
}

#[test]
fn what_af_xdp_sends_is_unknown() {
    skip_if!(missing_privilege());
    skip_if!(missing_socket("AF_XDP", libc::AF_XDP, libc::SOCK_RAW, 0));
    let pair = Pair::new().unwrap();
    let agent = agent_inside(&pair.near.namespace);
    let sent = Traffic::new(&pair.near.namespace, &format!("xdp {}", frames(&pair, &pair.near.device, 200, 500)))
        .run()
        .unwrap();
    let (tx, _) = settle(&agent, &pair);
    let counted = pair.near.counters();
    assert_eq!((counted.sent_packets, counted.sent_bytes), (200, 200 * (HEADERS + 500)), "the interface saw them");
    assert_eq!((tx.unknown, tx.attributed), (counted.sent_bytes, 0), "{tx:?}");
    assert!(agent.events(|event| event.is("flow") && event.pid() == sent.pid).is_empty());
}

/// Hardware address that both ends of a pair have.
const PAIR_HARDWARE: &str = "02:70:6b:74:73:01";
/// Addresses by which the near end's second device and the far end talk.
const UPPER: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// Puts a device of this kind on the near end's interface, into `namespace`; why not, where the kernel has none.
fn add_upper(pair: &Pair, kind: &str, namespace: &Namespace) -> Option<String> {
    let (near, far) = (&pair.near.namespace, &pair.far.namespace);
    if let Err(error) = near.ip(&format!("link add upper0 link near0 type {kind}")) {
        return Some(format!("this kernel has no such device: {error}"));
    }
    let hardware = if kind.starts_with("macvlan") { HARDWARE[0] } else { PAIR_HARDWARE };
    if kind.starts_with("macvlan") {
        near.ip(&format!("link set upper0 address {hardware}")).unwrap();
    }
    if namespace.path() != near.path() {
        near.ip(&format!("link set upper0 netns {}", namespace.path().display())).unwrap();
    }
    namespace.set("ipv6/conf/upper0/disable_ipv6", "1").unwrap();
    namespace.ip(&format!("addr add {}/24 dev upper0", UPPER[0])).unwrap();
    namespace.ip("link set upper0 up").unwrap();
    // An ipvlan takes a frame to the address of its own hardware for one to its host.
    far.ip(&format!("link set far0 address {}", HARDWARE[1])).unwrap();
    far.ip(&format!("addr add {}/24 dev far0", UPPER[1])).unwrap();
    let (below, beyond) = (pair.near.v4.to_string(), pair.far.v4.to_string());
    for (from, device, to, lladdr) in [
        (namespace, "upper0", UPPER[1], HARDWARE[1]),
        (near, "near0", &beyond, HARDWARE[1]),
        (far, "far0", UPPER[0], hardware),
        (far, "far0", &below, PAIR_HARDWARE),
    ] {
        from.ip(&format!("neigh replace {to} lladdr {lladdr} nud permanent dev {device}")).unwrap();
    }
    None
}

/// Talks by a device that stands on the near end's interface, both in the agent's namespace.
fn check_upper(kind: &str) {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    skip_if!(add_upper(&pair, kind, &pair.near.namespace));
    let agent = agent_inside(&pair.near.namespace);
    let server = UdpServer::start(&pair.far.namespace, UPPER[1].parse().unwrap(), true).unwrap();
    let run = format!("udp --to {} --count 50 --bytes 500 --echo", server.addr);
    Traffic::new(&pair.near.namespace, &run).run().unwrap();
    let below = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), true).unwrap();
    let run = format!("udp --to {} --count 20 --bytes 100 --echo", below.addr);
    Traffic::new(&pair.near.namespace, &run).run().unwrap();
    let (tx, rx) = settle(&agent, &pair);
    let all = 50 * (HEADERS + 500) + 20 * (HEADERS + 100);
    assert_eq!((tx.attributed, tx.interface), (all, pair.near.counters().sent_bytes), "{kind}: {tx:?}");
    assert_eq!((rx.attributed, rx.interface), (all, pair.near.counters().received_bytes), "{kind}: {rx:?}");
    assert_eq!(counted_twice(&agent), 0);
}

fn counted_twice(agent: &Agent) -> u64 {
    let of = |event: &Event, side: &str| event.number(&format!("pktscope.ledger.{side}.counted_twice_bytes"));
    agent.events(|event| event.is("ledger")).iter().map(|event| of(event, "tx") + of(event, "rx")).sum()
}

#[test]
fn what_a_macvlan_carries_counts_once_at_the_interface_below() {
    check_upper("macvlan mode bridge");
}

#[test]
fn what_an_ipvlan_carries_counts_once_at_the_interface_below() {
    check_upper("ipvlan mode l2");
}

#[test]
fn what_a_container_s_macvlan_carries_is_its_process_s_flow_and_unknown_to_the_ledger_once() {
    skip_if!(missing_privilege());
    let (pair, container) = (Pair::new().unwrap(), Namespace::new().unwrap());
    skip_if!(add_upper(&pair, "macvlan mode bridge", &container));
    let agent = agent_inside(&pair.near.namespace);
    let server = UdpServer::start(&pair.far.namespace, UPPER[1].parse().unwrap(), true).unwrap();
    let run = format!("udp --to {} --count 50 --bytes 500 --echo", server.addr);
    let sent = Traffic::new(&container, &run).run().unwrap();
    let (tx, rx) = settle(&agent, &pair);
    let bytes = 50 * (HEADERS + 500);
    assert_eq!((tx.interface, tx.unknown, tx.attributed), (bytes, bytes, 0), "{tx:?}");
    assert_eq!((rx.interface, rx.unknown, rx.attributed), (bytes, bytes, 0), "{rx:?}");
    assert_eq!(counted_twice(&agent), 0);
    flow_of(&agent, sent.pid, "the container's flow", |event| event.volume().sent_bytes == bytes);
}

/// Addresses of the tunnel's ends.
const INNER: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
/// Theirs in hardware: VXLAN takes a frame that bears its own for an echo.
const HARDWARE: [&str; 2] = ["02:70:6b:74:73:03", "02:70:6b:74:73:04"];

const VXLAN: &str = "vxlan id 7 dstport 4789";

/// Joins the pair's ends by a tunnel as well; why not, where the kernel has none of its kind.
fn add_tunnel(pair: &Pair, kind: &str) -> Option<String> {
    let has_hardware_address = ["vxlan", "gretap", "geneve"].iter().any(|name| kind.starts_with(name));
    for (at, host, other) in [(0, &pair.near, &pair.far), (1, &pair.far, &pair.near)] {
        let namespace = &host.namespace;
        let ends = format!("local {} remote {} dev {}", host.v4, other.v4, host.device);
        if let Err(error) = namespace.ip(&format!("link add tunnel0 type {kind} {ends}")) {
            return Some(format!("this kernel has no such tunnel: {error}"));
        }
        namespace.set("ipv6/conf/tunnel0/disable_ipv6", "1").unwrap();
        if has_hardware_address {
            namespace.ip(&format!("link set tunnel0 address {}", HARDWARE[at])).unwrap();
        }
        namespace.ip(&format!("addr add {}/24 dev tunnel0", INNER[at])).unwrap();
        namespace.ip("link set tunnel0 up").unwrap();
        if has_hardware_address {
            namespace.ip(&format!("neigh add {} lladdr {} dev tunnel0", INNER[1 - at], HARDWARE[1 - at])).unwrap();
        }
    }
    None
}

/// Sends through the pair's tunnel and back, and compares the outer packets with the interface's count.
fn check_tunnel(kind: &str) {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    skip_if!(add_tunnel(&pair, kind));
    let agent = agent_inside(&pair.near.namespace);
    let server = UdpServer::start(&pair.far.namespace, INNER[1].parse().unwrap(), true).unwrap();
    let run = format!("udp --to {} --count 50 --bytes 500 --echo", server.addr);
    Traffic::new(&pair.near.namespace, &run).run().unwrap();
    let (tx, rx) = settle(&agent, &pair);
    let counted = pair.near.counters();
    assert!(counted.received_bytes > 50 * (HEADERS + 500), "{counted:?}");
    assert_eq!((tx.kernel, tx.attributed, tx.unknown), (counted.sent_bytes, 0, 0), "{kind}: {tx:?}");
    assert_eq!((rx.kernel, rx.attributed, rx.unknown), (counted.received_bytes, 0, 0), "{kind}: {rx:?}");
}

#[test]
fn what_gre_carries_is_the_kernel_s_both_ways() {
    check_tunnel("gre");
}

#[test]
fn what_gre_carries_of_ethernet_is_the_kernel_s_both_ways() {
    check_tunnel("gretap");
}

#[test]
fn what_ip_in_ip_carries_is_the_kernel_s_both_ways() {
    check_tunnel("ipip");
}

#[test]
fn beside_a_tunnel_a_process_s_datagrams_stay_its_own_and_strangers_unknown() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    skip_if!(add_tunnel(&pair, VXLAN));
    let agent = agent_inside(&pair.near.namespace);
    let server = UdpServer::start(&pair.near.namespace, pair.near.v4.into(), false).unwrap();
    let run = format!("udp --to {} --count 40 --bytes 300", server.addr);
    Traffic::new(&pair.far.namespace, &run).run().unwrap();
    // There is no GRE tunnel here, and no socket for its packets: the kernel answers the first that nobody wants them.
    Traffic::new(&pair.far.namespace, &format!("raw --to {} --protocol 47 --count 5", pair.near.v4)).run().unwrap();
    let (_, rx) = settle(&agent, &pair);
    assert_eq!((rx.attributed, rx.kernel, rx.unknown), (40 * (HEADERS + 300), 0, 5 * 120), "{rx:?}");
}

#[test]
fn packets_for_another_host_s_tunnel_are_forwarded_and_not_the_kernel_s() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    skip_if!(add_tunnel(&pair, VXLAN));
    let near = &pair.near.namespace;
    near.set("ipv4/ip_forward", "1").unwrap();
    near.set("ipv4/conf/all/send_redirects", "0").unwrap();
    near.set("ipv4/conf/near0/send_redirects", "0").unwrap();
    let agent = agent_inside(near);
    // By way of the near end to an address that its default route has at the far end again.
    pair.far.namespace.ip(&format!("route add 198.51.100.0/24 via {} dev far0 onlink", pair.near.v4)).unwrap();
    let sent = Traffic::new(&pair.far.namespace, "udp --to 198.51.100.1:4789 --count 30 --bytes 400").run().unwrap();
    let (tx, rx) = settle(&agent, &pair);
    assert_eq!(sent.sent_units, 30);
    assert_eq!((tx.forwarded, tx.kernel), (30 * (HEADERS + 400), 0), "{tx:?}");
    assert_eq!((rx.forwarded, rx.kernel, rx.unknown), (30 * (HEADERS + 400), 0, 0), "{rx:?}");
}

#[test]
fn a_tunnel_s_outer_packets_are_the_kernel_s_whoever_sent_the_inner_ones() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    skip_if!(add_tunnel(&pair, VXLAN));
    let agent = agent_inside(&pair.near.namespace);
    let server = UdpServer::start(&pair.far.namespace, INNER[1].parse().unwrap(), true).unwrap();
    let run = format!("udp --to {} --count 100 --bytes 500 --echo", server.addr);
    let sent = Traffic::new(&pair.near.namespace, &run).run().unwrap();
    // The length that older kernels give a super-packet in a tunnel lacks headers (net/core/dev.c, qdisc_pkt_len_init).
    if older_than(6, 18).is_none() {
        let tcp = TcpServer::start(&pair.far.namespace, INNER[1].parse().unwrap(), 50_000).unwrap();
        Traffic::new(&pair.near.namespace, &format!("tcp --to {} --bytes 100000", tcp.addr)).run().unwrap();
    }
    let run = format!("packet {}", frames(&pair, "tunnel0", 30, 200));
    let framed = Traffic::new(&pair.near.namespace, &run).run().unwrap();
    let (tx, rx) = settle(&agent, &pair);
    let counted = pair.near.counters();
    assert_eq!((tx.kernel, tx.attributed, tx.unknown), (counted.sent_bytes, 0, 0), "{tx:?}");
    assert_eq!((rx.kernel, rx.attributed, rx.unknown), (counted.received_bytes, 0, 0), "{rx:?}");
    let inner = flow_of(&agent, sent.pid, "inner flow", |event| event.volume().sent_packets == 100);
    assert_eq!(inner.volume().sent_bytes, 100 * (HEADERS + 500));
    let inner = flow_of(&agent, framed.pid, "inner frames' flow", |event| event.volume().sent_packets == 30);
    assert_eq!(inner.volume().sent_bytes, 30 * (HEADERS + 200));
    let outer = agent.events(|event| event.is("flow") && event.number("destination.port") == 4789 && event.pid() != 0);
    assert!(outer.is_empty(), "{outer:?}");
}
