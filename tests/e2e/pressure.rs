//! Nothing is lost under load, or the loss stands in the ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use pktscope_tests::{
    agent::{Agent, AgentOptions},
    event::{Event, Volume},
    flow::{Side, newest},
    machine::missing_privilege,
    namespace::{Counters, Family, Host, Pair},
    server::{TcpServer, UdpServer},
    skip_if,
    traffic::Traffic,
    wait::{timed, wait_until},
};

/// Reading what has piled up takes a busy machine some seconds.
const CATCH_UP: Duration = Duration::from_secs(30);
/// How long the agent stands still.
const STANDSTILL: Duration = Duration::from_secs(5);

/// The flows that a pair's near end opened, added up over their newest events.
fn total(agent: &Agent, pair: &Pair) -> Volume {
    let addrs = [pair.near.v4.into(), pair.near.v6.into()];
    let mut newest = BTreeMap::new();
    for event in agent.events(|event| event.is("flow") && Side::Opener.is_of(event)) {
        if addrs.iter().any(|addr| event.addr("source.ip") == Some(*addr)) {
            newest.insert(event.flow_id(), event.volume());
        }
    }
    newest.into_values().sum()
}

fn expect_nothing_lost(agent: &Agent, pair: &Pair, counted: Counters) {
    let equal = wait_until(CATCH_UP, || (total(agent, pair) == counted.into()).then_some(()));
    let seen = total(agent, pair);
    assert!(equal.is_some(), "flows {seen:?}\ninterface {counted:?}\n{}", agent.describe());
}

#[test]
fn an_agent_that_stood_still_under_load_has_every_byte() {
    skip_if!(missing_privilege());
    let (agent, pair) = (Agent::start().unwrap(), Pair::new().unwrap());
    let tcp = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 2_000).unwrap();
    let udp = UdpServer::start(&pair.far.namespace, pair.far.v6.into(), false).unwrap();
    agent.signal(libc::SIGSTOP);
    let mut took = Duration::ZERO;
    while took < STANDSTILL {
        let streams = format!("tcp --to {} --bytes 3000 --times 200", tcp.addr);
        let datagrams = format!("udp --to {} --count 5000", udp.addr);
        took += timed(|| Traffic::new(&pair.near.namespace, &streams).run().unwrap()).1;
        took += timed(|| Traffic::new(&pair.near.namespace, &datagrams).run().unwrap()).1;
    }
    agent.signal(libc::SIGCONT);
    expect_nothing_lost(&agent, &pair, pair.near.counters());
}

#[test]
fn twenty_thousand_destinations_of_one_socket_are_all_counted() {
    skip_if!(missing_privilege());
    let options = AgentOptions::new().unwrap().with_floods();
    let (agent, pair) = (options.start().unwrap(), Pair::new().unwrap());
    let run = "udp --to 198.18.0.1:9 --destinations 20000 --count 20000 --way sendmmsg --bytes 50";
    let report = Traffic::new(&pair.near.namespace, run).run().unwrap();
    expect_nothing_lost(&agent, &pair, pair.near.counters());
    let destinations: BTreeSet<_> = agent
        .events(|event| event.is("flow") && event.pid() == report.pid)
        .iter()
        .filter_map(|event| event.addr("destination.ip"))
        .collect();
    assert_eq!(destinations.len(), 20_000);
}

#[test]
fn sockets_that_close_while_they_are_swept_are_counted_and_harm_nobody() {
    skip_if!(missing_privilege());
    let often = "[sensor]\nsweep_interval = \"100ms\"\n";
    let (agent, pair) = (AgentOptions::new().unwrap().config(often).unwrap().start().unwrap(), Pair::new().unwrap());
    let server = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 10).unwrap();
    let run = format!("tcp --to {} --bytes 10 --times 300", server.addr);
    let start = |_| Traffic::new(&pair.near.namespace, &run).start().unwrap();
    let running: Vec<_> = (0..6).map(start).collect();
    running.into_iter().for_each(|one| drop(one.finish().unwrap()));
    expect_nothing_lost(&agent, &pair, pair.near.counters());
    assert!(agent.stop().success());
}

/// Connections of the tests of a full ring that are open at once: processes may have 1,024 files open.
const CONNECTIONS: usize = 250;
/// How often as many are opened.
const ROUNDS: usize = 8;

/// An agent with a ring for some 300 reports that stands still while many connections end.
fn stand_still_with_small_ring(more: &str) -> (Agent, Pair) {
    let config = format!("[sensor]\nring_bytes = \"64KiB\"\n{more}[ledger]\ninterval = \"1s\"\n");
    let (agent, pair) = (AgentOptions::new().unwrap().config(&config).unwrap().start().unwrap(), Pair::new().unwrap());
    agent.signal(libc::SIGSTOP);
    (0..ROUNDS).for_each(|_| connect_and_leave(&pair));
    agent.signal(libc::SIGCONT);
    (agent, pair)
}

/// Opens connections one after the other, each closed at once by who opened it, and then all by the other side, to which
/// TIME_WAIT answers.
fn connect_and_leave(pair: &Pair) {
    let listener = pair.far.namespace.run(|| TcpListener::bind((pair.far.v4, 0))).unwrap();
    let run = format!("tcp --to {} --times {CONNECTIONS} --leave", listener.local_addr().unwrap());
    let read_whole = |stream: std::io::Result<TcpStream>| {
        let mut stream = stream.unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        stream
    };
    let holding = thread::spawn(move || listener.incoming().take(CONNECTIONS).map(read_whole).collect::<Vec<_>>());
    Traffic::new(&pair.near.namespace, &run).run().unwrap();
    drop(holding.join().unwrap());
}

#[test]
fn a_full_ring_loses_no_end_of_a_socket() {
    skip_if!(missing_privilege());
    let (agent, pair) = stand_still_with_small_ring("");
    for (host, side) in [(&pair.near, Side::Opener), (&pair.far, Side::Acceptor)] {
        let told = wait_until(CATCH_UP, || is_all_told(&agent, host, side).then_some(()));
        let flows = newest(&agent, host, Family::V4, side);
        let sum: Volume = flows.iter().map(Event::volume).sum();
        assert!(
            told.is_some(),
            "{side:?}: {} flows {sum:?}\ninterface {:?}\n{}",
            flows.len(),
            host.counters(),
            agent.describe()
        );
    }
}

/// Whether every connection has ended and its bytes are told, but for one in a hundred: a FIN that TIME_WAIT gets again, its
/// answer and what that meets come after the flow's end, and are in the ledger alone.
fn is_all_told(agent: &Agent, host: &Host, side: Side) -> bool {
    let flows = newest(agent, host, Family::V4, side);
    let sum: Volume = flows.iter().map(Event::volume).sum();
    let sum = if side == Side::Opener { sum } else { sum.reversed() };
    let counted = Volume::from(host.counters());
    let is_near = |told: u64, counted: u64| told <= counted && counted - told <= counted / 100;
    flows.len() == ROUNDS * CONNECTIONS
        && flows.iter().all(Event::is_flow_end)
        && is_near(sum.sent_bytes, counted.sent_bytes)
        && is_near(sum.received_bytes, counted.received_bytes)
}

#[test]
fn what_finds_no_room_beside_a_full_ring_is_lost_but_its_bytes_are_told() {
    skip_if!(missing_privilege());
    let (agent, _pair) = stand_still_with_small_ring("kept_max = 64\n");
    let told = wait_until(CATCH_UP, || (agent.lost("ring_full_socket_end_sent_bytes") != 0).then_some(()));
    assert!(told.is_some(), "{}", agent.describe());
    assert_ne!(agent.lost("ring_full_socket_end"), 0);
}
