//! Brings a database to the newest version, or says why it is not one of ours.

use std::path::Path;

use rusqlite::{Connection, config::DbConfig};

use super::{
    StoreError,
    error::is_damage,
    schema::{APPLICATION_ID, MIGRATIONS},
};

/// The version that this program writes.
pub(super) fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Distrusts the file's own schema: no trigger, view or function in it may do anything on our behalf
/// (<https://sqlite.org/security.html>).
pub(super) fn harden(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    Ok(())
}

/// Makes or updates the tables.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source: rusqlite::Error| open_error(path, source);
    let found = identify(connection, path)?;
    let transaction = connection.transaction().map_err(failed)?;
    for (statements, version) in MIGRATIONS.iter().zip(1_i64..).filter(|(_, version)| found < *version) {
        transaction.execute_batch(statements).map_err(failed)?;
        transaction.pragma_update(None, "user_version", version).map_err(failed)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    check_schema(connection, path)
}

/// The version of a database of ours; 0 of an empty file.
pub(super) fn identify(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let failed = |source: rusqlite::Error| open_error(path, source);
    let (application, found) = (number("application_id").map_err(failed)?, number("user_version").map_err(failed)?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if application != APPLICATION_ID && (tables != 0 || found != 0) {
        let what = format!("its application id is {application:#x}");
        return Err(StoreError::Foreign { path: path.to_owned(), what });
    }
    if newest() < found {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: newest() });
    }
    Ok(found)
}

/// Compares the tables with those of a new database: what a file brings along besides must never run.
pub(super) fn check_schema(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source: rusqlite::Error| open_error(path, source);
    let fresh = Connection::open_in_memory().map_err(failed)?;
    for statements in MIGRATIONS {
        fresh.execute_batch(statements).map_err(failed)?;
    }
    let (found, expected) = (objects(connection).map_err(failed)?, objects(&fresh).map_err(failed)?);
    let odd = found
        .iter()
        .find(|object| !expected.contains(object))
        .map(|object| format!("{} is unknown or changed", object.0));
    let gone = expected
        .iter()
        .find(|object| !found.contains(object))
        .map(|object| format!("{} is missing or changed", object.0));
    match odd.or(gone) {
        Some(what) => Err(StoreError::Foreign { path: path.to_owned(), what }),
        None => Ok(()),
    }
}

/// Name and definition of everything in the schema; statistics of the query planner are not part of it.
fn objects(connection: &Connection) -> rusqlite::Result<Vec<(String, Option<String>)>> {
    let sql = "SELECT type || ' ' || name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY 1";
    connection.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Damage has its own error, because its remedy is another one.
pub(super) fn open_error(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    if is_damage(&source) { StoreError::Damaged { path, source } } else { StoreError::Open { path, source } }
}
