//! What a packet is on the wire: segmentation, fragmentation and their headers undone.

use aya_ebpf::bindings::__sk_buff;

use pktscope_common::counters::Counter;

use crate::{
    emit,
    header::{self, Layout, Way, context, protocol},
    maps::MTUS,
};

/// The least MTU of IPv6 (RFC 8200 section 5); a packet up to this long is fragmented on no interface that matters here.
pub const MIN_MTU: u32 = 1280;
/// `LOOPBACK_IFINDEX` of include/net/flow.h.
const LOOPBACK: u32 = 1;
/// `ETH_DATA_LEN` of include/uapi/linux/if_ether.h.
const ETHERNET_MTU: u32 = 1500;

/// A packet on its way: its bytes and packets on the wire.
#[derive(Clone, Copy)]
pub struct Size {
    pub bytes: u64,
    pub packets: u64,
    /// Of `bytes`: headers that segmentation repeats and the packet here holds once.
    pub header_bytes: u64,
}

/// Bytes and packets that a packet of a fast path becomes, or was, on the wire. Extension headers of IPv6 are not
/// walked here: packets that are segmented have none in practice, and fragments take the fast path only in IPv4's stead.
#[inline(always)]
pub fn fast_size<W: Way>(skb: *mut __sk_buff, netns: u64, protocol: u8) -> Size {
    let bytes = context!(skb, len);
    if context!(skb, gso_size) == 0 && (bytes <= MIN_MTU || protocol == protocol::TCP) {
        return whole(bytes);
    }
    let first = header::first_byte(skb, 0).unwrap_or(0);
    let is_v6 = first >> 4 == 6;
    let network_bytes = if is_v6 { header::IPV6_HEADER_BYTES } else { u32::from(first & 0xf) * 4 };
    size::<W>(skb, Layout { network_bytes, is_v6 }, protocol, netns)
}

/// Bytes and packets that a packet becomes, or was, on the wire.
#[inline(always)]
pub fn size<W: Way>(skb: *mut __sk_buff, layout: Layout, protocol: u8, netns: u64) -> Size {
    let bytes = context!(skb, len);
    let segment_bytes = context!(skb, gso_size);
    if segment_bytes != 0 {
        segmented(skb, layout, protocol, segment_bytes)
    } else if bytes > MIN_MTU {
        fragmented::<W>(skb, layout, protocol, netns)
    } else {
        whole(bytes)
    }
}

/// A packet that is on the wire as it is here.
#[inline(always)]
fn whole(bytes: u32) -> Size {
    Size { bytes: u64::from(bytes), packets: 1, header_bytes: 0 }
}

/// Undoes segmentation offload: every segment has the headers again (net/core/gso.c, `skb_gso_segment`).
#[inline(always)]
fn segmented(skb: *mut __sk_buff, layout: Layout, protocol: u8, segment_bytes: u32) -> Size {
    let bytes = context!(skb, len);
    let headers = layout.network_bytes + header::transport_bytes(skb, layout.network_bytes, protocol);
    let payload = bytes.saturating_sub(headers);
    // `gso_segs` is not set on packets from a hypervisor (include/linux/virtio_net.h, `SKB_GSO_DODGY`).
    let packets = divide_up(payload, segment_bytes).max(1);
    repeated(bytes, packets, headers)
}

/// Undoes reassembly, and foresees fragmentation: every fragment has the IP header again (net/ipv4/ip_output.c,
/// `ip_do_fragment`; net/ipv6/ip6_output.c, `ip6_fragment`, which adds the fragment header to each).
#[inline(always)]
fn fragmented<W: Way>(skb: *mut __sk_buff, layout: Layout, protocol: u8, netns: u64) -> Size {
    let bytes = context!(skb, len);
    if protocol == protocol::TCP {
        return whole(bytes);
    }
    let mtu = mtu::<W>(skb, netns);
    if bytes <= mtu {
        return whole(bytes);
    }
    let added = if layout.is_v6 { 8 } else { 0 };
    let headers = layout.network_bytes + added;
    let room = mtu.saturating_sub(headers) & !7;
    let packets = divide_up(bytes - layout.network_bytes.min(bytes), room).max(1);
    // Devices count fragments as they are, so their headers are not kept apart.
    Size { header_bytes: 0, ..repeated(bytes + added, packets, headers) }
}

#[inline(always)]
fn divide_up(amount: u32, by: u32) -> u32 {
    if by == 0 { 1 } else { (amount + by - 1) / by }
}

#[inline(always)]
pub fn repeated(bytes: u32, packets: u32, headers: u32) -> Size {
    let header_bytes = u64::from(packets - 1) * u64::from(headers);
    Size { bytes: u64::from(bytes) + header_bytes, packets: u64::from(packets), header_bytes }
}

/// MTU of the packet's interface; of one that the agent has not seen yet Ethernet's, which is counted.
#[inline(always)]
fn mtu<W: Way>(skb: *mut __sk_buff, netns: u64) -> u32 {
    let interface = if W::IS_SENT { context!(skb, ifindex) } else { context!(skb, ingress_ifindex) };
    let key = netns << 32 | u64::from(interface);
    // SAFETY: the value is copied at once.
    if let Some(mtu) = unsafe { MTUS.get(&key) } {
        return *mtu;
    }
    // Loopback is the first interface of every network namespace (net/core/net_namespace.c, `loopback_net_init`).
    if interface == LOOPBACK {
        return u32::MAX;
    }
    if context!(skb, len) > ETHERNET_MTU {
        emit::count(Counter::AssumedMtu, 1);
    }
    ETHERNET_MTU
}
