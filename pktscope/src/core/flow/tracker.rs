//! Packets in, flows out: the tracker of captures.
//!
//! Time comes with the packets. It never runs backwards inside: a packet a little older than the one before it counts at
//! the latest time seen; a clock that steps back further moves the offset instead, so that time-outs go on.
//!
//! When the table is full a new flow takes the place of another: first of one that is closed or that only one side has
//! sent on (soonest due first), so that no flood of SYNs or of datagrams evicts a flow both sides take part in. Those
//! may fill at most 7/8 of the table; beyond that the least recently seen of 16 sampled gives way to the next.

use super::{
    End, EndReason, FlowAction, FlowId, FlowKey, FlowPacket, FlowSettings, FlowSnapshot, FlowStatistics, Observer,
    Ownership, Side, TcpEvent, Transport,
    clock::Clock,
    expiry::{NONE, Wheel},
    table::{Class, Entry, Table, bits},
    tcp,
};
use crate::core::{
    packet::{Detail, Packet, TcpHeader},
    time::BootTime,
};

mod evict;
mod opening;
mod timeouts;

use opening::{direction, is_from_responder};
use timeouts::Timeouts;

/// Packets looked up together, so that their cache misses overlap.
pub const BATCH: usize = 16;

/// Flows of a capture; `U` is the caller's own state of each, which takes no room while it is the default.
#[derive(Debug)]
pub struct Tracker<U = ()> {
    settings: FlowSettings,
    timeouts: Timeouts,
    table: Table<U>,
    /// Flows both sides take part in.
    confirmed: Wheel,
    /// All others.
    unconfirmed: Wheel,
    clock: Clock,
    next_id: u64,
    random: u64,
    statistics: FlowStatistics,
    /// Flows whose slot came.
    looks: u64,
    /// The place where the next end of all flows goes on.
    finished: u32,
}

/// Where a packet went.
struct Place {
    index: u32,
    is_new: bool,
}

impl<U: Default + PartialEq> Tracker<U> {
    /// A tracker whose first flow gets the number `first_id`.
    pub fn new(settings: FlowSettings, first_id: FlowId) -> Self {
        Self {
            timeouts: Timeouts::new(&settings),
            table: Table::new(settings.hash_seed, settings.max_flows),
            confirmed: Wheel::new(),
            unconfirmed: Wheel::new(),
            clock: Clock::default(),
            next_id: first_id.0,
            random: settings.hash_seed | 1,
            statistics: FlowStatistics::default(),
            looks: 0,
            finished: 0,
            settings,
        }
    }

    /// Flows held.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// The number that the next flow gets.
    pub fn next_id(&self) -> FlowId {
        FlowId(self.next_id)
    }

    /// What it did so far.
    pub fn statistics(&self) -> FlowStatistics {
        let (packets_back_in_time, clock_steps) = self.clock.anomalies();
        FlowStatistics { packets_back_in_time, clock_steps, ..self.statistics }
    }

    /// The flow that a packet with this key belongs to.
    pub fn find(&self, key: &FlowKey) -> Option<FlowId> {
        let index = self.table.find(self.table.hash(key), key)?;
        Some(FlowId(self.table.entry(index).id))
    }

    /// Changes the caller's state of a flow; `None` where the key is another flow's by now, or none's.
    pub fn with_user<T>(&mut self, key: &FlowKey, flow: FlowId, change: impl FnOnce(&mut U) -> T) -> Option<T> {
        let index = self.table.find(self.table.hash(key), key)?;
        if self.table.entry(index).id != flow.0 {
            return None;
        }
        Some(self.table.change_user(index, change))
    }

    /// Changes bounds and time-outs; flows beyond a smaller bound end for lack of room.
    pub fn set_settings(&mut self, settings: FlowSettings, observer: &mut impl Observer<U>) {
        self.timeouts = Timeouts::new(&settings);
        self.settings = FlowSettings { hash_seed: self.settings.hash_seed, ..settings };
        while self.table.len() > self.settings.max_flows {
            self.evict_any(observer);
        }
    }

    /// Takes one packet.
    pub fn packet(&mut self, packet: &Packet<'_>, at: BootTime, observer: &mut impl Observer<U>) {
        let hash = self.table.hash(&packet.key);
        self.step(packet, at, hash, NONE, observer);
    }

    /// Takes packets in order; faster than one by one where there are many flows.
    pub fn packets(&mut self, packets: &[(BootTime, Packet<'_>)], observer: &mut impl Observer<U>) {
        for batch in packets.chunks(BATCH) {
            let mut hashes = [0; BATCH];
            let mut places = [NONE; BATCH];
            let mut touched = 0;
            for (hash, (_, packet)) in hashes.iter_mut().zip(batch) {
                *hash = self.table.hash(&packet.key);
                touched ^= self.table.touch_index(*hash);
            }
            for (place, hash) in places.iter_mut().zip(&hashes[..batch.len()]) {
                *place = self.table.guess(*hash);
            }
            for place in &places[..batch.len()] {
                touched ^= self.table.touch(*place);
            }
            std::hint::black_box(touched);
            for ((at, packet), (hash, place)) in batch.iter().zip(hashes.iter().zip(places)) {
                self.step(packet, *at, *hash, place, observer);
            }
        }
    }

    /// Ends flows whose time is over, updates those that changed; costs what is due.
    pub fn tick(&mut self, now: BootTime, observer: &mut impl Observer<U>) {
        let now = self.clock.advance(now);
        self.expire(now, observer);
    }

    /// Ends every flow.
    pub fn finish(&mut self, reason: EndReason, observer: &mut impl Observer<U>) {
        while self.finish_some(usize::MAX, reason, observer) {}
    }

    /// Ends up to `most` flows; whether there are more.
    pub fn finish_some(&mut self, most: usize, reason: EndReason, observer: &mut impl Observer<U>) -> bool {
        let now = self.clock.now();
        let mut left = most;
        while 0 < left && 0 < self.table.len() {
            let index = self.finished;
            self.finished = if index as usize + 1 < self.table.slots() { index + 1 } else { 0 };
            if self.table.entry(index).has(bits::LIVE) {
                let (at, reason) = match self.table.entry(index).class() {
                    Class::Closed => self.ending(index),
                    _ => (now, reason),
                };
                self.end(index, at, reason, observer);
                left -= 1;
            }
        }
        !self.is_empty()
    }

    fn expire(&mut self, now: u64, observer: &mut impl Observer<U>) {
        while let Some(index) = self.confirmed.pop_due(&mut self.table, BootTime(now)) {
            self.look(index, now, observer);
        }
        while let Some(index) = self.unconfirmed.pop_due(&mut self.table, BootTime(now)) {
            self.look(index, now, observer);
        }
    }

    /// Decides about a flow whose slot came; it is in no wheel.
    fn look(&mut self, index: u32, now: u64, observer: &mut impl Observer<U>) {
        self.looks += 1;
        let entry = self.table.entry(index);
        if self.timeouts.deadline(entry) <= now {
            let (at, reason) = self.ending(index);
            return self.end_unlinked(index, at, reason, observer);
        }
        let is_too_old = entry.started_at.saturating_add(self.timeouts.active) <= now;
        if is_too_old && entry.has(bits::CHANGED) && entry.class() != Class::Closed {
            self.split(index, now, observer);
        } else if entry.has(bits::CHANGED) && entry.class() != Class::Closed {
            self.report(index, FlowAction::Updated, now, None, observer);
        }
        self.schedule(index, now);
    }

    /// When and why a flow that is due ends.
    fn ending(&self, index: u32) -> (u64, EndReason) {
        let entry = self.table.entry(index);
        match entry.class() {
            Class::Closed => (entry.last_seen, self.closed_reason(index)),
            _ => (self.timeouts.deadline(entry), EndReason::IdleTimeout),
        }
    }

    fn closed_reason(&self, index: u32) -> EndReason {
        match self.table.entry(index).ends.contains(&tcp::EndState::Reset) {
            true => EndReason::Reset,
            false => EndReason::EndOfFlow,
        }
    }

    fn wheel_of(&mut self, class: Class) -> (&mut Wheel, &mut Table<U>) {
        match class {
            Class::Confirmed => (&mut self.confirmed, &mut self.table),
            _ => (&mut self.unconfirmed, &mut self.table),
        }
    }

    /// Puts a flow into its wheel: at its deadline, or at its next update if that is sooner.
    fn schedule(&mut self, index: u32, now: u64) {
        let entry = self.table.entry(index);
        let due = self.timeouts.deadline(entry).min(now.saturating_add(self.timeouts.update));
        let class = entry.class();
        let (wheel, table) = self.wheel_of(class);
        wheel.start(BootTime(now));
        wheel.insert(table, index, BootTime(due));
    }

    fn reclass(&mut self, index: u32, class: Class, now: u64, observer: &mut impl Observer<U>) {
        let old = self.table.entry(index).class();
        if old == class {
            return;
        }
        let (wheel, table) = self.wheel_of(old);
        wheel.remove(table, index);
        self.table.entry_mut(index).set_class(class);
        if class == Class::Confirmed {
            self.make_room_for_confirmed(observer);
        }
        self.schedule(index, now);
    }

    #[inline]
    fn step(&mut self, packet: &Packet<'_>, at: BootTime, hash: u64, guess: u32, observer: &mut impl Observer<U>) {
        let now = self.clock.advance(at);
        if self.clock.has_ticked() {
            self.expire(now, observer);
        }
        self.statistics.packets += u64::from(packet.packets);
        self.statistics.ip_bytes += u64::from(packet.ip_bytes);
        let place = self.place(packet, hash, guess, now, observer);
        if place.is_new {
            self.begin(place.index, packet, now, observer);
        }
        self.account(place.index, packet, now, observer);
    }

    /// Finds the packet's flow or makes room for a new one.
    #[inline]
    fn place(
        &mut self,
        packet: &Packet<'_>,
        hash: u64,
        guess: u32,
        now: u64,
        observer: &mut impl Observer<U>,
    ) -> Place {
        let found = match guess {
            guess if guess != NONE && self.table.entry(guess).is(&packet.key) => Some(guess),
            _ => self.table.find(hash, &packet.key),
        };
        if let Some(index) = found {
            match self.is_over(index, packet, now) {
                None => return Place { index, is_new: false },
                Some((at, reason)) => self.end(index, at, reason, observer),
            }
        }
        while self.table.len() >= self.settings.max_flows.max(1) {
            self.evict_any(observer);
        }
        Place { index: self.table.insert(hash, &packet.key), is_new: true }
    }

    /// Whether this packet finds its flow ended: its time is over, or a new SYN takes the tuple.
    #[inline]
    fn is_over(&mut self, index: u32, packet: &Packet<'_>, now: u64) -> Option<(u64, EndReason)> {
        let entry = self.table.entry(index);
        if self.timeouts.deadline(entry) <= now {
            return Some(self.ending(index));
        }
        if let Detail::Tcp(header) = &packet.detail
            && header.has(TcpHeader::SYN)
            && entry.tcp.is_other_connection(entry.side_of(packet.sender), header, entry.ends)
        {
            self.statistics.tuples_reused += 1;
            let entry = self.table.entry(index);
            let reason = if entry.class() == Class::Closed { self.closed_reason(index) } else { EndReason::EndOfFlow };
            return Some((entry.last_seen, reason));
        }
        None
    }

    /// Starts a flow with its first packet.
    fn begin(&mut self, index: u32, packet: &Packet<'_>, now: u64, observer: &mut impl Observer<U>) {
        let is_flipped = is_from_responder(packet);
        let source = if is_flipped { packet.sender.other() } else { packet.sender };
        let id = self.next_id;
        self.next_id += 1;
        self.statistics.started += 1;
        let entry = self.table.entry_mut(index);
        (entry.id, entry.started_at, entry.last_seen) = (id, now, now);
        entry.set(bits::LOW_IS_SOURCE, source == End::Low);
        entry.set_class(Class::OneWay);
        match packet.detail {
            Detail::Icmp(kind, code) => {
                entry.tcp.set_icmp(kind, code);
                entry.set(bits::HAS_ICMP, true);
            }
            Detail::Tcp(header) => {
                if is_flipped {
                    entry.connection(now).flip();
                }
                if header.has(TcpHeader::SYN) {
                    entry.set_class(Class::HalfOpen);
                }
            }
            Detail::None => {}
        }
        self.schedule(index, now);
        self.report(index, FlowAction::Started, now, None, observer);
    }

    /// Adds a packet to its flow.
    #[inline]
    fn account(&mut self, index: u32, packet: &Packet<'_>, now: u64, observer: &mut impl Observer<U>) {
        if self.table.entry(index).has(bits::DORMANT) {
            self.wake(index, now, observer);
        }
        let offset = self.clock.offset();
        let entry = self.table.entry_mut(index);
        let side = entry.side_of(packet.sender);
        entry.add(side, packet.packets, packet.ip_bytes, packet.payload_bytes);
        entry.last_seen = now;
        entry.set(bits::CHANGED, true);
        let event = match &packet.detail {
            Detail::Tcp(header) => entry.connection(now).segment(side, header, packet.payload_bytes),
            _ => None,
        };
        if !packet.payload.is_empty() {
            let side = if side == 0 { Side::Source } else { Side::Destination };
            let number = entry.packets();
            // The flow's number lies where few packets come.
            if observer.takes_payload(number, side, packet) {
                let flow = FlowId(entry.id);
                observer.payload(&FlowPacket { flow, number, side, at: offset.shown(now), packet });
            }
        }
        let class = class_of(entry);
        if let Some(event) = event {
            self.tell(index, event, offset.shown(now), observer);
        }
        if class != self.table.entry(index).class() {
            self.reclass(index, class, now, observer);
        }
    }

    fn tell(&mut self, index: u32, event: TcpEvent, at: BootTime, observer: &mut impl Observer<U>) {
        if event == TcpEvent::ResetDisregarded {
            self.statistics.resets_disregarded += 1;
            return;
        }
        let flow = FlowId(self.table.entry(index).id);
        self.table.change_user(index, |user| observer.tcp(flow, event, at, user));
    }

    /// Ends a flow that has been open for the active time-out; the next packet begins its continuation.
    fn split(&mut self, index: u32, now: u64, observer: &mut impl Observer<U>) {
        self.report(index, FlowAction::Ended, now, Some((now, EndReason::ActiveTimeout)), observer);
        self.statistics.ended += 1;
        self.table.entry_mut(index).split();
    }

    fn wake(&mut self, index: u32, now: u64, observer: &mut impl Observer<U>) {
        let id = self.next_id;
        self.next_id += 1;
        self.statistics.started += 1;
        let entry = self.table.entry_mut(index);
        entry.set(bits::DORMANT, false);
        (entry.id, entry.started_at) = (id, now);
        self.report(index, FlowAction::Started, now, None, observer);
    }

    fn end(&mut self, index: u32, at: u64, reason: EndReason, observer: &mut impl Observer<U>) {
        let class = self.table.entry(index).class();
        let (wheel, table) = self.wheel_of(class);
        wheel.remove(table, index);
        self.end_unlinked(index, at, reason, observer);
    }

    fn end_unlinked(&mut self, index: u32, at: u64, reason: EndReason, observer: &mut impl Observer<U>) {
        if !self.table.entry(index).has(bits::DORMANT) {
            self.statistics.ended += 1;
            self.report(index, FlowAction::Ended, at, Some((at, reason)), observer);
        }
        self.table.remove(index);
    }

    fn report(
        &mut self,
        index: u32,
        action: FlowAction,
        at: u64,
        ended: Option<(u64, EndReason)>,
        observer: &mut impl Observer<U>,
    ) {
        let offset = self.clock.offset();
        let entry = self.table.entry_mut(index);
        entry.set(bits::CHANGED, false);
        let (source, destination) = (entry.source_end(), entry.source_end().other());
        let key = entry.key();
        let (source, destination) = (key.endpoint(source), key.endpoint(destination));
        let has_payload = entry.payload_bytes != [0; 2];
        let snapshot = FlowSnapshot {
            id: FlowId(entry.id),
            transport: key.transport(),
            source,
            destination,
            icmp: entry.has(bits::HAS_ICMP).then(|| entry.tcp.icmp()),
            direction: direction(&self.settings, source, destination),
            sent: entry.volume(0),
            received: entry.volume(1),
            started_at: offset.shown(entry.started_at),
            last_seen: offset.shown(entry.last_seen),
            ended: ended.map(|(at, reason)| (offset.shown(at), reason)),
            ownership: Ownership::Capture,
            tcp: (key.transport() == Transport::TCP).then(|| entry.connection(at).summary(has_payload)),
        };
        self.table.change_user(index, |user| observer.change(action, offset.shown(at), snapshot, user));
    }
}

/// Where a flow belongs after a packet.
#[inline]
fn class_of(entry: &Entry) -> Class {
    let has_both = entry.ip_bytes[0] != 0 && entry.ip_bytes[1] != 0;
    if Transport(entry.transport) == Transport::TCP && entry.ends != [tcp::EndState::Inactive; 2] {
        if tcp::is_closed(entry.ends) {
            return Class::Closed;
        }
        if entry.tcp.is_half_open(entry.ends) {
            return Class::HalfOpen;
        }
    }
    if has_both { Class::Confirmed } else { Class::OneWay }
}

#[cfg(test)]
mod tests;
