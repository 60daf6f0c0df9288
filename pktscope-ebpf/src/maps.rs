//! Every map: its size, who writes it, who reads it.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE, bpf_spin_lock},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
    helpers::generated::bpf_sk_storage_get,
    macros::btf_map,
};
use pktscope_common::{
    counters::COUNTER_SLOTS,
    knobs::settings,
    limits::{
        DEVICE_ENTRIES, FRAME_SOCKET_ENTRIES, INTERFACE_ENTRIES, KEPT_ENTRIES, OVERFLOW_ENTRIES, PEER_ENTRIES,
        RING_BYTES, SENDER_ENTRIES, SLOT_ENTRIES,
    },
    record::{KeptKey, KeptRecord},
    state::{Counts, DeviceState, PeerKey, PeerState, SocketState, Stamp},
};

/// `BPF_F_NO_PREALLOC`: entries are allocated when they are needed.
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
const STORAGE_FLAGS: usize = (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize;

/// A socket storage map whose values an accepted socket inherits from its listener.
#[repr(C)]
pub struct ClonedStorage<T: 'static> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; STORAGE_FLAGS],
}

// SAFETY: the pointers are a description for the loader and are never followed.
unsafe impl<T> Sync for ClonedStorage<T> {}

impl<T> ClonedStorage<T> {
    const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }

    /// The socket's value; null where it has none. `flags` may ask to create a zeroed one.
    #[inline(always)]
    pub fn get(&self, sk: *mut c_void, flags: u64) -> *mut T {
        let map = core::ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the verifier checks that `sk` is a socket or null, and that the result is checked for null.
        unsafe { bpf_sk_storage_get(map, sk, core::ptr::null_mut(), flags) }.cast()
    }
}

/// State of every socket; lives and dies with it. Written by every program, read by sweeps.
#[btf_map]
pub static SOCKETS: ClonedStorage<SocketState> = ClonedStorage::new();

/// States of TCP sockets, by the low bits of their cookies; see [`crate::slot`]. Written by every program.
#[btf_map]
pub static SLOTS: Array<Slot, { SLOT_ENTRIES as usize }> = Array::new();

/// Room for the state of a socket.
///
/// Four cache lines. An array's first element begins 8 bytes before a line (include/linux/bpf.h, `bpf_array`), so the key and
/// the state's first bytes share one, and the state lies as it does in storage.
#[repr(C)]
pub struct Slot {
    pub lock: bpf_spin_lock,
    reserved: u32,
    /// The socket's cookie; 0 where the slot is free.
    pub key: u64,
    pub state: SocketState,
    rest: [u64; 7],
}

const _: () = assert!(size_of::<Slot>() == 256);

/// Peers of unconnected sockets beyond the first, handshakes, kernel sockets. Written by packets, read and emptied by the
/// agent.
#[btf_map]
pub static PEERS: HashMap<PeerKey, PeerState, { PEER_ENTRIES as usize }, NO_PREALLOC> = HashMap::new();

/// The last new peer that an unconnected socket sent to: its sender is stamped when the system call returns.
#[btf_map]
pub static NEW_PEERS: ClonedStorage<PeerKey> = ClonedStorage::new();

/// Totals of peers that `PEERS` had no room for, by socket cookie. Written by packets, read by the agent.
#[btf_map]
pub static OVERFLOW: HashMap<u64, Counts, { OVERFLOW_ENTRIES as usize }, NO_PREALLOC> = HashMap::new();

/// The last sender on a socket, by its cookie, where tracing programs cannot reach its state. Written by who sends, read
/// when the socket is reported.
#[btf_map]
pub static SENDERS: LruHashMap<u64, Stamp, { SENDER_ENTRIES as usize }> = LruHashMap::new();

/// MTU by network namespace cookie (upper half: its low 32 bits) and interface (lower half). Written by the agent.
#[btf_map]
pub static MTUS: HashMap<u64, u32, { INTERFACE_ENTRIES as usize }, NO_PREALLOC> = HashMap::new();

/// Devices of the agent's network namespace, by interface index: what they carry beside inet sockets' packets. Entries are
/// made and removed by the agent, counted in by `tc_egress`.
#[btf_map]
pub static DEVICES: PerCpuHashMap<u32, DeviceState, { DEVICE_ENTRIES as usize }, NO_PREALLOC> = PerCpuHashMap::new();

/// The number of the last sweep that came by a packet socket, by its cookie: no hook tells of its end. Written by sweeps,
/// read and emptied by the agent.
#[btf_map]
pub static FRAME_SOCKETS: HashMap<u64, u32, { FRAME_SOCKET_ENTRIES as usize }, NO_PREALLOC> = HashMap::new();

/// Records for the agent.
#[btf_map]
pub static RECORDS: RingBuf<u64, { RING_BYTES as usize }> = RingBuf::new();

/// Sockets' last records that found the ring full. Written where they end, read and emptied by the agent.
#[btf_map]
pub static KEPT: HashMap<KeptKey, KeptRecord, { KEPT_ENTRIES as usize }, NO_PREALLOC> = HashMap::new();

/// Losses by reason; see [`pktscope_common::counters`]. Written by every program, read by the agent.
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { COUNTER_SLOTS as usize }> = PerCpuArray::new();

/// What the agent may change while the programs run.
#[btf_map]
pub static SETTINGS: Array<u32, { settings::COUNT as usize }> = Array::new();
