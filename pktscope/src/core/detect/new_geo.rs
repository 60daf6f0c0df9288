//! Stub.
use super::Detector;
use crate::core::alert::RuleId;
/// Stub.
#[derive(Debug, Default)]
pub struct NewGeo;
impl Detector for NewGeo {
    fn rule(&self) -> RuleId {
        RuleId::NewGeo
    }
}
