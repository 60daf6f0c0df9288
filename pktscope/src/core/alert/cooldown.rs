//! Incidents and their cooldown: the same finding again is the same incident until it was quiet for long enough.
//!
//! In: findings' keys and times. Out: whether to raise, and rows to store under their dedup key. Time is the baseline's
//! steady clock: a stepped wall clock neither repeats nor silences an alert.

use std::{sync::Arc, time::Duration};

use ahash::AHashMap;

use super::RuleId;
use crate::core::baseline::{ProgramKey, Steady};

/// An incident as it is stored; `dedup_key` is its key.
#[derive(Clone, Debug, PartialEq)]
pub struct IncidentRow {
    /// What makes two findings the same incident.
    pub dedup_key: Arc<str>,
    /// Its rule.
    pub rule: RuleId,
    /// The alert last raised for it.
    pub alert_id: u64,
    /// When that was.
    pub raised: Steady,
    /// The last finding.
    pub last: Steady,
    /// Findings since the alert, not raised.
    pub repeats: u64,
    /// The program it is about, where it is about one.
    pub program: Option<ProgramKey>,
    /// The destination it is about, where it is about one.
    pub label: Option<Arc<str>>,
    /// Whether an analyst has closed it.
    pub is_closed: bool,
}

/// A stored change of the incidents.
#[derive(Clone, Debug, PartialEq)]
pub enum IncidentChange {
    /// New or changed.
    Kept(IncidentRow),
    /// The incident with this dedup key was evicted.
    Forgotten(Arc<str>),
}

/// How long an incident of a rule lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Quiet time after which the same finding is a new incident.
    pub quiet: Duration,
    /// Time after which an incident that goes on is raised again.
    pub reminder: Duration,
}

/// The incidents of the recent past.
#[derive(Debug)]
pub struct Incidents {
    table: AHashMap<Arc<str>, Incident>,
    capacity: usize,
    evicted: u64,
    dirty: Vec<Arc<str>>,
    forgotten: Vec<Arc<str>>,
}

#[derive(Debug)]
struct Incident {
    row: IncidentRow,
    is_dirty: bool,
}

impl Incidents {
    /// At most `capacity` incidents; the one quiet for longest gives way.
    pub fn new(capacity: usize) -> Self {
        Self { table: AHashMap::new(), capacity, evicted: 0, dirty: Vec::new(), forgotten: Vec::new() }
    }

    /// Whether a finding is to be raised; one that is not is counted with its incident.
    pub fn is_due(&mut self, key: &str, at: Steady, pace: Pace) -> bool {
        let Some(incident) = self.table.get_mut(key) else { return true };
        let row = &mut incident.row;
        let is_due = at.since(row.last) >= pace.quiet || at.since(row.raised) >= pace.reminder;
        if !is_due {
            row.last = row.last.max(at);
            row.repeats += 1;
            let key = row.dedup_key.clone();
            self.mark(key);
        }
        is_due
    }

    /// Notes a raised alert.
    pub fn raised(&mut self, row: IncidentRow) {
        if self.table.len() >= self.capacity && !self.table.contains_key(&row.dedup_key) {
            self.evict();
        }
        let key = row.dedup_key.clone();
        self.table.insert(key.clone(), Incident { row, is_dirty: false });
        self.mark(key);
    }

    /// Incidents that nobody closed, by key.
    pub fn open(&self) -> Vec<&IncidentRow> {
        let rows = self.table.values().map(|incident| &incident.row);
        let mut open: Vec<_> = rows.filter(|row| !row.is_closed).collect();
        open.sort_unstable_by(|one, other| one.dedup_key.cmp(&other.dedup_key));
        open
    }

    /// Closes an incident; the row as it stands then.
    pub fn close(&mut self, key: &str) -> Option<IncidentRow> {
        let incident = self.table.get_mut(key)?;
        incident.row.is_closed = true;
        let row = incident.row.clone();
        self.mark(row.dedup_key.clone());
        Some(row)
    }

    /// Incidents and how many gave way.
    pub fn size(&self) -> (usize, u64) {
        (self.table.len(), self.evicted)
    }

    /// Takes stored incidents back.
    pub fn restore(&mut self, rows: impl IntoIterator<Item = IncidentRow>) {
        for row in rows.into_iter().take(self.capacity) {
            self.table.insert(row.dedup_key.clone(), Incident { row, is_dirty: false });
        }
    }

    /// What changed since the last call, in the order of the first change.
    pub fn take_dirty(&mut self) -> Vec<IncidentChange> {
        let mut changes: Vec<_> =
            std::mem::take(&mut self.forgotten).into_iter().map(IncidentChange::Forgotten).collect();
        for key in std::mem::take(&mut self.dirty) {
            if let Some(incident) = self.table.get_mut(&key).filter(|incident| incident.is_dirty) {
                incident.is_dirty = false;
                changes.push(IncidentChange::Kept(incident.row.clone()));
            }
        }
        changes
    }

    fn mark(&mut self, key: Arc<str>) {
        if let Some(incident) = self.table.get_mut(&key).filter(|incident| !incident.is_dirty) {
            incident.is_dirty = true;
            self.dirty.push(key);
        }
    }

    fn evict(&mut self) {
        let mut by_age: Vec<_> =
            self.table.values().map(|incident| (incident.row.last, incident.row.dedup_key.clone())).collect();
        by_age.sort_unstable();
        for (_, key) in by_age.into_iter().take((self.capacity / 16).max(1)) {
            self.table.remove(&key);
            self.forgotten.push(key);
            self.evicted += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { quiet: Duration::from_secs(3_600), reminder: Duration::from_secs(86_400) };

    fn row(key: &str, seconds: u32) -> IncidentRow {
        IncidentRow {
            dedup_key: key.into(),
            rule: RuleId::Beaconing,
            alert_id: u64::from(seconds),
            raised: Steady::from_seconds(seconds),
            last: Steady::from_seconds(seconds),
            repeats: 0,
            program: None,
            label: None,
            is_closed: false,
        }
    }

    #[test]
    fn an_incident_goes_on_while_findings_come_and_reminds_once_a_day() {
        let mut incidents = Incidents::new(8);
        incidents.raised(row("a", 0));
        for seconds in (1_800..86_400).step_by(1_800) {
            assert!(!incidents.is_due("a", Steady::from_seconds(seconds), PACE), "{seconds}");
        }
        assert!(incidents.is_due("a", Steady::from_seconds(86_400), PACE));
        assert!(incidents.is_due("b", Steady::from_seconds(1), PACE));
    }

    #[test]
    fn a_restart_keeps_the_cooldown() {
        let mut before = Incidents::new(8);
        before.raised(row("a", 100));
        let rows = before.take_dirty().into_iter().filter_map(|change| match change {
            IncidentChange::Kept(row) => Some(row),
            IncidentChange::Forgotten(_) => None,
        });
        let mut after = Incidents::new(8);
        after.restore(rows);
        assert!(!after.is_due("a", Steady::from_seconds(200), PACE));
        assert!(after.is_due("a", Steady::from_seconds(200 + 3_600), PACE));
    }

    #[test]
    fn the_table_is_bounded_and_says_what_it_dropped() {
        let mut incidents = Incidents::new(16);
        (0..40).for_each(|n| incidents.raised(row(&n.to_string(), n)));
        assert_eq!(incidents.size(), (16, 24));
        assert!(
            incidents.is_due("0", Steady::from_seconds(41), PACE)
                && !incidents.is_due("39", Steady::from_seconds(41), PACE)
        );
        assert_eq!(
            incidents.take_dirty().iter().filter(|change| matches!(change, IncidentChange::Forgotten(_))).count(),
            24
        );
    }
}
