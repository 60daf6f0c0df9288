//! Stub.
use super::Detector;
use crate::core::alert::RuleId;
/// Stub.
#[derive(Debug, Default)]
pub struct UnattributedEgress;
impl Detector for UnattributedEgress {
    fn rule(&self) -> RuleId {
        RuleId::UnattributedEgress
    }
}
