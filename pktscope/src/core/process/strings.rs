//! One copy of each string that many processes share.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashSet;

/// Sweeping a smaller set is not worth its time.
const SMALLEST_SWEEP: usize = 1024;

/// Strings in use; those that nobody else holds go at the next sweep, so the set follows what it serves.
pub(super) struct Strings {
    known: HashSet<Arc<str>, RandomState>,
    sweep_at: usize,
}

impl Strings {
    pub(super) fn new() -> Self {
        Self { known: HashSet::with_hasher(fixed_hasher()), sweep_at: SMALLEST_SWEEP }
    }

    /// The one copy of `text`.
    pub(super) fn share(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = (2 * self.known.len()).max(SMALLEST_SWEEP);
        }
        self.known.insert(text.clone());
        text.clone()
    }

    /// The one copy of an optional text.
    pub(super) fn share_some(&mut self, text: Option<&Arc<str>>) -> Option<Arc<str>> {
        text.map(|text| self.share(text))
    }
}

/// A hasher with fixed keys: the same inputs give the same table.
pub(super) fn fixed_hasher() -> RandomState {
    RandomState::with_seeds(0x706b_7473, 0x636f_7065, 1, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_one_and_unused_ones_go() {
        let mut strings = Strings::new();
        let first = strings.share(&"a".into());
        assert!(Arc::ptr_eq(&first, &strings.share(&"a".into())));
        for n in 0..10 * SMALLEST_SWEEP {
            strings.share(&n.to_string().into());
        }
        assert!(strings.known.len() <= 2 * SMALLEST_SWEEP, "{}", strings.known.len());
        assert!(Arc::ptr_eq(&first, &strings.share(&"a".into())), "a string in use stays");
    }
}
