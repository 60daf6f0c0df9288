//! Reads of packet headers.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use pktscope_common::state::Tuple;

/// Protocol numbers of IANA's registry.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const DCCP: u8 = 33;
    pub const IPV6: u8 = 41;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
    pub const UDPLITE: u8 = 136;
}

/// Bytes of IPv6's fixed header (RFC 8200 section 3).
pub const IPV6_HEADER_BYTES: u32 = 40;
/// Extension headers that are followed, which share one layout (RFC 8200 section 4.3): each more doubles what the
/// verifier walks. Packets are whole here, so there is no fragment header; a packet with more is read as having the next
/// as its protocol.
const EXTENSION_HEADERS: usize = 2;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

/// Which way a packet goes, seen from this host.
pub trait Way {
    /// Whether this host sends it.
    const IS_SENT: bool;
}

/// Leaves the host.
pub struct Sent;
/// Arrives at a socket.
pub struct Received;

impl Way for Sent {
    const IS_SENT: bool = true;
}

impl Way for Received {
    const IS_SENT: bool = false;
}

/// Reads a field of a context, exactly as wide as it is: the verifier refuses wider loads that a compiler may merge.
macro_rules! context {
    ($pointer:expr, $($field:ident).+) => {
        // SAFETY: a load from the context, which the verifier checks.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!((*$pointer).$($field).+)) }
    };
}
pub(crate) use context;

/// Where a packet's parts begin.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Bytes of the IP header, extension headers included.
    pub network_bytes: u32,
    /// Whether it is IPv6.
    pub is_v6: bool,
}

/// Copies a fixed number of bytes out of a packet; a constant length is what the verifier accepts everywhere.
#[inline(always)]
pub fn load<const N: usize>(skb: *mut __sk_buff, offset: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: `bytes` has N bytes, and all are written, zeros where the packet is too short (net/core/filter.c).
    unsafe {
        let result = bpf_skb_load_bytes(skb.cast::<c_void>(), offset, bytes.as_mut_ptr().cast(), N as u32);
        if result == 0 { Some(bytes.assume_init()) } else { None }
    }
}

/// The first three words of a packet: where it begins with its IP header they are read where they lie, which costs a
/// fraction of a call.
#[inline(always)]
fn head_words(skb: *mut __sk_buff, offset: u32) -> Option<[u64; 3]> {
    let data = context!(skb, data) as usize as *const u8;
    let end = context!(skb, data_end) as usize as *const u8;
    // SAFETY: the loads are behind a comparison with the packet's end, which the verifier demands.
    unsafe {
        if offset != 0 || data.add(24) > end {
            return load_words::<3>(skb, offset);
        }
        let words = data.cast::<u64>();
        Some([words.read_unaligned(), words.add(1).read_unaligned(), words.add(2).read_unaligned()])
    }
}

/// First byte of an IP header.
#[inline(always)]
pub fn first_byte(skb: *mut __sk_buff, offset: u32) -> Option<u8> {
    let data = context!(skb, data) as usize as *const u8;
    let end = context!(skb, data_end) as usize as *const u8;
    // SAFETY: as above.
    unsafe {
        if offset != 0 || data.add(1) > end {
            return load::<1>(skb, offset).map(|[first]| first);
        }
        Some(*data)
    }
}

/// Reads both ends of a packet that starts at `offset` with its IP header.
#[inline(always)]
pub fn parse<W: Way>(skb: *mut __sk_buff, offset: u32, tuple: &mut Tuple) -> Option<Layout> {
    let first = first_byte(skb, offset)?;
    let layout = match first >> 4 {
        4 if first == PLAIN_V4 && parse_plain_v4::<W>(skb, offset, tuple) => return Some(PLAIN_V4_LAYOUT),
        4 => parse_v4::<W>(skb, offset, tuple)?,
        6 => parse_v6::<W>(skb, offset, tuple)?,
        _ => return None,
    };
    if layout.network_bytes != 0 {
        parse_transport::<W>(skb, offset + layout.network_bytes, tuple);
    }
    Some(layout)
}

/// An address as two words, as it lies in memory.
type Words = [u64; 2];

/// Puts source and destination where `W` says that they belong.
#[inline(always)]
fn place<W: Way>(tuple: &mut Tuple, source: Words, destination: Words) {
    let (local, remote) = if W::IS_SENT { (source, destination) } else { (destination, source) };
    let (to_local, to_remote) =
        (tuple.local_addr.as_mut_ptr().cast::<u64>(), tuple.remote_addr.as_mut_ptr().cast::<u64>());
    // SAFETY: a tuple is aligned to words, and each address is two.
    unsafe {
        to_local.write(local[0]);
        to_local.add(1).write(local[1]);
        to_remote.write(remote[0]);
        to_remote.add(1).write(remote[1]);
    }
}

/// Whether a tuple is of IPv6.
#[inline(always)]
pub fn is_v6(tuple: &Tuple) -> bool {
    let words: *const u64 = tuple.local_addr.as_ptr().cast();
    // SAFETY: a tuple is aligned to words, and an address is two.
    unsafe { *words != 0 || *words.add(1) as u32 != map_v4(0)[1] as u32 }
}

/// `::ffff:a.b.c.d` of an address in network order.
#[inline(always)]
pub fn map_v4(addr: u32) -> Words {
    let prefix = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    let second = if cfg!(target_endian = "little") {
        u64::from(addr) << 32 | u64::from(prefix)
    } else {
        u64::from(prefix) << 32 | u64::from(addr)
    };
    [0, second]
}

/// Copies words out of a packet.
#[inline(always)]
fn load_words<const N: usize>(skb: *mut __sk_buff, offset: u32) -> Option<[u64; N]> {
    let mut words = MaybeUninit::<[u64; N]>::uninit();
    // SAFETY: as in `load`.
    unsafe {
        let result = bpf_skb_load_bytes(skb.cast::<c_void>(), offset, words.as_mut_ptr().cast(), (N * 8) as u32);
        if result == 0 { Some(words.assume_init()) } else { None }
    }
}

/// First byte of an IPv4 header without options, and where its parts begin.
const PLAIN_V4: u8 = 0x45;
const PLAIN_V4_LAYOUT: Layout = Layout { network_bytes: 20, is_v6: false };

/// Reads both ends of an IPv4 packet without options at once, where its protocol begins with ports; else reads nothing
/// that stays.
#[inline(always)]
fn parse_plain_v4<W: Way>(skb: *mut __sk_buff, offset: u32, tuple: &mut Tuple) -> bool {
    let Some(words) = head_words(skb, offset) else { return false };
    let [_, protocol, _, _, s0, s1, s2, s3] = words[1].to_ne_bytes();
    let [d0, d1, d2, d3, p0, p1, p2, p3] = words[2].to_ne_bytes();
    if !begins_with_ports(protocol) {
        return false;
    }
    let source = map_v4(u32::from_ne_bytes([s0, s1, s2, s3]));
    place::<W>(tuple, source, map_v4(u32::from_ne_bytes([d0, d1, d2, d3])));
    place_ports::<W>(tuple, [p0, p1], [p2, p3]);
    tuple.protocol = protocol;
    true
}

/// Whether a transport header begins with two ports.
#[inline(always)]
fn begins_with_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::DCCP | protocol::SCTP | protocol::UDPLITE)
}

#[inline(always)]
fn parse_v4<W: Way>(skb: *mut __sk_buff, offset: u32, tuple: &mut Tuple) -> Option<Layout> {
    let [first] = load::<1>(skb, offset)?;
    let [protocol] = load::<1>(skb, offset + 9)?;
    // Source and destination, one word.
    let addrs = load_words::<1>(skb, offset + 12)?[0].to_ne_bytes();
    let source = u32::from_ne_bytes([addrs[0], addrs[1], addrs[2], addrs[3]]);
    let destination = u32::from_ne_bytes([addrs[4], addrs[5], addrs[6], addrs[7]]);
    place::<W>(tuple, map_v4(source), map_v4(destination));
    tuple.protocol = protocol;
    Some(Layout { network_bytes: u32::from(first & 0xf) * 4, is_v6: false })
}

#[inline(always)]
fn parse_v6<W: Way>(skb: *mut __sk_buff, offset: u32, tuple: &mut Tuple) -> Option<Layout> {
    let words = load_words::<4>(skb, offset + 8)?;
    place::<W>(tuple, [words[0], words[1]], [words[2], words[3]]);
    let [mut next] = load::<1>(skb, offset + 6)?;
    let mut bytes = IPV6_HEADER_BYTES;
    for _ in 0..EXTENSION_HEADERS {
        if !matches!(next, HOP_BY_HOP | ROUTING | DESTINATION) {
            break;
        }
        let head = load::<2>(skb, offset + bytes)?;
        next = head[0];
        bytes += (u32::from(head[1]) + 1) * 8;
    }
    tuple.protocol = next;
    Some(Layout { network_bytes: bytes, is_v6: true })
}

/// Reads ports, or an ICMP message's type, code and echo identifier. A packet cut short has none.
#[inline(always)]
fn parse_transport<W: Way>(skb: *mut __sk_buff, at: u32, tuple: &mut Tuple) {
    match tuple.protocol {
        ports if begins_with_ports(ports) => {
            let Some(ports) = load::<4>(skb, at) else { return };
            place_ports::<W>(tuple, [ports[0], ports[1]], [ports[2], ports[3]]);
        }
        protocol::ICMP | protocol::ICMPV6 => parse_icmp(skb, at, tuple),
        _ => {}
    }
}

#[inline(always)]
fn place_ports<W: Way>(tuple: &mut Tuple, source: [u8; 2], destination: [u8; 2]) {
    if W::IS_SENT {
        tuple.local_port = source;
        tuple.remote_port = destination;
    } else {
        tuple.local_port = destination;
        tuple.remote_port = source;
    }
}

/// Echo messages (RFC 792: types 8 and 0; RFC 4443: 128 and 129) carry an identifier that tells whose they are.
#[inline(always)]
fn parse_icmp(skb: *mut __sk_buff, at: u32, tuple: &mut Tuple) {
    let Some(message) = load::<6>(skb, at) else { return };
    tuple.icmp_type = message[0];
    tuple.icmp_code = message[1];
    if matches!(message[0], 0 | 8 | 128 | 129) {
        tuple.local_port = [message[4], message[5]];
    }
}

/// Bytes of the transport header; 0 for protocols that are never segmented.
#[inline(always)]
pub fn transport_bytes(skb: *mut __sk_buff, at: u32, protocol: u8) -> u32 {
    match protocol {
        protocol::TCP => load::<1>(skb, at + 12).map_or(20, |offset| u32::from(offset[0] >> 4) * 4),
        protocol::UDP | protocol::UDPLITE => 8,
        protocol::SCTP => 12,
        _ => 0,
    }
}

/// Whether packets of a protocol begin with two port numbers; TCP's are not asked for.
#[inline(always)]
pub fn has_port_numbers(protocol: u8) -> bool {
    matches!(protocol, protocol::UDP | protocol::UDPLITE | protocol::SCTP)
}
