//! What is known of each program and of each destination it met.

mod forget;

use std::{sync::Arc, time::Duration};

use ahash::AHashMap;

use super::{
    context::HostContext,
    identity::{Location, ProgramKey},
    learn::Learning,
    rows::{BaselineRow, HostRow, PairRow, ProgramRow, RowKey},
    steady::Steady,
};

/// Images remembered for each program.
pub const MAX_IMAGES: usize = 8;
/// Destinations of a program named in a sentence.
const MAX_EXAMPLES: usize = 3;
/// The program that stands for the host itself: its resolvers, and what nobody owns.
pub const HOST: &str = "host";
/// Countries, and AS numbers, remembered for each program.
pub(super) const MAX_PLACES: usize = 64;
/// A pair's last contact is stored when it moved by this much, so that a busy pair is not written at every batch.
const STORED_GRAIN_SECONDS: u32 = 3_600;

/// A program's place in the table; never given to another program while the first is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramId(pub u32);

impl ProgramId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A destination label's place in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelId(pub u32);

/// Where a program and a destination stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PairState {
    /// Met while learning, or called normal by an analyst.
    #[default]
    Learned,
    /// Met later and found ordinary.
    Accepted,
    /// Met later and reported; not normal until the alert is closed.
    Alerted,
}

/// How large the tables may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaselineLimits {
    /// Programs.
    pub programs: usize,
    /// Programs and destinations.
    pub pairs: usize,
}

impl Default for BaselineLimits {
    /// 16,384 programs, 65,536 pairs.
    fn default() -> Self {
        Self { programs: 16_384, pairs: 65_536 }
    }
}

/// What was thrown out because a table was full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evictions {
    /// Programs.
    pub programs: u64,
    /// Pairs.
    pub pairs: u64,
}

/// A program.
#[derive(Clone, Debug)]
pub struct Program {
    /// As it is stored.
    pub row: ProgramRow,
    /// Where its image lives.
    pub location: Location,
    /// The program whose name it took over.
    pub predecessor: Option<ProgramId>,
    /// The day, since 1970, of its last alert.
    alerted_on: Option<u32>,
    /// The first destinations it met, as examples.
    examples: Vec<Arc<str>>,
    is_dirty: bool,
}

/// A program and a destination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pair {
    /// Where it stands.
    pub state: PairState,
    /// Seconds since 1970 of the first contact.
    pub first_seen: u32,
    /// Seconds since 1970 of the last contact.
    pub last_seen: u32,
    /// Flows.
    pub contacts: u32,
    /// Whether an analyst found that its regularity is normal.
    pub is_periodic: bool,
    stored_at: u32,
    is_dirty: bool,
}

impl Program {
    pub(super) fn restored(row: ProgramRow, location: Location) -> Self {
        Self { row, location, predecessor: None, alerted_on: None, examples: Vec::new(), is_dirty: false }
    }

    /// Whether it stands for the host itself, which is never thrown out.
    fn is_host(&self) -> bool {
        &*self.row.key.name == HOST
    }
}

impl Pair {
    pub(super) fn restored(row: &PairRow) -> Self {
        let (first_seen, last_seen) = (row.first_seen.seconds(), row.last_seen.seconds());
        Self {
            state: row.state,
            first_seen,
            last_seen,
            contacts: row.contacts,
            is_periodic: row.is_periodic,
            stored_at: last_seen,
            is_dirty: false,
        }
    }
}

/// A destination: a registrable domain, else an address.
#[derive(Clone, Debug)]
pub struct Label {
    /// Its name.
    pub name: Arc<str>,
    /// Programs that have a pair with it.
    pub programs: u32,
    /// Contacts by programs with few destinations.
    pub contacts: u32,
    /// Seconds since 1970 of the first contact.
    pub first_seen: u32,
    /// Seconds since 1970 of the last contact.
    pub last_seen: u32,
}

/// The learned baseline of a host.
#[derive(Debug)]
pub struct Baseline {
    /// The host's learning window.
    pub learning: Learning,
    /// What is common here.
    pub context: HostContext,
    /// Destinations first met late from which a program is one that always meets new ones.
    pub explorer_labels: u32,
    program_window: Duration,
    limits: BaselineLimits,
    pub(super) programs: Vec<Option<Program>>,
    pub(super) by_name: AHashMap<Arc<str>, Vec<ProgramId>>,
    free_programs: Vec<u32>,
    pub(super) pairs: AHashMap<(ProgramId, LabelId), Pair>,
    labels: Vec<Option<Label>>,
    by_label: AHashMap<Arc<str>, LabelId>,
    free_labels: Vec<u32>,
    dirty_programs: Vec<ProgramId>,
    dirty_pairs: Vec<(ProgramId, LabelId)>,
    forgotten: Vec<RowKey>,
    forgotten_programs: Vec<ProgramId>,
    evictions: Evictions,
}

impl Baseline {
    /// An empty baseline; a program first seen after learning learns for `program_window` by itself.
    pub fn new(learning: Learning, program_window: Duration, limits: BaselineLimits) -> Self {
        Self {
            learning,
            context: HostContext::default(),
            explorer_labels: 2,
            program_window,
            limits,
            programs: Vec::new(),
            by_name: AHashMap::new(),
            free_programs: Vec::new(),
            pairs: AHashMap::new(),
            labels: Vec::new(),
            by_label: AHashMap::new(),
            free_labels: Vec::new(),
            dirty_programs: Vec::new(),
            dirty_pairs: Vec::new(),
            forgotten: Vec::new(),
            forgotten_programs: Vec::new(),
            evictions: Evictions::default(),
        }
    }

    /// A program; `None` once it is forgotten.
    pub fn program(&self, id: ProgramId) -> Option<&Program> {
        self.programs.get(id.index())?.as_ref()
    }

    /// A program, to be changed and stored.
    pub fn program_mut(&mut self, id: ProgramId) -> Option<&mut Program> {
        let program = self.programs.get_mut(id.index())?.as_mut()?;
        if !program.is_dirty {
            program.is_dirty = true;
            self.dirty_programs.push(id);
        }
        Some(program)
    }

    /// All programs in table order.
    pub fn all_programs(&self) -> impl Iterator<Item = (ProgramId, &Program)> {
        (0..).map(ProgramId).zip(&self.programs).filter_map(|(id, program)| Some((id, program.as_ref()?)))
    }

    /// Some destinations that are normal for a program.
    pub fn examples(&self, program: &Program) -> Vec<Arc<str>> {
        program.examples.clone()
    }

    /// The programs that ran under a name, oldest first.
    pub fn named(&self, name: &str) -> &[ProgramId] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// Programs, pairs and what was thrown out.
    pub fn size(&self) -> (usize, usize, Evictions) {
        (self.programs.len() - self.free_programs.len(), self.pairs.len(), self.evictions)
    }

    /// Adds a program under a name; a name already taken makes a further generation.
    pub fn add_program(&mut self, name: &Arc<str>, mut row: ProgramRow, location: Location) -> ProgramId {
        if self.programs.len() - self.free_programs.len() >= self.limits.programs {
            self.evict_programs();
        }
        let generations = self.by_name.get(name).map_or(0, Vec::len);
        row.key = ProgramKey { name: name.clone(), generation: u32::try_from(generations).unwrap_or(u32::MAX) };
        let predecessor = self.named(name).last().copied();
        self.place_program(Program {
            row,
            location,
            predecessor,
            alerted_on: None,
            examples: Vec::new(),
            is_dirty: false,
        })
    }

    pub(super) fn place_program(&mut self, program: Program) -> ProgramId {
        let name = program.row.key.name.clone();
        let id = match self.free_programs.pop() {
            Some(free) => ProgramId(free),
            None => {
                self.programs.push(None);
                ProgramId(u32::try_from(self.programs.len() - 1).unwrap_or(u32::MAX))
            }
        };
        self.programs[id.index()] = Some(program);
        self.by_name.entry(name).or_default().push(id);
        id
    }

    /// The label with this name; made where it is new.
    pub fn label_id(&mut self, name: &str) -> LabelId {
        if let Some(&id) = self.by_label.get(name) {
            return id;
        }
        let name: Arc<str> = name.into();
        let label = Label { name: name.clone(), programs: 0, contacts: 0, first_seen: 0, last_seen: 0 };
        let id = match self.free_labels.pop() {
            Some(free) => LabelId(free),
            None => {
                self.labels.push(None);
                LabelId(u32::try_from(self.labels.len() - 1).unwrap_or(u32::MAX))
            }
        };
        self.labels[id.0 as usize] = Some(label);
        self.by_label.insert(name, id);
        id
    }

    /// The label with this name, where it is known.
    pub fn known_label(&self, name: &str) -> Option<LabelId> {
        self.by_label.get(name).copied()
    }

    /// A label; `None` once nothing uses it.
    pub fn label(&self, id: LabelId) -> Option<&Label> {
        self.labels.get(id.0 as usize)?.as_ref()
    }

    /// A label's name.
    pub fn label_name(&self, id: LabelId) -> Arc<str> {
        self.label(id).map(|label| label.name.clone()).unwrap_or_default()
    }

    /// A program and a destination.
    pub fn pair(&self, program: ProgramId, label: LabelId) -> Option<&Pair> {
        self.pairs.get(&(program, label))
    }

    /// Whether new destinations of a program are learned without a word.
    pub fn is_learning(&self, program: ProgramId, now: Steady) -> bool {
        if self.learning.is_learning() {
            return true;
        }
        let Some(program) = self.program(program) else { return false };
        program.row.alert_open_until.is_none_or(|until| until <= now)
            && program.row.learns_until.is_some_and(|until| now < until)
    }

    /// Notes an alert about a program.
    pub fn note_alert(&mut self, id: ProgramId, now: Steady) {
        if let Some(Some(program)) = self.programs.get_mut(id.index()) {
            program.alerted_on = Some(now.day());
        }
    }

    /// Whether an alert about a program is open, or was raised on this day or later.
    pub fn was_alerted_since(&self, id: ProgramId, day: u32, now: Steady) -> bool {
        self.program(id).is_some_and(|program| {
            program.alerted_on.is_some_and(|alerted| day <= alerted)
                || program.row.alert_open_until.is_some_and(|until| now < until)
        })
    }

    /// Starts a program's own learning window, where the host's is over.
    pub fn start_own_window(&mut self, id: ProgramId, now: Steady) {
        let until = (!self.learning.is_learning()).then(|| now.plus(self.program_window));
        if let Some(program) = self.program_mut(id) {
            program.row.first_seen = now;
            program.row.is_learned = until.is_none();
            program.row.learns_until = until;
        }
    }

    /// A program with so many late new destinations, and so many in all, that a further one says nothing.
    pub fn is_explorer(&self, id: ProgramId) -> bool {
        self.program(id).is_some_and(|program| program.row.late_labels >= self.explorer_labels)
    }

    /// Notes a contact and, where the pair is new, its state.
    pub fn meet(&mut self, program: ProgramId, label: LabelId, now: Steady, state: PairState) {
        let seconds = now.seconds();
        let is_known = match self.pairs.get_mut(&(program, label)) {
            Some(pair) => {
                pair.contacts = pair.contacts.saturating_add(1);
                pair.last_seen = pair.last_seen.max(seconds);
                if !pair.is_dirty && pair.last_seen.saturating_sub(pair.stored_at) >= STORED_GRAIN_SECONDS {
                    pair.is_dirty = true;
                    self.dirty_pairs.push((program, label));
                }
                true
            }
            None => false,
        };
        if !is_known {
            self.add_pair(program, label, now, state);
        }
        self.count_on_label(program, label, seconds);
    }

    fn add_pair(&mut self, program: ProgramId, label: LabelId, now: Steady, state: PairState) {
        let seconds = now.seconds();
        let window = self.program_window;
        if self.pairs.len() >= self.limits.pairs {
            self.evict_pairs();
        }
        let pair =
            Pair { state, first_seen: seconds, last_seen: seconds, contacts: 1, is_dirty: true, ..Pair::default() };
        self.place_pair(program, label, pair);
        self.dirty_pairs.push((program, label));
        let is_late = self.learning.is_late();
        let is_learning = self.learning.is_learning();
        if let Some(program) = self.program_mut(program) {
            program.row.labels = program.row.labels.saturating_add(1);
            // Counted also while an alert keeps the program from learning: a program that always meets new ones.
            let age = now.since(program.row.first_seen);
            let is_late_in_own = !program.row.is_learned && (window / 2..window).contains(&age)
                || program.row.learns_until.is_some_and(|until| now < until && until.since(now) < window / 2);
            program.row.late_labels += u32::from(if is_learning { is_late } else { is_late_in_own });
        }
    }

    pub(super) fn place_pair(&mut self, program: ProgramId, label: LabelId, pair: Pair) {
        let is_new = self.pairs.insert((program, label), pair).is_none();
        let Some(Some(label)) = self.labels.get_mut(label.0 as usize) else { return };
        label.programs += u32::from(is_new);
        if let Some(Some(program)) = self.programs.get_mut(program.index())
            && is_new
            && pair.state != PairState::Alerted
            && program.examples.len() < MAX_EXAMPLES
        {
            program.examples.push(label.name.clone());
        }
    }

    fn count_on_label(&mut self, program: ProgramId, label: LabelId, seconds: u32) {
        let is_explorer = self.is_explorer(program);
        if let Some(Some(label)) = self.labels.get_mut(label.0 as usize) {
            label.contacts = label.contacts.saturating_add(u32::from(!is_explorer));
            label.first_seen = if label.first_seen == 0 { seconds } else { label.first_seen };
            label.last_seen = label.last_seen.max(seconds);
        }
    }

    pub(super) fn restore_label(&mut self, label: LabelId, row: &PairRow) {
        if let Some(Some(label)) = self.labels.get_mut(label.0 as usize) {
            let (first, last) = (row.first_seen.seconds(), row.last_seen.seconds());
            label.first_seen = if label.first_seen == 0 { first } else { label.first_seen.min(first) };
            label.last_seen = label.last_seen.max(last);
            label.contacts = label.contacts.saturating_add(row.contacts);
        }
    }

    /// Changes where a pair stands.
    pub fn set_pair(&mut self, program: ProgramId, label: LabelId, change: impl FnOnce(&mut Pair)) {
        if let Some(pair) = self.pairs.get_mut(&(program, label)) {
            change(pair);
            if !pair.is_dirty {
                pair.is_dirty = true;
                self.dirty_pairs.push((program, label));
            }
        }
    }

    /// Notes the place of a contact; gives whether the country, and whether the AS, is new to the program.
    pub fn meet_place(&mut self, id: ProgramId, country: Option<[u8; 2]>, as_number: Option<u32>) -> [bool; 2] {
        let Some(program) = self.program(id) else { return [false; 2] };
        let new_country = country.filter(|country| !program.row.countries.contains(country));
        let new_as = as_number.filter(|number| !program.row.as_numbers.contains(number));
        if (new_country.is_some() || new_as.is_some())
            && let Some(program) = self.program_mut(id)
        {
            let has_room = |length: usize| length < MAX_PLACES;
            program.row.countries.extend(new_country.filter(|_| has_room(program.row.countries.len())));
            program.row.as_numbers.extend(new_as.filter(|_| has_room(program.row.as_numbers.len())));
        }
        [new_country.is_some(), new_as.is_some()]
    }

    /// The rows changed since the last call, deletions first.
    pub fn take_dirty(&mut self) -> Vec<BaselineRow> {
        let mut rows: Vec<_> = std::mem::take(&mut self.forgotten).into_iter().map(BaselineRow::Forgotten).collect();
        for id in std::mem::take(&mut self.dirty_programs) {
            if let Some(Some(program)) =
                self.programs.get_mut(id.index()).filter(|slot| slot.as_ref().is_some_and(|p| p.is_dirty))
            {
                program.is_dirty = false;
                rows.push(BaselineRow::Program(program.row.clone()));
            }
        }
        for (program, label) in std::mem::take(&mut self.dirty_pairs) {
            if let Some(pair) = self.pairs.get_mut(&(program, label)).filter(|pair| pair.is_dirty) {
                pair.is_dirty = false;
                pair.stored_at = pair.last_seen;
                rows.extend(self.pair_row(program, label));
            }
        }
        rows
    }

    /// All rows, as for an export.
    pub fn rows(&self) -> Vec<BaselineRow> {
        let programs = self.all_programs().map(|(_, program)| BaselineRow::Program(program.row.clone()));
        let mut keys: Vec<_> = self.pairs.keys().copied().collect();
        keys.sort_unstable();
        programs.chain(keys.into_iter().filter_map(|(program, label)| self.pair_row(program, label))).collect()
    }

    fn pair_row(&self, program: ProgramId, label: LabelId) -> Option<BaselineRow> {
        let pair = self.pairs.get(&(program, label))?;
        Some(BaselineRow::Pair(PairRow {
            program: self.program(program)?.row.key.clone(),
            label: self.label_name(label),
            state: pair.state,
            first_seen: Steady::from_seconds(pair.first_seen),
            last_seen: Steady::from_seconds(pair.last_seen),
            contacts: pair.contacts,
            is_periodic: pair.is_periodic,
        }))
    }

    /// The host's row, as far as the baseline knows it.
    pub fn host_row(&self) -> HostRow {
        let mut row = HostRow { as_contacts: self.context.save(), ..HostRow::default() };
        self.learning.save(&mut row);
        row
    }
}
