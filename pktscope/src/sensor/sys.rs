//! `bpf(2)` calls that aya has no name for: iterators over one map, and batched reads of a hash.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use aya::Pod;

/// Commands and attach type of include/uapi/linux/bpf.h.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_ITER_CREATE: libc::c_long = 33;
const BPF_TRACE_ITER: u32 = 28;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// Run before the programs that are there.
const BPF_F_BEFORE: u32 = 1 << 3;

/// Entries read in one system call.
pub(super) const BATCH_ENTRIES: usize = 4_096;

/// `union bpf_iter_link_info`, its map member.
#[repr(C)]
struct IteratorInfo {
    map_fd: u32,
    reserved: [u32; 3],
}

/// `struct { … } link_create` of `union bpf_attr`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    info: u64,
    info_bytes: u32,
    reserved: u32,
}

/// `struct { … } link_create` of `union bpf_attr`, its TCX member.
#[repr(C)]
struct TcxLinkCreate {
    prog_fd: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    reserved: u32,
    expected_revision: u64,
}

/// `struct { … } iter_create` of `union bpf_attr`.
#[repr(C)]
struct IteratorCreate {
    link_fd: u32,
    flags: u32,
}

/// `struct { … } batch` of `union bpf_attr`.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is the command's part of `union bpf_attr`, its size is given, and the kernel zero-extends it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn own(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just given this descriptor to us alone; descriptors fit an int.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Attaches an iterator program, to one map where one is given.
///
/// # Errors
/// The system's, where the kernel has no such iterator or refuses the program.
pub(super) fn link_iterator(program: BorrowedFd<'_>, map: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let mut info = IteratorInfo { map_fd: 0, reserved: [0; 3] };
    let mut attributes = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: 0,
        attach_type: BPF_TRACE_ITER,
        flags: 0,
        info: 0,
        info_bytes: 0,
        reserved: 0,
    };
    if let Some(map) = map {
        info.map_fd = map.as_raw_fd() as u32;
        attributes.info = &raw mut info as u64;
        attributes.info_bytes = size_of::<IteratorInfo>() as u32;
    }
    bpf(BPF_LINK_CREATE, &mut attributes).map(own)
}

/// `SIOCGSKNS` of include/uapi/linux/sockios.h.
const NAMESPACE_OF_SOCKET: libc::c_ulong = 0x894c;

/// A socket's network namespace.
///
/// # Errors
/// The system's.
pub(super) fn namespace_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the request takes no argument and gives a new descriptor.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), NAMESPACE_OF_SOCKET as _) };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(own(fd.into())) }
}

/// Which of a device's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Those that leave by it.
    Out,
    /// Those that arrive by it.
    In,
}

/// Attaches a program to a device, before others: what they say of a packet may be the last word. Closing the link
/// detaches it.
///
/// # Errors
/// The system's; `EINVAL` below Linux 6.6.
pub(super) fn link_tcx(program: BorrowedFd<'_>, interface: u32, way: Way) -> io::Result<OwnedFd> {
    let mut attributes = TcxLinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        interface,
        attach_type: match way {
            Way::Out => BPF_TCX_EGRESS,
            Way::In => BPF_TCX_INGRESS,
        },
        flags: BPF_F_BEFORE,
        relative_fd: 0,
        reserved: 0,
        expected_revision: 0,
    };
    bpf(BPF_LINK_CREATE, &mut attributes).map(own)
}

/// A file that runs the iterator once when it is read to its end.
///
/// # Errors
/// The system's.
pub(super) fn open_iterator(link: BorrowedFd<'_>) -> io::Result<File> {
    let mut attributes = IteratorCreate { link_fd: link.as_raw_fd() as u32, flags: 0 };
    bpf(BPF_ITER_CREATE, &mut attributes).map(|fd| File::from(own(fd)))
}

/// Runs an iterator program once over everything; where it pauses, `make_room` is called before it goes on.
///
/// # Errors
/// The system's.
pub(super) fn run_iterator(link: BorrowedFd<'_>, make_room: impl FnMut()) -> io::Result<()> {
    read_iterator(open_iterator(link)?, make_room)
}

/// The same with an iterator that was opened, which walks the network namespace where that was done.
///
/// # Errors
/// The system's.
pub(super) fn read_iterator(mut file: File, mut make_room: impl FnMut()) -> io::Result<()> {
    let mut buffer = [0u8; 64];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // The program asks for room, or a long walk takes a breath (kernel/bpf/bpf_iter.c, `MAX_ITER_OBJECTS`).
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => make_room(),
            Err(error) => return Err(error),
        }
    }
}

/// Reads a whole hash map; gives how many entries there are in `keys` and `values`.
///
/// # Errors
/// The system's; `ENOSPC` where a bucket holds more than [`BATCH_ENTRIES`].
pub(super) fn lookup_all<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &mut Vec<K>,
    values: &mut Vec<V>,
) -> io::Result<usize> {
    let (mut cursor, mut is_first, mut entries) = (0, IsFirst::Yes, 0);
    loop {
        // SAFETY: `Pod` types may hold any bytes, zeros too.
        keys.resize_with(entries + BATCH_ENTRIES, || unsafe { std::mem::zeroed() });
        // SAFETY: as above.
        values.resize_with(entries + BATCH_ENTRIES, || unsafe { std::mem::zeroed() });
        let (read, more) = lookup_batch(map, &mut cursor, is_first, &mut keys[entries..], &mut values[entries..])?;
        entries += read as usize;
        if more == More::No {
            return Ok(entries);
        }
        is_first = IsFirst::No;
    }
}

/// One step of a batched read: fills `keys` and `values`, which are equally long, and gives how many elements it filled
/// and whether more follow. `cursor` is the kernel's.
fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    cursor: &mut u64,
    is_first: IsFirst,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(u32, More)> {
    let mut next = 0u64;
    let mut attributes = Batch {
        in_batch: if is_first == IsFirst::Yes { 0 } else { std::ptr::from_mut(cursor) as u64 },
        out_batch: &raw mut next as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes);
    *cursor = next;
    match result {
        Ok(_) => Ok((attributes.count, More::Yes)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((attributes.count, More::No)),
        Err(error) => Err(error),
    }
}

/// Bytes of kernel memory that a map holds (`memlock` of its `fdinfo`); 0 where the kernel gives none.
pub(super) fn memory_of(map: &OwnedFd) -> u64 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd())).unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

/// Whether a batched read starts over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IsFirst {
    Yes,
    No,
}

/// Whether a batched read has more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Yes,
    No,
}

/// `SIOCOUTQ` of include/uapi/linux/sockios.h: bytes that the other side has not acknowledged or that were not sent yet.
///
/// # Errors
/// The system's.
pub(super) fn unacknowledged_bytes(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(u64::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

/// `TCP_INFO` of a socket: `struct tcp_info` of include/uapi/linux/tcp.h, as far as this kernel fills it.
///
/// # Errors
/// The system's, for what is not TCP.
pub(super) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut info = vec![0u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which `info` has room for.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    info.truncate(length as usize);
    Ok(info)
}

/// `SO_NETNS_COOKIE` of a socket.
pub(super) fn netns_cookie(socket: std::os::fd::RawFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which `cookie` has room for.
    let result = unsafe {
        libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut length)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
