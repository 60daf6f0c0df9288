//! First contacts, live: one cause gives one alert, and the agent's own connections give none.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
};

use pktscope_tests::{
    event::Event,
    flow::DEADLINE,
    machine::{copy_program, missing_privilege, missing_program, output_of},
    mmdb,
    namespace::Pair,
    server::{HttpServer, UdpServer, Webhook},
    skip_if,
    traffic::{Traffic, built},
};
use tempfile::TempDir;

use crate::{
    resolver::{NAME, asking_at, forwarder, resolver},
    watch::{ALERT_DEADLINE, Watch, id_of, is_of},
};

/// Two addresses outside of private space; nothing leaves the pair's namespaces.
const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(45, 33, 32, 156));
const ABROAD: IpAddr = IpAddr::V4(Ipv4Addr::new(45, 34, 1, 9));

fn copy_of(program: &str, folder: &TempDir, name: &str) -> PathBuf {
    let found = output_of(Command::new("sh").args(["-c", &format!("readlink -f \"$(command -v {program})\"")]));
    let path = folder.path().join(name);
    copy_program(Path::new(found.trim()), &path);
    path
}

#[test]
fn a_new_program_and_its_next_destination_are_told() {
    skip_if!(missing_privilege());
    let (watch, pair, folder) = (Watch::start(""), Pair::new().unwrap(), TempDir::new().unwrap());
    let program = folder.path().join("newcomer");
    copy_program(&built("traffic"), &program);
    let send = |addr: IpAddr| {
        let server = UdpServer::start(&pair.far.namespace, addr, false).unwrap();
        Traffic::of(&program, &pair.near.namespace, &format!("udp --to {}", server.addr)).run().unwrap();
    };
    send(pair.far.v4.into());
    watch.expect_of("new_process_egress", &program);
    send(pair.far.v6.into());
    let alert = watch.expect_of("new_process_dest", &program);
    assert_eq!(alert.addr("destination.ip"), Some(pair.far.v6.into()), "{alert}");
    assert_eq!(watch.alerts_of(&program).len(), 2);
}

#[test]
fn a_first_contact_with_its_look_up_is_one_alert() {
    skip_if!(missing_privilege());
    for program in ["dnsmasq", "curl", "unshare"] {
        skip_if!(missing_program(program));
    }
    let (watch, pair, folder) = (Watch::start(""), Pair::new().unwrap(), TempDir::new().unwrap());
    let _resolver = resolver(&pair.far);
    let server = HttpServer::start(&pair.far.namespace, pair.far.v4.into(), 10).unwrap();
    let url = format!("http://{NAME}:{}/", server.addr.port());
    let fetch = |resolver: Ipv4Addr, name: &str| {
        let program = copy_of("curl", &folder, name);
        let mut curl = asking_at(&pair, resolver, folder.path(), program.to_str().unwrap());
        output_of(curl.args(["-4", "--silent", "--output", "/dev/null", &url]));
        let alert = watch.expect_of("new_process_egress", &program);
        assert_eq!(alert.text("destination.domain"), NAME, "{alert}");
        program
    };
    let first = fetch(pair.far.v4, "first");
    // Another resolver, which this host never used: it is part of the second program's first contact.
    let _forwarder = forwarder(&pair);
    let second = fetch(Ipv4Addr::LOCALHOST, "second");
    // What comes after it was told after all that was due before.
    let last = fetch(pair.far.v4, "last");
    for program in [first, second, last] {
        let alerts = watch.alerts_of(&program);
        assert_eq!(alerts.len(), 1, "one cause, one alert: {alerts:?}");
    }
}

#[test]
fn the_agents_own_delivery_raises_nothing() {
    skip_if!(missing_privilege());
    let (watch, pair, folder) = (Watch::start(""), Pair::new().unwrap(), TempDir::new().unwrap());
    let program = folder.path().join("stranger");
    copy_program(&built("traffic"), &program);
    let server = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap();
    Traffic::of(&program, &pair.near.namespace, &format!("udp --to {}", server.addr)).run().unwrap();
    watch.expect_of("new_process_egress", &program);
    let agent = watch.agent.pid();
    let port = watch.webhook.url.rsplit([':', '/']).find_map(|part| part.parse::<u64>().ok()).unwrap();
    let flow = watch.agent.expect(DEADLINE, "the delivery's flow", |event| {
        event.is("flow") && event.pid() == agent && event.number("destination.port") == port
    });
    assert_eq!(flow.get("pktscope.process.is_agent"), Some(&true.into()), "{flow}");
    assert_eq!(flow.text("pktscope.attribution.status"), "process", "counted and owned like any other: {flow}");
    // A second alert is told after whatever the first delivery could have raised.
    let other = folder.path().join("other");
    copy_program(&built("traffic"), &other);
    Traffic::of(&other, &pair.near.namespace, &format!("udp --to {}", server.addr)).run().unwrap();
    watch.expect_of("new_process_egress", &other);
    let own = watch.agent.events(|event| event.is("alert") && event.pid() == agent);
    assert!(own.is_empty(), "{own:?}");
}

#[test]
fn a_known_destination_in_another_country_is_told() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("curl"));
    let countries = mmdb::countries(&[([45, 33, 0, 0].into(), 16, "US"), ([45, 34, 0, 0].into(), 16, "CN")]);
    let webhook = Webhook::start().unwrap();
    let options = Watch::options(&webhook, "").file("--geoip-country", "country.mmdb", &countries).unwrap();
    let watch = Watch { agent: options.start().unwrap(), webhook };
    let (pair, folder) = (Pair::new().unwrap(), TempDir::new().unwrap());
    let program = copy_of("curl", &folder, "reporter");
    let fetch = |addr: IpAddr| {
        let server = HttpServer::start(&pair.far.namespace, addr, 10).unwrap();
        let mut curl = pair.near.namespace.command(&program);
        let url = format!("http://{}/", server.addr);
        curl.args(["--silent", "--output", "/dev/null", "--header", "Host: reports.example.com", &url]);
        let is_its_end = |event: &Event| {
            event.is_flow_end() && is_of(event, &program) && event.endpoint("destination") == Some(server.addr)
        };
        // A flood of somebody else's may fill the ring for a moment: then it is asked once more.
        let seen = (0..3).find_map(|_| {
            output_of(&mut curl);
            watch.agent.wait(DEADLINE, |events| events.iter().find(|event| is_its_end(event)).cloned())
        });
        seen.unwrap_or_else(|| panic!("no flow to {addr}: {}", watch.agent.describe()))
    };
    pair.far.add_address(HOME).unwrap();
    pair.far.add_address(ABROAD).unwrap();
    fetch(HOME);
    let first = watch.expect_of("new_process_egress", &program);
    output_of(&mut watch.agent.command(["alerts", "mark", &id_of(&first), "--verdict", "false_positive"]));
    // Now that it is normal, it is learned where the program goes.
    assert_eq!(fetch(HOME).text("destination.geo.country_iso_code"), "US");
    fetch(ABROAD);
    let alert = watch.expect_of("new_geo", &program);
    assert_eq!(alert.text("pktscope.alert.evidence.country"), "CN", "{alert}");
    assert_eq!(watch.alerts_of(&program).len(), 2, "not a new destination too");
    assert!(alert.text("message").contains("US"), "what is normal is said, within {ALERT_DEADLINE:?}: {alert}");
}
