//! `pktscope rules`

use serde_json::json;

use super::{
    output::{Format, local_clock, paper, print},
    place::Place,
};
use crate::{
    api::{ProposalReport, ProposedReport},
    config::Config,
    core::{
        alert::{
            RuleId,
            disposition::{DispositionSettings, RuleSummary},
            tuning::TuningSettings,
        },
        time::WallTime,
    },
    sink::ecs::rfc3339,
    store::{Judgement, Reader},
    view::{Cell, Clock, Column, Style, Table, ago, count},
};

/// What is known of a rule.
#[derive(Clone, Debug, PartialEq)]
struct RuleLine {
    alerts: u64,
    last_alert: Option<WallTime>,
    verdicts: RuleSummary,
    proposal: Option<ProposalReport>,
}

pub(super) fn run(place: &Place, format: Format) -> anyhow::Result<()> {
    let Config { agent, disposition, tuning, .. } = place.config()?;
    let reader = Reader::open(&agent.state_dir)?;
    let clock = local_clock();
    let window = i64::try_from(disposition.window.as_nanos()).unwrap_or(i64::MAX);
    let since = WallTime(clock.now.0.saturating_sub(window));
    let judgement = reader.judgement(&disposition, &tuning, clock.now)?;
    let lines = lines(&reader.alert_counts(since)?, &judgement);
    let text = match format.json {
        true => json_lines(&lines, &disposition),
        false => table(&lines, &clock, (&disposition, &tuning)),
    };
    Ok(print(text.as_bytes())?)
}

/// Every rule, also those without alerts, in the order of the rules.
fn lines(alerts: &[(String, u64, WallTime)], judgement: &Judgement) -> Vec<RuleLine> {
    let line = |verdicts: &RuleSummary| {
        let raised = alerts.iter().find(|(rule, ..)| rule == verdicts.rule.id());
        let proposal = judgement.proposals.iter().find(|proposal| proposal.rule == verdicts.rule);
        RuleLine {
            alerts: raised.map_or(0, |raised| raised.1),
            last_alert: raised.map(|raised| raised.2),
            verdicts: *verdicts,
            proposal: proposal.map(ProposalReport::from),
        }
    };
    judgement.summaries.iter().map(line).collect()
}

fn table(lines: &[RuleLine], clock: &Clock, (settings, tuning): (&DispositionSettings, &TuningSettings)) -> String {
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
    for line in lines {
        let verdicts = &line.verdicts;
        let rule: RuleId = verdicts.rule;
        let style = if line.proposal.is_some() { Style::Bad } else { Style::Good };
        let ratio = match verdicts.false_positive_ratio {
            None => Cell::new("-").style(Style::Dim),
            Some(ratio) => Cell::new(format!("{ratio:.2}")).style(style),
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
    let days = settings.window.as_secs() / 86_400;
    let note =
        format!("Alerts and verdicts of the last {days} days; a ratio needs {} verdicts.\n", settings.min_sample);
    table.heading(paper) + &table.take_rows(paper) + "\n" + &note + &proposals(lines, tuning)
}

/// What could be tuned, with the command that does it: nothing is tuned by itself.
fn proposals(lines: &[RuleLine], tuning: &TuningSettings) -> String {
    let noisy: Vec<_> = lines.iter().filter_map(|line| line.proposal.as_ref()).collect();
    if noisy.is_empty() {
        return String::new();
    }
    let head = format!("\nProposed, because more than {:.2} of a rule's verdicts say false:\n", tuning.ratio);
    head + &noisy.into_iter().map(proposal_text).collect::<String>()
}

fn proposal_text(proposal: &ProposalReport) -> String {
    let rule = &proposal.rule;
    if proposal.suppressions.is_empty() {
        return format!(
            "  {rule}: its false positives have nothing in common; see its thresholds with `pktscope config show`\n"
        );
    }
    proposal.suppressions.iter().map(|one| suppression_text(rule, one)).collect()
}

fn suppression_text(rule: &str, one: &ProposedReport) -> String {
    let (class, to) = match &one.destination {
        Some(destination) => ("same", destination.as_str()),
        None => ("any", "every destination"),
    };
    let (id, program) = (one.alert_id, &one.program);
    format!(
        "  {rule}: `pktscope alerts suppress {id} --destination {class}` would have hidden {} false positives of {program} to {to}\n",
        one.hides
    )
}

fn json_lines(lines: &[RuleLine], settings: &DispositionSettings) -> String {
    let line = |line: &RuleLine| {
        let rule: RuleId = line.verdicts.rule;
        let value = json!({
            "rule": {"id": rule.id(), "name": rule.name()},
            "pktscope": {"rule": {
                "window_days": settings.window.as_secs() / 86_400,
                "alerts": line.alerts,
                "last_alert": line.last_alert.map(|at| rfc3339(at).as_str().to_owned()),
                "true_positives": line.verdicts.true_positives,
                "benign_true_positives": line.verdicts.benign_true_positives,
                "false_positives": line.verdicts.false_positives,
                "false_positive_ratio": line.verdicts.false_positive_ratio,
                "proposal": line.proposal,
            }},
        });
        format!("{value}\n")
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::alert::{
        suppression::DestinationClass,
        tuning::{Proposal, ProposedSuppression},
    };

    const NOW: WallTime = WallTime(8_640_000_000_000_000);

    fn noisy() -> Vec<RuleLine> {
        let summary = |rule| RuleSummary {
            rule,
            true_positives: 0,
            false_positives: 6,
            benign_true_positives: 0,
            false_positive_ratio: Some(1.0),
        };
        let summaries: Vec<_> = RuleId::ALL.into_iter().map(summary).collect();
        let suppression = ProposedSuppression {
            program: "/usr/bin/backup".into(),
            destination: DestinationClass::Label("store.example".into()),
            hides: 4,
            alert: 12,
        };
        let proposal = |rule, suppressions| Proposal { rule, ratio: 1.0, suppressions };
        let proposals = vec![proposal(RuleId::Beaconing, vec![suppression]), proposal(RuleId::PortScan, Vec::new())];
        lines(&[("beaconing".to_owned(), 9, WallTime(50))], &Judgement { summaries, proposals })
    }

    #[test]
    fn a_noisy_rule_says_what_would_help_and_how_to_do_it() {
        let clock = Clock { now: NOW, zone: jiff::tz::TimeZone::UTC };
        let settings = (&DispositionSettings::default(), &TuningSettings::default());
        let text = table(&noisy(), &clock, settings);
        assert!(text.contains("`pktscope alerts suppress 12 --destination same` would have hidden 4"), "{text}");
        assert!(text.contains("port_scan: its false positives have nothing in common"), "{text}");
    }

    #[test]
    fn every_rule_is_a_line_of_json_with_what_it_proposes() {
        let text = json_lines(&noisy(), &DispositionSettings::default());
        let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), RuleId::ALL.len());
        let of = |rule: &str| rows.iter().find(|row| row["rule"]["id"] == rule).unwrap()["pktscope"]["rule"].clone();
        assert_eq!(of("beaconing")["proposal"]["suppressions"][0]["alert_id"], 12);
        assert_eq!((of("beaconing")["alerts"].clone(), of("bandwidth")["proposal"].clone()), (json!(9), json!(null)));
    }
}
