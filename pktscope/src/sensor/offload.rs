//! Which offloads a device has on, by the ethtool ioctl of each.

use std::{net::UdpSocket, os::fd::AsRawFd as _};

/// An offload that decides what a device counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feature {
    /// TCP segmentation.
    Tso,
    /// Generic receive offload.
    Gro,
}

/// `ETHTOOL_GTSO` and `ETHTOOL_GGRO` of include/uapi/linux/ethtool.h.
const GET_TSO: u32 = 0x1e;
const GET_GRO: u32 = 0x2b;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Whether a device of this network namespace has an offload on; `false` where it cannot be asked.
pub(super) fn is_on(device: &str, feature: Feature) -> bool {
    let command = match feature {
        Feature::Tso => GET_TSO,
        Feature::Gro => GET_GRO,
    };
    ask(device, command).is_some_and(|data| data != 0)
}

fn ask(device: &str, command: u32) -> Option<u32> {
    let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::1]:0")).ok()?;
    let mut value = EthtoolValue { command, data: 0 };
    // SAFETY: an `ifreq` is plain integers and bytes, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero, as the kernel expects of a name.
    let room = request.ifr_name.len() - 1;
    for (place, byte) in request.ifr_name[..room].iter_mut().zip(device.bytes()) {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL reads the name and writes an `ethtool_value` through the pointer; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    (result == 0).then_some(value.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_segments_nothing_itself() {
        // drivers/net/loopback.c: the device takes super-packets, and that cannot be turned off.
        assert!(is_on("lo", Feature::Tso));
        assert!(!is_on("no-such-device", Feature::Gro));
    }
}
