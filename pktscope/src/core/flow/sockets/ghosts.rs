//! Closed connections in whose name the kernel may still send.

use std::{collections::VecDeque, time::Duration};

use ahash::RandomState;
use hashbrown::HashTable;

use super::{
    Counted, PartKey, SocketTracker, class_of,
    live::{LiveFlow, Phase, Tuple},
    parts::Grown,
};
use crate::core::{
    event::{SocketReport, SocketScope},
    flow::{EndReason, Transport, Volume, socket_tcp},
    ledger::LedgerClass,
    time::BootTime,
};

/// How long the kernel may send in the name of a closed TCP socket (`TCP_TIMEWAIT_LEN`, include/net/tcp.h).
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Closed connections remembered at most, so that a flood of short ones costs little memory.
const MAX_GHOSTS: usize = 32_768;

/// A closed connection.
#[derive(Clone, Copy, Debug)]
struct Ghost {
    tuple: Tuple,
    ended_at: BootTime,
    class: LedgerClass,
    /// Whether what it still sends answers a FIN.
    answers_fin: bool,
}

/// See the module. Ghosts lie in the order in which they came, because nearly all of them are never asked for: only their
/// numbers are where their addresses lead, and those only once any is asked for.
#[derive(Debug)]
pub(super) struct Ghosts {
    kept: VecDeque<Ghost>,
    /// Number of the first that is kept; numbers begin anew after the highest.
    first: u32,
    /// Of the kept, from the first on, how many are in `numbers`.
    indexed: usize,
    numbers: HashTable<u32>,
    state: RandomState,
}

impl Ghosts {
    pub(super) fn new(state: RandomState) -> Self {
        Self { kept: VecDeque::new(), first: 0, indexed: 0, numbers: HashTable::new(), state }
    }

    /// Keeps what is needed of a connection that ended.
    pub(super) fn keep<U>(&mut self, live: &LiveFlow<U>, ended_at: BootTime) {
        let is_in_order = matches!(live.phase, Phase::Closed(_, EndReason::EndOfFlow));
        let answers_fin = is_in_order && socket_tcp::is_active_close(&live.tcp);
        self.kept.push_back(Ghost { tuple: live.tuple(), ended_at, class: class_of(&live.ownership), answers_fin });
    }

    fn find(&mut self, tuple: &Tuple) -> Option<&Ghost> {
        self.index_rest();
        let is_same = |number: &u32| tuple_of(&self.kept, self.first, *number) == Some(tuple);
        let number = self.numbers.find(self.state.hash_one(tuple), is_same)?;
        self.kept.get(number.wrapping_sub(self.first) as usize)
    }

    /// Makes those that came since the last search be found.
    fn index_rest(&mut self) {
        let Self { kept, first, indexed, numbers, state } = self;
        for (at, ghost) in kept.iter().enumerate().skip(*indexed) {
            let number = first.wrapping_add(u32::try_from(at).unwrap_or(u32::MAX));
            let hash = state.hash_one(ghost.tuple);
            // An earlier connection of the same addresses is not found any more.
            match numbers.find_mut(hash, |known| tuple_of(kept, *first, *known) == Some(&ghost.tuple)) {
                Some(known) => *known = number,
                None => {
                    let hash_of = |known: &u32| tuple_of(kept, *first, *known).map_or(0, |tuple| state.hash_one(tuple));
                    numbers.insert_unique(hash, number, hash_of);
                }
            }
        }
        *indexed = kept.len();
    }

    /// Forgets those whose time is over, and the oldest beyond `most`.
    pub(super) fn forget_old(&mut self, now: BootTime, most: usize) {
        while let Some(ghost) = self.kept.front() {
            if now < ghost.ended_at.plus(TIME_WAIT) && self.kept.len() <= most.min(MAX_GHOSTS) {
                break;
            }
            if let Some(left) = self.indexed.checked_sub(1) {
                let (first, hash) = (self.first, self.state.hash_one(ghost.tuple));
                if let Ok(known) = self.numbers.find_entry(hash, |number| *number == first) {
                    known.remove();
                }
                self.indexed = left;
            }
            self.kept.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }
}

fn tuple_of(kept: &VecDeque<Ghost>, first: u32, number: u32) -> Option<&Tuple> {
    kept.get(number.wrapping_sub(first) as usize).map(|ghost| &ghost.tuple)
}

impl<U: Default> SocketTracker<U> {
    /// Whether a report is of what the kernel sends in the name of a connection that is over, or of what its listener
    /// received for it and did not answer: it is no handshake.
    pub(super) fn is_of_ghost(&mut self, part_key: &PartKey, report: &SocketReport) -> bool {
        let is_late = match report.scope {
            SocketScope::Kernel => true,
            SocketScope::Peer => report.transport == Transport::TCP && report.sent.packets == 0,
            _ => false,
        };
        is_late && self.ghosts.find(&(report.netns, part_key.key)).is_some()
    }

    /// Counts what came too late for its flow.
    pub(super) fn absorb(&mut self, part_key: &PartKey, report: &SocketReport, grown: &Grown) -> Counted {
        let ghost = self.ghosts.find(&(report.netns, part_key.key)).copied();
        let Some(ghost) = ghost.filter(|_| grown.has_any()) else { return Counted::default() };
        let answers_fin = ghost.answers_fin && report.scope == SocketScope::Kernel && report.received.packets == 0;
        let inferred = if answers_fin { grown.sent } else { Volume::default() };
        self.statistics.packets_inferred += inferred.packets;
        self.statistics.packets_late += grown.sent.packets + grown.received.packets + inferred.packets;
        Counted { growth: grown.with(&inferred), class: Some(ghost.class) }
    }
}
