//! Frames from an AF_XDP socket in copy mode: past the socket hooks, the queueing discipline and traffic control.

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use pktscope_tests::traffic::Report;

use crate::{packet::Datagram, report, socket::count};

/// Bytes of one frame's place in the shared memory, and how many there are: powers of two.
const PLACE: usize = 2048;
const PLACES: u32 = 64;
/// Between two looks at the ring of what was sent.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug, Args)]
pub struct Xdp {
    #[command(flatten)]
    datagram: Datagram,
    /// Frames to send.
    #[arg(long, default_value_t = 10)]
    count: u32,
}

impl Xdp {
    pub fn run(&self) -> Result<()> {
        let frame = self.datagram.frame();
        ensure!(frame.len() <= PLACE, "a frame has at most {PLACE} bytes");
        let socket = XdpSocket::open(self.datagram.index()?)?;
        for number in 0..self.count {
            socket.send(&frame, number)?;
        }
        report::print(&Report {
            sent_bytes: frame.len() as u64 * u64::from(self.count),
            sent_units: self.count.into(),
            ..report::of_this_process("sender", "done")
        })
    }
}

/// A ring shared with the kernel (include/uapi/linux/if_xdp.h).
struct Ring {
    memory: Memory,
    offsets: libc::xdp_ring_offset,
}

impl Ring {
    fn index(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the kernel gave the offset of an aligned u32 within the mapping, which lives as long as `self`.
        unsafe { &*self.memory.at(offset).cast::<AtomicU32>() }
    }

    fn producer(&self) -> &AtomicU32 {
        self.index(self.offsets.producer)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.index(self.offsets.consumer)
    }
}

struct Memory {
    start: *mut u8,
    bytes: usize,
}

impl Memory {
    fn map(bytes: usize, fd: i32, offset: i64) -> Result<Self> {
        let flags =
            if fd < 0 { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS } else { libc::MAP_SHARED | libc::MAP_POPULATE };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset) };
        ensure!(start != libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
        Ok(Self { start: start.cast(), bytes })
    }

    fn at(&self, offset: u64) -> *mut u8 {
        // SAFETY: offsets are the kernel's, or places below PLACES, and within the mapping.
        unsafe { self.start.add(offset as usize) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}

/// The socket, its memory, the ring of what is to be sent and the one of what was.
struct XdpSocket {
    socket: OwnedFd,
    frames: Memory,
    sending: Ring,
    sent: Ring,
}

impl XdpSocket {
    fn open(interface: u32) -> Result<Self> {
        // SAFETY: socket takes three integers.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        count("an AF_XDP socket", fd as isize)?;
        // SAFETY: just opened, and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let frames = Memory::map(PLACE * PLACES as usize, -1, 0)?;
        let registration = libc::xdp_umem_reg {
            addr: frames.start as u64,
            len: frames.bytes as u64,
            chunk_size: PLACE as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        set(&socket, libc::XDP_UMEM_REG, &registration).context("no shared memory")?;
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_TX_RING] {
            set(&socket, ring, &PLACES).context("no ring")?;
        }
        let offsets = offsets(&socket)?;
        let ring = |offsets: libc::xdp_ring_offset, entry: usize, page: i64| -> Result<Ring> {
            let bytes = offsets.desc as usize + entry * PLACES as usize;
            Ok(Ring { memory: Memory::map(bytes, socket.as_raw_fd(), page)?, offsets })
        };
        let sending = ring(offsets.tx, size_of::<libc::xdp_desc>(), libc::XDP_PGOFF_TX_RING)?;
        let sent = ring(offsets.cr, size_of::<u64>(), libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64)?;
        bind(&socket, interface)?;
        Ok(Self { socket, frames, sending, sent })
    }

    /// Sends one frame and waits until the kernel has taken it.
    fn send(&self, frame: &[u8], number: u32) -> Result<()> {
        let slot = u64::from(number % PLACES);
        let place = slot * PLACE as u64;
        let description = libc::xdp_desc { addr: place, len: frame.len() as u32, options: 0 };
        let at = self.sending.offsets.desc + slot * size_of::<libc::xdp_desc>() as u64;
        // SAFETY: the place has room for the frame, and the slot for its description; the kernel reads neither before
        // the producer's index is moved.
        unsafe {
            ptr::copy_nonoverlapping(frame.as_ptr(), self.frames.at(place), frame.len());
            self.sending.memory.at(at).cast::<libc::xdp_desc>().write(description);
        }
        self.sending.producer().fetch_add(1, Ordering::Release);
        while self.sent.producer().load(Ordering::Acquire) == number {
            // SAFETY: nothing is sent but what the ring describes.
            let kicked =
                unsafe { libc::sendto(self.socket.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
            match kicked {
                0.. => thread::yield_now(),
                // waits: the kernel's memory for frames on their way is used up, and nothing tells when there is more.
                _ if io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN) => thread::sleep(PAUSE),
                failed => return count("sendto", failed).map(drop),
            }
        }
        self.sent.consumer().fetch_add(1, Ordering::Release);
        Ok(())
    }
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    let value = ptr::from_ref(value).cast();
    // SAFETY: the option's value outlives the call and has the size given.
    count("setsockopt", unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_XDP, option, value, size) } as isize)?;
    Ok(())
}

fn offsets(socket: &OwnedFd) -> Result<libc::xdp_mmap_offsets> {
    // SAFETY: plain integers, valid when zeroed.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { mem::zeroed() };
    let mut size = size_of_val(&offsets) as libc::socklen_t;
    let place = (&raw mut offsets).cast();
    // SAFETY: the kernel writes at most `size` bytes.
    let got =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, place, &raw mut size) };
    count("getsockopt", got as isize)?;
    Ok(offsets)
}

fn bind(socket: &OwnedFd, interface: u32) -> Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: libc::XDP_COPY,
        sxdp_ifindex: interface,
        sxdp_queue_id: 0,
        sxdp_shared_umem_fd: 0,
    };
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address outlives the call and has the size given.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    count("bind", bound as isize).map(drop)
}
