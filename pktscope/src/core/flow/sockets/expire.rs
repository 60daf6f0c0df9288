//! What the tracker lets go: flows whose time is over, flows of sockets that are gone, the oldest where it is full.

use super::{EndReason, FlowId, LEAST_ROOM, LiveFlow, Observer, Phase, SocketTracker};
use crate::core::time::BootTime;

/// Flows told of in one call at most: each takes half a kilobyte until it is handed on, and all of a process's may end at
/// once.
const FLOWS_AT_ONCE: usize = 1_024;

impl<U: Default> SocketTracker<U> {
    /// Ends flows whose time is over, updates those that changed; costs what is due. Gives whether more is due: it is told
    /// by the next call.
    pub fn tick(&mut self, now: BootTime, observer: &mut impl Observer<U>) -> bool {
        self.now = self.now.max(now);
        for _ in 0..FLOWS_AT_ONCE {
            let Some(id) = self.next_due() else {
                self.forget_old();
                return false;
            };
            self.look(id, self.now, observer);
        }
        true
    }

    /// The next flow to look at, of those whose close was told some time ago the first.
    fn next_due(&mut self) -> Option<FlowId> {
        if let Some(&(due, id)) = self.agenda.first()
            && due <= self.now
        {
            return Some(id);
        }
        let &(closed_at, id) = self.closing.front()?;
        if self.now < closed_at.plus(self.settings.socket_linger) {
            return None;
        }
        self.closing.pop_front();
        Some(id)
    }

    /// Gives up what nothing is left to be told of.
    fn forget_old(&mut self) {
        self.ghosts.forget_old(self.now, self.settings.max_flows);
        if self.flows.len() < self.settings.max_flows / 2 {
            self.ages = None;
        }
        self.shrink();
    }

    /// Gives up the room of flows that have gone.
    fn shrink(&mut self) {
        let room = |len: usize| (len * 2).max(LEAST_ROOM);
        self.flows.shrink();
        if self.tuples.capacity() / 8 > room(self.tuples.len()) {
            self.tuples.shrink_to(room(self.tuples.len()));
        }
        if self.parts.capacity() / 8 > room(self.parts.len()) {
            self.parts.shrink_to(room(self.parts.len()));
        }
    }

    /// Every socket has been reported: ends the flows of those that were not. What [`Self::tick`] would tell at that time is
    /// told, too, and whether there is more of it.
    pub fn sweep_done(&mut self, at: BootTime, observer: &mut impl Observer<U>) -> bool {
        let sweep = self.sweep;
        let gone = self.ids_where(|live| live.sweep < sweep && live.phase == Phase::Open);
        self.parts.retain(|_, part| part.sweep >= sweep);
        for id in gone {
            self.end(id, at, EndReason::EndOfFlow, observer);
        }
        self.sweep += 1;
        self.swept_at = self.swept_at.max(at);
        self.tick(at, observer)
    }

    /// Ends every flow, in the order of their start. Gives whether there are more: the next call ends them.
    pub fn finish(&mut self, at: BootTime, reason: EndReason, observer: &mut impl Observer<U>) -> bool {
        let mut ids: Vec<FlowId> = self.flows.iter().map(|(id, _)| id).collect();
        if FLOWS_AT_ONCE < ids.len() {
            ids.select_nth_unstable(FLOWS_AT_ONCE);
            ids.truncate(FLOWS_AT_ONCE);
        }
        ids.sort_unstable();
        for id in ids {
            let Some(live) = self.flows.get(&id) else { continue };
            let (at, reason) = match live.phase {
                Phase::Closed(at, reason) => (at, reason),
                Phase::Open => (at, reason),
            };
            self.end(id, at, reason, observer);
        }
        if self.flows.is_empty() {
            self.parts.clear();
        }
        !self.flows.is_empty()
    }

    /// Flows that fit, in the order of their start.
    pub(super) fn ids_where(&self, fits: impl Fn(&LiveFlow<U>) -> bool) -> Vec<FlowId> {
        let mut ids: Vec<FlowId> = self.flows.iter().filter(|(_, live)| fits(live)).map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    pub(super) fn evict(&mut self, observer: &mut impl Observer<U>) {
        let flows = &self.flows;
        let ages = self.ages.get_or_insert_with(|| flows.iter().map(|(id, live)| live.age(id)).collect());
        let Some(&(is_confirmed, _, id)) = ages.first() else { return };
        match is_confirmed {
            true => self.statistics.evicted_confirmed += 1,
            false => self.statistics.evicted_unconfirmed += 1,
        }
        self.end(id, self.now, EndReason::LackOfResources, observer);
    }
}
