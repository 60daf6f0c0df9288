//! Counting. A packet of a connected socket touches the socket's own state and nothing else: no clock, no record, no
//! other map, no parsing.

use core::{
    ffi::c_void,
    mem::offset_of,
    ptr::{addr_of, addr_of_mut, null, null_mut, read_volatile},
};

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::bpf_get_socket_cookie,
};
use pktscope_common::{
    counters::Counter,
    knobs::features,
    state::{Counts, PeerKey, SocketState, Stamp, Tuple, flags, method},
};

use crate::{
    close, emit,
    header::{self, Received, Sent, Way, context, protocol},
    inspect, kernel, lookup, peer,
    size::{MIN_MTU, Size, fast_size, repeated, size},
};

/// `TCP_SYN_SENT` and `TCP_LISTEN` of include/net/tcp_states.h.
const TCP_SYN_SENT: u32 = 2;
const TCP_LISTEN: u32 = 10;

/// Counts a packet that leaves.
#[inline(always)]
pub fn count_sent(skb: *mut __sk_buff) {
    count::<Sent>(skb);
}

/// Counts a packet that arrives.
#[inline(always)]
pub fn count_received(skb: *mut __sk_buff) {
    count::<Received>(skb);
}

#[inline(always)]
fn count<W: Way>(skb: *mut __sk_buff) {
    let sk = context!(skb, __bindgen_anon_2.sk);
    if sk.is_null() {
        return;
    }
    let state = lookup::state_of(skb, sk);
    if state.is_null() {
        return slow::<W>(skb, sk, state);
    }
    // SAFETY: not null, and the verifier knows its size.
    let flags = unsafe { read_volatile(addr_of!((*state).flags)) };
    let wanted = flags & (flags::FAST_TCP | flags::FAST_OTHER | slow_bits::<W>());
    if wanted == flags::FAST_TCP {
        return add_tcp::<W>(skb, state, flags);
    }
    if wanted == flags::FAST_OTHER && is_first_peer::<W>(skb, state) {
        return add_packet::<W>(skb, state, flags);
    }
    if W::IS_SENT && wanted == flags::FAST_TCP | flags::INSPECT_SENT && tcp_headers(skb) == context!(skb, len) {
        // Nothing to inspect in a segment without payload.
        return add_whole::<W>(counts_of(state), context!(skb, len));
    }
    slow::<W>(skb, sk, state);
}

#[inline(always)]
fn counts_of(state: *mut SocketState) -> *mut Counts {
    // SAFETY: `state` is a socket's state.
    unsafe { addr_of_mut!((*state).counts) }
}

/// Adds a packet of a TCP connection. The headers of a super-packet are read where they lie, which is in the packet's
/// linear part, where TCP has just written or read them.
#[inline(always)]
fn add_tcp<W: Way>(skb: *mut __sk_buff, state: *mut SocketState, flags: u32) {
    let segments = context!(skb, gso_segs);
    if segments == 1 {
        return add_whole::<W>(counts_of(state), context!(skb, len));
    }
    let headers = if segments == 0 { 0 } else { tcp_headers(skb) };
    if headers == 0 {
        return add_packet::<W>(skb, state, flags);
    }
    add::<W>(counts_of(state), repeated(context!(skb, len), segments, headers));
}

/// Bytes of the IP and TCP headers of a packet without IP options or extension headers; 0 of any other.
#[inline(always)]
fn tcp_headers(skb: *mut __sk_buff) -> u32 {
    let data = context!(skb, data) as usize as *const u8;
    let end = context!(skb, data_end) as usize as *const u8;
    // SAFETY: every load is behind a comparison with the packet's end, which the verifier demands.
    unsafe {
        if data.add(40) > end {
            return 0;
        }
        if *data == 0x45 {
            return 20 + u32::from(*data.add(32) >> 4) * 4;
        }
        if data.add(60) > end || *data >> 4 != 6 || *data.add(6) != protocol::TCP {
            return 0;
        }
        header::IPV6_HEADER_BYTES + u32::from(*data.add(52) >> 4) * 4
    }
}

/// Bits that keep a packet from the fast path.
#[inline(always)]
fn slow_bits<W: Way>() -> u32 {
    if W::IS_SENT { flags::SENT_TO_PEER | flags::INSPECT_SENT } else { flags::INSPECT_RECEIVED }
}

/// Adds a packet of the socket's own connection.
#[inline(always)]
fn add_packet<W: Way>(skb: *mut __sk_buff, state: *mut SocketState, flags: u32) {
    let bytes = context!(skb, len);
    let segments = context!(skb, gso_segs);
    let counts = counts_of(state);
    let is_whole = segments == 1 || (segments == 0 && bytes <= MIN_MTU);
    if is_whole && (flags & flags::FAST_TCP != 0 || bytes <= MIN_MTU) {
        return add_whole::<W>(counts, bytes);
    }
    // SAFETY: as above.
    let (netns, protocol) = unsafe { ((*state).netns, (*state).tuple.protocol) };
    add::<W>(counts, fast_size::<W>(skb, netns, protocol));
}

/// Adds to the counter at an offset that other CPUs add to as well; a single instruction on every kernel, where Rust's
/// own atomics ask for what cpu v3 has.
#[inline(always)]
fn add_at<const OFFSET: usize>(counts: *mut Counts, amount: u64) {
    // SAFETY: an aligned u64 within the counters, shared only by atomic additions.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({counts} + {offset}) += {amount}",
            counts = in(reg) counts,
            offset = const OFFSET,
            amount = in(reg) amount,
        );
    }
}

/// Adds a packet that goes over the wire as it is.
#[inline(always)]
fn add_whole<W: Way>(counts: *mut Counts, bytes: u32) {
    add::<W>(counts, Size { bytes: u64::from(bytes), packets: 1, header_bytes: 0 });
}

/// Adds a packet to counters.
#[inline(always)]
pub fn add<W: Way>(counts: *mut Counts, size: Size) {
    if W::IS_SENT {
        add_at::<{ offset_of!(Counts, sent_bytes) }>(counts, size.bytes);
        add_at::<{ offset_of!(Counts, sent_packets) }>(counts, size.packets);
    } else {
        add_at::<{ offset_of!(Counts, received_bytes) }>(counts, size.bytes);
        add_at::<{ offset_of!(Counts, received_packets) }>(counts, size.packets);
    }
    if size.header_bytes != 0 {
        add_headers::<W>(counts, size.header_bytes);
    }
}

#[inline(always)]
fn add_headers<W: Way>(counts: *mut Counts, header_bytes: u64) {
    if W::IS_SENT {
        add_at::<{ offset_of!(Counts, sent_header_bytes) }>(counts, header_bytes);
    } else {
        add_at::<{ offset_of!(Counts, received_header_bytes) }>(counts, header_bytes);
    }
}

/// Whether a packet's ends are those of the socket's first peer. IPv4 without options and IPv6 without extension headers
/// only; others take the slow path, which decides.
#[inline(always)]
fn is_first_peer<W: Way>(skb: *mut __sk_buff, state: *const SocketState) -> bool {
    let data = context!(skb, data) as usize as *const u8;
    let end = context!(skb, data_end) as usize as *const u8;
    // SAFETY: every load is behind a comparison with the packet's end, which the verifier demands.
    unsafe {
        if data.add(24) > end {
            return false;
        }
        if *data == 0x45 {
            return is_first_peer_v4::<W>(data, state);
        }
        data.add(44) <= end && *data >> 4 == 6 && is_first_peer_v6::<W>(data, state)
    }
}

/// # Safety
/// 24 bytes from `data` on are in the packet.
#[inline(always)]
unsafe fn is_first_peer_v4<W: Way>(data: *const u8, state: *const SocketState) -> bool {
    // SAFETY: the caller checked the packet's length.
    unsafe {
        let source = data.add(12).cast::<u32>().read_unaligned();
        let destination = data.add(16).cast::<u32>().read_unaligned();
        let tuple = addr_of!((*state).tuple);
        let local = addr_of!((*tuple).local_addr).cast::<u32>().add(3).read();
        let remote = addr_of!((*tuple).remote_addr).cast::<u32>().add(3).read();
        let is_same = if W::IS_SENT {
            source == local && destination == remote
        } else {
            source == remote && destination == local
        };
        is_same && *data.add(9) == (*tuple).protocol && has_ports::<W>(data.add(20), tuple)
    }
}

/// # Safety
/// 44 bytes from `data` on are in the packet.
#[inline(always)]
unsafe fn is_first_peer_v6<W: Way>(data: *const u8, state: *const SocketState) -> bool {
    // SAFETY: the caller checked the packet's length.
    unsafe {
        let source = data.add(8).cast::<u64>();
        let destination = data.add(24).cast::<u64>();
        let (at_local, at_remote) = if W::IS_SENT { (source, destination) } else { (destination, source) };
        let tuple = addr_of!((*state).tuple);
        let local = addr_of!((*tuple).local_addr).cast::<u64>();
        let remote = addr_of!((*tuple).remote_addr).cast::<u64>();
        at_local.read_unaligned() == local.read()
            && at_local.add(1).read_unaligned() == local.add(1).read()
            && at_remote.read_unaligned() == remote.read()
            && at_remote.add(1).read_unaligned() == remote.add(1).read()
            && *data.add(6) == (*tuple).protocol
            && has_ports::<W>(data.add(40), tuple)
    }
}

/// # Safety
/// 4 bytes from `at` on are in the packet.
#[inline(always)]
unsafe fn has_ports<W: Way>(at: *const u8, tuple: *const Tuple) -> bool {
    // SAFETY: the caller checked the packet's length.
    unsafe {
        if !header::has_port_numbers((*tuple).protocol) {
            return false;
        }
        let source = at.cast::<u16>().read_unaligned();
        let destination = at.add(2).cast::<u16>().read_unaligned();
        let local = addr_of!((*tuple).local_port).cast::<u16>().read();
        let remote = addr_of!((*tuple).remote_port).cast::<u16>().read();
        if W::IS_SENT { source == local && destination == remote } else { source == remote && destination == local }
    }
}

/// Where a packet that is not on the fast path is counted: a socket's state, or a peer's.
///
/// Pointers, null for nowhere, and no `Option`: the compiler leaves the fields of a `None` undefined and may still copy
/// them, which the verifier refuses.
#[derive(Clone, Copy)]
pub struct Place {
    pub counts: *mut Counts,
    pub flags: *mut u32,
    pub inspected: *mut u8,
    pub cookie: u64,
    pub user: *const Stamp,
}

/// A packet that has no place, or is counted already.
pub const NOWHERE: Place =
    Place { counts: null_mut(), flags: null_mut(), inspected: null_mut(), cookie: 0, user: null() };

/// The first packet of a socket, every packet that is not its first peer's, and those that are inspected. Parsed, placed,
/// inspected and counted once: what is inlined twice the verifier walks many times.
#[inline(always)]
fn slow<W: Way>(skb: *mut __sk_buff, sk: *mut bpf_sock, state: *mut SocketState) {
    let mut key: PeerKey = kernel::zeroed();
    let Some(layout) = header::parse::<W>(skb, 0, &mut key.tuple) else {
        return unparsed(skb);
    };
    let known = if state.is_null() { lookup::new_state(skb, sk, &mut key) } else { state };
    // SAFETY: a socket's state, which the verifier knows.
    let state = unsafe { known.as_mut() };
    key.netns = match &state {
        Some(state) => state.netns,
        None => lookup::netns_of(skb),
    };
    let size = size::<W>(skb, layout, key.tuple.protocol, key.netns);
    let place = match state {
        Some(state) => place::<W>(skb, sk, state, &mut key, size),
        None => peer::place_kernel(skb, &mut key, size),
    };
    if place.counts.is_null() {
        return;
    }
    // SAFETY: of a place that is not nowhere no pointer is null.
    if unsafe { *place.flags } & (flags::INSPECT_SENT | flags::INSPECT_RECEIVED) != 0 {
        inspect::look::<W>(skb, &key.tuple, &place, layout);
    }
    add::<W>(place.counts, size);
    // SAFETY: as above.
    if kernel::has_feature(features::NO_TRACING_STORAGE)
        && let Some(state) = unsafe { known.as_mut() }
    {
        close::counted_late(sk, state);
    }
}

/// Finds a packet's place.
#[inline(always)]
fn place<W: Way>(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    state: &mut SocketState,
    key: &mut PeerKey,
    size: Size,
) -> Place {
    let is_tcp = key.tuple.protocol == protocol::TCP && state.flags & flags::RAW == 0;
    if is_tcp && context!(sk, state) == TCP_LISTEN {
        return peer::place_handshake::<W>(skb, sk, state, key, size);
    }
    if state.flags & flags::REGISTERED == 0 {
        if !may_register::<W>(state, &key.tuple) {
            emit::count(Counter::RawCopies, 1);
            return NOWHERE;
        }
        register::<W>(skb, sk, state, &key.tuple);
        if is_tcp && state.flags & flags::PASSIVE != 0 {
            peer::absorb_handshake(state, key);
        }
    } else if !is_tcp && !is_same(&key.tuple, &state.tuple) {
        return peer::place_peer::<W>(skb, sk, state, key, size);
    }
    if W::IS_SENT {
        state.flags &= !(flags::SENT_TO_PEER | flags::PEER_IS_NEW);
    }
    Place {
        counts: &raw mut state.counts,
        flags: &raw mut state.flags,
        inspected: &raw mut state.inspected,
        cookie: state.cookie,
        user: &raw const state.user,
    }
}

/// A packet that cannot be parsed is counted as a loss.
#[inline(always)]
fn unparsed(skb: *mut __sk_buff) {
    emit::count(Counter::Unparsed, 1);
    emit::count(Counter::UnparsedBytes, u64::from(context!(skb, len)));
}

/// A raw socket gets a copy of every packet of its protocol; of protocols that have other owners, only what it started
/// itself makes it a party.
#[inline(always)]
fn may_register<W: Way>(state: &SocketState, tuple: &Tuple) -> bool {
    W::IS_SENT || state.flags & flags::RAW == 0 || !peer::has_other_owners(tuple.protocol)
}

/// Whether two tuples have the same ends.
#[inline(always)]
fn is_same(a: &Tuple, b: &Tuple) -> bool {
    let (a, b) = (core::ptr::from_ref(a).cast::<u64>(), core::ptr::from_ref(b).cast::<u64>());
    // SAFETY: a tuple is five aligned words; of the last the ICMP bytes do not count.
    unsafe {
        *a == *b
            && *a.add(1) == *b.add(1)
            && *a.add(2) == *b.add(2)
            && *a.add(3) == *b.add(3)
            && (*a.add(4) ^ *b.add(4)) & u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]) == 0
    }
}

/// Fills in what identifies a socket's flow.
#[inline(always)]
fn register<W: Way>(skb: *mut __sk_buff, sk: *mut bpf_sock, state: &mut SocketState, tuple: &Tuple) {
    let is_tcp = tuple.protocol == protocol::TCP && state.flags & flags::RAW == 0;
    state.tuple = *tuple;
    // SAFETY: the helper takes the context of a packet that has a socket. An accepted socket inherited its listener's.
    state.cookie = unsafe { bpf_get_socket_cookie(skb.cast::<c_void>()) };
    state.started_at = kernel::now();
    state.interface = context!(skb, ifindex);
    let is_active = if is_tcp { context!(sk, state) == TCP_SYN_SENT } else { W::IS_SENT };
    if state.flags & flags::OLD == 0 || !is_tcp {
        state.flags |= if is_active { flags::ACTIVE } else { flags::PASSIVE };
    }
    if is_tcp
        && !is_active
        && matches!(state.method, method::CREATE | method::BIND | method::SNAPSHOT)
        && state.flags & flags::OLD == 0
    {
        state.method = method::ACCEPT;
    }
    state.flags |= flags::REGISTERED | if is_tcp { flags::FAST_TCP } else { flags::FAST_OTHER };
    state.flags |= inspect::wanted(tuple, state.flags);
}
