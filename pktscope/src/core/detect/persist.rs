//! Alerts built from findings, and what the store keeps of detection.

use super::{Accepted, Detection, Finding};
use crate::core::{
    alert::grouping::About,
    alert::{
        Alert, RuleId,
        cooldown::{IncidentChange, IncidentRow},
    },
    baseline::{BaselineRow, PairState, ProgramId, Steady, steady::DAY_SECONDS},
    time::{Moment, WallTime},
};

/// How an analyst's verdict bears on what is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It is normal: learn it.
    Normal,
    /// It is not: never learn it.
    Hostile,
}

impl Detection {
    /// Builds a finding's alert and notes its incident.
    pub(super) fn alert(&mut self, finding: Finding, key: String, now: Moment) -> Alert {
        let id = self.next_alert_id;
        self.next_alert_id += 1;
        self.is_host_dirty = true;
        self.note_incident(&finding, &key, id);
        let boot = self.clock.boot(finding.at);
        Alert {
            id,
            rule: finding.rule,
            severity: finding.severity,
            at: Moment { boot, wall: now.wall_at(boot) },
            message: finding.message,
            dedup_key: key,
            evidence: finding.evidence,
            process: finding.process.or_else(|| finding.flow.as_ref()?.process().cloned()),
            flow: finding.flow,
            domain: finding.domain,
        }
    }

    fn note_incident(&mut self, finding: &Finding, key: &str, alert_id: u64) {
        let program =
            finding.actor.and_then(|actor| self.baseline.program(actor.program)).map(|program| program.row.key.clone());
        self.incidents.raised(IncidentRow {
            dedup_key: key.into(),
            rule: finding.rule,
            alert_id,
            raised: finding.at,
            last: finding.at,
            repeats: 0,
            program,
            label: finding.label.clone(),
            is_closed: false,
        });
        if let Some(actor) = finding.actor {
            self.baseline.note_alert(actor.program, finding.at);
            let lasts = match finding.rule {
                RuleId::NewProcessEgress | RuleId::IdentityChange => self.settings.open_alert,
                rule => self.pace(rule).quiet.min(self.settings.cooldown),
            };
            self.groups.raised(finding.about_whom(actor), finding.at.plus(lasts));
        }
    }

    /// An analyst closed the incident with this dedup key: what it is about is learned from now on, or never. `false`
    /// where the incident is no longer remembered.
    pub fn close_incident(&mut self, key: &str, closing: Closing, now: Moment) -> bool {
        let at = self.clock.read(now);
        let Some(row) = self.incidents.close(key) else { return false };
        let program = row.program.as_ref().and_then(|key| self.baseline.by_key(key));
        if closing == Closing::Normal {
            let accepted = Accepted { program, label: row.label.as_deref(), now: at };
            let of_rule = self.detectors.iter_mut().filter(|detector| detector.rule() == row.rule);
            of_rule.for_each(|detector| detector.accept(&accepted));
        }
        if let Some(program) = program {
            self.close_for(program, &row, closing, at);
        }
        true
    }

    fn close_for(&mut self, program: ProgramId, row: &IncidentRow, closing: Closing, at: Steady) {
        let is_about_program = matches!(row.rule, RuleId::NewProcessEgress | RuleId::IdentityChange);
        let learns_until = at.plus(self.settings.program_learning_window);
        match closing {
            Closing::Normal => {
                self.groups.close(row.rule, super::Actor { program, pid: 0 });
                if let Some(known) = self.baseline.program_mut(program).filter(|_| is_about_program) {
                    known.row.alert_open_until = None;
                    known.row.learns_until = Some(learns_until);
                }
                self.accept_label(program, row);
            }
            Closing::Hostile => {
                if let Some(known) = self.baseline.program_mut(program).filter(|_| is_about_program) {
                    known.row.alert_open_until = Some(Steady(i64::MAX));
                }
            }
        }
    }

    /// The destination, the country or the rhythm of a closed incident is normal for its program.
    fn accept_label(&mut self, program: ProgramId, row: &IncidentRow) {
        if let Some(label) = row.label.as_deref().and_then(|name| self.baseline.known_label(name)) {
            self.baseline.set_pair(program, label, |pair| {
                pair.state = PairState::Learned;
                pair.is_periodic |= row.rule == RuleId::Beaconing;
            });
        }
        if row.rule == RuleId::NewGeo
            && let Some(country) = row.dedup_key.rsplit('|').next().and_then(|code| code.as_bytes().try_into().ok())
        {
            self.baseline.meet_place(program, Some(country), None);
        }
    }

    /// Baseline rows changed since the last call: to be stored in one transaction with the alerts given meanwhile.
    pub fn take_dirty(&mut self) -> Vec<BaselineRow> {
        let mut rows = self.baseline.take_dirty();
        rows.append(&mut self.imported);
        for detector in &mut self.detectors {
            rows.extend(detector.take_dirty(&self.baseline));
        }
        if std::mem::take(&mut self.is_host_dirty) {
            rows.push(self.host_row());
        }
        rows
    }

    /// Incidents changed since the last call.
    pub fn take_dirty_incidents(&mut self) -> Vec<IncidentChange> {
        self.incidents.take_dirty()
    }

    /// All baseline rows, as for an export; `program` keeps only those of one program name.
    pub fn export(&self, program: Option<&str>) -> Vec<BaselineRow> {
        let mut rows = self.baseline.rows();
        for detector in &self.detectors {
            rows.extend(detector.rows(&self.baseline));
        }
        rows.push(self.host_row());
        match program {
            Some(name) => rows.into_iter().filter(|row| is_of_program(row, name)).collect(),
            None => rows,
        }
    }

    fn host_row(&self) -> BaselineRow {
        let mut row = self.baseline.host_row();
        row.clock = Steady::from_seconds(self.last_second());
        row.boot_nanos = self.last_boot;
        row.next_alert_id = self.next_alert_id;
        BaselineRow::Host(row)
    }

    /// Goes on from stored rows, before the first step; the number of rows that belong to nothing.
    pub fn restore(&mut self, rows: &[BaselineRow], now: Moment) -> usize {
        let orphans = self.baseline.restore(rows);
        for row in rows {
            if let BaselineRow::Host(host) = row {
                self.restore_host(host, now);
            }
        }
        self.host = self.baseline.named(crate::core::baseline::profile::HOST).first().copied().unwrap_or(self.host);
        for row in rows {
            self.detectors.iter_mut().for_each(|detector| detector.restore(row, &self.baseline));
        }
        orphans
    }

    fn restore_host(&mut self, host: &crate::core::baseline::rows::HostRow, now: Moment) {
        // A stored time far ahead of the wall clock is a wrong clock of an earlier run, not the time: it would hold the
        // steady clock in the future for ever.
        let latest = WallTime(now.wall.0.saturating_add(DAY_SECONDS * 1_000_000_000));
        if host.clock.0 <= latest.0 {
            self.clock.hold_above(host.clock);
        }
        self.next_alert_id = self.next_alert_id.max(host.next_alert_id);
        if now.boot.0 < host.boot_nanos {
            self.baseline.learning.note_reboot();
        }
    }

    /// The incidents that nobody closed: the alert last raised for each, and its dedup key.
    pub fn open_incidents(&self) -> Vec<(u64, std::sync::Arc<str>)> {
        self.incidents.open().into_iter().map(|row| (row.alert_id, row.dedup_key.clone())).collect()
    }

    /// Takes stored incidents back, and with them what each explains.
    pub fn restore_incidents(&mut self, rows: Vec<IncidentRow>) {
        for row in rows.iter().filter(|row| !row.is_closed) {
            if let Some(program) = row.program.as_ref().and_then(|key| self.baseline.by_key(key)) {
                let lasts = match row.rule {
                    RuleId::NewProcessEgress | RuleId::IdentityChange => self.settings.open_alert,
                    rule => self.pace(rule).quiet.min(self.settings.cooldown),
                };
                let actor = super::Actor { program, pid: 0 };
                let about = About { rule: row.rule, actor, label: row.label.clone(), pid: 0, at: row.raised };
                self.groups.raised(about, row.last.plus(lasts));
            }
        }
        self.incidents.restore(rows);
    }

    /// Forgets what was learned of a program, or of all; the rows to delete come with the next [`Self::take_dirty`].
    pub fn reset(&mut self, program: Option<&str>) {
        let ids: Vec<ProgramId> = match program {
            Some(name) => self.baseline.named(name).to_vec(),
            None => self.baseline.all_programs().map(|(id, _)| id).filter(|id| *id != self.host).collect(),
        };
        for id in ids {
            self.baseline.forget_program(id);
        }
        for id in self.baseline.take_forgotten() {
            self.programs.drop_program(id);
            self.detectors.iter_mut().for_each(|detector| detector.forget(id));
        }
        if program.is_none() {
            self.baseline.learning = crate::core::baseline::learn::Learning::new(self.settings.learning_window);
            self.is_host_dirty = true;
        }
    }
}

fn is_of_program(row: &BaselineRow, name: &str) -> bool {
    match row {
        BaselineRow::Program(row) => &*row.key.name == name,
        BaselineRow::Pair(row) => &*row.program.name == name,
        BaselineRow::Volume(row) => &*row.program.name == name,
        BaselineRow::Contacts(row) => &*row.program.name == name,
        BaselineRow::Host(_) | BaselineRow::DnsParent(_) | BaselineRow::Forgotten(_) => false,
    }
}
