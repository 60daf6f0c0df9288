//! Sockets that are older than the agent.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
};

use pktscope_tests::{
    agent::{Agent, AgentOptions},
    event::{Event, Volume},
    flow::{DEADLINE, Side, end_of, is_reported, joins},
    machine::missing_privilege,
    namespace::Pair,
    server::{TcpServer, UdpServer},
    skip_if,
    traffic::{Report, Running, Traffic},
};

/// An agent that tells of growth within a second.
fn late_agent() -> Agent {
    AgentOptions::new().unwrap().config("[flow]\nupdate_interval = \"1s\"\n").unwrap().start().unwrap()
}

/// Starts a generator and waits until its socket is there.
fn paused(pair: &Pair, arguments: &str) -> (Running, Report) {
    let mut running = Traffic::new(&pair.near.namespace, arguments).start().unwrap();
    let ready = running.report().unwrap();
    (running, ready)
}

fn expect_owner_from_the_first_event(agent: &Agent, report: &Report) -> Event {
    let end = end_of(agent, report);
    for event in agent.events(|event| event.flow_id() == end.flow_id() && event.is("flow")) {
        assert_eq!(
            (event.pid(), event.text("process.executable")),
            (report.pid, report.executable.as_str()),
            "{event}"
        );
    }
    end
}

#[test]
fn established_connections_are_known_from_the_first_event_on() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let tcp = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 1_000).unwrap();
    let udp = UdpServer::start(&pair.far.namespace, pair.far.v6.into(), false).unwrap();
    let (mut stream, opened) = paused(&pair, &format!("tcp --to {} --bytes 5000 --pause", tcp.addr));
    let (mut datagrams, bound) = paused(&pair, &format!("udp --to {} --connected --pause", udp.addr));
    let (agent, start) = (late_agent(), pair.near.counters());
    stream.go_on().unwrap();
    stream.finish().unwrap();
    datagrams.go_on().unwrap();
    datagrams.finish().unwrap();
    let ends = [expect_owner_from_the_first_event(&agent, &opened), expect_owner_from_the_first_event(&agent, &bound)];
    let counted = pair.near.counters().since(start);
    assert_eq!(ends.iter().map(Event::volume).sum::<Volume>(), counted.into(), "{ends:?}");
}

#[test]
fn a_receiver_that_never_sends_is_known() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let listener = pair.far.namespace.run(|| TcpListener::bind((pair.far.v4, 0))).unwrap();
    let run = format!("tcp --to {} --bytes 0 --linger", listener.local_addr().unwrap());
    let (running, opened) = paused(&pair, &run);
    let (mut stream, _) = listener.accept().unwrap();
    let agent = late_agent();
    stream.write_all(&[0; 4000]).unwrap();
    let seen = agent.expect(DEADLINE, "the receiver's flow", |event| is_reported(event, &opened));
    assert_eq!((seen.pid(), seen.text("pktscope.attribution.method")), (opened.pid, "snapshot"), "{seen}");
    drop(stream);
    running.finish().unwrap();
    assert_eq!(end_of(&agent, &opened).pid(), opened.pid);
}

#[test]
fn both_ends_of_an_older_connection_know_who_opened_it() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let opened: Vec<_> = (0..8)
        .map(|_| {
            // Both ports are such as clients are given, so that neither tells.
            let listener = pair.far.namespace.run(|| TcpListener::bind((pair.far.v4, 0))).unwrap();
            let stream = pair.near.namespace.run(|| TcpStream::connect(listener.local_addr().unwrap())).unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            accepted.write_all(b"before").unwrap();
            (stream, accepted)
        })
        .collect();
    let agent = late_agent();
    for (stream, accepted) in opened {
        let ends = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        (&accepted).write_all(&[0; 100]).unwrap();
        (&stream).write_all(&[0; 100]).unwrap();
        for side in [Side::Opener, Side::Acceptor] {
            let what = format!("{side:?} of {ends:?}");
            agent.expect(DEADLINE, &what, |event| side.is_of(event) && joins(event, ends.0, ends.1));
        }
    }
}

#[test]
fn a_process_keeps_its_entity_id_over_agents() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let listener = pair.far.namespace.run(|| TcpListener::bind((pair.far.v4, 0))).unwrap();
    // The first agent sees the process start, the second one finds it there.
    let first = late_agent();
    let run = format!("tcp --to {} --bytes 0 --linger", listener.local_addr().unwrap());
    let (running, opened) = paused(&pair, &run);
    let (mut stream, _) = listener.accept().unwrap();
    let mut entity_of = |agent: &Agent| {
        stream.write_all(&[0; 4000]).unwrap();
        let seen = agent.expect(DEADLINE, "the flow", |event| is_reported(event, &opened));
        assert_eq!(seen.pid(), opened.pid, "{seen}");
        seen.text("process.entity_id").to_owned()
    };
    let before = entity_of(&first);
    drop(first);
    assert_eq!(entity_of(&late_agent()), before);
    drop(stream);
    running.finish().unwrap();
}

#[test]
fn listeners_and_bound_sockets_are_known() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let (tcp, udp) = (SocketAddr::from((pair.near.v4, 8080)), SocketAddr::from((pair.near.v4, 8053)));
    let (workers, _) = paused(&pair, &format!("prefork --listen {tcp} --workers 1"));
    let (echo, _) = paused(&pair, &format!("echo --listen {udp} --count 2"));
    let agent = late_agent();
    Traffic::new(&pair.far.namespace, &format!("tcp --to {tcp}")).run().unwrap();
    Traffic::new(&pair.far.namespace, &format!("udp --to {udp} --count 2 --echo --connected")).run().unwrap();
    for served in [workers.finish().unwrap().pop().unwrap(), echo.finish().unwrap().pop().unwrap()] {
        let (source, destination) = (served.remote.unwrap(), served.local.unwrap());
        let end = agent.expect(DEADLINE, &format!("flow of {served:?}"), |event| {
            event.is_flow_end() && Side::Acceptor.is_of(event) && joins(event, source, destination)
        });
        assert_eq!((end.pid(), end.text("process.executable")), (served.pid, served.executable.as_str()), "{end}");
    }
}
