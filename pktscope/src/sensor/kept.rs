//! Sockets' last records that found the ring full: the kernel keeps them in a map until they are read here.

use std::{io, os::fd::AsFd as _};

use aya::maps::{HashMap, IterableMap as _, MapData};
use pktscope_common::record::{KeptKey, KeptRecord};

use super::{
    linger::Lingering,
    ring::{self, RingCounts},
    sys,
};
use crate::core::event::Event;

/// The kept records' reader.
pub(super) struct Kept {
    table: HashMap<MapData, KeptKey, KeptRecord>,
    /// Records that had been kept or lost when the table was last read.
    told: u64,
}

impl Kept {
    pub(super) fn new(table: HashMap<MapData, KeptKey, KeptRecord>) -> Self {
        Self { table, told: 0 }
    }

    /// Moves what is kept to `events`, oldest first. `told` is how many records have been kept or lost so far: where that
    /// has not changed there is nothing to read, unless `is_due`, for a record that was counted and not yet there the
    /// last time.
    ///
    /// # Errors
    /// The system's, where the table cannot be read.
    pub(super) fn read(
        &mut self,
        told: u64,
        is_due: bool,
        counts: &mut RingCounts,
        lingering: &mut Lingering,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        if told == 0 || (told == self.told && !is_due) {
            return Ok(());
        }
        let (mut keys, mut values): (Vec<KeptKey>, Vec<KeptRecord>) = (Vec::new(), Vec::new());
        let entries = sys::lookup_all(self.table.map().fd().as_fd(), &mut keys, &mut values)?;
        self.told = told;
        let mut whole: Vec<_> =
            keys.iter().zip(&values).take(entries).filter(|(_, value)| value.is_whole != 0).collect();
        whole.sort_unstable_by_key(|(key, _)| key.at);
        for (key, value) in whole {
            let bytes: Vec<u8> = value.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            ring::take(&bytes, counts, lingering, events);
            // What is gone already was read.
            let _ = self.table.remove(key);
        }
        Ok(())
    }
}
