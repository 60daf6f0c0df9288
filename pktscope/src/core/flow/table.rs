//! Where flows live: 160 bytes each in one slab, and where to find them: 12 bytes each in an index. The caller's own
//! state of a flow lies apart, so that it costs nothing where it is the default.
//!
//! A slab, because the wheels' lists need places that do not move. What every packet touches comes first in an entry:
//! 128 of its bytes.

use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;
use hashbrown::HashMap;

use super::{
    End, FlowKey, Volume,
    expiry::{Linked, Links, NONE},
    history::History,
    index::Index,
    tcp::{Connection, EndState, Losses, TcpState},
};

/// What a flow is for time-outs and eviction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Class {
    /// TCP whose handshake is not complete.
    #[default]
    HalfOpen,
    /// Anything else that only one side has sent on.
    OneWay,
    /// Both sides take part.
    Confirmed,
    /// TCP that is over and absorbs late segments.
    Closed,
}

/// Flags of an entry.
pub(super) mod bits {
    /// The low end is the initiator.
    pub(crate) const LOW_IS_SOURCE: u8 = 0x01;
    /// Grew since the last report.
    pub(crate) const CHANGED: u8 = 0x02;
    /// Split off by the active time-out; starts with its next packet.
    pub(crate) const DORMANT: u8 = 0x04;
    /// Held in the table.
    pub(crate) const LIVE: u8 = 0x08;
    /// The message that began it was ICMP, its type and code are kept.
    pub(crate) const HAS_ICMP: u8 = 0x10;
    /// The caller's state of it is not the default.
    pub(crate) const HAS_USER: u8 = 0x20;
    /// Where the class is.
    pub(crate) const CLASS_SHIFT: u32 = 6;
}

/// A flow. Index 0 of each pair is the initiator.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Entry {
    pub(super) addrs: [[u64; 2]; 2],
    pub(super) ports: [u16; 2],
    pub(super) transport: u8,
    bits: u8,
    pub(super) ends: [EndState; 2],
    pub(super) last_seen: u64,
    pub(super) ip_bytes: [u64; 2],
    pub(super) tcp: TcpState,
    pub(super) payload_bytes: [u64; 2],
    packets: [u32; 2],
    pub(super) losses: Option<Box<Losses>>,
    // Few packets come further than here: 128 bytes.
    pub(super) links: Links,
    pub(super) history: History,
    pub(super) started_at: u64,
    pub(super) id: u64,
}

const _: () = assert!(size_of::<Entry>() == 160);

impl Default for Entry {
    fn default() -> Self {
        Self {
            addrs: Default::default(),
            ports: [0; 2],
            transport: 0,
            bits: 0,
            ends: Default::default(),
            last_seen: 0,
            ip_bytes: [0; 2],
            tcp: TcpState::new(),
            payload_bytes: [0; 2],
            packets: [0; 2],
            links: Links::default(),
            history: History::default(),
            started_at: 0,
            id: 0,
            losses: None,
        }
    }
}

impl Entry {
    #[inline]
    pub(super) fn is(&self, key: &FlowKey) -> bool {
        self.addrs == key.addrs
            && self.ports == key.ports
            && self.transport == key.transport
            && self.bits & bits::LIVE != 0
    }

    pub(super) fn key(&self) -> FlowKey {
        FlowKey { addrs: self.addrs, ports: self.ports, transport: self.transport }
    }

    pub(super) fn has(&self, bit: u8) -> bool {
        self.bits & bit != 0
    }

    pub(super) fn set(&mut self, bit: u8, is_set: bool) {
        if is_set {
            self.bits |= bit;
        } else {
            self.bits &= !bit;
        }
    }

    /// 0 where `end` is the initiator, else 1.
    #[inline]
    pub(super) fn side_of(&self, end: End) -> usize {
        usize::from((end == End::Low) != self.has(bits::LOW_IS_SOURCE))
    }

    pub(super) fn source_end(&self) -> End {
        if self.has(bits::LOW_IS_SOURCE) { End::Low } else { End::High }
    }

    #[inline]
    pub(super) fn add(&mut self, side: usize, packets: u32, ip_bytes: u32, payload_bytes: u32) {
        self.ip_bytes[side] += u64::from(ip_bytes);
        self.payload_bytes[side] += u64::from(payload_bytes);
        let (sum, has_carried) = self.packets[side].overflowing_add(packets);
        self.packets[side] = sum;
        if has_carried {
            self.tcp.packets_high = self.tcp.packets_high.saturating_add(1 << (4 * side));
        }
    }

    fn packets_of(&self, side: usize) -> u64 {
        u64::from(self.tcp.packets_high >> (4 * side) & 0x0f) << 32 | u64::from(self.packets[side])
    }

    /// Packets both ways.
    #[inline]
    pub(super) fn packets(&self) -> u64 {
        self.packets_of(0) + self.packets_of(1)
    }

    pub(super) fn volume(&self, side: usize) -> Volume {
        Volume {
            ip_bytes: self.ip_bytes[side],
            packets: self.packets_of(side),
            payload_bytes: self.payload_bytes[side],
        }
    }

    /// Begins the flow's continuation: nothing counted, nothing of its history.
    pub(super) fn split(&mut self) {
        (self.ip_bytes, self.payload_bytes, self.packets) = ([0; 2], [0; 2], [0; 2]);
        self.tcp.packets_high = 0;
        self.losses = None;
        self.set(bits::DORMANT, true);
    }

    pub(super) fn class(&self) -> Class {
        match self.bits >> bits::CLASS_SHIFT {
            0 => Class::HalfOpen,
            1 => Class::OneWay,
            2 => Class::Confirmed,
            _ => Class::Closed,
        }
    }

    pub(super) fn set_class(&mut self, class: Class) {
        self.bits = self.bits & !(0x03 << bits::CLASS_SHIFT) | (class as u8) << bits::CLASS_SHIFT;
    }

    #[inline]
    pub(super) fn connection(&mut self, now: u64) -> Connection<'_> {
        Connection {
            now,
            started_at: &self.started_at,
            tcp: &mut self.tcp,
            ends: &mut self.ends,
            history: &mut self.history,
            losses: &mut self.losses,
        }
    }
}

/// Flows whose room is reserved at once; beyond, the slab doubles.
const MOST_RESERVED: usize = 1 << 22;

/// The slab and its index.
#[derive(Debug)]
pub(super) struct Table<U> {
    entries: Vec<Entry>,
    /// By place, where it is not the default.
    users: HashMap<u32, U, RandomState>,
    index: Index,
    hasher: RandomState,
    /// First free entry; the rest by `links.next`.
    free: u32,
    len: usize,
}

impl<U> Linked for Table<U> {
    fn links(&mut self, index: u32) -> &mut Links {
        &mut self.entries[index as usize].links
    }
}

fn hash_of(hasher: &RandomState, key: &FlowKey) -> u64 {
    let mut state = hasher.build_hasher();
    for words in key.addrs {
        state.write_u64(words[0]);
        state.write_u64(words[1]);
    }
    let [low, high] = key.ports.map(u64::from);
    state.write_u64(low << 32 | high << 8 | u64::from(key.transport));
    state.finish()
}

impl<U: Default + PartialEq> Table<U> {
    /// An empty table for `max_flows`. Their room is reserved at once: memory is used only as flows come, and none has
    /// to move.
    pub(super) fn new(seed: u64, max_flows: usize) -> Self {
        let hasher = RandomState::with_seeds(seed, seed.rotate_left(17), !seed, seed.rotate_left(41));
        Self {
            entries: Vec::with_capacity(max_flows.min(MOST_RESERVED)),
            users: HashMap::with_hasher(hasher.clone()),
            index: Index::new(max_flows),
            hasher,
            free: NONE,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Entries ever made: places `0..slots()` may hold a flow.
    pub(super) fn slots(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn hash(&self, key: &FlowKey) -> u64 {
        hash_of(&self.hasher, key)
    }

    #[inline]
    pub(super) fn entry(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }

    #[inline]
    pub(super) fn entry_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[index as usize]
    }

    /// The flow of a key.
    #[inline]
    pub(super) fn find(&self, hash: u64, key: &FlowKey) -> Option<u32> {
        self.index.find(hash, |index| self.entries[index as usize].is(key))
    }

    /// Loads where a look-up of a hash begins.
    #[inline]
    pub(super) fn touch_index(&self, hash: u64) -> u64 {
        self.index.touch(hash)
    }

    /// Where the flow of a hash most likely is, without a look at it.
    #[inline]
    pub(super) fn guess(&self, hash: u64) -> u32 {
        self.index.find(hash, |_| true).unwrap_or(NONE)
    }

    /// Loads what the next packet of an entry will touch.
    #[inline]
    pub(super) fn touch(&self, index: u32) -> u64 {
        match self.entries.get(index as usize) {
            Some(entry) => entry.addrs[0][1] ^ entry.ip_bytes[1] ^ u64::from(entry.packets[1]),
            None => 0,
        }
    }

    /// Changes the caller's state of an entry, which takes no room while it is the default.
    pub(super) fn change_user<T>(&mut self, index: u32, change: impl FnOnce(&mut U) -> T) -> T {
        if !self.entry(index).has(bits::HAS_USER) {
            let mut user = U::default();
            let changed = change(&mut user);
            if user != U::default() {
                self.entry_mut(index).set(bits::HAS_USER, true);
                self.users.insert(index, user);
            }
            return changed;
        }
        let user = self.users.entry(index).or_default();
        let changed = change(user);
        if *user == U::default() {
            self.drop_user(index);
        }
        changed
    }

    fn drop_user(&mut self, index: u32) {
        if self.entry(index).has(bits::HAS_USER) {
            self.entry_mut(index).set(bits::HAS_USER, false);
            self.users.remove(&index);
        }
    }

    /// Adds a flow that is not there yet.
    pub(super) fn insert(&mut self, hash: u64, key: &FlowKey) -> u32 {
        let index = self.allocate();
        let entry = &mut self.entries[index as usize];
        (entry.addrs, entry.ports, entry.transport, entry.bits) = (key.addrs, key.ports, key.transport, bits::LIVE);
        self.index.insert(hash, index);
        self.len += 1;
        index
    }

    fn allocate(&mut self) -> u32 {
        if self.free == NONE {
            self.entries.push(Entry::default());
            return self.entries.len() as u32 - 1;
        }
        let index = self.free;
        self.free = std::mem::take(self.links(index)).next;
        index
    }

    /// Forgets a flow that is in no list.
    pub(super) fn remove(&mut self, index: u32) {
        let hash = self.hash(&self.entries[index as usize].key());
        self.index.remove(hash, index);
        self.drop_user(index);
        self.entries[index as usize] = Entry::default();
        self.links(index).next = self.free;
        self.free = index;
        self.len -= 1;
    }
}
