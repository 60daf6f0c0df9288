//! Forgetting: what is too old, what there is no room for, what a person resets.

use std::time::Duration;

use super::{Baseline, LabelId, ProgramId};
use crate::core::baseline::{identity::ProgramKey, rows::RowKey, steady::Steady};

impl Baseline {
    /// Programs thrown out since the last call, so that others drop what they keep of them.
    pub fn take_forgotten(&mut self) -> Vec<ProgramId> {
        std::mem::take(&mut self.forgotten_programs)
    }

    /// Forgets a program and its pairs.
    pub fn forget_program(&mut self, id: ProgramId) {
        let Some(program) = self.programs.get_mut(id.index()).and_then(Option::take) else { return };
        let key = program.row.key;
        if let Some(ids) = self.by_name.get_mut(&key.name) {
            ids.retain(|known| *known != id);
            if ids.is_empty() {
                self.by_name.remove(&key.name);
            }
        }
        let mut labels: Vec<LabelId> =
            self.pairs.keys().filter(|(known, _)| *known == id).map(|(_, label)| *label).collect();
        labels.sort_unstable();
        labels.into_iter().for_each(|label| self.forget_pair_of(&key, id, label));
        self.forgotten.extend([RowKey::Volume(key.clone()), RowKey::Contacts(key.clone()), RowKey::Program(key)]);
        self.forgotten_programs.push(id);
        self.free_programs.push(id.0);
    }

    /// Forgets a pair.
    pub fn forget_pair(&mut self, program: ProgramId, label: LabelId) {
        if let Some(key) = self.program(program).map(|program| program.row.key.clone()) {
            self.forget_pair_of(&key, program, label);
        }
    }

    fn forget_pair_of(&mut self, key: &ProgramKey, program: ProgramId, label: LabelId) {
        if self.pairs.remove(&(program, label)).is_none() {
            return;
        }
        self.forgotten.push(RowKey::Pair(key.clone(), self.label_name(label)));
        let Some(slot) = self.labels.get_mut(label.0 as usize) else { return };
        if let Some(known) = slot {
            known.programs = known.programs.saturating_sub(1);
            if known.programs == 0 {
                self.by_label.remove(&known.name);
                *slot = None;
                self.free_labels.push(label.0);
            }
        }
    }

    /// Forgets pairs, then programs, not seen for `age`.
    pub fn forget_older(&mut self, now: Steady, age: Duration) {
        let oldest = now.minus(age).seconds();
        let mut old: Vec<_> =
            self.pairs.iter().filter(|(_, pair)| pair.last_seen < oldest).map(|(key, _)| *key).collect();
        old.sort_unstable();
        old.into_iter().for_each(|(program, label)| self.forget_pair(program, label));
        let idle: Vec<_> = self
            .all_programs()
            .filter(|(_, p)| !p.is_host() && p.row.last_seen.seconds() < oldest)
            .map(|(id, _)| id)
            .collect();
        idle.into_iter().for_each(|id| self.forget_program(id));
    }

    /// Throws out what is beyond the bounds, after rows were taken in.
    pub(in crate::core::baseline) fn keep_limits(&mut self) {
        while self.programs.len() - self.free_programs.len() > self.limits.programs {
            self.evict_programs();
        }
        while self.pairs.len() > self.limits.pairs {
            self.evict_pairs();
        }
    }

    /// Throws out the sixteenth of the programs that were idle longest.
    pub(super) fn evict_programs(&mut self) {
        let programs = self.all_programs().filter(|(_, program)| !program.is_host());
        let mut by_age: Vec<_> = programs.map(|(id, program)| (program.row.last_seen, id)).collect();
        by_age.sort_unstable();
        for (_, id) in by_age.into_iter().take((self.limits.programs / 16).max(1)) {
            self.forget_program(id);
            self.evictions.programs += 1;
        }
    }

    /// Throws out the sixteenth of the pairs that were idle longest.
    pub(super) fn evict_pairs(&mut self) {
        let mut by_age: Vec<_> = self.pairs.iter().map(|(key, pair)| (pair.last_seen, *key)).collect();
        by_age.sort_unstable();
        for (_, (program, label)) in by_age.into_iter().take((self.limits.pairs / 16).max(1)) {
            self.forget_pair(program, label);
            self.evictions.pairs += 1;
        }
    }
}
