//! Attach points, one call each.

use core::ffi::c_void;

use aya_ebpf::{
    macros::{btf_tracepoint, cgroup_skb, cgroup_sock, cgroup_sock_addr, classifier, fentry, fexit, sock_ops},
    programs::{
        BtfTracePointContext, FEntryContext, FExitContext, SkBuffContext, SockAddrContext, SockContext, SockOpsContext,
        TcContext,
    },
};

use crate::{close, device, linger, packet, process, socket, tunnel};

/// Let the packet, or the system call, go on.
const ALLOW: i32 = 1;

/// Counts what a socket sends. `sk` is the full socket, a listener for its SYN-ACKs (include/linux/bpf-cgroup.h,
/// `BPF_CGROUP_RUN_PROG_INET_EGRESS`); segmentation and fragmentation are still to come (net/ipv4/ip_output.c,
/// `ip_finish_output`).
#[cgroup_skb(egress)]
#[inline(always)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    packet::count_sent(ctx.skb.skb);
    ALLOW
}

/// Does nothing: what `egress` is measured by.
#[cgroup_skb(egress)]
#[inline(always)]
pub fn empty(_ctx: SkBuffContext) -> i32 {
    ALLOW
}

/// `TC_ACT_UNSPEC` of include/uapi/linux/pkt_cls.h, and `TCX_NEXT`: go on as if this program were not there.
const NEXT: i32 = -1;

/// Counts what leaves by a device and no inet socket of this host sent (net/core/dev.c, `sch_handle_egress`).
#[classifier]
#[inline(always)]
pub fn tc_egress(ctx: TcContext) -> i32 {
    device::left(ctx.skb.skb);
    NEXT
}

/// Counts what arrives by a device for a tunnel of this host (net/core/dev.c, `sch_handle_ingress`).
#[classifier]
#[inline(always)]
pub fn tc_ingress(ctx: TcContext) -> i32 {
    tunnel::arrived(ctx.skb.skb);
    NEXT
}

/// Counts what a socket receives, before the protocol sees it (net/core/filter.c, `sk_filter_trim_cap`).
#[cgroup_skb(ingress)]
#[inline(always)]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    packet::count_received(ctx.skb.skb);
    ALLOW
}

/// Stamps the maker on a new socket (net/ipv4/af_inet.c, `inet_create`).
#[cgroup_sock(sock_create)]
#[inline(always)]
pub fn sock_create(ctx: SockContext) -> i32 {
    socket::created(ctx.sock);
    ALLOW
}

/// Reports the end of a socket that is not TCP (net/ipv4/af_inet.c, `inet_release`).
#[cgroup_sock(sock_release)]
#[inline(always)]
pub fn sock_release(ctx: SockContext) -> i32 {
    close::released(ctx.sock);
    ALLOW
}

/// Stamps who connects a socket.
#[cgroup_sock_addr(connect4)]
#[inline(always)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    socket::connected(ctx.sock_addr);
    ALLOW
}

/// Stamps who connects a socket.
#[cgroup_sock_addr(connect6)]
#[inline(always)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    socket::connected(ctx.sock_addr);
    ALLOW
}

/// Stamps who sends from an unconnected UDP socket, before the packet leaves.
#[cgroup_sock_addr(sendmsg4)]
#[inline(always)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    socket::sending(ctx.sock_addr);
    ALLOW
}

/// Stamps who sends from an unconnected UDP socket, before the packet leaves.
#[cgroup_sock_addr(sendmsg6)]
#[inline(always)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    socket::sending(ctx.sock_addr);
    ALLOW
}

/// Stamps who accepts a connection (net/ipv4/af_inet.c, `inet_getname`).
#[cgroup_sock_addr(getpeername4)]
#[inline(always)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    socket::accepted(ctx.sock_addr);
    ALLOW
}

/// Stamps who accepts a connection (net/ipv6/af_inet6.c, `inet6_getname`).
#[cgroup_sock_addr(getpeername6)]
#[inline(always)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    socket::accepted(ctx.sock_addr);
    ALLOW
}

/// Stamps who sends where `sock_send_length` is not there: the first argument is the `struct socket` (net/ipv4/af_inet.c).
#[fentry(function = "inet_sendmsg")]
#[inline(always)]
pub fn inet_sendmsg(ctx: FEntryContext) -> i32 {
    socket::sending_on(ctx.arg(0));
    0
}

/// The same for IPv6 (net/ipv6/af_inet6.c).
#[fentry(function = "inet6_sendmsg")]
#[inline(always)]
pub fn inet6_sendmsg(ctx: FEntryContext) -> i32 {
    socket::sending_on(ctx.arg(0));
    0
}

/// The same for sendfile and splice (net/ipv4/af_inet.c, up to Linux 6.4).
#[fentry(function = "inet_sendpage")]
#[inline(always)]
pub fn inet_sendpage(ctx: FEntryContext) -> i32 {
    socket::sending_on(ctx.arg(0));
    0
}

/// Stamps who sent: arguments are the socket, the result and the flags (include/trace/events/sock.h).
#[btf_tracepoint(function = "sock_send_length")]
#[inline(always)]
pub fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    socket::sent(ctx.arg(0));
    0
}

/// Stamps who sent from a packet socket, where `sock_send_length` is not there (net/packet/af_packet.c): the first
/// argument is the socket.
#[fexit(function = "packet_sendmsg")]
#[inline(always)]
pub fn packet_sendmsg(ctx: FExitContext) -> i32 {
    socket::sent_frames(ctx.arg(0));
    0
}

/// Reports the end of a TCP socket (include/trace/events/tcp.h; net/ipv4/tcp_ipv4.c, `tcp_v4_destroy_sock`).
#[btf_tracepoint(function = "tcp_destroy_sock")]
#[inline(always)]
pub fn tcp_destroy_sock(ctx: BtfTracePointContext) -> i32 {
    close::tcp_destroyed(ctx.arg(0));
    0
}

/// The same where the program before was not run: the kernel skips a tracing program on a processor on which an earlier run of
/// it was interrupted (kernel/trace/bpf_trace.c, `__bpf_trace_run`), and that run is not in this one too.
#[btf_tracepoint(function = "tcp_destroy_sock")]
#[inline(always)]
pub fn tcp_destroy_again(ctx: BtfTracePointContext) -> i32 {
    close::tcp_destroyed(ctx.arg(0));
    0
}

/// Reports the end of a TCP socket where tracing programs have no socket storage, below Linux 5.11.
#[sock_ops]
#[inline(always)]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    close::tcp_changed(&ctx);
    ALLOW as u32
}

/// Notes that a TCP socket was reset by the other side (net/ipv4/tcp_input.c, `tcp_reset`).
#[btf_tracepoint(function = "tcp_receive_reset")]
#[inline(always)]
pub fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    close::reset(ctx.arg(0), pktscope_common::state::flags::RESET_RECEIVED);
    0
}

/// Notes that a TCP socket was reset by this side (net/ipv4/tcp_output.c, `tcp_send_active_reset`; `sk` may be null).
#[btf_tracepoint(function = "tcp_send_reset")]
#[inline(always)]
pub fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    close::reset(ctx.arg(0), pktscope_common::state::flags::RESET_SENT);
    0
}

/// Counts what TIME_WAIT receives (include/trace/events/skb.h): arguments are the packet, where, why, and its socket,
/// which may be null.
#[btf_tracepoint(function = "kfree_skb")]
#[inline(always)]
pub fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    linger::dropped(ctx.arg(0), ctx.arg(3));
    0
}

/// Counts what TIME_WAIT receives where `kfree_skb` does not tell whose it was (net/ipv4/tcp_minisocks.c): arguments are
/// TIME_WAIT's socket and the packet.
#[fentry(function = "tcp_timewait_state_process")]
#[inline(always)]
pub fn tcp_timewait_state_process(ctx: FEntryContext) -> i32 {
    linger::taken_in(ctx.arg(1), ctx.arg(0));
    0
}

/// Reports a new image (fs/exec.c, `exec_binprm`): arguments are the task, its old pid and the `linux_binprm`.
#[btf_tracepoint(function = "sched_process_exec")]
#[inline(always)]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    process::executed(ctx.arg(0), ctx.arg(2));
    0
}

/// Reports a new process (kernel/fork.c, `kernel_clone`): arguments are parent and child.
#[btf_tracepoint(function = "sched_process_fork")]
#[inline(always)]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    process::forked(ctx.arg(0), ctx.arg(1));
    0
}

/// Reports the exit of a process's last thread (kernel/exit.c, `do_exit`).
#[btf_tracepoint(function = "sched_process_exit")]
#[inline(always)]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    process::exited(ctx.arg(0));
    0
}

/// Reports one socket of a sweep; called for every element of `SOCKETS` (net/core/bpf_sk_storage.c).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn sweep_sockets(ctx: *mut c_void) -> i32 {
    close::swept(ctx.cast())
}

/// Reports one open file of a sweep, if it is a socket, where the kernel is not safe to sweep their states; called for
/// every open file (kernel/bpf/task_iter.c).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn sweep_files(ctx: *mut c_void) -> i32 {
    close::swept_file(ctx.cast())
}

/// Reports one TCP socket of a sweep by files, which does not come by those that no process holds: in an accept queue, or
/// closed and still sending; called for every TCP socket of a network namespace (net/ipv4/tcp_ipv4.c).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn sweep_tcp(ctx: *mut c_void) -> i32 {
    close::swept_tcp(ctx.cast())
}

/// Stamps the holders of sockets older than the agent; called for every open file (kernel/bpf/task_iter.c).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn snapshot_files(ctx: *mut c_void) -> i32 {
    socket::held(ctx.cast());
    0
}
