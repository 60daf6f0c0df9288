//! Messages on disk until they are delivered: a file each, in order, bounded by their size.
//!
//! A message is whole or not there at all, also after a crash or on a full disk. Its number is never used again.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

const SUFFIX: &str = ".json";
const UNFINISHED: &str = "unfinished";
const OWNER_ONLY_DIRECTORY: u32 = 0o700;
const OWNER_ONLY_FILE: u32 = 0o600;

/// A spool that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to use spool {directory}; it must be a folder that the agent can write")]
pub struct SpoolError {
    /// Which.
    pub directory: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    number: u64,
    bytes: u64,
}

/// The spool.
#[derive(Debug)]
pub(super) struct Spool {
    directory: PathBuf,
    entries: VecDeque<Entry>,
    bytes: u64,
    bytes_max: u64,
    next_number: u64,
}

impl Spool {
    /// Opens a spool with what an earlier agent left in it.
    pub(super) fn open(directory: &Path, bytes_max: u64) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError { directory: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(OWNER_ONLY_DIRECTORY).create(directory).map_err(failed)?;
        let mut entries: Vec<Entry> = fs::read_dir(directory)
            .and_then(|files| files.map(|file| entry(&file?)).collect::<io::Result<Vec<_>>>())
            .map_err(failed)?
            .into_iter()
            .flatten()
            .collect();
        entries.sort_unstable_by_key(|entry| entry.number);
        let bytes = entries.iter().map(|entry| entry.bytes).sum();
        let next_number = entries.last().map_or(0, |newest| newest.number + 1);
        Ok(Self { directory: directory.to_owned(), entries: entries.into(), bytes, bytes_max, next_number })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a message. Returns how many of the oldest had to give way.
    pub(super) fn add(&mut self, message: &[u8]) -> io::Result<u64> {
        let bytes = u64::try_from(message.len()).unwrap_or(u64::MAX);
        let mut dropped = 0;
        while self.bytes_max < self.bytes.saturating_add(bytes) && !self.entries.is_empty() {
            self.remove_oldest()?;
            dropped += 1;
        }
        let unfinished = self.directory.join(UNFINISHED);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(OWNER_ONLY_FILE).open(&unfinished)?;
        file.write_all(message)?;
        file.sync_data()?;
        fs::rename(&unfinished, self.path(self.next_number))?;
        self.entries.push_back(Entry { number: self.next_number, bytes });
        self.bytes += bytes;
        self.next_number += 1;
        Ok(dropped)
    }

    /// The oldest message with its number.
    pub(super) fn oldest(&self) -> Option<io::Result<(u64, Vec<u8>)>> {
        let entry = self.entries.front()?;
        Some(fs::read(self.path(entry.number)).map(|message| (entry.number, message)))
    }

    /// Removes the oldest message, where it is still the one with this number.
    pub(super) fn remove(&mut self, number: u64) -> io::Result<()> {
        match self.entries.front() {
            Some(entry) if entry.number == number => self.remove_oldest(),
            _ => Ok(()),
        }
    }

    /// Forgets the oldest message, also where its file is gone already.
    pub(super) fn remove_oldest(&mut self) -> io::Result<()> {
        let Some(entry) = self.entries.front().copied() else { return Ok(()) };
        match fs::remove_file(self.path(entry.number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.entries.pop_front();
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:020}{SUFFIX}"))
    }
}

/// A message's file; `None` of any other.
fn entry(file: &fs::DirEntry) -> io::Result<Option<Entry>> {
    let name = file.file_name();
    let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).and_then(|number| number.parse().ok());
    let Some(number) = number else { return Ok(None) };
    Ok(Some(Entry { number, bytes: file.metadata()?.len() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(spool: &mut Spool) -> Vec<String> {
        let mut messages = Vec::new();
        while let Some(oldest) = spool.oldest() {
            let (number, message) = oldest.unwrap();
            messages.push(String::from_utf8(message).unwrap());
            spool.remove(number).unwrap();
        }
        messages
    }

    #[test]
    fn messages_survive_in_order_and_numbers_are_not_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), 1_000).unwrap();
        for number in 0..12 {
            assert_eq!(spool.add(format!("m{number}").as_bytes()).unwrap(), 0);
        }
        std::fs::write(folder.path().join(UNFINISHED), "half a mess").unwrap();
        std::fs::write(folder.path().join("notes.txt"), "not ours").unwrap();
        let mut again = Spool::open(folder.path(), 1_000).unwrap();
        again.add(b"m12").unwrap();
        assert_eq!(messages(&mut again), (0..13).map(|number| format!("m{number}")).collect::<Vec<_>>());
        assert_eq!(again.bytes, 0);
    }

    #[test]
    fn the_oldest_give_way_and_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), 30).unwrap();
        let dropped: u64 = (0..10).map(|number| spool.add(format!("message {number}").as_bytes()).unwrap()).sum();
        assert_eq!((dropped, spool.len()), (7, 3));
        assert_eq!(messages(&mut spool), ["message 7", "message 8", "message 9"]);
    }

    #[test]
    fn a_message_that_somebody_removed_is_got_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), 1_000).unwrap();
        spool.add(b"one").unwrap();
        spool.add(b"two").unwrap();
        std::fs::remove_file(spool.path(0)).unwrap();
        assert!(spool.oldest().unwrap().is_err());
        spool.remove_oldest().unwrap();
        assert_eq!(messages(&mut spool), ["two"]);
    }
}
