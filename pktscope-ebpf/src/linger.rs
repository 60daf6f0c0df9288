//! What TIME_WAIT receives and answers: the last two packets of a connection that this side closed first.
//!
//! The hooks of packets never see them. On the way in TIME_WAIT is handled before the filter (net/ipv4/tcp_ipv4.c,
//! `tcp_v4_rcv`). On the way out the ACK leaves by a control socket; since Linux 6.13 it carries the TIME_WAIT socket,
//! which is no full one, so the egress hook is skipped (net/ipv4/ip_output.c, `ip_send_unicast_reply`;
//! include/linux/bpf-cgroup.h). But the segment is always freed as dropped, and there its socket is told (since 6.11).
//! Before, the ACK of IPv4 passes the egress hook; that of IPv6 belongs to no socket (net/ipv6/tcp_ipv6.c,
//! `tcp_v6_send_response`), and the segment is seen as TIME_WAIT takes it in.

use pktscope_common::{
    counters::Counter,
    knobs::{Field, features},
    record::{LingerRecord, RecordKind},
    state::{Counts, PeerKey, Tuple, flags},
};

use crate::{
    emit,
    header::{self, protocol},
    kernel::{self, Kernel},
    maps::PEERS,
    peer,
};

const AF_INET6: u16 = 10;
/// `TCP_TIME_WAIT` of include/net/tcp_states.h, also the state of a FIN_WAIT2 that TIME_WAIT holds.
const TCP_TIME_WAIT: u8 = 6;
/// `TCPHDR_FIN` and `TCPHDR_RST` of include/net/tcp.h.
const TCP_FIN: u8 = 1;
const TCP_RST: u8 = 1 << 2;

/// A packet is dropped: counts it for the connection whose TIME_WAIT it met.
#[inline(always)]
pub fn dropped(skb: Kernel, sk: Kernel) {
    if skb.is_null() || sk.is_null() || kernel::read::<u8>(sk, Field::SockState) != TCP_TIME_WAIT {
        return;
    }
    if kernel::has_feature(features::SILENT_TIME_WAIT) {
        return received_silently(skb, sk);
    }
    received(skb, &key_of(sk));
}

/// TIME_WAIT takes in a packet, where nothing tells of its being dropped. Only IPv6 where the answer of IPv4 is seen.
#[inline(always)]
pub fn taken_in(skb: Kernel, sk: Kernel) {
    if kernel::has_feature(features::SILENT_TIME_WAIT) {
        return received_silently(skb, sk);
    }
    let key = key_of(sk);
    if header::is_v6(&key.tuple) {
        received(skb, &key);
    }
}

/// Reports a FIN or a reset for the connection that it meets, which has handed its cookie on
/// (net/ipv4/inet_timewait_sock.c, `inet_twsk_alloc`). Nothing else would be taken for its answer, so the agent tells
/// whose it is. A FIN that comes again is answered again, a reset never (net/ipv4/tcp_minisocks.c,
/// `tcp_timewait_state_process`).
#[inline(always)]
fn received_silently(skb: Kernel, sk: Kernel) {
    let cookie: u64 = kernel::read(sk, Field::SockCookie);
    let flags: u8 = control(skb, Field::TcpControlFlags);
    if cookie != 0 && flags & (TCP_FIN | TCP_RST) != 0 {
        tell(cookie, &key_of(sk), segment(skb), flags & TCP_RST == 0);
    }
}

#[inline(always)]
fn has_fin(skb: Kernel) -> bool {
    control::<u8>(skb, Field::TcpControlFlags) & TCP_FIN != 0
}

/// Counts a FIN for the connection that waits for it.
#[inline(always)]
fn received(skb: Kernel, key: &PeerKey) {
    let Some(place) = peer::find(key) else { return };
    if place.flags & flags::LINGERS == 0 || !has_fin(skb) {
        return;
    }
    let cookie = place.cookie;
    if tell(cookie, key, segment(skb), true) {
        // Nobody else removes it before its time; where it is gone, so be it.
        let _ = PEERS.remove(key);
    }
}

/// Reports a segment, and the ACK that answers a FIN, which has the same headers and no payload.
#[inline(always)]
fn tell(cookie: u64, key: &PeerKey, segment: Segment, is_answered: bool) -> bool {
    emit::record_or_keep::<LingerRecord>(cookie, Counter::LingerRingFull, |slot| {
        slot.write(LingerRecord {
            header: emit::header::<LingerRecord>(RecordKind::Linger),
            cookie,
            netns: key.netns,
            tuple: key.tuple,
            interface: segment.interface,
            reserved: 0,
            counts: Counts {
                sent_bytes: if is_answered { u64::from(segment.header_bytes) } else { 0 },
                sent_packets: u64::from(is_answered),
                received_bytes: u64::from(segment.bytes),
                received_packets: 1,
                sent_header_bytes: 0,
                received_header_bytes: 0,
            },
        });
    })
}

/// Sizes of a segment, IP header included, and where it came from.
#[derive(Clone, Copy)]
struct Segment {
    bytes: u32,
    header_bytes: u32,
    interface: u32,
}

/// Measures a segment that TCP has pulled the IP header off.
#[inline(always)]
fn segment(skb: Kernel) -> Segment {
    let network: u16 = kernel::read(skb, Field::SkbNetworkHeader);
    let transport: u16 = kernel::read(skb, Field::SkbTransportHeader);
    let bytes = kernel::read::<u32>(skb, Field::SkbLength) + u32::from(transport.wrapping_sub(network));
    // A FIN takes one place of the sequence.
    let span = control::<u32>(skb, Field::TcpControlEnd).wrapping_sub(control::<u32>(skb, Field::TcpControlSequence));
    let interface = kernel::read(skb, Field::SkbInterface);
    Segment { bytes, header_bytes: bytes.wrapping_sub(span.wrapping_sub(1)), interface }
}

/// A field of TCP's part of the packet's control block (include/net/tcp.h, `TCP_SKB_CB`).
#[inline(always)]
fn control<T: Copy>(skb: Kernel, field: Field) -> T {
    kernel::read(kernel::field_at(skb, Field::SkbControl), field)
}

/// Where the place of a connection is that TIME_WAIT holds ([`peer::expect_lingering`]).
#[inline(always)]
pub fn key_of(sk: Kernel) -> PeerKey {
    let mut key: PeerKey = kernel::zeroed();
    read_tuple(&mut key.tuple, sk);
    if kernel::has_feature(features::SKB_NETNS)
        && let Some(net) = kernel::follow(sk, Field::SockNet)
    {
        key.netns = kernel::read(net, Field::NetCookie);
    }
    key
}

/// Both ends of a socket, as packets show them.
#[inline(always)]
fn read_tuple(tuple: &mut Tuple, sk: Kernel) {
    tuple.protocol = protocol::TCP;
    tuple.local_port = kernel::read::<u16>(sk, Field::SockBoundPort).to_be_bytes();
    tuple.remote_port = kernel::read::<[u8; 2]>(sk, Field::SockRemotePort);
    let is_v6 = kernel::read::<u16>(sk, Field::SockFamily) == AF_INET6;
    let (local, remote) = if is_v6 {
        (read_v6(sk, Field::SockBoundAddr6), read_v6(sk, Field::SockRemoteAddr6))
    } else {
        (map_v4(kernel::read(sk, Field::SockBoundAddr4)), map_v4(kernel::read(sk, Field::SockRemoteAddr4)))
    };
    tuple.local_addr = local;
    tuple.remote_addr = remote;
}

/// By words: a typed load must fit the field's own members (include/uapi/linux/in6.h).
#[inline(always)]
fn read_v6(sk: Kernel, field: Field) -> [u8; 16] {
    let at = kernel::field_at(sk, field).cast::<u32>();
    // SAFETY: typed loads of the four words of an `in6_addr`, which the verifier checks.
    let words: [u32; 4] = unsafe {
        [at.read_volatile(), at.add(1).read_volatile(), at.add(2).read_volatile(), at.add(3).read_volatile()]
    };
    // SAFETY: four words are sixteen bytes.
    unsafe { core::mem::transmute(words) }
}

#[inline(always)]
fn map_v4(addr: u32) -> [u8; 16] {
    let words: [u32; 4] = [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), addr];
    // SAFETY: as above.
    unsafe { core::mem::transmute(words) }
}
