//! Detectors, driven through the kernel by programs that do what each looks for, to the alert in the events, in the
//! store and at a webhook.

use std::{fs, net::IpAddr, path::PathBuf, process::Command, sync::LazyLock};

use crate::{
    resolver::{WILDCARD, asking, resolver},
    watch::{ALERT_DEADLINE, Watch},
};
use pktscope_tests::{
    agent::Agent,
    flow::end_of,
    machine::{copy_program, missing_privilege, missing_program, output_of},
    namespace::Pair,
    server::{TcpServer, UdpServer, Webhook},
    skip_if,
    traffic::{Traffic, built},
};
use tempfile::TempDir;

/// An address outside of private and reserved space; nothing leaves the pair's namespaces.
const PUBLIC: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(45, 33, 32, 156));

static WATCH: LazyLock<Watch> = LazyLock::new(|| {
    let webhook = Webhook::start().unwrap();
    Watch { agent: Agent::start_shared(Watch::options(&webhook, "")), webhook }
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

#[test]
fn a_scan_raises_one_alert_and_not_one_for_each_port() {
    skip_if!(missing_privilege());
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let program = copy(&folder, "scanner");
    Traffic::of(&program, &pair.near.namespace, &format!("scan --to {PUBLIC} --ports 200")).run().unwrap();
    WATCH.expect_of("port_scan", &program);
    assert_eq!(WATCH.count("port_scan", &program), 1);
    assert!(WATCH.count("new_process_dest", &program) <= 1, "one cause, one alert");
}

#[test]
fn a_large_upload_to_a_stranger_is_a_spike() {
    skip_if!(missing_privilege());
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let program = copy(&folder, "uploader");
    let server = TcpServer::start(&pair.far.namespace, PUBLIC, 10).unwrap();
    Traffic::of(&program, &pair.near.namespace, &format!("tcp --to {} --bytes 30000000", server.addr)).run().unwrap();
    let alert = WATCH.expect_of("volume_spike", &program);
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
    WATCH.expect_of("identity_change", &program);
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
    let alert = WATCH.expect("dns_tunnel", |event| event.to_string().contains(WILDCARD));
    let python =
        output_of(Command::new("python3").args(["-c", "import os, sys; print(os.path.realpath(sys.executable))"]));
    assert_eq!(alert.text("process.executable"), python.trim(), "{alert}");
    assert_eq!(alert.text("pktscope.process.script.path"), script.to_str().unwrap(), "{alert}");
}

#[test]
fn a_burst_of_bandwidth_is_told() {
    skip_if!(missing_privilege());
    // A tenth of what is sent, since a busy machine sends more slowly.
    let config = "[detect.bandwidth]\nbytes_per_second = 140000\n";
    let pair = Pair::new().unwrap();
    let webhook = pair.near.namespace.run(Webhook::start).unwrap();
    let agent = Watch::options(&webhook, config).inside(&pair.near.namespace).start().unwrap();
    let watch = Watch { agent, webhook };
    let server = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap();
    let run = format!("udp --to {} --bytes 1400 --count 8000 --gap 1", server.addr);
    Traffic::new(&pair.near.namespace, &run).run().unwrap();
    let alert = watch.expect("bandwidth", |_| true);
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
    let alert = WATCH.expect_of("beaconing", &program);
    assert_eq!(alert.addr("destination.ip"), Some(called), "{alert}");
    assert_eq!(WATCH.count("beaconing", &program), 1);
}

#[test]
fn bytes_that_no_socket_sent_are_told() {
    skip_if!(missing_privilege());
    let pair = Pair::new().unwrap();
    let webhook = pair.near.namespace.run(Webhook::start).unwrap();
    let config = "[ledger]\ninterval = \"1s\"\n[detect.unattributed_egress]\nstart_grace = \"0s\"\n";
    let agent = Watch::options(&webhook, config).inside(&pair.near.namespace).start().unwrap();
    let watch = Watch { agent, webhook };
    let (from, to) = (format!("{}:4000", pair.near.v4), format!("{}:4001", pair.far.v4));
    let device = &pair.near.device;
    let run = format!("packet --device {device} --from {from} --to {to} --count 20000 --bytes 1000 --bypass");
    Traffic::new(&pair.near.namespace, &run).run().unwrap();
    let alert = watch.expect("unattributed_egress", |_| true);
    assert!(alert.number("pktscope.alert.evidence.bytes") > 1 << 20, "{alert}");
}
