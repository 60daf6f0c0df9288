//! From a key's hash to its place in the slab: open addressing with linear probing, eight bytes a slot.
//!
//! A slot holds 32 bits of the hash and the place, so that one cache line answers most look-ups, a batch of them can be
//! loaded at once, and neither probing nor growing touches an entry. A general table's look-up takes two dependent
//! misses before the entry's own, and its branches keep the misses of a batch from overlapping.

/// Place and tag of nothing.
const EMPTY: u64 = 0;
const PLACE_BITS: u32 = 32;
const FIRST_SLOTS: usize = 1024;

/// The index.
#[derive(Debug)]
pub(super) struct Index {
    /// Tag in the upper half, place plus one in the lower.
    slots: Vec<u64>,
    len: usize,
    /// Slots that the expected number of places needs: doubling stops there first.
    enough: usize,
}

/// The bits of a hash that a slot holds; they also give the slot.
fn tag_of(hash: u64) -> u64 {
    hash >> PLACE_BITS
}

fn place_of(slot: u64) -> Option<u32> {
    (slot as u32).checked_sub(1)
}

impl Index {
    /// An index that is three quarters full with `most` places, and can grow beyond. It begins small, so that few
    /// places lie close together.
    pub(super) fn new(most: usize) -> Self {
        let enough = slots_for(most);
        Self { slots: vec![EMPTY; enough.min(FIRST_SLOTS)], len: 0, enough }
    }

    /// Where a tag's probing begins: its share of the range (Lemire 2016, "fastrange").
    #[inline]
    fn home(&self, tag: u64) -> usize {
        ((tag * self.slots.len() as u64) >> PLACE_BITS) as usize
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    /// Loads the slot where a hash's probing begins.
    #[inline]
    pub(super) fn touch(&self, hash: u64) -> u64 {
        self.slots[self.home(tag_of(hash))]
    }

    /// The first place with the hash's tag for which `is` holds.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = tag_of(hash);
        let mut at = self.home(tag);
        while self.slots[at] != EMPTY {
            if tag_of(self.slots[at]) == tag
                && let Some(place) = place_of(self.slots[at])
                && is(place)
            {
                return Some(place);
            }
            at = self.after(at);
        }
        None
    }

    /// Adds a place that is not there yet.
    pub(super) fn insert(&mut self, hash: u64, place: u32) {
        self.len += 1;
        if self.slots.len() < slots_for(self.len) {
            self.grow();
        }
        self.put(tag_of(hash) << PLACE_BITS | (u64::from(place) + 1));
    }

    fn put(&mut self, slot: u64) {
        let mut at = self.home(tag_of(slot));
        while self.slots[at] != EMPTY {
            at = self.after(at);
        }
        self.slots[at] = slot;
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        let doubled = old.len() * 2;
        let length = if old.len() < self.enough { doubled.min(self.enough) } else { doubled };
        self.slots = vec![EMPTY; length.max(slots_for(self.len))];
        old.into_iter().filter(|slot| *slot != EMPTY).for_each(|slot| self.put(slot));
    }

    /// Takes a place out and moves up what probed past it (Knuth, TAOCP 3, 6.4, algorithm R).
    pub(super) fn remove(&mut self, hash: u64, place: u32) {
        let wanted = tag_of(hash) << PLACE_BITS | (u64::from(place) + 1);
        let mut hole = self.home(tag_of(hash));
        while self.slots[hole] != wanted {
            if self.slots[hole] == EMPTY {
                return;
            }
            hole = self.after(hole);
        }
        self.len -= 1;
        let mut at = self.after(hole);
        while self.slots[at] != EMPTY {
            let home = self.home(tag_of(self.slots[at]));
            if self.distance(home, at) >= self.distance(hole, at) {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.slots[hole] = EMPTY;
    }

    /// Steps from one slot forward to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        if from <= to { to - from } else { to + self.slots.len() - from }
    }
}

/// Slots for `count` places: a third more, and one that ends every probing.
fn slots_for(count: usize) -> usize {
    count.saturating_add(count / 3).saturating_add(8)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, hash_map::Entry};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Beside a map: hashes from a few values, so that tags collide and probing wraps around.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0u64..40, 0u32..40, any::<bool>()), 1..400), room in 0usize..30) {
            let (mut index, mut map) = (Index::new(room), HashMap::new());
            for (number, place, is_added) in steps {
                let hash = number.wrapping_mul(0x0fff_ffff_0000_0000) | number;
                if !is_added {
                    if let Some(hash) = map.remove(&place) {
                        index.remove(hash, place);
                    }
                } else if let Entry::Vacant(vacant) = map.entry(place) {
                    vacant.insert(hash);
                    index.insert(hash, place);
                }
                prop_assert_eq!(index.len, map.len());
                for (place, hash) in &map {
                    prop_assert_eq!(index.find(*hash, |found| found == *place), Some(*place));
                }
                prop_assert_eq!(index.find(hash, |found| !map.contains_key(&found)), None);
            }
        }
    }
}
