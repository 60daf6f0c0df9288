//! One `repr(C)` struct for each record of the ring buffer, little or big endian as the machine is, without padding.

use crate::{
    limits::{ARGUMENTS_BYTES, COMM_BYTES, FILENAME_BYTES, IMAGE_NAME_BYTES},
    state::{Counts, Stamp, Tuple},
};

/// Version of every layout here; a record of another version is refused.
pub const RECORD_VERSION: u16 = 1;

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum RecordKind {
    /// [`SocketRecord`] of a socket that is open.
    SocketOpen = 1,
    /// [`SocketRecord`] of a socket, or of its connection, that is over.
    SocketEnd = 2,
    /// [`ExecRecord`].
    Exec = 3,
    /// [`ForkRecord`].
    Fork = 4,
    /// [`ExitRecord`].
    Exit = 5,
    /// [`PayloadHeader`] and bytes.
    Payload = 6,
    /// [`LingerRecord`].
    Linger = 7,
}

/// In front of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RecordHeader {
    /// [`RecordKind`].
    pub kind: u16,
    /// [`RECORD_VERSION`].
    pub version: u16,
    /// Bytes of the record, this header included.
    pub size: u32,
    /// Nanoseconds since boot.
    pub at: u64,
}

/// A socket's connection, or an unconnected socket's first peer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SocketRecord {
    /// Kind, version, size, time.
    pub header: RecordHeader,
    /// Socket cookie.
    pub cookie: u64,
    /// Network namespace cookie; 0 where not known.
    pub netns: u64,
    /// First packet, nanoseconds since boot.
    pub started_at: u64,
    /// Totals so far.
    pub counts: Counts,
    /// Both ends.
    pub tuple: Tuple,
    /// Who uses it.
    pub user: Stamp,
    /// Who made it.
    pub creator: Stamp,
    /// TCP: payload bytes sent, retransmissions not counted again.
    pub payload_sent_bytes: u64,
    /// TCP: payload bytes received in order.
    pub payload_received_bytes: u64,
    /// TCP: segments sent again.
    pub retransmitted: u32,
    /// TCP: smoothed round trip.
    pub srtt_us: u32,
    /// Interface of the first packet.
    pub interface: u32,
    /// [`crate::state::flags`].
    pub flags: u32,
    /// `sk_err`.
    pub error: u16,
    /// `sk_state`.
    pub tcp_state: u8,
    /// [`crate::state::method`].
    pub method: u8,
    /// Zero.
    pub reserved: u32,
}

/// Names a socket's last record that found the ring full: a socket that connects again has several.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptKey {
    /// Socket cookie.
    pub cookie: u64,
    /// When it was told, nanoseconds since boot.
    pub at: u64,
}

/// Room for a record that is kept.
pub const KEPT_BYTES: usize = size_of::<SocketRecord>();

/// A [`SocketRecord`] or a [`LingerRecord`] that is kept.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KeptRecord {
    /// The record, as it would have stood in the ring.
    pub words: [u64; KEPT_BYTES / 8],
    /// 1 once it is filled in.
    pub is_whole: u64,
}

/// A process ran a new image.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExecRecord {
    /// Kind, version, size, time.
    pub header: RecordHeader,
    /// The process.
    pub process: Stamp,
    /// Its parent; `uid` and `cgroup_id` are 0.
    pub parent: Stamp,
    /// Inode number of the image.
    pub inode: u64,
    /// Inode number of the working directory; 0 where not known.
    pub folder_inode: u64,
    /// Kernel device number of the working directory's file system.
    pub folder_device: u32,
    /// Kernel device number of the image's file system (`s_dev`: 12 bits of major, 20 of minor).
    pub device: u32,
    /// Bytes of `arguments` that are filled in.
    pub arguments_bytes: u32,
    /// Bytes that the arguments take in all.
    pub arguments_total_bytes: u32,
    /// Bytes of `filename` that are filled in, the zero at its end included; 0 where it could not be read.
    pub filename_bytes: u32,
    /// Zero.
    pub reserved: u32,
    /// The kernel's name, zero-padded.
    pub comm: [u8; COMM_BYTES],
    /// The name of the image's directory entry, zero-padded: also files in memory have one. Empty where it is longer.
    pub image_name: [u8; IMAGE_NAME_BYTES],
    /// The path given to `execve`.
    pub filename: [u8; FILENAME_BYTES],
    /// The arguments, zero-separated.
    pub arguments: [u8; ARGUMENTS_BYTES],
}

/// A process was forked.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ForkRecord {
    /// Kind, version, size, time.
    pub header: RecordHeader,
    /// The child.
    pub process: Stamp,
    /// The parent; `uid` and `cgroup_id` are 0.
    pub parent: Stamp,
    /// The kernel's name, zero-padded.
    pub comm: [u8; COMM_BYTES],
}

/// The last thread of a process exited.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExitRecord {
    /// Kind, version, size, time.
    pub header: RecordHeader,
    /// Start of the process, nanoseconds since boot.
    pub started_at: u64,
    /// The process.
    pub pid: u32,
    /// Wait status.
    pub status: i32,
}

/// In front of the bytes that a packet carried above its transport header.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PayloadHeader {
    /// Kind, version, size (bytes included), time.
    pub header: RecordHeader,
    /// Socket cookie.
    pub cookie: u64,
    /// Both ends.
    pub tuple: Tuple,
    /// Who uses the socket.
    pub user: Stamp,
    /// Bytes that the packet carried; the record may hold fewer, or, behind them, more than that.
    pub payload_bytes: u32,
    /// TCP: sequence number of the first byte, host order.
    pub sequence: u32,
    /// 1 where this side sent it.
    pub is_sent: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// A payload record as the kernel assembles it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PayloadRecord<const N: usize> {
    /// What it is.
    pub header: PayloadHeader,
    /// The bytes; of them `payload_bytes`, where that is less, are filled in.
    pub bytes: [u8; N],
}

/// What TIME_WAIT, which has no socket that could be counted at, sent and received for the connection that it goes on with.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LingerRecord {
    /// Kind, version, size, time.
    pub header: RecordHeader,
    /// Cookie of the socket that is gone.
    pub cookie: u64,
    /// Network namespace cookie; 0 where not known.
    pub netns: u64,
    /// The connection.
    pub tuple: Tuple,
    /// Interface of the packet.
    pub interface: u32,
    /// Zero.
    pub reserved: u32,
    /// What the kernel sent, and received: FINs, which it answers, or a reset.
    pub counts: Counts,
}

const _: () = assert!(size_of::<RecordHeader>() == 16);
const _: () = assert!(size_of::<SocketRecord>() == 216);
const _: () = assert!(size_of::<LingerRecord>() <= KEPT_BYTES);
const _: () = assert!(size_of::<KeptKey>() == 16 && size_of::<KeptRecord>() == KEPT_BYTES + 8);
const _: () = assert!(size_of::<ExecRecord>() == 920);
const _: () = assert!(size_of::<ForkRecord>() == 80);
const _: () = assert!(size_of::<ExitRecord>() == 32);
const _: () = assert!(size_of::<PayloadHeader>() == 104);
const _: () = assert!(size_of::<LingerRecord>() == 128);
