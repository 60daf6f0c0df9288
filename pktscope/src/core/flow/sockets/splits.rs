//! Where flows ended that were open for the active time-out: their continuation begins there, not with its first report.

use std::collections::BTreeMap;

use crate::core::{flow::FlowId, time::BootTime};

/// Ends remembered; those of connections that stay silent make room first, as they are the oldest.
const MAX_SPLITS: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Splits(BTreeMap<FlowId, BootTime>);

impl Splits {
    pub(super) fn note(&mut self, flow: FlowId, end: BootTime) {
        self.0.insert(flow, end);
        if self.0.len() > MAX_SPLITS {
            self.0.pop_first();
        }
    }

    /// When the flow was split; says so once.
    pub(super) fn take(&mut self, flow: FlowId) -> Option<BootTime> {
        self.0.remove(&flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_once_and_bounded() {
        let mut splits = Splits::default();
        (0..=MAX_SPLITS as u64).for_each(|id| splits.note(FlowId(id), BootTime(id)));
        assert_eq!(
            (splits.take(FlowId(0)), splits.take(FlowId(1)), splits.take(FlowId(1))),
            (None, Some(BootTime(1)), None)
        );
    }
}
