//! A recording, the NDJSON that `run --events` wrote, read back as events in the recording's own time.
//!
//! In: lines in ECS names. Out: [`Event::RecordedFlow`], [`Event::RecordedProcess`], [`Event::RecordedDns`] and
//! [`Event::RecordedLedger`], each with the moment when its line was written (`event.created`): detection was told at
//! that moment. Alerts, and the ends of processes, are what the live run concluded or had no use for: counted, not
//! replayed.
//! A torn or foreign line is counted and skipped, never an error: the agent may have been killed while writing.

mod ledger;
mod line;
mod stamp;

use std::{
    io::{self, BufRead},
    sync::Arc,
};

use ahash::AHashMap;

use crate::core::{event::Event, process::Process, time::Moment};

use line::{Line, ProcessPart};

/// Longest line read; a longer one is skipped and counted. A flow event is below 16 KiB unless its command line is
/// longer than the agent records.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Processes and names kept for sharing; at this many the table starts anew.
const MAX_INTERNED: usize = 65_536;

/// What a recording held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordingStats {
    /// Lines read, empty ones left out.
    pub lines: u64,
    /// Flow events.
    pub flows: u64,
    /// DNS events.
    pub dns: u64,
    /// What became known of processes.
    pub processes: u64,
    /// Ledger events.
    pub ledgers: u64,
    /// Lines that are not replayed: alerts, ends of processes.
    pub other: u64,
    /// Lines that are not JSON: torn by a crash, or no recording at all.
    pub torn: u64,
    /// Lines of ours that lack a field without which they mean nothing.
    pub incomplete: u64,
    /// Lines longer than any of ours.
    pub too_long: u64,
}

/// One event of a recording and when it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The line's time; both clocks read the same in a replay.
    pub at: Moment,
    /// The event.
    pub event: Event,
}

/// Reads a recording line by line.
pub struct Recording<R> {
    input: R,
    buffer: Vec<u8>,
    interned: Interned,
    stats: RecordingStats,
    bytes: u64,
}

/// Values that many lines share, so that each is built once.
#[derive(Default)]
struct Interned {
    processes: AHashMap<u64, Vec<Arc<Process>>>,
    names: AHashMap<Box<str>, Arc<str>>,
}

impl<R: BufRead> Recording<R> {
    /// Reads from `input`, from where it stands.
    pub fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), interned: Interned::default(), stats: RecordingStats::default(), bytes: 0 }
    }

    /// Counts so far.
    pub fn stats(&self) -> RecordingStats {
        self.stats
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// Only what the input itself reports; bad lines are counted in [`RecordingStats`].
    pub fn next_event(&mut self) -> io::Result<Option<Recorded>> {
        while self.read_line()? {
            if let Some(recorded) = self.parse() {
                return Ok(Some(recorded));
            }
        }
        Ok(None)
    }

    /// Reads one line into the buffer; `false` at the end of the input.
    fn read_line(&mut self) -> io::Result<bool> {
        self.buffer.clear();
        let read = io::Read::take(&mut self.input, MAX_LINE_BYTES).read_until(b'\n', &mut self.buffer)?;
        self.bytes += read as u64;
        if read as u64 == MAX_LINE_BYTES && self.buffer.last() != Some(&b'\n') {
            self.stats.too_long += 1;
            self.buffer.clear();
            self.skip_rest_of_line()?;
        }
        Ok(read > 0)
    }

    fn skip_rest_of_line(&mut self) -> io::Result<()> {
        loop {
            let available = self.input.fill_buf()?;
            if available.is_empty() {
                return Ok(());
            }
            let (used, is_done) = match available.iter().position(|&byte| byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (available.len(), false),
            };
            self.input.consume(used);
            self.bytes += used as u64;
            if is_done {
                return Ok(());
            }
        }
    }

    fn parse(&mut self) -> Option<Recorded> {
        let Self { buffer, interned, stats, .. } = self;
        let text = buffer.trim_ascii();
        if text.is_empty() {
            return None;
        }
        stats.lines += 1;
        let Ok(line) = serde_json::from_slice::<Line<'_>>(text) else {
            stats.torn += 1;
            return None;
        };
        let at = line.written_at();
        let (counter, event) = match (line.dataset(), line.action()) {
            ("pktscope.flow", _) => (&mut stats.flows, line.flow_change(interned).map(Event::RecordedFlow)),
            ("pktscope.process", "process_started" | "process_changed") => {
                (&mut stats.processes, line.process(interned).map(Event::RecordedProcess))
            }
            ("pktscope.dns", _) => (&mut stats.dns, line.dns_message(interned).map(Event::RecordedDns)),
            ("pktscope.ledger", _) => (&mut stats.ledgers, ledger::parse(text).map(Event::RecordedLedger)),
            _ => {
                stats.other += 1;
                return None;
            }
        };
        let recorded = at.zip(event).map(|(at, event)| Recorded { at, event });
        *counter += u64::from(recorded.is_some());
        stats.incomplete += u64::from(recorded.is_none());
        recorded
    }
}

impl<R: BufRead> Iterator for Recording<R> {
    type Item = io::Result<Recorded>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_event().transpose()
    }
}

impl Interned {
    /// The shared copy of a name.
    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        if self.names.len() >= MAX_INTERNED {
            self.names.clear();
        }
        let shared: Arc<str> = name.into();
        self.names.insert(name.into(), shared.clone());
        shared
    }

    /// The shared copy of a process: one value for all lines that say the same of it.
    fn process(&mut self, part: &ProcessPart<'_>) -> Arc<Process> {
        let digest = part.digest();
        if let Some(known) =
            self.processes.get(&digest).and_then(|list| list.iter().find(|known| part.describes(known)))
        {
            return known.clone();
        }
        if self.processes.len() >= MAX_INTERNED {
            self.processes.clear();
        }
        let shared = Arc::new(part.build());
        self.processes.entry(digest).or_default().push(shared.clone());
        shared
    }
}

#[cfg(test)]
mod tests;
