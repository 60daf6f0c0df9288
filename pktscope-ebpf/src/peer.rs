//! What has no place in a socket's own state: further peers of unconnected sockets, handshakes that a listener sees, and
//! packets of the kernel's own sockets.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::generated::bpf_get_socket_cookie,
};
use pktscope_common::{
    counters::Counter,
    state::{Counts, PeerKey, PeerState, SocketState, flags},
};

use crate::{
    emit,
    header::{Way, context, protocol},
    kernel,
    maps::{OVERFLOW, PEERS},
    packet::{self, Size},
};

/// Whether packets of a protocol belong to other sockets, or to the kernel, than the raw socket that gets a copy.
#[inline(always)]
pub fn has_other_owners(protocol: u8) -> bool {
    matches!(
        protocol,
        protocol::ICMP
            | protocol::ICMPV6
            | protocol::TCP
            | protocol::UDP
            | protocol::SCTP
            | protocol::UDPLITE
            | protocol::DCCP
    )
}

/// Counts a packet of a TCP handshake that a listener sees: the accepted socket takes it over with its own first packet.
#[inline(always)]
pub fn count_handshake<W: Way>(skb: *mut __sk_buff, state: &mut SocketState, key: &mut PeerKey) {
    key.cookie = 0;
    count::<W>(skb, Some(state), key, flags::HANDSHAKE | flags::PASSIVE);
}

/// Counts a packet of an unconnected socket's further peer.
#[inline(always)]
pub fn count_peer<W: Way>(skb: *mut __sk_buff, state: &mut SocketState, key: &mut PeerKey) {
    key.cookie = state.cookie;
    if !W::IS_SENT && state.flags & flags::RAW != 0 && has_other_owners(key.tuple.protocol) {
        return count_copy::<W>(skb, state, key);
    }
    if state.flags & flags::HAS_PEERS == 0 {
        state.flags |= flags::HAS_PEERS;
    }
    count::<W>(skb, Some(state), key, if W::IS_SENT { flags::ACTIVE } else { flags::PASSIVE });
}

/// Counts what a raw socket received only where it asked for it.
#[inline(always)]
fn count_copy<W: Way>(skb: *mut __sk_buff, state: &mut SocketState, key: &mut PeerKey) {
    clear_icmp(key);
    match PEERS.get_ptr_mut(&*key) {
        // SAFETY: an entry of the map; entries are reused only after a grace period.
        Some(peer) => unsafe { packet::add::<W>(&raw mut (*peer).counts, packet::size::<W>(skb, state.netns)) },
        None => emit::count(Counter::RawCopies, 1),
    }
}

/// Counts a packet of a kernel socket.
#[inline(always)]
pub fn count_kernel<W: Way>(skb: *mut __sk_buff, key: &mut PeerKey) {
    count::<W>(skb, None, key, flags::KERNEL);
}

/// An ICMP message's type and code are not part of the key.
#[inline(always)]
fn clear_icmp(key: &mut PeerKey) {
    key.tuple.icmp_type = 0;
    key.tuple.icmp_code = 0;
}

#[inline(always)]
fn count<W: Way>(skb: *mut __sk_buff, state: Option<&mut SocketState>, key: &mut PeerKey, bits: u32) {
    let icmp = (key.tuple.icmp_type, key.tuple.icmp_code);
    clear_icmp(key);
    let size = packet::size::<W>(skb, key.netns);
    if let Some(peer) = PEERS.get_ptr_mut(&*key) {
        // SAFETY: an entry of the map; entries are reused only after a grace period.
        return unsafe { packet::add::<W>(&raw mut (*peer).counts, size) };
    }
    let mut fresh =
        PeerState { started_at: kernel::now(), interface: context!(skb, ifindex), flags: bits, ..PeerState::default() };
    (fresh.icmp_type, fresh.icmp_code) = icmp;
    if let Some(state) = state {
        fresh.user = state.user;
        fresh.creator = state.creator;
        fresh.method = state.method;
        fresh.flags |= state.flags & (flags::UNOWNED | flags::SHARED | flags::OLD | flags::RAW);
    }
    insert::<W>(skb, key, &mut fresh, size);
}

#[inline(always)]
fn insert<W: Way>(skb: *mut __sk_buff, key: &PeerKey, fresh: &mut PeerState, size: Size) {
    packet::add::<W>(&raw mut fresh.counts, size);
    if PEERS.insert(key, &*fresh, u64::from(BPF_NOEXIST)).is_ok() {
        return;
    }
    // Another CPU was first, or the table is full.
    match PEERS.get_ptr_mut(key) {
        // SAFETY: an entry of the map; entries are reused only after a grace period.
        Some(peer) => unsafe { packet::add::<W>(&raw mut (*peer).counts, size) },
        None => overflow::<W>(skb, size),
    }
}

/// Counts a packet for its socket where its peer has no place.
#[inline(always)]
fn overflow<W: Way>(skb: *mut __sk_buff, size: Size) {
    emit::count(Counter::PeersFull, 1);
    // SAFETY: the helper takes the context of a packet that has a socket.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    if let Some(counts) = OVERFLOW.get_ptr_mut(&cookie) {
        return packet::add::<W>(counts, size);
    }
    let mut fresh = Counts::default();
    packet::add::<W>(&raw mut fresh, size);
    if OVERFLOW.insert(&cookie, &fresh, u64::from(BPF_NOEXIST)).is_err() {
        emit::count(if W::IS_SENT { Counter::PeersFullSentBytes } else { Counter::PeersFullReceivedBytes }, size.bytes);
    }
}

/// Adds the handshake that the listener saw to the accepted socket.
#[inline(always)]
pub fn absorb_handshake(state: &mut SocketState, key: &mut PeerKey) {
    key.cookie = 0;
    let Some(peer) = PEERS.get_ptr_mut(&*key) else { return };
    // SAFETY: an entry of the map; entries are reused only after a grace period.
    let (counts, started_at) = unsafe { ((*peer).counts, (*peer).started_at) };
    if PEERS.remove(&*key).is_err() {
        return;
    }
    state.started_at = started_at;
    packet::add::<crate::header::Sent>(
        &raw mut state.counts,
        Size { bytes: counts.sent_bytes, packets: counts.sent_packets, header_bytes: counts.sent_header_bytes },
    );
    packet::add::<crate::header::Received>(
        &raw mut state.counts,
        Size {
            bytes: counts.received_bytes,
            packets: counts.received_packets,
            header_bytes: counts.received_header_bytes,
        },
    );
}
