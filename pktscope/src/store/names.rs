//! Names of addresses: what was asked for lately, so that a restart does not make connections nameless.

use std::{collections::HashMap, hash::RandomState, net::IpAddr, sync::Arc};

use rusqlite::{Connection, Row, params};

use super::{Reader, StoreError};
use crate::core::{
    names::{NameRow, StoredAsker},
    process::ProcessKey,
    time::{BootTime, WallTime},
};

/// Names kept at most: of a busy host's last hours; 20 MiB. Those that hold shortest give way.
pub(super) const MAX_NAMES: i64 = 100_000;

/// What tells names apart.
pub(super) type NameKey = (IpAddr, Option<StoredAsker>, Arc<str>);
/// The newest row of each name.
pub(super) type NewestNames = HashMap<NameKey, NameRow, RandomState>;

pub(super) fn key_of(row: &NameRow) -> NameKey {
    (row.addr, row.asker.clone(), row.name.clone())
}

/// Writes the newest row of each name.
pub(super) fn write(connection: &Connection, names: &NewestNames) -> rusqlite::Result<()> {
    let sql = "INSERT INTO names (address, boot_id, pid, started_at, name, since, learned_at, expires_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
        ON CONFLICT (address, boot_id, pid, started_at, name)
        DO UPDATE SET since = excluded.since, learned_at = excluded.learned_at, expires_at = excluded.expires_at";
    let mut statement = connection.prepare_cached(sql)?;
    for row in names.values() {
        let asker = row.asker.as_ref();
        let (boot_id, pid) = asker.map_or(("", 0), |asker| (&*asker.boot_id, asker.key.pid));
        let started_at = asker.map_or(0, |asker| i64::try_from(asker.key.started_at.0).unwrap_or(i64::MAX));
        let times = (row.since.0, row.learned_at.0, row.expires_at.0);
        let addr = row.addr.to_string();
        statement.execute(params![addr, boot_id, pid, started_at, row.name, times.0, times.1, times.2])?;
    }
    Ok(())
}

/// Deletes names that hold no more, and those that are too many; whether there may be more of either.
pub(super) fn retain(connection: &Connection, now: WallTime, step: i64) -> rusqlite::Result<bool> {
    let over =
        "DELETE FROM names WHERE id IN (SELECT id FROM names WHERE expires_at < ?1 ORDER BY expires_at LIMIT ?2)";
    let deleted = connection.prepare_cached(over)?.execute(params![now.0, step])?;
    let count: i64 = connection.prepare_cached("SELECT count(*) FROM names")?.query_row([], |row| row.get(0))?;
    let beyond = (count - MAX_NAMES).clamp(0, step);
    let most = "DELETE FROM names WHERE id IN (SELECT id FROM names ORDER BY expires_at LIMIT ?1)";
    connection.prepare_cached(most)?.execute([beyond])?;
    Ok(step <= i64::try_from(deleted).unwrap_or(0) || beyond == step)
}

impl Reader {
    /// The names that still hold, the longest learned first, and the number of rows that cannot be read.
    ///
    /// # Errors
    /// A failed query.
    pub fn names(&self, now: WallTime) -> Result<(Vec<NameRow>, u64), StoreError> {
        let sql = "SELECT * FROM names WHERE ?1 <= expires_at ORDER BY learned_at DESC LIMIT ?2";
        let read = || {
            let mut statement = self.connection.prepare(sql)?;
            let rows = statement.query_map(params![now.0, MAX_NAMES], |row| Ok(name(row).ok().flatten()))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let mut rows = read().map_err(|source| self.failed("names", source))?;
        let found = rows.len();
        rows.reverse();
        let names: Vec<_> = rows.into_iter().flatten().collect();
        let unreadable = (found - names.len()) as u64;
        Ok((names, unreadable))
    }
}

fn name(row: &Row<'_>) -> rusqlite::Result<Option<NameRow>> {
    let text = |column: &str| row.get::<_, String>(column);
    let time = |column: &str| row.get(column).map(WallTime);
    let (Ok(addr), pid) = (text("address")?.parse(), row.get("pid")?) else { return Ok(None) };
    let started_at = BootTime(u64::try_from(row.get::<_, i64>("started_at")?).unwrap_or(0));
    let boot_id: Arc<str> = text("boot_id")?.into();
    let asker = (pid != 0).then_some(StoredAsker { boot_id, key: ProcessKey { pid, started_at } });
    let (since, learned_at, expires_at) = (time("since")?, time("learned_at")?, time("expires_at")?);
    Ok(Some(NameRow { addr, name: text("name")?.into(), asker, since, learned_at, expires_at }))
}
