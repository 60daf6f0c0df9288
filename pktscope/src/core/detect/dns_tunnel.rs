//! Stub.
use super::Detector;
use crate::core::alert::RuleId;
/// Stub.
#[derive(Debug, Default)]
pub struct DnsTunnel;
impl Detector for DnsTunnel {
    fn rule(&self) -> RuleId {
        RuleId::DnsTunnel
    }
}
