//! The core's own state, key by key: what it learned and which alerts are cooling down.

use std::sync::Arc;

use ahash::HashMap;
use rusqlite::{Connection, params};

use super::{Reader, StoreError};

/// Where a state row lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StateTable {
    /// What was learned, by kind.
    Baseline(&'static str),
    /// Which alerts are cooling down.
    Cooldowns,
    /// Single values.
    Meta,
}

/// A key's new value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRow {
    /// Where.
    pub table: StateTable,
    /// Unique there.
    pub key: Arc<str>,
    /// The value, in the core's own words; `None` deletes the key.
    pub value: Option<Vec<u8>>,
}

/// Writes the newest value of each key.
pub(super) fn write(
    connection: &Connection,
    rows: &HashMap<(StateTable, Arc<str>), Option<Vec<u8>>>,
) -> rusqlite::Result<()> {
    for ((table, key), value) in rows {
        match table {
            StateTable::Baseline(kind) => write_baseline(connection, kind, key, value.as_deref())?,
            StateTable::Cooldowns => write_pair(connection, "cooldowns", key, value.as_deref())?,
            StateTable::Meta => write_pair(connection, "meta", key, value.as_deref())?,
        }
    }
    Ok(())
}

fn write_baseline(connection: &Connection, kind: &str, key: &str, value: Option<&[u8]>) -> rusqlite::Result<()> {
    let Some(value) = value else {
        let sql = "DELETE FROM baseline WHERE kind = ?1 AND key = ?2";
        return connection.prepare_cached(sql)?.execute(params![kind, key]).map(drop);
    };
    let sql = "INSERT OR REPLACE INTO baseline (kind, key, value) VALUES (?1, ?2, ?3)";
    connection.prepare_cached(sql)?.execute(params![kind, key, value]).map(drop)
}

fn write_pair(connection: &Connection, table: &str, key: &str, value: Option<&[u8]>) -> rusqlite::Result<()> {
    let Some(value) = value else {
        return connection.prepare_cached(&format!("DELETE FROM {table} WHERE key = ?1"))?.execute([key]).map(drop);
    };
    let sql = format!("INSERT OR REPLACE INTO {table} (key, value) VALUES (?1, ?2)");
    connection.prepare_cached(&sql)?.execute(params![key, value]).map(drop)
}

impl Reader {
    /// Every key and value of a kind of baseline, by key.
    ///
    /// # Errors
    /// A failed query.
    pub fn baseline(&self, kind: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.pairs("SELECT key, value FROM baseline WHERE kind = ?1 ORDER BY key", &[&kind])
    }

    /// Every cooldown, by key.
    ///
    /// # Errors
    /// A failed query.
    pub fn cooldowns(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.pairs("SELECT key, value FROM cooldowns ORDER BY key", &[])
    }

    /// A single value.
    ///
    /// # Errors
    /// A failed query.
    pub fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let rows = self.pairs("SELECT key, value FROM meta WHERE key = ?1", &[&key])?;
        Ok(rows.into_iter().next().map(|(_, value)| value))
    }

    fn pairs(&self, sql: &str, parameters: &[&dyn rusqlite::ToSql]) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let read = || {
            let mut statement = self.connection.prepare(sql)?;
            let rows = statement.query_map(parameters, |row| Ok((row.get(0)?, bytes(row.get_ref(1)?))))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|source| self.failed("state", source))
    }
}

fn bytes(value: rusqlite::types::ValueRef<'_>) -> Vec<u8> {
    match value {
        rusqlite::types::ValueRef::Blob(bytes) | rusqlite::types::ValueRef::Text(bytes) => bytes.to_vec(),
        _ => Vec::new(),
    }
}
