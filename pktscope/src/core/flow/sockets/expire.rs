//! What the tracker lets go: flows whose time is over, flows of sockets that are gone, the oldest where it is full.

use super::{EndReason, FlowId, LEAST_ROOM, LiveFlow, Observer, Phase, SocketTracker};
use crate::core::time::BootTime;

impl<U: Default> SocketTracker<U> {
    /// Ends flows whose time is over, updates those that changed; costs what is due.
    pub fn tick(&mut self, now: BootTime, observer: &mut impl Observer<U>) {
        self.now = self.now.max(now);
        while let Some(&(due, id)) = self.agenda.first() {
            if self.now < due {
                break;
            }
            self.look(id, self.now, observer);
        }
        while let Some(&(closed_at, id)) = self.closing.front() {
            if self.now < closed_at.plus(self.settings.socket_linger) {
                break;
            }
            self.closing.pop_front();
            self.look(id, self.now, observer);
        }
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

    /// Every socket has been reported: ends the flows of those that were not.
    pub fn sweep_done(&mut self, at: BootTime, observer: &mut impl Observer<U>) {
        let sweep = self.sweep;
        let gone = self.ids_where(|live| live.sweep < sweep && live.phase == Phase::Open);
        self.parts.retain(|_, part| part.sweep >= sweep);
        for id in gone {
            self.end(id, at, EndReason::EndOfFlow, observer);
        }
        self.sweep += 1;
        self.swept_at = self.swept_at.max(at);
        self.tick(at, observer);
    }

    /// Ends every flow.
    pub fn finish(&mut self, at: BootTime, reason: EndReason, observer: &mut impl Observer<U>) {
        for id in self.ids_where(|_| true) {
            let Some(live) = self.flows.get(&id) else { continue };
            let (at, reason) = match live.phase {
                Phase::Closed(at, reason) => (at, reason),
                Phase::Open => (at, reason),
            };
            self.end(id, at, reason, observer);
        }
        self.parts.clear();
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
