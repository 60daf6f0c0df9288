//! First egress, first contacts, countries, identities.

use std::{sync::Arc, time::Duration};

use super::host::{DAY, Goes, HOUR, Host, MINUTE, by, from, packaged, process, script, with_hash};
use crate::core::{
    alert::{RuleId, Severity},
    baseline::BaselineRow,
    detect::{DetectionInput, persist::Closing},
    process::{ImageHash, Package, Process, Script},
};

const AGENT: &str = "/usr/sbin/agentd";
const DROPPER: &str = "/tmp/.font/fontd";

/// A learned host: a daemon with one destination, and enough others for a wide baseline.
fn host() -> Host {
    Host::learned(|host| {
        for n in 0..12 {
            let connection = by(Arc::new(process(&format!("/usr/bin/tool{n}"))))
                .named("tools.example.com")
                .in_country(b"SE", 1_299, "TELIA");
            host.connect(connection);
        }
        (0..20).for_each(|_| host.connect(from(AGENT).named("home.example.org").in_country(b"SE", 1_299, "TELIA")));
    })
}

#[test]
fn a_dropper_is_one_alert_not_four() {
    let mut host = host();
    host.connect(from(DROPPER).in_country(b"CN", 45_102, "ALIBABA"));
    host.connect(from(DROPPER).to([203, 0, 113, 9], 80).in_country(b"RU", 49_505, "SELECTEL"));
    assert_eq!(host.rules(), [RuleId::NewProcessEgress], "fault 14: first contact is one alert");
    assert_eq!(host.alerts[0].severity, Severity::Warning);
}

#[test]
fn an_ordinary_new_program_learns_for_itself() {
    let mut host = host();
    for name in ["a.example.net", "b.example.net", "c.example.io"] {
        host.connect(from("/usr/bin/weather").named(name).in_country(b"SE", 1_299, "TELIA"));
        host.pass(HOUR);
    }
    assert!(host.alerts.is_empty(), "{:?}", host.alerts);
    host.pass(2 * DAY);
    host.connect(from("/usr/bin/weather").to([203, 0, 113, 9], 4_444));
    assert_eq!(host.rules(), [RuleId::NewProcessDest], "its own window is over");
}

#[test]
fn a_narrow_baseline_reports_every_first_egress() {
    let mut host = Host::learned(|host| host.connect(from(AGENT)));
    host.connect(from("/usr/bin/weather").named("a.example.net"));
    assert_eq!(host.rules(), [RuleId::NewProcessEgress]);
}

#[test]
fn a_process_of_which_nothing_is_known_is_no_program() {
    let mut host = Host::learned(|host| host.connect(from(AGENT)));
    host.connect(from("").to([203, 0, 113, 9], 4_444));
    host.pass(MINUTE);
    assert!(host.alerts.is_empty(), "{:?}", host.alerts);
    assert!(host.detection.export(Some("")).is_empty(), "nothing is learned for what has no name");
    host.connect(from(DROPPER).to([203, 0, 113, 9], 4_444));
    assert_eq!(host.rules(), [RuleId::NewProcessEgress], "the same from a program is told");
}

#[test]
fn a_program_that_only_asks_a_resolver_is_waited_for() {
    let mut host = host();
    host.connect(from("/usr/bin/tool0").to([10, 0, 0, 1], 53));
    host.alerts.clear();
    host.connect(from(DROPPER).to([10, 0, 0, 1], 53));
    assert!(host.alerts.is_empty());
    host.pass(2 * MINUTE);
    assert_eq!(host.rules(), [RuleId::NewProcessEgress]);
    assert!(host.alerts[0].message.contains("asks the resolver"), "{}", host.alerts[0].message);
}

#[test]
fn a_daemon_s_new_destination_is_reported_once_and_explains_itself() {
    let mut host = host();
    for n in 0..50_u64 {
        host.connect(from(AGENT).to([203, 0, 113, 9], 4_444).in_country(b"RU", 49_505, "SELECTEL"));
        host.pass(MINUTE + n * n * 7 % 31 * 4 * MINUTE);
    }
    assert_eq!(host.of(RuleId::NewProcessDest).len(), 1);
    assert!(host.of(RuleId::NewGeo).is_empty(), "the new country is not a second alert");
    let message = &host.alerts[0].message;
    assert!(
        message.contains("203.0.113.9:4444") && message.contains("example.org") && message.contains("since 2026-03-02"),
        "{message}"
    );
    assert!(message.contains("a reboot"), "what the baseline has not seen is said: {message}");
}

#[test]
fn fault_4_a_new_customer_of_a_known_cloud_is_a_new_destination() {
    let mut host = Host::learned(|host| {
        let backup = from(AGENT).named("backup.s3.amazonaws.com").in_country(b"US", 16_509, "AMAZON-02");
        (0..20).for_each(|_| host.connect(backup.clone()));
    });
    host.connect(from(AGENT).named("attacker.s3.amazonaws.com").in_country(b"US", 16_509, "AMAZON-02"));
    assert_eq!(host.rules(), [RuleId::NewProcessDest]);
}

#[test]
fn fault_5_inbound_traffic_teaches_nothing() {
    let mut host = host();
    let attacker = |executable| from(executable).to([203, 0, 113, 9], 4_444).in_country(b"CN", 45_102, "ALIBABA");
    host.connect(attacker(AGENT).inbound());
    host.connect(attacker(DROPPER).inbound());
    assert!(host.alerts.is_empty());
    host.connect(attacker(AGENT));
    host.connect(attacker(DROPPER));
    assert_eq!(host.rules(), [RuleId::NewProcessDest, RuleId::NewProcessEgress]);
}

#[test]
fn fault_10_what_is_alerted_is_not_learned_until_an_analyst_says_so() {
    let mut host = host();
    let odd = || from(DROPPER).to([203, 0, 113, 9], 80);
    host.connect(odd());
    let incident = host.alerts[0].dedup_key.clone();
    host.pass(2 * DAY);
    assert!(
        !host
            .detection
            .baseline()
            .is_learning(host.detection.baseline().named(DROPPER)[0], host.detection.clock.at(host.now().boot))
    );
    let now = host.now();
    assert!(host.detection.close_incident(&incident, Closing::Normal, now));
    host.connect(from(DROPPER).named("update.example.net"));
    host.pass(2 * DAY);
    host.alerts.clear();
    host.connect(from(DROPPER).named("update.example.net"));
    assert!(host.alerts.is_empty(), "closed as normal, it was learned");
    host.connect(from(DROPPER).named("elsewhere.example.info"));
    assert_eq!(host.rules(), [RuleId::NewProcessDest]);
}

#[test]
fn fault_10_the_baseline_can_be_reset_for_a_program() {
    let mut host = host();
    host.detection.reset(Some(AGENT));
    assert!(host.detection.take_dirty().iter().any(|row| matches!(row, BaselineRow::Forgotten(_))));
    host.connect(from(AGENT).to([203, 0, 113, 9], 4_444));
    assert_eq!(host.rules(), [RuleId::NewProcessEgress]);
}

#[test]
fn fault_12_a_stepped_wall_clock_neither_silences_nor_repeats() {
    for step in [-86_400, 86_400] {
        let mut host = host();
        host.step_wall(step);
        host.connect(from(AGENT).to([203, 0, 113, 9], 4_444));
        host.step_wall(-step);
        host.connect(from(AGENT).to([203, 0, 113, 9], 4_444));
        host.connect(from(AGENT).to([203, 0, 113, 10], 4_444));
        assert_eq!(host.rules(), [RuleId::NewProcessDest, RuleId::NewProcessDest], "step {step}");
    }
}

#[test]
fn fault_13_a_name_that_comes_late_is_no_new_destination() {
    let mut host = host();
    let nameless = from(AGENT).to([203, 0, 113, 9], 443);
    let started = host.boot_seconds();
    let id = host.open(&nameless);
    host.pass(5);
    host.grow(&nameless, id, started, [900, 4_000]);
    let named = nameless.clone().named("cdn.late.example.net").in_country(b"US", 15_169, "GOOGLE");
    host.pass(5);
    host.grow(&named, id, started, [1_800, 8_000]);
    host.connect(named.clone());
    assert_eq!(host.rules(), [RuleId::NewProcessDest], "{:?}", host.alerts);
}

#[test]
fn the_order_of_alerts_does_not_depend_on_when_in_a_second_the_time_is_told() {
    let order = |part: u64| {
        let mut host = host();
        let start = host.boot_seconds();
        host.go_to(start, Duration::from_millis(400));
        host.open(&from(DROPPER).to([203, 0, 113, 9], 443));
        for second in start + 1..start + 5 {
            host.go_to(second, Duration::from_millis(part));
            host.tick();
            host.go_to(second, Duration::from_millis(950));
            host.connect(from(&format!("/tmp/.x/{second}")).to([203, 0, 113, 10], 443));
        }
        host.alerts.iter().map(|alert| alert.dedup_key.clone()).collect::<Vec<_>>()
    };
    let early = order(0);
    assert_eq!(early.len(), 5, "{early:?}");
    assert!([399, 401, 900].into_iter().all(|part| order(part) == early), "{early:?}");
}

#[test]
fn fault_14_a_package_upgrade_keeps_the_baseline_without_an_alert() {
    let mut host = Host::learned(|host| {
        (0..20).for_each(|_| host.connect(by(packaged("/usr/bin/tool", "1.0", true)).named("home.example.org")));
    });
    host.connect(by(packaged("/usr/bin/tool", "1.1", true)).named("home.example.org"));
    assert!(host.alerts.is_empty(), "{:?}", host.alerts);
    host.connect(by(packaged("/usr/bin/tool", "1.1", false)).named("home.example.org"));
    assert_eq!(host.rules(), [RuleId::IdentityChange], "the package's file was changed");
    assert_eq!(host.alerts[0].severity, Severity::Critical);
}

#[test]
fn a_stranger_at_the_same_path_does_not_inherit_the_baseline() {
    let mut host = host();
    let stranger = || with_hash(AGENT, ImageHash::Sha256("evil".into()));
    host.connect(by(stranger()).named("home.example.org"));
    assert_eq!(host.rules(), [RuleId::IdentityChange]);
    host.connect(by(stranger()).to([203, 0, 113, 9], 4_444));
    host.connect(from(AGENT).named("home.example.org"));
    assert_eq!(host.rules(), [RuleId::IdentityChange, RuleId::NewProcessDest], "the original is still itself");
}

#[test]
fn an_update_run_explains_images_that_change_together() {
    let mut host = Host::learned(|host| {
        for path in ["/usr/bin/a", "/usr/bin/b", "/usr/lib/apt/methods/https"] {
            host.connect(from(path).named("home.example.org"));
        }
    });
    host.connect(from("/usr/lib/apt/methods/https").named("home.example.org"));
    for path in ["/usr/bin/a", "/usr/bin/b"] {
        host.pass(30);
        host.connect(by(with_hash(path, ImageHash::Sha256(format!("new {path}").into()))).named("home.example.org"));
    }
    host.pass(10 * MINUTE);
    assert!(host.alerts.is_empty(), "{:?}", host.alerts);
    host.connect(from("/usr/lib/apt/methods/https").named("home.example.org"));
    host.pass(HOUR);
    host.connect(by(with_hash("/usr/bin/a", ImageHash::Sha256("alone".into()))).named("home.example.org"));
    assert_eq!(host.rules(), [RuleId::IdentityChange], "one image alone, long after: no update");
}

#[test]
fn fault_6_an_unreadable_image_neither_hides_nor_replaces_the_known_one() {
    let mut host = host();
    host.connect(by(with_hash(AGENT, ImageHash::Unreadable("permission denied".into()))).named("home.example.org"));
    assert_eq!(host.rules(), [RuleId::IdentityChange]);
    assert_eq!(host.alerts[0].severity, Severity::Warning);
    host.connect(by(with_hash(AGENT, ImageHash::Sha256("evil".into()))).named("home.example.org"));
    assert_eq!(host.rules(), [RuleId::IdentityChange, RuleId::IdentityChange]);
    assert_eq!(host.alerts[1].severity, Severity::Critical);
}

#[test]
fn a_process_that_ended_before_it_was_hashed_is_no_swap() {
    let mut host = host();
    host.connect(by(with_hash(AGENT, ImageHash::Unreadable("process ended first".into()))).named("home.example.org"));
    assert!(host.alerts.is_empty());
}

#[test]
fn a_file_that_was_gone_before_it_was_hashed_is_no_swap() {
    let mut host = host();
    let gone = ImageHash::Unreadable("the file that ran could not be found again".into());
    host.connect(by(with_hash(AGENT, gone)).named("home.example.org"));
    assert!(host.alerts.is_empty(), "{:?}", host.alerts);
}

#[test]
fn code_on_the_command_line_is_another_each_time_and_no_swap() {
    let python = "/usr/bin/python3.11";
    let inline = |code: &str| {
        let script = Script { path: "-c".into(), hash: ImageHash::Sha256(code.into()), package: None };
        by(Arc::new(Process { script: Some(Arc::new(script)), ..process(python) })).named("home.example.org")
    };
    let mut host = Host::learned(|host| host.connect(inline("first")));
    ["second", "third"].into_iter().for_each(|code| host.connect(inline(code)));
    assert!(host.alerts.is_empty(), "{:?}", host.alerts);
}

#[test]
fn a_packaged_interpreter_vouches_for_no_script() {
    let run = |path: &str, content: &str, own: Option<&str>| {
        let packaged = packaged("/usr/bin/python3.11", "3.11.2", true);
        let own =
            own.map(|version| Package { version: version.into(), ..(**packaged.package.as_ref().unwrap()).clone() });
        let script = Script { path: path.into(), hash: ImageHash::Sha256(content.into()), package: own.map(Arc::new) };
        by(Arc::new(Process { script: Some(Arc::new(script)), ..(*packaged).clone() })).named("home.example.org")
    };
    let mut host = Host::learned(|host| {
        (0..20).for_each(|number| host.connect(from(&format!("/usr/bin/learned-{number}")).named("home.example.org")));
        host.connect(run("/srv/job.py", "as written", None));
        host.connect(run("/usr/bin/tool", "1.0", Some("1.0")));
    });
    host.connect(run("/usr/bin/tool", "1.1", Some("1.1")));
    assert!(host.alerts.is_empty(), "the script's own package explains it: {:?}", host.alerts);
    host.connect(run("/srv/job.py", "as changed", None));
    assert_eq!(host.rules(), [RuleId::IdentityChange]);
    host.connect(run("/tmp/stage.py", "new", None));
    assert_eq!(host.rules(), [RuleId::IdentityChange, RuleId::NewProcessEgress]);
    assert!(host.alerts[1].message.contains("(in a volatile or hidden folder)"), "{}", host.alerts[1].message);
}

#[test]
fn scripts_of_one_interpreter_are_programs_of_their_own() {
    let python = "/usr/bin/python3.11";
    let mut host = Host::learned(|host| {
        (0..20).for_each(|_| host.connect(by(script(python, "/srv/job.py")).named("home.example.org")))
    });
    host.connect(by(script(python, "/srv/job.py")).named("home.example.org"));
    assert!(host.alerts.is_empty());
    host.connect(by(script(python, "/tmp/x.py")).named("home.example.org"));
    assert_eq!(host.rules(), [RuleId::NewProcessEgress]);
}

#[test]
fn facts_that_arrive_late_are_asked_about() {
    let mut host = host();
    host.connect(by(with_hash(AGENT, ImageHash::Pending)).named("home.example.org"));
    assert!(host.alerts.is_empty());
    let late = with_hash(AGENT, ImageHash::Sha256("evil".into()));
    let now = host.now();
    let alerts = host.detection.step(DetectionInput::Process(&late), now);
    assert_eq!(alerts.iter().map(|alert| alert.rule).collect::<Vec<_>>(), [RuleId::IdentityChange]);
}

#[test]
fn fault_18_novelty_and_alert_are_given_to_the_store_together() {
    let mut host = host();
    host.detection.take_dirty();
    host.connect(from(AGENT).to([203, 0, 113, 9], 4_444));
    assert_eq!(host.alerts.len(), 1);
    let rows = host.detection.take_dirty();
    assert!(rows.iter().any(|row| matches!(row, BaselineRow::Pair(pair) if &*pair.label == "203.0.113.9")), "{rows:?}");
    assert_eq!(host.detection.take_dirty_incidents().len(), 1);
    assert!(host.detection.take_dirty().is_empty(), "given once");
}

#[test]
fn a_restart_knows_what_was_learned_and_what_was_raised() {
    let mut host = host();
    host.connect(from(AGENT).to([203, 0, 113, 9], 4_444));
    let last_id = host.alerts[0].id;
    let mut host = host.restarted();
    host.alerts.clear();
    host.connect(from(AGENT).named("home.example.org"));
    host.connect(from(AGENT).to([203, 0, 113, 9], 4_444));
    assert!(host.alerts.is_empty(), "{:?}", host.alerts);
    host.connect(from(AGENT).to([203, 0, 113, 10], 4_444));
    assert_eq!(host.rules(), [RuleId::NewProcessDest]);
    assert!(host.alerts[0].id > last_id);
}

#[test]
fn a_new_country_of_a_program_that_meets_new_names_all_day_is_said() {
    let browser = "/usr/lib/firefox/firefox";
    let names = ["a.example.com", "b.example.net", "c.example.org", "d.example.io"];
    let mut host = Host::learned(|host| {
        for name in names {
            host.pass(10 * MINUTE);
            host.connect(from(browser).named(name).in_country(b"US", 15_169, "GOOGLE"));
        }
    });
    host.connect(from(browser).named("new.example.dev").in_country(b"US", 13_335, "CLOUDFLARENET"));
    assert!(host.alerts.is_empty(), "a new destination of a browser says nothing");
    host.connect(from(browser).named("far.example.top").in_country(b"RU", 49_505, "SELECTEL"));
    assert_eq!(host.rules(), [RuleId::NewGeo]);
}

#[test]
fn a_burst_of_new_destinations_is_a_handful_of_alerts() {
    let mut host = host();
    for n in 0..250_u8 {
        host.connect(from(AGENT).to([203, 0, 113, n], 443));
    }
    assert!(host.alerts.len() <= 6, "{}", host.alerts.len());
}

#[test]
fn a_host_on_the_network_s_own_addresses_is_a_program_without_a_path() {
    let nobody = Arc::new(Process { executable: "".into(), ..process("") });
    let mut host = host();
    host.connect(by(nobody).goes(Goes::Well).to([203, 0, 113, 9], 4_444));
    assert!(host.of(RuleId::NewProcessEgress).iter().all(|alert| !alert.message.is_empty()));
}

#[test]
fn the_first_resolver_of_a_host_that_starts_active_is_not_a_new_one() {
    let mut host = Host::with(crate::core::detect::DetectionSettings {
        learning_window: std::time::Duration::ZERO,
        program_learning_window: std::time::Duration::ZERO,
        ..crate::core::detect::DetectionSettings::default()
    });
    host.connect(from(AGENT).to([10, 0, 0, 1], 53));
    host.pass(2 * MINUTE);
    assert!(host.of(RuleId::NewProcessDest).is_empty());
    host.connect(from(AGENT).to([203, 0, 113, 53], 53));
    assert_eq!(host.of(RuleId::NewProcessDest).len(), 1);
}

#[test]
fn a_reboot_while_learning_is_known_to_the_baseline() {
    let mut host = Host::new();
    host.pass(HOUR / 2);
    assert!(host.detection.baseline().learning.unseen().contains(&"a reboot"));
    let host = host.restarted();
    assert!(!host.detection.baseline().learning.unseen().contains(&"a reboot"));
}

#[test]
fn another_host_starts_with_an_imported_baseline_and_keeps_its_own_clock_and_ids() {
    let rows = host().detection.export(None);
    let mut other = Host::new();
    let clock = other.detection.steady(other.now());
    assert_eq!(other.detection.import(rows.clone()), 0);
    assert!(!other.detection.baseline().learning.is_learning(), "the other host's learning counts");
    assert_eq!(other.detection.steady(other.now()), clock);
    let stored = other.detection.take_dirty();
    let keys = |rows: &[BaselineRow]| rows.iter().map(BaselineRow::key).collect::<std::collections::BTreeSet<_>>();
    assert!(keys(&rows).is_subset(&keys(&stored)), "all of it is stored");
    other.connect(from(AGENT).named("home.example.org").in_country(b"SE", 1_299, "TELIA"));
    assert!(other.alerts.is_empty(), "{:?}", other.alerts);
    other.connect(from(AGENT).to([203, 0, 113, 9], 4_444));
    assert_eq!(other.rules(), [RuleId::NewProcessDest]);
    let known = other.detection.export(Some(AGENT));
    other.detection.import(rows);
    assert_eq!(other.detection.export(Some(AGENT)).len(), known.len(), "twice is once");
}

#[test]
fn what_an_alert_is_open_about_elsewhere_is_not_imported() {
    let mut host = host();
    host.connect(from(AGENT).to([203, 0, 113, 9], 4_444));
    host.connect(from(DROPPER).to([203, 0, 113, 10], 80));
    let mut other = Host::new();
    other.detection.import(host.detection.export(None));
    other.connect(from(AGENT).to([203, 0, 113, 9], 4_444));
    other.connect(from(DROPPER).to([203, 0, 113, 10], 80));
    assert_eq!(other.rules(), [RuleId::NewProcessDest, RuleId::NewProcessEgress]);
}

#[test]
fn the_agent_s_own_connections_raise_nothing_and_teach_nothing() {
    let mut host = host();
    let agent = Process { is_agent: true, ..process("/usr/bin/pktscope") };
    host.connect(by(Arc::new(agent)).to([203, 0, 113, 9], 443));
    assert!(host.alerts.is_empty(), "{:?}", host.alerts);
    assert!(host.detection.baseline().named("/usr/bin/pktscope").is_empty());
}

#[test]
fn a_resolver_that_is_new_and_the_destination_asked_for_are_one_first_contact() {
    let mut host = Host::learned(|host| host.connect(from(AGENT).to([10, 0, 0, 1], 53)));
    host.connect(from(DROPPER).to([10, 9, 9, 9], 53));
    host.pass(1);
    host.connect(from(DROPPER).named("drop.example.net"));
    host.connect(from(DROPPER).to([10, 9, 9, 9], 53));
    assert_eq!(host.rules(), [RuleId::NewProcessEgress]);
    assert!(host.alerts[0].message.contains("drop.example.net"), "{}", host.alerts[0].message);
}

#[test]
fn an_ordinary_program_s_new_resolver_is_told_and_covers_what_it_asked_for() {
    let mut host = host();
    host.connect(from("/usr/bin/tool0").to([10, 0, 0, 1], 53));
    host.alerts.clear();
    host.connect(from("/usr/bin/weather").to([10, 9, 9, 9], 53));
    host.pass(1);
    host.connect(from("/usr/bin/weather").to([203, 0, 113, 9], 4_444));
    assert_eq!(host.rules(), [RuleId::NewProcessDest]);
    assert!(host.alerts[0].message.contains("resolver"), "{}", host.alerts[0].message);
}
