//! Reports of sockets: at their end, and when a sweep finds that they have grown.

use core::{ffi::c_void, mem::MaybeUninit, ptr::addr_of_mut};

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock,
    },
    helpers::generated::{bpf_get_socket_cookie, bpf_skc_to_tcp_sock},
    programs::SockOpsContext,
};
use pktscope_common::{
    counters::Counter,
    knobs::{Field, features, settings},
    record::{RecordKind, SocketRecord},
    state::{SocketState, flags},
};

use crate::{
    emit,
    header::{context, protocol},
    kernel::{self, Kernel},
    maps::{FRAME_SOCKETS, SETTINGS, SOCKETS},
    peer, slot,
    socket::{self, TaskFile},
};

/// `SOCK_DONE` of include/net/sock.h: the other side's FIN was received (net/ipv4/tcp_input.c, `tcp_fin`).
const SOCK_DONE: u64 = 1 << 1;

/// What only the kernel's own structure tells of a TCP socket.
#[derive(Clone, Copy, Default)]
struct TcpDetail {
    payload_sent_bytes: u64,
    payload_received_bytes: u64,
    retransmitted: u32,
    srtt_us: u32,
    flags: u32,
    error: u16,
    state: u8,
}

/// A socket is released by its last holder: the end of one that is not TCP. Of an accepted TCP socket that nobody was seen
/// using it tells who did.
#[inline(always)]
pub fn released(sock: *mut bpf_sock) {
    let is_tcp = is_tcp(sock);
    // SAFETY: the helper takes the context.
    let cookie = if is_tcp { unsafe { bpf_get_socket_cookie(sock.cast()) } } else { 0 };
    let Some(state) = (unsafe { slot::state(sock.cast(), cookie).as_mut() }) else { return };
    if is_tcp {
        socket::held_last(state);
        if kernel::has_feature(features::NO_TRACING_STORAGE) {
            released_old(state);
        }
    } else {
        end(state, TcpDetail::default());
    }
}

/// `SOCK_STREAM` of include/linux/net.h.
const SOCK_STREAM: u32 = 1;

/// Whether a socket's end is told as TCP's: a raw socket may have its protocol number.
#[inline(always)]
pub fn is_tcp(sock: *mut bpf_sock) -> bool {
    context!(sock, protocol) == u32::from(protocol::TCP) && context!(sock, type_) == SOCK_STREAM
}

/// A TCP connection older than the agent, whose end nothing tells of (see [`tcp_changed`]): from now on each of its few
/// last packets is reported.
#[inline(always)]
fn released_old(state: &mut SocketState) {
    if state.flags & (flags::OLD | flags::REGISTERED) == flags::OLD | flags::REGISTERED {
        state.flags = state.flags & !flags::FAST_TCP | flags::RELEASED;
        told(state, TcpDetail::default());
    }
}

/// Reports what was not reported yet of an open socket.
#[inline(always)]
fn told(state: &mut SocketState, tcp: TcpDetail) {
    if report_or_keep(RecordKind::SocketOpen, state, tcp) {
        state.reported_packets = packets(state);
    }
}

/// A TCP socket dies: closed, or replaced by a TIME_WAIT one. Two programs see it; the first that is run reports it.
#[inline(always)]
pub fn tcp_destroyed(sk: *mut c_void) {
    let Some(state) = (unsafe { socket::traced_state(sk).as_mut() }) else { return };
    if state.flags & (flags::REGISTERED | flags::ENDED) == flags::REGISTERED {
        state.flags |= flags::ENDED;
        tcp_ended(sk, state);
    }
    slot::free(socket::cookie_of(sk));
}

#[inline(always)]
fn tcp_ended(sk: *mut c_void, state: &mut SocketState) {
    let tcp = tcp_detail(sk);
    if may_linger(state.flags | tcp.flags) && tcp.error == 0 && is_lingering_told(state) {
        state.flags |= flags::LINGERS;
    }
    end(state, tcp);
}

/// Whether a TIME_WAIT connection takes over that still waits for the other side's FIN (net/ipv4/tcp_input.c,
/// `tcp_rcv_state_process`, TCP_FIN_WAIT1): this side closed first and nobody reset.
#[inline(always)]
fn may_linger(bits: u32) -> bool {
    bits & (flags::ESTABLISHED | flags::FIN_RECEIVED | flags::RESET_RECEIVED | flags::RESET_SENT) == flags::ESTABLISHED
}

/// Whether the FIN that TIME_WAIT receives will be told with this socket's cookie.
#[inline(always)]
fn is_lingering_told(state: &SocketState) -> bool {
    kernel::has_feature(features::SILENT_TIME_WAIT) || peer::expect_lingering(state)
}

/// `TCP_CLOSE` of include/net/tcp_states.h.
const TCP_CLOSE: u32 = 7;

/// `TCP_ESTABLISHED`, `TCP_SYN_RECV` and `TCP_CLOSE_WAIT` of include/net/tcp_states.h.
const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_RECV: u32 = 3;
const TCP_CLOSE_WAIT: u32 = 8;

/// A TCP socket connects, is accepted, or changes its state: asks to be told of changes, and reports the last.
#[inline(always)]
pub fn tcp_changed(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            // An accepted socket gets its cookie, which who sends is remembered by.
            // SAFETY: the helper takes the context.
            unsafe { bpf_get_socket_cookie(ctx.ops.cast()) };
            // Where the socket is no full one there is no end to tell of.
            let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
        }
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == TCP_CLOSE => closed(ctx),
        _ => {}
    }
}

/// A TCP socket is closed (net/ipv4/tcp.c, `tcp_set_state`, before the state changes).
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let sk = context!(ctx.ops, __bindgen_anon_2.sk);
    if sk.is_null() {
        return;
    }
    let Some(state) = (unsafe { SOCKETS.get(sk.cast(), 0).as_mut() }) else { return };
    if state.flags & flags::REGISTERED == 0 {
        return;
    }
    let tcp = tcp_detail(sk.cast());
    // Only a reset ends an open connection without an error of the socket, and it is still to be sent
    // (net/ipv4/tcp.c, `__tcp_close`, `tcp_disconnect`): its packet reports the end.
    if tcp.error == 0 && matches!(ctx.arg(0), TCP_ESTABLISHED | TCP_SYN_RECV | TCP_CLOSE_WAIT) {
        state.flags = state.flags & !flags::FAST_TCP | flags::RESET_SENT | tcp.flags;
        return;
    }
    if may_linger(state.flags | tcp.flags) && tcp.error == 0 && is_lingering_told(state) {
        state.flags |= flags::LINGERS;
    }
    end(state, tcp);
}

/// A packet was counted of a socket that may be closed already: then it was the reset that is the socket's end.
#[inline(always)]
pub fn counted_late(sk: *mut bpf_sock, state: &mut SocketState) {
    if state.flags & flags::RELEASED != 0 {
        told(state, tcp_detail(sk.cast()));
    } else if state.flags & flags::RESET_SENT != 0 && context!(sk, state) == TCP_CLOSE {
        end(state, tcp_detail(sk.cast()));
    }
}

/// A socket connects again: its earlier connection is over.
#[inline(always)]
pub fn reconnected(state: &mut SocketState) {
    end(state, TcpDetail::default());
    state.counts = kernel::zeroed();
    state.reported_packets = 0;
    state.flags &= flags::UNOWNED | flags::SHARED | flags::RAW | flags::HAS_PEERS;
}

/// A reset is noted with its socket.
#[inline(always)]
pub fn reset(sk: *mut c_void, bit: u32) {
    if sk.is_null() {
        return;
    }
    if let Some(state) = unsafe { socket::traced_state(sk).as_mut() } {
        state.flags |= bit;
    }
}

/// Reports a socket's end; keeps the report where the ring is full. Where there is no room for that either its bytes are
/// counted as lost.
#[inline(always)]
fn end(state: &mut SocketState, tcp: TcpDetail) {
    if state.flags & flags::REGISTERED == 0 {
        return;
    }
    if !report_or_keep(RecordKind::SocketEnd, state, tcp) {
        emit::count(Counter::EndRingFullSentBytes, state.counts.sent_bytes);
        emit::count(Counter::EndRingFullReceivedBytes, state.counts.received_bytes);
    }
    state.reported_packets = packets(state);
}

#[inline(always)]
fn packets(state: &SocketState) -> u64 {
    state.counts.sent_packets + state.counts.received_packets
}

/// Context of `iter/bpf_sk_storage_map` (net/core/bpf_sk_storage.c, `bpf_iter__bpf_sk_storage_map`).
#[repr(C)]
pub struct SocketElement {
    meta: u64,
    map: u64,
    sk: *mut c_void,
    value: *mut SocketState,
}

/// Go on with the next element; come back to this one, once the agent has made room (kernel/bpf/bpf_iter.c,
/// `bpf_iter_run_prog`).
const NEXT: i32 = 0;
const RETRY: i32 = 1;

/// Reports a socket that has seen packets since its last report.
#[inline(always)]
pub fn swept(ctx: *const SocketElement) -> i32 {
    let sk = context!(ctx, sk);
    let value = context!(ctx, value);
    match unsafe { value.as_mut() } {
        Some(state) if !sk.is_null() => swept_socket(sk, state),
        _ => NEXT,
    }
}

/// The same for a socket that a process holds.
#[inline(always)]
pub fn swept_file(ctx: *const TaskFile) -> i32 {
    match socket::socket_of(ctx) {
        Some(sk) => swept_one(sk),
        None => NEXT,
    }
}

/// The same for a socket met elsewhere than with its storage.
#[inline(always)]
fn swept_one(sk: *mut c_void) -> i32 {
    let is_swept_otherwise = SETTINGS.get(settings::SWEEP_SLOTS_ONLY).copied().unwrap_or(0) != 0;
    let state = if is_swept_otherwise { slot::find(socket::cookie_of(sk)) } else { socket::traced_state(sk) };
    match unsafe { state.as_mut() } {
        Some(state) => swept_socket(sk, state),
        None => NEXT,
    }
}

/// Context of `iter/tcp` (net/ipv4/tcp_ipv4.c, `bpf_iter__tcp`).
#[repr(C)]
pub struct TcpSocket {
    meta: u64,
    sk: *mut c_void,
    uid: u64,
}

/// The same for a TCP socket of the agent's network namespace, whether or not a process holds it.
#[inline(always)]
pub fn swept_tcp(ctx: *const TcpSocket) -> i32 {
    let sk = context!(ctx, sk);
    if sk.is_null() {
        return NEXT;
    }
    // SAFETY: the helper takes any socket, and gives null for requests and TIME_WAIT.
    let sk: *mut c_void = unsafe { bpf_skc_to_tcp_sock(sk) }.cast();
    if sk.is_null() {
        return NEXT;
    }
    swept_one(sk)
}

#[inline(always)]
fn swept_socket(sk: *mut c_void, state: &mut SocketState) -> i32 {
    if state.flags & flags::REGISTERED == 0 {
        note_frames(state);
        return NEXT;
    }
    let packets = packets(state);
    if packets == state.reported_packets && !is_full_sweep() {
        return NEXT;
    }
    if !report(RecordKind::SocketOpen, Counter::SweepRingFull, state, tcp_detail(sk)) {
        return RETRY;
    }
    state.reported_packets = packets;
    NEXT
}

/// Notes that a packet socket is still there.
#[inline(always)]
fn note_frames(state: &SocketState) {
    if state.flags & flags::FRAMES != 0 {
        let cookie = state.cookie;
        let sweep = SETTINGS.get(settings::SWEEP).copied().unwrap_or(0);
        // Where there is no room its flows are told to end, and begin anew.
        let _ = FRAME_SOCKETS.insert(&cookie, &sweep, 0);
    }
}

#[inline(always)]
fn is_full_sweep() -> bool {
    SETTINGS.get(settings::FULL_SWEEP).copied().unwrap_or(0) != 0
}

/// Reads a TCP socket, which begins with its `sock` (include/linux/tcp.h); zeros for any other.
#[inline(always)]
fn tcp_detail(sk: *mut c_void) -> TcpDetail {
    // SAFETY: the helper takes any socket and gives null where it is not TCP.
    let tcp: Kernel = unsafe { bpf_skc_to_tcp_sock(sk) }.cast_const().cast();
    if tcp.is_null() {
        return TcpDetail::default();
    }
    let sent: u64 = kernel::read(tcp, Field::TcpBytesSent);
    let again: u64 = kernel::read(tcp, Field::TcpBytesRetransmitted);
    let received: u64 = kernel::read(tcp, Field::TcpBytesReceived);
    let has_fin = kernel::read::<u64>(tcp, Field::SockFlags) & SOCK_DONE != 0;
    let is_established = kernel::read::<u32>(tcp, Field::TcpRcvNxt) != 0;
    TcpDetail {
        payload_sent_bytes: sent.wrapping_sub(again),
        // The FIN takes a place in the sequence (net/ipv4/tcp_input.c, `tcp_rcv_nxt_update`).
        payload_received_bytes: received.wrapping_sub(u64::from(has_fin)),
        retransmitted: kernel::read(tcp, Field::TcpTotalRetransmitted),
        // Eighths (include/linux/tcp.h).
        srtt_us: kernel::read::<u32>(tcp, Field::TcpSrtt) >> 3,
        flags: if has_fin { flags::FIN_RECEIVED } else { 0 } | if is_established { flags::ESTABLISHED } else { 0 },
        error: kernel::read::<u32>(tcp, Field::SockErr) as u16,
        state: kernel::read(tcp, Field::SockState),
    }
}

#[inline(always)]
fn report(kind: RecordKind, loss: Counter, state: &mut SocketState, tcp: TcpDetail) -> bool {
    socket::recall_sender(state);
    emit::record::<SocketRecord>(loss, |slot| fill(slot, kind, state, tcp))
}

/// The same for a report that cannot be repeated.
#[inline(always)]
fn report_or_keep(kind: RecordKind, state: &mut SocketState, tcp: TcpDetail) -> bool {
    socket::recall_sender(state);
    let state = &*state;
    emit::record_or_keep::<SocketRecord>(state.cookie, Counter::EndRingFull, |slot| fill(slot, kind, state, tcp))
}

/// Fills a record field by field: built on the stack first, it would be copied once more.
#[inline(always)]
fn fill(slot: &mut MaybeUninit<SocketRecord>, kind: RecordKind, state: &SocketState, tcp: TcpDetail) {
    let record = slot.as_mut_ptr();
    // SAFETY: the record is reserved at its full size, and every field of it is written.
    unsafe {
        addr_of_mut!((*record).header).write(emit::header::<SocketRecord>(kind));
        addr_of_mut!((*record).cookie).write(state.cookie);
        addr_of_mut!((*record).netns).write(state.netns);
        addr_of_mut!((*record).started_at).write(state.started_at);
        addr_of_mut!((*record).counts).write(state.counts);
        addr_of_mut!((*record).tuple).write(state.tuple);
        addr_of_mut!((*record).user).write(state.user);
        addr_of_mut!((*record).creator).write(state.creator);
        addr_of_mut!((*record).payload_sent_bytes).write(tcp.payload_sent_bytes);
        addr_of_mut!((*record).payload_received_bytes).write(tcp.payload_received_bytes);
        addr_of_mut!((*record).retransmitted).write(tcp.retransmitted);
        addr_of_mut!((*record).srtt_us).write(tcp.srtt_us);
        addr_of_mut!((*record).interface).write(state.interface);
        addr_of_mut!((*record).flags).write(state.flags | tcp.flags);
        addr_of_mut!((*record).error).write(tcp.error);
        addr_of_mut!((*record).tcp_state).write(tcp.state);
        addr_of_mut!((*record).method).write(state.method);
        addr_of_mut!((*record).reserved).write(0);
    }
}
