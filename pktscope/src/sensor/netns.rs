//! Network namespaces: their cookies, and how to look into them.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
    thread,
};

use aya::maps::{MapData, SkStorage};
use pktscope_common::state::SocketState;
use rustix::net::{AddressFamily, SocketType, socket};

use super::sys;

/// The states of the sockets.
pub(super) type Sockets<T> = SkStorage<T, SocketState>;

/// The cookie of a socket's network namespace. Below Linux 5.14 only programs are told it: there it is what
/// `sock_create` noted with the socket.
///
/// # Errors
/// The system's, where neither knows it.
pub(super) fn cookie_of(socket: impl AsFd, sockets: &Sockets<impl Borrow<MapData>>) -> io::Result<u64> {
    let descriptor = socket.as_fd().as_raw_fd();
    sys::netns_cookie(descriptor).or_else(|error| match sockets.get(&descriptor, 0) {
        Ok(state) if state.netns != 0 => Ok(state.netns),
        _ => Err(error),
    })
}

/// The cookie of the network namespace of a socket that no hook saw being made: below Linux 5.14 that of a new socket there.
///
/// # Errors
/// The system's, as [`cookie_of`] and [`own_cookie`].
pub(super) fn cookie_of_old(socket: impl AsFd, sockets: &Sockets<impl Borrow<MapData> + Sync>) -> io::Result<u64> {
    cookie_of(&socket, sockets).or_else(|_| {
        let namespace = sys::namespace_of(socket.as_fd())?;
        inside(&File::from(namespace), || own_cookie(sockets))
    })
}

/// The cookie of this thread's network namespace.
///
/// # Errors
/// The system's: a kernel that tells it only programs, and none ran, because this process is outside the watched cgroup.
pub(super) fn own_cookie(sockets: &Sockets<impl Borrow<MapData>>) -> io::Result<u64> {
    cookie_of(socket(AddressFamily::INET, SocketType::DGRAM, None)?, sockets)
}

/// One path into each network namespace, by its inode number.
pub(super) fn all() -> BTreeMap<u64, PathBuf> {
    let entries = |folder| fs::read_dir(folder).into_iter().flatten().flatten();
    // Those that `ip netns` names need no process.
    let named = entries("/run/netns").map(|name| name.path());
    let paths = named.chain(entries("/proc").map(|process| process.path().join("ns/net")));
    paths.filter_map(|path| Some((fs::metadata(&path).ok()?.ino(), path))).collect()
}

/// The inode number of this thread's network namespace.
///
/// # Errors
/// The system's, without `/proc`.
pub(super) fn own_inode() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// Does something in another network namespace, on a thread of its own: a thread cannot be trusted to find its way back.
///
/// # Errors
/// The system's, where the namespace cannot be entered, and the work's own.
pub(super) fn inside<R: Send>(namespace: &File, work: impl FnOnce() -> io::Result<R> + Send) -> io::Result<R> {
    let enter = move || {
        // SAFETY: moves only this thread, which ends with the work.
        if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        work()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, enter)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the work in a network namespace panicked")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_its_own_namespace() {
        assert!(all().contains_key(&own_inode().unwrap()));
    }
}
