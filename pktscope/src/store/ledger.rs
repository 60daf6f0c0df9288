//! Ledger intervals: a row each.

use rusqlite::{Connection, Row, params};
use serde_json::{Map, Value, json};

use super::{Reader, StoreError, processes::Written};
use crate::core::{
    effect::{Ledger, LedgerSide},
    time::WallTime,
};

/// Writes a closed interval.
pub(super) fn write(connection: &Connection, ledger: &Ledger, written: Written) -> rusqlite::Result<()> {
    let sql = "INSERT INTO ledger (written_at, started_at, ended_at, tx, rx, lost) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let (start, end) = (written.now.wall_at(ledger.started_at).0, written.now.wall_at(ledger.ended_at).0);
    let (tx, rx) = (side(&ledger.tx).to_string(), side(&ledger.rx).to_string());
    let lost = Value::Object(counters(&ledger.lost)).to_string();
    connection.prepare_cached(sql)?.execute(params![written.at, start, end, tx, rx, lost]).map(drop)
}

fn side(side: &LedgerSide) -> Value {
    json!({
        "interface_bytes": side.interface_bytes,
        "attributed_bytes": side.attributed_bytes,
        "kernel_bytes": side.kernel_bytes,
        "forwarded_bytes": side.forwarded_bytes,
        "unknown_bytes": side.unknown_bytes,
        "counted_twice_bytes": side.counted_twice_bytes,
        "by_reason": counters(&side.by_reason),
    })
}

fn counters(counters: &[(&'static str, u64)]) -> Map<String, Value> {
    counters.iter().map(|(name, count)| ((*name).to_owned(), (*count).into())).collect()
}

/// A stored interval; the sides and losses as JSON objects in the export's words.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerRow {
    /// Start of the interval.
    pub started_at: WallTime,
    /// End of the interval.
    pub ended_at: WallTime,
    /// Sent.
    pub tx: Value,
    /// Received.
    pub rx: Value,
    /// Records lost, by place.
    pub lost: Value,
}

impl Reader {
    /// The newest intervals, the last at the end.
    ///
    /// # Errors
    /// A failed query.
    pub fn ledger(&self, limit: u32) -> Result<Vec<LedgerRow>, StoreError> {
        let read = || {
            let mut statement = self.connection.prepare("SELECT * FROM ledger ORDER BY id DESC LIMIT ?1")?;
            statement.query_map([limit], ledger_row)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        let mut rows = read().map_err(|source| self.failed("ledger", source))?;
        rows.reverse();
        Ok(rows)
    }
}

fn ledger_row(row: &Row<'_>) -> rusqlite::Result<LedgerRow> {
    let object = |name: &str| -> rusqlite::Result<Value> {
        let text: String = row.get(name)?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    };
    Ok(LedgerRow {
        started_at: WallTime(row.get("started_at")?),
        ended_at: WallTime(row.get("ended_at")?),
        tx: object("tx")?,
        rx: object("rx")?,
        lost: object("lost")?,
    })
}
