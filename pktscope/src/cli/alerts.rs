//! `pktscope alerts`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    listing::{Listing, Rows},
    mark::MarkArguments,
    output::Format,
    place::Place,
    suppress::{self, SuppressArguments},
    verdicts::VerdictsCommand,
};
use crate::{
    core::alert::Severity,
    store::{AlertRow, Query, Reader, StoreError},
    view::{Cell, Clock, Column, Style},
};

const EXAMPLES: &str = "\
Examples:
  pktscope alerts --since 1d                                    the last day's alerts
  pktscope alerts -f --json                                     alerts as they are raised, with all evidence
  pktscope alerts mark 12 --verdict false_positive --note 'our backup'

A verdict counts in `pktscope rules`; `pktscope alerts suppress` hides what is like a false positive.";

/// Lists alerts, or records a verdict.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct AlertsArguments {
    #[command(subcommand)]
    command: Option<AlertsCommand>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Subcommand)]
enum AlertsCommand {
    /// Record what an alert turned out to be
    Mark(MarkArguments),
    /// Hide alerts like this one: shows what that would have hidden, does it with --apply
    Suppress(SuppressArguments),
    /// List what is hidden, by whom, until when, and what was
    Suppressions(Format),
    /// Take a suppression back
    Revoke {
        /// The suppression's number
        id: u64,
    },
    /// Export or import verdicts as lines of JSON
    #[command(subcommand)]
    Verdicts(VerdictsCommand),
}

impl AlertsArguments {
    pub(super) fn run(&self, place: &Place) -> anyhow::Result<()> {
        match &self.command {
            Some(AlertsCommand::Mark(arguments)) => arguments.run(place),
            Some(AlertsCommand::Suppress(arguments)) => arguments.run(place),
            Some(AlertsCommand::Suppressions(format)) => suppress::list(place, *format),
            Some(AlertsCommand::Revoke { id }) => suppress::revoke(&place.config()?.agent.runtime_dir, *id),
            Some(AlertsCommand::Verdicts(command)) => command.run(place),
            None => self.listing.print(place, &Alerts),
        }
    }
}

pub(super) struct Alerts;

impl Rows for Alerts {
    type Row = AlertRow;

    fn columns(&self) -> Vec<Column> {
        vec![
            Column::text("TIME"),
            Column::number("ID"),
            Column::text("SEVERITY"),
            Column::text("RULE"),
            Column::text("VERDICT"),
            Column::long("MESSAGE"),
        ]
    }

    fn read(&self, reader: &Reader, query: &Query) -> Result<Vec<AlertRow>, StoreError> {
        reader.alerts(query)
    }

    fn cells(&self, row: &AlertRow, clock: &Clock) -> Vec<Cell> {
        vec![
            clock.time(row.at).into(),
            row.id.to_string().into(),
            Cell::new(row.severity.name()).style(severity_style(row.severity)),
            Cell::new(&row.rule_id),
            row.verdict.as_deref().unwrap_or("-").into(),
            Cell::new(&row.message),
        ]
    }

    fn json(&self, row: &AlertRow, out: &mut Vec<u8>) {
        out.extend_from_slice(document(row).as_bytes());
        out.push(b'\n');
    }

    fn written_at(&self, row: &AlertRow) -> i64 {
        row.written_at
    }
}

fn severity_style(severity: Severity) -> Style {
    match severity {
        Severity::Info => Style::Dim,
        Severity::Notice => Style::Plain,
        Severity::Warning => Style::Warning,
        Severity::Critical => Style::Bad,
    }
}

/// The alert as it was exported, with the verdict that it has now.
fn document(row: &AlertRow) -> String {
    let Some(verdict) = &row.verdict else { return row.document.clone() };
    let Ok(mut document) = serde_json::from_str::<Value>(&row.document) else { return row.document.clone() };
    document["pktscope"]["alert"]["disposition"] = json!({"verdict": verdict, "note": row.note});
    document.to_string()
}
