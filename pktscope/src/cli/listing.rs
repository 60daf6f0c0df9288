//! What all listing commands share: filters, format, following.

use std::{str::FromStr, time::Duration};

use clap::Args;
use jiff::Timestamp;

use super::{
    output::{Format, local_clock, paper, print},
    place::Place,
};
use crate::{
    clock,
    config::parse_duration,
    core::time::WallTime,
    store::{Query, Reader, StoreError},
    view::{Cell, Clock, Column, Table},
};

const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);

/// Which rows, and how they are printed.
#[derive(Args, Clone, Debug)]
pub struct Listing {
    /// Only what was active since then: a span back such as 10m, 1h, 7d, or a time such as 2026-11-20T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Only this process: a name, a path, a pid, or a pattern with *
    #[arg(long, value_name = "PROCESS")]
    process: Option<String>,
    /// Only this destination: an address, a domain with all below it, a pattern with *, AS64500, :PORT
    #[arg(long, value_name = "DESTINATION")]
    destination: Option<String>,
    /// At most so many rows, the newest; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
    /// Go on printing what comes
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    format: Format,
}

/// A time, or a span before now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    Ago(Duration),
    At(WallTime),
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(span) = parse_duration(text) {
            return Ok(Self::Ago(span));
        }
        let at = text.parse::<Timestamp>().ok().and_then(|at| i64::try_from(at.as_nanosecond()).ok());
        at.map(|at| Self::At(WallTime(at))).ok_or_else(|| {
            format!("\"{text}\" is neither a span back such as 10m, 1h, 7d nor a time such as 2026-11-20T12:00:00Z")
        })
    }
}

impl Since {
    fn at(self, now: WallTime) -> WallTime {
        match self {
            Self::Ago(span) => WallTime(now.0.saturating_sub(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX))),
            Self::At(at) => at,
        }
    }
}

/// A kind of rows that can be listed.
pub(super) trait Rows {
    type Row;

    /// The table's columns.
    fn columns(&self) -> Vec<Column>;

    /// Reads rows, the one to print last at the end.
    fn read(&self, reader: &Reader, query: &Query) -> Result<Vec<Self::Row>, StoreError>;

    /// A row of the table.
    fn cells(&self, row: &Self::Row, clock: &Clock) -> Vec<Cell>;

    /// A line of JSON, with its line end.
    fn json(&self, row: &Self::Row, out: &mut Vec<u8>);

    /// When the row was written, for followers.
    fn written_at(&self, row: &Self::Row) -> i64;
}

impl Listing {
    /// Prints the rows, and those that come, where they are followed.
    pub(super) fn print<R: Rows>(&self, place: &Place, rows: &R) -> anyhow::Result<()> {
        let reader = Reader::open(&place.config()?.agent.state_dir)?;
        let mut query = self.query(clock::now().wall);
        let mut cursor = reader.cursor()?;
        let mut table = Table::new(&rows.columns());
        let mut page = rows.read(&reader, &query)?;
        self.print_page(rows, &page, &mut table, true)?;
        if !self.follow {
            return Ok(());
        }
        loop {
            cursor = page.iter().map(|row| rows.written_at(row)).fold(cursor, i64::max);
            std::thread::sleep(FOLLOW_INTERVAL);
            query = Query { after: Some(cursor), limit: None, since: None, ..query };
            page = rows.read(&reader, &query)?;
            self.print_page(rows, &page, &mut table, false)?;
        }
    }

    fn query(&self, now: WallTime) -> Query {
        Query {
            since: self.since.map(|since| since.at(now)),
            process: self.process.clone(),
            destination: self.destination.clone(),
            limit: (self.limit != 0).then_some(self.limit),
            after: None,
        }
    }

    fn print_page<R: Rows>(&self, rows: &R, page: &[R::Row], table: &mut Table, is_first: bool) -> anyhow::Result<()> {
        let mut out = Vec::new();
        if self.format.json {
            page.iter().for_each(|row| rows.json(row, &mut out));
            return Ok(print(&out)?);
        }
        let (paper, clock) = (paper(), local_clock());
        page.iter().for_each(|row| table.add(rows.cells(row, &clock)));
        if is_first {
            out.extend_from_slice(table.heading(paper).as_bytes());
        }
        out.extend_from_slice(table.take_rows(paper).as_bytes());
        Ok(print(&out)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_span_or_a_time() {
        let now = WallTime(7_200_000_000_000);
        assert_eq!("1h".parse::<Since>().unwrap().at(now), WallTime(3_600_000_000_000));
        assert_eq!("1970-01-01T00:00:01Z".parse::<Since>().unwrap().at(now), WallTime(1_000_000_000));
        for text in ["", "yesterday", "-1h", "1970-01-01"] {
            assert!(text.parse::<Since>().is_err(), "{text}");
        }
    }
}
