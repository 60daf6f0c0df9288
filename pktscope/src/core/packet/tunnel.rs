//! Packets in packets: what is inside an IP, GRE or VXLAN packet; `None` where it is not what it seems.

use super::{Decoded, IpHeader, IpVersion, LinkType, Tunnels, ip, link, udp};

/// UDP port of VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4789;

#[inline(never)]
fn nested(version: IpVersion, data: &[u8], wire_bytes: u32, tunnels: Tunnels, layers: u32) -> Option<Decoded<'_>> {
    ip(version, data, wire_bytes, tunnels, layers.checked_sub(1)?).ok()
}

/// A packet right behind an IP header (RFC 2003, RFC 4213).
#[inline(never)]
pub(super) fn inner<'a>(
    outer: &IpHeader<'a>,
    version: IpVersion,
    tunnels: Tunnels,
    layers: u32,
) -> Option<Decoded<'a>> {
    nested(version, outer.body, outer.body_bytes, tunnels, layers)
}

/// The packet in a VXLAN datagram, where the header is one.
#[inline(never)]
pub(super) fn vxlan<'a>(header: &IpHeader<'a>, tunnels: Tunnels, layers: u32) -> Option<Decoded<'a>> {
    let packet = udp(header);
    if !packet.key.ports.contains(&VXLAN_PORT) {
        return None;
    }
    // Flags with the I bit, reserved, network identifier, reserved (RFC 7348, 5).
    let frame = packet.payload.get(8..).filter(|_| packet.payload[0] & 0x08 != 0)?;
    ethernet_inside(frame, packet.payload_bytes.saturating_sub(8), tunnels, layers)
}

/// The packet behind a GRE header.
#[inline(never)]
pub(super) fn gre<'a>(header: &IpHeader<'a>, tunnels: Tunnels, layers: u32) -> Option<Decoded<'a>> {
    let head: &[u8; 4] = header.body.first_chunk()?;
    // Checksum, key and sequence number are present by flag (RFC 2784, 2.1; RFC 2890, 2); version 0 only.
    if head[1] & 0x07 != 0 {
        return None;
    }
    let optional = [0x80, 0x20, 0x10].into_iter().filter(|flag| head[0] & flag != 0).count();
    let offset = 4 + optional * 4;
    let body = header.body.get(offset..)?;
    let wire_bytes = header.body_bytes.saturating_sub(offset as u32);
    let version = match u16::from_be_bytes([head[2], head[3]]) {
        link::ETHERTYPE_IPV4 => IpVersion::V4,
        link::ETHERTYPE_IPV6 => IpVersion::V6,
        // Transparent Ethernet bridging.
        0x6558 => return ethernet_inside(body, wire_bytes, tunnels, layers),
        _ => return None,
    };
    nested(version, body, wire_bytes, tunnels, layers)
}

fn ethernet_inside(frame: &[u8], wire_bytes: u32, tunnels: Tunnels, layers: u32) -> Option<Decoded<'_>> {
    let (offset, version) = link::ip_offset(LinkType::Ethernet, frame).ok()?;
    let wire_bytes = wire_bytes.saturating_sub(offset as u32);
    nested(version, frame.get(offset..)?, wire_bytes, tunnels, layers)
}
