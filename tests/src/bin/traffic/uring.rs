//! The same through io_uring.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, RawFd},
};

use anyhow::{Context, Result};
use io_uring::{IoUring, opcode, squeue::Entry, types::Fd};
use socket2::{SockAddr, Socket, Type};

/// Bytes of one request.
const CHUNK: usize = 32 * 1024;

fn submit(entry: &Entry) -> Result<i32> {
    let mut ring = IoUring::new(2).context("failed to set up io_uring")?;
    // SAFETY: every caller keeps what the entry points to until this returns, and it waits for the completion.
    unsafe { ring.submission().push(entry) }.context("the ring has room for one entry")?;
    ring.submit_and_wait(1).context("failed to submit")?;
    let result = ring.completion().next().context("no completion")?.result();
    if result < 0 { Err(io::Error::from_raw_os_error(-result)).context("the request failed") } else { Ok(result) }
}

/// Makes a stream socket and connects it, both through the ring.
pub fn connect(domain: i32, to: &SockAddr) -> Result<Socket> {
    let socket = make(domain)?;
    submit(&opcode::Connect::new(Fd(socket.as_raw_fd()), to.as_ptr().cast(), to.len()).build())?;
    Ok(socket)
}

/// A stream socket from the ring; below Linux 5.19, which cannot, from the system call.
fn make(domain: i32) -> Result<Socket> {
    match submit(&opcode::Socket::new(domain, libc::SOCK_STREAM, 0).build()) {
        // SAFETY: the ring just made the descriptor; it has no other owner.
        Ok(fd) => Ok(unsafe { Socket::from_raw_fd(fd) }),
        Err(error) if is_unknown_request(&error) => Ok(Socket::new(domain.into(), Type::STREAM, None)?),
        Err(error) => Err(error),
    }
}

fn is_unknown_request(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.raw_os_error() == Some(libc::EINVAL))
}

/// Sends `total` bytes; gives how many requests that took.
pub fn send(socket: RawFd, total: u64) -> Result<u64> {
    let chunk = vec![b'u'; CHUNK];
    let (mut left, mut requests) = (total, 0);
    while left > 0 {
        let size = u32::try_from(left.min(CHUNK as u64))?;
        let sent = submit(&opcode::Send::new(Fd(socket), chunk.as_ptr(), size).build())?;
        left -= u64::from(sent.unsigned_abs());
        requests += 1;
    }
    Ok(requests)
}

/// Receives into `buffer` once.
pub fn receive(socket: RawFd, buffer: &mut [u8]) -> Result<usize> {
    let size = u32::try_from(buffer.len())?;
    Ok(submit(&opcode::Recv::new(Fd(socket), buffer.as_mut_ptr(), size).build())?.unsigned_abs() as usize)
}

/// Sends one datagram on a connected socket.
pub fn send_once(socket: RawFd, bytes: &[u8]) -> Result<usize> {
    let entry = opcode::Send::new(Fd(socket), bytes.as_ptr(), u32::try_from(bytes.len())?).build();
    Ok(submit(&entry)?.unsigned_abs() as usize)
}
