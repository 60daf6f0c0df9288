//! Stored rows become the baseline again, in whatever order they come.

use super::{
    identity::Location,
    profile::{Baseline, Pair, Program, ProgramId},
    rows::{BaselineRow, PairRow, ProgramRow},
};
use crate::core::process::Process;

impl Baseline {
    /// Takes stored rows back; rows about a program that is not among them are left out and counted.
    pub fn restore(&mut self, rows: &[BaselineRow]) -> usize {
        for row in rows {
            match row {
                BaselineRow::Host(host) => {
                    self.learning.restore(host);
                    self.context.restore(&host.as_contacts);
                }
                BaselineRow::Program(program) => self.restore_program(program),
                _ => {}
            }
        }
        self.by_name_in_order();
        let pairs = rows.iter().filter_map(|row| if let BaselineRow::Pair(pair) = row { Some(pair) } else { None });
        pairs.filter(|pair| !self.restore_pair(pair)).count()
    }

    /// The program a stored row is about.
    pub fn by_key(&self, key: &super::ProgramKey) -> Option<ProgramId> {
        self.named(&key.name).iter().copied().find(|id| self.program(*id).is_some_and(|known| known.row.key == *key))
    }

    fn restore_program(&mut self, row: &ProgramRow) {
        if self.by_key(&row.key).is_some() {
            return;
        }
        let location = Location::of(&Process { executable: row.executable.clone(), ..Process::default() });
        let location = if row.package.is_some() { Location::Packaged } else { location };
        self.place_program(Program::restored(row.clone(), location));
    }

    /// Generations in order, each after the one whose name it took.
    fn by_name_in_order(&mut self) {
        let generation = |programs: &[Option<Program>], id: ProgramId| {
            programs.get(id.index()).and_then(Option::as_ref).map_or(0, |program| program.row.key.generation)
        };
        let mut links = Vec::new();
        for ids in self.by_name.values_mut() {
            ids.sort_by_key(|id| generation(&self.programs, *id));
            links.extend(ids.windows(2).map(|pair| (pair[1], pair[0])));
        }
        for (id, predecessor) in links {
            if let Some(Some(program)) = self.programs.get_mut(id.index()) {
                program.predecessor = Some(predecessor);
            }
        }
    }

    fn restore_pair(&mut self, row: &PairRow) -> bool {
        let Some(program) = self.by_key(&row.program) else { return false };
        let label = self.label_id(&row.label);
        self.place_pair(program, label, Pair::restored(row));
        self.restore_label(label, row);
        true
    }
}
