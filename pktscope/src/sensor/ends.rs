//! Reports of sockets' ends that found the ring full: the kernel keeps them in a map until they are read here.

use std::{io, os::fd::AsFd as _};

use aya::maps::{HashMap, IterableMap as _, MapData};
use pktscope_common::record::{EndKey, SocketRecord};

use super::{
    linger::Lingering,
    ring::{self, RingCounts},
    sys,
};
use crate::core::event::Event;

/// A record as the ring would have held it.
type Bytes = [u8; size_of::<SocketRecord>()];

/// The kept reports' reader.
pub(super) struct KeptEnds {
    table: HashMap<MapData, EndKey, Bytes>,
    /// Reports that had been kept or lost when the table was last read.
    told: u64,
    keys: Vec<EndKey>,
    values: Vec<Bytes>,
}

impl KeptEnds {
    pub(super) fn new(table: HashMap<MapData, EndKey, Bytes>) -> Self {
        Self { table, told: 0, keys: Vec::new(), values: Vec::new() }
    }

    /// Moves what is kept to `events`. `told` is how many reports have been kept or lost so far: where that has not
    /// changed there is nothing to read, unless `is_due`, for a report that was counted and not yet there the last time.
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
        let entries = sys::lookup_all(self.table.map().fd().as_fd(), &mut self.keys, &mut self.values)?;
        self.told = told;
        for (key, value) in self.keys[..entries].iter().zip(&self.values) {
            if is_whole(value) {
                ring::take(value, counts, lingering, events);
                // What is gone already was read.
                let _ = self.table.remove(key);
            }
        }
        // A burst's room is given back.
        (self.keys, self.values) = (Vec::new(), Vec::new());
        Ok(())
    }
}

/// Whether the kernel has filled a record in: `is_whole` is its last field.
fn is_whole(record: &Bytes) -> bool {
    record.last_chunk::<{ size_of::<u32>() }>().is_some_and(|bytes| *bytes != [0; 4])
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn a_record_is_whole_once_its_last_field_says_so() {
        assert_eq!(offset_of!(SocketRecord, is_whole) + size_of::<u32>(), size_of::<SocketRecord>());
        let mut record = [1; size_of::<SocketRecord>()];
        assert!(is_whole(&record));
        record[offset_of!(SocketRecord, is_whole)..].fill(0);
        assert!(!is_whole(&record));
    }
}
