//! Volumes and bandwidth.

use super::host::{DAY, HOUR, Host, MINUTE, from};
use crate::core::{
    alert::{RuleId, Severity},
    detect::{DetectionInput, DetectionSettings},
    effect::{Ledger, LedgerSide},
    flow::UnknownReason,
};

const AGENT: &str = "/usr/sbin/agentd";
const MB: u64 = 1_000_000;

/// A daemon that sends `bytes` a minute while the host learns.
fn sending(bytes: u64) -> Host {
    Host::learned(|host| {
        for _ in 0..55 {
            host.connect(from(AGENT).named("home.example.org").sends(bytes));
            host.pass(MINUTE);
        }
    })
}

#[test]
fn steady_sending_is_normal_and_ten_times_too_little_is_too() {
    let mut host = sending(3 * MB);
    for _ in 0..120 {
        host.connect(from(AGENT).named("home.example.org").sends(4 * MB));
        host.pass(MINUTE);
    }
    assert!(host.alerts.is_empty(), "{:?}", host.alerts);
}

#[test]
fn fault_1_a_burst_followed_by_silence_is_reported() {
    let mut host = sending(100_000);
    let connection = from(AGENT).named("home.example.org");
    let (started, id) = (host.boot_seconds(), host.open(&connection));
    host.pass(10);
    host.grow(&connection, id, started, [4 * MB, 0]);
    host.pass(20);
    host.grow(&connection, id, started, [10_000 * MB, 0]);
    assert_eq!(host.rules()[0], RuleId::VolumeSpike, "before the interval closes");
    assert_eq!(host.alerts[0].severity, Severity::Critical);
}

#[test]
fn fault_1_the_clock_closes_what_no_packet_closes() {
    let mut host = sending(100_000);
    host.connect(from(AGENT).named("home.example.org").sends(4 * MB + MB / 2));
    host.pass(MINUTE);
    host.connect(from(AGENT).named("home.example.org").sends(4 * MB + MB / 2));
    assert!(host.alerts.is_empty());
    host.pass(10 * MINUTE);
    assert_eq!(host.rules(), [RuleId::VolumeSpike], "9 MB in ten minutes");
}

#[test]
fn fault_1_a_stop_judges_what_is_open() {
    let mut host = sending(10_000);
    for _ in 0..2 {
        host.connect(from(AGENT).named("home.example.org").sends(4 * MB + MB / 2));
        host.pass(MINUTE);
    }
    let now = host.now();
    let at_exit = host.detection.finish(now);
    assert!(host.alerts.iter().chain(&at_exit).any(|alert| alert.rule == RuleId::VolumeSpike));
}

#[test]
fn fault_2_geometric_growth_is_reported_early() {
    for growth in [1.5_f64, 1.6, 1.7] {
        let mut host = sending(MB);
        let mut bytes = 1e6;
        while bytes < 40e9 && host.alerts.is_empty() {
            host.connect(from(AGENT).named("home.example.org").sends(bytes as u64));
            host.pass(MINUTE);
            bytes *= growth;
        }
        assert_eq!(host.rules(), [RuleId::VolumeSpike], "growth {growth}");
        assert!(bytes < 100e6, "growth {growth} seen at {bytes}");
    }
}

#[test]
fn fault_3_a_spike_that_goes_on_does_not_become_normal() {
    let mut host = sending(100_000);
    for _ in 0..(26 * 60) {
        host.connect(from(AGENT).named("home.example.org").sends(100 * MB));
        host.pass(MINUTE);
    }
    assert!(host.of(RuleId::VolumeSpike).len() >= 2, "reminded after a day: {:?}", host.rules());
}

#[test]
fn fault_12_intervals_close_while_the_wall_clock_is_wrong() {
    let mut host = sending(100_000);
    host.step_wall(-86_400);
    for _ in 0..3 {
        host.connect(from(AGENT).named("home.example.org").sends(4 * MB));
        host.pass(MINUTE);
    }
    host.pass(10 * MINUTE);
    assert_eq!(host.rules(), [RuleId::VolumeSpike]);
}

#[test]
fn a_push_to_a_new_destination_needs_no_history() {
    let mut host = sending(100_000);
    for minutes in [3, 40, 1, 9, 77, 2] {
        host.connect(from(AGENT).named("drop.example.net").sends(MB));
        host.pass(minutes * MINUTE);
    }
    assert_eq!(host.rules(), [RuleId::NewProcessDest, RuleId::VolumeSpike]);
}

#[test]
fn a_large_download_is_nobody_s_spike() {
    let mut host = sending(100_000);
    let connection = from(AGENT).named("home.example.org");
    let (started, id) = (host.boot_seconds(), host.open(&connection));
    for second in 1..=60 {
        host.pass(1);
        host.grow(&connection, id, started, [second * 200_000, second * 120 * MB]);
    }
    host.pass(20 * MINUTE);
    assert!(host.alerts.is_empty(), "{:?}", host.alerts);
}

#[test]
fn line_rate_out_is_reported_and_the_new_bound_holds_at_once() {
    let mut host = sending(100_000);
    let connection = from(AGENT).named("home.example.org");
    let (started, id) = (host.boot_seconds(), host.open(&connection));
    for second in 1..=10 {
        host.pass(1);
        host.grow(&connection, id, started, [second * 150 * MB, 0]);
    }
    assert_eq!(host.of(RuleId::Bandwidth).len(), 1);
    let mut settings = DetectionSettings::default();
    settings.bandwidth.bytes_per_second = 1_000;
    host.detection.set_settings(settings);
    let interfaces: Vec<_> = (0..8_u64)
        .flat_map(|_| {
            let started_at = host.now().boot;
            host.pass(90);
            let now = host.now();
            let tx = LedgerSide { interface_bytes: 90 * 2_000, ..LedgerSide::default() };
            let ledger = Ledger { started_at, ended_at: now.boot, tx, ..Ledger::default() };
            host.detection.step(DetectionInput::Ledger(&ledger), now)
        })
        .collect();
    assert_eq!(interfaces.len(), 1, "fault 44: a changed bound holds for interfaces already seen");
}

#[test]
fn bytes_without_an_owner_are_reported_and_captures_are_not() {
    let mut host = sending(100_000);
    for reason in [UnknownReason::Capture, UnknownReason::NoSocket] {
        (0..20).for_each(|_| host.connect(from(AGENT).unowned(reason).sends(MB / 4)));
        let expected = usize::from(reason == UnknownReason::NoSocket);
        assert_eq!(host.of(RuleId::UnattributedEgress).len(), expected, "{reason:?}");
    }
}

#[test]
fn a_nightly_backup_is_normal_at_its_hour() {
    let mut host = Host::with(DetectionSettings {
        learning_window: std::time::Duration::from_secs(8 * DAY),
        ..DetectionSettings::default()
    });
    for day in 0..12 {
        for _ in 0..30 {
            host.connect(from("/usr/bin/restic").named("backup.example.org").sends(50 * MB + day * MB));
            host.pass(MINUTE);
        }
        host.pass(DAY - 30 * MINUTE);
    }
    assert!(host.alerts.is_empty(), "{:?}", host.alerts);
    host.pass(12 * HOUR);
}
