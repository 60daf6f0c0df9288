//! Ranges: values that can be read but not used.

use std::time::Duration;

use super::{Bytes, Config, Mistake};

const SECOND: Duration = Duration::from_secs(1);

/// Adds a mistake for each value out of its range.
pub(super) fn ranges(config: &Config, mistakes: &mut Vec<Mistake>) {
    durations(config, mistakes);
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

fn sizes(config: &Config, mistakes: &mut Vec<Mistake>) {
    let Bytes(ring) = config.sensor.ring_bytes;
    if !ring.is_power_of_two() || !(65_536..=1 << 30).contains(&ring) {
        let what = "a ring buffer's size is a power of two from \"64KiB\" to \"1GiB\"; for example \"8MiB\"";
        mistakes.push(Mistake::new("sensor.ring_bytes", what));
    }
    let least = [
        ("sensor.peers_max", u64::from(config.sensor.peers_max), 1),
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
