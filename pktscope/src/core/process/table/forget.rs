//! What the table lets go: ended processes after a while, others where it is full.

use super::{Announcement, Effect, Entry, ProcessKey, ProcessTable};
use crate::core::time::BootTime;

/// Live processes looked at for one to evict before the oldest is taken regardless.
const MAX_EVICTION_STEPS: usize = 64;

impl ProcessTable {
    pub(super) fn is_past_keeping(&self, at: BootTime, now: BootTime) -> bool {
        self.limits.keep_ended <= now.since(at)
    }

    /// Forgets the process that ended first, or keeps it where it was used lately.
    pub(super) fn forget_ended(&mut self, key: ProcessKey, now: BootTime, effects: &mut Vec<Effect>) {
        let used = self.entries.get(&key).map_or(BootTime(0), |entry| entry.last_used);
        self.ended.pop_first();
        if self.is_past_keeping(used, now) {
            self.remove(key, effects);
        } else {
            self.ended.insert((used, key));
        }
    }

    pub(super) fn forget_oldest_ended(&mut self, effects: &mut Vec<Effect>) {
        if let Some((_, key)) = self.ended.pop_first() {
            let is_needed = |entry: &Entry| !matches!(entry.announcement, Announcement::NotNeeded);
            self.counters.evicted_ended += 1;
            self.counters.evicted_owners += u64::from(self.entries.get(&key).is_some_and(is_needed));
            self.remove(key, effects);
        }
    }

    fn remove(&mut self, key: ProcessKey, effects: &mut Vec<Effect>) {
        if self.entries.get(&key).is_some_and(|entry| matches!(entry.announcement, Announcement::DueBy(_))) {
            self.announce(key, effects);
        }
        self.entries.remove(&key);
        if self.newest.get(&key.pid) == Some(&key.started_at) {
            self.newest.remove(&key.pid);
        }
    }

    pub(super) fn make_room(&mut self, effects: &mut Vec<Effect>) {
        if 2 * self.entries.len() + MAX_EVICTION_STEPS < self.arrivals.len() {
            self.arrivals.retain(|key| self.entries.contains_key(key));
        }
        if self.entries.len() < self.limits.processes {
            return;
        }
        if self.ended.is_empty() {
            self.counters.evicted_live += 1;
            self.evict_live(effects);
        } else {
            self.forget_oldest_ended(effects);
        }
    }

    /// Forgets the live process that came first and owns no socket: `/proc` still knows it if it is needed after all.
    fn evict_live(&mut self, effects: &mut Vec<Effect>) {
        for step in 0.. {
            let Some(key) = self.arrivals.pop_front() else { return };
            let Some(entry) = self.entries.get(&key) else { continue };
            if step < MAX_EVICTION_STEPS && entry.announcement != Announcement::NotNeeded {
                self.arrivals.push_back(key);
                continue;
            }
            return self.remove(key, effects);
        }
    }
}
