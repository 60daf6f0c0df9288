//! Where the IP header begins, for each kind of link that a capture can hold.

use super::{IpVersion, MAX_LAYERS, Undecoded};

/// What a captured frame begins with, by the registry of tcpdump.org/linktypes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// 1: Ethernet, with any VLAN tags.
    Ethernet,
    /// 0 and 108: the loopback of BSD, an address family in either byte order.
    Null,
    /// 12, 14 and 101: an IP header.
    Raw,
    /// 228: an IPv4 header.
    Ipv4,
    /// 229: an IPv6 header.
    Ipv6,
    /// 113: Linux cooked v1.
    LinuxSll,
    /// 276: Linux cooked v2.
    LinuxSll2,
    /// Any other, by number.
    Other(u16),
}

impl From<u16> for LinkType {
    fn from(number: u16) -> Self {
        match number {
            0 | 108 => Self::Null,
            1 => Self::Ethernet,
            12 | 14 | 101 => Self::Raw,
            113 => Self::LinuxSll,
            228 => Self::Ipv4,
            229 => Self::Ipv6,
            276 => Self::LinuxSll2,
            other => Self::Other(other),
        }
    }
}

/// IEEE 802.3 with LLC and SNAP: an EtherType follows (RFC 1042).
const SNAP: [u8; 6] = [0xaa, 0xaa, 0x03, 0, 0, 0];

pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Offset of the IP header and its version.
#[inline]
pub(super) fn ip_offset(link: LinkType, data: &[u8]) -> Result<(usize, IpVersion), Undecoded> {
    match link {
        LinkType::Ethernet => by_ethertype(data, 12),
        LinkType::Raw => Ok((0, version_at(data, 0)?)),
        LinkType::Ipv4 => Ok((0, IpVersion::V4)),
        LinkType::Ipv6 => Ok((0, IpVersion::V6)),
        LinkType::LinuxSll => by_ethertype(data, 14),
        // The protocol comes first; the header is 20 bytes long.
        LinkType::LinuxSll2 => tagged(data, 18, word_at(data, 0)?),
        LinkType::Null => null(data),
        LinkType::Other(_) => Err(Undecoded::UnknownLink),
    }
}

/// Address families by value, in whichever byte order: AF_INET is 2; AF_INET6 10 (Linux), 24, 28, 30 (the BSDs, macOS).
fn null(data: &[u8]) -> Result<(usize, IpVersion), Undecoded> {
    let family: &[u8; 4] = data.first_chunk().ok_or(Undecoded::Truncated)?;
    match family {
        [2, 0, 0, 0] | [0, 0, 0, 2] => Ok((4, IpVersion::V4)),
        [10 | 24 | 28 | 30, 0, 0, 0] | [0, 0, 0, 10 | 24 | 28 | 30] => Ok((4, IpVersion::V6)),
        _ => Err(Undecoded::NotIp),
    }
}

fn version_at(data: &[u8], offset: usize) -> Result<IpVersion, Undecoded> {
    match data.get(offset).ok_or(Undecoded::Truncated)? >> 4 {
        4 => Ok(IpVersion::V4),
        6 => Ok(IpVersion::V6),
        _ => Err(Undecoded::NotIp),
    }
}

fn word_at(data: &[u8], offset: usize) -> Result<u16, Undecoded> {
    match data.get(offset..offset + 2) {
        Some(bytes) => Ok(u16::from_be_bytes([bytes[0], bytes[1]])),
        None => Err(Undecoded::Truncated),
    }
}

/// Follows an EtherType at `at`: VLAN tags (802.1Q, 802.1ad and the older 0x9100), MPLS, PPPoE sessions.
#[inline]
fn by_ethertype(data: &[u8], at: usize) -> Result<(usize, IpVersion), Undecoded> {
    match word_at(data, at)? {
        ETHERTYPE_IPV4 => Ok((at + 2, IpVersion::V4)),
        ETHERTYPE_IPV6 => Ok((at + 2, IpVersion::V6)),
        kind => tagged(data, at, kind),
    }
}

fn tagged(data: &[u8], mut at: usize, mut kind: u16) -> Result<(usize, IpVersion), Undecoded> {
    for _ in 0..MAX_LAYERS {
        match kind {
            ETHERTYPE_IPV4 => return Ok((at + 2, IpVersion::V4)),
            ETHERTYPE_IPV6 => return Ok((at + 2, IpVersion::V6)),
            0x8100 | 0x88a8 | 0x9100 => at += 4,
            0x8847 | 0x8848 => return mpls(data, at + 2),
            0x8864 => return pppoe(data, at + 2),
            length if length <= 1500 && data.get(at + 2..at + 8) == Some(&SNAP[..]) => at += 8,
            _ => return Err(Undecoded::NotIp),
        }
        kind = word_at(data, at)?;
    }
    Err(Undecoded::TooDeep)
}

/// Labels of four bytes up to the one with the bottom-of-stack bit (RFC 3032); the version nibble tells what follows.
fn mpls(data: &[u8], mut at: usize) -> Result<(usize, IpVersion), Undecoded> {
    for _ in 0..MAX_LAYERS {
        let is_bottom = data.get(at + 2).ok_or(Undecoded::Truncated)? & 1 != 0;
        at += 4;
        if is_bottom {
            return Ok((at, version_at(data, at)?));
        }
    }
    Err(Undecoded::TooDeep)
}

/// Version, code, session and length, then PPP's protocol number (RFC 2516, RFC 1332, RFC 5072).
fn pppoe(data: &[u8], at: usize) -> Result<(usize, IpVersion), Undecoded> {
    match word_at(data, at + 6)? {
        0x0021 => Ok((at + 8, IpVersion::V4)),
        0x0057 => Ok((at + 8, IpVersion::V6)),
        _ => Err(Undecoded::NotIp),
    }
}
