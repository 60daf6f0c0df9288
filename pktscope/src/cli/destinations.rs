//! `pktscope destinations`

use serde_json::{Value, json};

use super::{
    listing::{Listing, Rows},
    place::Place,
};
use crate::{
    sink::ecs::rfc3339,
    store::{DestinationRow, Query, Reader, StoreError},
    view::{Cell, Clock, Column, bytes, count},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  pktscope destinations --since 1d                 where anything went in the last day
  pktscope destinations --process curl --limit 0   everywhere that curl went
  pktscope destinations --destination ':25'        who was sent mail";

pub(super) fn run(place: &Place, listing: &Listing) -> anyhow::Result<()> {
    listing.print(place, &Destinations)
}

pub(super) struct Destinations;

impl Rows for Destinations {
    type Row = DestinationRow;

    fn columns(&self) -> Vec<Column> {
        vec![
            Column::long("DESTINATION"),
            Column::text("PORTS"),
            Column::text("COUNTRY"),
            Column::long("NETWORK"),
            Column::number("FLOWS"),
            Column::number("SENT"),
            Column::number("RECEIVED"),
            Column::text("FIRST"),
            Column::text("LAST"),
            Column::long("PROCESSES"),
        ]
    }

    fn read(&self, reader: &Reader, query: &Query) -> Result<Vec<DestinationRow>, StoreError> {
        reader.destinations(query)
    }

    fn cells(&self, row: &DestinationRow, clock: &Clock) -> Vec<Cell> {
        vec![
            Cell::new(&row.destination),
            ports(&row.ports).into(),
            row.country.as_deref().unwrap_or("-").into(),
            network(row).into(),
            count(row.flows).into(),
            bytes(row.bytes_out).into(),
            bytes(row.bytes_in).into(),
            clock.time(row.first_seen).into(),
            clock.time(row.last_seen).into(),
            row.processes.join(", ").into(),
        ]
    }

    fn json(&self, row: &DestinationRow, out: &mut Vec<u8>) {
        let domain = row.is_domain.then_some(&row.destination);
        let line = without_nulls(json!({
            "@timestamp": rfc3339(row.last_seen).as_str(),
            "event": {"start": rfc3339(row.first_seen).as_str(), "end": rfc3339(row.last_seen).as_str()},
            "source": {"bytes": row.bytes_out},
            "destination": {
                "ip": row.addresses, "port": row.ports, "bytes": row.bytes_in, "domain": domain,
                "geo": {"country_iso_code": row.country},
                "as": {"number": row.as_number, "organization": {"name": row.as_organization}},
            },
            "process": {"name": row.processes},
            "pktscope": {"flows": row.flows},
        }));
        out.extend_from_slice(line.to_string().as_bytes());
        out.push(b'\n');
    }

    fn written_at(&self, row: &DestinationRow) -> i64 {
        row.written_at
    }
}

/// Leaves out what is not known, as the events do; an object that is empty then, too.
fn without_nulls(value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    let known = fields.into_iter().map(|(name, value)| (name, without_nulls(value)));
    Value::Object(known.filter(|(_, value)| !value.is_null() && *value != json!({})).collect())
}

fn ports(ports: &[u16]) -> String {
    const SHOWN: usize = 4;
    let named: Vec<String> = ports.iter().filter(|port| **port != 0).take(SHOWN).map(u16::to_string).collect();
    match ports.len().saturating_sub(SHOWN) {
        0 if named.is_empty() => "-".to_owned(),
        0 => named.join(","),
        more => format!("{} +{more}", named.join(",")),
    }
}

fn network(row: &DestinationRow) -> String {
    match (&row.as_organization, row.as_number) {
        (Some(name), Some(number)) => format!("{name} (AS{number})"),
        (Some(name), None) => name.clone(),
        (None, Some(number)) => format!("AS{number}"),
        (None, None) => "-".to_owned(),
    }
}
