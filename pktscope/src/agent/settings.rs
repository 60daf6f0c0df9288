//! The configuration as each stage wants it.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use crate::{
    config::{Config, Network},
    core::{detect::DetectionSettings, flow::FlowSettings, pipeline::PipelineSettings, process::ProcessLimits},
    enrich::geoip::GeoDatabases,
    sensor::{SensorSettings, TrafficControl},
};

pub(super) fn sensor(config: &Config) -> SensorSettings {
    SensorSettings {
        cgroup: config.agent.cgroup.clone(),
        ring_bytes: u32::try_from(config.sensor.ring_bytes.0).unwrap_or(u32::MAX),
        peer_entries: config.sensor.peers_max,
        kept_entries: config.sensor.kept_max,
        slot_entries: config.sensor.slots_max,
        traffic_control: if config.sensor.traffic_control { TrafficControl::On } else { TrafficControl::Off },
        ..SensorSettings::default()
    }
}

pub(super) fn flow(config: &Config) -> FlowSettings {
    let settings = &config.flow;
    FlowSettings {
        max_flows: usize::try_from(settings.flows_max).unwrap_or(usize::MAX),
        tcp_timeout: settings.tcp_idle_timeout,
        tcp_half_open_timeout: settings.tcp_half_open_timeout,
        tcp_closed_timeout: settings.tcp_closed_timeout,
        udp_timeout: settings.udp_idle_timeout,
        other_timeout: settings.other_idle_timeout,
        active_timeout: (settings.active_timeout != Duration::ZERO).then_some(settings.active_timeout),
        update_interval: settings.update_interval,
        local_networks: config.replay.local_networks.iter().map(|Network(addr, bits)| (*addr, *bits)).collect(),
        ..FlowSettings::default()
    }
}

pub(super) fn detection(config: &Config) -> DetectionSettings {
    let mut settings = config.detect.clone();
    settings.beacon.update_interval = config.flow.update_interval;
    // A host that does not learn has programs that do not learn either.
    settings.program_learning_window = settings.program_learning_window.min(settings.learning_window);
    settings
}

pub(super) fn pipeline(config: &Config, boot_id: String, netns: u64, geo: &GeoDatabases) -> PipelineSettings {
    PipelineSettings { boot_id, netns, has_geo: !geo.is_empty(), flow: flow(config), ..PipelineSettings::default() }
}

/// Another seed in each run, so that nobody can choose addresses whose flows get in each other's way.
pub(super) fn hash_seed() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// The bounds of the process table of a live agent, which knows itself.
pub(super) fn processes() -> ProcessLimits {
    ProcessLimits { agent_pid: Some(std::process::id()), ..ProcessLimits::default() }
}
