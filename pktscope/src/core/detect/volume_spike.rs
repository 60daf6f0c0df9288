//! Stub.
use super::Detector;
use crate::core::alert::RuleId;
/// Stub.
#[derive(Debug, Default)]
pub struct VolumeSpike;
impl Detector for VolumeSpike {
    fn rule(&self) -> RuleId {
        RuleId::VolumeSpike
    }
}
