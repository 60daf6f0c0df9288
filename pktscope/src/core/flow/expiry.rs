//! When to look at a flow again: a timer wheel of intrusive lists, so that a tick costs what is due and no more.
//!
//! A packet does not move its flow. A flow is looked at when its slot comes, and put back where its real deadline is:
//! at most one look a flow for each of its time-outs, none for flows that are not due.

use super::super::time::BootTime;

/// No entry.
pub(super) const NONE: u32 = u32::MAX;
/// In `previous`: the entry heads the slot in the low bits.
const HEAD: u32 = 1 << 31;
/// 2^30 ns, about 1.07 s, is a slot: a shift instead of a division. Deadlines are exact nevertheless: a slot only says
/// when to look.
const SLOT_SHIFT: u32 = 30;
const SLOTS: usize = 512;
/// Deadlines beyond this are looked at early and put back.
const HORIZON: u64 = SLOTS as u64 - 12;

/// An entry's place in a slot's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Links {
    pub(super) previous: u32,
    pub(super) next: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self { previous: NONE, next: NONE }
    }
}

/// Whatever holds the links.
pub(super) trait Linked {
    fn links(&mut self, index: u32) -> &mut Links;
}

/// Heads of the slots' lists and the tick they are relative to.
#[derive(Debug)]
pub(super) struct Wheel {
    heads: Vec<u32>,
    occupied: [u64; SLOTS / 64],
    /// Every slot up to this tick has been looked at.
    done: u64,
    count: usize,
}

fn tick_of(at: BootTime) -> u64 {
    at.0 >> SLOT_SHIFT
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self { heads: vec![NONE; SLOTS], occupied: [0; SLOTS / 64], done: 0, count: 0 }
    }

    /// Entries in it.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Puts an entry where it is looked at once `due` has passed.
    pub(super) fn insert(&mut self, entries: &mut impl Linked, index: u32, due: BootTime) {
        // One slot later than the deadline's own, so that the whole slot has passed.
        let tick = (tick_of(due) + 1).clamp(self.done + 1, self.done + HORIZON);
        let slot = (tick % SLOTS as u64) as usize;
        let head = self.heads[slot];
        *entries.links(index) = Links { previous: HEAD | slot as u32, next: head };
        if head != NONE {
            entries.links(head).previous = index;
        }
        self.heads[slot] = index;
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.count += 1;
    }

    /// Takes an entry out, wherever it is.
    pub(super) fn remove(&mut self, entries: &mut impl Linked, index: u32) {
        let links = std::mem::take(entries.links(index));
        if links.next != NONE {
            entries.links(links.next).previous = links.previous;
        }
        if links.previous & HEAD == 0 {
            entries.links(links.previous).next = links.next;
        } else {
            self.set_head((links.previous & !HEAD) as usize, links.next);
        }
        self.count -= 1;
    }

    fn set_head(&mut self, slot: usize, head: u32) {
        self.heads[slot] = head;
        if head == NONE {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
    }

    /// Starts the wheel at a time, so that the first look does not walk all slots.
    pub(super) fn start(&mut self, now: BootTime) {
        if self.count == 0 {
            self.done = self.done.max(tick_of(now));
        }
    }

    /// Moves up to `now` and takes one entry that is due; `None` when no more are.
    ///
    /// The entry is out of the wheel: it is put back with [`Self::insert`] or forgotten.
    pub(super) fn pop_due(&mut self, entries: &mut impl Linked, now: BootTime) -> Option<u32> {
        let target = tick_of(now);
        while self.done < target {
            if self.count == 0 {
                self.done = target;
                return None;
            }
            // Slots are visited in order; after a whole turn each has been seen.
            let from = (self.done + 1).max(target.saturating_sub(SLOTS as u64 - 1));
            let slot = (from % SLOTS as u64) as usize;
            match self.heads[slot] {
                NONE => self.done = from,
                index => {
                    self.done = from - 1;
                    self.remove(entries, index);
                    return Some(index);
                }
            }
        }
        None
    }

    /// The entry that is due first, left where it is.
    pub(super) fn first(&self) -> Option<u32> {
        let start = ((self.done + 1) % SLOTS as u64) as usize;
        let words = self.occupied.len();
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            } else if step == words {
                bits &= !(u64::MAX << (start % 64));
            }
            if bits != 0 {
                return Some(self.heads[word * 64 + bits.trailing_zeros() as usize]);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Linked for Vec<Links> {
        fn links(&mut self, index: u32) -> &mut Links {
            &mut self[index as usize]
        }
    }

    fn seconds(seconds: u64) -> BootTime {
        BootTime(seconds << SLOT_SHIFT)
    }

    fn drain(wheel: &mut Wheel, entries: &mut Vec<Links>, now: BootTime) -> Vec<u32> {
        std::iter::from_fn(|| wheel.pop_due(entries, now)).collect()
    }

    #[test]
    fn nothing_comes_before_its_time_and_everything_after() {
        let (mut wheel, mut entries) = (Wheel::new(), vec![Links::default(); 4]);
        wheel.start(seconds(1000));
        for (index, due) in [(0, 1005), (1, 1005), (2, 1100), (3, 900)] {
            wheel.insert(&mut entries, index, seconds(due));
        }
        assert_eq!(drain(&mut wheel, &mut entries, seconds(1001)), [3]);
        assert_eq!(drain(&mut wheel, &mut entries, seconds(1005)), [0_u32; 0]);
        assert_eq!(wheel.first(), Some(1));
        wheel.remove(&mut entries, 1);
        assert_eq!(drain(&mut wheel, &mut entries, seconds(1006)), [0]);
        assert_eq!(drain(&mut wheel, &mut entries, seconds(1_000_000)), [2]);
        assert_eq!((wheel.len(), wheel.first()), (0, None));
    }

    proptest! {
        #[test]
        fn every_entry_is_due_once(steps in prop::collection::vec((0u64..2000, 0u64..700), 1..200)) {
            let (mut wheel, mut entries) = (Wheel::new(), Vec::new());
            let (mut now, mut due_at, mut popped) = (seconds(5), Vec::new(), 0);
            wheel.start(now);
            for (ahead, forward) in steps {
                entries.push(Links::default());
                let due = BootTime(now.0 + (ahead << 29));
                due_at.push(due);
                wheel.insert(&mut entries, due_at.len() as u32 - 1, due);
                now = BootTime(now.0 + (forward << 28));
                while let Some(index) = wheel.pop_due(&mut entries, now) {
                    if due_at[index as usize] > now {
                        wheel.insert(&mut entries, index, due_at[index as usize]);
                    } else {
                        popped += 1;
                    }
                }
                // One slot late at most.
                let overdue = due_at.iter().filter(|due| due.0 + (2 << SLOT_SHIFT) < now.0).count();
                prop_assert!(overdue <= popped);
                prop_assert_eq!(popped + wheel.len(), due_at.len());
            }
        }
    }
}
