//! Lengths and sizes that both sides agree on.

/// `TASK_COMM_LEN` of include/linux/sched.h.
pub const COMM_BYTES: usize = 16;
/// Room for the path given to `execve`; longer ones are cut and looked up in `/proc`.
pub const FILENAME_BYTES: usize = 256;
/// Room for the name of an image's directory entry: what older kernels keep in the entry itself (include/linux/dcache.h,
/// `DNAME_INLINE_LEN`; newer ones have more).
pub const IMAGE_NAME_BYTES: usize = 32;
/// Room for the arguments of `execve`, zero-separated; a power of two, so that a length can be masked.
pub const ARGUMENTS_BYTES: usize = 512;
/// Room for a short payload, as most of DNS has; a power of two, so that a length can be masked.
pub const SHORT_PAYLOAD_BYTES: usize = 512;
/// Room for any payload that is copied: a ClientHello with a post-quantum key share; a power of two.
pub const LONG_PAYLOAD_BYTES: usize = 4096;
/// Payloads copied of one flow until it is known to hold no name: a ClientHello in small segments, QUIC Initials sent
/// again.
pub const INSPECTED_PAYLOADS: u8 = 4;
/// The same for DNS over TCP.
pub const INSPECTED_DNS_SEGMENTS: u8 = 16;
/// Default size of the ring buffer in bytes: 30,000 socket records.
pub const RING_BYTES: u32 = 8 << 20;
/// Default number of peers of unconnected sockets that are counted apart.
pub const PEER_ENTRIES: u32 = 65_536;
/// Number of sockets whose peers can overflow and still be counted for their owner.
pub const OVERFLOW_ENTRIES: u32 = 4_096;
/// Default number of sockets' last records that are kept where the ring is full.
pub const KEPT_ENTRIES: u32 = 16_384;
/// Number of interfaces of the agent's network namespace at which packets are counted.
pub const DEVICE_ENTRIES: u32 = 1_024;
/// Number of sockets whose last sender is remembered where that is not kept with the socket.
pub const SENDER_ENTRIES: u32 = 16_384;
/// Number of packet sockets whose end is noticed.
pub const FRAME_SOCKET_ENTRIES: u32 = 4_096;
/// Number of interfaces whose MTU is known.
pub const INTERFACE_ENTRIES: u32 = 1_024;
/// Default number of TCP sockets whose state needs no memory of its own; a power of two.
pub const SLOT_ENTRIES: u32 = 16_384;
