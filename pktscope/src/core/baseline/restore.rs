//! Stored rows become the baseline again, in whatever order they come.

use super::{
    identity::Location,
    profile::{Baseline, MAX_IMAGES, MAX_PLACES, Pair, PairState, Program, ProgramId},
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
                BaselineRow::Program(program) => drop(self.restore_program(program)),
                _ => {}
            }
        }
        self.by_name_in_order();
        let pairs = rows.iter().filter_map(|row| if let BaselineRow::Pair(pair) = row { Some(pair) } else { None });
        let orphans = pairs.filter(|pair| !self.restore_pair(pair)).count();
        self.keep_limits();
        orphans
    }

    /// Takes another host's program, unless an alert was open about it there; of one known here, what is new of it.
    pub fn import_program(&mut self, row: &ProgramRow) {
        if row.alert_open_until.is_some_and(|until| row.last_seen < until) {
            return;
        }
        let id = self.by_key(&row.key).unwrap_or_else(|| {
            // Its destinations are counted as they come.
            let fresh = ProgramRow { labels: 0, alert_open_until: None, ..row.clone() };
            let id = self.restore_program(&fresh);
            self.by_name_in_order();
            self.keep_limits();
            id
        });
        let Some(program) = self.program_mut(id) else { return };
        program.row.is_learned |= row.is_learned;
        program.row.last_seen = program.row.last_seen.max(row.last_seen);
        add_missing(&mut program.row.images, &row.images, MAX_IMAGES);
        add_missing(&mut program.row.countries, &row.countries, MAX_PLACES);
        add_missing(&mut program.row.as_numbers, &row.as_numbers, MAX_PLACES);
    }

    /// Takes another host's pair, unless it is known here or an alert was open about it there.
    pub fn import_pair(&mut self, row: &PairRow) {
        let Some(program) = self.by_key(&row.program).filter(|_| row.state != PairState::Alerted) else { return };
        if self.known_label(&row.label).is_some_and(|label| self.pair(program, label).is_some()) {
            return;
        }
        self.restore_pair(row);
        if let Some(label) = self.known_label(&row.label) {
            self.set_pair(program, label, |_| {});
        }
        if let Some(known) = self.program_mut(program) {
            known.row.labels = known.row.labels.saturating_add(1);
        }
        self.keep_limits();
    }

    /// Whether the program that a row is about is there; of a row about none, always.
    pub fn has_program_of(&self, row: &BaselineRow) -> bool {
        let key = match row {
            BaselineRow::Host(_) | BaselineRow::DnsParent(_) | BaselineRow::Forgotten(_) => return true,
            BaselineRow::Program(row) => &row.key,
            BaselineRow::Pair(row) => &row.program,
            BaselineRow::Volume(row) => &row.program,
            BaselineRow::Contacts(row) => &row.program,
        };
        self.by_key(key).is_some()
    }

    /// The program a stored row is about.
    pub fn by_key(&self, key: &super::ProgramKey) -> Option<ProgramId> {
        self.named(&key.name).iter().copied().find(|id| self.program(*id).is_some_and(|known| known.row.key == *key))
    }

    fn restore_program(&mut self, row: &ProgramRow) -> ProgramId {
        if let Some(known) = self.by_key(&row.key) {
            return known;
        }
        let location = Location::of(&Process { executable: row.executable.clone(), ..Process::default() });
        let location = if row.package.is_some() { Location::Packaged } else { location };
        self.place_program(Program::restored(row.clone(), location))
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

/// Adds what is not there yet, while there is room.
fn add_missing<T: Clone + PartialEq>(known: &mut Vec<T>, others: &[T], max: usize) {
    let room = max.saturating_sub(known.len());
    let missing: Vec<_> = others.iter().filter(|one| !known.contains(one)).take(room).cloned().collect();
    known.extend(missing);
}
