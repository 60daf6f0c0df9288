//! Who opened a flow, by its first packet.

use std::net::IpAddr;

use crate::core::{
    flow::{Direction, Endpoint, FlowSettings, icmp_question},
    packet::{Detail, Packet, TcpHeader},
};

/// Ingress where only the destination is local.
pub(super) fn direction(settings: &FlowSettings, source: Endpoint, destination: Endpoint) -> Direction {
    match (settings.is_local(source.addr), settings.is_local(destination.addr)) {
        (false, true) => Direction::Ingress,
        _ => Direction::Egress,
    }
}

/// Whether a flow's first packet comes from its responder: a SYN with ACK answers a SYN; an ICMP answer its question;
/// else a well-known port speaks to one that is not (of DHCP both are: RFC 2131, RFC 8415).
pub(super) fn is_from_responder(packet: &Packet<'_>) -> bool {
    const FIRST_UNPRIVILEGED: u16 = 1024;
    match packet.detail {
        Detail::Tcp(header) if header.has(TcpHeader::SYN) => header.has(TcpHeader::ACK),
        Detail::Icmp(kind, _) => {
            icmp_question(packet.key.transport, kind).is_some() && !is_group(packet.destination().addr)
        }
        _ => {
            let destination = packet.destination();
            if is_group(destination.addr) {
                return false;
            }
            let (source, destination) = (packet.source().port, destination.port);
            let is_dhcp_server = matches!((source, destination), (67, 68) | (547, 546));
            is_dhcp_server || 0 < source && source < FIRST_UNPRIVILEGED && FIRST_UNPRIVILEGED <= destination
        }
    }
}

/// Multicast or broadcast: opens nothing.
fn is_group(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}
