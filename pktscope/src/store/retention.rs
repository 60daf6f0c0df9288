//! Retention: what is too old or too much is deleted, in small steps between batches.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::names;
use crate::core::time::WallTime;

/// Rows deleted in one step: a few milliseconds of work.
const STEP_ROWS: i64 = 2_000;
/// Free pages given back to the file system in one step.
const STEP_PAGES: i64 = 500;

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retention {
    pub(super) age: Duration,
    pub(super) alert_age: Duration,
    pub(super) bytes_max: u64,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Step {
    /// Whether there is more to do.
    pub(super) has_more: bool,
    /// Whether processes were deleted, so that their row ids are void.
    pub(super) has_deleted_processes: bool,
}

/// Does one step.
pub(super) fn step(connection: &Connection, keep: &Retention, now: WallTime) -> rusqlite::Result<Step> {
    let cutoff = before(now, keep.age);
    let mut has_more = false;
    for table in ["flows", "dns", "ledger"] {
        has_more |= delete_older(connection, table, cutoff)?;
    }
    has_more |= delete_older(connection, "alerts", before(now, keep.alert_age))?;
    has_more |= names::retain(connection, now, STEP_ROWS)?;
    let processes = delete_unused_processes(connection, cutoff)?;
    has_more |= STEP_ROWS <= i64::try_from(processes).unwrap_or(0);
    if keep.bytes_max < used_bytes(connection)? {
        delete_oldest(connection, "flows")?;
        delete_oldest(connection, "dns")?;
        has_more = true;
    }
    connection.execute_batch(&format!("PRAGMA incremental_vacuum({STEP_PAGES})"))?;
    Ok(Step { has_more, has_deleted_processes: processes != 0 })
}

fn before(now: WallTime, age: Duration) -> i64 {
    now.0.saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX))
}

fn delete_older(connection: &Connection, table: &str, cutoff: i64) -> rusqlite::Result<bool> {
    let sql = format!(
        "DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE written_at < ?1 ORDER BY written_at LIMIT ?2)"
    );
    let deleted = connection.prepare_cached(&sql)?.execute(params![cutoff, STEP_ROWS])?;
    Ok(STEP_ROWS <= i64::try_from(deleted).unwrap_or(0))
}

fn delete_oldest(connection: &Connection, table: &str) -> rusqlite::Result<()> {
    let sql = format!("DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} ORDER BY written_at LIMIT ?1)");
    connection.prepare_cached(&sql)?.execute([STEP_ROWS]).map(drop)
}

/// A process stays as long as a flow or an alert names it.
fn delete_unused_processes(connection: &Connection, cutoff: i64) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM processes WHERE id IN (
        SELECT id FROM processes AS p WHERE written_at < ?1
            AND NOT EXISTS (SELECT 1 FROM flows WHERE process_id = p.id)
            AND NOT EXISTS (SELECT 1 FROM alerts WHERE process_id = p.id)
        ORDER BY written_at LIMIT ?2)";
    connection.prepare_cached(sql)?.execute(params![cutoff, STEP_ROWS])
}

fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = number("page_count")?.saturating_sub(number("freelist_count")?);
    Ok(u64::try_from(pages.saturating_mul(number("page_size")?)).unwrap_or(0))
}
