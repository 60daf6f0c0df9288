//! Socket reports in, flows out: the tracker of the live host.
//!
//! The kernel counts; this only tells which flow a count belongs to and when a flow begins and ends. Reports are totals
//! so far, by socket, scope and tuple ("part" below); what a part grew by goes to its flow. Parts of one TCP connection
//! that the kernel counts in different places are one flow, in whatever order they come: the accepted socket's own
//! (primary), its handshake counted by the listener (peer), and what the kernel sends in its name after the socket is
//! gone (kernel). A part outlives its flow while the kernel keeps it, so that nothing is counted twice.
//!
//! What the kernel sends in the name of a connection whose end was told already goes to no flow any more: it is the
//! closed connection's, counted for its owner, and begins none.

use std::collections::{BTreeSet, VecDeque};

use ahash::RandomState;
use hashbrown::HashMap;

use super::{
    EndReason, FlowAction, FlowId, FlowKey, FlowSettings, FlowStatistics, Observer, Ownership, Transport, Volume,
    socket_tcp::Histories,
};
use crate::core::{
    event::{FlowRef, SocketReport, SocketScope},
    ledger::{Growth, LedgerClass},
    time::BootTime,
};

mod expire;
mod ghosts;
mod live;
mod parts;
mod slab;
mod splits;
mod whole;

use ghosts::Ghosts;
use live::{LiveFlow, NEVER, Phase, add, grown, is_echo, is_time_wait_answer, key_of};
use parts::Grown;
use slab::Slab;
use splits::Splits;

/// Parts held for each flow that may be held: a connection has three at most.
const PARTS_PER_FLOW: usize = 4;

/// Flows whose room is never given up.
const LEAST_ROOM: usize = 1_024;

/// What the kernel counts as one.
#[derive(Clone, Copy, Debug)]
struct PartKey {
    scope: Scope,
    key: FlowKey,
    id: PartId,
}

/// A part as the table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PartId {
    /// The socket's cookie; of the kernel's own sockets, which share none, the network namespace's.
    cookie: u64,
    /// Hash of scope and addresses, by a key of this run: two parts of one socket share it by chance alone, once in 2⁶⁴ pairs.
    print: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scope {
    Primary,
    Peer,
    Overflow,
    Kernel,
    TimeWait,
    Frames,
}

impl From<SocketScope> for Scope {
    fn from(scope: SocketScope) -> Self {
        match scope {
            SocketScope::Primary => Self::Primary,
            SocketScope::Peer => Self::Peer,
            SocketScope::Overflow => Self::Overflow,
            SocketScope::Kernel => Self::Kernel,
            SocketScope::TimeWait => Self::TimeWait,
            SocketScope::Frames | SocketScope::NotIp => Self::Frames,
        }
    }
}

#[derive(Debug)]
struct Part {
    /// The flow that its growth goes to, while that one lives.
    flow: Option<FlowId>,
    sent: Volume,
    received: Volume,
    segment_header_bytes: [u64; 2],
    sweep: u64,
}

/// What a report added, and to whose flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// By how much the flow's totals grew.
    pub growth: Growth,
    /// Whose the ledger takes it for; `None` where the report added nothing.
    pub class: Option<LedgerClass>,
}

fn class_of(ownership: &Ownership) -> LedgerClass {
    match ownership {
        Ownership::Kernel => LedgerClass::Kernel,
        Ownership::Socket(owner) if owner.user.or(owner.creator).is_some() => LedgerClass::Attributed,
        Ownership::Socket(_) | Ownership::Capture => LedgerClass::Unknown,
    }
}

/// Flows of the live host; `U` is the caller's own state of each.
#[derive(Debug)]
pub struct SocketTracker<U = ()> {
    settings: FlowSettings,
    flows: Slab<U>,
    parts: HashMap<PartId, Part, RandomState>,
    tuples: HashMap<live::Tuple, FlowId, RandomState>,
    ghosts: Ghosts,
    /// When to look at open flows.
    agenda: BTreeSet<(BootTime, FlowId)>,
    /// Closed flows by the time of their close: each lingers for the same time.
    closing: VecDeque<(BootTime, FlowId)>,
    /// Eviction order, once the table was full: flows that one side has sent on first, then by last packet.
    ages: Option<BTreeSet<(bool, BootTime, FlowId)>>,
    histories: Histories,
    splits: Splits,
    sweep: u64,
    /// When every socket had been reported last.
    swept_at: BootTime,
    now: BootTime,
    next_id: u64,
    statistics: FlowStatistics,
}

impl<U: Default> SocketTracker<U> {
    /// A tracker whose first flow gets the number `first_id`.
    pub fn new(settings: FlowSettings, first_id: FlowId) -> Self {
        let seed = settings.hash_seed;
        let state = RandomState::with_seeds(seed, seed.rotate_left(23), !seed, seed.rotate_left(47));
        Self {
            settings,
            flows: Slab::new(state.clone()),
            parts: HashMap::with_hasher(state.clone()),
            tuples: HashMap::with_hasher(state.clone()),
            ghosts: Ghosts::new(state),
            agenda: BTreeSet::new(),
            closing: VecDeque::new(),
            ages: None,
            histories: Histories::default(),
            splits: Splits::default(),
            sweep: 0,
            swept_at: BootTime::default(),
            now: BootTime::default(),
            next_id: first_id.0,
            statistics: FlowStatistics::default(),
        }
    }

    /// Flows held.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// The number that the next flow gets.
    pub fn next_id(&self) -> FlowId {
        FlowId(self.next_id)
    }

    /// What it did so far.
    pub fn statistics(&self) -> FlowStatistics {
        self.statistics
    }

    /// Changes time-outs and bounds; a smaller bound takes hold as flows come.
    pub fn set_settings(&mut self, settings: FlowSettings) {
        self.settings = settings;
        for id in self.ids_where(|_| true) {
            self.settle(id);
        }
    }

    /// The flow that a packet belongs to, and the caller's state of it; `None` before its socket's first report.
    pub fn find_mut(&mut self, flow: &FlowRef) -> Option<(FlowId, &mut U)> {
        let (key, _) = FlowKey::of_endpoints(flow.transport, flow.source, flow.destination);
        // By the socket alone: another network namespace may have a flow between the same ends.
        let id = [Scope::Primary, Scope::Peer].into_iter().find_map(|scope| {
            let part = self.parts.get(&self.part_key(flow.cookie, scope, key).id)?;
            part.flow.filter(|id| self.flows.contains_key(id))
        })?;
        self.flows.get_mut(&id).map(|live| (id, &mut live.user))
    }

    /// The flow with this number, and the caller's state of it.
    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut U> {
        self.flows.get_mut(&id).map(|live| &mut live.user)
    }

    /// Reports a flow as it stands, for example because it got its name; waits for no interval.
    pub fn touch(&mut self, id: FlowId, at: BootTime, observer: &mut impl Observer<U>) {
        if self.flows.get(&id).is_some_and(|live| live.is_told()) {
            self.emit(id, FlowAction::Updated, at, None, observer);
            self.settle(id);
        }
    }

    fn part_key(&self, cookie: u64, scope: Scope, key: FlowKey) -> PartKey {
        PartKey { scope, key, id: PartId { cookie, print: self.parts.hasher().hash_one((scope, key)) } }
    }

    /// Takes one report; gives what it added, each byte once.
    pub fn report(&mut self, report: &SocketReport, observer: &mut impl Observer<U>) -> Counted {
        self.now = self.now.max(report.at);
        let cookie = if report.scope == SocketScope::Kernel { report.netns } else { report.cookie };
        let part_key = self.part_key(cookie, report.scope.into(), key_of(report));
        if !report.is_closed && !self.has_room_for(&part_key) {
            self.statistics.reports_refused += 1;
            return Counted::default();
        }
        if self.is_whole(&part_key, report, observer) {
            return self.tell_whole(&part_key, report, observer);
        }
        let grown = self.growth(&part_key, report);
        let id = self.flow_of(&part_key, report, &grown, observer);
        if report.is_closed && grown.is_held {
            self.parts.remove(&part_key.id);
        }
        let Some(id) = id else { return self.absorb(&part_key, report, &grown) };
        let counted = self.apply(id, report, &grown);
        if report.is_closed {
            self.close(id, report);
        }
        self.after(id, report.at, observer);
        counted
    }

    /// The flow that a part's growth goes to; `None` where its flow is over and nothing is new, or its connection is.
    fn flow_of(
        &mut self,
        part_key: &PartKey,
        report: &SocketReport,
        grown: &Grown,
        observer: &mut impl Observer<U>,
    ) -> Option<FlowId> {
        let alive = grown.flow.filter(|id| self.flows.contains_key(id));
        let id = match alive {
            Some(id) => return Some(id),
            None if grown.flow.is_some() && !grown.has_any() => return None,
            None => match self.joined(part_key, report) {
                Some(id) => {
                    let live = self.flows.get_mut(&id);
                    live.into_iter().for_each(|live| live.started_at = live.started_at.min(report.started_at));
                    id
                }
                None if report.scope == SocketScope::TimeWait || self.is_of_ghost(part_key, report) => return None,
                None => self.begin(part_key, report, grown, observer),
            },
        };
        if grown.is_held
            && let Some(part) = self.parts.get_mut(&part_key.id)
        {
            part.flow = Some(id);
        }
        Some(id)
    }

    /// A flow that another part of the same connection began.
    fn joined(&self, part_key: &PartKey, report: &SocketReport) -> Option<FlowId> {
        if report.transport != Transport::TCP {
            return None;
        }
        let id = *self.tuples.get(&(report.netns, part_key.key)).or_else(|| self.tuples.get(&(0, part_key.key)))?;
        let live = self.flows.get(&id)?;
        let is_same_side = live.local == report.local;
        let fits = match part_key.scope {
            Scope::Primary => !live.has_primary,
            Scope::Peer | Scope::Kernel | Scope::TimeWait => true,
            // What is sent past the sockets is no part of any socket's connection.
            Scope::Overflow | Scope::Frames => false,
        };
        (is_same_side && fits).then_some(id)
    }

    fn begin(
        &mut self,
        part_key: &PartKey,
        report: &SocketReport,
        grown: &Grown,
        observer: &mut impl Observer<U>,
    ) -> FlowId {
        while self.flows.len() >= self.settings.max_flows.max(1) {
            self.evict(observer);
        }
        let id = self.take_id();
        let tuple = (report.netns, part_key.key);
        let started_at = match grown.flow {
            None => report.started_at.min(report.at),
            // What is new of it came after all was reported last, and after the flow that it goes on from.
            Some(before) => self.splits.take(before).map_or(report.at, |end| end.max(self.swept_at).min(report.at)),
        };
        let live = LiveFlow::new(tuple, report, started_at, self.sweep);
        if let Some(ages) = &mut self.ages {
            ages.insert(live.age(id));
        }
        if part_key.scope != Scope::Frames {
            self.tuples.insert(tuple, id);
        }
        self.flows.insert(id, live);
        id
    }

    fn take_id(&mut self) -> FlowId {
        let id = FlowId(self.next_id);
        self.next_id += 1;
        self.statistics.started += 1;
        id
    }

    /// Adds a part's growth to its flow.
    fn apply(&mut self, id: FlowId, report: &SocketReport, grown: &Grown) -> Counted {
        let Some(live) = self.flows.get_mut(&id) else { return Counted::default() };
        let age = live.age(id);
        add(&mut live.sent, &grown.sent);
        add(&mut live.received, &grown.received);
        if grown.has_any() {
            live.last_seen = live.last_seen.max(report.at);
            live.is_changed = true;
        }
        let mut inferred = Volume::default();
        if report.scope == SocketScope::Kernel && (is_time_wait_answer(live, report) || is_echo(report)) {
            // The FIN that a TIME-WAIT socket's ACK answers passes no hook; it is as large as its answer. So is an echo's
            // question (RFC 792, RFC 4443: its data is returned).
            inferred = grown.sent;
            add(&mut live.received, &inferred);
            self.statistics.packets_inferred += inferred.packets;
        }
        live.take_facts(report, self.sweep);
        if let Some(ages) = &mut self.ages {
            ages.remove(&age);
            ages.insert(live.age(id));
        }
        Counted { growth: grown.with(&inferred), class: Some(class_of(&live.ownership)) }
    }

    /// Notes that a part is over; the flow is, when that was its socket or it never had one.
    fn close(&mut self, id: FlowId, report: &SocketReport) {
        let Some(live) = self.flows.get_mut(&id) else { return };
        if live.phase != Phase::Open || live.has_primary && report.scope != SocketScope::Primary {
            return;
        }
        // A handshake without its socket yet, or a kernel's packet: the other parts may still come.
        let reason = if live.has_primary || live.transport != Transport::TCP {
            live.tcp.end_reason()
        } else {
            EndReason::EndOfFlow
        };
        live.phase = Phase::Closed(report.at, reason);
        if live.transport == Transport::TCP {
            // Reports come nearly in order of their time.
            let later = self.closing.iter().rev().take_while(|(at, _)| report.at < *at).count();
            self.closing.insert(self.closing.len() - later, (report.at, id));
        }
    }

    /// Reports what is to be reported now and sets the next look.
    fn after(&mut self, id: FlowId, at: BootTime, observer: &mut impl Observer<U>) {
        let Some(live) = self.flows.get(&id) else { return };
        let may_wait = live.phase != Phase::Open && observer.takes_whole();
        if !live.is_told() && !may_wait {
            self.emit(id, FlowAction::Started, at, None, observer);
        }
        let Some(live) = self.flows.get(&id) else { return };
        match live.phase {
            Phase::Closed(closed_at, reason) if live.transport != Transport::TCP => {
                self.end(id, closed_at, reason, observer);
            }
            _ => self.look(id, at, observer),
        }
    }

    /// Puts a flow's next look and age where they belong.
    fn settle(&mut self, id: FlowId) {
        let Some(live) = self.flows.get_mut(&id) else { return };
        let due = live.next_look(&self.settings);
        if due == live.due {
            return;
        }
        if live.due != NEVER {
            self.agenda.remove(&(live.due, id));
        }
        live.due = due;
        if due != NEVER {
            self.agenda.insert((due, id));
        }
    }

    /// Ends, splits or updates a flow, whatever its time has come for.
    fn look(&mut self, id: FlowId, now: BootTime, observer: &mut impl Observer<U>) {
        let Some(live) = self.flows.get(&id) else { return };
        if let Phase::Closed(at, reason) = live.phase {
            if at.plus(self.settings.socket_linger) <= now {
                return self.end(id, at, reason, observer);
            }
            return self.settle(id);
        }
        if let Some(idle_at) = live.idle_at(&self.settings).filter(|idle_at| *idle_at <= now) {
            return self.end(id, idle_at, EndReason::IdleTimeout, observer);
        }
        let is_too_old = self.settings.active_timeout.is_some_and(|timeout| live.started_at.plus(timeout) <= now);
        if is_too_old {
            return self.end(id, now, EndReason::ActiveTimeout, observer);
        }
        if live.is_changed && live.reported_at.plus(self.settings.update_interval) <= now {
            self.emit(id, FlowAction::Updated, now, None, observer);
        }
        self.settle(id);
    }

    fn end(&mut self, id: FlowId, at: BootTime, reason: EndReason, observer: &mut impl Observer<U>) {
        let is_told = self.flows.get(&id).is_some_and(|live| live.is_told());
        let action = if is_told { FlowAction::Ended } else { FlowAction::Whole };
        self.emit(id, action, at, Some((at, reason)), observer);
        let Some(live) = self.flows.remove(&id) else { return };
        self.statistics.ended += 1;
        if reason == EndReason::ActiveTimeout {
            self.splits.note(id, at);
        }
        if live.due != NEVER {
            self.agenda.remove(&(live.due, id));
        }
        if let Some(ages) = &mut self.ages {
            ages.remove(&live.age(id));
        }
        let tuple = live.tuple();
        if self.tuples.get(&tuple) == Some(&id) {
            self.tuples.remove(&tuple);
        }
        if live.transport == Transport::TCP && live.has_primary {
            self.ghosts.keep(&live, at);
        }
    }

    fn emit(
        &mut self,
        id: FlowId,
        action: FlowAction,
        at: BootTime,
        ended: Option<(BootTime, EndReason)>,
        observer: &mut impl Observer<U>,
    ) {
        let Some(live) = self.flows.get_mut(&id) else { return };
        live.is_changed = false;
        live.reported_at = at.max(BootTime(1));
        let snapshot = live.snapshot(id, ended, &mut self.histories);
        observer.change(action, at, snapshot, &mut live.user);
    }
}

#[cfg(test)]
mod tests;
