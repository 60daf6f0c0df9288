//! Ranges: values that can be read but not used.

use std::time::Duration;

use super::{Bytes, Config, Mistake};
use crate::core::detect::DetectionSettings;

const SECOND: Duration = Duration::from_secs(1);

/// Adds a mistake for each value out of its range.
pub(super) fn ranges(config: &Config, mistakes: &mut Vec<Mistake>) {
    durations(config, mistakes);
    detection(&config.detect, mistakes);
    super::disposition::ranges(&config.disposition, &config.tuning, mistakes);
    sizes(config, mistakes);
    if let Some(url) = &config.sink.webhook.url
        && !(url.starts_with("https://") || url.starts_with("http://"))
    {
        mistakes.push(Mistake::new(
            "sink.webhook.url",
            format!("\"{url}\" is no web address; it starts with https:// or http://"),
        ));
    }
}

fn durations(config: &Config, mistakes: &mut Vec<Mistake>) {
    let shortest = [
        ("sensor.poll_interval", config.sensor.poll_interval, Duration::from_millis(1)),
        ("sensor.sweep_interval", config.sensor.sweep_interval, Duration::from_millis(100)),
        ("flow.update_interval", config.flow.update_interval, Duration::from_millis(100)),
        ("flow.tcp_idle_timeout", config.flow.tcp_idle_timeout, SECOND),
        ("flow.tcp_half_open_timeout", config.flow.tcp_half_open_timeout, SECOND),
        ("flow.tcp_closed_timeout", config.flow.tcp_closed_timeout, SECOND),
        ("flow.udp_idle_timeout", config.flow.udp_idle_timeout, SECOND),
        ("flow.other_idle_timeout", config.flow.other_idle_timeout, SECOND),
        ("ledger.interval", config.ledger.interval, SECOND),
        ("store.batch_interval", config.store.batch_interval, Duration::from_millis(10)),
        ("store.retention", config.store.retention, Duration::from_secs(60)),
        ("store.alert_retention", config.store.alert_retention, Duration::from_secs(60)),
        ("sink.webhook.timeout", config.sink.webhook.timeout, Duration::from_millis(100)),
        ("sink.webhook.retry_min", config.sink.webhook.retry_min, Duration::from_millis(10)),
        ("sink.webhook.retry_max", config.sink.webhook.retry_max, config.sink.webhook.retry_min),
    ];
    for (path, value, least) in shortest.into_iter().filter(|(_, value, least)| value < least) {
        let (value, least) = (super::format_duration(value), super::format_duration(least));
        mistakes.push(Mistake::new(path, format!("{value} is too short; write at least \"{least}\"")));
    }
}

/// 256 MiB of them.
const SLOTS_MOST: u32 = 1 << 20;

fn sizes(config: &Config, mistakes: &mut Vec<Mistake>) {
    let Bytes(ring) = config.sensor.ring_bytes;
    if !ring.is_power_of_two() || !(65_536..=1 << 30).contains(&ring) {
        let what = "a ring buffer's size is a power of two from \"64KiB\" to \"1GiB\"; for example \"8MiB\"";
        mistakes.push(Mistake::new("sensor.ring_bytes", what));
    }
    let slots = config.sensor.slots_max;
    if slots != 0 && !(slots.is_power_of_two() && slots <= SLOTS_MOST) {
        let what = format!("{slots} is no number of slots; write a power of two up to {SLOTS_MOST}, or 0 for none");
        mistakes.push(Mistake::new("sensor.slots_max", what));
    }
    let least = [
        ("sensor.peers_max", u64::from(config.sensor.peers_max), 1),
        ("sensor.kept_max", u64::from(config.sensor.kept_max), 1),
        ("flow.flows_max", u64::from(config.flow.flows_max), 16),
        ("store.queue_max", u64::from(config.store.queue_max), 1),
        ("store.bytes_max", config.store.bytes_max.0, 16 << 20),
        ("sink.syslog.queue_max", u64::from(config.sink.syslog.queue_max), 1),
        ("sink.webhook.spool_bytes_max", config.sink.webhook.spool_bytes_max.0, 64 << 10),
    ];
    for (path, value, least) in least.into_iter().filter(|(_, value, least)| value < least) {
        mistakes.push(Mistake::new(path, format!("{value} is too small; write at least {least}")));
    }
}

fn detection(settings: &DetectionSettings, mistakes: &mut Vec<Mistake>) {
    let shares = [
        ("detect.volume_spike.alpha", settings.volume.alpha),
        ("detect.volume_spike.push_ratio", settings.volume.push_ratio),
        ("detect.port_scan.scanner_answered", settings.scan.scanner_answered),
        ("detect.port_scan.named_weight", settings.scan.named_weight),
        ("detect.port_scan.silent_weight", settings.scan.silent_weight),
        ("detect.port_scan.mixed_share", settings.scan.mixed_share),
        ("detect.port_scan.answered_bounds", settings.scan.answered_bounds.0),
        ("detect.port_scan.answered_bounds", settings.scan.answered_bounds.1),
        ("detect.beaconing.threshold", settings.beacon.threshold),
        ("detect.beaconing.shared_penalty", settings.beacon.shared_penalty),
        ("detect.beaconing.private_penalty", settings.beacon.private_penalty),
        ("detect.beaconing.monitor_penalty", settings.beacon.monitor_penalty),
        ("detect.beaconing.ordinary_penalty", settings.beacon.ordinary_penalty),
        ("detect.dns_tunnel.missing_weight", settings.dns.missing_weight),
    ];
    for (path, value) in shares.into_iter().filter(|(_, value)| !(0.0..=1.0).contains(value)) {
        mistakes.push(Mistake::new(path, format!("{value} is no share; write a number from 0.0 to 1.0")));
    }
    let positive = [
        ("detect.volume_spike.deviations", settings.volume.deviations),
        ("detect.volume_spike.times_max", settings.volume.times_max),
        ("detect.volume_spike.times_weekly", settings.volume.times_weekly),
        ("detect.port_scan.alarm", settings.scan.alarm),
        ("detect.port_scan.prior", settings.scan.prior.0),
        ("detect.port_scan.prior", settings.scan.prior.1),
        ("detect.dns_tunnel.times_learned", settings.dns.times_learned),
        ("detect.dns_tunnel.connected_factor", settings.dns.connected_factor),
        ("detect.unattributed_egress.times_learned", settings.unattributed.times_learned),
        ("detect.port_scan.half_life", settings.scan.half_life.as_secs_f64()),
    ];
    for (path, value) in positive.into_iter().filter(|(_, value)| *value <= 0.0) {
        mistakes.push(Mistake::new(path, format!("{value} is too small; write a value above 0")));
    }
}
