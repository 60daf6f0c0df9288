//! What packet sockets send: past every hook of inet sockets, and counted where it leaves by a device.
//!
//! No hook sees a packet socket being made, so its state is made here, without an owner; who sends is stamped in process
//! context when the system call returns ([`crate::socket::sent`]). Its frames are counted in the peer table, which
//! outlives it: the end of a packet socket is not told either.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated::bpf_get_socket_cookie,
};
use pktscope_common::{
    counters::Counter,
    state::{DeviceState, PeerKey, SocketState, device, flags},
};

use crate::{
    device::find,
    emit,
    header::{self, Sent, context},
    kernel,
    maps::SOCKETS,
    packet, peer,
    size::Size,
};

/// `ETH_P_IP`, `ETH_P_IPV6`, `ETH_P_8021Q` and `ETH_P_8021AD` of include/uapi/linux/if_ether.h.
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const VLANS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
/// Bytes of a VLAN tag.
const VLAN_BYTES: u32 = 4;

/// What became of a frame.
pub enum Outcome {
    /// It is counted for its socket.
    Counted,
    /// It carries the socket's frame through a tunnel.
    Wrapped,
    /// The kernel had no memory for the socket's state.
    Refused,
}

/// Counts a frame for the packet socket that sent it.
#[inline(always)]
pub fn sent(skb: *mut __sk_buff, sk: *mut bpf_sock, device: &DeviceState, size: Size) -> Outcome {
    // SAFETY: a state of the map, or null.
    let Some(state) = (unsafe { SOCKETS.get(sk.cast(), u64::from(BPF_SK_STORAGE_GET_F_CREATE)).as_mut() }) else {
        emit::count(Counter::StorageFailed, 1);
        return Outcome::Refused;
    };
    if is_wrapped(skb, state, device) {
        return Outcome::Wrapped;
    }
    identify(skb, state);
    let mut key: PeerKey = kernel::zeroed();
    key.cookie = state.cookie;
    key.netns = state.netns;
    let is_ip = match network_at(skb, device.link_header_bytes) {
        Some(at) => header::parse::<Sent>(skb, at, &mut key.tuple).is_some(),
        None => false,
    };
    if !is_ip {
        key.tuple = kernel::zeroed();
    }
    let place = peer::place_frame(skb, sk, state, &mut key, if is_ip { 0 } else { flags::NOT_IP }, size);
    if !place.counts.is_null() {
        packet::add::<Sent>(place.counts, size);
    }
    Outcome::Counted
}

/// Whether the frame was seen before, at a tunnel.
#[inline(always)]
fn is_wrapped(skb: *mut __sk_buff, state: &mut SocketState, device: &DeviceState) -> bool {
    if device.flags & device::TUNNEL == 0 && state.interface != 0 && state.interface != context!(skb, ifindex) {
        return find(state.interface).is_some_and(|first| first.flags & device::TUNNEL != 0);
    }
    state.interface = context!(skb, ifindex);
    false
}

/// Fills in what identifies the socket.
#[inline(always)]
fn identify(skb: *mut __sk_buff, state: &mut SocketState) {
    state.flags |= flags::FRAMES;
    if state.cookie == 0 {
        // SAFETY: the helper takes the context of a packet that has a socket.
        state.cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    }
    if state.netns == 0 {
        state.netns = kernel::own_netns();
    }
}

/// Where a frame's IP header begins; `None` where it has none.
#[inline(always)]
fn network_at(skb: *mut __sk_buff, link_header_bytes: u32) -> Option<u32> {
    if link_header_bytes < 2 {
        return Some(link_header_bytes);
    }
    let mut at = link_header_bytes;
    let mut kind = header::load::<2>(skb, at - 2)?;
    if VLANS.contains(&kind) {
        at += VLAN_BYTES;
        kind = header::load::<2>(skb, at - 2)?;
    }
    if kind == IPV4 || kind == IPV6 { Some(at) } else { None }
}
