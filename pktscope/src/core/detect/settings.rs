//! Every threshold of detection, with its default and where the default comes from.

use std::time::Duration;

use crate::core::{alert::RuleId, baseline::profile::BaselineLimits};

const MIB: u64 = 1024 * 1024;
const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3_600)
}

/// Settings of all of detection.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectionSettings {
    /// How long the host learns before any alert; zero starts active. Default 7 d.
    pub learning_window: Duration,
    /// How long a program first seen later learns its destinations by itself. Default 24 h.
    pub program_learning_window: Duration,
    /// How long an incident must be quiet before its rule raises it again. Default 1 h.
    pub cooldown: Duration,
    /// How long an incident of a lasting sign (beaconing, tunnel, scan, volume) must be quiet. Default 24 h.
    pub lasting_cooldown: Duration,
    /// After how long an incident that never ends is raised again. Default 24 h.
    pub reminder: Duration,
    /// How long an alert that nobody disposed of stays open; what it is about is not learned meanwhile. Default 7 d.
    pub open_alert: Duration,
    /// After how long without contact programs and destinations are forgotten. Default 90 d.
    pub forget_after: Duration,
    /// How long a flow to a bare address may still get its name before it is judged. Default 2 s.
    pub name_wait: Duration,
    /// How long after a process's first contact its other first contacts are the same cause, so that one alert tells
    /// of them: a look-up and the connection after it, a program that connects to several places at its start.
    /// Default 10 s.
    pub first_contacts: Duration,
    /// Rules that raise nothing. Default none.
    pub disabled: Vec<RuleId>,
    /// Table sizes.
    pub limits: DetectionLimits,
    /// `new_process_egress`, `new_process_dest`, `new_geo`.
    pub novelty: NoveltySettings,
    /// `identity_change`.
    pub identity: IdentitySettings,
    /// `volume_spike`.
    pub volume: VolumeSettings,
    /// `port_scan`.
    pub scan: ScanSettings,
    /// `beaconing`.
    pub beacon: BeaconSettings,
    /// `dns_tunnel`.
    pub dns: DnsTunnelSettings,
    /// `bandwidth`.
    pub bandwidth: BandwidthSettings,
    /// `unattributed_egress`.
    pub unattributed: UnattributedSettings,
}

impl Default for DetectionSettings {
    fn default() -> Self {
        Self {
            learning_window: hours(7 * 24),
            program_learning_window: hours(24),
            cooldown: hours(1),
            lasting_cooldown: hours(24),
            reminder: hours(24),
            open_alert: hours(7 * 24),
            forget_after: hours(90 * 24),
            name_wait: Duration::from_secs(2),
            first_contacts: Duration::from_secs(10),
            disabled: Vec::new(),
            limits: DetectionLimits::default(),
            novelty: NoveltySettings::default(),
            identity: IdentitySettings::default(),
            volume: VolumeSettings::default(),
            scan: ScanSettings::default(),
            beacon: BeaconSettings::default(),
            dns: DnsTunnelSettings::default(),
            bandwidth: BandwidthSettings::default(),
            unattributed: UnattributedSettings::default(),
        }
    }
}

/// How large detection's tables may grow; what is thrown out is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectionLimits {
    /// Programs and destinations.
    pub baseline: BaselineLimits,
    /// Open flows followed. Default 131,072.
    pub flows: usize,
    /// Destinations whose beats are followed. Default 16,384.
    pub beacons: usize,
    /// Registrable domains whose questions are followed. Default 16,384.
    pub dns_parents: usize,
    /// Incidents remembered for their cooldown. Default 16,384.
    pub incidents: usize,
    /// Flows waiting for their name. Default 16,384.
    pub waiting: usize,
}

impl Default for DetectionLimits {
    fn default() -> Self {
        Self {
            baseline: BaselineLimits::default(),
            flows: 131_072,
            beacons: 16_384,
            dns_parents: 16_384,
            incidents: 16_384,
            waiting: 16_384,
        }
    }
}

/// First contacts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoveltySettings {
    /// Suspicion (0 to 6, see [`super::standing`]) from which a program's first egress is reported, where the baseline
    /// is wide enough to tell. Default 2.
    pub first_egress_suspicion: u8,
    /// Learned programs from which the baseline can tell ordinary new programs from others; below, every first egress
    /// is reported. Default 10.
    pub wide_baseline_programs: usize,
    /// Destinations first met late in learning from which a program's new destinations say nothing. Default 2.
    pub explorer_labels: u32,
    /// Contacts from which a named destination is established on the host for every program. Default 10.
    pub established_contacts: u32,
    /// Time between first and last contact from which it is established. Default 12 h.
    pub established_for: Duration,
    /// New destinations of one program within a minute that are reported one by one; further ones make one alert.
    /// Default 5.
    pub burst: u32,
    /// How long a program that only asks a resolver is waited for before that counts as its egress. Default 60 s.
    pub resolver_only_wait: Duration,
    /// Countries from which a program is one that reaches the whole world. Default 8.
    pub spread_countries: usize,
}

impl Default for NoveltySettings {
    fn default() -> Self {
        Self {
            first_egress_suspicion: 2,
            wide_baseline_programs: 10,
            explorer_labels: 2,
            established_contacts: 10,
            established_for: hours(12),
            burst: 5,
            resolver_only_wait: Duration::from_secs(60),
            spread_countries: 8,
        }
    }
}

/// Changed images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentitySettings {
    /// How long after a package manager's egress a change counts as its work. Default 10 min.
    pub update_window: Duration,
    /// Images that must change together to be an update, where no package says so. Default 2.
    pub together: u32,
    /// How long to wait for the others. Default 2 min.
    pub together_wait: Duration,
}

impl Default for IdentitySettings {
    fn default() -> Self {
        Self { update_window: Duration::from_secs(600), together: 2, together_wait: Duration::from_secs(120) }
    }
}

/// Volume spikes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VolumeSettings {
    /// Robust deviations above the learned median. Default 5.
    pub deviations: f64,
    /// Times the most ever learned. Default 3.
    pub times_max: f64,
    /// Bytes of each window (1 min, 10 min, 1 h, 6 h) below which nothing is a spike. Default 5, 8, 12, 25 MiB.
    pub floors: [u64; 4],
    /// Learned windows from which the windows speak. Default 8, pktscope-core's `volume_min_samples`.
    pub min_samples: u32,
    /// Weight of the newest interval in the moving average. Default 0.3, pktscope-core's `volume_alpha`.
    pub alpha: f64,
    /// Bytes to a destination new to the program, in six hours. Default 4 MB.
    pub new_destination_bytes: u64,
    /// The same where program and destination look ordinary. Default 1 GiB.
    pub ordinary_destination_bytes: u64,
    /// Producer-consumer ratio above which a program pushes (Bullard and Gerth, FloCon 2014: 0.4 is mail). Default 0.5.
    pub push_ratio: f64,
    /// Suspicion from which the lower bound holds. Default 2.
    pub suspicion: u8,
    /// Times the most at this hour of the week. Default 2.
    pub times_weekly: f64,
}

impl Default for VolumeSettings {
    fn default() -> Self {
        Self {
            deviations: 5.0,
            times_max: 3.0,
            floors: [5 * MIB, 8 * MIB, 12 * MIB, 25 * MIB],
            min_samples: 8,
            alpha: 0.3,
            new_destination_bytes: 4_000_000,
            ordinary_destination_bytes: 1_024 * MIB,
            push_ratio: 0.5,
            suspicion: 2,
            times_weekly: 2.0,
        }
    }
}

/// Port scans: threshold random walk (Jung et al., IEEE S&P 2004), turned outwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScanSettings {
    /// Prior contacts of the share of answered first contacts, and how many of them answered. Default 8 and 6.4.
    pub prior: (f64, f64),
    /// Bounds of that share. Default 0.3 to 0.95.
    pub answered_bounds: (f64, f64),
    /// Share that a scanner gets at most. Default 0.2.
    pub scanner_answered: f64,
    /// Log-likelihood ratio that alarms, and its negative the floor: ln 99, for PD .99 and PF .01. Default 4.595.
    pub alarm: f64,
    /// Hosts or ports that must have failed. Default 5.
    pub min_targets: u32,
    /// Half-life of the walk. Default 12 h.
    pub half_life: Duration,
    /// Weight of a failed contact that has a name. Default 0.25.
    pub named_weight: f64,
    /// Weight of a datagram without an answer: many protocols never answer. Default 0.5.
    pub silent_weight: f64,
    /// Share of answers below which a program's failures are its daily life: then, and where some contacts answer, the
    /// evidence must be twice as strong, because such a program walks up and down all day. Default 0.6.
    pub mixed_share: f64,
    /// Programs failing together, with no answer from outside meanwhile, from which the network is taken for down.
    /// Default 4.
    pub outage_programs: usize,
    /// How long failures of several programs count together. Default 10 s.
    pub outage_window: Duration,
}

impl Default for ScanSettings {
    fn default() -> Self {
        Self {
            prior: (8.0, 6.4),
            answered_bounds: (0.3, 0.95),
            scanner_answered: 0.2,
            alarm: 4.595,
            min_targets: 5,
            half_life: hours(12),
            named_weight: 0.25,
            silent_weight: 0.5,
            mixed_share: 0.6,
            outage_programs: 4,
            outage_window: Duration::from_secs(10),
        }
    }
}

/// Beaconing: quantile fold of the gaps, and context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeaconSettings {
    /// Score from which it is reported. Default 0.62.
    pub threshold: f64,
    /// Taken off where several programs use the destination. Default 0.3.
    pub shared_penalty: f64,
    /// Programs from which a destination is shared. Default 3.
    pub shared_programs: u32,
    /// Taken off for a private destination. Default 0.4.
    pub private_penalty: f64,
    /// Taken off where the program is regular to many destinations. Default 0.45.
    pub monitor_penalty: f64,
    /// Regular destinations, a third of all at least, from which a program is a monitor. Default 10.
    pub monitor_destinations: u32,
    /// Taken off for a new, ordinary program at a named destination. Default 0.4.
    pub ordinary_penalty: f64,
    /// Destinations from which a program must show more beats. Default 8.
    pub busy_destinations: u32,
    /// Beats it must show then. Default 20.
    pub busy_beats: u32,
    /// Learned contacts from which a destination is no longer followed. Default 5.
    pub learned_contacts: u32,
    /// The interval at which a busy flow is reported: gaps of just that length are ours, not the program's. Default 60 s.
    pub update_interval: Duration,
}

impl Default for BeaconSettings {
    fn default() -> Self {
        Self {
            threshold: 0.62,
            shared_penalty: 0.3,
            shared_programs: 3,
            private_penalty: 0.4,
            monitor_penalty: 0.45,
            monitor_destinations: 10,
            ordinary_penalty: 0.4,
            busy_destinations: 8,
            busy_beats: 20,
            learned_contacts: 5,
            update_interval: Duration::from_secs(60),
        }
    }
}

/// DNS tunnels: information sent to each registrable domain, in windows of 15 min, 6 h and 24 h.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DnsTunnelSettings {
    /// Bytes of names not asked before. Default 900, 2,500, 6,000.
    pub name_bytes: [u64; 3],
    /// Times the most ever learned for the domain. Default 4.
    pub times_learned: f64,
    /// New names that must be among them, and their mean length in bytes. Default 12 and 5.
    pub min_names: (u64, f64),
    /// Questions without any connection to the domain. Default 250, 900, 2,500.
    pub questions: [u64; 3],
    /// Bytes of answers of types that carry data (TXT, NULL, KEY, CNAME, MX), in 15 min and 6 h. Default 60,000, 150,000.
    pub answer_bytes: [u64; 2],
    /// Names, all new, in six hours and without a connection. Default 60.
    pub all_new_names: u64,
    /// Weight of a name that does not exist: a tunnel's server answers. Default 0.25.
    pub missing_weight: f64,
    /// Factor on the bounds where the program connects to what it asks for. Default 8.
    pub connected_factor: f64,
    /// Length of a name from which it counts for its top-level domain, where that is on no list. Default 60.
    pub long_name_bytes: usize,
}

impl Default for DnsTunnelSettings {
    fn default() -> Self {
        Self {
            name_bytes: [900, 2_500, 6_000],
            times_learned: 4.0,
            min_names: (12, 5.0),
            questions: [250, 900, 2_500],
            answer_bytes: [60_000, 150_000],
            all_new_names: 60,
            missing_weight: 0.25,
            connected_factor: 8.0,
            long_name_bytes: 60,
        }
    }
}

/// Bandwidth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BandwidthSettings {
    /// Bytes a second sent. Default 100,000,000, netwatch-sdk's.
    pub bytes_per_second: u64,
    /// Seconds in a row above it. Default 5; netwatch-sdk's two samples were ten seconds apart at least.
    pub seconds: u32,
}

impl Default for BandwidthSettings {
    fn default() -> Self {
        Self { bytes_per_second: 100_000_000, seconds: 5 }
    }
}

/// Egress that nobody owns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnattributedSettings {
    /// Bytes in ten minutes. Default 1 MiB.
    pub bytes: u64,
    /// Times the most learned. Default 3.
    pub times_learned: f64,
    /// How long after the agent's start sockets older than it are expected. Default 10 min.
    pub start_grace: Duration,
}

impl Default for UnattributedSettings {
    fn default() -> Self {
        Self { bytes: MIB, times_learned: 3.0, start_grace: Duration::from_secs(600) }
    }
}
