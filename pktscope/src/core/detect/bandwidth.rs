//! Stub.
use super::Detector;
use crate::core::alert::RuleId;
/// Stub.
#[derive(Debug, Default)]
pub struct Bandwidth;
impl Detector for Bandwidth {
    fn rule(&self) -> RuleId {
        RuleId::Bandwidth
    }
}
