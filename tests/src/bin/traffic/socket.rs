//! Making sockets, and small calls on them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use anyhow::{Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

/// `IPPROTO_MPTCP` (include/uapi/linux/in.h).
const MPTCP: i32 = 262;

/// A stream socket of the peer's family.
pub fn stream(to: SocketAddr, is_mptcp: bool) -> io::Result<Socket> {
    let protocol = if is_mptcp { Protocol::from(MPTCP) } else { Protocol::TCP };
    Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol))
}

/// The peer as an IPv6 socket has to name it: an IPv4 address becomes a v4-mapped one.
pub fn mapped(to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(addr) => SocketAddr::new(IpAddr::V6(addr.to_ipv6_mapped()), to.port()),
        IpAddr::V6(_) => to,
    }
}

/// Both addresses of a connected socket.
pub fn addresses(socket: &Socket) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let end = |addr: io::Result<socket2::SockAddr>| addr.ok().and_then(|addr| addr.as_socket());
    (end(socket.local_addr()), end(socket.peer_addr()))
}

/// Bytes sent that the other side has not acknowledged (tcp(7), `SIOCOUTQ`).
pub fn unacknowledged(socket: &Socket) -> Result<usize> {
    let mut bytes: i32 = 0;
    // SAFETY: the call writes one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    count("ioctl SIOCOUTQ", result as isize)?;
    Ok(usize::try_from(bytes)?)
}

/// A system call's result as a count.
pub fn count(name: &str, result: isize) -> Result<usize> {
    ensure!(result >= 0, "{name}: {}", io::Error::last_os_error());
    Ok(result.unsigned_abs())
}

/// A pipe: the reading end, then the writing one.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: the array has room for the two descriptors that the call writes.
    count("pipe2", unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } as isize)?;
    // SAFETY: both were just opened and have no other owner.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}
