//! The whole path with real programs: kernel, flows, store, events, alerts.

use std::{
    collections::HashMap,
    fs,
    io::Read,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::standing::{AGENT, pair};
use pktscope_tests::{
    agent::{Agent, AgentOptions},
    event::{Event, Volume},
    flow::{DEADLINE, Side, expect_volume, joins},
    machine::{copy_program, missing_privilege, missing_program, output_of},
    namespace::{FAMILIES, Family, Pair},
    server::{HttpServer, TcpServer, UdpServer},
    skip_if,
    traffic::{Traffic, built},
    wait::timed,
};
use tempfile::TempDir;

/// What the agent promises between a connection's end and its event.
const PROMISED: Duration = Duration::from_secs(2);

fn path_of(program: &str) -> PathBuf {
    let found = output_of(Command::new("sh").args(["-c", &format!("command -v {program}")]));
    fs::canonicalize(found.trim()).unwrap()
}

fn sha256_of(path: &PathBuf) -> String {
    output_of(Command::new("sha256sum").arg(path)).split(' ').next().unwrap().to_owned()
}

#[test]
fn curl_is_seen_within_two_seconds_in_full_and_to_the_byte() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("curl"));
    for family in FAMILIES {
        let pair = pair();
        let server = HttpServer::start(&pair.far.namespace, pair.far.addr(family), 100_000).unwrap();
        let url = format!("http://{}/", server.addr);
        let mut curl = pair.near.namespace.command("curl");
        let child = curl.args(["--silent", "--show-error", "--output", "/dev/null", &url]).spawn().unwrap();
        let pid = child.id();
        assert!(child.wait_with_output().unwrap().status.success());
        let is_of_curl = |event: &Event| event.is("flow") && event.pid() == pid;
        let (_, took) = timed(|| AGENT.expect(DEADLINE, "curl's flow", is_of_curl));
        assert!(took < PROMISED, "told after {took:?}");
        let flow = AGENT.expect(DEADLINE, "its end", |event| event.is_flow_end() && is_of_curl(event));
        expect_curl(&flow, &pair, family, server.addr);
        expect_volume(&AGENT, &pair.near, family, Side::Opener, "curl");
        expect_volume(&AGENT, &pair.far, family, Side::Acceptor, "the server");
    }
}

fn expect_curl(flow: &Event, pair: &Pair, family: Family, server: SocketAddr) {
    let path = path_of("curl");
    assert_eq!(flow.text("process.executable"), path.to_str().unwrap(), "{flow}");
    assert_eq!(flow.text("process.name"), "curl");
    assert_eq!((flow.text("user.id"), flow.text("user.name")), ("0", "root"), "{flow}");
    assert_eq!(flow.number("process.parent.pid"), u64::from(std::process::id()), "{flow}");
    assert_eq!(flow.text("process.parent.executable"), std::env::current_exe().unwrap().to_str().unwrap());
    assert_eq!(flow.endpoint("destination"), Some(server));
    assert_eq!(flow.addr("source.ip"), Some(pair.near.addr(family)));
    assert_eq!(flow.text("network.transport"), "tcp");
    assert_eq!(flow.text("network.type"), if family == Family::V4 { "ipv4" } else { "ipv6" });
    assert_eq!((flow.number("network.iana_number"), flow.text("network.direction")), (6, "egress"));
    assert_eq!(flow.text("event.reason"), "end_of_flow");
    assert_eq!(flow.text("pktscope.conn_state"), "SF", "{flow}");
    assert_eq!(flow.text("pktscope.attribution.status"), "process");
    assert!(flow.text("network.community_id").starts_with("1:"));
}

#[test]
fn a_program_s_hash_is_its_file_s() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("curl"));
    skip_if!(missing_program("sha256sum"));
    let pair = pair();
    let server = HttpServer::start(&pair.far.namespace, pair.far.v4.into(), 10).unwrap();
    let url = format!("http://{}/", server.addr);
    output_of(pair.near.namespace.command("curl").args(["--silent", &url]));
    let told = AGENT.expect(DEADLINE, "curl's hash", |event| {
        event.is("flow") && event.endpoint("destination") == Some(server.addr) && Side::Opener.is_of(event)
            || event.is("process") && event.text("process.name") == "curl" && event.get("process.hash.sha256").is_some()
    });
    let hash = sha256_of(&path_of("curl"));
    let flow = AGENT.expect(DEADLINE, &format!("a process with hash {hash} after {told}"), |event| {
        event.text("process.executable").ends_with("/curl") && event.text("process.hash.sha256") == hash
    });
    assert!(!flow.text("process.hash.sha256").is_empty());
}

#[test]
fn ping_is_seen_and_counted() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("ping"));
    for family in FAMILIES {
        let pair = pair();
        let to = pair.far.addr(family);
        let mut ping = pair.near.namespace.command("ping");
        ping.args(["-n", "-q", "-c", "4", "-i", "0.1", &to.to_string()]).stdout(Stdio::null());
        let child = ping.spawn().unwrap();
        let pid = child.id();
        assert!(child.wait_with_output().unwrap().status.success());
        let flow = AGENT.expect(DEADLINE, "ping's flow", |event| {
            event.is_flow_end()
                && event.pid() == pid
                && event.addr("destination.ip") == Some(to)
                && event.text("network.transport").contains("icmp")
        });
        assert_eq!(flow.text("process.name"), "ping");
        let expected = if family == Family::V4 { 4 * 84 } else { 4 * 104 };
        assert_eq!((flow.number("source.bytes"), flow.number("destination.bytes")), (expected, expected), "{flow}");
        assert_eq!(Volume::from(pair.near.counters()), flow.volume());
        // The far end's kernel answers: there the same echo is the pinger's flow, coming in.
        let from = pair.near.addr(family);
        let answered = AGENT.expect(DEADLINE, "the echo at the far end", |event| {
            event.is("flow")
                && event.addr("source.ip") == Some(from)
                && event.addr("destination.ip") == Some(to)
                && event.text("pktscope.attribution.status") == "kernel"
        });
        assert_eq!(answered.text("network.direction"), "ingress", "{answered}");
        let is_reply = |event: &Event| matches!(event.number("pktscope.icmp.type"), 0 | 129);
        let is_turned = |event: &Event| event.is("flow") && event.addr("source.ip") == Some(to) && is_reply(event);
        let turned = AGENT.events(|event| is_turned(event) && event.text("network.transport").contains("icmp"));
        assert!(turned.is_empty(), "{turned:?}");
    }
}

#[test]
fn a_python_script_s_requests_are_counted() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("python3"));
    for family in FAMILIES {
        let pair = pair();
        let server = HttpServer::start(&pair.far.namespace, pair.far.addr(family), 50_000).unwrap();
        let folder = TempDir::new().unwrap();
        let script = folder.path().join("fetch.py");
        fs::write(
            &script,
            "import os, sys, urllib.request\nurllib.request.urlopen(sys.argv[1]).read()\nprint(os.getpid())\n",
        )
        .unwrap();
        let mut python = pair.near.namespace.command("python3");
        let pid = output_of(python.arg(&script).arg(format!("http://{}/", server.addr)));
        let flow = AGENT.expect(DEADLINE, "the script's flow", |event| {
            event.is_flow_end()
                && event.pid().to_string() == pid.trim()
                && event.endpoint("destination") == Some(server.addr)
        });
        assert!(flow.text("process.command_line").contains("fetch.py"), "{flow}");
        expect_volume(&AGENT, &pair.near, family, Side::Opener, "python");
    }
}

/// Processes and distinct executables of the short-lived test.
const PROCESSES: usize = 1000;
const EXECUTABLES: usize = 50;

#[test]
fn a_thousand_processes_of_a_millisecond_are_all_named() {
    skip_if!(missing_privilege());
    let pair = pair();
    let folder = TempDir::new().unwrap();
    let programs: Vec<PathBuf> = (0..EXECUTABLES).map(|number| copy_of_brief(&folder, number)).collect();
    let listener = pair.far.namespace.run(|| TcpListener::bind((pair.far.v4, 0))).unwrap();
    let server = listener.local_addr().unwrap();
    let (sender, heard) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().take(PROCESSES) {
            let (mut stream, mut text) = (stream.unwrap(), String::new());
            stream.read_to_string(&mut text).unwrap();
            sender.send((stream.peer_addr().unwrap(), text.parse::<u32>().unwrap())).unwrap();
        }
    });
    // By process too: a slow machine takes so long that the kernel gives ports out again.
    let mut truth: HashMap<(SocketAddr, u32), &PathBuf> = HashMap::new();
    for program in programs.iter().cycle().take(PROCESSES) {
        // Started from a thread inside, without a fork of this process, which takes longer than the program lives.
        let status = pair.near.namespace.run(|| Command::new(program).arg(server.to_string()).status());
        assert!(status.unwrap().success());
        let (from, pid) = heard.recv_timeout(DEADLINE).unwrap();
        truth.insert((from, pid), program);
    }
    let is_ours = |event: &Event| {
        event.is_flow_end() && Side::Opener.is_of(event) && event.endpoint("destination") == Some(server)
    };
    let ends = AGENT.expect_count(DEADLINE, PROCESSES, is_ours);
    for end in &ends {
        let program = truth.remove(&(end.endpoint("source").unwrap(), end.pid()));
        let program = program.unwrap_or_else(|| panic!("no process of that id connected from there: {end}"));
        assert_eq!(end.text("process.executable"), program.to_str().unwrap(), "{end}");
    }
    assert_eq!(ends.len(), PROCESSES);
}

fn copy_of_brief(folder: &TempDir, number: usize) -> PathBuf {
    let path = folder.path().join(format!("brief-{number}"));
    copy_program(&built("brief"), &path);
    path
}

#[test]
fn a_new_program_and_a_new_destination_each_raise_one_alert() {
    skip_if!(missing_privilege());
    // A new program would else learn its destinations for a day.
    let options = AgentOptions::new().unwrap().config("[detect]\nprogram_learning_window = \"0s\"\n").unwrap();
    let agent = options.flag("--learning-window", "0s").start().unwrap();
    let pair = Pair::new().unwrap();
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("never-seen-before");
    copy_program(&built("traffic"), &program);
    let first = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap();
    Traffic::of(&program, &pair.near.namespace, &format!("udp --to {} --bytes 10", first.addr)).run().unwrap();
    let is_of_it = |event: &Event| event.text("process.executable") == program.to_str().unwrap();
    let alert = agent
        .expect(DEADLINE, "alert of a new program", |event| event.is_alert("new_process_egress") && is_of_it(event));
    assert_eq!(alert.text("event.kind"), "alert");
    assert!(!alert.text("message").is_empty() && alert.get("pktscope.alert.evidence").is_some(), "{alert}");
    let second = TcpServer::start(&pair.far.namespace, pair.far.v6.into(), 10).unwrap();
    Traffic::of(&program, &pair.near.namespace, &format!("tcp --to {}", second.addr)).run().unwrap();
    let alert = agent
        .expect(DEADLINE, "alert of a new destination", |event| event.is_alert("new_process_dest") && is_of_it(event));
    assert_eq!(alert.addr("destination.ip"), Some(pair.far.v6.into()), "{alert}");
    expect_stored(&agent, &alert);
    let raised = agent.events(|event| event.is("alert") && is_of_it(event));
    assert_eq!(raised.len(), 2, "one cause, one alert: {raised:?}");
}

fn expect_stored(agent: &Agent, alert: &Event) {
    let id = alert.get("pktscope.alert.id").unwrap().to_string();
    let stored = pktscope_tests::wait::wait_until(DEADLINE, || {
        let listed = output_of(&mut agent.command(["alerts", "--json"]));
        listed.lines().any(|line| line.contains(id.trim_matches('"'))).then_some(())
    });
    assert!(stored.is_some(), "alert {id} is in the store");
}

#[test]
fn reading_commands_show_what_was_seen() {
    skip_if!(missing_privilege());
    let pair = pair();
    let server = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 10).unwrap();
    let report = Traffic::new(&pair.near.namespace, &format!("tcp --to {}", server.addr)).run().unwrap();
    let end = pktscope_tests::flow::end_of(&AGENT, &report);
    for command in ["flows", "processes", "destinations"] {
        let shown = pktscope_tests::wait::wait_until(DEADLINE, || {
            let text = output_of(&mut AGENT.command([command, "--json", "--limit", "100000"]));
            let key = if command == "processes" { report.executable.clone() } else { pair.far.v4.to_string() };
            text.lines().any(|line| line.contains(&key)).then_some(())
        });
        assert!(shown.is_some(), "{command} shows {end}");
    }
    let status = output_of(&mut AGENT.command(["status", "--json"]));
    Event::parse(status.lines().next().unwrap()).unwrap();
    assert!(joins(&end, report.local.unwrap(), report.remote.unwrap()));
}

#[test]
fn a_recording_gives_the_alerts_of_its_live_run() {
    skip_if!(missing_privilege());
    let (agent, pair, folder) = (Agent::start().unwrap(), Pair::new().unwrap(), TempDir::new().unwrap());
    let server = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap();
    for name in ["one", "two"] {
        let program = folder.path().join(name);
        copy_program(&built("traffic"), &program);
        Traffic::of(&program, &pair.near.namespace, &format!("udp --to {}", server.addr)).run().unwrap();
        agent.expect(DEADLINE, "its alert", |event| {
            event.is("alert") && event.text("process.executable") == program.to_str().unwrap()
        });
    }
    assert_eq!(agent.stop().code(), Some(0));
    let mut replay = pktscope_tests::agent::pktscope(["replay", "--json", "--learning-window", "0s"]);
    let replayed = output_of(replay.arg(agent.events_file()));
    let key = |alert: &Event| (alert.text("rule.id").to_owned(), alert.text("pktscope.alert.dedup_key").to_owned());
    let live: Vec<_> = agent.events(|event| event.is("alert")).iter().map(key).collect();
    let again: Vec<_> = replayed.lines().map(|line| key(&Event::parse(line).unwrap())).collect();
    assert!(live.len() >= 2, "{live:?}");
    assert_eq!(again, live);
}
