//! Which names an address was asked for by, in one table without an allocation an entry but the name itself.
//!
//! Entries lie in a slab; those of one address are chained, all are in one list by when they were last renewed. A full
//! table gives up the entry renewed longest ago. Expired entries are found by a hand that goes round the slab, two
//! steps an insertion, so that none stays longer than half a table's insertions.

use std::{cmp::Reverse, collections::VecDeque, net::IpAddr, sync::Arc};

use ahash::RandomState;
use hashbrown::HashTable;

use crate::core::{process::ProcessKey, time::BootTime};

/// Names of one address, over all askers: content networks put thousands behind one.
const MAX_CLAIMS_PER_ADDR: usize = 64;
const HAND_STEPS: usize = 2;
const NONE: u32 = u32::MAX;

/// Whose a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker(ProcessKey);

impl Asker {
    /// Every process: no process has pid 0.
    pub(super) const HOST: Self = Self(ProcessKey { pid: 0, started_at: BootTime(0) });

    pub(super) fn process(key: ProcessKey) -> Self {
        Self(key)
    }

    /// The process; `None` of everybody.
    pub(super) fn key(self) -> Option<ProcessKey> {
        (self != Self::HOST).then_some(self.0)
    }
}

/// The best name of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: Arc<str>,
    pub(super) learned_at: BootTime,
    pub(super) candidates: u32,
}

#[derive(Clone, Debug)]
struct Claim {
    /// `None` of a free slot.
    name: Option<Arc<str>>,
    asker: Asker,
    /// The first answer, and the last one.
    since: BootTime,
    learned_at: BootTime,
    expires_at: BootTime,
    addr: IpAddr,
    /// Whether the slot is in the list of changed ones.
    is_changed: bool,
    /// The next claim on the same address.
    next: u32,
    /// Neighbours in the list of renewals.
    older: u32,
    newer: u32,
}

impl Claim {
    /// Whether the name held at a time: from the first answer on, until the last one expired.
    fn holds(&self, at: BootTime) -> bool {
        self.since <= at && at <= self.expires_at
    }

    /// The last answer before a time, as far as is known.
    fn learned_before(&self, at: BootTime) -> BootTime {
        if self.learned_at <= at { self.learned_at } else { self.since }
    }

    fn is_named(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name)
    }
}

/// When a name was learned, and until when it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) since: BootTime,
    pub(super) learned_at: BootTime,
    pub(super) expires_at: BootTime,
}

/// A claim that changed, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) addr: IpAddr,
    pub(super) asker: Asker,
    pub(super) name: Arc<str>,
    pub(super) times: Times,
}

pub(super) struct Claims {
    slots: Vec<Claim>,
    free: Vec<u32>,
    /// The first claim of each address.
    heads: HashTable<u32>,
    hasher: RandomState,
    oldest: u32,
    newest: u32,
    /// Slots that changed since they were taken, each once; only where changes are asked for.
    changed: VecDeque<u32>,
    notes_changes: bool,
    hand: usize,
    max: usize,
    added: u64,
    evicted: u64,
}

impl Claims {
    pub(super) fn new(max: usize, hasher: RandomState) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            heads: HashTable::new(),
            hasher,
            oldest: NONE,
            newest: NONE,
            changed: VecDeque::new(),
            notes_changes: false,
            hand: 0,
            max: max.clamp(1, NONE as usize),
            added: 0,
            evicted: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn added(&self) -> u64 {
        self.added
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Adds a name to an address or renews it.
    pub(super) fn put(&mut self, addr: IpAddr, asker: Asker, name: &Arc<str>, now: BootTime, expires_at: BootTime) {
        self.turn_hand(now);
        if let Some(slot) = self.find(addr, asker, name) {
            let claim = self.at_mut(slot);
            if !claim.holds(now) {
                claim.since = now;
            }
            claim.learned_at = now;
            claim.expires_at = claim.expires_at.max(expires_at);
            self.unlink_age(slot);
            self.link_newest(slot);
            self.note_changed(slot);
            return;
        }
        self.make_room(addr, now);
        let slot = self.add(addr, asker, name, Times { since: now, learned_at: now, expires_at });
        self.added += 1;
        self.note_changed(slot);
    }

    /// Adds a name that was learned before, unless it is known by now; names must come in the order of their renewal.
    pub(super) fn restore(&mut self, addr: IpAddr, asker: Asker, name: &Arc<str>, times: Times) {
        if self.find(addr, asker, name).is_none() {
            self.make_room(addr, times.learned_at);
            self.add(addr, asker, name, times);
        }
    }

    /// Notes changes from now on.
    pub(super) fn note_changes(&mut self) {
        self.notes_changes = true;
    }

    /// Up to `most` of the names that changed since they were taken, in the order of their first change.
    pub(super) fn take_changed(&mut self, most: usize) -> Vec<Changed> {
        let count = most.min(self.changed.len());
        let slots: Vec<u32> = self.changed.drain(..count).collect();
        slots.into_iter().filter_map(|slot| self.changed(slot)).collect()
    }

    fn changed(&mut self, slot: u32) -> Option<Changed> {
        let claim = self.at_mut(slot);
        claim.is_changed = false;
        let Claim { addr, asker, since, learned_at, expires_at, .. } = *claim;
        let name = claim.name.clone()?;
        Some(Changed { addr, asker, name, times: Times { since, learned_at, expires_at } })
    }

    fn note_changed(&mut self, slot: u32) {
        if self.notes_changes && !std::mem::replace(&mut self.at_mut(slot).is_changed, true) {
            self.changed.push_back(slot);
        }
    }

    fn add(&mut self, addr: IpAddr, asker: Asker, name: &Arc<str>, times: Times) -> u32 {
        let claim = Claim {
            name: Some(name.clone()),
            asker,
            since: times.since,
            learned_at: times.learned_at,
            expires_at: times.expires_at,
            addr,
            is_changed: false,
            next: self.head(addr).unwrap_or(NONE),
            older: NONE,
            newer: NONE,
        };
        let slot = self.store(claim);
        self.set_head(addr, slot);
        self.link_newest(slot);
        slot
    }

    /// The name that `asker` got last for an address, and how many it has.
    pub(super) fn best(&self, addr: IpAddr, asker: Asker, at: BootTime) -> Option<Found> {
        let live = || self.live(addr, asker, at);
        let best = live().max_by_key(|claim| (claim.learned_before(at), claim.name.clone()))?;
        let candidates = u32::try_from(live().count()).unwrap_or(u32::MAX);
        Some(Found { name: best.name.clone()?, learned_at: best.learned_before(at), candidates })
    }

    pub(super) fn has(&self, addr: IpAddr, asker: Asker, name: &str, at: BootTime) -> bool {
        self.live(addr, asker, at).any(|claim| claim.is_named(name))
    }

    fn live(&self, addr: IpAddr, asker: Asker, at: BootTime) -> impl Iterator<Item = &Claim> {
        let claims = self.chain(addr).map(|slot| self.at(slot));
        claims.filter(move |claim| claim.asker == asker && claim.holds(at))
    }

    fn find(&self, addr: IpAddr, asker: Asker, name: &str) -> Option<u32> {
        self.chain(addr).find(|slot| self.at(*slot).asker == asker && self.at(*slot).is_named(name))
    }

    /// The claims on an address, the latest added first.
    fn chain(&self, addr: IpAddr) -> impl Iterator<Item = u32> {
        std::iter::successors(self.head(addr), |slot| Some(self.at(*slot).next).filter(|next| *next != NONE))
    }

    fn make_room(&mut self, addr: IpAddr, now: BootTime) {
        if self.chain(addr).count() >= MAX_CLAIMS_PER_ADDR {
            self.greediest(addr).into_iter().for_each(|slot| self.evict(slot, now));
        }
        while self.len() >= self.max && self.oldest != NONE {
            self.evict(self.oldest, now);
        }
    }

    /// The stalest claim of whoever has most on the address, so that nobody drives another's names out.
    fn greediest(&self, addr: IpAddr) -> Option<u32> {
        let claims_of = |asker| self.chain(addr).filter(|slot| self.at(*slot).asker == asker).count();
        self.chain(addr).max_by_key(|slot| (claims_of(self.at(*slot).asker), Reverse(self.at(*slot).learned_at)))
    }

    fn evict(&mut self, slot: u32, now: BootTime) {
        self.evicted += u64::from(now <= self.at(slot).expires_at);
        self.remove(slot);
    }

    fn turn_hand(&mut self, now: BootTime) {
        for _ in 0..HAND_STEPS {
            self.hand = if self.hand + 1 < self.slots.len() { self.hand + 1 } else { 0 };
            let Some(claim) = self.slots.get(self.hand) else { return };
            if claim.name.is_some() && claim.expires_at < now {
                self.remove(index(self.hand));
            }
        }
    }

    fn remove(&mut self, slot: u32) {
        let (addr, next) = (self.at(slot).addr, self.at(slot).next);
        let before = self.chain(addr).find(|before| self.at(*before).next == slot);
        match before {
            Some(before) => self.at_mut(before).next = next,
            None if next == NONE => self.drop_head(addr),
            None => self.set_head(addr, next),
        }
        self.unlink_age(slot);
        self.at_mut(slot).name = None;
        self.free.push(slot);
    }

    fn store(&mut self, claim: Claim) -> u32 {
        if let Some(slot) = self.free.pop() {
            // A place stays in the list of changed ones whoever has it.
            let is_changed = self.at(slot).is_changed;
            *self.at_mut(slot) = Claim { is_changed, ..claim };
            return slot;
        }
        self.slots.push(claim);
        index(self.slots.len() - 1)
    }

    fn unlink_age(&mut self, slot: u32) {
        let (older, newer) = (self.at(slot).older, self.at(slot).newer);
        match older {
            NONE => self.oldest = newer,
            _ => self.at_mut(older).newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            _ => self.at_mut(newer).older = older,
        }
    }

    fn link_newest(&mut self, slot: u32) {
        let newest = self.newest;
        self.at_mut(slot).older = newest;
        self.at_mut(slot).newer = NONE;
        match newest {
            NONE => self.oldest = slot,
            _ => self.at_mut(newest).newer = slot,
        }
        self.newest = slot;
    }

    fn head(&self, addr: IpAddr) -> Option<u32> {
        let hash = self.hasher.hash_one(addr);
        self.heads.find(hash, |head| self.at(*head).addr == addr).copied()
    }

    fn set_head(&mut self, addr: IpAddr, slot: u32) {
        let hash = self.hasher.hash_one(addr);
        let Self { heads, slots, hasher, .. } = self;
        match heads.find_mut(hash, |head| slots[*head as usize].addr == addr) {
            Some(head) => *head = slot,
            None => {
                heads.insert_unique(hash, slot, |head| hasher.hash_one(slots[*head as usize].addr));
            }
        }
    }

    fn drop_head(&mut self, addr: IpAddr) {
        let hash = self.hasher.hash_one(addr);
        let Self { heads, slots, .. } = self;
        if let Ok(entry) = heads.find_entry(hash, |head| slots[*head as usize].addr == addr) {
            entry.remove();
        }
    }

    /// Slots come only from the lists of this table, which name none outside it.
    fn at(&self, slot: u32) -> &Claim {
        &self.slots[slot as usize]
    }

    fn at_mut(&mut self, slot: u32) -> &mut Claim {
        &mut self.slots[slot as usize]
    }
}

fn index(slot: usize) -> u32 {
    u32::try_from(slot).expect("the table's bound is below u32::MAX")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(0).plus(Duration::from_secs(seconds))
    }

    fn addr(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn a_full_table_forgets_what_was_renewed_longest_ago() {
        let mut claims = Claims::new(2, RandomState::with_seeds(1, 2, 3, 4));
        let name: Arc<str> = "a.example".into();
        claims.put(addr(1), Asker::HOST, &name, at(1), at(900));
        claims.put(addr(2), Asker::HOST, &name, at(2), at(900));
        claims.put(addr(1), Asker::HOST, &name, at(3), at(900));
        claims.put(addr(3), Asker::HOST, &name, at(4), at(900));
        let held = |last| claims.best(addr(last), Asker::HOST, at(5)).is_some();
        assert_eq!([held(1), held(2), held(3)], [true, false, true]);
        assert_eq!((claims.len(), claims.evicted(), claims.added()), (2, 1, 3));
    }

    #[test]
    fn names_of_one_address_are_bounded() {
        let mut claims = Claims::new(1000, RandomState::with_seeds(1, 2, 3, 4));
        for number in 0..200 {
            claims.put(addr(1), Asker::HOST, &format!("{number}.example").into(), at(number), at(900));
        }
        assert_eq!((claims.len(), claims.evicted()), (64, 136));
        let found = claims.best(addr(1), Asker::HOST, at(300)).unwrap();
        assert_eq!((&*found.name, found.candidates), ("199.example", 64));
    }

    #[test]
    fn many_names_of_one_asker_do_not_drive_out_another_s() {
        let mut claims = Claims::new(1000, RandomState::with_seeds(1, 2, 3, 4));
        let asker = |pid| Asker::process(ProcessKey { pid, started_at: at(0) });
        claims.put(addr(1), asker(1), &"quiet.example".into(), at(0), at(900));
        for number in 0..200 {
            claims.put(addr(1), asker(2), &format!("{number}.example").into(), at(number), at(900));
        }
        assert_eq!(&*claims.best(addr(1), asker(1), at(300)).unwrap().name, "quiet.example");
        assert_eq!(claims.best(addr(1), asker(2), at(300)).unwrap().candidates, 63);
    }

    #[test]
    fn expired_names_leave_without_being_asked_for() {
        let mut claims = Claims::new(1000, RandomState::with_seeds(1, 2, 3, 4));
        for last in 0..100 {
            claims.put(addr(last), Asker::HOST, &"a.example".into(), at(0), at(60));
        }
        for _ in 0..60 {
            claims.put(addr(200), Asker::HOST, &"b.example".into(), at(61), at(900));
        }
        assert_eq!((claims.len(), claims.evicted()), (1, 0));
    }

    proptest! {
        /// The table against a plain map with the same rules, without bounds reached.
        #[test]
        fn as_a_plain_map(steps in proptest::collection::vec((0_u8..6, 0_u32..3, 0_u8..4, 1_u64..50), 0..200)) {
            let mut claims = Claims::new(10_000, RandomState::with_seeds(1, 2, 3, 4));
            let mut plain: BTreeMap<(u8, u32, String), (u64, u64)> = BTreeMap::new();
            for (now, (last, pid, name, ttl)) in (0..).zip(steps) {
                let asker = Asker::process(ProcessKey { pid, started_at: at(0) });
                let name = format!("{name}.example");
                claims.put(addr(last), asker, &name.clone().into(), at(now), at(now + ttl));
                let entry = plain.entry((last, pid, name)).or_default();
                *entry = (now, entry.1.max(now + ttl));
                for last in 0..6 {
                    let live = plain.iter().filter(|((a, p, _), (_, end))| *a == last && *p == pid && now <= *end);
                    let live: Vec<_> = live.map(|((_, _, name), (learned, _))| (*learned, name.clone())).collect();
                    let found = claims.best(addr(last), asker, at(now));
                    prop_assert_eq!(found.as_ref().map_or(0, |found| found.candidates as usize), live.len());
                    prop_assert_eq!(found.map(|found| found.name.to_string()), live.into_iter().max().map(|(_, name)| name));
                }
            }
        }

        #[test]
        fn bounds_hold(steps in proptest::collection::vec((any::<u8>(), 0_u8..9, 0_u64..4), 0..400)) {
            let mut claims = Claims::new(20, RandomState::with_seeds(1, 2, 3, 4));
            for (now, (last, name, ttl)) in (0..).zip(steps) {
                claims.put(addr(last), Asker::HOST, &format!("{name}.example").into(), at(now), at(now + ttl));
                prop_assert!(claims.len() <= 20 && claims.slots.len() <= 20);
                prop_assert_eq!(claims.chain(addr(last)).count() > 0, true);
            }
        }
    }
}
