//! `pktscope rules`

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;

use super::{
    output::{Format, local_clock, paper, print},
    place::Place,
};
use crate::{
    core::{alert::RuleId, time::WallTime},
    sink::ecs::rfc3339,
    store::{DispositionRow, Reader},
    view::{Cell, Clock, Column, Style, Table, ago, count},
};

/// Alerts and verdicts of this span count.
const WINDOW: Duration = Duration::from_secs(30 * 86_400);
/// Verdicts below which a ratio says nothing.
const SAMPLE_MIN: u64 = 5;
/// Ratio above which a rule is worth tuning.
const RATIO_TO_TUNE: f64 = 0.5;

/// What is known of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct RuleLine {
    alerts: u64,
    last_alert: Option<WallTime>,
    true_positives: u64,
    false_positives: u64,
    benign_true_positives: u64,
}

impl RuleLine {
    fn verdicts(&self) -> u64 {
        self.true_positives + self.false_positives + self.benign_true_positives
    }

    /// Share of false positives among the verdicts; `None` of too few.
    fn ratio(&self) -> Option<f64> {
        let verdicts = self.verdicts();
        #[expect(clippy::cast_precision_loss, reason = "nobody gives 2^53 verdicts")]
        (SAMPLE_MIN <= verdicts).then(|| self.false_positives as f64 / verdicts as f64)
    }
}

pub(super) fn run(place: &Place, format: Format) -> anyhow::Result<()> {
    let reader = Reader::open(&place.config()?.agent.state_dir)?;
    let clock = local_clock();
    let since = WallTime(clock.now.0.saturating_sub(i64::try_from(WINDOW.as_nanos()).unwrap_or(i64::MAX)));
    let lines = lines(&reader.alert_counts(since)?, &reader.dispositions()?, since);
    let text = if format.json { json_lines(&lines) } else { table(&lines, &clock) };
    Ok(print(text.as_bytes())?)
}

/// Every rule, also those without alerts, in the order of the rules.
fn lines(
    alerts: &[(String, u64, WallTime)],
    dispositions: &[DispositionRow],
    since: WallTime,
) -> Vec<(RuleId, RuleLine)> {
    let mut lines: BTreeMap<RuleId, RuleLine> = RuleId::ALL.iter().map(|rule| (*rule, RuleLine::default())).collect();
    for (rule, count, newest) in alerts {
        if let Some(line) = RuleId::from_id(rule).and_then(|rule| lines.get_mut(&rule)) {
            line.alerts = *count;
            line.last_alert = Some(*newest);
        }
    }
    for row in newest_by_alert(dispositions).filter(|row| since <= row.at) {
        if let Some(line) = RuleId::from_id(&row.rule).and_then(|rule| lines.get_mut(&rule)) {
            match row.verdict.as_str() {
                "true_positive" => line.true_positives += 1,
                "false_positive" => line.false_positives += 1,
                _ => line.benign_true_positives += 1,
            }
        }
    }
    lines.into_iter().collect()
}

/// A changed verdict takes the old one's place; one that names no alert stands for itself.
fn newest_by_alert(dispositions: &[DispositionRow]) -> impl Iterator<Item = &DispositionRow> {
    let mut newest: BTreeMap<(Option<u64>, &str), &DispositionRow> = BTreeMap::new();
    for row in dispositions {
        let alone = if row.alert_id.is_none() { row.key.as_str() } else { "" };
        newest.insert((row.alert_id, alone), row);
    }
    newest.into_values()
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
        let ratio = match line.ratio() {
            None => Cell::new("-").style(Style::Dim),
            Some(ratio) => {
                Cell::new(format!("{ratio:.2}")).style(if ratio < RATIO_TO_TUNE { Style::Good } else { Style::Bad })
            }
        };
        table.add(vec![
            rule.id().into(),
            count(line.alerts).into(),
            line.last_alert.map_or_else(|| "-".to_owned(), |at| ago(at, clock.now)).into(),
            count(line.true_positives).into(),
            count(line.benign_true_positives).into(),
            count(line.false_positives).into(),
            ratio,
            rule.name().into(),
        ]);
    }
    let paper = paper();
    let note = format!("Alerts and verdicts of the last 30 days; a ratio needs {SAMPLE_MIN} verdicts.\n");
    table.heading(paper) + &table.take_rows(paper) + "\n" + &note
}

fn json_lines(lines: &[(RuleId, RuleLine)]) -> String {
    let line = |(rule, line): &(RuleId, RuleLine)| {
        let value = json!({
            "rule": {"id": rule.id(), "name": rule.name()},
            "pktscope": {"rule": {
                "window_days": WINDOW.as_secs() / 86_400,
                "alerts": line.alerts,
                "last_alert": line.last_alert.map(|at| rfc3339(at).as_str().to_owned()),
                "true_positives": line.true_positives,
                "benign_true_positives": line.benign_true_positives,
                "false_positives": line.false_positives,
                "false_positive_ratio": line.ratio(),
            }},
        });
        format!("{value}\n")
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(alert_id: Option<u64>, verdict: &str, at: i64) -> DispositionRow {
        DispositionRow {
            key: format!("{alert_id:?}{verdict}{at}"),
            at: WallTime(at),
            alert_id,
            rule: "beaconing".to_owned(),
            verdict: verdict.to_owned(),
            ..DispositionRow::default()
        }
    }

    fn beaconing(dispositions: &[DispositionRow]) -> RuleLine {
        let lines = lines(&[("beaconing".to_owned(), 9, WallTime(50))], dispositions, WallTime(10));
        assert_eq!(lines.len(), RuleId::ALL.len());
        lines.into_iter().find(|(rule, _)| *rule == RuleId::Beaconing).unwrap().1
    }

    #[test]
    fn a_changed_verdict_takes_the_old_ones_place() {
        let line = beaconing(&[verdict(Some(1), "true_positive", 20), verdict(Some(1), "false_positive", 21)]);
        assert_eq!((line.true_positives, line.false_positives, line.ratio()), (0, 1, None));
    }

    #[test]
    fn a_ratio_needs_its_sample_and_old_verdicts_do_not_count() {
        let mut rows: Vec<_> = (0..4).map(|id| verdict(Some(id), "false_positive", 20)).collect();
        rows.push(verdict(Some(9), "true_positive", 5));
        assert_eq!(beaconing(&rows).ratio(), None);
        rows.push(verdict(None, "benign_true_positive", 20));
        assert_eq!((beaconing(&rows).ratio(), beaconing(&rows).alerts), (Some(0.8), 9));
    }
}
