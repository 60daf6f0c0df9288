//! Detection's settings as groups of the configuration: keys and what they mean, for the core's own structs.
//!
//! The core knows nothing of TOML; its structs say which settings there are, and a field that is missing here does not
//! compile.

use crate::core::{
    baseline::profile::BaselineLimits,
    detect::settings::{
        BandwidthSettings, BeaconSettings, DetectionLimits, DetectionSettings, DnsTunnelSettings, IdentitySettings,
        NoveltySettings, ScanSettings, UnattributedSettings, VolumeSettings,
    },
};

section_of!(DetectionSettings {
    /// How long the host learns before any alert; zero starts active. Default 7 d.
    learning_window,
    /// How long a program first seen later learns its destinations by itself. Default 24 h.
    program_learning_window,
    /// How long an incident must be quiet before its rule raises it again. Default 1 h.
    cooldown,
    /// How long an incident of a lasting sign (beaconing, tunnel, scan, volume) must be quiet. Default 24 h.
    lasting_cooldown,
    /// After how long an incident that never ends is raised again. Default 24 h.
    reminder,
    /// How long an alert that nobody disposed of stays open; what it is about is not learned meanwhile. Default 7
    /// d.
    open_alert,
    /// After how long without contact programs and destinations are forgotten. Default 90 d.
    forget_after,
    /// How long a flow to a bare address may still get its name before it is judged. Default 2 s.
    name_wait,
    /// How long after a process's first contact its other first contacts are the same cause, told by one alert.
    /// Default 10 s.
    first_contacts,
    /// Rules that raise nothing. Default none.
    disabled,
    /// How large detection's tables may grow; what is thrown out is counted.
    limits,
    /// First contacts: rules new_process_egress, new_process_dest, new_geo.
    novelty,
    /// Changed images: rule identity_change.
    identity as "identity_change",
    /// Volume spikes: rule volume_spike.
    volume as "volume_spike",
    /// Port scans: rule port_scan; a threshold random walk (Jung et al., IEEE S&P 2004), turned outwards.
    scan as "port_scan",
    /// Call-backs: rule beaconing; the quantile fold of the gaps, and context.
    beacon as "beaconing",
    /// DNS tunnels: rule dns_tunnel; information sent to each registrable domain, in windows of 15 min, 6 h and 24
    /// h.
    dns as "dns_tunnel",
    /// Bandwidth: rule bandwidth.
    bandwidth,
    /// Egress that nobody owns: rule unattributed_egress.
    unattributed as "unattributed_egress",
});

section_of!(DetectionLimits {
    /// Programs and destinations that the baseline holds.
    baseline,
    /// Open flows followed. Default 131,072.
    flows,
    /// Destinations whose beats are followed. Default 16,384.
    beacons,
    /// Registrable domains whose questions are followed. Default 16,384.
    dns_parents,
    /// Incidents remembered for their cooldown. Default 16,384.
    incidents,
    /// Flows waiting for their name. Default 16,384.
    waiting,
});

section_of!(BaselineLimits {
    /// Programs held. Default 16,384.
    programs,
    /// Programs and destinations, held as pairs. Default 65,536.
    pairs,
});

section_of!(NoveltySettings {
    /// Suspicion (0 to 6) from which a program's first egress is reported, where the baseline is wide enough to
    /// tell. Default 2.
    first_egress_suspicion,
    /// Learned programs from which the baseline can tell ordinary new programs from others; below, every first
    /// egress is reported. Default 10.
    wide_baseline_programs,
    /// Destinations first met late in learning from which a program's new destinations say nothing. Default 2.
    explorer_labels,
    /// Contacts from which a named destination is established on the host for every program. Default 10.
    established_contacts,
    /// Time between first and last contact from which it is established. Default 12 h.
    established_for,
    /// New destinations of one program within a minute that are reported one by one; further ones make one alert.
    /// Default 5.
    burst,
    /// How long a program that only asks a resolver is waited for before that counts as its egress. Default 60 s.
    resolver_only_wait,
    /// Countries from which a program is one that reaches the whole world. Default 8.
    spread_countries,
});

section_of!(IdentitySettings {
    /// How long after a package manager's egress a change counts as its work. Default 10 min.
    update_window,
    /// Images that must change together to be an update, where no package says so. Default 2.
    together,
    /// How long to wait for the others. Default 2 min.
    together_wait,
});

section_of!(VolumeSettings {
    /// Robust deviations above the learned median. Default 5.
    deviations,
    /// Times the most ever learned. Default 3.
    times_max,
    /// Bytes of each window (1 min, 10 min, 1 h, 6 h) below which nothing is a spike. Default 5, 8, 12, 25 MiB.
    floors,
    /// Learned windows from which the windows speak. Default 8, pktscope-core's "volume_min_samples".
    min_samples,
    /// Weight of the newest interval in the moving average. Default 0.3, pktscope-core's "volume_alpha".
    alpha,
    /// Bytes to a destination new to the program, in six hours. Default 4 MB.
    new_destination_bytes,
    /// The same where program and destination look ordinary. Default 1 GiB.
    ordinary_destination_bytes,
    /// Producer-consumer ratio above which a program pushes (Bullard and Gerth, FloCon 2014: 0.4 is mail). Default
    /// 0.5.
    push_ratio,
    /// Suspicion from which the lower bound holds. Default 2.
    suspicion,
    /// Times the most at this hour of the week. Default 2.
    times_weekly,
});

section_of!(ScanSettings {
    /// Prior contacts of the share of answered first contacts, and how many of them answered. Default 8 and 6.4.
    prior,
    /// Bounds of that share. Default 0.3 to 0.95.
    answered_bounds,
    /// Share that a scanner gets at most. Default 0.2.
    scanner_answered,
    /// Log-likelihood ratio that alarms, and its negative the floor: ln 99, for PD .99 and PF .01. Default 4.595.
    alarm,
    /// Hosts or ports that must have failed. Default 5.
    min_targets,
    /// Half-life of the walk. Default 12 h.
    half_life,
    /// Weight of a failed contact that has a name. Default 0.25.
    named_weight,
    /// Weight of a datagram without an answer: many protocols never answer. Default 0.5.
    silent_weight,
    /// Share of answers below which failures are a program's daily life and the evidence must be twice as strong.
    /// Default 0.6.
    mixed_share,
    /// Programs failing together, with no answer from outside meanwhile, from which the network is taken for down.
    /// Default 4.
    outage_programs,
    /// How long failures of several programs count together. Default 10 s.
    outage_window,
});

section_of!(BeaconSettings {
    /// Score from which it is reported. Default 0.62.
    threshold,
    /// Taken off where several programs use the destination. Default 0.3.
    shared_penalty,
    /// Programs from which a destination is shared. Default 3.
    shared_programs,
    /// Taken off for a private destination. Default 0.4.
    private_penalty,
    /// Taken off where the program is regular to many destinations. Default 0.45.
    monitor_penalty,
    /// Regular destinations, a third of all at least, from which a program is a monitor. Default 10.
    monitor_destinations,
    /// Taken off for a new, ordinary program at a named destination. Default 0.4.
    ordinary_penalty,
    /// Destinations from which a program must show more beats. Default 8.
    busy_destinations,
    /// Beats it must show then. Default 20.
    busy_beats,
    /// Learned contacts from which a destination is no longer followed. Default 5.
    learned_contacts,
} without { update_interval });

section_of!(DnsTunnelSettings {
    /// Bytes of names not asked before. Default 900, 2,500, 6,000.
    name_bytes,
    /// Times the most ever learned for the domain. Default 4.
    times_learned,
    /// New names that must be among them, and their mean length in bytes. Default 12 and 5.
    min_names,
    /// Questions without any connection to the domain. Default 250, 900, 2,500.
    questions,
    /// Bytes of answers of types that carry data (TXT, NULL, KEY, CNAME, MX), in 15 min and 6 h. Default 60,000,
    /// 150,000.
    answer_bytes,
    /// Names, all new, in six hours and without a connection. Default 60.
    all_new_names,
    /// Weight of a name that does not exist: a tunnel's server answers. Default 0.25.
    missing_weight,
    /// Factor on the bounds where the program connects to what it asks for. Default 8.
    connected_factor,
    /// Length of a name from which it counts for its top-level domain, where that is on no list. Default 60.
    long_name_bytes,
});

section_of!(BandwidthSettings {
    /// Bytes a second sent. Default 100,000,000, netwatch-sdk's.
    bytes_per_second,
    /// Seconds in a row above it. Default 5; netwatch-sdk's two samples were ten seconds apart at least.
    seconds,
});

section_of!(UnattributedSettings {
    /// Bytes in ten minutes. Default 1 MiB.
    bytes,
    /// Times the most learned. Default 3.
    times_learned,
    /// How long after the agent's start sockets older than it are expected. Default 10 min.
    start_grace,
});
