//! The state of a packet's socket: looked up, or made where the socket has none.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_skc_to_mptcp_sock},
};
use pktscope_common::{
    counters::Counter,
    knobs::features,
    state::{PeerKey, PeerState, SocketState, flags},
};

use crate::{
    emit,
    header::{self, context, protocol},
    kernel,
    maps::SOCKETS,
    peer, slot,
};

/// `TCP_CLOSE` of include/net/tcp_states.h.
const TCP_CLOSE: u32 = 7;

/// The state of a packet's socket, looked up first where most of its protocol's are; null where it has none.
#[inline(always)]
pub fn state_of(skb: *mut __sk_buff, sk: *mut bpf_sock) -> *mut SocketState {
    if kernel::has_feature(features::SLOTS) && !looks_tcp(skb) {
        let state = SOCKETS.get(sk.cast(), 0);
        if !state.is_null() {
            return state;
        }
    }
    slot::state(sk.cast(), cookie_of(skb))
}

/// Whether a packet is TCP; not where IPv6 has extension headers.
#[inline(always)]
fn looks_tcp(skb: *mut __sk_buff) -> bool {
    let data = context!(skb, data) as usize as *const u8;
    let end = context!(skb, data_end) as usize as *const u8;
    // SAFETY: every load is behind a comparison with the packet's end, which the verifier demands.
    unsafe {
        if data.add(20) > end {
            return false;
        }
        let at = if *data >> 4 == 4 { 9 } else { 6 };
        *data.add(at) == protocol::TCP
    }
}

/// The cookie of a packet's socket, where that tells where its state is.
#[inline(always)]
fn cookie_of(skb: *mut __sk_buff) -> u64 {
    if !kernel::has_feature(features::SLOTS) {
        return 0;
    }
    // SAFETY: the helper takes the context.
    unsafe { bpf_get_socket_cookie(skb.cast()) }
}

/// Gives a state to a socket that has none: an accepted one has the owner that its handshake noted, any other is nobody's
/// and is counted like any other. Null for the kernel's control sockets, which are everybody's.
#[inline(always)]
pub fn new_state(skb: *mut __sk_buff, sk: *mut bpf_sock, key: &mut PeerKey) -> *mut SocketState {
    // The control sockets that send RSTs and TIME_WAIT's ACKs are raw and closed (net/ipv4/tcp_ipv4.c, `tcp_sk_init`).
    let is_tcp = key.tuple.protocol == protocol::TCP && context!(sk, state) != TCP_CLOSE;
    if !is_tcp && !header::has_port_numbers(key.tuple.protocol) {
        return core::ptr::null_mut();
    }
    key.netns = netns_of(skb);
    if is_tcp
        && kernel::has_feature(features::SLOTS)
        && let Some(handshake) = peer::find(key)
        && handshake.flags & flags::HANDSHAKE != 0
    {
        return accepted_state(skb, sk, key.netns, handshake);
    }
    let state = stored(sk);
    // SAFETY: a state, or null.
    if let Some(state) = unsafe { state.as_mut() } {
        state.netns = key.netns;
        own_subflow(state, sk);
    }
    state
}

/// Storage for a socket's state; null where there is no memory.
#[inline(always)]
fn stored(sk: *mut bpf_sock) -> *mut SocketState {
    let state = SOCKETS.get(sk.cast(), u64::from(BPF_SK_STORAGE_GET_F_CREATE));
    if state.is_null() {
        emit::count(Counter::StorageFailed, 1);
    }
    state
}

/// Gives a state to a socket that was accepted from a listener in a slot, which leaves nothing to what it accepts: the
/// owner stands with the handshake.
#[inline(always)]
fn accepted_state(skb: *mut __sk_buff, sk: *mut bpf_sock, netns: u64, handshake: &PeerState) -> *mut SocketState {
    let fill = |state: &mut SocketState| {
        state.netns = netns;
        state.user = handshake.user;
        state.creator = handshake.creator;
        state.flags = handshake.flags & (flags::UNOWNED | flags::SHARED);
        state.method = handshake.method;
    };
    let state = slot::claim(cookie_of(skb), fill);
    if !state.is_null() {
        return state;
    }
    let state = stored(sk);
    // SAFETY: a state, or null.
    if let Some(state) = unsafe { state.as_mut() } {
        fill(state);
    }
    state
}

/// Gives a subflow of MPTCP the owner of its connection: the kernel makes subflows itself (net/mptcp/subflow.c,
/// `mptcp_subflow_create_socket`). Any other socket is nobody's.
#[inline(always)]
fn own_subflow(state: &mut SocketState, sk: *mut bpf_sock) {
    state.flags = flags::UNOWNED;
    if !kernel::has_feature(features::MPTCP) {
        return;
    }
    // SAFETY: the helper takes any socket and gives null where it is no subflow.
    let connection = unsafe { bpf_skc_to_mptcp_sock(sk.cast()) };
    if connection.is_null() {
        return;
    }
    // SAFETY: a state of the same map, or null.
    if let Some(owned) = unsafe { SOCKETS.get(connection.cast(), 0).as_ref() } {
        state.user = owned.user;
        state.creator = owned.creator;
        state.method = owned.method;
        state.netns = owned.netns;
        state.flags = 0;
    }
}

/// Cookie of a packet's network namespace, where a packet can be asked for it; else 0.
#[inline(always)]
pub fn netns_of(skb: *mut __sk_buff) -> u64 {
    if !kernel::has_feature(features::SKB_NETNS) {
        return 0;
    }
    // SAFETY: the helper takes the context.
    unsafe { bpf_get_netns_cookie(skb.cast()) }
}
