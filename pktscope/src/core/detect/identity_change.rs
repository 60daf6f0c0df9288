//! Stub.
use super::Detector;
use crate::core::alert::RuleId;
/// Stub.
#[derive(Debug, Default)]
pub struct IdentityChange;
impl Detector for IdentityChange {
    fn rule(&self) -> RuleId {
        RuleId::IdentityChange
    }
}
