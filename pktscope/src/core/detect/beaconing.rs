//! Stub.
use super::Detector;
use crate::core::alert::RuleId;
/// Stub.
#[derive(Debug, Default)]
pub struct Beaconing;
impl Detector for Beaconing {
    fn rule(&self) -> RuleId {
        RuleId::Beaconing
    }
}
