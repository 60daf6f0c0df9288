//! The forms that rpm's database had before SQLite, as bytes.

use std::io::{self, Read, Seek, SeekFrom};

use super::{berkeley::Berkeley, header::MAX_HEADER_BYTES, ndb};

/// What a database is read from.
pub trait Source: Read + Seek {}

impl<T: Read + Seek> Source for T {}

/// Packages of one database that are known; the largest distributions have about 70,000 in all.
const MAX_PACKAGES: usize = 1 << 18;

/// Where a header lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In one piece.
    Bytes { start: u64, length: u32 },
    /// On a chain of pages.
    Pages { first: u32, length: u32 },
}

impl Place {
    pub(super) fn length(self) -> u32 {
        match self {
            Self::Bytes { length, .. } | Self::Pages { length, .. } => length,
        }
    }
}

/// Where headers lie, and how many could not be told.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) found: Vec<Place>,
    pub(super) broken: u64,
}

impl Places {
    /// Takes a place, or counts it where nothing sound can lie there or too many are known.
    pub(super) fn add(&mut self, place: Option<Place>) {
        match place.filter(|place| place.length() as usize <= MAX_HEADER_BYTES && self.found.len() < MAX_PACKAGES) {
            Some(place) => self.found.push(place),
            None => self.broken += 1,
        }
    }
}

/// A database's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Berkeley(Berkeley),
    Ndb,
}

impl Form {
    /// Knows the form by its first bytes.
    pub(super) fn detect(file: &mut impl Source) -> io::Result<Self> {
        let mut start = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.take(512).read_to_end(&mut start)?;
        if ndb::is_ndb(&start) {
            return Ok(Self::Ndb);
        }
        Berkeley::parse(&start).map(Self::Berkeley).ok_or_else(|| broken("this form or version is not known"))
    }

    pub(super) fn places(self, file: &mut impl Source) -> io::Result<Places> {
        match self {
            Self::Berkeley(form) => form.places(file),
            Self::Ndb => ndb::places(file),
        }
    }

    /// The bytes of a header.
    pub(super) fn read(self, file: &mut impl Source, place: Place) -> io::Result<Vec<u8>> {
        match (place, self) {
            (Place::Bytes { start, length }, _) => read_at(file, start, length as usize),
            (Place::Pages { first, length }, Self::Berkeley(form)) => form.read_chain(file, first, length),
            (Place::Pages { .. }, Self::Ndb) => Err(broken("it has no pages")),
        }
    }
}

/// Reads so many bytes; never makes room for more than there are.
pub(super) fn read_at(file: &mut impl Source, start: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(broken("it ends too early"));
    }
    Ok(bytes)
}

pub(super) fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
