//! Volumes and bandwidth.

use super::host::{DAY, HOUR, Host, MINUTE, from};
use crate::core::{
    alert::{RuleId, Severity},
    baseline::BaselineRow,
    detect::{Closing, DetectionInput, DetectionSettings},
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

#[test]
fn a_program_that_came_later_learns_its_own_volumes() {
    let mut host = Host::learned(|host| {
        (0..12).for_each(|n| host.connect(from(&format!("/usr/bin/tool{n}")).named("tools.example.com")));
    });
    let report = || from("/usr/bin/weather").named("weather.example.net");
    for _ in 0..(25 * 60) {
        host.connect(report().sends(100_000));
        host.pass(MINUTE);
    }
    assert!(host.alerts.is_empty(), "{:?}", host.alerts);
    host.connect(report().sends(60 * MB));
    assert_eq!(host.rules(), [RuleId::VolumeSpike]);
}

/// Alerts while what is sent a minute grows by a factor each day, for two weeks.
fn growing(factor: f64) -> Vec<RuleId> {
    let mut host = sending(2 * MB);
    let mut bytes = 2e6;
    for _ in 0..14 {
        for _ in 0..DAY / MINUTE / 5 {
            host.connect(from(AGENT).named("home.example.org").sends(bytes as u64));
            host.pass(5 * MINUTE);
        }
        bytes *= factor;
    }
    host.rules()
}

#[test]
fn a_quiet_day_is_learned_and_a_ramp_over_days_is_not_followed() {
    assert_eq!(growing(1.2), [], "in step with what a day may teach");
    assert_eq!(growing(1.7).first(), Some(&RuleId::VolumeSpike));
}

#[test]
fn a_day_with_an_alert_about_the_program_teaches_nothing() {
    let max_after_a_day = |is_alerted: bool| {
        let mut host = sending(2 * MB);
        host.pass(DAY - HOUR);
        if is_alerted {
            host.connect(from(AGENT).to([203, 0, 113, 9], 4_444));
        }
        for _ in 0..DAY / MINUTE {
            host.connect(from(AGENT).named("home.example.org").sends(3 * MB));
            host.pass(MINUTE);
        }
        let rows = host.detection.export(Some(AGENT));
        rows.iter().find_map(|row| if let BaselineRow::Volume(row) = row { Some(row.windows[0].0) } else { None })
    };
    assert!(max_after_a_day(false) > max_after_a_day(true));
}

#[test]
fn a_spike_that_an_analyst_calls_normal_is_normal_even_after_a_restart() {
    for is_restarted in [false, true] {
        let mut host = sending(100_000);
        host.connect(from(AGENT).named("home.example.org").sends(50 * MB));
        assert_eq!(host.rules(), [RuleId::VolumeSpike]);
        let incident = host.alerts[0].dedup_key.clone();
        if is_restarted {
            host = host.restarted();
        }
        let now = host.now();
        assert!(host.detection.close_incident(&incident, Closing::Normal, now));
        host.pass(2 * DAY);
        host.connect(from(AGENT).named("home.example.org").sends(60 * MB));
        assert_eq!(host.alerts.len(), 1, "restarted: {is_restarted}: {:?}", host.rules());
    }
}
