//! Where a socket's state is: in a slot of an array, or in storage of the socket's own.
//!
//! Storage is allocated with a socket and freed with it after a grace period; for a short connection that is much. The slots
//! are there already. A socket's cookie tells its slot (net/core/sock_diag.c, `__sock_gen_cookie`), and the next socket has the
//! next one, so that two want the same only where one of them lives long: the second has storage. TCP only, whose end is told.

use core::{
    ffi::c_void,
    ptr::{addr_of, addr_of_mut, null_mut, read_volatile},
};

use aya_ebpf::helpers::generated::{bpf_spin_lock, bpf_spin_unlock};
use pktscope_common::{
    knobs::{features, settings},
    limits::SLOT_ENTRIES,
    state::SocketState,
};

use crate::{
    kernel,
    maps::{SETTINGS, SLOTS, SOCKETS, Slot},
};

/// Slots less one: a mask; set by the agent before loading.
#[unsafe(no_mangle)]
static SLOT_MASK: u64 = SLOT_ENTRIES as u64 - 1;

/// The slot that a socket has or would have; null only for the verifier.
#[inline(always)]
fn at(cookie: u64) -> *mut Slot {
    // SAFETY: reads a static; volatile, because the value is the agent's and not the one written above.
    let mask = unsafe { read_volatile(addr_of!(SLOT_MASK)) };
    SLOTS.get_ptr_mut((cookie & mask) as u32).unwrap_or(null_mut())
}

/// The state of a socket in its slot; null where it has none there.
#[inline(always)]
pub fn find(cookie: u64) -> *mut SocketState {
    if !kernel::has_feature(features::SLOTS) || cookie == 0 {
        return null_mut();
    }
    let slot = at(cookie);
    // SAFETY: an element of the map.
    unsafe {
        if slot.is_null() || read_volatile(addr_of!((*slot).key)) != cookie {
            return null_mut();
        }
        addr_of_mut!((*slot).state)
    }
}

/// The state of a socket, wherever it is; null where it has none.
#[inline(always)]
pub fn state(sk: *mut c_void, cookie: u64) -> *mut SocketState {
    let state = find(cookie);
    if state.is_null() { SOCKETS.get(sk, 0) } else { state }
}

/// Whether a new socket gets a slot.
#[inline(always)]
pub fn are_given() -> bool {
    kernel::has_feature(features::SLOTS) && SETTINGS.get(settings::GIVE_SLOTS).copied().unwrap_or(0) != 0
}

/// Takes the slot of a socket and fills it in, with plain loads and stores only; null where another has it. Where it is
/// the socket's already it is left as it is.
#[inline(always)]
pub fn claim(cookie: u64, fill: impl FnOnce(&mut SocketState)) -> *mut SocketState {
    if !kernel::has_feature(features::SLOTS) || cookie == 0 {
        return null_mut();
    }
    let slot = at(cookie);
    if slot.is_null() {
        return null_mut();
    }
    // SAFETY: an element of the map; the helpers take its lock.
    unsafe {
        let state = addr_of_mut!((*slot).state);
        bpf_spin_lock(addr_of_mut!((*slot).lock));
        if (*slot).key == 0 {
            clear(state);
            fill(&mut *state);
            (*state).cookie = cookie;
            // Last, because who finds it has no lock.
            addr_of_mut!((*slot).key).write_volatile(cookie);
        }
        let is_own = (*slot).key == cookie;
        bpf_spin_unlock(addr_of_mut!((*slot).lock));
        if is_own { state } else { null_mut() }
    }
}

/// Zeroes a state word by word, as [`kernel::zeroed`].
///
/// # Safety
/// A state.
#[inline(always)]
unsafe fn clear(state: *mut SocketState) {
    let words = state.cast::<u64>();
    for index in 0..size_of::<SocketState>() / 8 {
        // SAFETY: within the state.
        unsafe { words.add(index).write_volatile(0) };
    }
}

/// Frees the slot of a socket that is no more, if it had one. What still comes adds to nothing that is read: a slot is cleared
/// when it is taken.
#[inline(always)]
pub fn free(cookie: u64) {
    if !kernel::has_feature(features::SLOTS) || cookie == 0 {
        return;
    }
    let slot = at(cookie);
    // SAFETY: an element of the map.
    unsafe {
        if !slot.is_null() && read_volatile(addr_of!((*slot).key)) == cookie {
            addr_of_mut!((*slot).key).write_volatile(0);
        }
    }
}
