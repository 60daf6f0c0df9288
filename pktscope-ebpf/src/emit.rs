//! The only place that reserves and submits records; counts every one that finds no room.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use pktscope_common::{
    counters::Counter,
    record::{RECORD_VERSION, RecordHeader, RecordKind},
};

use crate::{
    kernel,
    maps::{COUNTERS, RECORDS},
};

/// Adds to a loss counter.
#[inline(always)]
pub fn count(counter: Counter, amount: u64) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot is this CPU's own; an interrupted addition loses at most one count.
        unsafe { *slot += amount };
    }
}

/// The header of a record of type `T`.
#[inline(always)]
pub fn header<T>(kind: RecordKind) -> RecordHeader {
    RecordHeader { kind: kind as u16, version: RECORD_VERSION, size: size_of::<T>() as u32, at: kernel::now() }
}

/// Reserves a record, has it filled and submits it without waking the agent, which polls: a wake-up costs more than the
/// record. False where the ring is full, which is counted under `loss`.
#[inline(always)]
pub fn record<T: 'static>(loss: Counter, fill: impl FnOnce(&mut MaybeUninit<T>)) -> bool {
    let Some(mut entry) = RECORDS.reserve_untyped::<T>(0) else {
        count(loss, 1);
        return false;
    };
    fill(&mut entry);
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    true
}
