//! Detectors, driven through the kernel by programs that do what each looks for, to the alert in the events, in the
//! store and at a webhook.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use crate::resolver::{WILDCARD, asking, resolver};
use pktscope_tests::{
    agent::{Agent, AgentOptions},
    event::Event,
    flow::end_of,
    machine::{copy_program, missing_privilege, missing_program, output_of},
    namespace::Pair,
    server::{TcpServer, UdpServer, Webhook},
    skip_if,
    traffic::{Traffic, built},
    wait::wait_until,
};
use tempfile::TempDir;

/// Detectors that judge windows do so when a minute is over.
const ALERT_DEADLINE: Duration = Duration::from_secs(90);

/// An address outside of private and reserved space; nothing leaves the pair's namespaces.
const PUBLIC: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(45, 33, 32, 156));

/// An agent that is active from the start and posts its alerts.
struct Watch {
    agent: Agent,
    webhook: Webhook,
}

static WATCH: LazyLock<Watch> = LazyLock::new(|| {
    let webhook = Webhook::start().unwrap();
    let config = format!("[sink.webhook]\nurl = \"{}\"\n[detect]\nprogram_learning_window = \"0s\"\n", webhook.url);
    let options = AgentOptions::new().unwrap().config(&config).unwrap().flag("--learning-window", "0s");
    Watch { agent: Agent::start_shared(options), webhook }
});

/// A pair whose far end also has a public address.
fn pair() -> Pair {
    LazyLock::force(&WATCH);
    let pair = Pair::new().unwrap();
    pair.far.add_address(PUBLIC).unwrap();
    pair
}

fn copy(folder: &TempDir, name: &str) -> PathBuf {
    let path = folder.path().join(name);
    copy_program(&built("traffic"), &path);
    path
}

/// Waits for the rule's alert about a program: as an event, in the store and at the webhook.
fn expect_alert(rule: &str, program: &Path) -> Event {
    let what = format!("alert {rule} of {}", program.display());
    let alert = WATCH.agent.expect(ALERT_DEADLINE, &what, |event| {
        event.is_alert(rule) && event.text("process.executable") == program.to_str().unwrap()
    });
    assert!(!alert.text("message").is_empty() && alert.get("pktscope.alert.evidence").is_some(), "{alert}");
    let id = alert.get("pktscope.alert.id").unwrap().to_string();
    let is_it = |line: &str| {
        Event::parse(line)
            .is_ok_and(|event| event.get("pktscope.alert.id").map(ToString::to_string) == Some(id.clone()))
    };
    let stored = wait_until(ALERT_DEADLINE, || {
        let listed = output_of(&mut WATCH.agent.command(["alerts", "--json", "--limit", "100000"]));
        listed.lines().any(is_it).then_some(())
    });
    assert!(stored.is_some(), "{what} is in the store");
    let posted = wait_until(ALERT_DEADLINE, || WATCH.webhook.bodies().iter().any(|body| is_it(body)).then_some(()));
    assert!(posted.is_some(), "{what} was posted: {:?}", WATCH.webhook.bodies());
    alert
}

/// How many alerts a rule has raised about a program.
fn count(rule: &str, program: &Path) -> usize {
    let is_it = |event: &Event| event.is_alert(rule) && event.text("process.executable") == program.to_str().unwrap();
    WATCH.agent.events(is_it).len()
}

#[test]
fn a_scan_raises_one_alert_and_not_one_for_each_port() {
    skip_if!(missing_privilege());
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let program = copy(&folder, "scanner");
    Traffic::of(&program, &pair.near.namespace, &format!("scan --to {PUBLIC} --ports 200")).run().unwrap();
    expect_alert("port_scan", &program);
    assert_eq!(count("port_scan", &program), 1);
    assert!(count("new_process_dest", &program) <= 1, "one cause, one alert");
}

#[test]
fn a_large_upload_to_a_stranger_is_a_spike() {
    skip_if!(missing_privilege());
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let program = copy(&folder, "uploader");
    let server = TcpServer::start(&pair.far.namespace, PUBLIC, 10).unwrap();
    Traffic::of(&program, &pair.near.namespace, &format!("tcp --to {} --bytes 30000000", server.addr)).run().unwrap();
    let alert = expect_alert("volume_spike", &program);
    assert_eq!(alert.addr("destination.ip"), Some(PUBLIC), "{alert}");
}

#[test]
fn a_swapped_binary_changes_its_identity() {
    skip_if!(missing_privilege());
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let program = copy(&folder, "swapped");
    let server = UdpServer::start(&pair.far.namespace, PUBLIC, false).unwrap();
    let send = || {
        // Held open until its hash is told.
        let run = format!("udp --to {} --linger", server.addr);
        let mut running = Traffic::of(&program, &pair.near.namespace, &run).start().unwrap();
        let sent = running.report().unwrap();
        WATCH.agent.expect(ALERT_DEADLINE, "the hash", |event| {
            event.pid() == sent.pid && event.get("process.hash.sha256").is_some()
        });
        running.finish().unwrap();
        end_of(&WATCH.agent, &sent)
    };
    send();
    let mut image = fs::read(&program).unwrap();
    image.extend(b"another program");
    fs::remove_file(&program).unwrap();
    fs::write(&program, image).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    send();
    expect_alert("identity_change", &program);
}

/// Asks for names that carry data, through the system's resolver.
const TUNNEL: &str = "
import hashlib, socket, sys
for number in range(150):
    label = hashlib.sha256(str(number).encode()).hexdigest()[:50]
    try:
        socket.gethostbyname(label + '.' + sys.argv[1])
    except OSError:
        pass
";

#[test]
fn a_dns_tunnel_through_a_real_resolver_is_found() {
    skip_if!(missing_privilege());
    for program in ["dnsmasq", "python3", "unshare"] {
        skip_if!(missing_program(program));
    }
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let _resolver = resolver(&pair.far);
    let script = folder.path().join("tunnel.py");
    fs::write(&script, TUNNEL).unwrap();
    let mut python = asking(&pair, folder.path(), "python3");
    output_of(python.arg(&script).arg(WILDCARD));
    let interpreter =
        output_of(Command::new("python3").args(["-c", "import os; print(os.path.realpath('/proc/self/exe'))"]));
    let alert = expect_alert("dns_tunnel", Path::new(interpreter.trim()));
    assert!(alert.to_string().contains(WILDCARD), "{alert}");
}

#[test]
fn a_burst_of_bandwidth_is_told() {
    skip_if!(missing_privilege());
    // A tenth of what is sent, since a busy machine sends more slowly.
    let config = "[detect.bandwidth]\nbytes_per_second = 140000\n";
    let pair = Pair::new().unwrap();
    let options = AgentOptions::new().unwrap().config(config).unwrap().flag("--learning-window", "0s");
    let agent = options.inside(&pair.near.namespace).start().unwrap();
    let server = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap();
    let run = format!("udp --to {} --bytes 1400 --count 8000 --gap 1", server.addr);
    Traffic::new(&pair.near.namespace, &run).run().unwrap();
    let alert = agent.expect(ALERT_DEADLINE, "alert of bandwidth", |event| event.is_alert("bandwidth"));
    assert!(alert.number("pktscope.alert.evidence.bytes_per_second") > 140_000, "{alert}");
}

#[test]
fn a_beacon_is_found() {
    skip_if!(missing_privilege());
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let program = copy(&folder, "beacon");
    // Of its own: what several programs contact is less suspicious.
    let called = IpAddr::from([45, 33, 32, 99]);
    pair.far.add_address(called).unwrap();
    let server = TcpServer::start(&pair.far.namespace, called, 50).unwrap();
    let run = format!("tcp --to {} --times 16 --gap 1500", server.addr);
    Traffic::of(&program, &pair.near.namespace, &run).run().unwrap();
    let alert = expect_alert("beaconing", &program);
    assert_eq!(alert.addr("destination.ip"), Some(called), "{alert}");
    assert_eq!(count("beaconing", &program), 1);
}
