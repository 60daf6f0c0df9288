//! The NDJSON export: every event as a line, appended to a file or standard output by a thread of its own.
//!
//! A file that cannot be written, or a reader that does not read, never stops the pipeline: lines wait up to a bound and
//! are then lost and counted. A line is written whole or not at all, also after a full disk.

use std::{
    fs::{File, OpenOptions},
    io::{self, Stdout, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use super::{SinkCounts, queue::join_within};

/// Lines are collected up to this size before the thread is woken by itself.
const BATCH_BYTES: usize = 64 << 10;
/// Lines that wait, in bytes; beyond it they are lost and counted.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// Pause before a file that could not be written is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long a stopping agent waits for a reader that does not read.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// The event file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("failed to open event file {path}")]
pub struct JsonlError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// What happens to a line that finds no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It is lost and counted: the agent never waits.
    #[default]
    Lose,
    /// Adding waits for room: a replay loses nothing.
    Wait,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// Bytes that the thread has taken and not written yet.
    in_hand: usize,
    is_flushing: bool,
    is_reopening: bool,
    is_closing: bool,
    counts: SinkCounts,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to do.
    wake: Condvar,
    /// There is room again.
    room: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The export.
pub struct Jsonl {
    target: String,
    when_full: WhenFull,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Jsonl {
    /// Opens `path` for appending, starts the thread; `-` is standard output.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn open(path: &Path, when_full: WhenFull) -> Result<Self, JsonlError> {
        let failed = |source| JsonlError { path: path.to_owned(), source };
        let target = open_target(path).map_err(failed)?;
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Condvar::new(), room: Condvar::new() });
        let writer = Writer {
            shared: Arc::clone(&shared),
            path: path.to_owned(),
            target: Some(target),
            backlog: Vec::new(),
            torn_bytes: 0,
        };
        let spawned = std::thread::Builder::new().name("events".to_owned()).spawn(move || writer.run());
        let thread = Some(spawned.map_err(failed)?);
        Ok(Self { target: path.display().to_string(), when_full, shared, thread })
    }

    /// Adds a line, complete with its line end; it is on its way after the next [`Self::flush`].
    pub fn add(&self, line: &[u8]) {
        let mut state = self.shared.lock();
        if self.when_full == WhenFull::Wait {
            let is_full = |state: &mut State| !has_room(state, line.len()) && state.counts.error.is_none();
            state = self.shared.room.wait_while(state, is_full).unwrap_or_else(PoisonError::into_inner);
        }
        if !has_room(&state, line.len()) {
            state.counts.lost += 1;
            return;
        }
        state.pending.extend_from_slice(line);
        state.counts.waiting += 1;
        if BATCH_BYTES <= state.pending.len() {
            self.shared.wake.notify_one();
        }
    }

    /// Sends what was added on its way.
    pub fn flush(&self) {
        let mut state = self.shared.lock();
        if !state.pending.is_empty() {
            state.is_flushing = true;
            self.shared.wake.notify_one();
        }
    }

    /// Opens the file again, for a log rotation; what was added before goes to the old file where it can.
    pub fn reopen(&self) {
        self.shared.lock().is_reopening = true;
        self.shared.wake.notify_one();
    }

    /// Where it goes.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What became of the lines.
    pub fn counts(&self) -> SinkCounts {
        self.shared.lock().counts.clone()
    }
}

impl Drop for Jsonl {
    fn drop(&mut self) {
        self.shared.lock().is_closing = true;
        self.shared.wake.notify_one();
        let limit = if self.when_full == WhenFull::Wait { Duration::MAX } else { STOP_LIMIT };
        if let Some(thread) = self.thread.take() {
            join_within(thread, limit);
        }
    }
}

fn has_room(state: &State, more: usize) -> bool {
    let waiting = state.pending.len() + state.in_hand;
    waiting == 0 || waiting + more <= WAITING_BYTES_MAX
}

enum Target {
    File(File),
    Stdout(Stdout),
}

fn open_target(path: &Path) -> io::Result<Target> {
    if path == Path::new("-") {
        return Ok(Target::Stdout(io::stdout()));
    }
    OpenOptions::new().create(true).append(true).open(path).map(Target::File)
}

impl Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Stdout(stdout) => {
                let mut stdout = stdout.lock();
                let count = stdout.write(bytes)?;
                stdout.flush().map(|()| count)
            }
        }
    }
}

/// What the thread is woken for.
#[derive(Clone, Copy, Debug, Default)]
struct Orders {
    is_reopening: bool,
    is_closing: bool,
}

struct Writer {
    shared: Arc<Shared>,
    path: PathBuf,
    target: Option<Target>,
    backlog: Vec<u8>,
    /// Bytes of the backlog's first line that a failed write left in the file.
    torn_bytes: usize,
}

impl Writer {
    fn run(mut self) {
        loop {
            let orders = self.wait();
            let mut result = self.write_backlog();
            if orders.is_reopening {
                self.target = None;
                self.torn_bytes = 0;
                result = self.write_backlog();
            }
            if orders.is_closing {
                return self.end();
            }
            if let Err(error) = result {
                self.fail(&error);
            }
        }
    }

    /// Waits for something to do; takes what waits.
    fn wait(&mut self) -> Orders {
        let is_idle = |state: &mut State| {
            let is_due = state.is_flushing || BATCH_BYTES <= state.pending.len();
            !is_due && !state.is_reopening && !state.is_closing
        };
        let state = self.shared.lock();
        let mut state = match self.backlog.is_empty() {
            true => self.shared.wake.wait_while(state, is_idle).unwrap_or_else(PoisonError::into_inner),
            false => state,
        };
        self.backlog.append(&mut state.pending);
        state.in_hand = self.backlog.len();
        state.is_flushing = false;
        Orders { is_reopening: std::mem::take(&mut state.is_reopening), is_closing: state.is_closing }
    }

    /// Writes the backlog as far as it goes; a line that is torn is continued where it was.
    fn write_backlog(&mut self) -> io::Result<()> {
        if self.backlog.is_empty() && self.target.is_some() {
            return Ok(());
        }
        if self.target.is_none() {
            self.target = Some(open_target(&self.path)?);
        }
        let Some(target) = &mut self.target else { return Ok(()) };
        let mut done = self.torn_bytes;
        let result = write_all(target, &self.backlog, &mut done);
        self.forget(done, result.is_ok());
        result
    }

    /// Drops the whole lines of the first `done` bytes.
    fn forget(&mut self, done: usize, is_complete: bool) {
        let whole = self.backlog[..done].iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
        let lines = count_lines(&self.backlog[..whole]);
        self.torn_bytes = done - whole;
        self.backlog.drain(..whole);
        let mut state = self.shared.lock();
        state.in_hand = self.backlog.len();
        state.counts.sent += lines;
        state.counts.waiting = state.counts.waiting.saturating_sub(lines);
        if is_complete && state.counts.error.take().is_some() {
            tracing::info!("event file {} can be written again", self.path.display());
        }
        self.shared.room.notify_all();
    }

    /// Tells an error once until a write succeeds; waits before the next try.
    fn fail(&self, error: &io::Error) {
        let mut state = self.shared.lock();
        state.counts.failures += 1;
        if state.counts.error.replace(error.to_string()).is_none() {
            tracing::error!(
                "failed to write event file {}: {error}; lines wait and are then lost",
                self.path.display()
            );
        }
        self.shared.room.notify_all();
        let is_waiting = |state: &mut State| !state.is_closing && !state.is_reopening;
        drop(self.shared.wake.wait_timeout_while(state, RETRY_PAUSE, is_waiting));
    }

    fn end(&self) {
        let lines = count_lines(&self.backlog);
        if lines != 0 {
            tracing::error!("{lines} events for {} are lost: it could not be written", self.path.display());
        }
        let mut state = self.shared.lock();
        state.counts.lost += lines;
        state.counts.waiting = 0;
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(u64::MAX)
}

/// Writes `bytes` from `done` on; `done` is how far it came, also after an error.
fn write_all(target: &mut Target, bytes: &[u8], done: &mut usize) -> io::Result<()> {
    while *done < bytes.len() {
        match target.write(&bytes[*done..]) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(count) => *done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn line(number: usize) -> Vec<u8> {
        format!("{{\"number\":{number},\"padding\":\"{}\"}}\n", "x".repeat(100)).into_bytes()
    }

    fn numbers(text: &[u8]) -> Vec<u64> {
        let lines = std::str::from_utf8(text).unwrap().lines();
        lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].as_u64().unwrap()).collect()
    }

    fn numbers_in(path: &Path) -> Vec<u64> {
        numbers(&std::fs::read(path).unwrap())
    }

    fn wait_until(mut done: impl FnMut() -> bool) {
        while !done() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn lines_are_appended_and_a_rotated_file_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("events.ndjson"), folder.path().join("events.1"));
        std::fs::write(&path, line(0)).unwrap();
        let jsonl = Jsonl::open(&path, WhenFull::Lose).unwrap();
        jsonl.add(&line(1));
        jsonl.flush();
        wait_until(|| jsonl.counts().sent == 1);
        std::fs::rename(&path, &rotated).unwrap();
        jsonl.add(&line(2));
        jsonl.reopen();
        wait_until(|| path.exists());
        jsonl.add(&line(3));
        drop(jsonl);
        assert_eq!((numbers_in(&rotated), numbers_in(&path)), (vec![0, 1, 2], vec![3]));
    }

    /// A pipe stands for a full disk: it takes a part of what is written and then refuses until it is read.
    #[test]
    fn a_line_torn_by_a_full_target_is_continued_where_it_was_torn() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Condvar::new(), room: Condvar::new() });
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            path: PathBuf::new(),
            target: Some(Target::File(File::from(std::os::fd::OwnedFd::from(writer)))),
            backlog: (0..3_000).flat_map(line).collect(),
            torn_bytes: 0,
        };
        let (mut text, mut failures) = (Vec::new(), 0);
        while let Err(error) = writer.write_backlog() {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            failures += 1;
            let mut chunk = vec![0; 50_001];
            let count = reader.read(&mut chunk).unwrap();
            text.extend_from_slice(&chunk[..count]);
        }
        assert!(0 < failures, "the pipe was never full");
        assert_eq!(shared.lock().counts.sent, 3_000);
        drop(writer);
        reader.read_to_end(&mut text).unwrap();
        assert_eq!(numbers(&text), (0..3_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_disk_costs_what_does_not_fit_and_the_end_is_not_waited_for() {
        let jsonl = Jsonl::open(Path::new("/dev/full"), WhenFull::Lose).unwrap();
        let lines = WAITING_BYTES_MAX / line(9_999).len() + 500;
        (0..lines).for_each(|number| jsonl.add(&line(number)));
        jsonl.flush();
        wait_until(|| jsonl.counts().failures != 0);
        let counts = jsonl.counts();
        assert_eq!((counts.sent, usize::try_from(counts.lost + counts.waiting).unwrap()), (0, lines));
        assert!((400..=1_000).contains(&counts.lost), "{counts:?}");
        assert!(counts.error.unwrap().contains("No space left"));
        let shared = Arc::clone(&jsonl.shared);
        drop(jsonl);
        assert_eq!(usize::try_from(shared.lock().counts.lost).unwrap(), lines);
    }

    #[test]
    fn a_reader_that_does_not_read_never_stops_the_pipeline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        // Opened both ways, so that opening does not wait for the other end.
        let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let jsonl = Jsonl::open(&path, WhenFull::Lose).unwrap();
        let lines = 2 * WAITING_BYTES_MAX / line(9_999).len();
        (0..lines).for_each(|number| jsonl.add(&line(number)));
        let counts = jsonl.counts();
        assert_ne!(counts.lost, 0);
        assert_eq!(usize::try_from(counts.sent + counts.lost + counts.waiting).unwrap(), lines);
        drop(jsonl);
        drop(reader);
    }

    #[test]
    fn a_replay_waits_instead_of_losing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.ndjson");
        let jsonl = Jsonl::open(&path, WhenFull::Wait).unwrap();
        let lines = 3 * WAITING_BYTES_MAX / line(9_999).len();
        (0..lines).for_each(|number| jsonl.add(&line(number)));
        drop(jsonl);
        assert_eq!(numbers_in(&path), (0..lines as u64).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = Jsonl::open(Path::new("/nowhere/events.ndjson"), WhenFull::Lose).err().unwrap();
        assert_eq!(error.to_string(), "failed to open event file /nowhere/events.ndjson");
    }
}
