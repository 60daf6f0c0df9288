//! Whose a flow is, checked against what the processes themselves say.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf};

use crate::standing::{AGENT, pair};
use pktscope_tests::{
    event::Event,
    flow::{self, DEADLINE, Side, end_of},
    machine::{copy_program, missing_privilege, missing_program},
    namespace::Pair,
    server::{TcpServer, UdpServer},
    skip_if,
    traffic::{Report, Traffic, built},
};
use tempfile::TempDir;

/// A pair and a TCP server on its far end.
fn with_server() -> (Pair, TcpServer) {
    let pair = pair();
    let server = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 100).unwrap();
    (pair, server)
}

/// A copy of the generator under another name.
fn copy(folder: &TempDir, name: &str) -> PathBuf {
    let path = folder.path().join(name);
    copy_program(&built("traffic"), &path);
    path
}

fn expect_owner(end: &Event, report: &Report) {
    assert_eq!(end.text("pktscope.attribution.status"), "process", "{end}");
    assert_eq!(end.pid(), report.pid, "{end}");
    assert_eq!(end.text("process.executable"), report.executable, "{end}");
    assert_eq!(end.text("process.name"), report.comm, "{end}");
    assert_eq!(end.number("process.parent.pid"), u64::from(report.parent), "{end}");
    assert_eq!(end.text("user.id"), report.uid.to_string(), "{end}");
}

#[test]
fn a_client_is_named_in_full() {
    skip_if!(missing_privilege());
    let (pair, server) = with_server();
    let arguments = format!("tcp --to {}", server.addr);
    let report = Traffic::new(&pair.near.namespace, &arguments).run().unwrap();
    let end = end_of(&AGENT, &report);
    expect_owner(&end, &report);
    assert_eq!(end.text("user.name"), "root");
    assert_eq!(end.text("process.command_line"), format!("{} {arguments}", built("traffic").display()));
    assert_eq!(end.text("process.parent.executable"), std::env::current_exe().unwrap().to_str().unwrap());
    assert!(!end.text("process.entity_id").is_empty() && !end.text("process.start").is_empty(), "{end}");
}

#[test]
fn another_user_is_named() {
    skip_if!(missing_privilege());
    let (pair, server) = with_server();
    let report = Traffic::new(&pair.near.namespace, &format!("--user 65534 tcp --to {}", server.addr)).run().unwrap();
    let end = end_of(&AGENT, &report);
    expect_owner(&end, &report);
    assert_eq!((end.text("user.id"), end.text("user.name")), ("65534", "nobody"));
}

#[test]
fn a_socket_inherited_over_fork_is_its_sender_s() {
    skip_if!(missing_privilege());
    let (pair, server) = with_server();
    let run = format!("handover --how inherit --to {}", server.addr);
    let reports = Traffic::new(&pair.near.namespace, &run).run_all().unwrap();
    expect_handover(&reports);
}

#[test]
fn a_passed_socket_is_its_sender_s() {
    skip_if!(missing_privilege());
    let (pair, server) = with_server();
    let run = format!("handover --how pass --to {}", server.addr);
    let reports = Traffic::new(&pair.near.namespace, &run).run_all().unwrap();
    expect_handover(&reports);
}

fn expect_handover(reports: &[Report]) {
    let [creator, sender] = reports else { panic!("{reports:?}") };
    let end = end_of(&AGENT, sender);
    assert_eq!(end.pid(), sender.pid, "the sender owns it: {end}");
    assert_eq!(end.number("pktscope.attribution.creator_pid"), u64::from(creator.pid), "{end}");
    assert_eq!(end.text("process.executable"), sender.executable);
}

#[test]
fn a_shared_socket_names_the_last_sender_and_the_creator() {
    skip_if!(missing_privilege());
    let (pair, server) = with_server();
    let run = format!("handover --how share --pause --to {}", server.addr);
    let mut running = Traffic::new(&pair.near.namespace, &run).start().unwrap();
    let child = running.report().unwrap();
    let seen = AGENT.expect(DEADLINE, "the child as the sender", |event| {
        flow::is_reported(event, &child) && event.pid() == child.pid
    });
    assert_ne!(seen.number("pktscope.attribution.creator_pid"), 0, "{seen}");
    running.go_on().unwrap();
    let parent = running.finish().unwrap().pop().unwrap();
    assert_eq!(end_of(&AGENT, &parent).pid(), parent.pid);
}

#[test]
fn an_activated_program_owns_what_it_accepts() {
    skip_if!(missing_privilege());
    let pair = pair();
    let folder = TempDir::new().unwrap();
    let program = copy(&folder, "activated-server");
    let listen = SocketAddr::from((pair.near.v4, 8080));
    let run = format!("activate --listen {listen} --program {}", program.display());
    let mut serving = Traffic::new(&pair.near.namespace, &run).start().unwrap();
    serving.report().unwrap();
    Traffic::new(&pair.far.namespace, &format!("tcp --to {listen}")).run().unwrap();
    let served = serving.finish().unwrap().pop().unwrap();
    let end = expect_accepted(&served);
    assert_eq!(end.text("process.executable"), program.to_str().unwrap(), "{end}");
}

/// A server whose workers each take one connection, and a client for each: the process that listens, and the workers.
/// The pair is to outlive what is looked for.
fn prefork(workers: usize, flags: &str, client_flags: &str) -> (Pair, Report, Vec<Report>) {
    let pair = pair();
    let listen = SocketAddr::from((pair.near.v4, 8080));
    let run = format!("prefork --listen {listen} --workers {workers} {flags}");
    let mut serving = Traffic::new(&pair.near.namespace, &run).start().unwrap();
    let listener = serving.report().unwrap();
    for _ in 0..workers {
        Traffic::new(&pair.far.namespace, &format!("tcp --to {listen} {client_flags}")).run().unwrap();
    }
    let served = serving.finish().unwrap();
    assert_eq!(served.len(), workers);
    (pair, listener, served)
}

#[test]
fn each_pre_forked_worker_owns_what_it_serves() {
    skip_if!(missing_privilege());
    let (_pair, listener, served) = prefork(3, "", "");
    for worker in &served {
        let end = expect_accepted(worker);
        assert_eq!(end.number("pktscope.attribution.creator_pid"), u64::from(listener.pid), "{end}");
    }
}

#[test]
fn a_worker_that_only_receives_owns_what_it_accepts() {
    skip_if!(missing_privilege());
    let (_pair, listener, served) = prefork(2, "--reply 0", "--bytes 3000");
    for worker in &served {
        assert_eq!((worker.sent_bytes, worker.received_bytes), (0, 3000));
        let end = expect_accepted(worker);
        assert_eq!(end.text("pktscope.attribution.method"), "accept", "{end}");
        assert_eq!(end.number("pktscope.attribution.creator_pid"), u64::from(listener.pid), "{end}");
    }
}

#[test]
fn a_worker_that_never_asks_for_an_address_owns_what_it_accepts() {
    skip_if!(missing_privilege());
    let pair = pair();
    let listen = SocketAddr::from((pair.near.v4, 8080));
    let run = format!("prefork --listen {listen} --workers 1 --blind");
    let mut serving = Traffic::new(&pair.near.namespace, &run).start().unwrap();
    let listener = serving.report().unwrap();
    let client = Traffic::new(&pair.far.namespace, &format!("tcp --to {listen} --bytes 3000")).run().unwrap();
    let worker = serving.finish().unwrap().pop().unwrap();
    assert_eq!(worker.received_bytes, 3000);
    let end = AGENT.expect(DEADLINE, "the worker's flow", |event| {
        event.is_flow_end() && Side::Acceptor.is_of(event) && flow::joins(event, client.local.unwrap(), listen)
    });
    assert_eq!(end.pid(), worker.pid, "{end}");
    assert_eq!(end.text("pktscope.attribution.method"), "close", "{end}");
    assert_eq!(end.number("pktscope.attribution.creator_pid"), u64::from(listener.pid), "{end}");
}

/// Waits for the end of a flow that a server reports having served.
fn expect_accepted(served: &Report) -> Event {
    let (source, destination) = (served.remote.unwrap(), served.local.unwrap());
    let what = format!("flow of {served:?}");
    let end = AGENT.expect(DEADLINE, &what, |event| {
        event.is_flow_end() && Side::Acceptor.is_of(event) && flow::joins(event, source, destination)
    });
    assert_eq!(end.pid(), served.pid, "{served:?}: {end}");
    end
}

#[test]
fn a_datagram_server_owns_its_answers() {
    skip_if!(missing_privilege());
    let pair = pair();
    let listen = SocketAddr::from((pair.near.v4, 8053));
    let run = format!("echo --listen {listen} --count 3");
    let mut serving = Traffic::new(&pair.near.namespace, &run).start().unwrap();
    serving.report().unwrap();
    let client = format!("udp --to {listen} --count 3 --echo --connected");
    Traffic::new(&pair.far.namespace, &client).run().unwrap();
    let end = expect_accepted(&serving.finish().unwrap().pop().unwrap());
    assert_eq!((end.number("source.packets"), end.number("destination.packets")), (3, 3));
}

#[test]
fn a_thread_s_process_is_named() {
    skip_if!(missing_privilege());
    let (pair, server) = with_server();
    let report = Traffic::new(&pair.near.namespace, &format!("--thread tcp --to {}", server.addr)).run().unwrap();
    expect_owner(&end_of(&AGENT, &report), &report);
}

#[test]
fn a_changed_comm_does_not_hide_the_executable() {
    skip_if!(missing_privilege());
    let (pair, server) = with_server();
    let report = Traffic::new(&pair.near.namespace, &format!("--comm kworker/0:0 tcp --to {}", server.addr));
    let report = report.run().unwrap();
    let end = end_of(&AGENT, &report);
    assert_eq!((end.pid(), end.text("process.executable")), (report.pid, report.executable.as_str()), "{end}");
    assert!(["traffic", "kworker/0:0"].contains(&end.text("process.name")), "{end}");
}

#[test]
fn a_deleted_executable_keeps_its_path_and_hash() {
    skip_if!(missing_privilege());
    let (pair, server) = with_server();
    let folder = TempDir::new().unwrap();
    let program = copy(&folder, "soon-deleted");
    let run = format!("--unlink tcp --to {} --pause", server.addr);
    let mut running = Traffic::of(&program, &pair.near.namespace, &run).start().unwrap();
    let ready = running.report().unwrap();
    assert!(ready.executable.ends_with(" (deleted)"));
    running.go_on().unwrap();
    running.finish().unwrap();
    let end = end_of(&AGENT, &ready);
    assert_eq!(end.pid(), ready.pid);
    assert_eq!(end.text("process.executable").trim_end_matches(" (deleted)"), program.to_str().unwrap(), "{end}");
}

#[test]
fn a_program_run_from_memory_is_named_so() {
    skip_if!(missing_privilege());
    let (pair, server) = with_server();
    let run = format!("--memfd tcp --to {} --linger", server.addr);
    let mut running = Traffic::new(&pair.near.namespace, &run).start().unwrap();
    let sent = running.report().unwrap();
    let told = AGENT.expect(DEADLINE, "the program's flow", |event| flow::is_reported(event, &sent));
    running.finish().unwrap();
    assert_eq!(told.pid(), sent.pid);
    let executable = told.text("process.executable").trim_end_matches(" (deleted)");
    assert_eq!(executable, sent.executable.trim_end_matches(" (deleted)"), "{told}");
}

#[test]
fn a_program_run_from_memory_that_ended_at_once_is_named_so() {
    skip_if!(missing_privilege());
    let (pair, server) = with_server();
    let sent = Traffic::new(&pair.near.namespace, &format!("--memfd tcp --to {}", server.addr)).run().unwrap();
    let told = AGENT.expect(DEADLINE, "the program's flow", |event| flow::is_reported(event, &sent));
    assert_eq!(told.text("process.executable").trim_end_matches(" (deleted)"), "/memfd:traffic-in-memory", "{told}");
}

#[test]
fn an_exec_chain_is_its_last_program() {
    skip_if!(missing_privilege());
    let (pair, server) = with_server();
    let folder = TempDir::new().unwrap();
    let program = copy(&folder, "end-of-chain");
    let script = format!("exec /bin/sh -c 'exec {} tcp --to {}'", program.display(), server.addr);
    let report = Traffic::of("/bin/sh".as_ref(), &pair.near.namespace, "-c").arg(script).run().unwrap();
    expect_owner(&end_of(&AGENT, &report), &report);
    assert_eq!(report.executable, program.to_str().unwrap());
}

#[test]
fn an_interpreter_is_the_executable_and_its_script_is_seen() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("python3"));
    let pair = pair();
    let server = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap();
    let folder = TempDir::new().unwrap();
    let script = folder.path().join("report.py");
    let text = "#!/usr/bin/env python3\nimport json, os, socket, sys\nhost, port = sys.argv[1].rsplit(':', 1)\n\
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.sendto(b'x' * 50, (host, int(port)))\n\
                print(os.getpid(), os.path.realpath('/proc/self/exe'))\n";
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let output = pair.near.namespace.command(&script).arg(server.addr.to_string()).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let (pid, executable) = printed.trim().split_once(' ').unwrap();
    let end = AGENT.expect(DEADLINE, "the script's flow", |event| {
        event.is_flow_end() && event.pid().to_string() == pid && Side::Opener.is_of(event)
    });
    assert_eq!(end.text("process.executable"), executable, "{end}");
    assert!(end.text("process.command_line").contains(script.to_str().unwrap()), "{end}");
    assert_eq!(end.number("source.bytes"), 78);
}

#[test]
fn a_pid_namespace_s_process_has_the_agent_s_pid() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("unshare"));
    let (pair, server) = with_server();
    let run = format!("--pid --fork --mount-proc {} tcp --to {}", built("traffic").display(), server.addr);
    let report = Traffic::of("unshare".as_ref(), &pair.near.namespace, &run).run().unwrap();
    assert_eq!(report.pid, 1, "the first process of its namespace");
    let end = end_of(&AGENT, &report);
    assert_ne!(end.pid(), 1, "{end}");
    assert_eq!(end.text("process.executable"), built("traffic").to_str().unwrap(), "{end}");
}

#[test]
fn a_reused_process_id_is_another_process() {
    skip_if!(missing_privilege());
    let (pair, server) = with_server();
    let folder = TempDir::new().unwrap();
    let mut first = Traffic::new(&pair.near.namespace, &format!("tcp --to {} --pause", server.addr)).start().unwrap();
    let pid = first.report().unwrap().pid;
    first.finish().unwrap();
    let mut entities = Vec::new();
    for name in ["first-life", "second-life"] {
        let run = format!("--as-pid {pid} tcp --to {}", server.addr);
        let report = Traffic::of(&copy(&folder, name), &pair.near.namespace, &run).run().unwrap();
        assert_eq!(report.pid, pid);
        let end = end_of(&AGENT, &report);
        expect_owner(&end, &report);
        entities.push(end.text("process.entity_id").to_owned());
    }
    assert_ne!(entities[0], entities[1]);
}

#[test]
fn equal_connections_of_two_namespaces_are_two_flows() {
    skip_if!(missing_privilege());
    let one = pair();
    let two = one.twin().unwrap();
    let (from, to) = (SocketAddr::from((one.near.v4, 5000)), SocketAddr::from((one.far.v4, 5001)));
    let run = format!("udp --from {from} --to {to} --connected --linger");
    let _servers = [&one, &two].map(|pair| UdpServer::start_on(&pair.far.namespace, to, false).unwrap());
    let start = |pair: &Pair| Traffic::new(&pair.near.namespace, &run).start().unwrap();
    let mut both = [start(&one), start(&two)];
    let sent = both.each_mut().map(|running| running.report().unwrap());
    both.into_iter().for_each(|running| drop(running.finish().unwrap()));
    assert_eq!((sent[0].local, sent[0].remote), (sent[1].local, sent[1].remote));
    for report in &sent {
        let end = AGENT
            .expect(DEADLINE, &format!("flow of {report:?}"), |event| event.is_flow_end() && event.pid() == report.pid);
        assert_eq!((end.number("source.packets"), end.number("source.bytes")), (10, 10 * 128), "{end}");
    }
}
