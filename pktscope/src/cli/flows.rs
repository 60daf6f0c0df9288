//! `pktscope flows`

use super::{
    json,
    listing::{Listing, Rows},
    place::Place,
};
use crate::{
    sink::ecs::has_ports,
    store::{FlowRow, Query, Reader, StoreError},
    view::{Cell, Clock, Column, FlowLine, flow_cells, flow_columns, peer},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  pktscope flows --since 10m                      what happened in the last ten minutes
  pktscope flows -f --process curl                what curl does, as it does it
  pktscope flows --destination example.com:443    who talked to example.com and all below it over HTTPS
  pktscope flows --since 1h --limit 0 --json | jq -c '[.process.name, .destination.ip, .source.bytes]'

A row with ×N stands for N short flows that differ in source port and time only. → this host opened it, ← the other side.";

pub(super) fn run(place: &Place, listing: &Listing) -> anyhow::Result<()> {
    listing.print(place, &Flows)
}

pub(super) struct Flows;

impl Rows for Flows {
    type Row = FlowRow;

    fn columns(&self) -> Vec<Column> {
        flow_columns().to_vec()
    }

    fn read(&self, reader: &Reader, query: &Query) -> Result<Vec<FlowRow>, StoreError> {
        reader.flows(query)
    }

    fn cells(&self, row: &FlowRow, clock: &Clock) -> Vec<Cell> {
        flow_cells(&line(row), clock)
    }

    fn json(&self, row: &FlowRow, out: &mut Vec<u8>) {
        json::line(json::flow(row), out);
    }

    fn written_at(&self, row: &FlowRow) -> i64 {
        row.written_at
    }
}

fn line(row: &FlowRow) -> FlowLine<'_> {
    let is_egress = row.direction == "egress";
    let port = |port: u16| has_ports(row.transport).then_some(port);
    let peer = match is_egress {
        true => peer(row.domain.as_deref(), row.destination_ip, port(row.destination_port)),
        false => peer(None, row.source_ip, port(row.source_port)),
    };
    let (out, back) = if is_egress { (row.sent, row.received) } else { (row.received, row.sent) };
    FlowLine {
        last_seen: row.last_seen,
        started_at: row.started_at,
        owner: owner(row),
        has_process: row.process.is_some(),
        is_egress,
        peer,
        transport: row.transport.name().unwrap_or("?"),
        bytes_out: out.ip_bytes,
        bytes_in: back.ip_bytes,
        state: row.ended_at.and(row.conn_state.as_deref().or(row.end_reason.as_deref())),
        flows: row.flows,
    }
}

fn owner(row: &FlowRow) -> String {
    match (&row.process, &row.reason) {
        (Some(process), _) => format!("{}[{}]", process.name, process.pid),
        (None, Some(reason)) => format!("unknown: {reason}"),
        (None, None) => row.status.clone(),
    }
}
