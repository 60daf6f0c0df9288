//! rpm's database, in the forms that it had: SQLite since rpm 4.16, SUSE's ndb, and Berkeley DB before.
//!
//! Of the older two an index of paths stays in memory, read through once for each change of the database.

mod berkeley;
mod form;
mod header;
mod ndb;
mod older;
mod sqlite;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

pub use older::OlderDatabase;

use super::owner::{DatabaseStamp, Owner, aliases, stamp_of};

/// Folders that hold the database: rpm's own, and that of systems whose `/usr` is the image.
const FOLDERS: [&str; 3] = ["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"];
/// The database's file in each form, the newest form first: a database that was converted leaves no older one behind.
const SQLITE: &str = "rpmdb.sqlite";
const OLDER: [&str; 2] = ["Packages.db", "Packages"];

/// The database of a host, if it has one.
pub(super) struct Rpm {
    root: PathBuf,
    older: Option<(DatabaseStamp, OlderDatabase<File>)>,
}

impl Rpm {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), older: None }
    }

    /// What the database depended on.
    pub(super) fn stamp(&self) -> DatabaseStamp {
        match self.find(&[SQLITE]) {
            Some(database) => sqlite::stamp(&database),
            None => stamp_of(&self.find(&OLDER)?),
        }
    }

    /// The package that brought the file at `path`.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub(super) fn owner(&mut self, path: &str) -> io::Result<Option<Owner>> {
        if let Some(database) = self.find(&[SQLITE]) {
            return sqlite::owner(&database, path).map_err(io::Error::other);
        }
        let Some(file) = self.find(&OLDER) else { return Ok(None) };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
        let database = self.older(&file).map_err(named)?;
        for alias in aliases(path) {
            if let Some(owner) = database.owner(alias).map_err(named)? {
                return Ok(Some(owner));
            }
        }
        Ok(None)
    }

    /// The database as it is now, read through where it has changed.
    fn older(&mut self, file: &Path) -> io::Result<&mut OlderDatabase<File>> {
        let stamp = stamp_of(file);
        let (_, database) = match self.older.take().filter(|(known, _)| *known == stamp) {
            Some(known) => self.older.insert(known),
            None => self.older.insert((stamp, OlderDatabase::open(file)?)),
        };
        Ok(database)
    }

    fn find(&self, names: &[&str]) -> Option<PathBuf> {
        let folders = FOLDERS.iter().map(|folder| self.root.join(folder));
        let files = folders.flat_map(|folder| names.iter().map(move |name| folder.join(name)));
        files.into_iter().find(|file| file.is_file())
    }
}

#[cfg(test)]
mod tests;
