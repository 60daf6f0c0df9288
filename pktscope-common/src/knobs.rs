//! What the agent tells the kernel programs before they are loaded: offsets of kernel fields, and what may be called.
//!
//! The programs read them from frozen read-only data, so the verifier knows each as a constant: a typed load at a
//! constant offset is checked against the kernel's own BTF, and branches not taken are removed.

macro_rules! fields {
    ($($variant:ident = $structure:literal . $member:literal,)*) => {
        /// A kernel field that the programs read; its offset stands at this index of the offsets' array.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        #[expect(missing_docs, reason = "each names the field beside it")]
        pub enum Field { $($variant,)* }

        /// The structure and the path of members of each [`Field`], in its order.
        pub const FIELDS: &[(&str, &str)] = &[$(($structure, $member),)*];
    };
}

fields! {
    TaskGroupLeader = "task_struct"."group_leader",
    TaskRealParent = "task_struct"."real_parent",
    TaskFlags = "task_struct"."flags",
    TaskTgid = "task_struct"."tgid",
    TaskStartBoottime = "task_struct"."start_boottime",
    TaskExitCode = "task_struct"."exit_code",
    TaskSignal = "task_struct"."signal",
    TaskCred = "task_struct"."cred",
    TaskMm = "task_struct"."mm",
    TaskComm = "task_struct"."comm",
    TaskFs = "task_struct"."fs",
    TaskCgroups = "task_struct"."cgroups",
    FsFolder = "fs_struct"."pwd.dentry",
    CredEuid = "cred"."euid",
    SignalLive = "signal_struct"."live",
    MmArgStart = "mm_struct"."arg_start",
    MmArgEnd = "mm_struct"."arg_end",
    BprmExec = "linux_binprm"."exec",
    BprmFile = "linux_binprm"."file",
    FileInode = "file"."f_inode",
    FileEntry = "file"."f_path.dentry",
    EntryInode = "dentry"."d_inode",
    EntryNameBytes = "dentry"."d_name.len",
    EntryName = "dentry"."d_iname",
    EntryShortName = "dentry"."d_shortname",
    InodeNumber = "inode"."i_ino",
    InodeSuper = "inode"."i_sb",
    SuperDevice = "super_block"."s_dev",
    CssSetDefaultCgroup = "css_set"."dfl_cgrp",
    CgroupNode = "cgroup"."kn",
    KernfsId = "kernfs_node"."id",
    SocketSk = "socket"."sk",
    SockFamily = "sock"."__sk_common.skc_family",
    SockState = "sock"."__sk_common.skc_state",
    SockCookie = "sock"."__sk_common.skc_cookie",
    SockNet = "sock"."__sk_common.skc_net.net",
    SockFlags = "sock"."__sk_common.skc_flags",
    SockProtocol = "sock"."sk_protocol",
    SockType = "sock"."sk_type",
    SockErr = "sock"."sk_err",
    SockBoundAddr4 = "sock"."__sk_common.skc_rcv_saddr",
    SockRemoteAddr4 = "sock"."__sk_common.skc_daddr",
    SockBoundAddr6 = "sock"."__sk_common.skc_v6_rcv_saddr",
    SockRemoteAddr6 = "sock"."__sk_common.skc_v6_daddr",
    SockBoundPort = "sock"."__sk_common.skc_num",
    SockRemotePort = "sock"."__sk_common.skc_dport",
    SkbLength = "sk_buff"."len",
    SkbInterface = "sk_buff"."skb_iif",
    SkbControl = "sk_buff"."cb",
    SkbNetworkHeader = "sk_buff"."network_header",
    SkbTransportHeader = "sk_buff"."transport_header",
    TcpControlSequence = "tcp_skb_cb"."seq",
    TcpControlEnd = "tcp_skb_cb"."end_seq",
    TcpControlFlags = "tcp_skb_cb"."tcp_flags",
    NetCookie = "net"."net_cookie",
    TcpBytesSent = "tcp_sock"."bytes_sent",
    TcpBytesRetransmitted = "tcp_sock"."bytes_retrans",
    TcpBytesAcked = "tcp_sock"."bytes_acked",
    TcpSndNxt = "tcp_sock"."snd_nxt",
    TcpSndUna = "tcp_sock"."snd_una",
    TcpBytesReceived = "tcp_sock"."bytes_received",
    TcpTotalRetransmitted = "tcp_sock"."total_retrans",
    TcpSrtt = "tcp_sock"."srtt_us",
    TcpRcvNxt = "tcp_sock"."rcv_nxt",
}

/// Number of [`Field`]s.
pub const FIELD_COUNT: usize = FIELDS.len();

/// Offset of a field that this kernel does not have; programs that need it are not loaded.
pub const NO_OFFSET: u64 = u64::MAX;

/// Bits of the `FEATURES` global: what this kernel lets programs call.
pub mod features {
    /// `bpf_get_current_task_btf` (since 5.11): typed loads from the current task.
    pub const TASK_BTF: u64 = 1;
    /// `bpf_probe_read_kernel`, where there is nothing better: not under lockdown.
    pub const PROBE_READ: u64 = 1 << 1;
    /// `bpf_skc_to_mptcp_sock` (since 6.0).
    pub const MPTCP: u64 = 1 << 2;
    /// Payload is inspected for server names and DNS.
    pub const PAYLOAD: u64 = 1 << 3;
    /// `bpf_get_netns_cookie` in `cgroup_skb` programs: of packets of the kernel's own sockets nothing else tells.
    pub const SKB_NETNS: u64 = 1 << 4;
    /// Tracing programs cannot reach a socket's state: below 5.11.
    pub const NO_TRACING_STORAGE: u64 = 1 << 5;
    /// What TIME_WAIT answers carries its socket, so that the egress hook is skipped (since 6.13).
    pub const SILENT_TIME_WAIT: u64 = 1 << 6;
    /// The state of a TCP socket may be in a slot of an array: where tracing programs can read it there, and a packet tells its
    /// network namespace, so that an accepted socket's handshake is found.
    pub const SLOTS: u64 = 1 << 7;
}

/// Slots of the `SETTINGS` array, which the agent may change while the programs run.
pub mod settings {
    /// 1: a sweep also reports sockets that have not changed.
    pub const FULL_SWEEP: u32 = 0;
    /// 1: there are tunnels, so a packet that has a socket may be one that carries the socket's packet.
    pub const HAS_TUNNELS: u32 = 1;
    /// [`super::tunnels`] whose packets the kernel takes as they arrive.
    pub const TUNNELS: u32 = 2;
    /// The number of the sweep that goes on.
    pub const SWEEP: u32 = 3;
    /// 1: another sweep comes by the sockets that have storage.
    pub const SWEEP_SLOTS_ONLY: u32 = 4;
    /// 1: new sockets get a slot. Only once all hooks are attached: what a listener accepts has its owner by the handshake,
    /// which must have been seen, and the end of what has a slot must be.
    pub const GIVE_SLOTS: u32 = 5;
    /// Number of settings.
    pub const COUNT: u32 = 6;
}

/// Bits of the setting `TUNNELS`: what there are tunnels over.
pub mod tunnels {
    /// UDP, by sockets of the kernel's own.
    pub const UDP: u32 = 1;
    /// IP protocol 4: IPv4 in IP.
    pub const IPIP: u32 = 1 << 1;
    /// IP protocol 41: IPv6 in IP.
    pub const IPV6: u32 = 1 << 2;
    /// IP protocol 47.
    pub const GRE: u32 = 1 << 3;
    /// IP protocol 50.
    pub const ESP: u32 = 1 << 4;
}
