//! `pktscope alerts suppress|suppressions|revoke`: a false positive, generalised; shown before it is applied.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::{
    mark::user,
    output::{Format, paper, print},
    place::Place,
};
use crate::{
    api::{self, DestinationWord, Request, Suppress, SuppressionReport},
    config::{format_duration, parse_duration},
    view::{Cell, Column, StatusSection, Style, Table, count, status_text},
};

/// Alerts named in a preview.
const NAMED: usize = 20;

const EXAMPLES: &str = "\
Examples:
  pktscope alerts suppress 12                               show what hiding alerts like 12 would have hidden
  pktscope alerts suppress 12 --for 30d --note 'backup' --apply
  pktscope alerts revoke 3

Only alerts of the same rule and program are hidden, and only for the given class of destinations.";

/// What to hide.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct SuppressArguments {
    /// The alert that others are like
    #[arg(value_name = "ID")]
    id: u64,
    /// Which destinations
    #[arg(long, value_enum, default_value_t = Destination::Same)]
    destination: Destination,
    /// For how long
    #[arg(long = "for", value_name = "DURATION", default_value = "90d", value_parser = parse_time)]
    duration: Duration,
    /// Why, in a sentence
    #[arg(long, default_value = "")]
    note: String,
    /// Do it; without this it is only shown
    #[arg(long)]
    apply: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Destination {
    /// The alert's own: its registrable domain with all below it, or its address
    Same,
    /// The alert's autonomous system
    Network,
    /// Private addresses
    Private,
    /// Every destination
    Any,
}

impl Destination {
    fn word(self) -> DestinationWord {
        match self {
            Self::Same => DestinationWord::Same,
            Self::Network => DestinationWord::Network,
            Self::Private => DestinationWord::Private,
            Self::Any => DestinationWord::Any,
        }
    }
}

impl SuppressArguments {
    pub(super) fn run(&self, place: &Place) -> anyhow::Result<()> {
        let wanted = Suppress {
            alert_id: self.id,
            destination: self.destination.word(),
            for_seconds: self.duration.as_secs(),
            analyst: user(),
            note: self.note.clone(),
            is_dry_run: !self.apply,
        };
        let answer = api::call(&place.config()?.agent.runtime_dir, &Request::Suppress(wanted))?;
        let report: SuppressionReport = serde_json::from_value(answer).context("failed to read the agent's answer")?;
        Ok(print(self.preview(&report).as_bytes())?)
    }

    fn preview(&self, report: &SuppressionReport) -> String {
        let hidden = &report.would_have_hidden;
        let mut section = StatusSection::new(if self.apply { "Applied" } else { "Proposed" });
        section
            .add("hides", &report.rule)
            .add("of", &report.program)
            .add("to", &report.destination)
            .add("for", format!("{}, until {}", format_duration(self.duration), report.expires));
        let number = u64::try_from(hidden.len()).unwrap_or(u64::MAX);
        let text = format!("{} of the last 30 days' {} alerts", count(number), count(report.compared_with));
        section.add("would have hidden", text);
        if !hidden.is_empty() {
            let more = if NAMED < hidden.len() { ", …" } else { "" };
            let ids: Vec<String> = hidden.iter().take(NAMED).map(u64::to_string).collect();
            section.add("which are", format!("{}{more}", ids.join(", ")));
        }
        let next = match self.apply {
            true => format!("\n`pktscope alerts revoke {}` takes it back.\n", report.id),
            false => "\nNothing is changed yet: add --apply to do it.\n".to_owned(),
        };
        status_text(&[section], paper().has_colour) + &next
    }
}

/// A duration of at least the second that the agent counts in.
fn parse_time(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(duration) if duration < Duration::from_secs(1) => Err("nothing is hidden for less than 1s".to_owned()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

/// Lists every suppression.
pub(super) fn list(place: &Place, format: Format) -> anyhow::Result<()> {
    let answer = api::call(&place.config()?.agent.runtime_dir, &Request::Suppressions)?;
    let reports: Vec<SuppressionReport> =
        serde_json::from_value(answer.clone()).context("failed to read the agent's answer")?;
    if format.json {
        let lines: String = answer.as_array().into_iter().flatten().map(|line| format!("{line}\n")).collect();
        return Ok(print(lines.as_bytes())?);
    }
    Ok(print(table(&reports).as_bytes())?)
}

fn table(reports: &[SuppressionReport]) -> String {
    let mut table = Table::new(&[
        Column::number("ID"),
        Column::text("STATE"),
        Column::number("HIDDEN"),
        Column::text("RULE"),
        Column::long("PROGRAM"),
        Column::long("DESTINATION"),
        Column::text("UNTIL"),
        Column::text("BY"),
        Column::long("NOTE"),
    ]);
    for report in reports {
        let style = if report.state == "active" { Style::Good } else { Style::Dim };
        table.add(vec![
            report.id.to_string().into(),
            Cell::new(&report.state).style(style),
            count(report.hidden).into(),
            Cell::new(&report.rule),
            Cell::new(&report.program),
            Cell::new(&report.destination),
            report.expires.get(..10).unwrap_or_default().into(),
            Cell::new(&report.analyst),
            Cell::new(&report.note),
        ]);
    }
    table.heading(paper()) + &table.take_rows(paper())
}

/// Ends a suppression.
pub(super) fn revoke(runtime_dir: &Path, id: u64) -> anyhow::Result<()> {
    api::call(runtime_dir, &Request::Revoke { id, analyst: user() })?;
    Ok(print(format!("suppression {id} is revoked\n").as_bytes())?)
}
