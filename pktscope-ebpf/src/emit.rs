//! The only place that reserves and submits records; counts every one that finds no room.

use core::{ffi::c_void, mem::MaybeUninit, ptr::addr_of_mut};

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_ringbuf_query,
};
use pktscope_common::{
    counters::Counter,
    record::{KEPT_BYTES, KeptKey, KeptRecord, RECORD_VERSION, RecordHeader, RecordKind},
};

use crate::{
    kernel,
    maps::{COUNTERS, KEPT, RECORDS},
};

/// Adds to a loss counter.
#[inline(always)]
pub fn count(counter: Counter, amount: u64) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot is this CPU's own; an interrupted addition loses at most one count.
        unsafe { *slot += amount };
    }
}

/// `BPF_RB_AVAIL_DATA` and `BPF_RB_RING_SIZE` of include/uapi/linux/bpf.h.
const AVAILABLE_DATA: u64 = 0;
const RING_SIZE: u64 = 1;

/// Whether less than half of the ring waits to be read. Payloads are large, and names can be had otherwise: the other half
/// is for what tells of processes and bytes.
#[inline(always)]
pub fn has_room_for_payload() -> bool {
    let ring = core::ptr::from_ref(&RECORDS).cast_mut().cast::<c_void>();
    // SAFETY: the helper takes any ring.
    unsafe { bpf_ringbuf_query(ring, AVAILABLE_DATA) < bpf_ringbuf_query(ring, RING_SIZE) / 2 }
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

/// The same for a record that cannot be repeated: where the ring is full it is kept until the agent finds it. False where
/// there is no room for that either.
#[inline(always)]
pub fn record_or_keep<T: 'static>(cookie: u64, loss: Counter, fill: impl Fn(&mut MaybeUninit<T>)) -> bool {
    if record::<T>(Counter::Kept, &fill) || keep::<T>(cookie, &fill) {
        return true;
    }
    count(loss, 1);
    false
}

/// What a kept record holds before it is filled in.
// SAFETY: integers only.
static UNFILLED: KeptRecord = unsafe { MaybeUninit::zeroed().assume_init() };

#[inline(always)]
fn keep<T: 'static>(cookie: u64, fill: impl Fn(&mut MaybeUninit<T>)) -> bool {
    const { assert!(size_of::<T>() <= KEPT_BYTES && align_of::<T>() == align_of::<KeptRecord>()) };
    let key = KeptKey { cookie, at: kernel::now() };
    if KEPT.insert(&key, &UNFILLED, u64::from(BPF_NOEXIST)).is_err() {
        return false;
    }
    let Some(slot) = KEPT.get_ptr_mut(&key) else { return false };
    // SAFETY: the entry is this run's alone until the agent sees that it is filled in; volatile, so that this comes last.
    unsafe {
        fill(&mut *slot.cast());
        addr_of_mut!((*slot).is_whole).write_volatile(1);
    }
    true
}
