//! Turning an interface's offloads off, so that it counts the packets of the wire.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};

/// `include/uapi/linux/sockios.h`.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// `include/uapi/linux/ethtool.h`.
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;

/// Turns off every segmentation and receive offload of a device in the calling thread's namespace.
///
/// # Errors
/// Where the device is not there or refuses.
pub fn turn_off(device: &str) -> Result<()> {
    set(device, |name| name.contains("segmentation") || name.starts_with("rx-gro"), false)
}

/// Turns on generic receive offload of a device in the calling thread's namespace.
///
/// # Errors
/// Where the device is not there or refuses.
pub fn turn_on_receive(device: &str) -> Result<()> {
    set(device, |name| name == "rx-gro", true)
}

fn set(device: &str, is_meant: impl Fn(&str) -> bool, is_on: bool) -> Result<()> {
    let socket = control_socket()?;
    let names = feature_names(&socket, device).with_context(|| format!("failed to list the features of {device}"))?;
    let mut words = vec![ETHTOOL_SFEATURES, names.len().div_ceil(32) as u32];
    for block in names.chunks(32) {
        let bits = block.iter().enumerate().filter(|(_, name)| is_meant(name)).fold(0, |bits, (at, _)| bits | 1 << at);
        words.extend([bits, if is_on { bits } else { 0 }]);
    }
    ethtool(&socket, device, words.as_mut_ptr().cast()).with_context(|| format!("failed to set features of {device}"))
}

fn control_socket() -> Result<OwnedFd> {
    // SAFETY: socket takes three integers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    ensure!(fd >= 0, "failed to open a control socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor was just opened and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn feature_names(socket: &OwnedFd, device: &str) -> io::Result<Vec<String>> {
    // struct ethtool_sset_info: cmd, reserved, sset_mask (u64), data[1].
    let mut info: [u32; 6] = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0, 0];
    ethtool(socket, device, info.as_mut_ptr().cast())?;
    let count = info[4] as usize;
    // struct ethtool_gstrings: cmd, string_set, len, data.
    let mut bytes = vec![0u8; 12 + count * ETH_GSTRING_LEN];
    bytes[0..4].copy_from_slice(&ETHTOOL_GSTRINGS.to_ne_bytes());
    bytes[4..8].copy_from_slice(&ETH_SS_FEATURES.to_ne_bytes());
    bytes[8..12].copy_from_slice(&(count as u32).to_ne_bytes());
    ethtool(socket, device, bytes.as_mut_ptr().cast())?;
    Ok(bytes[12..].chunks(ETH_GSTRING_LEN).map(text).collect())
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn ethtool(socket: &OwnedFd, device: &str, data: *mut libc::c_char) -> io::Result<()> {
    // SAFETY: ifreq is plain data, valid when zeroed.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = data;
    // SAFETY: `data` points to a command buffer as large as its command needs; the kernel writes inside it only.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
