//! The store's own thread: takes what waits, writes it in one transaction, does it again after a second.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::{Connection, TransactionBehavior};

use super::{
    Batch, StoreError, alerts, baseline, dispositions, dns, flows,
    flows::Record,
    ledger,
    lock::Lock,
    migrate::open_error,
    names,
    open::{DATABASE_NAME, open_writer},
    pending::{Pending, PendingFlow, Refused},
    processes::{self, Ids, Written},
    query,
    retention::{self, Retention},
    rollup,
};
use crate::core::{
    alert::Alert,
    process::Process,
    time::{BootTime, Moment},
};

/// Process row ids kept in memory.
const IDS_KEPT: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// Rows that are written before their interval is over: as many flows as wait take two megabytes.
const MANY_ROWS: usize = 4_096;
/// How often retention is looked at.
const RETENTION_INTERVAL: Duration = Duration::from_secs(60);

/// Gives the event that an alert is exported as, to be kept with it.
pub type AlertDocument = Box<dyn Fn(&Alert, Moment) -> String + Send>;

/// How the store works.
pub struct StoreOptions {
    /// How often collected rows are written.
    pub batch_interval: Duration,
    /// Rows that wait at most.
    pub queue_max: usize,
    /// Whether a full queue makes [`StoreHandle::push`] wait, as a replay wants it, instead of counting a loss.
    pub waits_when_full: bool,
    /// Above this many ended flows a second, short flows are rolled up; 0 never.
    pub rollup_above_per_second: u32,
    /// Age after which flows, DNS answers and ledger rows are deleted.
    pub retention: Duration,
    /// Age after which alerts are deleted.
    pub alert_retention: Duration,
    /// Size above which the oldest rows are deleted.
    pub bytes_max: u64,
    /// The event of an alert.
    pub alert_document: AlertDocument,
}

impl StoreOptions {
    /// The options that a configuration sets.
    pub fn new(settings: &crate::config::Store, alert_document: AlertDocument) -> Self {
        Self {
            batch_interval: settings.batch_interval,
            queue_max: usize::try_from(settings.queue_max).unwrap_or(usize::MAX),
            waits_when_full: false,
            rollup_above_per_second: settings.rollup_above_per_second,
            retention: settings.retention,
            alert_retention: settings.alert_retention,
            bytes_max: settings.bytes_max.0,
            alert_document,
        }
    }
}

/// How the store is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Batches written.
    pub batches: u64,
    /// Rows written, updates included.
    pub rows: u64,
    /// Flows that went into shared rows.
    pub rolled_up_flows: u64,
    /// Rows that wait now.
    pub waiting: usize,
    /// Batches that could not be written; each was kept and tried again.
    pub failed_batches: u64,
    /// Why the last batch could not be written; `None` since one was.
    pub error: Option<String>,
    /// Rows refused because the queue was full, by place.
    pub lost: Vec<(&'static str, u64)>,
}

struct Queue {
    pending: Pending,
    /// Rows in the thread's hands that are not written yet.
    in_hand: usize,
    refused: Refused,
    stats: StoreStats,
    is_closing: bool,
    /// Flushes asked for, and done.
    tickets: [u64; 2],
}

struct Shared {
    queue: Mutex<Queue>,
    /// There is something to do before the interval is over.
    wake: Condvar,
    /// A batch is written, or was tried.
    done: Condvar,
    queue_max: usize,
    waits_when_full: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so much waits that it is written at once.
    fn is_much(&self, pending: &Pending) -> bool {
        MANY_ROWS.min(self.queue_max / 2) <= pending.len()
    }
}

/// Hands rows to the store; cheap to clone.
#[derive(Clone)]
pub struct StoreHandle {
    shared: Arc<Shared>,
}

impl StoreHandle {
    /// Adds a batch: all of it lands in one transaction. What finds no room is counted in [`StoreStats::lost`].
    pub fn push(&self, batch: Batch<'_>) {
        let mut queue = self.shared.lock();
        if self.shared.waits_when_full {
            queue = self.wait_for_room(queue);
        }
        let room = self.shared.queue_max.saturating_sub(queue.pending.len() + queue.in_hand);
        let Queue { pending, refused, .. } = &mut *queue;
        pending.add(batch, room, refused);
        if self.shared.is_much(pending) {
            self.shared.wake.notify_one();
        }
    }

    fn wait_for_room<'a>(&'a self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        let is_full = |queue: &mut Queue| {
            self.shared.queue_max <= queue.pending.len() + queue.in_hand && queue.stats.error.is_none()
        };
        self.shared.done.wait_while(queue, is_full).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, at most so long, while the thread writes and as much again waits for it: who has more to push lets it be
    /// written first, and keeps it where it is small. Nobody waits for a database that cannot be written.
    pub fn let_write(&self, patience: Duration) {
        let is_behind = |queue: &mut Queue| {
            self.shared.is_much(&queue.pending) && queue.in_hand != 0 && queue.stats.error.is_none()
        };
        let waited = self.shared.done.wait_timeout_while(self.shared.lock(), patience, is_behind);
        drop(waited);
    }

    /// Waits until everything pushed so far is written. Returns why it could not be.
    ///
    /// # Errors
    /// The message of the failed batch; its rows are kept and tried again.
    pub fn flush(&self) -> Result<(), String> {
        let mut queue = self.shared.lock();
        queue.tickets[0] += 1;
        let ticket = queue.tickets[0];
        self.shared.wake.notify_one();
        let is_waiting = |queue: &mut Queue| queue.tickets[1] < ticket && !queue.is_closing;
        let queue = self.shared.done.wait_while(queue, is_waiting).unwrap_or_else(PoisonError::into_inner);
        queue.stats.error.clone().map_or(Ok(()), Err)
    }

    /// How the store is doing.
    pub fn stats(&self) -> StoreStats {
        let queue = self.shared.lock();
        let refused = &queue.refused;
        let lost = vec![
            ("store_queue_flows", refused.flows),
            ("store_queue_processes", refused.processes),
            ("store_queue_dns", refused.dns),
            ("store_queue_alerts", refused.alerts),
            ("store_queue_ledgers", refused.ledgers),
            ("store_queue_names", refused.names),
        ];
        StoreStats { waiting: queue.pending.len() + queue.in_hand, lost, ..queue.stats.clone() }
    }
}

/// The state directory, held by this agent alone.
pub struct Store {
    handle: StoreHandle,
    thread: Option<JoinHandle<Result<(), StoreError>>>,
}

impl Store {
    /// Locks `directory`, opens its database, starts the writing thread.
    ///
    /// # Errors
    /// Another agent there, a directory or database that cannot be used.
    pub fn open(directory: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let lock = Lock::take(directory)?;
        let path = directory.join(DATABASE_NAME);
        let connection = open_writer(directory)?;
        flows::end_left_open(&connection).map_err(|source| open_error(&path, source))?;
        // Times rise from the newest row on, so that followers miss nothing after the clock was set back.
        let written_at = query::newest_written_at(&connection).map_err(|source| open_error(&path, source))?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                pending: Pending::default(),
                in_hand: 0,
                refused: Refused::default(),
                stats: StoreStats::default(),
                is_closing: false,
                tickets: [0; 2],
            }),
            wake: Condvar::new(),
            done: Condvar::new(),
            queue_max: options.queue_max,
            waits_when_full: options.waits_when_full,
        });
        let writer = Writer {
            connection,
            path,
            options,
            ids: Ids::with_hasher(IDS_KEPT, ahash::RandomState::default()),
            open_rollups: rollup::Open::default(),
            written_at,
            retention_at: BootTime::default(),
            _lock: lock,
        };
        let handle = StoreHandle { shared: Arc::clone(&shared) };
        let spawned = std::thread::Builder::new().name("store".to_owned()).spawn(move || run(writer, &shared));
        let thread = spawned.map_err(|source| StoreError::Directory { directory: directory.to_owned(), source })?;
        Ok(Self { handle, thread: Some(thread) })
    }

    /// For those who hand over rows.
    pub fn handle(&self) -> StoreHandle {
        self.handle.clone()
    }

    /// Writes what waits and closes the database.
    ///
    /// # Errors
    /// A last batch that could not be written.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), StoreError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.handle.shared.lock().is_closing = true;
        self.handle.shared.wake.notify_one();
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            tracing::error!(
                "{error}: {}",
                std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
            );
        }
    }
}

struct Writer {
    connection: Connection,
    path: PathBuf,
    options: StoreOptions,
    ids: Ids,
    open_rollups: rollup::Open,
    written_at: i64,
    retention_at: BootTime,
    _lock: Lock,
}

fn run(mut writer: Writer, shared: &Shared) -> Result<(), StoreError> {
    let mut backlog = Pending::default();
    loop {
        let (taken, ticket, is_closing) = wait(shared, writer.options.batch_interval);
        backlog.absorb(taken);
        let result = writer.write(&backlog);
        let is_written = result.is_ok();
        report(shared, &result, backlog.len(), ticket);
        if is_written {
            backlog = Pending { now: backlog.now, ..Pending::default() };
            writer.retain(backlog.now);
        }
        if is_closing {
            return result.map(drop).map_err(|source| open_error(&writer.path, source)).map_err(writing);
        }
    }
}

fn writing(error: StoreError) -> StoreError {
    match error {
        StoreError::Open { path, source } => StoreError::Write { path, source },
        other => other,
    }
}

/// Waits for the interval to pass, the queue to fill, a flush or the end; takes what waits.
fn wait(shared: &Shared, interval: Duration) -> (Pending, u64, bool) {
    let is_idle = |queue: &mut Queue| {
        let is_much = shared.is_much(&queue.pending) && queue.stats.error.is_none();
        !queue.is_closing && queue.tickets[0] == queue.tickets[1] && !is_much
    };
    let waited = shared.wake.wait_timeout_while(shared.lock(), interval, is_idle);
    let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
    let now = queue.pending.now;
    let taken = std::mem::replace(&mut queue.pending, Pending { now, ..Pending::default() });
    queue.in_hand += taken.len();
    (taken, queue.tickets[0], queue.is_closing)
}

fn report(shared: &Shared, result: &rusqlite::Result<Counts>, waiting: usize, ticket: u64) {
    let mut queue = shared.lock();
    queue.tickets[1] = ticket;
    match result {
        Ok(counts) => {
            queue.in_hand = 0;
            queue.stats.batches += u64::from(counts.rows != 0);
            queue.stats.rows += counts.rows;
            queue.stats.rolled_up_flows += counts.rolled_up_flows;
            if queue.stats.error.take().is_some() {
                tracing::info!("the database can be written again");
            }
        }
        Err(error) => {
            queue.in_hand = waiting;
            queue.stats.failed_batches += 1;
            if queue.stats.error.replace(error.to_string()).is_none() {
                tracing::error!("failed to write the database: {error}; rows wait in memory and it is tried again");
            }
        }
    }
    shared.done.notify_all();
}

/// What a batch did.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    rows: u64,
    rolled_up_flows: u64,
}

impl Writer {
    /// Writes a batch whole or not at all.
    fn write(&mut self, batch: &Pending) -> rusqlite::Result<Counts> {
        if batch.is_empty() {
            return Ok(Counts::default());
        }
        let written = Written { at: batch.now.wall.0.max(self.written_at + 1), now: batch.now };
        let result = self.write_rows(batch, written);
        match &result {
            Ok(_) => {
                self.written_at = written.at;
            }
            Err(_) => {
                // Ids of rows that were rolled back must not be used again.
                self.ids.clear();
                self.open_rollups.clear();
            }
        }
        result
    }

    fn write_rows(&mut self, batch: &Pending, written: Written) -> rusqlite::Result<Counts> {
        let is_rolling_up = self.is_rolling_up(batch);
        let Self { connection, ids, open_rollups, options, .. } = self;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut counts = Counts::default();
        for pending in batch.processes.values() {
            processes::write(&transaction, ids, &pending.process, pending.ended, written)?;
        }
        let mut sums = rollup::Sums::default();
        let mut last = Last::default();
        let whole = batch.whole.iter().map(|flow| (flow, true));
        for (flow, is_short) in whole.chain(batch.flows.values().map(|pending| (&pending.flow, is_short(pending)))) {
            let process_id = last.id(flow.process(), |process| processes::id(&transaction, ids, process, written))?;
            if is_rolling_up && is_short {
                sums.add(flow, process_id);
                counts.rolled_up_flows += 1;
            } else {
                Record::of_one(flow, process_id).write(&transaction, written)?;
                counts.rows += 1;
            }
        }
        counts.rows += sums.write(&transaction, open_rollups, written)?;
        for message in &batch.dns {
            let process = message.process.as_deref();
            let process_id = process.map(|process| processes::id(&transaction, ids, process, written)).transpose()?;
            dns::write(&transaction, message, process_id, written)?;
        }
        for alert in &batch.alerts {
            let process = alert.process.as_deref();
            let process_id = process.map(|process| processes::id(&transaction, ids, process, written)).transpose()?;
            alerts::write(&transaction, alert, process_id, &(options.alert_document)(alert, written.now), written)?;
        }
        for interval in &batch.ledgers {
            ledger::write(&transaction, interval, written)?;
        }
        for disposition in &batch.dispositions {
            dispositions::write(&transaction, disposition, written.at)?;
        }
        baseline::write(&transaction, &batch.state)?;
        names::write(&transaction, &batch.names)?;
        let others = batch.processes.len()
            + batch.dns.len()
            + batch.alerts.len()
            + batch.ledgers.len()
            + batch.dispositions.len()
            + batch.state.len()
            + batch.names.len();
        counts.rows += u64::try_from(others).unwrap_or(u64::MAX);
        transaction.commit()?;
        Ok(counts)
    }

    /// Whether flows end faster than is worth a row each, by the time in which those of this batch were collected.
    fn is_rolling_up(&self, batch: &Pending) -> bool {
        let limit = f64::from(self.options.rollup_above_per_second);
        let span = batch.now.boot.since(batch.since).max(self.options.batch_interval).as_secs_f64();
        let short = batch.flows.values().filter(|pending| is_short(pending)).count() + batch.whole.len();
        let short = u32::try_from(short).unwrap_or(u32::MAX);
        limit != 0.0 && limit * span < f64::from(short)
    }

    /// Deletes what is too old or too much; an error is told and tried again.
    fn retain(&mut self, now: Moment) {
        if now.boot < self.retention_at {
            return;
        }
        let keep = Retention {
            age: self.options.retention,
            alert_age: self.options.alert_retention,
            bytes_max: self.options.bytes_max,
        };
        match retention::step(&self.connection, &keep, now.wall) {
            Ok(step) => {
                if step.has_deleted_processes {
                    self.ids.clear();
                }
                let pause = if step.has_more { Duration::ZERO } else { RETENTION_INTERVAL };
                self.retention_at = now.boot.plus(pause);
            }
            Err(error) => {
                tracing::warn!("failed to delete old rows: {error}; it is tried again in a minute");
                self.retention_at = now.boot.plus(RETENTION_INTERVAL);
            }
        }
    }
}

/// The process of the flow before, which is that of most that follow, and its row.
#[derive(Default)]
struct Last<'a>(Option<(&'a Arc<Process>, i64)>);

impl<'a> Last<'a> {
    fn id(
        &mut self,
        process: Option<&'a Arc<Process>>,
        find: impl FnOnce(&Process) -> rusqlite::Result<i64>,
    ) -> rusqlite::Result<Option<i64>> {
        let Some(process) = process else { return Ok(None) };
        let id = match self.0 {
            Some((last, id)) if Arc::ptr_eq(last, process) => id,
            _ => find(process)?,
        };
        self.0 = Some((process, id));
        Ok(Some(id))
    }
}

/// Whether the database has not seen the flow and never will again.
fn is_short(pending: &PendingFlow) -> bool {
    pending.is_new && pending.flow.ended.is_some()
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;
    use crate::core::{effect::Effect, process::ProcessKey};

    const LONG: Duration = Duration::from_secs(60);

    /// A queue of four rows with two in it and two in the hands of a thread that there is not.
    fn behind() -> StoreHandle {
        let queue = Queue {
            pending: Pending::default(),
            in_hand: 2,
            refused: Refused::default(),
            stats: StoreStats::default(),
            is_closing: false,
            tickets: [0; 2],
        };
        let shared = Shared {
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            done: Condvar::new(),
            queue_max: 4,
            waits_when_full: false,
        };
        let handle = StoreHandle { shared: Arc::new(shared) };
        let started = |pid| {
            let process = Process { key: ProcessKey { pid, started_at: BootTime(1) }, ..Process::default() };
            Effect::ProcessStarted(Arc::new(process))
        };
        handle.push(Batch { effects: &[started(1), started(2)], ..Batch::default() });
        assert_eq!(handle.stats().waiting, 4);
        handle
    }

    /// Says when somebody who lets the store write goes on.
    fn let_write(handle: &StoreHandle) -> mpsc::Receiver<()> {
        let (done, is_done) = mpsc::channel();
        let handle = handle.clone();
        thread::spawn(move || {
            handle.let_write(2 * LONG);
            // The test may be over.
            let _ = done.send(());
        });
        is_done
    }

    fn expect_wait_until(handle: &StoreHandle, result: &rusqlite::Result<Counts>) {
        let goes_on = let_write(handle);
        goes_on.recv_timeout(Duration::from_millis(50)).expect_err("the thread writes");
        report(&handle.shared, result, 0, 0);
        goes_on.recv_timeout(LONG).expect("the thread has written, or tried to");
        let_write(handle).recv_timeout(LONG).expect("nothing to wait for");
    }

    #[test]
    fn who_lets_the_store_write_waits_until_it_has() {
        expect_wait_until(&behind(), &Ok(Counts::default()));
    }

    #[test]
    fn nobody_waits_for_a_database_that_cannot_be_written() {
        expect_wait_until(&behind(), &Err(rusqlite::Error::InvalidQuery));
    }
}
