//! Detectors: flows, names and identities in, verdicts out.
//!
//! [`engine::Detection`] is the one entry: it works out what a change means for its program ([`sight::Sight`]), asks
//! every detector, learns what no open alert is about, and makes an alert of a finding that is new. A detector holds
//! its own short-term state, reads the baseline and never writes it; it is its file and one line in [`registry`].

pub mod bandwidth;
pub mod beaconing;
pub mod dns_tunnel;
pub mod engine;
pub mod finding;
mod flows;
pub mod identity_change;
mod import;
mod judge;
pub mod new_geo;
pub mod new_process_dest;
pub mod new_process_egress;
mod persist;
pub mod port_scan;
mod programs;
pub mod settings;
pub mod sight;
pub mod standing;
pub mod unattributed_egress;
pub mod volume_spike;

use super::{
    alert::RuleId,
    baseline::{Baseline, BaselineRow, ProgramId, Steady},
};

pub use engine::{Detection, DetectionInput};
pub use finding::Finding;
pub use persist::Closing;
pub use settings::DetectionSettings;
pub use sight::{Actor, DnsSight, LedgerSight, ProgramSight, Sight};

/// What a detector says.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing to see.
    Normal,
    /// Not yet known.
    NeedMoreData,
    /// A sign, with evidence.
    Suspicious(Box<Finding>),
}

/// An incident that an analyst closed as normal.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    /// Its program, where it is about one that is still known.
    pub program: Option<ProgramId>,
    /// Its destination.
    pub label: Option<&'a str>,
    /// When it was closed.
    pub now: Steady,
}

/// One rule.
pub trait Detector: Send {
    /// The rule it decides.
    fn rule(&self) -> RuleId;

    /// A change of an egress flow with a program.
    fn see_flow(&mut self, _sight: &Sight<'_>, _normal: &Baseline, _settings: &DetectionSettings) -> Verdict {
        Verdict::Normal
    }

    /// A DNS answer.
    fn see_dns(&mut self, _sight: &DnsSight<'_>, _normal: &Baseline, _settings: &DetectionSettings) -> Verdict {
        Verdict::Normal
    }

    /// A program that has egress, with what is known of its image.
    fn see_program(&mut self, _sight: &ProgramSight<'_>, _normal: &Baseline, _settings: &DetectionSettings) -> Verdict {
        Verdict::Normal
    }

    /// A closed interval of the ledger.
    fn see_ledger(&mut self, _sight: &LedgerSight<'_>, _normal: &Baseline, _settings: &DetectionSettings) -> Verdict {
        Verdict::Normal
    }

    /// A second is over; called for each second in which something happened, and at every tick.
    fn close_second(&mut self, _now: Steady, _normal: &Baseline, _settings: &DetectionSettings) -> Vec<Finding> {
        Vec::new()
    }

    /// A minute is over; called for each minute, in order, whether anything happened or not.
    fn close_minute(&mut self, _now: Steady, _normal: &Baseline, _settings: &DetectionSettings) -> Vec<Finding> {
        Vec::new()
    }

    /// The agent stops: what is open is judged as it stands.
    fn finish(&mut self, now: Steady, normal: &Baseline, settings: &DetectionSettings) -> Vec<Finding> {
        self.close_minute(now, normal, settings)
    }

    /// An analyst said that what was reported is normal.
    fn accept(&mut self, _incident: &Accepted<'_>) {}

    /// A program is gone from the tables.
    fn forget(&mut self, _program: ProgramId) {}

    /// Changed rows to store.
    fn take_dirty(&mut self, _normal: &Baseline) -> Vec<BaselineRow> {
        Vec::new()
    }

    /// All rows, as for an export.
    fn rows(&self, _normal: &Baseline) -> Vec<BaselineRow> {
        Vec::new()
    }

    /// Takes a stored row back.
    fn restore(&mut self, _row: &BaselineRow, _normal: &Baseline) {}

    /// What it threw out because a table was full.
    fn evicted(&self) -> u64 {
        0
    }
}

/// Every detector, in the order they are asked.
pub fn registry() -> Vec<Box<dyn Detector>> {
    vec![
        Box::<new_process_egress::NewProcessEgress>::default(),
        Box::<new_process_dest::NewProcessDest>::default(),
        Box::<new_geo::NewGeo>::default(),
        Box::<identity_change::IdentityChange>::default(),
        Box::<port_scan::PortScan>::default(),
        Box::<volume_spike::VolumeSpike>::default(),
        Box::<bandwidth::Bandwidth>::default(),
        Box::<beaconing::Beaconing>::default(),
        Box::<dns_tunnel::DnsTunnel>::default(),
        Box::<unattributed_egress::UnattributedEgress>::default(),
    ]
}

#[cfg(test)]
mod tests;
