//! Starting, stopping, being killed, being refused.

use std::{fs, os::unix::fs::PermissionsExt, process::Command, time::Duration};

use pktscope_tests::{
    agent::{self, Agent, AgentOptions},
    event::Event,
    flow::{DEADLINE, end_of, is_reported},
    machine::{copy_program, missing_privilege, missing_program, output_of},
    namespace::Pair,
    server::TcpServer,
    skip_if,
    traffic::{Report, Traffic},
    wait::{timed, wait_until},
};
use tempfile::TempDir;

/// What INTERFACE promises for SIGTERM.
const STOP_PROMISE: Duration = Duration::from_secs(5);
/// Loading and attaching every program, on a machine that is busy with other tests.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// A refused agent ends by itself.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(20);

struct Net {
    pair: Pair,
    server: TcpServer,
}

impl Net {
    fn new() -> Self {
        let pair = Pair::new().unwrap();
        let server = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 100).unwrap();
        Self { pair, server }
    }

    fn traffic(&self, more: &str) -> Traffic {
        Traffic::new(&self.pair.near.namespace, &format!("tcp --to {} {more}", self.server.addr))
    }
}

#[test]
fn sigterm_reports_open_flows_and_ends_well() {
    skip_if!(missing_privilege());
    let (agent, net) = (Agent::start().unwrap(), Net::new());
    let mut open = net.traffic("--bytes 5000 --linger").start().unwrap();
    let sent = open.report().unwrap();
    agent.expect(DEADLINE, "the open flow", |event| is_reported(event, &sent) && event.has_action("flow_started"));
    let (status, took) = timed(|| agent.stop());
    assert_eq!(status.code(), Some(0), "{}", agent.log());
    assert!(took < STOP_PROMISE, "took {took:?}");
    let end = end_of(&agent, &sent);
    assert_eq!(end.text("event.reason"), "forced_end");
    let counted = net.pair.near.counters();
    assert_eq!(
        (end.number("source.bytes"), end.number("destination.bytes")),
        (counted.sent_bytes, counted.received_bytes)
    );
    let ledger = agent.events(|event| event.is("ledger"));
    assert!(!ledger.is_empty(), "the ledger is closed at exit");
    assert_stored(&agent, &sent);
}

#[test]
fn a_duration_ends_the_agent_by_itself() {
    skip_if!(missing_privilege());
    let agent = AgentOptions::new().unwrap().flag("--duration", "1s").start().unwrap();
    assert_eq!(agent.wait_end(REFUSAL_DEADLINE).and_then(|status| status.code()), Some(0), "{}", agent.log());
}

fn assert_stored(agent: &Agent, report: &Report) {
    let port = report.local.unwrap().port();
    let listed = output_of(&mut agent.command(["flows", "--json", "--limit", "100000"]));
    let flows = listed.lines().map(|line| Event::parse(line).unwrap());
    let found = flows.into_iter().any(|flow| flow.number("source.port") == u64::from(port));
    assert!(found, "port {port} is in the store: {listed}");
}

#[test]
fn a_second_agent_on_the_same_state_is_refused() {
    skip_if!(missing_privilege());
    let first = Agent::start().unwrap();
    let second = AgentOptions::new().unwrap().state_dir(first.state_dir()).spawn().unwrap();
    let status = second.wait_end(REFUSAL_DEADLINE).expect("it ends by itself");
    assert_eq!(status.code(), Some(4), "{}", second.log());
    assert!(second.log().contains(first.state_dir().to_str().unwrap()), "{}", second.log());
    assert!(first.wait_end(Duration::ZERO).is_none(), "the first one runs on");
}

#[test]
fn a_killed_agent_s_store_is_whole_and_starts_again() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("python3"));
    let (agent, net) = (Agent::start().unwrap(), Net::new());
    let first = net.traffic("").run().unwrap();
    end_of(&agent, &first);
    // The batch interval is 1 s: what was told before this flow was told is stored by the time this one is.
    let in_store = wait_until(DEADLINE, || {
        let listed = output_of(&mut agent.command(["flows", "--json", "--limit", "1000"]));
        listed.contains(&format!("\"port\":{}", first.local.unwrap().port())).then_some(())
    });
    assert!(in_store.is_some(), "a flow is in the store");
    let mut open = net.traffic("--linger").start().unwrap();
    open.report().unwrap();
    agent.kill();
    let integrity =
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('PRAGMA integrity_check').fetchone()[0])";
    let file = agent.state_dir().join("pktscope.db");
    assert_eq!(output_of(Command::new("python3").args(["-c", integrity]).arg(&file)).trim(), "ok");
    assert_stored(&agent, &first);
    let again = AgentOptions::new().unwrap().state_dir(agent.state_dir()).start().unwrap();
    let second = net.traffic("").run().unwrap();
    end_of(&again, &second);
    assert_eq!(again.stop().code(), Some(0), "{}", again.log());
    assert_stored(&agent, &first);
    assert_stored(&agent, &second);
}

#[test]
fn sighup_reopens_the_events_file() {
    skip_if!(missing_privilege());
    let (agent, net) = (Agent::start().unwrap(), Net::new());
    let first = net.traffic("").run().unwrap();
    end_of(&agent, &first);
    let rotated = agent.events_file().with_extension("1");
    fs::rename(agent.events_file(), &rotated).unwrap();
    agent.signal(libc::SIGHUP);
    wait_until(DEADLINE, || agent.events_file().exists().then_some(())).expect("the file is made again");
    let second = net.traffic("").run().unwrap();
    let port = format!("\"port\":{}", second.local.unwrap().port());
    let read = || fs::read_to_string(agent.events_file()).unwrap_or_default();
    wait_until(DEADLINE, || read().contains(&port).then_some(())).expect("new events go to the new file");
    assert!(!fs::read_to_string(&rotated).unwrap().contains(&port));
}

#[test]
fn a_bad_configuration_is_reported_and_the_old_one_stays() {
    skip_if!(missing_privilege());
    let agent = AgentOptions::new().unwrap().config("[flow]\nupdate_interval = \"60s\"\n").unwrap().start().unwrap();
    fs::write(agent.config_file(), "[flow]\nupdate_intervall = \"no\"\n").unwrap();
    agent.signal(libc::SIGHUP);
    let said = wait_until(DEADLINE, || agent.log().contains("update_intervall").then_some(()));
    assert!(said.is_some(), "the mistake is named: {}", agent.log());
    let net = Net::new();
    let report = net.traffic("").run().unwrap();
    end_of(&agent, &report);
}

/// An agent that has attached everything and has not said yet that it is ready; its configuration is bad by now.
fn agent_before_ready() -> Agent {
    let options = AgentOptions::new().unwrap().config("").unwrap();
    let agent = options.held_at_ready().spawn().unwrap();
    let socket = agent.runtime_dir().join("pktscope.sock");
    let attached = wait_until(START_DEADLINE, || socket.exists().then_some(()));
    assert!(attached.is_some(), "it starts: {}", agent.log());
    fs::write(agent.config_file(), "[flow]\nupdate_intervall = \"no\"\n").unwrap();
    agent
}

#[test]
fn a_reload_asked_for_before_it_is_ready_is_kept_and_does_not_end_it() {
    skip_if!(missing_privilege());
    let agent = agent_before_ready();
    agent.signal(libc::SIGHUP);
    let _ready = agent.let_go().unwrap();
    let said = wait_until(DEADLINE, || agent.log().contains("update_intervall").then_some(()));
    assert!(said.is_some(), "the mistake is named: {}", agent.log());
    assert_eq!(agent.stop().code(), Some(0), "{}", agent.log());
}

#[test]
fn a_stop_asked_for_before_it_is_ready_is_kept() {
    skip_if!(missing_privilege());
    let agent = agent_before_ready();
    agent.signal(libc::SIGTERM);
    let _ready = agent.let_go().unwrap();
    assert_eq!(agent.wait_end(STOP_PROMISE).and_then(|status| status.code()), Some(0), "{}", agent.log());
}

#[test]
fn a_bad_configuration_at_the_start_is_refused_with_every_mistake() {
    skip_if!(missing_privilege());
    let bad = "[flow]\nupdate_interval = \"soon\"\n[nonsense]\na = 1\n";
    let agent = AgentOptions::new().unwrap().config(bad).unwrap().spawn().unwrap();
    let status = agent.wait_end(REFUSAL_DEADLINE).expect("it ends by itself");
    assert_eq!(status.code(), Some(2), "{}", agent.log());
    let log = agent.log();
    assert!(log.contains("update_interval") && log.contains("nonsense"), "{log}");
}

/// Runs the agent through a shell that first takes something away.
fn run_without(prepare: &str) -> (Option<i32>, String) {
    let folder = TempDir::new().unwrap();
    // Unprivileged users may not be let into the build folder.
    let program = folder.path().join("pktscope");
    copy_program(&agent::binary(), &program);
    for path in [folder.path(), program.as_path()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let run = format!(
        "{prepare} {} run --duration 1s --state-dir {dir}/state --runtime-dir {dir}/runtime",
        program.display(),
        dir = folder.path().display()
    );
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &run]).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn without_root_the_refusal_says_what_to_do() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("setpriv"));
    let (code, said) = run_without("setpriv --reuid=65534 --regid=65534 --clear-groups");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("root") || said.contains("CAP_"), "{said}");
}

#[test]
fn in_a_pid_namespace_of_its_own_the_refusal_says_what_to_do() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("unshare"));
    let (code, said) = run_without("unshare --pid --fork --mount-proc");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("pid namespace"), "{said}");
}

#[test]
fn without_btf_the_refusal_says_so() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("unshare"));
    let (code, said) = run_without("mount -t tmpfs none /sys/kernel/btf;");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("BTF"), "{said}");
}

/// Takes every cgroup2 mount away that the shell sees as its own.
const UNMOUNT_CGROUP2: &str = "awk '$3 == \"cgroup2\" { print $2 }' /proc/self/mounts | xargs -r -n 1 umount -l &&";

#[test]
fn without_cgroup2_the_refusal_says_so() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("unshare"));
    // The first process's mounts are as good as its own, where they can be reached.
    let (code, said) = run_without(&format!("{UNMOUNT_CGROUP2} mount -t tmpfs none /proc/1 &&"));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("cgroup"), "{said}");
}

#[test]
fn where_its_own_mounts_have_no_cgroup2_it_takes_the_first_process_s() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("unshare"));
    skip_if!(fs::read_dir("/proc/1/root").err().map(|reason| format!("the first process's root is closed: {reason}")));
    let (code, said) = run_without(UNMOUNT_CGROUP2);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn doctor_says_what_this_machine_can_do_and_leaves_nothing_attached() {
    skip_if!(missing_privilege());
    let text = output_of(&mut agent::pktscope(["doctor"]));
    assert!(text.contains("/sys/kernel/btf/vmlinux") && text.contains("cgroup"), "{text}");
    let json = output_of(&mut agent::pktscope(["doctor", "--json"]));
    for line in json.lines() {
        Event::parse(line).unwrap();
    }
    assert!(json.contains("egress"), "{json}");
}
