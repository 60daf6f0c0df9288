//! What the table asks about a process, and when it tells of one.

use std::sync::Arc;

use super::{Announcement, Effect, Entry, Lookup, LookupDepth, Process, ProcessKey, ProcessTable};
use crate::core::time::BootTime;

impl ProcessTable {
    /// Asks about a process and its ancestors, and announces each that is settled: the others follow when they are.
    pub(super) fn need(&mut self, key: ProcessKey, now: BootTime, effects: &mut Vec<Effect>) {
        let due = now.plus(self.limits.settle_timeout);
        for key in self.lineage(key).into_iter().rev() {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if entry.announcement != Announcement::NotNeeded {
                continue;
            }
            entry.announcement = Announcement::DueBy(due);
            self.due.insert((due, key));
            self.refresh(key);
            self.ask(key, LookupDepth::Full, effects);
            if self.entries.get(&key).is_some_and(Entry::is_settled) {
                self.announce(key, effects);
            }
        }
    }

    pub(super) fn ask(&mut self, key: ProcessKey, depth: LookupDepth, effects: &mut Vec<Effect>) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if entry.is_kernel_thread || entry.asked >= Some(depth) {
            return;
        }
        entry.asked = Some(depth);
        effects.push(Effect::Lookup(Lookup::Process(Box::new(entry.question(depth)))));
    }

    pub(super) fn stop_waiting(&mut self, key: ProcessKey, effects: &mut Vec<Effect>) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.is_awaiting_user = false;
        if matches!(entry.announcement, Announcement::DueBy(_)) {
            self.announce(key, effects);
        }
    }

    pub(super) fn announce(&mut self, key: ProcessKey, effects: &mut Vec<Effect>) {
        let process = self.materialise(key);
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if let Announcement::DueBy(due) = entry.announcement {
            self.due.remove(&(due, key));
        }
        entry.announcement = Announcement::Done;
        let Some(process) = process else { return };
        effects.push(Effect::ProcessStarted(process.clone()));
        if let Some((at, status)) = entry.ended {
            effects.push(Effect::ProcessEnded(process, at, status));
        }
    }

    /// Tells of an answered process what is new to the world.
    pub(super) fn show(&mut self, key: ProcessKey, now: BootTime, effects: &mut Vec<Effect>) -> Option<Arc<Process>> {
        self.refresh(key);
        let changed = self.tell_change(key, effects);
        let entry = self.entries.get(&key)?;
        let announcement = entry.announcement;
        if matches!(announcement, Announcement::DueBy(_)) && entry.is_settled() {
            self.announce(key, effects);
        }
        if announcement != Announcement::NotNeeded {
            self.need(key, now, effects);
        }
        changed
    }

    /// Makes a process anew after a change, and tells of it where the process was announced.
    pub(super) fn tell_change(&mut self, key: ProcessKey, effects: &mut Vec<Effect>) -> Option<Arc<Process>> {
        let entry = self.entries.get_mut(&key)?;
        let changed = entry.rebuild(&self.boot_id)?;
        if entry.announcement == Announcement::Done {
            effects.push(Effect::ProcessChanged(changed.clone()));
        }
        Some(changed)
    }
}
