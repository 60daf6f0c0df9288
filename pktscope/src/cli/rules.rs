//! `pktscope rules`

use std::time::Duration;

use serde_json::json;

use super::{
    output::{Format, local_clock, paper, print},
    place::Place,
    verdicts::subject_of,
};
use crate::{
    core::{
        alert::{
            RuleId,
            disposition::{DispositionSettings, Dispositions, Record, RuleSummary, Scope, Verdict},
        },
        time::WallTime,
    },
    sink::ecs::rfc3339,
    store::{DispositionRow, Reader},
    view::{Cell, Clock, Column, Style, Table, ago, count},
};

/// Ratio above which a rule is worth tuning.
const RATIO_TO_TUNE: f64 = 0.5;

/// What is known of a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
struct RuleLine {
    alerts: u64,
    last_alert: Option<WallTime>,
    verdicts: RuleSummary,
}

pub(super) fn run(place: &Place, format: Format) -> anyhow::Result<()> {
    let reader = Reader::open(&place.config()?.agent.state_dir)?;
    let clock = local_clock();
    let window = i64::try_from(window().as_nanos()).unwrap_or(i64::MAX);
    let since = WallTime(clock.now.0.saturating_sub(window));
    let lines = lines(&reader.alert_counts(since)?, &reader.dispositions()?, clock.now);
    let text = if format.json { json_lines(&lines) } else { table(&lines, &clock) };
    Ok(print(text.as_bytes())?)
}

/// Alerts and verdicts of this span count.
fn window() -> Duration {
    DispositionSettings::default().window
}

/// Every rule, also those without alerts, in the order of the rules.
fn lines(
    alerts: &[(String, u64, WallTime)],
    dispositions: &[DispositionRow],
    now: WallTime,
) -> Vec<(RuleId, RuleLine)> {
    let mut counted = Dispositions::new(DispositionSettings::default());
    for record in dispositions.iter().filter_map(record) {
        counted.apply(&record, now, |_| Vec::new());
    }
    let line = |verdicts: RuleSummary| {
        let raised = alerts.iter().find(|(rule, ..)| rule == verdicts.rule.id());
        let line = RuleLine {
            alerts: raised.map_or(0, |raised| raised.1),
            last_alert: raised.map(|raised| raised.2),
            verdicts,
        };
        (verdicts.rule, line)
    };
    counted.summaries(now).into_iter().map(line).collect()
}

/// A stored verdict as it counts: by its alert, so that a changed one takes the old one's place, else by its own key.
fn record(row: &DispositionRow) -> Option<Record> {
    let fingerprint = row.alert_id.map_or_else(|| subject_of(&row.key).to_owned(), |id| id.to_string());
    Some(Record {
        rule: Some(RuleId::from_id(&row.rule)?),
        verdict: Verdict::from_word(&row.verdict)?,
        scope: Scope::Detection(Some(fingerprint.into())),
        at: Some(row.at),
        analyst: row.analyst.as_str().into(),
        note: "".into(),
    })
}

fn table(lines: &[(RuleId, RuleLine)], clock: &Clock) -> String {
    let mut table = Table::new(&[
        Column::text("RULE"),
        Column::number("ALERTS"),
        Column::text("LAST"),
        Column::number("TRUE"),
        Column::number("BENIGN"),
        Column::number("FALSE"),
        Column::number("FALSE RATIO"),
        Column::long("MEANING"),
    ]);
    for (rule, line) in lines {
        let verdicts = &line.verdicts;
        let ratio = match verdicts.false_positive_ratio {
            None => Cell::new("-").style(Style::Dim),
            Some(ratio) => {
                Cell::new(format!("{ratio:.2}")).style(if ratio < RATIO_TO_TUNE { Style::Good } else { Style::Bad })
            }
        };
        table.add(vec![
            rule.id().into(),
            count(line.alerts).into(),
            line.last_alert.map_or_else(|| "-".to_owned(), |at| ago(at, clock.now)).into(),
            count(verdicts.true_positives.into()).into(),
            count(verdicts.benign_true_positives.into()).into(),
            count(verdicts.false_positives.into()).into(),
            ratio,
            rule.name().into(),
        ]);
    }
    let paper = paper();
    let settings = DispositionSettings::default();
    let days = settings.window.as_secs() / 86_400;
    let note =
        format!("Alerts and verdicts of the last {days} days; a ratio needs {} verdicts.\n", settings.min_sample);
    table.heading(paper) + &table.take_rows(paper) + "\n" + &note
}

fn json_lines(lines: &[(RuleId, RuleLine)]) -> String {
    let line = |(rule, line): &(RuleId, RuleLine)| {
        let value = json!({
            "rule": {"id": rule.id(), "name": rule.name()},
            "pktscope": {"rule": {
                "window_days": window().as_secs() / 86_400,
                "alerts": line.alerts,
                "last_alert": line.last_alert.map(|at| rfc3339(at).as_str().to_owned()),
                "true_positives": line.verdicts.true_positives,
                "benign_true_positives": line.verdicts.benign_true_positives,
                "false_positives": line.verdicts.false_positives,
                "false_positive_ratio": line.verdicts.false_positive_ratio,
            }},
        });
        format!("{value}\n")
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000_000_000;
    const NOW: WallTime = WallTime(100 * DAY);

    fn verdict(alert_id: Option<u64>, verdict: &str, day: i64) -> DispositionRow {
        DispositionRow {
            key: format!("{alert_id:?}{verdict}{day}"),
            at: WallTime(day * DAY),
            alert_id,
            rule: "beaconing".to_owned(),
            verdict: verdict.to_owned(),
            ..DispositionRow::default()
        }
    }

    fn beaconing(dispositions: &[DispositionRow]) -> RuleLine {
        let lines = lines(&[("beaconing".to_owned(), 9, WallTime(50))], dispositions, NOW);
        assert_eq!(lines.len(), RuleId::ALL.len());
        lines.into_iter().find(|(rule, _)| *rule == RuleId::Beaconing).unwrap().1
    }

    #[test]
    fn a_changed_verdict_takes_the_old_ones_place() {
        let verdicts =
            beaconing(&[verdict(Some(1), "true_positive", 90), verdict(Some(1), "false_positive", 91)]).verdicts;
        assert_eq!((verdicts.true_positives, verdicts.false_positives, verdicts.false_positive_ratio), (0, 1, None));
    }

    #[test]
    fn a_ratio_needs_its_sample_and_old_verdicts_do_not_count() {
        let mut rows: Vec<_> = (0..4).map(|id| verdict(Some(id), "false_positive", 90)).collect();
        rows.push(verdict(Some(9), "true_positive", 60));
        assert_eq!(beaconing(&rows).verdicts.false_positive_ratio, None);
        rows.push(verdict(None, "benign_true_positive", 90));
        let line = beaconing(&rows);
        assert_eq!((line.verdicts.false_positive_ratio, line.alerts), (Some(0.8), 9));
    }
}
