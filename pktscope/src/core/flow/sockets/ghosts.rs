//! Closed connections in whose name the kernel may still send.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use ahash::RandomState;

use super::{
    Counted, PartKey, SocketTracker,
    live::{LiveFlow, Phase, Tuple},
    parts::Grown,
};
use crate::core::{
    event::{SocketReport, SocketScope},
    flow::{EndReason, Ownership, Volume, socket_tcp},
    time::BootTime,
};

/// How long the kernel may send in the name of a closed TCP socket (`TCP_TIMEWAIT_LEN`, include/net/tcp.h).
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Closed connections remembered at most, so that a flood of short ones costs little memory.
const MAX_GHOSTS: usize = 32_768;

/// A closed connection.
#[derive(Clone, Copy, Debug)]
struct Ghost {
    ended_at: BootTime,
    ownership: Ownership,
    /// Whether what it still sends answers a FIN.
    answers_fin: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ghosts {
    by_tuple: HashMap<Tuple, Ghost, RandomState>,
    order: VecDeque<(BootTime, Tuple)>,
}

impl Ghosts {
    pub(super) fn new(state: RandomState) -> Self {
        Self { by_tuple: HashMap::with_hasher(state), order: VecDeque::new() }
    }

    /// Keeps what is needed of a connection that ended.
    pub(super) fn keep<U>(&mut self, live: &LiveFlow<U>, ended_at: BootTime) {
        let is_in_order = matches!(live.phase, Phase::Closed(_, EndReason::EndOfFlow));
        let answers_fin = is_in_order && socket_tcp::is_active_close(&live.tcp);
        self.by_tuple.insert(live.tuple, Ghost { ended_at, ownership: live.ownership, answers_fin });
        self.order.push_back((ended_at, live.tuple));
    }

    /// Forgets those whose time is over, and the oldest beyond `most`.
    pub(super) fn forget_old(&mut self, now: BootTime, most: usize) {
        while let Some(&(ended_at, tuple)) = self.order.front() {
            if now < ended_at.plus(TIME_WAIT) && self.order.len() <= most.min(MAX_GHOSTS) {
                break;
            }
            self.order.pop_front();
            if self.by_tuple.get(&tuple).is_some_and(|ghost| ghost.ended_at == ended_at) {
                self.by_tuple.remove(&tuple);
            }
        }
    }
}

impl<U: Default> SocketTracker<U> {
    /// Whether a report is of what the kernel sends in the name of a connection that is over.
    pub(super) fn is_of_ghost(&self, part_key: &PartKey, report: &SocketReport) -> bool {
        report.scope == SocketScope::Kernel && self.ghosts.by_tuple.contains_key(&(report.netns, part_key.key))
    }

    /// Counts what came too late for its flow.
    pub(super) fn absorb(&mut self, part_key: &PartKey, report: &SocketReport, grown: &Grown) -> Counted {
        let ghost = self.ghosts.by_tuple.get(&(report.netns, part_key.key));
        let Some(ghost) = ghost.filter(|_| grown.has_any()) else { return Counted::default() };
        let answers_fin = ghost.answers_fin && report.received.packets == 0;
        let inferred = if answers_fin { grown.sent } else { Volume::default() };
        self.statistics.packets_inferred += inferred.packets;
        self.statistics.packets_late += grown.sent.packets + grown.received.packets + inferred.packets;
        Counted { growth: grown.with(&inferred), ownership: Some(ghost.ownership) }
    }
}
