//! Who goes when the table is full.

use super::{Tracker, bits};
use crate::core::{
    flow::{EndReason, Observer, expiry::NONE, table::Class},
    time::BootTime,
};

/// Flows looked at for one eviction.
const SAMPLES: usize = 16;

impl<U: Default + PartialEq> Tracker<U> {
    /// Ends the flow that is worth least.
    pub(super) fn evict_any(&mut self, observer: &mut impl Observer<U>) {
        match self.unconfirmed.first() {
            Some(first) => self.evict_unconfirmed(first, observer),
            None => self.evict_confirmed(observer),
        }
    }

    /// Takes the soonest due; one that was used since it was put there goes to its real place, a few times at most.
    fn evict_unconfirmed(&mut self, mut index: u32, observer: &mut impl Observer<U>) {
        for _ in 0..SAMPLES {
            let entry = self.table.entry(index);
            let due = BootTime(self.timeouts.deadline(entry));
            self.unconfirmed.remove(&mut self.table, index);
            self.unconfirmed.insert(&mut self.table, index, due);
            match self.unconfirmed.first() {
                Some(first) if first != index => index = first,
                _ => break,
            }
        }
        self.statistics.evicted_unconfirmed += 1;
        self.evict(index, observer);
    }

    fn evict_confirmed(&mut self, observer: &mut impl Observer<U>) {
        let Some(index) = self.least_recent_of_sample() else { return };
        self.statistics.evicted_confirmed += 1;
        self.evict(index, observer);
    }

    fn evict(&mut self, index: u32, observer: &mut impl Observer<U>) {
        let (at, reason) = match self.table.entry(index).class() {
            Class::Closed => self.ending(index),
            _ => (self.clock.now(), EndReason::LackOfResources),
        };
        self.end(index, at, reason, observer);
    }

    /// Samples places at random, then, should all of them be empty or unconfirmed, takes the first from there on.
    fn least_recent_of_sample(&mut self) -> Option<u32> {
        let slots = self.table.slots() as u64;
        let mut best: Option<u32> = None;
        for _ in 0..SAMPLES {
            // xorshift64 (Marsaglia 2003): enough to spread samples, the same in every run.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let index = (self.random % slots.max(1)) as u32;
            if self.is_confirmed(index)
                && best.is_none_or(|best| self.table.entry(index).last_seen < self.table.entry(best).last_seen)
            {
                best = Some(index);
            }
        }
        best.or_else(|| (0..slots as u32).find(|index| self.is_confirmed(*index)))
    }

    fn is_confirmed(&self, index: u32) -> bool {
        let entry = self.table.entry(index);
        entry.has(bits::LIVE) && entry.class() == Class::Confirmed && entry.links.previous != NONE
    }

    /// Keeps an eighth of the table for flows that are not confirmed yet.
    pub(super) fn make_room_for_confirmed(&mut self, observer: &mut impl Observer<U>) {
        if self.confirmed.len() >= (self.settings.max_flows - self.settings.max_flows / 8).max(1) {
            self.evict_confirmed(observer);
        }
    }
}
