//! What the kernel keeps for each socket and each peer.

use core::mem::offset_of;

/// A process stamped on a socket. `pid` 0: nobody.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Start of the process's first thread, nanoseconds since boot.
    pub started_at: u64,
    /// cgroup2 id.
    pub cgroup_id: u64,
    /// Process (kernel tgid) in the initial pid namespace.
    pub pid: u32,
    /// Effective user id.
    pub uid: u32,
}

/// IP-layer bytes and packets on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes sent, headers included.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Of `sent_bytes`: headers that segmentation offload adds after counting.
    pub sent_header_bytes: u64,
    /// Bytes received, headers included.
    pub received_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Of `received_bytes`: headers that receive offload removed before counting.
    pub received_header_bytes: u64,
}

/// Both ends of a flow; aligned, so that it is copied by words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple {
    /// This side's address; IPv4 as `::ffff:a.b.c.d`.
    pub local_addr: [u8; 16],
    /// The other side's address; IPv4 as `::ffff:a.b.c.d`.
    pub remote_addr: [u8; 16],
    /// This side's port in network order; the identifier of an ICMP echo; 0 where there is none.
    pub local_port: [u8; 2],
    /// The other side's port in network order; 0 where there is none.
    pub remote_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// ICMP type of the first message.
    pub icmp_type: u8,
    /// ICMP code of the first message.
    pub icmp_code: u8,
    /// Zero.
    pub reserved: u8,
}

/// What the kernel keeps with a socket.
///
/// With the 72 bytes that the kernel puts in front (include/linux/bpf_local_storage.h, `bpf_local_storage_elem`) it fills
/// a 256-byte slab object of four cache lines. What every packet reads, and hardly any writes, shares one with the word
/// by which the kernel finds the state; what is sent and what is received, on different processors as a rule, are counted
/// in lines of their own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketState {
    /// [`flags`].
    pub flags: u32,
    /// Interface of the first packet.
    pub interface: u32,
    /// The connection, or the first peer.
    pub tuple: Tuple,
    /// Network namespace cookie; 0 where not known.
    pub netns: u64,
    /// Who uses the socket: compared by who sends.
    pub user: Stamp,
    /// First packet, nanoseconds since boot.
    pub started_at: u64,
    /// Socket cookie.
    pub cookie: u64,
    /// Of the socket's connection, or its first peer.
    pub counts: Counts,
    /// Who made the socket.
    pub creator: Stamp,
    /// Packets both ways at the last report.
    pub reported_packets: u64,
    /// [`method`].
    pub method: u8,
    /// Payloads inspected for a server name so far.
    pub inspected: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

/// Bytes that the kernel puts in front of a state, and of a cache line.
const HEADER_BYTES: usize = 72;
const LINE_BYTES: usize = 64;
const _: () = assert!((HEADER_BYTES + offset_of!(SocketState, user)).is_multiple_of(LINE_BYTES));
const _: () = assert!(
    (HEADER_BYTES + offset_of!(SocketState, counts) + offset_of!(Counts, received_bytes)).is_multiple_of(LINE_BYTES)
);

/// Identifies a peer of an unconnected socket, a handshake at a listener, or a kernel socket's packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerKey {
    /// The socket's cookie; 0 for handshakes and kernel sockets.
    pub cookie: u64,
    /// Network namespace cookie; 0 where not known.
    pub netns: u64,
    /// Both ends; the ICMP fields are zero.
    pub tuple: Tuple,
}

/// What is counted of a peer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerState {
    /// Bytes and packets.
    pub counts: Counts,
    /// First packet, nanoseconds since boot.
    pub started_at: u64,
    /// Interface of the first packet.
    pub interface: u32,
    /// [`flags`].
    pub flags: u32,
    /// [`method`].
    pub method: u8,
    /// ICMP type of the first message.
    pub icmp_type: u8,
    /// ICMP code of the first message.
    pub icmp_code: u8,
    /// Payloads inspected for a server name so far.
    pub inspected: u8,
    /// Length of a handshake's first packet, its SYN.
    pub first_bytes: u16,
    /// Zero.
    pub reserved: [u8; 2],
    /// The socket's cookie.
    pub cookie: u64,
    /// Who used the socket when the peer was first met, or sent to it since.
    pub user: Stamp,
    /// Who made the socket.
    pub creator: Stamp,
}

/// What is counted at a network device that no inet socket of this host sent there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceState {
    /// Bytes of the link-layer header that the device's packets begin with.
    pub link_header_bytes: u32,
    /// [`device`].
    pub flags: u32,
    /// By [`class`].
    pub counts: [Counts; class::COUNT],
}

/// Bits of [`DeviceState::flags`].
pub mod device {
    /// What it carries leaves by another device, in packets of the kernel's own.
    pub const TUNNEL: u32 = 1;
    /// What packet sockets and the kernel send is counted here, and not only what passes through.
    pub const FRAMES: u32 = 1 << 1;
}

/// Whose packets [`DeviceState::counts`] are.
pub mod class {
    /// They came in by another device.
    pub const FORWARDED: usize = 0;
    /// The kernel made them.
    pub const KERNEL: usize = 1;
    /// They have a socket that is neither an inet nor a packet one.
    pub const OTHER: usize = 2;
    /// Number of classes.
    pub const COUNT: usize = 3;
}

/// Bits of [`SocketState::flags`] and [`PeerState::flags`].
pub mod flags {
    /// Tuple, cookie and start are filled in.
    pub const REGISTERED: u32 = 1;
    /// A connected TCP socket with nothing left to inspect: its packets need no look at their headers.
    pub const FAST_TCP: u32 = 1 << 1;
    /// A registered socket of another protocol with nothing left to inspect.
    pub const FAST_OTHER: u32 = 1 << 2;
    /// This side sent first.
    pub const ACTIVE: u32 = 1 << 3;
    /// The other side sent first.
    pub const PASSIVE: u32 = 1 << 4;
    /// Nobody's: no process was seen making it and none held it when the agent started.
    pub const UNOWNED: u32 = 1 << 5;
    /// Several processes held it when the agent started.
    pub const SHARED: u32 = 1 << 6;
    /// Some of its peers are in the peer table.
    pub const HAS_PEERS: u32 = 1 << 7;
    /// A TCP handshake that a listener saw.
    pub const HANDSHAKE: u32 = 1 << 8;
    /// The kernel's own socket.
    pub const KERNEL: u32 = 1 << 9;
    /// TCP: reset by the other side.
    pub const RESET_RECEIVED: u32 = 1 << 10;
    /// TCP: reset by this side.
    pub const RESET_SENT: u32 = 1 << 11;
    /// TCP: the handshake was completed. Of a [`HANDSHAKE`] in the peer table: it was told, and only names its owner still.
    pub const ESTABLISHED: u32 = 1 << 12;
    /// TCP: the other side's FIN was received.
    pub const FIN_RECEIVED: u32 = 1 << 13;
    /// Older than the agent: its first packets were not counted.
    pub const OLD: u32 = 1 << 14;
    /// The last packet sent went to a peer that is in the peer table.
    pub const SENT_TO_PEER: u32 = 1 << 15;
    /// A raw socket: it also gets copies of packets that others asked for.
    pub const RAW: u32 = 1 << 16;
    /// With [`SENT_TO_PEER`]: the peer was new, and its sender is known only when the system call returns.
    pub const PEER_IS_NEW: u32 = 1 << 17;
    /// What is sent is still inspected for a name.
    pub const INSPECT_SENT: u32 = 1 << 18;
    /// What is received is still inspected for a name.
    pub const INSPECT_RECEIVED: u32 = 1 << 19;
    /// The connection is replaced by a TIME_WAIT one that still waits for the other side's FIN.
    pub const LINGERS: u32 = 1 << 20;
    /// A packet socket, or frames that it sent.
    pub const FRAMES: u32 = 1 << 21;
    /// With [`FRAMES`]: they hold no IP packet, and the tuple is zero.
    pub const NOT_IP: u32 = 1 << 22;
    /// A TCP connection older than the agent that no process holds any more, where its end is not told otherwise.
    pub const RELEASED: u32 = 1 << 23;
    /// A TCP socket whose end was reported.
    pub const ENDED: u32 = 1 << 24;
}

/// Values of [`SocketState::method`]: how the user is known.
pub mod method {
    /// Nobody is known.
    pub const NONE: u8 = 0;
    /// It made the socket.
    pub const CREATE: u8 = 1;
    /// It connected the socket.
    pub const CONNECT: u8 = 2;
    /// It sent.
    pub const SEND: u8 = 3;
    /// The socket was accepted from a listener that it used.
    pub const ACCEPT: u8 = 4;
    /// It held the socket when the agent started.
    pub const SNAPSHOT: u8 = 5;
    /// It received.
    pub const RECEIVE: u8 = 6;
    /// It bound the socket.
    pub const BIND: u8 = 7;
    /// It was seen accepting the socket.
    pub const ACCEPTED: u8 = 8;
    /// It was the last to hold the socket, accepted by nobody who was seen.
    pub const CLOSE: u8 = 9;
}

const _: () = assert!(size_of::<Stamp>() == 24);
const _: () = assert!(size_of::<Counts>() == 48);
const _: () = assert!(size_of::<Tuple>() == 40);
const _: () = assert!(size_of::<SocketState>() == 184);
const _: () = assert!(size_of::<PeerKey>() == 56);
const _: () = assert!(size_of::<PeerState>() == 128);
const _: () = assert!(size_of::<DeviceState>() == 152);
