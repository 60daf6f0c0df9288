//! Roll-up: when flows end faster than is worth a row each, short flows to one destination share a row a minute.
//!
//! Nothing is lost but their source ports and exact times: the row has their number and their sums.

use std::net::IpAddr;

use ahash::HashMap;
use rusqlite::Connection;

use super::{flows::Record, processes::Written};
use crate::core::{
    flow::{Direction, EndReason, Flow, Transport, Volume},
    time::BootTime,
};

const MINUTE_NANOS: u64 = 60_000_000_000;

/// Flows that differ in nothing else share a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    process_id: Option<i64>,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    transport: Transport,
    direction: Direction,
    reason: Option<EndReason>,
    minute: u64,
}

impl Key {
    fn of(flow: &Flow, process_id: Option<i64>) -> Self {
        Self {
            process_id,
            source: flow.source.addr,
            destination: flow.destination.addr,
            port: flow.destination.port,
            transport: flow.transport,
            direction: flow.direction,
            reason: flow.ended.map(|(_, reason)| reason),
            minute: flow.started_at.0 / MINUTE_NANOS,
        }
    }
}

/// The rows that are still added to: flow ids by key, of the newest minutes.
#[derive(Debug, Default)]
pub(super) struct Open {
    rows: HashMap<Key, u64>,
    newest_minute: u64,
}

impl Open {
    /// Rows of the newest minute and the one before; with that, at most two minutes' destinations.
    fn forget_older(&mut self, minute: u64) {
        if self.newest_minute < minute {
            self.newest_minute = minute;
            self.rows.retain(|key, _| minute <= key.minute + 1);
        }
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
    }
}

/// The sums of one batch.
#[derive(Debug, Default)]
pub(super) struct Sums<'a> {
    rows: HashMap<Key, Record<'a>>,
}

impl<'a> Sums<'a> {
    pub(super) fn add(&mut self, flow: &'a Flow, process_id: Option<i64>) {
        let one = || Record::of_one(flow, process_id);
        self.rows.entry(Key::of(flow, process_id)).and_modify(|record| merge(record, flow)).or_insert_with(one);
    }

    /// Writes a row a key, adds to those of earlier batches. Returns the number of rows.
    pub(super) fn write(self, connection: &Connection, open: &mut Open, written: Written) -> rusqlite::Result<u64> {
        let mut rows = 0;
        for (key, record) in self.rows {
            open.forget_older(key.minute);
            let id = *open.rows.entry(key).or_insert(record.flow.id.0);
            record.add(connection, written, id)?;
            rows += 1;
        }
        Ok(rows)
    }
}

fn merge(record: &mut Record<'_>, flow: &Flow) {
    record.flows += 1;
    add_volume(&mut record.sent, &flow.sent);
    add_volume(&mut record.received, &flow.received);
    record.started_at = record.started_at.min(flow.started_at);
    record.last_seen = record.last_seen.max(flow.last_seen);
    let ended_at: Option<BootTime> = flow.ended.map(|(at, _)| at);
    record.ended_at = record.ended_at.max(ended_at);
}

fn add_volume(sum: &mut Volume, more: &Volume) {
    sum.ip_bytes = sum.ip_bytes.saturating_add(more.ip_bytes);
    sum.packets = sum.packets.saturating_add(more.packets);
    sum.payload_bytes = sum.payload_bytes.saturating_add(more.payload_bytes);
}
