//! The database in its SQLite form (rpm's lib/backend/sqlite.c).
//!
//! A row of `Packages` is one package's header; `Basenames` leads from a file's name to the headers that have it.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::{
    super::owner::{DatabaseStamp, Owner, aliases, stamp_of},
    header::Header,
};

/// Packages that are looked at for one file name; `index.html` is in many, no program is.
const MAX_PACKAGES: usize = 4096;

/// What the database depended on: its log where something waits in it.
pub(super) fn stamp(database: &Path) -> DatabaseStamp {
    stamp_of(&log_of(database)).filter(|(.., size)| *size != 0).or_else(|| stamp_of(database))
}

/// The package that brought the file at `path`.
pub(super) fn owner(database: &Path, path: &str) -> rusqlite::Result<Option<Owner>> {
    let connection = open(database)?;
    for alias in aliases(path) {
        if let Some(owner) = find(&connection, alias)? {
            return Ok(Some(owner));
        }
    }
    Ok(None)
}

fn log_of(database: &Path) -> PathBuf {
    database.with_extension("sqlite-wal")
}

/// Opens the database without leaving a trace beside it: where nothing waits in its log it is taken as it lies there.
fn open(database: &Path) -> rusqlite::Result<Connection> {
    let is_at_rest = std::fs::metadata(log_of(database)).map_or(true, |log| log.len() == 0);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let escaped: String = database.to_string_lossy().chars().map(escape).collect();
    let immutable = if is_at_rest { "?immutable=1" } else { "" };
    Connection::open_with_flags(format!("file:{escaped}{immutable}"), flags)
}

/// As SQLite wants names in its URIs (sqlite.org/uri.html).
fn escape(letter: char) -> String {
    match letter {
        '%' => "%25".to_owned(),
        '?' => "%3f".to_owned(),
        '#' => "%23".to_owned(),
        other => other.to_string(),
    }
}

fn find(connection: &Connection, path: &str) -> rusqlite::Result<Option<Owner>> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let mut rows = connection.prepare("SELECT DISTINCT hnum FROM Basenames WHERE key = ?1")?;
    let packages: Vec<i64> =
        rows.query_map([name], |row| row.get(0))?.take(MAX_PACKAGES).collect::<rusqlite::Result<_>>()?;
    for package in packages {
        let blob: Option<Vec<u8>> = connection
            .query_row("SELECT blob FROM Packages WHERE hnum = ?1", [package], |row| row.get(0))
            .optional()?;
        let owner = blob.as_deref().and_then(Header::parse).and_then(|header| header.owner_of(path));
        if owner.is_some() {
            return Ok(owner);
        }
    }
    Ok(None)
}
