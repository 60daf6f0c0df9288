//! What the control socket's requests ask for.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    host, restore,
    status::{self, text_of},
    turn::Turns,
};
use crate::{
    api::{Mark, ProgramReport, Request, VerdictRecord},
    core::{
        alert::disposition::Verdict,
        baseline::{Baseline, Steady, profile::Program},
        detect::Closing,
        time::{Moment, WallTime},
    },
    store::{self, DispositionRow, Reader},
};

impl Turns {
    /// Does what is asked.
    pub(super) fn answer(&mut self, request: Request, now: Moment) -> Result<Value, String> {
        match request {
            Request::Status => to_value(&status::report(self, now)),
            Request::Snapshot => Ok(host::snapshot(&status::report(self, now), now)),
            Request::Mark(mark) => self.mark(&mark, now),
            Request::Record { verdicts } => self.take_verdicts(verdicts, now),
            Request::BaselineStatus { program } => self.baseline_status(program.as_deref()),
            Request::BaselineReset { program } => {
                self.desk.pipeline.detection().reset(program.as_deref());
                self.store_changes(now)
            }
            Request::BaselineExport => {
                let rows = self.desk.pipeline.detection().export(None);
                Ok(Value::Array(rows.into_iter().filter_map(store::export_row).collect()))
            }
            Request::BaselineImport { rows } => self.import(rows, now),
            Request::Suppress(wanted) => self.suppress(&wanted, now),
            Request::Suppressions => self.suppressions(now),
            Request::Revoke { id, analyst } => self.revoke(id, &analyst, now),
        }
    }

    /// Stores a verdict, and lets it bear on what is learned.
    fn mark(&mut self, mark: &Mark, now: Moment) -> Result<Value, String> {
        let closing = closing_of(&mark.verdict)?;
        let reader = Reader::open(Path::new(&self.identity.state_dir)).map_err(|fault| fault.to_string())?;
        let alert = reader.alert(mark.alert_id).map_err(|fault| fault.to_string())?;
        let alert = alert.ok_or_else(|| format!("there is no alert {}", mark.alert_id))?;
        let row = DispositionRow::on_alert(&alert, &mark.verdict, &mark.analyst, &mark.note, now.wall);
        let is_learned_from = self.desk.pipeline.detection().close_incident(&alert.dedup_key, closing, now);
        let state = restore::changes(&mut self.desk.pipeline);
        self.desk.outputs.record(vec![row], state, now)?;
        Ok(json!({ "is_learned_from": is_learned_from }))
    }

    /// Stores verdicts of another source; those on an alert bear on what is learned like a mark.
    fn take_verdicts(&mut self, verdicts: Vec<VerdictRecord>, now: Moment) -> Result<Value, String> {
        let reader = Reader::open(Path::new(&self.identity.state_dir)).map_err(|fault| fault.to_string())?;
        for record in &verdicts {
            let closing = closing_of(&record.verdict)?;
            let alert = record.alert_id.map(|id| reader.alert(id)).transpose().map_err(|fault| fault.to_string())?;
            if let Some(alert) = alert.flatten() {
                self.desk.pipeline.detection().close_incident(&alert.dedup_key, closing, now);
            }
        }
        let state = restore::changes(&mut self.desk.pipeline);
        self.desk.outputs.record(verdicts.into_iter().map(disposition).collect(), state, now)?;
        Ok(Value::Null)
    }

    fn baseline_status(&mut self, program: Option<&str>) -> Result<Value, String> {
        let baseline = self.desk.pipeline.detection().baseline();
        let is_wanted = |known: &Program| program.is_none_or(|name| *known.row.key.name == *name);
        let known = baseline.all_programs().map(|(_, known)| known).filter(|known| is_wanted(known));
        let mut reports: Vec<ProgramReport> = known.map(|known| program_report(known, baseline)).collect();
        reports.sort_by(|one, other| one.program.cmp(&other.program));
        to_value(&reports)
    }

    fn import(&mut self, rows: Vec<Value>, now: Moment) -> Result<Value, String> {
        let rows: Result<Vec<_>, _> = rows.into_iter().map(store::import_row).collect();
        let rows = rows?;
        let given = rows.len();
        let orphans = self.desk.pipeline.detection().import(rows);
        self.store_changes(now)?;
        Ok(json!({ "imported": given - orphans, "skipped": orphans }))
    }

    /// Stores at once what a person changed, so that a kill does not bring the old state back.
    fn store_changes(&mut self, now: Moment) -> Result<Value, String> {
        let state = restore::changes(&mut self.desk.pipeline);
        self.desk.outputs.record(Vec::new(), state, now)?;
        Ok(Value::Null)
    }
}

/// What a verdict says about what is learned.
///
/// # Errors
/// A word that is none.
pub(super) fn closing_of(verdict: &str) -> Result<Closing, String> {
    match Verdict::from_word(verdict) {
        Some(Verdict::TruePositive) => Ok(Closing::Hostile),
        Some(Verdict::FalsePositive | Verdict::BenignTruePositive) => Ok(Closing::Normal),
        None => Err(format!("\"{verdict}\" is no verdict")),
    }
}

fn disposition(record: VerdictRecord) -> DispositionRow {
    let VerdictRecord { key, at, alert_id, rule, verdict, analyst, note } = record;
    DispositionRow { key, at: WallTime(at), alert_id, rule, verdict, analyst, note }
}

fn program_report(known: &Program, baseline: &Baseline) -> ProgramReport {
    let row = &known.row;
    let is_learning = baseline.learning.is_learning() || row.learns_until.is_some_and(|until| until > row.last_seen);
    ProgramReport {
        program: row.key.name.to_string(),
        state: if is_learning { "learning" } else { "active" }.to_owned(),
        destinations: u64::from(row.labels),
        first_seen: steady_text(row.first_seen),
        last_seen: steady_text(row.last_seen),
    }
}

/// Steady time is wall time that never steps back.
fn steady_text(at: Steady) -> String {
    text_of(WallTime(at.0))
}

fn to_value(report: &impl serde::Serialize) -> Result<Value, String> {
    serde_json::to_value(report).map_err(|error| error.to_string())
}
