//! MTUs of every network namespace's interfaces: what the kernel programs undo fragmentation with.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::{fs::MetadataExt, net::UnixDatagram},
    },
    path::PathBuf,
    thread,
};

use aya::maps::{HashMap, MapData};

use super::{interfaces, sys};

/// Network namespaces looked at in one refresh.
const MAX_NAMESPACES: usize = 256;

/// The map of MTUs.
pub(super) struct Mtus {
    map: HashMap<MapData, u64, u32>,
}

impl Mtus {
    pub(super) fn new(map: HashMap<MapData, u64, u32>) -> Self {
        let mut mtus = Self { map };
        mtus.refresh();
        mtus
    }

    /// Reads the interfaces of every network namespace that has a name or a process. One that cannot be entered is left out: the
    /// kernel programs count what they then have to assume.
    pub(super) fn refresh(&mut self) {
        for path in namespaces().into_values().take(MAX_NAMESPACES) {
            // A thread of its own, because a thread cannot be trusted to find its way back.
            let read = thread::Builder::new().name("mtus".into()).spawn(move || read_in(&path));
            let Some(Ok(Ok(entries))) = read.ok().map(thread::JoinHandle::join) else { continue };
            for (key, mtu) in entries {
                // A full map leaves the interface unknown, which is counted where it matters.
                let _ = self.map.insert(key, mtu, 0);
            }
        }
    }
}

/// One path into each network namespace, by its inode number.
fn namespaces() -> BTreeMap<u64, PathBuf> {
    let entries = |folder| fs::read_dir(folder).into_iter().flatten().flatten();
    // Those that `ip netns` names need no process.
    let named = entries("/run/netns").map(|name| name.path());
    let paths = named.chain(entries("/proc").map(|process| process.path().join("ns/net")));
    paths.filter_map(|path| Some((fs::metadata(&path).ok()?.ino(), path))).collect()
}

/// Key and MTU of every interface of a namespace.
fn read_in(path: &PathBuf) -> io::Result<Vec<(u64, u32)>> {
    let namespace = File::open(path)?;
    // SAFETY: moves only this thread, which ends with this function.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let cookie = sys::netns_cookie(UnixDatagram::unbound()?.as_raw_fd())?;
    let devices = interfaces::list().map_err(io::Error::other)?;
    Ok(devices.iter().map(|device| (cookie << 32 | u64::from(device.index), device.mtu)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_its_own_namespace() {
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert!(namespaces().contains_key(&own));
    }
}
