//! What arrives for tunnels of this host: the kernel unwraps it before any program of a socket sees it.
//!
//! Attached only while there are tunnels, where packets come into the agent's network namespace.

use core::ptr::addr_of_mut;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_fib_lookup, bpf_sock_tuple},
    helpers::generated::{bpf_fib_lookup as look_up_route, bpf_sk_lookup_udp, bpf_sk_release},
};
use pktscope_common::{
    knobs::{settings, tunnels},
    state::{Tuple, class},
};

use crate::{
    device::{self, find, is_later_fragment},
    header::{self, Received, context, protocol},
    kernel,
    maps::{SETTINGS, SOCKETS},
    size::{Size, repeated},
};

/// `ETH_P_IP` and `ETH_P_IPV6` of include/uapi/linux/if_ether.h.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `PACKET_OTHERHOST` of include/uapi/linux/if_packet.h.
const OTHER_HOST: u32 = 3;
/// `BPF_FIB_LKUP_RET_NOT_FWDED` and `BPF_FIB_LKUP_RET_FWD_DISABLED` of include/uapi/linux/bpf.h.
const NOT_FORWARDED: i64 = 4;
const FORWARDING_DISABLED: i64 = 5;
/// `BPF_F_CURRENT_NETNS` of include/uapi/linux/bpf.h.
const CURRENT_NETNS: u64 = u64::MAX;
/// Where an IPv4 address begins in one of a tuple's.
const V4_AT: usize = 12;

/// A packet has arrived by a device.
#[inline(always)]
pub fn arrived(skb: *mut __sk_buff) {
    let Some(device) = find(context!(skb, ifindex)) else { return };
    let kind = u16::from_be(context!(skb, protocol) as u16);
    if kind != IPV4 && kind != IPV6 || context!(skb, pkt_type) == OTHER_HOST {
        return;
    }
    let mut tuple: Tuple = kernel::zeroed();
    if header::parse::<Received>(skb, device.link_header_bytes, &mut tuple).is_some()
        && is_for_tunnel(skb, device.link_header_bytes, &tuple)
        && stays_here(skb, &tuple)
    {
        device::add_received(&mut device.counts[class::KERNEL], size(skb, device.link_header_bytes));
    }
}

/// Whether a packet is of a kind that a tunnel of this host's takes.
#[inline(always)]
fn is_for_tunnel(skb: *mut __sk_buff, at: u32, tuple: &Tuple) -> bool {
    let kinds = SETTINGS.get(settings::TUNNELS).copied().unwrap_or(0);
    let wanted = match tuple.protocol {
        protocol::UDP => tunnels::UDP,
        protocol::IPIP => tunnels::IPIP,
        protocol::IPV6 => tunnels::IPV6,
        protocol::GRE => tunnels::GRE,
        protocol::ESP => tunnels::ESP,
        _ => 0,
    };
    if kinds & wanted == 0 {
        return false;
    }
    wanted != tunnels::UDP || !is_later_fragment(skb, at) && is_kernel_s(skb, tuple)
}

/// Whether the socket that a datagram is for is the kernel's own: it has no state, because no process made it
/// (net/ipv4/af_inet.c, `inet_create`) and none holds it.
#[inline(always)]
fn is_kernel_s(skb: *mut __sk_buff, tuple: &Tuple) -> bool {
    let ([from0, from1], [to0, to1]) = (tuple.remote_port, tuple.local_port);
    let ports = u32::from_ne_bytes([from0, from1, to0, to1]);
    if header::is_v6(tuple) {
        let ([f0, f1, f2, f3], [t0, t1, t2, t3]) = (words(&tuple.remote_addr), words(&tuple.local_addr));
        has_no_state(skb, &mut [f0, f1, f2, f3, t0, t1, t2, t3, ports])
    } else {
        has_no_state(skb, &mut [v4(&tuple.remote_addr), v4(&tuple.local_addr), ports])
    }
}

/// Looks up the socket that receives between two ends, laid out as a `bpf_sock_tuple`.
#[inline(always)]
fn has_no_state<const N: usize>(skb: *mut __sk_buff, ends: &mut [u32; N]) -> bool {
    let ends: *mut bpf_sock_tuple = ends.as_mut_ptr().cast();
    // SAFETY: the helper reads N words, the size of a tuple of IPv4 or of IPv6, and gives a socket or null.
    let sk = unsafe { bpf_sk_lookup_udp(skb.cast(), ends, (N * 4) as u32, CURRENT_NETNS, 0) };
    if sk.is_null() {
        return false;
    }
    let state = SOCKETS.get(sk.cast(), 0);
    // SAFETY: the socket that the look-up gave, released once.
    unsafe { bpf_sk_release(sk.cast()) };
    state.is_null()
}

/// Whether a packet is for this host and does not pass through.
#[inline(always)]
fn stays_here(skb: *mut __sk_buff, tuple: &Tuple) -> bool {
    let mut room = [0u64; size_of::<bpf_fib_lookup>() / 8];
    let params: *mut bpf_fib_lookup = room.as_mut_ptr().cast();
    let (is_v6, interface) = (header::is_v6(tuple), context!(skb, ifindex));
    // SAFETY: `room` is as large as the parameters, whose fields are integers.
    let result = unsafe {
        addr_of_mut!((*params).family).write(if is_v6 { AF_INET6 } else { AF_INET });
        addr_of_mut!((*params).l4_protocol).write(tuple.protocol);
        addr_of_mut!((*params).ifindex).write(interface);
        let source = addr_of_mut!((*params).__bindgen_anon_3).cast::<u32>();
        let destination = addr_of_mut!((*params).__bindgen_anon_4).cast::<u32>();
        if is_v6 {
            source.cast::<[u32; 4]>().write(words(&tuple.remote_addr));
            destination.cast::<[u32; 4]>().write(words(&tuple.local_addr));
        } else {
            source.write(v4(&tuple.remote_addr));
            destination.write(v4(&tuple.local_addr));
        }
        look_up_route(skb.cast(), params, size_of::<bpf_fib_lookup>() as i32, 0)
    };
    matches!(result, NOT_FORWARDED | FORWARDING_DISABLED)
}

/// An address as words in memory order; a tuple is aligned to words.
#[inline(always)]
fn words(addr: &[u8; 16]) -> [u32; 4] {
    let at: *const u32 = addr.as_ptr().cast();
    // SAFETY: four aligned words.
    unsafe { [*at, *at.add(1), *at.add(2), *at.add(3)] }
}

#[inline(always)]
fn v4(addr: &[u8; 16]) -> u32 {
    words(addr)[V4_AT / 4]
}

/// Bytes and packets on the wire. How long the headers of a super-packet are is known only where its last segment is
/// full; where it is not they are taken for shorter than they are, and the rest stays unknown.
#[inline(always)]
fn size(skb: *mut __sk_buff, link_header_bytes: u32) -> Size {
    let whole = context!(skb, len).saturating_sub(link_header_bytes);
    let (segment_bytes, segments) = (context!(skb, gso_size), context!(skb, gso_segs));
    if segment_bytes == 0 || segments == 0 {
        return Size { bytes: u64::from(whole), packets: 1, header_bytes: 0 };
    }
    repeated(whole, segments, whole.saturating_sub(segments * segment_bytes))
}
