//! First bytes of flows that may name their destination, and DNS. A flow that looks like neither is left alone after its
//! first payload.

use core::ptr::addr_of_mut;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_skb_load_bytes,
};
use pktscope_common::{
    counters::Counter,
    knobs::features,
    limits::{INSPECTED_DNS_SEGMENTS, INSPECTED_PAYLOADS, LONG_PAYLOAD_BYTES, SHORT_PAYLOAD_BYTES},
    record::{PayloadHeader, PayloadRecord, RecordKind},
    state::{Tuple, flags},
};

use crate::{
    emit,
    header::{self, Layout, Way, context, protocol},
    kernel,
    maps::RECORDS,
    packet::Place,
};

/// Ports of DNS, mDNS (RFC 6762) and LLMNR (RFC 4795) in network order.
const DNS_PORTS: [[u8; 2]; 3] = [53u16.to_be_bytes(), 5353u16.to_be_bytes(), 5355u16.to_be_bytes()];

/// The bits of a DNS header's third byte that are zero in a standard query and its answer (RFC 1035 section 4.1.1): what
/// floods port 53 with anything else is not worth a copy each.
const DNS_OPCODE: u8 = 0x78;

/// Port of IMAP in network order.
const IMAP_PORT: [u8; 2] = 143u16.to_be_bytes();

/// What a payload looks like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looks {
    /// A TLS handshake record.
    Tls,
    /// An HTTP/1 request.
    Http,
    /// A dialogue in the clear that may go on in TLS.
    Upgrade,
    /// A QUIC packet with a long header.
    Quic,
    /// Nothing that names a destination.
    Other,
}

/// Which ways of a new flow are worth a look.
#[inline(always)]
pub fn wanted(tuple: &Tuple, bits: u32) -> u32 {
    if !kernel::has_feature(features::PAYLOAD) {
        return 0;
    }
    let is_tcp = tuple.protocol == protocol::TCP;
    if (is_tcp || tuple.protocol == protocol::UDP) && is_dns(tuple) {
        return flags::INSPECT_SENT | flags::INSPECT_RECEIVED;
    }
    let may_be_named = is_tcp || tuple.protocol == protocol::UDP;
    if may_be_named && bits & (flags::ACTIVE | flags::OLD) == flags::ACTIVE { flags::INSPECT_SENT } else { 0 }
}

#[inline(always)]
fn is_dns(tuple: &Tuple) -> bool {
    DNS_PORTS.contains(&tuple.remote_port) || DNS_PORTS.contains(&tuple.local_port)
}

/// Looks at a packet's payload, and copies it where it may name the destination.
#[inline(always)]
pub fn look<W: Way>(skb: *mut __sk_buff, tuple: &Tuple, place: &Place, layout: Layout) {
    let bit = if W::IS_SENT { flags::INSPECT_SENT } else { flags::INSPECT_RECEIVED };
    // SAFETY: the place's own fields; what another CPU does meanwhile costs one more look at most.
    let (flags, inspected) = unsafe { (*place.flags, *place.inspected) };
    if flags & bit == 0 {
        return;
    }
    let Some(part) = payload(skb, layout, tuple.protocol) else { return };
    let verdict = judge(skb, tuple, part, inspected);
    if verdict.is_copied {
        copy::<W>(skb, tuple, place, part);
    }
    // SAFETY: as above.
    unsafe {
        *place.inspected = inspected.saturating_add(1);
        if verdict.is_last {
            *place.flags = flags & !bit;
        }
    }
}

/// What to do with a payload, and with its flow.
struct Verdict {
    is_copied: bool,
    is_last: bool,
}

/// Where a payload lies.
#[derive(Clone, Copy)]
struct Part {
    at: u32,
    bytes: u32,
    transport_at: u32,
}

/// The payload of a packet; `None` where it has none.
#[inline(always)]
fn payload(skb: *mut __sk_buff, layout: Layout, protocol: u8) -> Option<Part> {
    let at = layout.network_bytes + header::transport_bytes(skb, layout.network_bytes, protocol);
    let bytes = context!(skb, len);
    if bytes > at { Some(Part { at, bytes: bytes - at, transport_at: layout.network_bytes }) } else { None }
}

#[inline(always)]
fn judge(skb: *mut __sk_buff, tuple: &Tuple, part: Part, inspected: u8) -> Verdict {
    let is_tcp = tuple.protocol == protocol::TCP;
    let head = header::load::<5>(skb, part.at).unwrap_or([0; 5]);
    if is_dns(tuple) {
        let is_copied = is_tcp || head[2] & DNS_OPCODE == 0;
        return Verdict { is_copied, is_last: is_tcp && inspected >= INSPECTED_DNS_SEGMENTS };
    }
    let looks = if is_tcp { tcp_looks(head, tuple) } else { udp_looks(head[0]) };
    // A ClientHello's further segments look like nothing.
    let is_copied = looks != Looks::Other || (inspected != 0 && is_tcp);
    let is_whole = looks == Looks::Tls && u32::from(u16::from_be_bytes([head[3], head[4]])) + 5 <= part.bytes;
    Verdict { is_copied, is_last: !is_copied || is_whole || inspected + 1 >= INSPECTED_PAYLOADS }
}

/// A handshake record of TLS (RFC 8446 section 5.1), the letters of an HTTP/1 method, which also are those of SMTP's, POP3's
/// and FTP's commands, or the start of another dialogue in the clear.
#[inline(always)]
fn tcp_looks(head: [u8; 5], tuple: &Tuple) -> Looks {
    if head[0] == 0x16 && head[1] == 3 {
        return Looks::Tls;
    }
    if may_upgrade(head, tuple) {
        return Looks::Upgrade;
    }
    let is_letter = |byte: u8| byte.is_ascii_uppercase();
    let is_method =
        is_letter(head[0]) && is_letter(head[1]) && is_letter(head[2]) && (is_letter(head[3]) || head[3] == b' ');
    if is_method { Looks::Http } else { Looks::Other }
}

/// What a client says before TLS: PostgreSQL's SSLRequest or GSSENCRequest, MySQL's short first packet, an LDAP message
/// (RFC 4511 section 4.1.1), an XMPP stream (RFC 6120 section 4.7), anything where IMAP is spoken, whose commands begin with
/// a tag of the client's choice.
#[inline(always)]
fn may_upgrade(head: [u8; 5], tuple: &Tuple) -> bool {
    let is_postgresql = head == [0, 0, 0, 8, 4];
    let is_mysql = head[0] == 32 && head[1] == 0 && head[2] == 0 && head[3] == 1;
    let is_ldap = head[0] == 0x30 && head[2] == 2 && head[3] == 1;
    let is_xmpp = head == *b"<?xml" || head == *b"<stre";
    is_postgresql || is_mysql || is_ldap || is_xmpp || tuple.remote_port == IMAP_PORT
}

/// The first bits of a QUIC long header (RFC 9000 section 17.2).
#[inline(always)]
fn udp_looks(first: u8) -> Looks {
    if first & 0xc0 == 0xc0 { Looks::Quic } else { Looks::Other }
}

#[inline(always)]
fn copy<W: Way>(skb: *mut __sk_buff, tuple: &Tuple, place: &Place, part: Part) {
    if part.bytes <= SHORT_PAYLOAD_BYTES as u32 {
        copy_to::<W, SHORT_PAYLOAD_BYTES>(skb, tuple, place, part);
    } else {
        copy_to::<W, LONG_PAYLOAD_BYTES>(skb, tuple, place, part);
    }
}

/// Copies to a record with room for `N` bytes, a power of two.
#[inline(always)]
fn copy_to<W: Way, const N: usize>(skb: *mut __sk_buff, tuple: &Tuple, place: &Place, part: Part) {
    let room = if emit::has_room_for_payload() { RECORDS.reserve_untyped::<PayloadRecord<N>>(0) } else { None };
    let Some(mut entry) = room else { return emit::count(Counter::PayloadRingFull, 1) };
    let record = entry.as_mut_ptr();
    let sequence = if tuple.protocol == protocol::TCP { header::load::<4>(skb, part.transport_at + 4) } else { None };
    let mut head = emit::header::<PayloadRecord<N>>(RecordKind::Payload);
    head.size = (size_of::<PayloadHeader>() + N) as u32;
    let bytes = bounded::<N>(part.bytes);
    // SAFETY: the record is reserved at its full size; `bytes` is at least 1 and at most N.
    let result = unsafe {
        addr_of_mut!((*record).header).write(PayloadHeader {
            header: head,
            cookie: place.cookie,
            tuple: *tuple,
            user: *place.user,
            payload_bytes: part.bytes,
            sequence: sequence.map_or(0, u32::from_be_bytes),
            is_sent: u8::from(W::IS_SENT),
            reserved: [0; 7],
        });
        bpf_skb_load_bytes(skb.cast(), part.at, addr_of_mut!((*record).bytes).cast(), bytes)
    };
    if result == 0 {
        entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    } else {
        entry.discard(u64::from(BPF_RB_NO_WAKEUP));
        emit::count(Counter::Unparsed, 1);
    }
}

/// The lesser of a length, which is at least 1, and `N`, in a form in which the verifier sees both bounds: the compiler
/// would drop a mask that it can prove to change nothing.
#[inline(always)]
fn bounded<const N: usize>(length: u32) -> u32 {
    if length >= N as u32 {
        return N as u32;
    }
    let mut less_one = length.wrapping_sub(1);
    // SAFETY: arithmetic on a register.
    unsafe { core::arch::asm!("{0} &= {1}", inout(reg) less_one, const N - 1) };
    less_one + 1
}
