//! Ownership: every hook here runs in the context of the process that it stamps.

use core::{ffi::c_void, ptr::addr_of};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr},
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_get_current_uid_gid,
        bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_skc_to_tcp_sock, bpf_sock_from_file,
    },
};
use pktscope_common::{
    counters::Counter,
    knobs::{Field, features},
    state::{SocketState, Stamp, flags, method},
};

use crate::{
    close, emit,
    header::{context, protocol},
    kernel::{self, Kernel},
    linger,
    maps::{NEW_PEERS, PEERS, SENDERS, SOCKETS},
    peer, slot,
};

const CREATE: u64 = BPF_SK_STORAGE_GET_F_CREATE as u64;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const AF_PACKET: u16 = 17;
/// `SOCK_RAW` of include/linux/net.h, `TCP_LISTEN` of include/net/tcp_states.h.
const SOCK_RAW: u32 = 3;
const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE_WAIT: u8 = 8;
const TCP_LISTEN: u8 = 10;

/// Process of the current task.
#[inline(always)]
fn current_pid() -> u32 {
    // SAFETY: takes no arguments.
    (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32
}

/// Writes the current process to a stamp.
#[inline(always)]
pub fn stamp_current(stamp: &mut Stamp) {
    stamp.pid = current_pid();
    // SAFETY: take no arguments.
    unsafe {
        stamp.uid = bpf_get_current_uid_gid() as u32;
        stamp.cgroup_id = bpf_get_current_cgroup_id();
    }
    stamp.started_at = kernel::current_start();
}

/// Stamps maker and user on a new socket.
#[inline(always)]
pub fn created(sock: *mut bpf_sock) {
    let mut maker: Stamp = kernel::zeroed();
    stamp_current(&mut maker);
    // SAFETY: the context is what both helpers take in `cgroup_sock` programs.
    let (cookie, netns) = unsafe { (bpf_get_socket_cookie(sock.cast()), bpf_get_netns_cookie(sock.cast())) };
    let is_raw = context!(sock, type_) == SOCK_RAW;
    let fill = |state: &mut SocketState| {
        state.creator = maker;
        state.user = maker;
        state.method = method::CREATE;
        state.netns = netns;
        state.flags = if is_raw { flags::RAW } else { 0 };
    };
    if close::is_tcp(sock) && slot::are_given() && !slot::claim(cookie, fill).is_null() {
        return;
    }
    let Some(state) = (unsafe { SOCKETS.get(sock.cast(), CREATE).as_mut() }) else {
        return emit::count(Counter::StorageFailed, 1);
    };
    fill(state);
    state.cookie = cookie;
}

/// Makes the current process a socket's user where it is not yet.
#[inline(always)]
fn refresh(state: &mut SocketState, how: u8) {
    if state.user.pid == current_pid() {
        return;
    }
    stamp_current(&mut state.user);
    state.method = how;
}

/// The cookie of the socket that a call with an address is about.
#[inline(always)]
fn cookie_at(ctx: *mut bpf_sock_addr) -> u64 {
    if !kernel::has_feature(features::SLOTS) {
        return 0;
    }
    // SAFETY: the helper takes the context.
    unsafe { bpf_get_socket_cookie(ctx.cast()) }
}

/// The state of a socket met in a tracing program; null where it has none.
#[inline(always)]
pub fn traced_state(sk: *mut c_void) -> *mut SocketState {
    slot::state(sk, cookie_of(sk))
}

/// The cookie of a socket met in a tracing program; 0 where it has none yet, or none is needed.
#[inline(always)]
pub fn cookie_of(sk: *mut c_void) -> u64 {
    if kernel::has_feature(features::SLOTS) { kernel::read(sk as Kernel, Field::SockCookie) } else { 0 }
}

/// A process connects a socket: it becomes its user, and an earlier connection is over.
#[inline(always)]
pub fn connected(ctx: *mut bpf_sock_addr) {
    // SAFETY: a load from the context; the verifier knows the result as a socket.
    let sk = unsafe { (*ctx).__bindgen_anon_1.sk };
    let Some(state) = (unsafe { slot::state(sk.cast(), cookie_at(ctx)).as_mut() }) else { return };
    refresh(state, method::CONNECT);
    if state.flags & flags::REGISTERED != 0 {
        close::reconnected(state);
    }
}

/// A process sends from an unconnected socket.
#[inline(always)]
pub fn sending(ctx: *mut bpf_sock_addr) {
    // SAFETY: as above.
    let sk = unsafe { (*ctx).__bindgen_anon_1.sk };
    if let Some(state) = unsafe { SOCKETS.get(sk.cast(), 0).as_mut() } {
        refresh(state, method::SEND);
    }
}

/// A process accepts a connection and asks whose it is, as most do (net/socket.c, `do_accept`), or asks again.
#[inline(always)]
pub fn accepted(ctx: *mut bpf_sock_addr) {
    // SAFETY: as above.
    let sk = unsafe { (*ctx).__bindgen_anon_1.sk };
    let cookie = cookie_at(ctx);
    let mut found = slot::state(sk.cast(), cookie);
    if found.is_null() {
        accepted_early(sk);
        // Its first packet may have come meanwhile.
        found = slot::state(sk.cast(), cookie);
    }
    // SAFETY: a state, or null.
    let Some(state) = (unsafe { found.as_mut() }) else { return };
    let is_named = matches!(state.method, method::ACCEPTED | method::SEND | method::CONNECT);
    if is_named
        || state.flags & (flags::ACTIVE | flags::OLD) != 0
        || context!(ctx, protocol) != u32::from(protocol::TCP)
    {
        return;
    }
    refresh(state, method::ACCEPTED);
    state.method = method::ACCEPTED;
}

/// Stamps who accepts a connection that nothing has come by yet: its first packet finds the owner with the handshake.
#[inline(always)]
fn accepted_early(sk: *mut bpf_sock) {
    if !kernel::has_feature(features::SLOTS) {
        return;
    }
    // SAFETY: the helper takes a socket, and gives null for what is not TCP.
    let tcp: Kernel = unsafe { bpf_skc_to_tcp_sock(sk.cast()) }.cast_const().cast();
    if tcp.is_null() {
        return;
    }
    if let Some(handshake) = peer::find(&linger::key_of(tcp))
        && handshake.flags & flags::HANDSHAKE != 0
    {
        if handshake.user.pid != current_pid() {
            stamp_current(&mut handshake.user);
        }
        handshake.method = method::ACCEPTED;
    }
}

/// `PF_KTHREAD` of include/linux/sched.h.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// The last holder lets go of a socket: where nobody was seen accepting it or sending on it, that is its user. Not where
/// the kernel does it for somebody else (net/unix/garbage.c, `unix_gc`).
#[inline(always)]
pub fn held_last(state: &mut SocketState) {
    if state.method != method::ACCEPT || state.user.pid == current_pid() || is_kernel_thread() {
        return;
    }
    refresh(state, method::CLOSE);
}

/// Whether the current task is a thread of the kernel, where that can be read.
#[inline(always)]
fn is_kernel_thread() -> bool {
    if !kernel::has_feature(features::TASK_BTF) {
        return false;
    }
    // SAFETY: takes no arguments; never null.
    let task = unsafe { bpf_get_current_task_btf() as usize as Kernel };
    kernel::read::<u32>(task, Field::TaskFlags) & KERNEL_THREAD != 0
}

/// A process is about to send on a socket.
#[inline(always)]
pub fn sending_on(socket: Kernel) {
    let Some(sk) = kernel::follow(socket, Field::SocketSk) else { return };
    if kernel::has_feature(features::NO_TRACING_STORAGE) {
        return remember_sender(sk);
    }
    let sk = sk.cast_mut().cast();
    match unsafe { traced_state(sk).as_mut() } {
        Some(state) => refresh(state, method::SEND),
        None => adopt(sk),
    }
}

/// Remembers the current process as a socket's last sender; a socket without a cookie is not watched.
#[inline(always)]
fn remember_sender(sk: Kernel) {
    let cookie: u64 = kernel::read(sk, Field::SockCookie);
    // SAFETY: the value is read at once.
    if unsafe { SENDERS.get(&cookie) }.is_some_and(|sender| sender.pid == current_pid()) || cookie == 0 {
        return;
    }
    let mut sender: Stamp = kernel::zeroed();
    stamp_current(&mut sender);
    // Where there is no room, the user stays who it was.
    let _ = SENDERS.insert(&cookie, &sender, 0);
}

/// Makes a socket's last sender its user, where that is remembered apart.
#[inline(always)]
pub fn recall_sender(state: &mut SocketState) {
    if !kernel::has_feature(features::NO_TRACING_STORAGE) {
        return;
    }
    // SAFETY: reads a field; volatile, so that the copy is made: a key must lie on the stack.
    let cookie = unsafe { addr_of!(state.cookie).read_volatile() };
    // SAFETY: as above.
    if let Some(sender) = unsafe { SENDERS.get(&cookie) }
        && sender.pid != state.user.pid
    {
        state.user = *sender;
        state.method = method::SEND;
    }
}

/// A process has sent.
#[inline(always)]
pub fn sent(sk: *mut c_void) {
    match unsafe { traced_state(sk).as_mut() } {
        Some(state) if state.flags & flags::SENT_TO_PEER == 0 => refresh(state, method::SEND),
        Some(state) => {
            if state.flags & flags::PEER_IS_NEW != 0 {
                refresh_peer(sk, state);
            }
            // All that a packet socket sends is counted with its peers.
            if state.flags & flags::FRAMES != 0 {
                refresh(state, method::SEND);
            }
        }
        None => adopt(sk),
    }
}

/// A process has sent on a packet socket.
#[inline(always)]
pub fn sent_frames(socket: Kernel) {
    let Some(sk) = kernel::follow(socket, Field::SocketSk) else { return };
    if kernel::has_feature(features::NO_TRACING_STORAGE) {
        // Its first frame gave it a cookie; the agent joins the two.
        return remember_sender(sk);
    }
    sent(sk.cast_mut().cast());
}

/// Makes the current process the user of the new peer that it has just sent to.
#[inline(always)]
fn refresh_peer(sk: *mut c_void, state: &mut SocketState) {
    state.flags &= !flags::PEER_IS_NEW;
    if state.user.pid == current_pid() {
        return;
    }
    let Some(key) = (unsafe { NEW_PEERS.get(sk, 0).as_ref() }) else { return };
    // On the stack, where a map's key must be.
    let key = *key;
    if let Some(peer) = PEERS.get_ptr_mut(&key) {
        // SAFETY: an entry of the map; entries are reused only after a grace period.
        let peer = unsafe { &mut *peer };
        stamp_current(&mut peer.user);
        peer.method = method::SEND;
    }
}

/// Gives a state to a socket that has none and that a process has sent on: one that no hook saw being made, as
/// AF_PACKET sockets, or a child in the accept queue of a listener older than the agent.
#[inline(always)]
fn adopt(sk: *mut c_void) {
    let family: u16 = kernel::read(sk as Kernel, Field::SockFamily);
    if family != AF_INET && family != AF_INET6 && family != AF_PACKET {
        return;
    }
    let Some(state) = (unsafe { SOCKETS.get(sk, CREATE).as_mut() }) else {
        return emit::count(Counter::StorageFailed, 1);
    };
    identify(state, sk);
    mark_old(state, sk as Kernel);
    refresh(state, method::SEND);
}

/// Fills in cookie and network namespace of a socket met in a tracing program.
#[inline(always)]
fn identify(state: &mut SocketState, sk: *mut c_void) {
    // SAFETY: the helper takes a socket in tracing programs (since 5.12).
    state.cookie = unsafe { bpf_get_socket_cookie(sk) };
    if let Some(net) = kernel::follow(sk as Kernel, Field::SockNet) {
        state.netns = kernel::read(net, Field::NetCookie);
    }
}

/// Context of `iter/task_file` (kernel/bpf/task_iter.c, `bpf_iter__task_file`).
#[repr(C)]
pub struct TaskFile {
    meta: u64,
    task: Kernel,
    fd: u64,
    file: *mut c_void,
}

/// Stamps the holder of a socket that is older than the agent.
#[inline(always)]
pub fn held(ctx: *const TaskFile) {
    // SAFETY: a load from the context, which the verifier types.
    let task = unsafe { (*ctx).task };
    if task.is_null() {
        return;
    }
    if let Some(sk) = socket_of(ctx) {
        hold(sk, task);
    }
}

/// The socket that an open file is, if it is of a family that is counted.
#[inline(always)]
pub fn socket_of(ctx: *const TaskFile) -> Option<*mut c_void> {
    // SAFETY: a load from the context, which the verifier types.
    let file = unsafe { (*ctx).file };
    if file.is_null() {
        return None;
    }
    // SAFETY: the verifier knows `file` as a `struct file`.
    let socket: Kernel = unsafe { bpf_sock_from_file(file.cast()) }.cast_const().cast();
    if socket.is_null() {
        return None;
    }
    let sk = kernel::follow(socket, Field::SocketSk)?;
    let family: u16 = kernel::read(sk, Field::SockFamily);
    let is_counted = family == AF_INET || family == AF_INET6 || family == AF_PACKET;
    if is_counted { Some(sk.cast_mut().cast()) } else { None }
}

/// The first holder found becomes the user; others make the socket shared.
#[inline(always)]
fn hold(sk: *mut c_void, task: Kernel) {
    if !slot::find(cookie_of(sk)).is_null() {
        // Younger than the agent: its maker is known.
        return;
    }
    let Some(state) = (unsafe { SOCKETS.get(sk, CREATE).as_mut() }) else {
        return emit::count(Counter::StorageFailed, 1);
    };
    let pid: u32 = kernel::read(task, Field::TaskTgid);
    if state.user.pid == 0 {
        identify(state, sk);
        stamp_task(&mut state.user, task);
        mark_old(state, sk as Kernel);
        state.method = method::SNAPSHOT;
    } else if state.method == method::SNAPSHOT && state.user.pid != pid {
        state.flags |= flags::SHARED;
    }
}

/// A socket older than the agent has a past that was not counted; what a listener accepts from now on has none.
#[inline(always)]
fn mark_old(state: &mut SocketState, sk: Kernel) {
    if kernel::read::<u8>(sk, Field::SockState) != TCP_LISTEN {
        state.flags |= flags::OLD | opening(sk);
    }
    if kernel::read::<u16>(sk, Field::SockType) == SOCK_RAW as u16 {
        state.flags |= flags::RAW;
    }
}

/// Which side opened an established connection: a SYN that was acknowledged counts as an acknowledged byte
/// (net/ipv4/tcp_input.c, `tcp_snd_una_update`), but never as one sent, and an accepted socket starts behind its SYN.
#[inline(always)]
fn opening(sk: Kernel) -> u32 {
    // SAFETY: the helper takes a typed socket, and gives null for what is not TCP.
    let tcp: Kernel = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast()) }.cast_const().cast();
    if tcp.is_null() {
        return 0;
    }
    let state: u8 = kernel::read(sk, Field::SockState);
    if state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT {
        return 0;
    }
    let sent: u64 = kernel::read(tcp, Field::TcpBytesSent);
    let again: u64 = kernel::read(tcp, Field::TcpBytesRetransmitted);
    let acknowledged: u64 = kernel::read(tcp, Field::TcpBytesAcked);
    let next: u32 = kernel::read(tcp, Field::TcpSndNxt);
    let pending = next.wrapping_sub(kernel::read(tcp, Field::TcpSndUna));
    if acknowledged + u64::from(pending) > sent.wrapping_sub(again) { flags::ACTIVE } else { flags::PASSIVE }
}

/// Writes a task's process to a stamp.
#[inline(always)]
pub fn stamp_task(stamp: &mut Stamp, task: Kernel) {
    stamp.pid = kernel::read(task, Field::TaskTgid);
    stamp.started_at = kernel::start_of(task);
    if let Some(cred) = kernel::follow(task, Field::TaskCred) {
        stamp.uid = kernel::read(cred, Field::CredEuid);
    }
    stamp.cgroup_id = cgroup_of(task);
}

/// cgroup2 id of a task; 0 where it cannot be read.
#[inline(always)]
fn cgroup_of(task: Kernel) -> u64 {
    let Some(set) = kernel::follow(task, Field::TaskCgroups) else { return 0 };
    let Some(cgroup) = kernel::follow(set, Field::CssSetDefaultCgroup) else { return 0 };
    let Some(node) = kernel::follow(cgroup, Field::CgroupNode) else { return 0 };
    kernel::read(node, Field::KernfsId)
}
