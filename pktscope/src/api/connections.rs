//! Who is connected: a bounded number, in which silent clients make room for those that come.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::net::Shutdown;

/// Connections open at once.
pub(super) const CONNECTIONS_MAX: usize = 16;

/// See the module.
#[derive(Default)]
pub(super) struct Connections(Mutex<Open>);

#[derive(Default)]
struct Open {
    /// Those that no request came from since, the longest first.
    idle: BTreeMap<u64, Arc<UnixStream>>,
    /// Those whose request is being answered.
    busy: usize,
    tickets: u64,
    dropped: u64,
}

/// A request that is being answered.
pub(super) struct Busy<'a>(&'a Connections);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
    }
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a client in, in the place of the one idle longest where there are many; `None` where all are being answered.
    pub(super) fn enter(&self, stream: &Arc<UnixStream>) -> Option<u64> {
        let mut open = self.lock();
        if CONNECTIONS_MAX <= open.idle.len() + open.busy {
            let (_, longest) = open.idle.pop_first()?;
            open.note_dropped();
            // Its reader sees the end of the stream.
            let _ = rustix::net::shutdown(&*longest, Shutdown::Both);
        }
        Some(open.rest(stream))
    }

    /// A request came; `None` where its client has been dropped.
    pub(super) fn begin(&self, ticket: u64) -> Option<Busy<'_>> {
        let mut open = self.lock();
        open.idle.remove(&ticket)?;
        open.busy += 1;
        Some(Busy(self))
    }

    /// A client is idle again.
    pub(super) fn rest(&self, stream: &Arc<UnixStream>) -> u64 {
        self.lock().rest(stream)
    }

    /// A client has gone.
    pub(super) fn leave(&self, ticket: u64) {
        self.lock().idle.remove(&ticket);
    }
}

impl Open {
    fn rest(&mut self, stream: &Arc<UnixStream>) -> u64 {
        self.tickets += 1;
        self.idle.insert(self.tickets, Arc::clone(stream));
        self.tickets
    }

    /// Says so the first time, and whenever it has happened twice as often.
    fn note_dropped(&mut self) {
        self.dropped += 1;
        if self.dropped.is_power_of_two() {
            tracing::warn!(
                "more than {CONNECTIONS_MAX} control connections: {} that were idle longest have been closed so far",
                self.dropped
            );
        }
    }
}
