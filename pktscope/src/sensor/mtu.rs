//! MTUs of every network namespace's interfaces: what the kernel programs undo fragmentation with.

use std::{fs::File, io, path::Path};

use aya::maps::{HashMap, MapData};

use super::{
    interfaces,
    netns::{self, Sockets},
};

/// Network namespaces looked at in one refresh.
const MAX_NAMESPACES: usize = 256;

/// The map of MTUs.
pub(super) struct Mtus {
    map: HashMap<MapData, u64, u32>,
}

impl Mtus {
    pub(super) fn new(map: HashMap<MapData, u64, u32>) -> Self {
        Self { map }
    }

    /// Reads the interfaces of every network namespace that has a name or a process. One that cannot be entered is left out: the
    /// kernel programs count what they then have to assume.
    pub(super) fn refresh(&mut self, sockets: &Sockets<MapData>) {
        for path in netns::all().into_values().take(MAX_NAMESPACES) {
            let Ok(entries) = read_in(&path, sockets) else { continue };
            for (key, mtu) in entries {
                // A full map leaves the interface unknown, which is counted where it matters.
                let _ = self.map.insert(key, mtu, 0);
            }
        }
    }
}

/// Key and MTU of every interface of a namespace.
fn read_in(path: &Path, sockets: &Sockets<MapData>) -> io::Result<Vec<(u64, u32)>> {
    netns::inside(&File::open(path)?, || {
        let cookie = netns::own_cookie(sockets)?;
        let devices = interfaces::list().map_err(io::Error::other)?;
        Ok(devices.iter().map(|device| (cookie << 32 | u64::from(device.index), device.mtu)).collect())
    })
}
