//! The NDJSON export: every event as a line, appended to a file or standard output.
//!
//! A write error never stops the agent: the line is counted as lost and the file is opened again later. A line is
//! written whole or not at all, also after a full disk.

use std::{
    fs::{File, OpenOptions},
    io::{self, Stdout, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::core::time::BootTime;

/// Lines are collected up to this size before they are written.
const BUFFER_BYTES: usize = 64 << 10;
/// Lines that wait for a file that cannot be written; beyond it they are lost and counted.
const PENDING_BYTES_MAX: usize = 4 << 20;
/// Pause before a file that could not be written is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What went wrong with the export.
#[derive(Debug, thiserror::Error)]
pub enum JsonlError {
    /// The file cannot be opened.
    #[error("failed to open event file {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("failed to write event file {path}; events wait in memory and are then dropped and counted")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

enum Target {
    File(File),
    Stdout(Stdout),
    Closed,
}

/// What has become of the lines so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JsonlCounts {
    /// Lines written.
    pub written: u64,
    /// Lines that found no room while the file could not be written.
    pub lost: u64,
    /// Failed writes and opens.
    pub errors: u64,
}

/// The export.
pub struct Jsonl {
    path: PathBuf,
    target: Target,
    pending: Vec<u8>,
    pending_lines: u64,
    /// Bytes of a line that a failed write left in the file.
    torn_bytes: usize,
    retry_at: BootTime,
    counts: JsonlCounts,
}

impl Jsonl {
    /// Opens `path` for appending; `-` is standard output.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn open(path: &Path) -> Result<Self, JsonlError> {
        let target = open_target(path)?;
        Ok(Self {
            path: path.to_owned(),
            target,
            pending: Vec::with_capacity(BUFFER_BYTES),
            pending_lines: 0,
            torn_bytes: 0,
            retry_at: BootTime::default(),
            counts: JsonlCounts::default(),
        })
    }

    /// Adds a line, complete with its line end; it is on its way to the file after the next [`Self::flush`].
    ///
    /// # Errors
    /// As [`Self::flush`], when the buffer is full.
    pub fn add(&mut self, line: &[u8], now: BootTime) -> Result<(), JsonlError> {
        if PENDING_BYTES_MAX < self.pending.len() + line.len() {
            self.counts.lost += 1;
            return Ok(());
        }
        self.pending.extend_from_slice(line);
        self.pending_lines += 1;
        if BUFFER_BYTES <= self.pending.len() { self.flush(now) } else { Ok(()) }
    }

    /// Writes what was added. After a failure nothing is tried for a second.
    ///
    /// # Errors
    /// A file that cannot be opened or written; the lines are kept for the next attempt.
    pub fn flush(&mut self, now: BootTime) -> Result<(), JsonlError> {
        if self.pending.is_empty() || now < self.retry_at {
            return Ok(());
        }
        let result = self.write_pending();
        if result.is_err() {
            self.counts.errors += 1;
            self.retry_at = now.plus(RETRY_PAUSE);
        }
        result
    }

    /// Opens the file again, for a log rotation; what was added before goes to the old file where it can.
    ///
    /// # Errors
    /// A file that cannot be opened; it is tried again at the next flush.
    pub fn reopen(&mut self) -> Result<(), JsonlError> {
        let flushed = self.write_pending();
        self.target = Target::Closed;
        self.torn_bytes = 0;
        self.target = open_target(&self.path)?;
        flushed.or_else(|_| self.write_pending())
    }

    /// What has become of the lines so far.
    pub fn counts(&self) -> JsonlCounts {
        self.counts
    }

    fn write_pending(&mut self) -> Result<(), JsonlError> {
        if matches!(self.target, Target::Closed) {
            self.target = open_target(&self.path)?;
        }
        let mut done = 0;
        let result = write_from(&mut self.target, &self.pending, &mut done, self.torn_bytes);
        self.forget(done);
        result.map_err(|source| JsonlError::Write { path: self.path.clone(), source })
    }

    /// Drops the whole lines of the first `done` bytes; a torn line stays, and is continued where it was torn.
    fn forget(&mut self, done: usize) {
        let written = &self.pending[..done];
        let whole = memchr_last_newline(written).map_or(0, |index| index + 1);
        let lines = u64::try_from(written[..whole].iter().filter(|byte| **byte == b'\n').count()).unwrap_or(u64::MAX);
        self.torn_bytes = done - whole;
        self.counts.written += lines;
        self.pending_lines = self.pending_lines.saturating_sub(lines);
        self.pending.drain(..whole);
    }
}

fn memchr_last_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|byte| *byte == b'\n')
}

fn open_target(path: &Path) -> Result<Target, JsonlError> {
    if path == Path::new("-") {
        return Ok(Target::Stdout(io::stdout()));
    }
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map(Target::File).map_err(|source| JsonlError::Open { path: path.to_owned(), source })
}

/// Writes `bytes` from `from` on; `done` is how far it came, also after an error.
fn write_from(target: &mut Target, bytes: &[u8], done: &mut usize, from: usize) -> io::Result<()> {
    *done = from;
    while *done < bytes.len() {
        let written = match target {
            Target::File(file) => file.write(&bytes[*done..]),
            Target::Stdout(stdout) => stdout.write(&bytes[*done..]),
            Target::Closed => Err(io::Error::from(io::ErrorKind::NotConnected)),
        };
        match written {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(count) => *done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if let Target::Stdout(stdout) = target { stdout.flush() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    fn line(number: usize) -> Vec<u8> {
        format!("{{\"number\":{number},\"padding\":\"{}\"}}\n", "x".repeat(100)).into_bytes()
    }

    fn numbers(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].as_u64().unwrap())
            .collect()
    }

    #[test]
    fn lines_are_appended_and_a_rotated_file_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("events.ndjson"), folder.path().join("events.1"));
        std::fs::write(&path, line(0)).unwrap();
        let mut jsonl = Jsonl::open(&path).unwrap();
        jsonl.add(&line(1), at(1)).unwrap();
        jsonl.flush(at(1)).unwrap();
        std::fs::rename(&path, &rotated).unwrap();
        jsonl.add(&line(2), at(2)).unwrap();
        jsonl.reopen().unwrap();
        jsonl.add(&line(3), at(3)).unwrap();
        jsonl.flush(at(3)).unwrap();
        assert_eq!((numbers(&rotated), numbers(&path)), (vec![0, 1, 2], vec![3]));
        assert_eq!(jsonl.counts(), JsonlCounts { written: 3, lost: 0, errors: 0 });
    }

    /// A pipe stands for a full disk: it takes a part of what is written and then refuses until it is read.
    #[test]
    fn a_line_torn_by_a_full_target_is_continued_where_it_was_torn() {
        use std::io::Read as _;
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
        let mut jsonl = Jsonl::open(Path::new("/dev/null")).unwrap();
        jsonl.target = Target::File(File::from(std::os::fd::OwnedFd::from(writer)));
        let mut failures = 0;
        for number in 0..3_000 {
            failures += u64::from(jsonl.add(&line(number), at(2 * number as u64)).is_err());
        }
        assert!(0 < failures, "the pipe was never full");
        let mut text = Vec::new();
        while jsonl.counts.written < 3_000 {
            let mut chunk = vec![0; 256 << 10];
            let count = reader.read(&mut chunk).unwrap();
            text.extend_from_slice(&chunk[..count]);
            let _ = jsonl.flush(at(1_000_000 + 2 * text.len() as u64));
        }
        drop(jsonl);
        reader.read_to_end(&mut text).unwrap();
        let expected: Vec<u8> = (0..3_000).flat_map(line).collect();
        assert!(text == expected, "lines were torn or doubled");
    }

    #[test]
    fn lines_beyond_the_bound_are_counted_and_an_error_is_told_once_a_second() {
        let mut jsonl = Jsonl::open(Path::new("/dev/full")).unwrap();
        let lines = PENDING_BYTES_MAX / line(9_999).len() + 100;
        let mut errors = 0;
        for number in 0..lines {
            errors += u64::from(jsonl.add(&line(number), at(5)).is_err());
        }
        assert_eq!((errors, jsonl.counts().errors), (1, 1));
        assert_eq!(jsonl.counts().written, 0);
        let lost = jsonl.counts().lost;
        assert!((1..=1_000).contains(&lost), "{lost}");
        assert!(jsonl.flush(at(6)).is_err());
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = Jsonl::open(Path::new("/nowhere/events.ndjson")).err().unwrap();
        assert_eq!(error.to_string(), "failed to open event file /nowhere/events.ndjson");
    }
}
