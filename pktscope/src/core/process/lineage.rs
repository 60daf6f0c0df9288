//! The chain of parents.

use std::sync::Arc;

use super::{Process, ProcessKey, table::ProcessTable};

/// The longest chain that is followed; init is rarely more than a dozen steps away.
pub(super) const MAX_ANCESTORS: usize = 64;

impl ProcessTable {
    /// The known ancestors of a process, its parent first.
    ///
    /// The parent is the one that forked it, also where that has ended and init took its place. The chain ends at the
    /// first process that is not known, at init, or after 64 steps.
    pub fn ancestors(&mut self, key: ProcessKey) -> Vec<Arc<Process>> {
        self.lineage(key).into_iter().skip(1).filter_map(|ancestor| self.materialise(ancestor)).collect()
    }

    /// The process and its known ancestors, by key; a parent started no later than its child, so a wrong record cannot
    /// make a circle.
    pub(super) fn lineage(&self, key: ProcessKey) -> Vec<ProcessKey> {
        let mut chain = vec![key.rounded()];
        while let Some(parent) = chain.last().and_then(|last| self.parent_of(*last)) {
            let is_circle =
                chain.contains(&parent) || chain.last().is_some_and(|last| last.started_at < parent.started_at);
            if is_circle || chain.len() > MAX_ANCESTORS {
                break;
            }
            chain.push(parent);
        }
        chain
    }
}
