//! Owners of sockets older than the agent where no program may look through open files: below Linux 5.11.
//!
//! `/proc` tells which processes hold which sockets. Of each socket the agent takes a descriptor of its own for a moment
//! (pidfd_getfd(2), since Linux 5.6) and writes the holder to the socket's storage. That names sockets of every kind in
//! every network namespace; socket diagnostics would need a module of the kernel for each protocol, and have none for ping
//! sockets.

use std::{
    borrow::BorrowMut,
    collections::BTreeMap,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use aya::maps::MapData;
use pktscope_common::state::{SocketState, Stamp, flags, method};
use procfs::process::Process;
use rustix::{
    net::{AddressFamily, SocketType, sockopt},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::{
    netns::{self, Sockets},
    sys,
};
use crate::core::process::START_TICK_NANOS;

/// `BPF_NOEXIST` of include/uapi/linux/bpf.h.
const NOEXIST: u64 = 1;
/// Sockets looked at; further ones stay without an owner.
const MAX_SOCKETS: usize = 1 << 20;

/// Where a socket was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    pid: i32,
    descriptor: RawFd,
    /// Whether other processes hold it too.
    is_shared: bool,
}

/// Stamps the holders of every open socket; sockets made from here on are stamped by `sock_create`, which is attached.
///
/// # Errors
/// Where `/proc` cannot be listed, and the last error where no socket at all could be stamped.
pub(super) fn run(sockets: &mut Sockets<impl BorrowMut<MapData> + Sync>, cgroup: &Path) -> io::Result<()> {
    let mut stamps = BTreeMap::new();
    let (mut stamped, mut refused) = (0_usize, None);
    for holder in holders()?.into_values() {
        let user = *stamps.entry(holder.pid).or_insert_with(|| stamp(holder.pid, cgroup));
        let Some(user) = user else { continue };
        match stamp_socket(sockets, holder, user) {
            Ok(()) => stamped += 1,
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if stamped == 0 => Err(error),
        _ => Ok(()),
    }
}

/// Every socket's first holder, by its inode number. What ends meanwhile is left out.
fn holders() -> io::Result<BTreeMap<u64, Holder>> {
    let mut holders = BTreeMap::new();
    for pid in pids()? {
        for (descriptor, inode) in sockets_of(pid) {
            let is_known = holders.contains_key(&inode);
            if !is_known && holders.len() == MAX_SOCKETS {
                return Ok(holders);
            }
            let first = holders.entry(inode).or_insert(Holder { pid, descriptor, is_shared: false });
            first.is_shared |= first.pid != pid;
        }
    }
    Ok(holders)
}

/// Processes in the order of their ids.
fn pids() -> io::Result<Vec<i32>> {
    let names = fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name());
    let mut pids: Vec<i32> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    Ok(pids)
}

/// Descriptors and inode numbers of a process's sockets.
fn sockets_of(pid: i32) -> impl Iterator<Item = (RawFd, u64)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, inode))
    })
}

/// A process as sockets are stamped with it; `None` where it has ended.
fn stamp(pid: i32, cgroup: &Path) -> Option<Stamp> {
    let process = Process::new(pid).ok()?;
    Some(Stamp {
        started_at: process.stat().ok()?.starttime.saturating_mul(START_TICK_NANOS),
        cgroup_id: cgroup_id(&process, cgroup).unwrap_or(0),
        pid: u32::try_from(pid).ok()?,
        uid: process.status().ok()?.euid,
    })
}

/// The id of a process's cgroup2 folder: its inode number (include/linux/cgroup.h, `cgroup_id`).
fn cgroup_id(process: &Process, mount: &Path) -> Option<u64> {
    let cgroups = process.cgroups().ok()?;
    let path = cgroups.0.into_iter().find(|group| group.hierarchy == 0)?.pathname;
    fs::metadata(mount.join(path.trim_start_matches('/'))).ok().map(|folder| folder.ino())
}

/// Writes a holder to its socket, unless that has an owner by now or is of no family that is counted.
fn stamp_socket(sockets: &mut Sockets<impl BorrowMut<MapData> + Sync>, holder: Holder, user: Stamp) -> io::Result<()> {
    let socket = take(holder)?;
    let family = sockopt::socket_domain(&socket)?;
    if ![AddressFamily::INET, AddressFamily::INET6, AddressFamily::PACKET].contains(&family) {
        return Ok(());
    }
    let state = SocketState {
        flags: flags_of(&socket, holder)?,
        cookie: sockopt::socket_cookie(&socket)?,
        // Without it the socket counts as one of the agent's own network namespace.
        netns: netns::cookie_of_old(&socket, sockets).unwrap_or(0),
        method: method::SNAPSHOT,
        user,
        ..SocketState::default()
    };
    match sockets.insert(&socket, state, NOEXIST) {
        Ok(()) => Ok(()),
        Err(_) if sockets.get(&socket, 0).is_ok() => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// A descriptor of our own for another process's socket.
fn take(holder: Holder) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(holder.pid).ok_or(io::ErrorKind::NotFound)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(pidfd_getfd(process, holder.descriptor, PidfdGetfdFlags::empty())?)
}

/// A socket older than the agent has a past that was not counted; what a listener accepts from now on has none.
fn flags_of(socket: &OwnedFd, holder: Holder) -> io::Result<u32> {
    let is_listener = sockopt::socket_acceptconn(socket).unwrap_or(false);
    let old = if is_listener { 0 } else { flags::OLD | opening(socket).unwrap_or(0) };
    let raw = if sockopt::socket_type(socket)? == SocketType::RAW { flags::RAW } else { 0 };
    let shared = if holder.is_shared { flags::SHARED } else { 0 };
    Ok(old | raw | shared)
}

/// Positions in `struct tcp_info` of include/uapi/linux/tcp.h; the first byte is the state.
const ACKNOWLEDGED: usize = 120;
const NOT_SENT: usize = 144;
const SENT: usize = 200;
const SENT_AGAIN: usize = 208;
/// `TCP_ESTABLISHED` and `TCP_CLOSE_WAIT` of include/net/tcp_states.h.
const OPEN: [u8; 2] = [1, 8];

/// Which side opened an established connection: a SYN that was acknowledged counts as an acknowledged byte
/// (net/ipv4/tcp_input.c, `tcp_snd_una_update`), but never as one sent, and an accepted socket starts behind its SYN.
/// `None` where it is no such connection, or the kernel does not tell.
fn opening(socket: &OwnedFd) -> Option<u32> {
    let info = sys::tcp_info(socket.as_fd()).ok()?;
    let number = |at: usize| Some(u64::from_ne_bytes(*info.get(at..)?.first_chunk()?));
    let not_sent = u32::from_ne_bytes(*info.get(NOT_SENT..)?.first_chunk()?);
    let pending = sys::unacknowledged_bytes(socket.as_fd()).ok()?.checked_sub(u64::from(not_sent))?;
    let sent = number(SENT)?.checked_sub(number(SENT_AGAIN)?)?;
    let is_ours = number(ACKNOWLEDGED)? + pending > sent;
    OPEN.contains(info.first()?).then_some(if is_ours { flags::ACTIVE } else { flags::PASSIVE })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{TcpListener, TcpStream, UdpSocket},
        os::fd::AsRawFd,
    };

    use super::*;

    #[test]
    fn finds_a_socket_of_its_own_process() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(&socket).unwrap().st_ino;
        let found = holders().unwrap()[&inode];
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(found, Holder { pid, descriptor: socket.as_raw_fd(), is_shared: false });
    }

    #[test]
    fn a_connection_s_counters_tell_who_opened_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut opener = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut acceptor = listener.accept().unwrap().0;
        let check = |opener: &TcpStream, acceptor: &TcpStream| {
            let side = |socket: &TcpStream| opening(&socket.as_fd().try_clone_to_owned().unwrap());
            assert_eq!((side(opener), side(acceptor)), (Some(flags::ACTIVE), Some(flags::PASSIVE)));
        };
        check(&opener, &acceptor);
        opener.write_all(&[0; 100_000]).unwrap();
        acceptor.write_all(&[0; 3]).unwrap();
        check(&opener, &acceptor);
        assert_eq!(opening(&OwnedFd::from(listener)), None);
    }

    #[test]
    fn a_process_is_stamped_with_what_proc_says() {
        let own = stamp(i32::try_from(std::process::id()).unwrap(), Path::new("/")).unwrap();
        assert_eq!((own.pid, own.uid), (std::process::id(), rustix::process::geteuid().as_raw()));
        assert_ne!(own.started_at, 0);
        assert!(stamp(i32::MAX, Path::new("/")).is_none());
    }
}
