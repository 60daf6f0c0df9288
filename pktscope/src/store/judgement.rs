//! What the stored verdicts say of each rule: counts, ratios, and what could be tuned. Nothing here changes a rule.

use super::{AlertRow, DispositionRow, Reader, StoreError};
use crate::core::{
    alert::{
        RuleId,
        disposition::{DispositionSettings, Dispositions, Record, RuleSummary, Scope, Verdict},
        suppression::Subject,
        tuning::{Marked, Proposal, TuningSettings, propose},
    },
    detect::sight,
    domain::registrable,
    time::WallTime,
};

/// Between the parts of a disposition's key.
const SEPARATOR: char = '\u{1f}';

/// The rules as their verdicts judge them.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Every rule's counts over the window, in the order of the rules.
    pub summaries: Vec<RuleSummary>,
    /// What rules with too many false positives propose.
    pub proposals: Vec<Proposal>,
}

impl Reader {
    /// Judges every rule by the verdicts that are stored now.
    ///
    /// # Errors
    /// A failed query.
    pub fn judgement(
        &self,
        dispositions: &DispositionSettings,
        tuning: &TuningSettings,
        now: WallTime,
    ) -> Result<Judgement, StoreError> {
        let summaries = summaries(&self.dispositions()?, dispositions, now);
        let window = i64::try_from(dispositions.window.as_nanos()).unwrap_or(i64::MAX);
        let marked = self.marked_alerts(WallTime(now.0.saturating_sub(window)))?;
        let marked: Vec<_> = marked.iter().filter_map(marked_of).collect();
        Ok(Judgement { proposals: propose(&summaries, &marked, tuning), summaries })
    }
}

/// Every rule's counts now; the rows come in the order in which they were recorded.
fn summaries(rows: &[DispositionRow], settings: &DispositionSettings, now: WallTime) -> Vec<RuleSummary> {
    let mut counted = Dispositions::new(*settings);
    for record in rows.iter().filter_map(record) {
        counted.apply(&record, now, |_| Vec::new());
    }
    counted.summaries(now)
}

/// A stored verdict as it counts: by its alert, so that a changed one takes the old one's place, else by what its key is
/// about.
fn record(row: &DispositionRow) -> Option<Record> {
    let about = row.alert_id.map_or_else(|| subject_of_key(&row.key).to_owned(), |id| id.to_string());
    Some(Record {
        rule: Some(RuleId::from_id(&row.rule)?),
        verdict: Verdict::from_word(&row.verdict)?,
        scope: Scope::Detection(Some(about.into())),
        at: Some(row.at),
        analyst: row.analyst.as_str().into(),
        note: "".into(),
    })
}

fn marked_of(alert: &AlertRow) -> Option<Marked> {
    let verdict = Verdict::from_word(alert.verdict.as_deref()?)?;
    Some(Marked { alert: alert.id, verdict, subject: alert.subject()? })
}

/// Makes a disposition's key: what it is about, when it was made, and its verdict.
pub fn disposition_key(about: &str, at: &str, verdict: &str) -> String {
    [about, at, verdict].join(&SEPARATOR.to_string())
}

/// Whether a text is such a key.
pub fn is_disposition_key(text: &str) -> bool {
    text.contains(SEPARATOR)
}

/// What a key is about: all but its time and verdict.
pub fn subject_of_key(key: &str) -> &str {
    key.rsplitn(3, SEPARATOR).nth(2).unwrap_or(key)
}

impl AlertRow {
    /// What the alert is about, for suppressions and proposals; `None` of an unknown rule.
    ///
    /// Its dedup key is `rule|program|subject`, the program with `#pid` where one process of many was meant.
    pub fn subject(&self) -> Option<Subject> {
        let rule: RuleId = self.rule?;
        let rest = self.dedup_key.strip_prefix(rule.id())?.strip_prefix('|')?;
        let (program, _) = rest.rsplit_once('|')?;
        let program = match program.rsplit_once('#') {
            Some((name, pid)) if !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => program,
        };
        let document: serde_json::Value = serde_json::from_str(&self.document).unwrap_or_default();
        let as_number = document["destination"]["as"]["number"].as_u64();
        let address = self.destination_ip.map(|addr| addr.to_string());
        Some(Subject {
            rule,
            program: program.into(),
            label: self.domain.as_deref().map(registrable).or(address.as_deref()).map(Into::into),
            as_number: as_number.and_then(|number| u32::try_from(number).ok()),
            is_private: self.destination_ip.is_some_and(sight::is_private),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        core::{
            alert::{Alert, Evidence, Severity, suppression::DestinationClass},
            effect::Effect,
        },
        fixtures::{curl, flow, now},
        store::{Batch, Store, StoreOptions},
    };

    const DAY: i64 = 86_400_000_000_000;
    const NOW: WallTime = WallTime(100 * DAY);

    fn verdict(alert_id: Option<u64>, verdict: &str, day: i64) -> DispositionRow {
        DispositionRow {
            key: disposition_key(&format!("ticket {alert_id:?}"), &day.to_string(), verdict),
            at: WallTime(day * DAY),
            alert_id,
            rule: "beaconing".to_owned(),
            verdict: verdict.to_owned(),
            ..DispositionRow::default()
        }
    }

    fn beaconing(rows: &[DispositionRow]) -> RuleSummary {
        let all = summaries(rows, &DispositionSettings::default(), NOW);
        assert_eq!(all.len(), RuleId::ALL.len());
        all.into_iter().find(|summary| summary.rule == RuleId::Beaconing).unwrap()
    }

    #[test]
    fn a_changed_verdict_takes_the_old_ones_place_with_and_without_an_alert() {
        for alert in [Some(1), None] {
            let counts = beaconing(&[verdict(alert, "true_positive", 90), verdict(alert, "false_positive", 91)]);
            assert_eq!((counts.true_positives, counts.false_positives, counts.false_positive_ratio), (0, 1, None));
        }
    }

    #[test]
    fn a_ratio_needs_its_sample_and_old_verdicts_do_not_count() {
        let mut rows: Vec<_> = (0..4).map(|id| verdict(Some(id), "false_positive", 90)).collect();
        rows.push(verdict(Some(9), "true_positive", 60));
        assert_eq!(beaconing(&rows).false_positive_ratio, None);
        rows.push(verdict(None, "benign_true_positive", 90));
        assert_eq!(beaconing(&rows).false_positive_ratio, Some(0.8));
    }

    fn alert(id: u64) -> Effect {
        Effect::Alert(Arc::new(Alert {
            id,
            rule: RuleId::Beaconing,
            severity: Severity::Warning,
            at: now(),
            message: "curl calls www.example.com every 60.0 s".to_owned(),
            dedup_key: "beaconing|/usr/bin/curl#4242|example.com".to_owned(),
            evidence: Evidence::default(),
            flow: Some(Arc::new(flow())),
            process: Some(curl()),
            domain: None,
        }))
    }

    #[test]
    fn stored_false_positives_of_one_program_propose_the_suppression_that_hides_them() {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(&crate::config::Store::default(), Box::new(|_, _| "{}".to_owned()));
        let store = Store::open(folder.path(), options).unwrap();
        let effects: Vec<_> = (1..=6).map(alert).collect();
        let mark = |id| DispositionRow { at: now().wall, ..verdict(Some(id), "false_positive", 0) };
        let dispositions = (1..=6).map(|id| DispositionRow { key: id.to_string(), ..mark(id) }).collect();
        store.handle().push(Batch { effects: &effects, dispositions, now: now(), ..Batch::default() });
        store.close().unwrap();
        let reader = Reader::open(folder.path()).unwrap();
        let (verdicts, tuning) = (DispositionSettings::default(), TuningSettings::default());
        let judged = reader.judgement(&verdicts, &tuning, now().wall).unwrap();
        let [proposal] = &judged.proposals[..] else { panic!("{:?}", judged.proposals) };
        let [one] = &proposal.suppressions[..] else { panic!("{proposal:?}") };
        assert_eq!((proposal.rule, proposal.ratio, one.hides, one.alert), (RuleId::Beaconing, 1.0, 6, 6));
        assert_eq!((&*one.program, &one.destination), ("/usr/bin/curl", &label()));
        let bounds = TuningSettings { ratio: 1.0, ..tuning };
        assert!(
            reader.judgement(&verdicts, &bounds, now().wall).unwrap().proposals.is_empty(),
            "a bound is passed above"
        );
    }

    fn label() -> DestinationClass {
        DestinationClass::Label(flow().domain.unwrap().registrable)
    }
}
