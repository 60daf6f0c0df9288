//! Beacons, scans, tunnels.

use std::sync::Arc;

use super::host::{DAY, Goes, HOUR, Host, MINUTE, by, from, process};
use crate::core::{alert::RuleId, detect::Closing};

const IMPLANT: &str = "/usr/local/bin/updatesvc";
const AGENT: &str = "/usr/sbin/agentd";
const SHOP: &str = "/usr/bin/shop";

fn host() -> Host {
    Host::learned(|host| {
        for _ in 0..55 {
            host.connect(from(AGENT).named("home.example.org"));
            host.ask("/usr/bin/mailer", &format!("{}.list.example.org", host.boot_seconds()), 1, 3);
            host.pass(MINUTE);
        }
    })
}

fn beat(host: &mut Host, interval: u64, count: usize) {
    for _ in 0..count {
        host.connect(from(IMPLANT).named("c2.example.net"));
        host.pass(interval);
    }
}

#[test]
fn fault_40_beacons_of_any_pace_are_found() {
    for interval in [2, 10, 60, 900, 3_600] {
        let mut host = host();
        beat(&mut host, interval, 12);
        assert_eq!(host.of(RuleId::Beaconing).len(), 1, "every {interval} s");
        assert!(host.of(RuleId::Beaconing)[0].message.contains("example.net"));
    }
}

#[test]
fn a_few_beats_are_too_few_and_irregular_ones_are_none() {
    let mut host = host();
    beat(&mut host, 60, 4);
    assert!(host.of(RuleId::Beaconing).is_empty());
    let mut host = self::host();
    for gap in [5, 400, 31, 2_000, 77, 9, 900, 12, 3_000, 60, 250, 8, 1_200, 40] {
        host.connect(from(IMPLANT).named("c2.example.net"));
        host.pass(gap);
    }
    assert!(host.of(RuleId::Beaconing).is_empty(), "{:?}", host.alerts);
}

#[test]
fn what_was_regular_while_learning_stays_normal() {
    let mut host = host();
    for _ in 0..100 {
        host.connect(from(AGENT).named("home.example.org"));
        host.pass(MINUTE);
    }
    assert!(host.alerts.is_empty());
}

#[test]
fn rotating_addresses_behind_one_name_are_one_beacon() {
    let mut host = host();
    for n in 0..20_u8 {
        host.connect(from(IMPLANT).to([203, 0, 113, n * 7 % 16], 443).named("cdn.example.net"));
        host.pass(MINUTE);
    }
    assert_eq!(host.of(RuleId::Beaconing).len(), 1);
}

#[test]
fn failing_calls_are_beats_too() {
    let mut host = host();
    for _ in 0..20 {
        host.connect(from(IMPLANT).goes(Goes::Refused));
        host.pass(MINUTE);
    }
    assert_eq!(host.of(RuleId::Beaconing).len(), 1);
}

#[test]
fn data_reported_once_an_update_interval_is_no_beacon() {
    let mut host = host();
    let stream = from(IMPLANT).named("stream.example.net");
    let (started, id) = (host.boot_seconds(), host.open(&stream));
    for n in 1..60 {
        host.pass(60);
        host.grow(&stream, id, started, [n * 5_000, n * 90_000]);
    }
    assert!(host.of(RuleId::Beaconing).is_empty(), "{:?}", host.alerts);
}

#[test]
fn fault_42_a_horizontal_scan_is_found_and_many_services_are_none() {
    let mut quiet = host();
    for n in 0..20_u8 {
        quiet.connect(from(AGENT).to([10, 0, 1, n], 1_000 + u16::from(n)));
    }
    assert!(quiet.of(RuleId::PortScan).is_empty());
    let mut host = host();
    for n in 0..250_u8 {
        host.connect(from(AGENT).to([10, 0, 2, n], 445).goes(Goes::Unanswered));
    }
    assert_eq!(host.rules(), [RuleId::PortScan], "and not a new destination beside it");
}

#[test]
fn a_slow_vertical_scan_is_found_and_a_dead_server_is_none() {
    let mut host = host();
    for port in 1..30 {
        host.connect(from(AGENT).to([10, 0, 2, 9], port).goes(Goes::Refused));
        host.pass(4 * MINUTE);
    }
    assert_eq!(host.of(RuleId::PortScan).len(), 1);
    let mut host = self::host();
    (0..60).for_each(|_| host.connect(from(AGENT).to([10, 0, 2, 9], 443).goes(Goes::Refused)));
    assert!(host.of(RuleId::PortScan).is_empty());
}

#[test]
fn open_ports_that_say_nothing_do_not_clear_a_scanner() {
    let mut host = host();
    for n in 0..60_u8 {
        let goes = if n % 3 == 0 { Goes::Well } else { Goes::Refused };
        host.connect(from("/usr/local/bin/inv").to([10, 0, 2, n], 8_080).goes(goes));
    }
    assert_eq!(host.of(RuleId::PortScan).len(), 1);
}

#[test]
fn a_peer_to_peer_program_is_judged_by_its_own_failures() {
    let peer = |n: u32| from("/usr/bin/torrent").to([203, 0, (n / 250) as u8, (n % 250) as u8], 6_881);
    let meet = |host: &mut Host, from: u32, to: u32| {
        for n in from..to {
            let connection = if n % 5 < 3 { peer(n).goes(Goes::Unanswered) } else { peer(n) };
            host.connect(connection);
            host.pass(2);
        }
    };
    let mut host = Host::learned(|host| meet(host, 0, 1_000));
    meet(&mut host, 1_000, 2_000);
    assert!(host.of(RuleId::PortScan).is_empty());
}

#[test]
fn an_outage_is_not_a_scan() {
    let programs: Vec<_> = (0..8).map(|n| Arc::new(process(&format!("/usr/bin/p{n}")))).collect();
    let mut host = Host::learned(|host| {
        programs.iter().for_each(|program| host.connect(by(program.clone()).named("a.example.org")))
    });
    host.pass(MINUTE);
    for n in 0..40_u8 {
        for program in &programs {
            host.connect(by(program.clone()).to([198, 51, 100, n], 443).goes(Goes::Unanswered));
        }
        host.pass(1);
    }
    assert!(host.of(RuleId::PortScan).len() < 4, "{:?}", host.of(RuleId::PortScan).len());
}

#[test]
fn fault_39_a_tunnel_is_one_alert_however_long_it_lasts() {
    let mut host = host();
    for n in 0..20_000 {
        host.ask("/usr/sbin/iodine", &format!("x{n:040x}.t.tunnel.com"), 10, 0);
        if n % 20 == 0 {
            host.pass(1);
        }
    }
    assert_eq!(host.of(RuleId::DnsTunnel).len(), 1);
    assert_eq!(host.of(RuleId::DnsTunnel)[0].domain.as_deref(), Some("tunnel.com"));
}

#[test]
fn slow_tunnels_and_two_label_suffixes_are_found() {
    for zone in ["sun.stonebook.org", "mediashop.co.uk", "box.duckdns.org"] {
        let mut host = host();
        for n in 0..90 {
            host.ask("/var/tmp/helper", &format!("{:040x}.{zone}", n * 7_919), 1, 0);
            host.pass(5 * MINUTE);
        }
        let found = host.of(RuleId::DnsTunnel);
        assert_eq!(found.len(), 1, "{zone}");
        assert!(zone.ends_with(found[0].domain.as_deref().unwrap()) && found[0].domain.as_deref() != Some("co.uk"));
    }
}

#[test]
fn names_that_are_connected_to_or_do_not_exist_are_no_tunnel() {
    let mut host = host();
    for n in 0..700_u64 {
        host.ask(SHOP, &format!("{n:010x}.img.shop.com"), 1, 0);
        host.connect(from(SHOP).named("x.img.shop.com"));
        if n % 3 == 0 {
            host.ask("/usr/bin/mailer", &format!("{n}.9.8.7.list.example.org"), 1, 3);
        }
        host.pass(5);
    }
    assert!(host.of(RuleId::DnsTunnel).is_empty(), "{:?}", host.of(RuleId::DnsTunnel));
}

#[test]
fn fault_42_a_page_of_cdn_names_is_no_tunnel() {
    let mut host = host();
    for n in 0..32 {
        host.ask(SHOP, &format!("img{n}.cdn.com"), 1, 0);
    }
    assert!(host.of(RuleId::DnsTunnel).is_empty());
}

#[test]
fn fault_38_hostile_names_do_not_panic() {
    let mut host = host();
    let names = [
        "",
        ".",
        "..",
        "\u{e9}",
        "a\u{1f600}.com",
        &format!("{}\u{20ac}{}", "x".repeat(119), "y".repeat(200)),
        &"a.".repeat(200),
    ];
    for name in names {
        host.ask(SHOP, name, 16, 0);
    }
}

#[test]
fn fault_41_and_43_tables_are_bounded_and_count_what_they_drop() {
    let mut host = host();
    for n in 0..40_000_u32 {
        host.ask(SHOP, &format!("www.site{n}.com"), 1, 0);
    }
    host.pass(MINUTE);
    for n in 0..18_000_u32 {
        let [_, a, b, c] = n.to_be_bytes();
        host.connect(from(SHOP).to([100 + a, b, c, 1], 443));
    }
    host.pass(HOUR);
    assert!(host.detection.counts().evicted_states > 0, "{:?}", host.detection.counts());
}

#[test]
fn a_rhythm_that_an_analyst_calls_normal_is_not_reported_again() {
    let mut host = host();
    beat(&mut host, 60, 20);
    let (incident, now) = (host.of(RuleId::Beaconing)[0].dedup_key.clone(), host.now());
    assert!(host.detection.close_incident(&incident, Closing::Normal, now));
    host.pass(3 * DAY);
    host.alerts.clear();
    beat(&mut host, 60, 40);
    assert!(host.of(RuleId::Beaconing).is_empty(), "{:?}", host.rules());
}
