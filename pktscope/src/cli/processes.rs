//! `pktscope processes`

use super::{
    json,
    listing::{Listing, Rows},
    place::Place,
};
use crate::{
    store::{ProcessRow, Query, Reader, StoreError},
    view::{Cell, Clock, Column, Style, bytes, count},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  pktscope processes --since 1h                   who talked in the last hour, and how much
  pktscope processes --destination example.com    who ever talked to example.com
  pktscope processes --process 'python*' --json   everything known of each Python";

pub(super) fn run(place: &Place, listing: &Listing) -> anyhow::Result<()> {
    listing.print(place, &Processes)
}

pub(super) struct Processes;

impl Rows for Processes {
    type Row = ProcessRow;

    fn columns(&self) -> Vec<Column> {
        vec![
            Column::text("STARTED"),
            Column::number("PID"),
            Column::text("USER"),
            Column::number("FLOWS"),
            Column::number("SENT"),
            Column::number("RECEIVED"),
            Column::text("STATE"),
            Column::text("PACKAGE"),
            Column::long("PROGRAM"),
        ]
    }

    fn read(&self, reader: &Reader, query: &Query) -> Result<Vec<ProcessRow>, StoreError> {
        reader.processes(query)
    }

    fn cells(&self, row: &ProcessRow, clock: &Clock) -> Vec<Cell> {
        let traffic = row.traffic.unwrap_or_default();
        vec![
            row.started_at.map_or_else(|| "?".to_owned(), |at| clock.time(at)).into(),
            row.pid.to_string().into(),
            user(row).into(),
            count(traffic.flows).into(),
            bytes(traffic.bytes_out).into(),
            bytes(traffic.bytes_in).into(),
            state(row),
            package(row),
            Cell::new(program(row)),
        ]
    }

    fn json(&self, row: &ProcessRow, out: &mut Vec<u8>) {
        json::line(json::process_event(row), out);
    }

    fn written_at(&self, row: &ProcessRow) -> i64 {
        row.written_at
    }
}

fn user(row: &ProcessRow) -> String {
    row.user.clone().or_else(|| row.uid.map(|uid| uid.to_string())).unwrap_or_else(|| "?".to_owned())
}

fn state(row: &ProcessRow) -> Cell {
    match (row.ended_at, row.wait_status) {
        (None, _) => Cell::new("running").style(Style::Good),
        (Some(_), Some(status)) if status & 0x7f != 0 => {
            Cell::new(format!("signal {}", status & 0x7f)).style(Style::Warning)
        }
        (Some(_), status) => Cell::new(format!("exit {}", status.unwrap_or(0) >> 8)).style(Style::Dim),
    }
}

fn package(row: &ProcessRow) -> Cell {
    match (&row.package_name, row.package_is_unmodified) {
        (Some(name), Some(false)) => Cell::new(format!("{name} (modified)")).style(Style::Bad),
        (Some(name), _) => Cell::new(name),
        (None, _) => Cell::new("-").style(Style::Dim),
    }
}

/// The command line, else the path, else the name; an interpreter's script first.
fn program(row: &ProcessRow) -> String {
    let container = row.container_id.as_deref().map(|id| format!(" (container {})", id.get(..12).unwrap_or(id)));
    let what = [&row.command_line, &row.executable, &row.name].into_iter().find(|text| !text.is_empty());
    format!("{}{}", what.map_or("?", String::as_str), container.unwrap_or_default())
}
