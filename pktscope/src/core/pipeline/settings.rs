//! What the pipeline is told at its making.

use std::time::Duration;

use crate::core::{dissect::flows::DissectLimits, flow::FlowSettings, names::NameSettings, process::ProcessLimits};

/// Bounds, time-outs and facts of the machine.
#[derive(Clone, Debug)]
pub struct PipelineSettings {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The agent's network namespace, by cookie: its sockets are in the ledger. 0: every namespace is.
    pub netns: u64,
    /// Whether somebody answers [`crate::core::effect::Lookup::Geo`].
    pub has_geo: bool,
    /// How long a flow's first change waits for its program's facts.
    pub hold_timeout: Duration,
    /// Flows that wait at once.
    pub hold_flows: usize,
    /// Flows.
    pub flow: FlowSettings,
    /// Processes.
    pub processes: ProcessLimits,
    /// First bytes.
    pub dissect: DissectLimits,
    /// Names.
    pub names: NameSettings,
}

impl PipelineSettings {
    /// With this seed for every hash of what others choose: a live agent takes another one in each run. The same inputs
    /// give the same results with any seed.
    #[must_use]
    pub fn seeded(mut self, seed: u64) -> Self {
        (self.flow.hash_seed, self.dissect.hash_seed, self.names.hash_seed) = (seed, seed, seed);
        self
    }
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self {
            boot_id: String::new(),
            netns: 0,
            has_geo: false,
            hold_timeout: Duration::from_secs(1),
            hold_flows: 16_384,
            flow: FlowSettings::default(),
            processes: ProcessLimits::default(),
            dissect: DissectLimits::default(),
            names: NameSettings::default(),
        }
    }
}
