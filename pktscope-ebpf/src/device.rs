//! What leaves by a device of the agent's network namespace and no inet socket of this host sent: forwarded packets, what
//! the kernel makes itself, and what packet sockets send ([`crate::frame`]).
//!
//! Every packet of the device comes by here. One that has an inet socket is counted with its socket ([`crate::packet`])
//! and costs a look at that socket's family.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::bpf_sk_fullsock,
};
use pktscope_common::{
    knobs::settings,
    state::{Counts, DeviceState, Tuple, class, device},
};

use crate::{
    frame,
    header::{self, Sent, context, protocol},
    kernel,
    maps::{DEVICES, SETTINGS},
    size::Size,
};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_PACKET: u32 = 17;
/// `IPPROTO_RAW` of include/uapi/linux/in.h: its sender writes the IP header.
const RAW: u32 = 255;

/// A packet is about to leave by a device.
#[inline(always)]
pub fn left(skb: *mut __sk_buff) {
    let sk = context!(skb, __bindgen_anon_2.sk);
    // What came in by a device keeps the index of that one (net/core/dev.c, `__netif_receive_skb_core`), and over a veth
    // even its socket.
    let from = context!(skb, ingress_ifindex);
    if from != 0 {
        return forwarded(skb, from);
    }
    if sk.is_null() {
        return unowned(skb, class::KERNEL);
    }
    match context!(sk, family) {
        AF_INET | AF_INET6 => {
            if has_tunnels() && is_wrapped(skb, sk) {
                unowned(skb, class::KERNEL);
            }
        }
        AF_PACKET => frames(skb, sk),
        _ => unowned(skb, class::OTHER),
    }
}

/// A device that the agent has told of.
#[inline(always)]
pub fn find(index: u32) -> Option<&'static mut DeviceState> {
    // SAFETY: this CPU's own value of an entry, freed only after a grace period.
    DEVICES.get_ptr_mut(&index).map(|state| unsafe { &mut *state })
}

/// A packet that passes through is counted at both devices.
#[inline(always)]
fn forwarded(skb: *mut __sk_buff, from: u32) {
    let Some(to) = find(context!(skb, ifindex)) else { return };
    let size = size(skb, to.link_header_bytes);
    add_sent(&mut to.counts[class::FORWARDED], size);
    if let Some(from) = find(from) {
        add_received(&mut from.counts[class::FORWARDED], size);
    }
}

/// A packet that no process sent, or none that can be known.
#[inline(always)]
fn unowned(skb: *mut __sk_buff, class: usize) {
    let Some(device) = find(context!(skb, ifindex)) else { return };
    if device.flags & device::FRAMES != 0 {
        add_sent(&mut device.counts[class], size(skb, device.link_header_bytes));
    }
}

/// What a packet socket sends. Of a frame that a tunnel wraps the first device that it leaves by is the tunnel.
#[inline(always)]
fn frames(skb: *mut __sk_buff, sk: *mut bpf_sock) {
    let index = context!(skb, ifindex);
    let Some(device) = find(index) else { return };
    if device.flags & device::FRAMES == 0 {
        return;
    }
    let size = size(skb, device.link_header_bytes);
    let class = match frame::sent(skb, sk, device, size) {
        frame::Outcome::Counted => return,
        frame::Outcome::Wrapped => class::KERNEL,
        frame::Outcome::Refused => class::OTHER,
    };
    add_sent(&mut device.counts[class], size);
}

/// Bytes and packets on the wire, without link-layer headers. The kernel has added what segmentation will repeat
/// (net/core/dev.c, `qdisc_pkt_len_init`); fragmentation is done.
#[inline(always)]
fn size(skb: *mut __sk_buff, link_header_bytes: u32) -> Size {
    let whole = context!(skb, len).saturating_sub(link_header_bytes);
    let segment_bytes = context!(skb, gso_size);
    if segment_bytes == 0 {
        return Size { bytes: u64::from(whole), packets: 1, header_bytes: 0 };
    }
    // Not set on packets from a hypervisor (include/linux/virtio_net.h, `SKB_GSO_DODGY`).
    let segments = match context!(skb, gso_segs) {
        0 => whole.div_ceil(segment_bytes),
        segments => segments,
    };
    let bytes = context!(skb, wire_len).saturating_sub(segments * link_header_bytes).max(whole);
    Size { bytes: u64::from(bytes), packets: u64::from(segments), header_bytes: u64::from(bytes - whole) }
}

/// Adds to this CPU's own counters; nothing that sends interrupts what sends (net/core/dev.c, `rcu_read_lock_bh`).
#[inline(always)]
fn add_sent(counts: &mut Counts, size: Size) {
    counts.sent_bytes += size.bytes;
    counts.sent_packets += size.packets;
    counts.sent_header_bytes += size.header_bytes;
}

#[inline(always)]
pub fn add_received(counts: &mut Counts, size: Size) {
    counts.received_bytes += size.bytes;
    counts.received_packets += size.packets;
    counts.received_header_bytes += size.header_bytes;
}

#[inline(always)]
fn has_tunnels() -> bool {
    SETTINGS.get(settings::HAS_TUNNELS).copied().unwrap_or(0) != 0
}

/// Whether a packet is not its socket's own but carries it: a tunnel leaves the socket with what it wraps
/// (net/core/skbuff.c, `skb_scrub_packet`).
#[inline(always)]
fn is_wrapped(skb: *mut __sk_buff, sk: *mut bpf_sock) -> bool {
    let Some(device) = find(context!(skb, ifindex)) else { return false };
    let mut tuple: Tuple = kernel::zeroed();
    if header::parse::<Sent>(skb, device.link_header_bytes, &mut tuple).is_none() {
        return false;
    }
    // SAFETY: the helper takes a socket and gives null where it is a request or in TIME_WAIT, both of TCP.
    let full = unsafe { bpf_sk_fullsock(sk) };
    let sent_as = if full.is_null() { u32::from(protocol::TCP) } else { context!(full, protocol) };
    if sent_as == RAW {
        return false;
    }
    let is_udp = sent_as == u32::from(protocol::UDP) && !is_later_fragment(skb, device.link_header_bytes);
    sent_as != u32::from(tuple.protocol) || is_udp && tuple.local_port != (context!(sk, src_port) as u16).to_be_bytes()
}

/// Whether an IPv4 packet begins without its transport header (RFC 791 section 3.1).
#[inline(always)]
pub fn is_later_fragment(skb: *mut __sk_buff, at: u32) -> bool {
    header::load::<8>(skb, at).is_some_and(|head| head[0] >> 4 == 4 && (head[6] & 0x1f != 0 || head[7] != 0))
}
