//! Every hook that the sensor uses, what it needs of the kernel, and what is lost without it.

use pktscope_common::knobs::Field;

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `cgroup_skb/egress`.
    Egress,
    /// `cgroup_skb/ingress`.
    Ingress,
    /// `cgroup/sock_create`, `cgroup/sock_release`.
    CgroupSock,
    /// `cgroup/connect4` and its like.
    CgroupSockAddr,
    /// `cgroup/sock_ops`.
    SockOps,
    /// The BTF tracepoint that the attach point names.
    Tracepoint,
    /// The exit of a kernel function of the program's own name.
    FunctionExit,
    /// Every network device's way out: TCX, else clsact.
    DeviceEgress,
    /// The way in where packets come into the network namespace, while there are tunnels.
    DeviceIngress,
    /// The entry of a kernel function of the program's own name.
    Function,
    /// The iterator over the sockets' states that are in storage.
    SocketIterator,
    /// The iterator over open files, run once.
    FileIterator,
    /// The iterator over open files, run again and again.
    FileSweep,
    /// The iterator over the TCP sockets of a network namespace.
    TcpSweep,
    /// No program: `/proc` and descriptors of our own, read once.
    Descriptors,
}

/// When a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing works without it.
    Required,
    /// Wherever the kernel lets it.
    Wanted,
    /// Only where the program named was refused.
    InsteadOf(&'static str),
    /// The same, or where sockets have slots, which it does not come by.
    BesideSlots(&'static str),
    /// Only to measure others by.
    Reference,
}

impl Need {
    /// The program that makes this one needless, if it runs.
    pub(super) fn stands_in_for(self, has_slots: bool) -> Option<&'static str> {
        match self {
            Self::InsteadOf(program) => Some(program),
            Self::BesideSlots(program) if !has_slots => Some(program),
            _ => None,
        }
    }
}

/// One program of the sensor.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The program's name in the object, or what stands in for one.
    pub program: &'static str,
    /// The kernel's name of the attach point.
    pub attach_point: &'static str,
    /// What is lost without it.
    pub lost_without: &'static str,
    pub(super) kind: Kind,
    pub(super) need: Need,
    pub(super) fields: &'static [Field],
}

impl Hook {
    /// What is lost where it is refused and what stands in for it is not.
    pub(super) fn loss(&self) -> &'static str {
        let has_stand_in = HOOKS.iter().any(|other| other.need.stands_in_for(false) == Some(self.program));
        if has_stand_in { "only what its stand-ins below cannot give" } else { self.lost_without }
    }
}

/// What became of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookStatus {
    /// The program's name.
    pub program: &'static str,
    /// The kernel's name of the attach point.
    pub attach_point: &'static str,
    /// Whether it runs.
    pub is_attached: bool,
    /// Why not: errno, the verifier's last line, a missing field, or that it is not needed here.
    pub reason: Option<String>,
    /// What is lost without it.
    pub lost_without: &'static str,
}

const PROCESS_FIELDS: &[Field] = &[
    Field::TaskTgid,
    Field::TaskGroupLeader,
    Field::TaskStartBoottime,
    Field::TaskCred,
    Field::CredEuid,
    Field::TaskComm,
];
const TCP_FIELDS: &[Field] =
    &[Field::TcpBytesSent, Field::TcpBytesRetransmitted, Field::TcpBytesReceived, Field::TcpRcvNxt];

/// Of programs that may meet a socket older than the agent.
const OLD_SOCKET_FIELDS: &[Field] = &[
    Field::SocketSk,
    Field::SockFamily,
    Field::SockType,
    Field::SockState,
    Field::TaskTgid,
    Field::TcpBytesSent,
    Field::TcpBytesRetransmitted,
    Field::TcpBytesAcked,
    Field::TcpSndNxt,
    Field::TcpSndUna,
];
const SEND_FIELDS: &[Field] = &[Field::SocketSk, Field::SockFamily, Field::SockCookie];

const LINGER_FIELDS: &[Field] = &[
    Field::SockBoundAddr6,
    Field::SockRemoteAddr6,
    Field::SkbControl,
    Field::SkbInterface,
    Field::SkbNetworkHeader,
    Field::SkbTransportHeader,
    Field::TcpControlSequence,
    Field::TcpControlEnd,
    Field::TcpControlFlags,
];

/// The program that tells of the end of TCP sockets.
pub(super) const TCP_DESTROY: &str = "tcp_destroy_sock";
/// The program of [`Kind::DeviceEgress`].
pub(super) const TC_EGRESS: &str = "tc_egress";
/// The program of [`Kind::DeviceIngress`].
pub(super) const TC_INGRESS: &str = "tc_ingress";

/// Every program, in the order in which they are attached: owners first, so that no packet is counted before its owner
/// can be known.
pub(super) const HOOKS: &[Hook] = &[
    Hook {
        program: "sched_process_fork",
        attach_point: "tp_btf/sched_process_fork",
        lost_without: "processes that fork without exec are found in /proc, if they live long enough",
        kind: Kind::Tracepoint,
        need: Need::Wanted,
        fields: PROCESS_FIELDS,
    },
    Hook {
        program: "sched_process_exec",
        attach_point: "tp_btf/sched_process_exec",
        lost_without: "executable and command line of processes that live less than a second",
        kind: Kind::Tracepoint,
        need: Need::Wanted,
        fields: PROCESS_FIELDS,
    },
    Hook {
        program: "sched_process_exit",
        attach_point: "tp_btf/sched_process_exit",
        lost_without: "the time at which a process ended",
        kind: Kind::Tracepoint,
        need: Need::Wanted,
        fields: &[Field::TaskSignal, Field::SignalLive, Field::TaskTgid],
    },
    Hook {
        program: "sock_create",
        attach_point: "cgroup/sock_create",
        lost_without: "owners of all sockets",
        kind: Kind::CgroupSock,
        need: Need::Required,
        fields: &[],
    },
    Hook {
        program: "connect4",
        attach_point: "cgroup/connect4",
        lost_without: "who connected an inherited or passed IPv4 socket",
        kind: Kind::CgroupSockAddr,
        need: Need::Wanted,
        fields: &[],
    },
    Hook {
        program: "connect6",
        attach_point: "cgroup/connect6",
        lost_without: "who connected an inherited or passed IPv6 socket",
        kind: Kind::CgroupSockAddr,
        need: Need::Wanted,
        fields: &[],
    },
    Hook {
        program: "getpeername4",
        attach_point: "cgroup/getpeername4",
        lost_without: "who accepted an IPv4 connection, until it sends",
        kind: Kind::CgroupSockAddr,
        need: Need::Wanted,
        fields: &[],
    },
    Hook {
        program: "getpeername6",
        attach_point: "cgroup/getpeername6",
        lost_without: "who accepted an IPv6 connection, until it sends",
        kind: Kind::CgroupSockAddr,
        need: Need::Wanted,
        fields: &[],
    },
    Hook {
        program: "sock_send_length",
        attach_point: "tp_btf/sock_send_length",
        lost_without: "who sent on an accepted, inherited or passed TCP socket (since Linux 6.3)",
        kind: Kind::Tracepoint,
        need: Need::Wanted,
        fields: OLD_SOCKET_FIELDS,
    },
    Hook {
        program: "inet_sendmsg",
        attach_point: "fentry/inet_sendmsg",
        lost_without: "who sent on an accepted, inherited or passed IPv4 socket",
        kind: Kind::Function,
        need: Need::InsteadOf("sock_send_length"),
        fields: SEND_FIELDS,
    },
    Hook {
        program: "inet6_sendmsg",
        attach_point: "fentry/inet6_sendmsg",
        lost_without: "who sent on an accepted, inherited or passed IPv6 socket",
        kind: Kind::Function,
        need: Need::InsteadOf("sock_send_length"),
        fields: SEND_FIELDS,
    },
    Hook {
        program: "inet_sendpage",
        attach_point: "fentry/inet_sendpage",
        lost_without: "who sent on such a socket by sendfile or splice",
        kind: Kind::Function,
        need: Need::InsteadOf("sock_send_length"),
        fields: SEND_FIELDS,
    },
    Hook {
        program: "sendmsg4",
        attach_point: "cgroup/sendmsg4",
        lost_without: "who sent on an inherited or passed IPv4 UDP socket",
        kind: Kind::CgroupSockAddr,
        need: Need::InsteadOf("sock_send_length"),
        fields: &[],
    },
    Hook {
        program: "sendmsg6",
        attach_point: "cgroup/sendmsg6",
        lost_without: "who sent on an inherited or passed IPv6 UDP socket",
        kind: Kind::CgroupSockAddr,
        need: Need::InsteadOf("sock_send_length"),
        fields: &[],
    },
    Hook {
        program: "packet_sendmsg",
        attach_point: "fexit/packet_sendmsg",
        lost_without: "who sends frames from packet sockets",
        kind: Kind::FunctionExit,
        need: Need::InsteadOf("sock_send_length"),
        fields: SEND_FIELDS,
    },
    Hook {
        program: "snapshot_files",
        attach_point: "iter/task_file",
        lost_without: "owners of sockets older than the agent",
        kind: Kind::FileIterator,
        need: Need::Wanted,
        fields: OLD_SOCKET_FIELDS,
    },
    Hook {
        program: "snapshot_descriptors",
        attach_point: "/proc and pidfd_getfd",
        lost_without: "owners of sockets older than the agent",
        kind: Kind::Descriptors,
        need: Need::InsteadOf("snapshot_files"),
        fields: &[],
    },
    Hook {
        program: "sweep_sockets",
        attach_point: "iter/bpf_sk_storage_map",
        lost_without: "flows are shown only when they end",
        kind: Kind::SocketIterator,
        need: Need::Wanted,
        fields: TCP_FIELDS,
    },
    Hook {
        program: "sweep_files",
        attach_point: "iter/task_file",
        lost_without: "flows are shown only when they end",
        kind: Kind::FileSweep,
        need: Need::BesideSlots("sweep_sockets"),
        fields: TCP_FIELDS,
    },
    Hook {
        program: "sweep_tcp",
        attach_point: "iter/tcp",
        lost_without: "the ledger shows TCP connections that no process holds as unknown until they end",
        kind: Kind::TcpSweep,
        need: Need::BesideSlots("sweep_sockets"),
        fields: TCP_FIELDS,
    },
    Hook {
        program: TCP_DESTROY,
        attach_point: "tp_btf/tcp_destroy_sock",
        lost_without: "the end of TCP connections, and their bytes since the last sweep",
        kind: Kind::Tracepoint,
        need: Need::Wanted,
        fields: TCP_FIELDS,
    },
    Hook {
        program: "tcp_destroy_again",
        attach_point: "tp_btf/tcp_destroy_sock",
        lost_without: "the end of a TCP connection in whose stead the kernel skips tcp_destroy_sock; that is counted",
        kind: Kind::Tracepoint,
        need: Need::Wanted,
        fields: TCP_FIELDS,
    },
    Hook {
        program: "sock_ops",
        attach_point: "cgroup/sock_ops",
        lost_without: "the end of TCP connections, and their bytes since the last sweep",
        kind: Kind::SockOps,
        need: Need::InsteadOf("tcp_destroy_sock"),
        fields: &[],
    },
    Hook {
        program: "tcp_receive_reset",
        attach_point: "tp_btf/tcp_receive_reset",
        lost_without: "whether the other side reset a connection, where its error does not tell",
        kind: Kind::Tracepoint,
        need: Need::Wanted,
        fields: &[],
    },
    Hook {
        program: "tcp_send_reset",
        attach_point: "tp_btf/tcp_send_reset",
        lost_without: "whether this side reset a connection, where its state does not tell",
        kind: Kind::Tracepoint,
        need: Need::Wanted,
        fields: &[],
    },
    Hook {
        program: "kfree_skb",
        attach_point: "tp_btf/kfree_skb",
        lost_without: "the last FIN and ACK of connections that this side closes first (seen otherwise below Linux 6.13)",
        kind: Kind::Tracepoint,
        need: Need::Wanted,
        fields: LINGER_FIELDS,
    },
    Hook {
        program: "tcp_timewait_state_process",
        attach_point: "fentry/tcp_timewait_state_process",
        lost_without: "the last FIN and ACK of IPv6 connections that this side closes first",
        kind: Kind::Function,
        need: Need::InsteadOf("kfree_skb"),
        fields: LINGER_FIELDS,
    },
    Hook {
        program: "sock_release",
        attach_point: "cgroup/sock_release",
        lost_without: "the end of UDP and other flows, and their bytes since the last sweep",
        kind: Kind::CgroupSock,
        need: Need::Wanted,
        fields: &[],
    },
    Hook {
        program: "egress",
        attach_point: "cgroup_skb/egress",
        lost_without: "all bytes sent",
        kind: Kind::Egress,
        need: Need::Required,
        fields: &[],
    },
    Hook {
        program: "ingress",
        attach_point: "cgroup_skb/ingress",
        lost_without: "all bytes received",
        kind: Kind::Ingress,
        need: Need::Required,
        fields: &[],
    },
    Hook {
        program: TC_EGRESS,
        attach_point: "tcx/egress",
        lost_without: "flows of packet sockets' frames; the ledger shows them and forwarded packets as unknown",
        kind: Kind::DeviceEgress,
        need: Need::Wanted,
        fields: &[],
    },
    Hook {
        program: TC_INGRESS,
        attach_point: "tcx/ingress",
        lost_without: "the ledger shows what arrives for tunnels as unknown",
        kind: Kind::DeviceIngress,
        need: Need::Wanted,
        fields: &[],
    },
    Hook {
        program: "empty",
        attach_point: "cgroup_skb/egress",
        lost_without: "nothing: it measures what the egress program costs",
        kind: Kind::Egress,
        need: Need::Reference,
        fields: &[],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(program: &str) -> &'static Hook {
        HOOKS.iter().find(|hook| hook.program == program).unwrap()
    }

    #[test]
    fn what_has_a_stand_in_loses_only_what_that_lacks() {
        assert_eq!(hook("snapshot_files").loss(), "only what its stand-ins below cannot give");
        assert_eq!(hook("snapshot_descriptors").loss(), "owners of sockets older than the agent");
        assert_eq!(hook("egress").loss(), "all bytes sent");
    }

    #[test]
    fn stand_ins_stand_below_what_they_stand_in_for() {
        for (at, stand_in) in HOOKS.iter().enumerate() {
            if let Some(program) = stand_in.need.stands_in_for(false) {
                assert!(HOOKS[..at].iter().any(|hook| hook.program == program), "{}", stand_in.program);
            }
        }
    }
}
