//! Suppressions on request: shown with what they would have hidden, applied, listed, revoked.

use std::{path::Path, time::Duration};

use serde_json::Value;

use super::{status::text_of, turn::Turns};
use crate::{
    api::{DestinationWord, Suppress, SuppressionReport},
    core::{
        alert::suppression::{DestinationClass, LONGEST, MAX_SUPPRESSIONS, Refusal, Subject, Suppression, would_hide},
        baseline::Steady,
        domain::registrable,
        time::{Moment, WallTime},
    },
    store::{self, AlertRow, Query, Reader},
};

/// Alerts of this span are compared with.
const COMPARED: Duration = Duration::from_secs(30 * 86_400);

impl Turns {
    /// Shows a suppression, or applies it.
    pub(super) fn suppress(&mut self, wanted: &Suppress, now: Moment) -> Result<Value, String> {
        let reader = Reader::open(Path::new(&self.identity.state_dir)).map_err(|fault| fault.to_string())?;
        let alert = reader.alert(wanted.alert_id).map_err(|fault| fault.to_string())?;
        let subject = alert.as_ref().and_then(AlertRow::subject);
        let subject = subject.ok_or_else(|| format!("there is no alert {} of a known rule", wanted.alert_id))?;
        let steady = self.desk.pipeline.detection().steady(now);
        let suppression = generalise(&subject, wanted, steady)?;
        let since = WallTime(now.wall.0.saturating_sub(i64::try_from(COMPARED.as_nanos()).unwrap_or(i64::MAX)));
        let earlier =
            reader.alerts(&Query { since: Some(since), ..Query::default() }).map_err(|fault| fault.to_string())?;
        let mut report = report(&suppression, steady);
        let subjects: Vec<_> = earlier.iter().filter_map(|row| Some((row.id, row.subject()?))).collect();
        report.would_have_hidden = would_hide(&suppression, subjects.iter().map(|(id, subject)| (*id, subject)));
        report.compared_with = u64::try_from(earlier.len()).unwrap_or(u64::MAX);
        if !wanted.is_dry_run {
            report.id = self.apply(suppression, now)?;
            report.state = "active".to_owned();
        }
        serde_json::to_value(report).map_err(|error| error.to_string())
    }

    /// Takes a suppression and stores it at once: what hides alerts must never be forgotten.
    fn apply(&mut self, suppression: Suppression, now: Moment) -> Result<u64, String> {
        let added = self.desk.pipeline.detection().suppressions_mut().add(suppression);
        let id = added.map_err(|refusal| match refusal {
            Refusal::NoProgram => {
                "the alert names no program, so that this would hide the rule for every one".to_owned()
            }
            Refusal::BadExpiry => format!("a suppression lasts up to {} days", LONGEST.as_secs() / 86_400),
            Refusal::Full => format!("there are {MAX_SUPPRESSIONS} suppressions already; revoke some"),
        })?;
        self.store_suppressions(now);
        Ok(id)
    }

    /// Ends a suppression.
    pub(super) fn revoke(&mut self, id: u64, analyst: &str, now: Moment) -> Result<Value, String> {
        let steady = self.desk.pipeline.detection().steady(now);
        if !self.desk.pipeline.detection().suppressions_mut().revoke(id, analyst, steady) {
            return Err(format!("there is no active suppression {id}; `pktscope alerts suppressions` lists them"));
        }
        self.store_suppressions(now);
        Ok(Value::Null)
    }

    fn store_suppressions(&mut self, now: Moment) {
        let changed = self.desk.pipeline.detection().suppressions_mut().take_dirty();
        self.desk.outputs.tell(&[], changed.iter().map(store::suppression_row).collect(), now);
    }

    /// Every suppression, also those that are over.
    pub(super) fn suppressions(&mut self, now: Moment) -> Result<Value, String> {
        let steady = self.desk.pipeline.detection().steady(now);
        let all = self.desk.pipeline.detection().suppressions().all();
        let reports: Vec<_> = all.iter().map(|suppression| report(suppression, steady)).collect();
        serde_json::to_value(reports).map_err(|error| error.to_string())
    }
}

fn generalise(subject: &Subject, wanted: &Suppress, now: Steady) -> Result<Suppression, String> {
    let destination = match wanted.destination {
        DestinationWord::Same => {
            let label = subject.label.as_ref().ok_or("the alert names no destination; choose another class")?;
            DestinationClass::Label(registrable(label).into())
        }
        DestinationWord::Network => {
            DestinationClass::As(subject.as_number.ok_or("the alert's autonomous system is not known")?)
        }
        DestinationWord::Private => DestinationClass::Private,
        DestinationWord::Any => DestinationClass::Any,
    };
    Ok(Suppression {
        id: 0,
        rule: subject.rule,
        program: subject.program.clone(),
        destination,
        created: now,
        expires: now.plus(Duration::from_secs(wanted.for_seconds)),
        analyst: wanted.analyst.as_str().into(),
        note: wanted.note.as_str().into(),
        revoked: None,
        hidden: 0,
    })
}

fn report(suppression: &Suppression, now: Steady) -> SuppressionReport {
    let state = match &suppression.revoked {
        _ if suppression.id == 0 => "proposed",
        Some(_) => "revoked",
        None if suppression.is_active(now) => "active",
        None => "ended",
    };
    SuppressionReport {
        id: suppression.id,
        state: state.to_owned(),
        rule: suppression.rule.id().to_owned(),
        program: suppression.program.to_string(),
        destination: match &suppression.destination {
            DestinationClass::Label(label) => label.to_string(),
            DestinationClass::As(number) => format!("AS{number}"),
            DestinationClass::Private => "private addresses".to_owned(),
            DestinationClass::Any => "every destination".to_owned(),
        },
        created: text_of(WallTime(suppression.created.0)),
        expires: text_of(WallTime(suppression.expires.0)),
        analyst: suppression.analyst.to_string(),
        note: suppression.note.to_string(),
        revoked_by: suppression.revoked.as_ref().map(|(_, analyst)| analyst.to_string()),
        hidden: suppression.hidden,
        ..SuppressionReport::default()
    }
}
