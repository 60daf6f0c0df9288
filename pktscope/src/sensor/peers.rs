//! The peer table's reader: reports what grew, and deletes what has been idle.

use std::{io, os::fd::AsFd};

use ahash::{AHashMap, AHashSet};
use aya::maps::{HashMap, IterableMap as _, MapData};
use pktscope_common::state::{Counts, PeerKey, PeerState, Stamp, flags, method};

use super::{
    session::SweepKind,
    sys::{self, BATCH_ENTRIES},
};
use crate::core::{
    decode::{self, IsClosed},
    event::Event,
    flow::Transport,
    time::BootTime,
};

/// Sweeps without a packet after which a peer is reported as over and its place freed: a minute at one sweep a second.
const IDLE_SWEEPS: u32 = 60;
/// The same for handshakes and kernel sockets' packets, which have no more to come: an accepted socket takes its
/// handshake over with its own first packet.
const SHORT_IDLE_SWEEPS: u32 = 5;

/// Sweeps in a row that do not come by a packet socket until it is over: one may run just before the socket's first frame.
const MOST_ABSENCES: u32 = 2;

/// Sweeps after which a place kept for TIME_WAIT is freed: it waits for a FIN as long (include/net/tcp.h,
/// `TCP_FIN_TIMEOUT`).
const LINGER_SWEEPS: u32 = 61;

/// Sweeps for which a handshake that was told is remembered, without a count, for a connection that is silent: where
/// sockets have slots only the handshake names the owner of what a listener accepts. An hour or two.
const SILENT_SWEEPS: u32 = 7_200;
/// Connections that are remembered so: an eighth of the table's default size.
const MOST_SILENT: usize = 8_192;

/// `BPF_EXIST` of include/uapi/linux/bpf.h.
const EXIST: u64 = 2;

/// What was reported of a peer.
#[derive(Clone, Copy, Default)]
struct Seen {
    packets: u64,
    /// Whether a report waited for its sender to be stamped.
    has_waited: bool,
    idle_sweeps: u32,
    /// Sweeps in a row that did not come by the packet socket.
    absences: u32,
    generation: u32,
}

/// The peer table and what was reported of it.
pub(super) struct Peers {
    table: HashMap<MapData, PeerKey, PeerState>,
    overflow: HashMap<MapData, u64, Counts>,
    senders: HashMap<MapData, u64, Stamp>,
    frame_sockets: HashMap<MapData, u64, u32>,
    /// At most as many as the table holds.
    seen: AHashMap<Key, Seen>,
    generation: u32,
    /// Whether silent connections are remembered, and how many are.
    remembers_silent: bool,
    silent: usize,
    /// Sockets that ended since the last sweep: their peers end with them.
    ended: AHashSet<u64>,
    keys: Vec<PeerKey>,
    values: Vec<PeerState>,
}

/// A peer's key as bytes, which hash at once.
type Key = [u8; size_of::<PeerKey>()];

impl Peers {
    pub(super) fn new(
        table: HashMap<MapData, PeerKey, PeerState>,
        overflow: HashMap<MapData, u64, Counts>,
        senders: HashMap<MapData, u64, Stamp>,
        frame_sockets: HashMap<MapData, u64, u32>,
        remembers_silent: bool,
    ) -> Self {
        Self {
            table,
            overflow,
            senders,
            frame_sockets,
            seen: AHashMap::new(),
            generation: 0,
            remembers_silent,
            silent: 0,
            ended: AHashSet::new(),
            keys: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Notes sockets that ended, among events just read.
    pub(super) fn note_ends(&mut self, events: &[Event]) {
        for event in events {
            if let Event::Socket(report) = event
                && report.is_closed
                && report.transport != Transport::TCP
            {
                self.ended.insert(report.cookie);
            }
        }
    }

    /// Reports peers that have seen packets, or all of them; frees the idle and those of sockets that ended. `whole_sweep`
    /// is the number of the sweep that has just come by every socket.
    ///
    /// # Errors
    /// The system's, where the table cannot be read.
    pub(super) fn sweep(
        &mut self,
        kind: SweepKind,
        whole_sweep: Option<u32>,
        at: BootTime,
        events: &mut Vec<Event>,
        take: &mut dyn FnMut(&mut Vec<Event>),
    ) -> io::Result<()> {
        self.generation = self.generation.wrapping_add(1);
        let entries = sys::lookup_all(self.table.map().fd().as_fd(), &mut self.keys, &mut self.values)?;
        self.silent = self.values[..entries].iter().filter(|state| is_silent_place(state)).count();
        self.name_senders(entries);
        self.note_absences(entries, whole_sweep);
        for index in 0..entries {
            let (key, state) = (self.keys[index], self.values[index]);
            self.visit(kind, at, &key, &state, events);
            if BATCH_ENTRIES <= events.len() {
                take(events);
            }
        }
        self.ended.clear();
        let generation = self.generation;
        self.seen.retain(|_, seen| seen.generation == generation);
        self.sweep_overflow(at, events);
        Ok(())
    }

    /// A packet socket's sender is stamped on the last new peer of a system call, which may have sent to many; below
    /// Linux 5.11 it is remembered apart.
    fn name_senders(&mut self, entries: usize) {
        let values = &mut self.values[..entries];
        let has_frames = |state: &&PeerState| state.flags & flags::FRAMES != 0;
        let stamped = values.iter().filter(has_frames).filter(|state| state.user.pid != 0);
        let senders: AHashMap<u64, Stamp> = stamped.map(|state| (state.cookie, state.user)).collect();
        for state in values.iter_mut().filter(|state| state.flags & flags::FRAMES != 0 && state.user.pid == 0) {
            let remembered = || self.senders.get(&state.cookie, 0).ok();
            state.user = senders.get(&state.cookie).copied().or_else(remembered).unwrap_or_default();
            state.method = method::SEND;
        }
    }

    /// Notes as ended the packet sockets that are no more, which nothing else tells of.
    fn note_absences(&mut self, entries: usize, whole_sweep: Option<u32>) {
        let Some(sweep) = whole_sweep else { return };
        for index in 0..entries {
            let (key, state) = (&self.keys[index], &self.values[index]);
            if state.flags & flags::FRAMES == 0 {
                continue;
            }
            let is_there = self.frame_sockets.get(&key.cookie, 0).is_ok_and(|last| last == sweep);
            let seen = self.seen.entry(bytes_of(key)).or_default();
            seen.absences = if is_there { 0 } else { seen.absences + 1 };
            if seen.absences >= MOST_ABSENCES {
                self.ended.insert(key.cookie);
                // It may never have been there.
                let _ = self.frame_sockets.remove(&key.cookie);
            }
        }
    }

    fn visit(&mut self, kind: SweepKind, at: BootTime, key: &PeerKey, state: &PeerState, events: &mut Vec<Event>) {
        let packets = state.counts.sent_packets + state.counts.received_packets;
        let seen = self.seen.entry(bytes_of(key)).or_default();
        seen.generation = self.generation;
        let is_unstamped = state.flags & flags::FRAMES != 0 && state.user.pid == 0;
        if is_unstamped && kind == SweepKind::Changed && !std::mem::replace(&mut seen.has_waited, true) {
            return;
        }
        let has_grown = packets != seen.packets;
        seen.idle_sweeps = if has_grown { 0 } else { seen.idle_sweeps + 1 };
        seen.packets = packets;
        let is_handshake = state.flags & flags::HANDSHAKE != 0;
        if is_silent_place(state) {
            return if seen.idle_sweeps >= SILENT_SWEEPS {
                drop(self.table.remove(key))
            };
        }
        let is_place = state.flags & flags::LINGERS != 0;
        let is_short = state.flags & (flags::HANDSHAKE | flags::KERNEL) != 0;
        let limit = if is_short { SHORT_IDLE_SWEEPS } else { IDLE_SWEEPS };
        if is_place {
            return if seen.idle_sweeps >= LINGER_SWEEPS {
                drop(self.table.remove(key))
            };
        }
        let is_over = key.cookie != 0 && self.ended.contains(&key.cookie);
        if is_over || seen.idle_sweeps >= limit || (is_short && kind == SweepKind::Final) {
            return self.free(at, key, state, events);
        }
        // A handshake waits for the socket that takes it over; what the kernel sends is the ledger's business at once.
        if (has_grown || kind != SweepKind::Changed) && !is_handshake {
            events.push(Event::Socket(decode::peer(key, state, at, IsClosed::No)));
        }
    }

    /// Reports a peer for the last time. What it gets between its last look and its removal would be lost, so the look
    /// is repeated right before. `named` may have a sender that the table has not.
    fn free(&mut self, at: BootTime, key: &PeerKey, named: &PeerState, events: &mut Vec<Event>) {
        let Ok(mut last) = self.table.get(key, 0) else { return };
        if last.user.pid == 0 {
            (last.user, last.method) = (named.user, named.method);
        }
        // Replaced at once: a connection's first packet finds the one or the other.
        let remembers = self.remembers_silent && self.silent < MOST_SILENT;
        let replaced = match silent_place(&last).filter(|_| remembers) {
            Some(silent) => {
                self.silent += 1;
                self.table.insert(key, silent, EXIST)
            }
            None => self.table.remove(key),
        };
        if replaced.is_ok() {
            events.push(Event::Socket(decode::peer(key, &last, at, IsClosed::Yes)));
        }
    }

    fn sweep_overflow(&mut self, at: BootTime, events: &mut Vec<Event>) {
        for (cookie, counts) in self.overflow.iter().flatten() {
            events.push(Event::Socket(decode::overflow(cookie, &counts, at)));
        }
    }
}

/// What of a complete handshake stays once it is told: its owner, for the connection's first packet.
fn silent_place(told: &PeerState) -> Option<PeerState> {
    let is_complete = told.counts.sent_packets != 0 && told.counts.received_packets > 1;
    let is_silent = told.flags & flags::HANDSHAKE != 0 && (is_complete || told.flags & flags::ESTABLISHED != 0);
    is_silent.then(|| PeerState { counts: Counts::default(), flags: told.flags | flags::ESTABLISHED, ..*told })
}

/// Whether that is all that there is: since it was told no packet came by.
fn is_silent_place(state: &PeerState) -> bool {
    state.flags & (flags::HANDSHAKE | flags::ESTABLISHED) == flags::HANDSHAKE | flags::ESTABLISHED
        && state.counts == Counts::default()
}

fn bytes_of(key: &PeerKey) -> Key {
    // SAFETY: repr(C) integers without padding (`Pod`), of exactly that size.
    unsafe { std::mem::transmute_copy(key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_complete_handshake_its_owner_stays() {
        let counts = |sent_packets, received_packets| Counts { sent_packets, received_packets, ..Counts::default() };
        let user = Stamp { pid: 7, ..Stamp::default() };
        let told = PeerState { counts: counts(1, 2), flags: flags::HANDSHAKE, user, ..PeerState::default() };
        let silent = silent_place(&told).unwrap();
        assert!(is_silent_place(&silent) && !is_silent_place(&told));
        assert_eq!(silent.user.pid, 7);
        let spoken = PeerState { counts: counts(1, 0), ..silent };
        assert!(!is_silent_place(&spoken), "a packet that comes late is told");
        assert_eq!(silent_place(&spoken), Some(silent));
        assert_eq!(silent_place(&PeerState { counts: counts(1, 1), ..told }), None, "nobody answered");
        assert_eq!(silent_place(&PeerState { flags: flags::KERNEL, ..told }), None);
    }
}
