//! The ring buffer's reader: bytes to events; whatever does not decode is counted.

use std::borrow::Borrow;

use aya::maps::{MapData, RingBuf};

use super::linger::Lingering;
use crate::core::{
    decode::{self, DecodeError, Record},
    event::Event,
};

/// Records read in one call at most, so that a full ring never starves the caller's other work.
pub(super) const MAX_RECORDS: usize = 4_096;

/// What became of the records read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RingCounts {
    /// Records read.
    pub(super) read: u64,
    /// Of them: shorter than their kind needs, or than they say.
    pub(super) torn: u64,
    /// Of them: of a kind or a version that is not known.
    pub(super) unknown: u64,
}

/// Moves records to `events`; gives how many it read. More may wait where it is [`MAX_RECORDS`].
pub(super) fn drain<T: Borrow<MapData>>(
    ring: &mut RingBuf<T>,
    counts: &mut RingCounts,
    lingering: &mut Lingering,
    events: &mut Vec<Event>,
) -> usize {
    for read in 0..MAX_RECORDS {
        let Some(record) = ring.next() else { return read };
        take(&record, counts, lingering, events);
    }
    MAX_RECORDS
}

/// Moves one record to `events`.
pub(super) fn take(record: &[u8], counts: &mut RingCounts, lingering: &mut Lingering, events: &mut Vec<Event>) {
    counts.read += 1;
    match decode::record(record) {
        Ok(Record::Event(event)) => lingering.pass(event, events),
        Ok(Record::Lingering(report)) => lingering.hold(report, events),
        Ok(Record::Lingered(lingered)) => lingering.settle(lingered, events),
        Err(DecodeError::TooShort) => counts.torn += 1,
        Err(DecodeError::UnknownKind | DecodeError::UnknownVersion) => counts.unknown += 1,
    }
}
