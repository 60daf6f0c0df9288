//! What can go wrong with the state directory.

use std::{io, path::PathBuf};

/// Why a store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another agent holds the lock.
    #[error("another agent{} is running on {}; stop it, or name another folder with --state-dir", by(pid), directory.display())]
    Locked {
        /// The state directory.
        directory: PathBuf,
        /// The other agent, where it left its pid.
        pid: Option<u32>,
    },
    /// The state directory cannot be made or used.
    #[error("failed to use state directory {directory}; name one that can be written with --state-dir")]
    Directory {
        /// Which.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing to read yet.
    #[error(
        "there is no database in {directory}; start an agent with `pktscope run`, or name its folder with --state-dir"
    )]
    Missing {
        /// Where.
        directory: PathBuf,
    },
    /// Whether there is a database can't be seen.
    #[error("the state directory {directory} is closed to this user; use sudo")]
    Closed {
        /// Where.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database cannot be opened.
    #[error("failed to open database {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The file is damaged, or no database.
    #[error(
        "database {path} is damaged; `pktscope run --move-damaged-store-aside` keeps it under another name and starts anew"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The file is another program's database, or somebody changed its tables.
    #[error("database {path} is not pktscope's: {what}; name another folder with --state-dir")]
    Foreign {
        /// Which.
        path: PathBuf,
        /// What is different.
        what: String,
    },
    /// A newer pktscope made it.
    #[error("database {path} has version {found}, this pktscope knows up to {known}; use the newer pktscope")]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest known.
        known: i64,
    },
    /// A query failed.
    #[error("failed to read {what} from database {path}")]
    Read {
        /// Of what.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A batch could not be written.
    #[error("failed to write database {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

fn by(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

/// Whether SQLite says that the file itself is bad.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}
