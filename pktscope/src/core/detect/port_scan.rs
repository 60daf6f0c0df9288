//! Stub.
use super::Detector;
use crate::core::alert::RuleId;
/// Stub.
#[derive(Debug, Default)]
pub struct PortScan;
impl Detector for PortScan {
    fn rule(&self) -> RuleId {
        RuleId::PortScan
    }
}
