//! `pktscope dns`

use super::{
    json,
    listing::{Listing, Rows},
    place::Place,
};
use crate::{
    core::dns_words::{record_type_word, response_code_word},
    store::{DnsRow, Query, Reader, StoreError},
    view::{Cell, Clock, Column, Style, peer},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  pktscope dns -f                              every answer as it comes
  pktscope dns --destination example.com       every question below example.com
  pktscope dns --since 1h --json | jq -r 'select(.dns.response_code == \"NXDOMAIN\") | .dns.question.name'

`pktscope status` shows totals, failures, answer times and the names asked for most.";

pub(super) fn run(place: &Place, listing: &Listing) -> anyhow::Result<()> {
    listing.print(place, &Answers)
}

pub(super) struct Answers;

impl Rows for Answers {
    type Row = DnsRow;

    fn columns(&self) -> Vec<Column> {
        vec![
            Column::text("TIME"),
            Column::long("PROCESS"),
            Column::long("QUESTION"),
            Column::text("TYPE"),
            Column::text("CODE"),
            Column::long("ANSWERS"),
            Column::text("SERVER"),
        ]
    }

    fn read(&self, reader: &Reader, query: &Query) -> Result<Vec<DnsRow>, StoreError> {
        reader.dns(query)
    }

    fn cells(&self, row: &DnsRow, clock: &Clock) -> Vec<Cell> {
        let code_style = if row.response_code == 0 { Style::Plain } else { Style::Warning };
        let owner = row.process.as_ref().map(|process| format!("{}[{}]", process.name, process.pid));
        vec![
            clock.time(row.at).into(),
            owner.unwrap_or_else(|| "-".to_owned()).into(),
            Cell::new(&row.question),
            record_type_word(row.question_type).into(),
            Cell::new(response_code_word(row.response_code)).style(code_style),
            answers(row).into(),
            peer(None, row.server_ip, Some(row.server_port)).into(),
        ]
    }

    fn json(&self, row: &DnsRow, out: &mut Vec<u8>) {
        json::line(json::dns(row), out);
    }

    fn written_at(&self, row: &DnsRow) -> i64 {
        row.written_at
    }
}

fn answers(row: &DnsRow) -> String {
    let stored = row.answers.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts = stored.iter().filter_map(|answer| answer["data"].as_str().or(answer["alias"].as_str()));
    let text = texts.collect::<Vec<_>>().join(" ");
    if text.is_empty() { "-".to_owned() } else { text }
}
