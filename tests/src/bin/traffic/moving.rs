//! Every way of moving bytes through a stream socket.

use std::{
    io::{Seek, SeekFrom, Write},
    mem,
    os::fd::{AsRawFd, RawFd},
    ptr,
};

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::{
    socket::{count, pipe},
    uring,
};

/// Bytes of one call.
const CHUNK: usize = 32 * 1024;
/// Messages of one `sendmmsg`.
const BATCH: usize = 8;

/// How to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    Send,
    Write,
    Writev,
    Sendto,
    Sendmsg,
    Sendmmsg,
    Sendfile,
    Splice,
    Zerocopy,
    Uring,
}

/// How to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reading {
    Read,
    Recv,
    Recvmsg,
    Recvmmsg,
    Splice,
    Uring,
}

/// Sends `total` bytes and gives how many calls moved any.
pub fn send(socket: RawFd, way: Way, total: u64) -> Result<u64> {
    match way {
        Way::Sendfile => return send_file(socket, total),
        Way::Splice => return splice_in(socket, total),
        Way::Uring => return uring::send(socket, total),
        Way::Zerocopy => allow_zerocopy(socket)?,
        _ => {}
    }
    let chunk = vec![b'x'; CHUNK];
    let (mut left, mut calls) = (total, 0);
    while left > 0 {
        let size = CHUNK.min(usize::try_from(left)?);
        left -= send_some(socket, way, &chunk[..size])? as u64;
        calls += 1;
    }
    if way == Way::Zerocopy {
        wait_for_completions(socket)?;
    }
    Ok(calls)
}

fn send_some(socket: RawFd, way: Way, bytes: &[u8]) -> Result<usize> {
    let (data, length) = (bytes.as_ptr().cast::<libc::c_void>(), bytes.len());
    let mut vector = libc::iovec { iov_base: data.cast_mut(), iov_len: length };
    // SAFETY: `data` and `vector` describe `bytes`, which outlives the call; the kernel only reads them.
    let (name, result) = unsafe {
        match way {
            Way::Write => ("write", libc::write(socket, data, length)),
            Way::Writev => ("writev", libc::writev(socket, &raw const vector, 1)),
            Way::Sendto => ("sendto", libc::sendto(socket, data, length, libc::MSG_NOSIGNAL, ptr::null(), 0)),
            Way::Sendmsg => ("sendmsg", libc::sendmsg(socket, &message(&mut vector), libc::MSG_NOSIGNAL)),
            Way::Sendmmsg => ("sendmmsg", send_batch(socket, bytes)),
            Way::Zerocopy => ("send", libc::send(socket, data, length, libc::MSG_ZEROCOPY | libc::MSG_NOSIGNAL)),
            _ => ("send", libc::send(socket, data, length, libc::MSG_NOSIGNAL)),
        }
    };
    count(name, result)
}

/// A message of one vector.
pub fn message(vector: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: msghdr is plain data, valid when zeroed.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (vector, 1);
    message
}

/// Sends `bytes` as several messages of one `sendmmsg`; gives the bytes sent.
fn send_batch(socket: RawFd, bytes: &[u8]) -> isize {
    let mut vectors: Vec<_> = bytes.chunks(bytes.len().div_ceil(BATCH)).map(vector_of).collect();
    let mut messages: Vec<_> =
        vectors.iter_mut().map(|vector| libc::mmsghdr { msg_hdr: message(vector), msg_len: 0 }).collect();
    // SAFETY: the array and what it points to outlive the call; the kernel writes the lengths only.
    let sent = unsafe { libc::sendmmsg(socket, messages.as_mut_ptr(), messages.len() as u32, libc::MSG_NOSIGNAL) };
    if sent < 0 {
        return -1;
    }
    messages.iter().take(sent.unsigned_abs() as usize).map(|message| message.msg_len as isize).sum()
}

/// A vector of some bytes that the kernel will only read.
pub fn vector_of(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn send_file(socket: RawFd, total: u64) -> Result<u64> {
    let mut file = tempfile::tempfile()?;
    file.set_len(total)?;
    file.seek(SeekFrom::Start(0))?;
    let (mut left, mut calls) = (total, 0);
    while left > 0 {
        // SAFETY: both descriptors are open; the file's own offset is used.
        let sent = unsafe { libc::sendfile(socket, file.as_raw_fd(), ptr::null_mut(), usize::try_from(left)?) };
        let sent = count("sendfile", sent)?;
        ensure!(sent > 0, "sendfile: the file ended early");
        left -= sent as u64;
        calls += 1;
    }
    Ok(calls)
}

fn splice_in(socket: RawFd, total: u64) -> Result<u64> {
    let (reading, writing) = pipe()?;
    let mut writing = std::fs::File::from(writing);
    let (chunk, mut left, mut calls) = (vec![b's'; CHUNK], total, 0);
    while left > 0 {
        let mut filled = CHUNK.min(usize::try_from(left)?);
        writing.write_all(&chunk[..filled])?;
        while filled > 0 {
            let moved = splice(reading.as_raw_fd(), socket, filled)?;
            (filled, left, calls) = (filled - moved, left - moved as u64, calls + 1);
        }
    }
    Ok(calls)
}

fn splice(from: RawFd, to: RawFd, size: usize) -> Result<usize> {
    // SAFETY: both descriptors are open and no offsets are given.
    count("splice", unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), size, libc::SPLICE_F_MOVE) })
}

fn allow_zerocopy(socket: RawFd) -> Result<()> {
    let on: libc::c_int = 1;
    let size = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option's value is an int that outlives the call.
    let result = unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_ZEROCOPY, (&raw const on).cast(), size) };
    count("SO_ZEROCOPY", result as isize).map(drop)
}

/// Waits until the error queue tells that the kernel is done with at least one buffer.
fn wait_for_completions(socket: RawFd) -> Result<()> {
    let mut waiting = libc::pollfd { fd: socket, events: 0, revents: 0 };
    // SAFETY: one descriptor is given.
    let ready = unsafe { libc::poll(&mut waiting, 1, 5_000) };
    ensure!(ready == 1 && waiting.revents & libc::POLLERR != 0, "no zero-copy completion");
    Ok(())
}

/// Receives until the other side is done; gives the bytes.
pub fn receive(socket: RawFd, reading: Reading) -> Result<u64> {
    let mut buffer = vec![0u8; CHUNK];
    let pipe = pipe()?;
    let mut total = 0;
    loop {
        let got = match reading {
            Reading::Splice => splice_out(socket, &pipe)?,
            Reading::Uring => uring::receive(socket, &mut buffer)?,
            _ => receive_some(socket, reading, &mut buffer)?,
        };
        if got == 0 {
            return Ok(total);
        }
        total += got as u64;
    }
}

fn splice_out(socket: RawFd, (reading, writing): &(std::os::fd::OwnedFd, std::os::fd::OwnedFd)) -> Result<usize> {
    let moved = splice(socket, writing.as_raw_fd(), CHUNK)?;
    let mut drained = vec![0u8; moved];
    if moved > 0 {
        // SAFETY: the buffer has room for all that was put into the pipe.
        count("read", unsafe { libc::read(reading.as_raw_fd(), drained.as_mut_ptr().cast(), moved) })?;
    }
    Ok(moved)
}

fn receive_some(socket: RawFd, reading: Reading, buffer: &mut [u8]) -> Result<usize> {
    let (data, length) = (buffer.as_mut_ptr().cast::<libc::c_void>(), buffer.len());
    let mut vector = libc::iovec { iov_base: data, iov_len: length };
    let mut message = message(&mut vector);
    // SAFETY: `data` and `message` describe `buffer`, which outlives the call.
    let (name, result) = unsafe {
        match reading {
            Reading::Recv => ("recv", libc::recv(socket, data, length, 0)),
            Reading::Recvmsg => ("recvmsg", libc::recvmsg(socket, &mut message, 0)),
            Reading::Recvmmsg => ("recvmmsg", receive_batch(socket, message)),
            _ => ("read", libc::read(socket, data, length)),
        }
    };
    count(name, result)
}

fn receive_batch(socket: RawFd, message: libc::msghdr) -> isize {
    let mut messages = [libc::mmsghdr { msg_hdr: message, msg_len: 0 }];
    // SAFETY: the one message points to a buffer that the caller holds.
    let got = unsafe { libc::recvmmsg(socket, messages.as_mut_ptr(), 1, 0, ptr::null_mut()) };
    if got < 0 { -1 } else { messages[0].msg_len as isize }
}
