//! What has no place in a socket's own state: further peers of unconnected sockets, handshakes that a listener sees, and
//! packets of the kernel's own sockets.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated::bpf_get_socket_cookie,
};
use pktscope_common::{
    counters::Counter,
    knobs::features,
    record::{LingerRecord, RecordKind},
    state::{Counts, PeerKey, PeerState, SocketState, flags},
};

use crate::{
    emit,
    header::{self, Sent, Way, context, protocol},
    inspect, kernel,
    maps::{NEW_PEERS, OVERFLOW, PEERS, SOCKETS},
    packet::{self, NOWHERE, Place},
    size::Size,
    slot,
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

/// The place of a TCP handshake that a listener sees: the accepted socket takes it over with its own first packet.
#[inline(always)]
pub fn place_handshake<W: Way>(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    state: &SocketState,
    key: &mut PeerKey,
    size: Size,
) -> Place {
    key.cookie = 0;
    clear_icmp(key);
    let found = find(key);
    // What the agent left for a silent connection is of an earlier one: its packets would not come to the listener.
    let is_new = found.as_ref().is_none_or(|peer| peer.flags & flags::ESTABLISHED != 0);
    let how = if found.is_none() { u64::from(BPF_NOEXIST) } else { 0 };
    if let Some(peer) = found
        && !is_new
    {
        own(peer, state);
        return place(peer);
    }
    let mut fresh = fresh(skb, key, Some(state), flags::HANDSHAKE | flags::PASSIVE);
    fresh.first_bytes = context!(skb, len) as u16;
    packet::add::<W>(&raw mut fresh.counts, size);
    if PEERS.insert(&*key, &fresh, how).is_ok() {
        return NOWHERE;
    }
    let place = found_or_full::<W>(skb, key, size);
    if place.counts.is_null() {
        bequeath(sk, state);
    }
    place
}

/// Gives a handshake the owner of the listener that goes on with it, where that is another than began it.
#[inline(always)]
fn own(handshake: &mut PeerState, listener: &SocketState) {
    if handshake.creator.pid != listener.creator.pid || handshake.user.pid != listener.user.pid {
        handshake.user = listener.user;
        handshake.creator = listener.creator;
        handshake.method = listener.method;
    }
}

/// Gives a listener storage, which what it accepts inherits: there was no room to note its owner with a handshake.
#[inline(always)]
fn bequeath(sk: *mut bpf_sock, state: &SocketState) {
    // One that has no slot has left its owner to what it accepts already.
    if slot::find(state.cookie).is_null() {
        return;
    }
    let storage = SOCKETS.get(sk.cast(), u64::from(BPF_SK_STORAGE_GET_F_CREATE));
    if storage.is_null() {
        return emit::count(Counter::StorageFailed, 1);
    }
    // SAFETY: not null.
    let storage = unsafe { &mut *storage };
    storage.netns = state.netns;
    storage.user = state.user;
    storage.creator = state.creator;
    storage.flags = state.flags & (flags::UNOWNED | flags::SHARED);
    storage.method = state.method;
}

/// The place of an unconnected socket's further peer.
#[inline(always)]
pub fn place_peer<W: Way>(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    state: &mut SocketState,
    key: &mut PeerKey,
    size: Size,
) -> Place {
    key.cookie = state.cookie;
    let icmp = clear_icmp(key);
    let found = find(key);
    note_sent::<W>(state, if found.is_some() { flags::SENT_TO_PEER } else { flags::SENT_TO_PEER | flags::PEER_IS_NEW });
    if let Some(peer) = found {
        return place(peer);
    }
    if !W::IS_SENT && state.flags & flags::RAW != 0 && has_other_owners(key.tuple.protocol) {
        emit::count(Counter::RawCopies, 1);
        return NOWHERE;
    }
    let mut fresh = fresh(skb, key, Some(state), if W::IS_SENT { flags::ACTIVE } else { flags::PASSIVE });
    (fresh.icmp_type, fresh.icmp_code) = icmp;
    fresh.flags |= inspect::wanted(&key.tuple, fresh.flags);
    state.flags |= flags::HAS_PEERS;
    if W::IS_SENT {
        remember_new(sk, key);
    }
    insert::<W>(skb, key, &fresh, size)
}

/// The place of what a packet socket sends: one for each pair of ends, and one for all that is not IP (`bits`).
#[inline(always)]
pub fn place_frame(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    state: &mut SocketState,
    key: &mut PeerKey,
    bits: u32,
    size: Size,
) -> Place {
    let icmp = clear_icmp(key);
    let found = find(key);
    note_sent::<Sent>(
        state,
        if found.is_some() { flags::SENT_TO_PEER } else { flags::SENT_TO_PEER | flags::PEER_IS_NEW },
    );
    if let Some(peer) = found {
        return place(peer);
    }
    let mut fresh = fresh(skb, key, Some(state), flags::ACTIVE | flags::FRAMES | bits);
    (fresh.icmp_type, fresh.icmp_code) = icmp;
    remember_new(sk, key);
    insert::<Sent>(skb, key, &fresh, size)
}

/// Remembers a new peer until the system call that sends to it returns.
#[inline(always)]
fn remember_new(sk: *mut bpf_sock, key: &PeerKey) {
    let last = NEW_PEERS.get(sk.cast(), u64::from(BPF_SK_STORAGE_GET_F_CREATE));
    if !last.is_null() {
        // SAFETY: not null.
        unsafe { *last = *key };
    }
}

/// The place of a kernel socket's packet. What TIME_WAIT sends goes to the connection that it was.
#[inline(always)]
pub fn place_kernel(skb: *mut __sk_buff, key: &mut PeerKey, size: Size) -> Place {
    let icmp = clear_icmp(key);
    if let Some(peer) = find(key) {
        if peer.flags & flags::LINGERS == 0 {
            return place(peer);
        }
        lingered(skb, key, peer, size);
        return NOWHERE;
    }
    let mut fresh = fresh(skb, key, None, flags::KERNEL);
    (fresh.icmp_type, fresh.icmp_code) = icmp;
    insert::<Sent>(skb, key, &fresh, size)
}

#[inline(always)]
fn place(peer: &mut PeerState) -> Place {
    Place {
        counts: &raw mut peer.counts,
        flags: &raw mut peer.flags,
        inspected: &raw mut peer.inspected,
        cookie: peer.cookie,
        user: &raw const peer.user,
    }
}

/// An entry of the peer table.
#[inline(always)]
pub fn find(key: &PeerKey) -> Option<&'static mut PeerState> {
    // SAFETY: an entry of the map; entries are reused only after a grace period, which outlasts the program.
    PEERS.get_ptr_mut(key).map(|peer| unsafe { &mut *peer })
}

/// Notes where the last packet went, so that who sends is stamped in the right place.
#[inline(always)]
fn note_sent<W: Way>(state: &mut SocketState, bits: u32) {
    if W::IS_SENT && state.flags & (flags::SENT_TO_PEER | flags::PEER_IS_NEW) != bits {
        state.flags = state.flags & !(flags::SENT_TO_PEER | flags::PEER_IS_NEW) | bits;
    }
}

/// Reports the ACK that TIME_WAIT sends. The FIN that it answers was never shown to a program
/// (net/ipv4/tcp_ipv4.c, `tcp_v4_rcv`: TIME_WAIT is handled before the filter), but has the same headers.
#[inline(always)]
fn lingered(skb: *mut __sk_buff, key: &PeerKey, peer: &PeerState, size: Size) {
    let (cookie, bytes, interface) = (peer.cookie, size.bytes, context!(skb, ifindex));
    let mut counts: Counts = kernel::zeroed();
    (counts.sent_bytes, counts.sent_packets) = (bytes, 1);
    (counts.received_bytes, counts.received_packets) = (bytes, 1);
    let is_told = emit::record_or_keep::<LingerRecord>(cookie, Counter::LingerRingFull, |slot| {
        slot.write(LingerRecord {
            header: emit::header::<LingerRecord>(RecordKind::Linger),
            cookie,
            netns: key.netns,
            tuple: key.tuple,
            interface,
            reserved: 0,
            counts,
        });
    });
    if is_told {
        // Nobody else removes it before its time; where it is gone, so be it.
        let _ = PEERS.remove(key);
    }
}

/// Leaves a place for what TIME_WAIT will send for a connection that is over; false where there is none.
#[inline(always)]
pub fn expect_lingering(state: &SocketState) -> bool {
    let mut key: PeerKey = kernel::zeroed();
    key.tuple = state.tuple;
    // As the packet will be asked for it.
    if kernel::has_feature(features::SKB_NETNS) {
        key.netns = state.netns;
    }
    clear_icmp(&mut key);
    let mut place: PeerState = kernel::zeroed();
    place.flags = flags::LINGERS;
    place.cookie = state.cookie;
    PEERS.insert(&key, &place, 0).is_ok()
}

/// An ICMP message's type and code are not part of the key.
#[inline(always)]
fn clear_icmp(key: &mut PeerKey) -> (u8, u8) {
    let icmp = (key.tuple.icmp_type, key.tuple.icmp_code);
    key.tuple.icmp_type = 0;
    key.tuple.icmp_code = 0;
    icmp
}

/// A peer met for the first time.
#[inline(always)]
fn fresh(skb: *mut __sk_buff, key: &PeerKey, state: Option<&SocketState>, bits: u32) -> PeerState {
    let mut fresh: PeerState = kernel::zeroed();
    fresh.started_at = kernel::now();
    fresh.interface = context!(skb, ifindex);
    fresh.flags = bits;
    fresh.cookie = key.cookie;
    if let Some(state) = state {
        fresh.user = state.user;
        fresh.creator = state.creator;
        fresh.method = state.method;
        fresh.flags |= state.flags & (flags::UNOWNED | flags::SHARED | flags::OLD | flags::RAW);
    }
    fresh
}

/// Makes an entry; where the table is full the packet is counted for its socket at once.
#[inline(always)]
fn insert<W: Way>(skb: *mut __sk_buff, key: &PeerKey, fresh: &PeerState, size: Size) -> Place {
    // Where another CPU was first, its entry is as good.
    let _ = PEERS.insert(key, fresh, u64::from(BPF_NOEXIST));
    found_or_full::<W>(skb, key, size)
}

/// The place of an entry that another CPU made first; where there is none the table is full.
#[inline(always)]
fn found_or_full<W: Way>(skb: *mut __sk_buff, key: &PeerKey, size: Size) -> Place {
    match find(key) {
        Some(peer) => place(peer),
        None => {
            overflow::<W>(skb, size);
            NOWHERE
        }
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
    let mut fresh: Counts = kernel::zeroed();
    packet::add::<W>(&raw mut fresh, size);
    if OVERFLOW.insert(&cookie, &fresh, u64::from(BPF_NOEXIST)).is_err() {
        emit::count(if W::IS_SENT { Counter::PeersFullSentBytes } else { Counter::PeersFullReceivedBytes }, size.bytes);
    }
}

/// Headers of IPv6 and TCP with the options that every listener grants (net/ipv4/tcp_output.c, `tcp_synack_options`):
/// segment size, selective acknowledgements with timestamps, window scale.
const LONGEST_ANSWER: u16 = 40 + 20 + 4 + 12 + 4;

/// Adds the handshake that the listener saw to the accepted socket.
#[inline(always)]
pub fn absorb_handshake(state: &mut SocketState, key: &mut PeerKey) {
    key.cookie = 0;
    let Some(peer) = find(key) else { return };
    let (mut counts, started_at, first_bytes) = (peer.counts, peer.started_at, peer.first_bytes);
    if PEERS.remove(&*key).is_err() {
        return;
    }
    // Older kernels do not show the SYN-ACK of IPv6: it leaves by the listener and belongs to the request for a socket,
    // and they want both to be one (include/linux/bpf-cgroup.h, `BPF_CGROUP_RUN_PROG_INET_EGRESS`). Without it there were
    // no accepted socket; it answers those options of the SYN that every listener grants, so it is as long.
    if counts.sent_packets == 0 && counts.received_packets != 0 && header::is_v6(&key.tuple) {
        let bytes = if first_bytes > LONGEST_ANSWER { LONGEST_ANSWER } else { first_bytes };
        (counts.sent_packets, counts.sent_bytes) = (1, u64::from(bytes));
    }
    state.started_at = started_at;
    packet::add::<Sent>(
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
