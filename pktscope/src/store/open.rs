//! Opening: the agent's one writing connection, and read-only ones for everybody else.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use super::{
    StoreError,
    lock::OWNER_ONLY_FILE,
    migrate::{check_schema, harden, identify, migrate, newest, open_error},
};
use crate::core::time::WallTime;

/// The database's name in the state directory.
pub const DATABASE_NAME: &str = "pktscope.db";

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const STATEMENTS_KEPT: usize = 64;

/// Opens the database for writing, makes it where there is none, brings it up to date.
pub(super) fn open_writer(directory: &Path) -> Result<Connection, StoreError> {
    let path = directory.join(DATABASE_NAME);
    create_private(&path).map_err(|source| StoreError::Directory { directory: directory.to_owned(), source })?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&path, flags).map_err(|source| open_error(&path, source))?;
    prepare_writer(&connection).map_err(|source| open_error(&path, source))?;
    migrate(&mut connection, &path)?;
    Ok(connection)
}

/// SQLite would make the file readable by everybody that the umask lets.
fn create_private(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(OWNER_ONLY_FILE).open(path).map(drop)
}

fn prepare_writer(connection: &Connection) -> rusqlite::Result<()> {
    harden(connection)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    // Freed pages can be given back step by step; has an effect on a new file only.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A killed process loses nothing that was committed; a power cut may lose the last batches, never the file.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    // Kibibytes: the ends of the indexes, which are what is written.
    connection.pragma_update(None, "cache_size", -2_048)?;
    connection.pragma_update(None, "temp_store", "MEMORY")
}

/// Renames a damaged database and its journal, so that a new one can take its place.
///
/// # Errors
/// Files that cannot be renamed.
pub fn move_aside(directory: &Path, now: WallTime) -> Result<PathBuf, StoreError> {
    let failed = |source| StoreError::Directory { directory: directory.to_owned(), source };
    let aside = format!("{DATABASE_NAME}.damaged-{}", now.seconds());
    for suffix in ["", "-wal", "-shm"] {
        let from = directory.join(format!("{DATABASE_NAME}{suffix}"));
        if from.try_exists().map_err(failed)? {
            std::fs::rename(from, directory.join(format!("{aside}{suffix}"))).map_err(failed)?;
        }
    }
    Ok(directory.join(aside))
}

/// Reads a state directory, while an agent writes it or not. Never changes it.
#[derive(Debug)]
pub struct Reader {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
}

impl Reader {
    /// Opens the database of `directory`.
    ///
    /// # Errors
    /// None there, one that cannot be opened, or one that is not of this version.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(DATABASE_NAME);
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Err(StoreError::Missing { directory: directory.to_owned() }),
            Err(source) => return Err(StoreError::Closed { directory: directory.to_owned(), source }),
        }
        let connection = connect_read_only(&path)?;
        let found = identify(&connection, &path)?;
        if found != newest() {
            let what = format!("its version is {found}, not {}; run the agent once to update it", newest());
            return Err(StoreError::Foreign { path, what });
        }
        check_schema(&connection, &path)?;
        Ok(Self { connection, path })
    }

    /// Wraps a failed query.
    pub(super) fn failed(&self, what: &'static str, source: rusqlite::Error) -> StoreError {
        match open_error(&self.path, source) {
            StoreError::Open { path, source } => StoreError::Read { what, path, source },
            damaged => damaged,
        }
    }
}

fn connect_read_only(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let prepare = |connection: Connection| {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        harden(&connection)?;
        connection.pragma_update(None, "query_only", true)?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
        Ok(connection)
    };
    let opened = Connection::open_with_flags(path, flags).and_then(prepare);
    opened.map_err(|source| open_error(path, source))
}
