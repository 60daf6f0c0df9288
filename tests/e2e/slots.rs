//! Where a TCP socket's state is makes no difference: in a slot, or, where there is none, with the socket.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    time::Duration,
};

use pktscope_tests::{
    agent::{Agent, AgentOptions},
    event::{Event, Volume},
    flow::{self, DEADLINE, Side, newest},
    machine::missing_privilege,
    namespace::{Family, Pair},
    skip_if,
    traffic::{Report, Traffic},
    wait::wait_until,
};

use crate::standing::{AGENT, pair};

/// Reports of one interval may wait for the next.
const CATCH_UP: Duration = Duration::from_secs(30);

const WORKERS: usize = 3;

fn agent(config: &str) -> Agent {
    AgentOptions::new().unwrap().config(&format!("[sensor]\n{config}\n")).unwrap().start().unwrap()
}

/// Has pre-forked workers accept a connection each, at the same time, and checks whose they are.
fn serve(agent: &Agent, pair: &Pair) {
    let listen = SocketAddr::from((pair.near.v4, 8080));
    let run = format!("prefork --listen {listen} --workers {WORKERS}");
    let mut serving = Traffic::new(&pair.near.namespace, &run).start().unwrap();
    let listener = serving.report().unwrap();
    let client = format!("tcp --to {listen} --bytes 3000");
    let clients: Vec<_> = (0..WORKERS).map(|_| Traffic::new(&pair.far.namespace, &client).start().unwrap()).collect();
    clients.into_iter().for_each(|client| drop(client.finish().unwrap()));
    let served = serving.finish().unwrap();
    assert_eq!(served.len(), WORKERS);
    for worker in served {
        let end = accepted(agent, worker.remote.unwrap(), listen);
        assert_eq!(end.pid(), worker.pid, "{worker:?}: {end}");
        expect_creator(&end, &listener);
    }
}

fn accepted(agent: &Agent, client: SocketAddr, listen: SocketAddr) -> Event {
    agent.expect(DEADLINE, "the accepted flow's end", |event| {
        event.is_flow_end() && Side::Acceptor.is_of(event) && flow::joins(event, client, listen)
    })
}

fn expect_creator(end: &Event, listener: &Report) {
    assert_eq!(end.number("pktscope.attribution.creator_pid"), u64::from(listener.pid), "{end}");
}

/// Checks that both hosts' flows are what their interfaces counted.
fn expect_all_counted(agent: &Agent, pair: &Pair) {
    for (host, side) in [(&pair.near, Side::Acceptor), (&pair.far, Side::Opener)] {
        let told = || -> Volume { newest(agent, host, Family::V4, side).iter().map(Event::volume).sum() };
        let seen = || if side == Side::Opener { told() } else { told().reversed() };
        let equal = wait_until(CATCH_UP, || (seen() == host.counters().into()).then_some(()));
        let (seen, counted) = (seen(), host.counters());
        assert!(equal.is_some(), "{side:?}: flows {seen:?}\ninterface {counted:?}\n{}", agent.describe());
    }
}

#[test]
fn sockets_without_a_slot_are_owned_and_counted_as_those_with_one() {
    skip_if!(missing_privilege());
    // Of two slots the listener and whatever else this machine has open take what the others want.
    for config in ["slots_max = 0", "slots_max = 2", "slots_max = 16384"] {
        let (agent, pair) = (agent(config), Pair::new().unwrap());
        serve(&agent, &pair);
        expect_all_counted(&agent, &pair);
    }
}

#[test]
fn where_a_handshake_finds_no_room_the_listener_leaves_its_owner_to_what_it_accepts() {
    skip_if!(missing_privilege());
    let (agent, pair) = (agent("peers_max = 1"), Pair::new().unwrap());
    let run = "udp --to 198.18.0.1:9 --destinations 20 --count 20 --linger";
    let mut filling = Traffic::new(&pair.near.namespace, run).start().unwrap();
    filling.report().unwrap();
    serve(&agent, &pair);
    filling.go_on().unwrap();
    filling.finish().unwrap();
}

#[test]
fn a_connection_that_was_silent_is_its_listener_s_when_it_speaks() {
    skip_if!(missing_privilege());
    let pair = pair();
    let listen = SocketAddr::from((pair.near.v4, 8080));
    let serving = format!("prefork --listen {listen} --workers 1 --blind");
    let mut serving = Traffic::new(&pair.near.namespace, &serving).start().unwrap();
    let listener = serving.report().unwrap();
    let run = format!("tcp --to {listen} --bytes 3000 --pause");
    let mut client = Traffic::new(&pair.far.namespace, &run).start().unwrap();
    let addr = client.report().unwrap().local.unwrap();
    // The handshake alone is told once it has been idle.
    AGENT.expect(DEADLINE, "the handshake", |event| Side::Acceptor.is_of(event) && flow::joins(event, addr, listen));
    client.go_on().unwrap();
    client.finish().unwrap();
    let worker = serving.finish().unwrap().pop().unwrap();
    let end = accepted(&AGENT, addr, listen);
    assert_eq!(end.pid(), worker.pid, "{end}");
    assert_eq!(end.text("pktscope.attribution.method"), "close", "{end}");
    expect_creator(&end, &listener);
    let counted = pair.near.counters();
    assert_eq!(end.volume().reversed(), counted.into(), "{end}");
}

#[test]
fn a_connection_that_no_process_holds_is_told_in_its_namespace_s_turn() {
    skip_if!(missing_privilege());
    let options = AgentOptions::new().unwrap().config("[ledger]\ninterval = \"1s\"\n").unwrap();
    let (agent, pair) = (options.start().unwrap(), Pair::new().unwrap());
    // By which the namespace is found; it ends with the pipe.
    let mut process = pair.far.namespace.command("cat").stdin(Stdio::piped()).spawn().unwrap();
    let listener = pair.far.namespace.run(|| TcpListener::bind((pair.far.v4, 0))).unwrap();
    let listen = listener.local_addr().unwrap();
    let mut unaccepted = pair.near.namespace.run(|| TcpStream::connect(listen)).unwrap();
    unaccepted.write_all(&[8; 5_000]).unwrap();
    let client = unaccepted.local_addr().unwrap();
    // One namespace a second has its turn, and other tests have theirs meanwhile.
    let told = agent.expect(4 * CATCH_UP, "the connection", |event| {
        Side::Acceptor.is_of(event) && flow::joins(event, client, listen) && !event.is_flow_end()
    });
    assert!(5_000 < told.number("source.bytes"), "{told}");
    drop(process.stdin.take());
    process.wait().unwrap();
}
