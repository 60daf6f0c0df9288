//! A database in a form of before SQLite: its headers are read through once for an index of their files.

use std::{
    fs::File,
    io::{self, SeekFrom},
    path::Path,
};

use super::{
    super::{owner::Owner, paths::PathIndex},
    form::{Form, Place, Source},
    header::Header,
};

/// The largest database that is read, in bytes; a full desktop's has about 300 MiB.
const MAX_DATABASE_BYTES: u64 = 2 << 30;

/// The packages of one database file.
#[derive(Debug)]
pub struct OlderDatabase<R> {
    file: R,
    form: Form,
    headers: Vec<Place>,
    files: PathIndex,
}

impl OlderDatabase<File> {
    /// Reads a file through.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::read(File::open(path)?)
    }
}

impl<R: Source> OlderDatabase<R> {
    /// Reads a database through, whichever of the two forms it has.
    ///
    /// # Errors
    /// Where it cannot be read, or is no such database. Single packages that are broken are counted and left out.
    pub fn read(mut file: R) -> io::Result<Self> {
        let size = file.seek(SeekFrom::End(0))?;
        if MAX_DATABASE_BYTES < size {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than any database"));
        }
        let form = Form::detect(&mut file)?;
        let places = form.places(&mut file)?;
        let mut database = Self { file, form, headers: places.found, files: PathIndex::default() };
        let broken = places.broken + database.index(size)?;
        if broken != 0 {
            tracing::warn!(packages = broken, "the rpm database has packages that could not be read");
        }
        Ok(database)
    }

    /// Notes every header's files; gives how many headers could not be read, also because they claim more than the file has.
    fn index(&mut self, size: u64) -> io::Result<u64> {
        let (mut files, mut path) = (PathIndex::default(), Vec::new());
        let (mut broken, mut left) = (0, size);
        for (number, place) in (0..).zip(&self.headers) {
            let length = u64::from(place.length());
            let blob = left.checked_sub(length).and_then(|rest| {
                left = rest;
                self.form.read(&mut self.file, *place).ok()
            });
            match blob.as_deref().map(Header::parse) {
                Some(Some(header)) => header.each_file(|folder, name| {
                    path.clear();
                    path.extend_from_slice(folder);
                    path.extend_from_slice(name);
                    files.add(&path, number);
                }),
                // Berkeley DB's first record is the next package's number.
                _ if length == 4 => {}
                _ => broken += 1,
            }
        }
        self.files = files.seal("rpm");
        Ok(broken)
    }

    /// The package that brought the file at `path`.
    ///
    /// # Errors
    /// Where a header can't be read any more.
    pub fn owner(&mut self, path: &str) -> io::Result<Option<Owner>> {
        for number in self.files.find(path.as_bytes()) {
            let Some(place) = self.headers.get(number as usize) else { continue };
            let blob = self.form.read(&mut self.file, *place)?;
            if let Some(owner) = Header::parse(&blob).and_then(|header| header.owner_of(path)) {
                return Ok(Some(owner));
            }
        }
        Ok(None)
    }
}
