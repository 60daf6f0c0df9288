//! The interfaces' own counters, by rtnetlink: what the ledger is reconciled with.
//!
//! Each wire counts once. In scope are hardware devices, and the software ones at which packets leave this network
//! namespace (veth, netkit, dummy) unless they are ports of a bridge or bond. Bond, bridge, VLAN and their like add no
//! IP bytes, so what uses them counts at the device below. Tunnels are left out: their outer packets count.

use std::{collections::BTreeMap, net::IpAddr};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, Stats64},
};
use pktscope_common::knobs::tunnels;

pub use super::netlink::NetlinkError;
use super::{netlink::dump, offload};
use crate::core::event::{InterfaceReading, StackedInterface};

/// Bytes of an Ethernet header (include/uapi/linux/if_ether.h, ETH_HLEN); what devices count on top of IP.
const ETHERNET_HEADER_BYTES: u32 = 14;

/// A network device as the ledger sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Bytes of link-layer header that its packets begin with.
    pub link_header_bytes: u32,
    /// What it stands on.
    pub role: Role,
    /// Where its packets go.
    pub place: Place,
    /// [`tunnels`] whose packets it takes, where it is up.
    pub tunnels: u32,
    /// Whether its counters are of wire segments (see [`InterfaceReading::has_wire_segments`]).
    pub has_wire_segments: [bool; 2],
    /// IP-layer bytes sent and received since it came up.
    pub bytes: [u64; 2],
}

/// What a device is to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Packets leave the network namespace here.
    Wire,
    /// Packets go on to the device below without another IP header.
    Stacked {
        /// The device below, where the kernel names it.
        below: Option<u32>,
    },
    /// Loopback, tunnels, ports of a bridge that lead back inside.
    Aside,
}

/// Where a device hands its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Out of the network namespace.
    Edge,
    /// To the kernel, which wraps them in packets of its own; or, of `tun` and `tap`, to a program that does.
    Tunnel,
    /// Out of the network namespace, as a port of a bridge or bond.
    Port,
    /// To a device below, or to no other.
    Upper,
}

/// Lists the devices of the calling thread's network namespace.
///
/// # Errors
/// [`NetlinkError`].
pub fn list() -> Result<Vec<Device>, NetlinkError> {
    let mut links = Vec::new();
    dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), "read the interfaces", |message| {
        if let RouteNetlinkMessage::NewLink(link) = message {
            links.push(link);
        }
    })?;
    Ok(into_devices(&links))
}

/// Lists the addresses of the calling thread's network namespace.
///
/// # Errors
/// [`NetlinkError`].
pub fn addresses() -> Result<Vec<IpAddr>, NetlinkError> {
    let mut addresses = Vec::new();
    dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), "read the addresses", |message| {
        if let RouteNetlinkMessage::NewAddress(row) = message {
            // Of a point-to-point device `Address` is the other end's.
            let own = |it: &AddressAttribute| if let AddressAttribute::Local(addr) = it { Some(*addr) } else { None };
            let any = |it: &AddressAttribute| if let AddressAttribute::Address(addr) = it { Some(*addr) } else { None };
            let found = row.attributes.iter().find_map(own).or_else(|| row.attributes.iter().find_map(any));
            addresses.extend(found);
        }
    })?;
    Ok(addresses)
}

fn into_devices(links: &[LinkMessage]) -> Vec<Device> {
    let mut devices: Vec<Device> = links.iter().map(to_device).collect();
    let below: BTreeMap<u32, [bool; 2]> = devices
        .iter()
        .filter(|device| device.role == Role::Wire)
        .map(|device| (device.index, device.has_wire_segments))
        .collect();
    let ports = wire_ports(links, &below);
    for device in &mut devices {
        if let Role::Stacked { below: named } = device.role {
            let lower = named.filter(|index| below.contains_key(index)).or_else(|| ports.get(&device.index).copied());
            device.role = lower.map_or(Role::Aside, |index| Role::Stacked { below: Some(index) });
            device.has_wire_segments = lower.and_then(|index| below.get(&index).copied()).unwrap_or_default();
        }
    }
    devices
}

/// For each bridge, bond or team: one of its ports that is a wire.
fn wire_ports(links: &[LinkMessage], wires: &BTreeMap<u32, [bool; 2]>) -> BTreeMap<u32, u32> {
    let port = |link: &LinkMessage| {
        let controller = controller(link)?;
        wires.contains_key(&link.header.index).then_some((controller, link.header.index))
    };
    links.iter().filter_map(port).collect()
}

fn to_device(link: &LinkMessage) -> Device {
    let kind = kind(link);
    let layer = link.header.link_layer_type;
    let role = match (layer, kind) {
        (LinkLayerType::Loopback, _) => Role::Aside,
        (_, None) => Role::Wire,
        (_, Some(InfoKind::Veth | InfoKind::Netkit | InfoKind::Dummy)) if controller(link).is_none() => Role::Wire,
        (_, Some(InfoKind::Bridge | InfoKind::Bond | InfoKind::Team)) => Role::Stacked { below: None },
        (_, Some(InfoKind::Vlan | InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan | InfoKind::IpVtap)) => {
            Role::Stacked { below: attribute(link, |it| if let LinkAttribute::Link(i) = it { Some(*i) } else { None }) }
        }
        _ => Role::Aside,
    };
    let place = match (layer, kind) {
        (LinkLayerType::Loopback, _) | (_, Some(InfoKind::Vrf | InfoKind::Ifb)) => Place::Upper,
        _ if matches!(role, Role::Stacked { .. }) => Place::Upper,
        _ if role == Role::Wire => Place::Edge,
        _ if controller(link).is_some() => Place::Port,
        _ => Place::Tunnel,
    };
    let name = attribute(link, |it| if let LinkAttribute::IfName(name) = it { Some(name.clone()) } else { None });
    let name = name.unwrap_or_default();
    Device {
        index: link.header.index,
        has_wire_segments: counts_wire_segments(link, &name),
        name,
        mtu: attribute(link, |it| if let LinkAttribute::Mtu(mtu) = it { Some(*mtu) } else { None }).unwrap_or(0),
        link_header_bytes: link_header_bytes(link),
        role,
        place,
        tunnels: if link.header.flags.contains(LinkFlags::Up) { kind.map_or(0, taken_by) } else { 0 },
        bytes: ip_bytes(link),
    }
}

/// What a tunnel's packets arrive as. Modules make tunnels of their own, which nobody uses and which are down.
fn taken_by(kind: &InfoKind) -> u32 {
    match kind {
        InfoKind::Vxlan
        | InfoKind::Geneve
        | InfoKind::Wireguard
        | InfoKind::BareUdp
        | InfoKind::Amt
        | InfoKind::Pfcp => tunnels::UDP,
        InfoKind::IpIp | InfoKind::Ip6Tnl | InfoKind::SitTun => tunnels::IPIP | tunnels::IPV6,
        InfoKind::GreTap
        | InfoKind::GreTap6
        | InfoKind::GreTun
        | InfoKind::GreTun6
        | InfoKind::ErSpan
        | InfoKind::Ip6ErSpan => tunnels::GRE,
        InfoKind::Vti | InfoKind::Vti6 | InfoKind::Xfrm => tunnels::ESP,
        _ => 0,
    }
}

/// Sent, received: hardware counts what is on the wire. A software device, and virtio-net, counts what it is handed: to
/// send, super-packets where TCP segmentation is offloaded to it, else segments (net/core/dev.c, `validate_xmit_skb`);
/// received, what the other end sent, unless it coalesces after counting (drivers/net/veth.c, `veth_poll`).
fn counts_wire_segments(link: &LinkMessage, name: &str) -> [bool; 2] {
    if kind(link).is_none() && !is_virtio(link) {
        return [true; 2];
    }
    let is_on = |feature| offload::is_on(name, feature);
    [!is_on(offload::Feature::Tso), is_on(offload::Feature::Gro)]
}

fn link_header_bytes(link: &LinkMessage) -> u32 {
    if link.header.link_layer_type == LinkLayerType::Ether { ETHERNET_HEADER_BYTES } else { 0 }
}

/// Counted bytes less the link-layer header of each packet.
fn ip_bytes(link: &LinkMessage) -> [u64; 2] {
    let header = u64::from(link_header_bytes(link));
    let counted = |stats: &Stats64| {
        [(stats.tx_bytes, stats.tx_packets), (stats.rx_bytes, stats.rx_packets)]
            .map(|(bytes, packets)| bytes.saturating_sub(packets.saturating_mul(header)))
    };
    attribute(link, |it| if let LinkAttribute::Stats64(stats) = it { Some(counted(stats)) } else { None })
        .unwrap_or_default()
}

fn attribute<T>(link: &LinkMessage, pick: impl Fn(&LinkAttribute) -> Option<T>) -> Option<T> {
    link.attributes.iter().find_map(pick)
}

/// The kind of a software device; hardware has none.
fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    let infos =
        link.attributes.iter().find_map(|it| if let LinkAttribute::LinkInfo(i) = it { Some(i) } else { None })?;
    infos.iter().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None })
}

/// virtio-net hands super-packets to the host and counts each once (drivers/net/virtio_net.c, `__free_old_xmit`).
fn is_virtio(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|it| matches!(it, LinkAttribute::ParentDevBusName(bus) if bus == "virtio"))
}

fn controller(link: &LinkMessage) -> Option<u32> {
    attribute(link, |it| if let LinkAttribute::Controller(index) = it { Some(*index) } else { None })
}

/// Joins the lists read before and after a sweep into the ledger's readings.
pub fn readings(before: &[Device], after: &[Device]) -> (Vec<InterfaceReading>, Vec<StackedInterface>) {
    let earlier: BTreeMap<u32, [u64; 2]> = before.iter().map(|device| (device.index, device.bytes)).collect();
    let wire = |device: &Device| InterfaceReading {
        index: device.index,
        has_wire_segments: device.has_wire_segments,
        before: earlier.get(&device.index).copied().unwrap_or(device.bytes),
        after: device.bytes,
    };
    let stacked =
        |device: &Device| StackedInterface { index: device.index, has_wire_segments: device.has_wire_segments };
    (
        after.iter().filter(|device| device.role == Role::Wire).map(wire).collect(),
        after.iter().filter(|device| matches!(device.role, Role::Stacked { .. })).map(stacked).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_s_address_is_ours() {
        let addresses = addresses().expect("rtnetlink answers without privileges");
        assert!(addresses.contains(&IpAddr::from([127, 0, 0, 1])), "{addresses:?}");
    }

    #[test]
    fn loopback_is_listed_and_left_aside() {
        let devices = list().expect("rtnetlink answers without privileges");
        let lo = devices.iter().find(|device| device.name == "lo").expect("every namespace has lo");
        assert_eq!((lo.role, lo.mtu > 0), (Role::Aside, true));
    }

    #[test]
    fn counters_are_the_ones_that_sysfs_shows_less_the_link_header() {
        let read = |name: &str, file: &str| -> u64 {
            let path = format!("/sys/class/net/{name}/statistics/{file}");
            std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        };
        for device in list().expect("rtnetlink answers").iter().filter(|device| device.role == Role::Wire) {
            // Traffic may go on: bytes read first and packets second can only be too low, the other way too high.
            let packets = read(&device.name, "tx_packets");
            let most = read(&device.name, "tx_bytes").saturating_sub(packets * u64::from(ETHERNET_HEADER_BYTES));
            assert!(device.bytes[0] <= most, "{device:?}: sysfs says {most}");
            let again = list().expect("rtnetlink answers");
            let later = again.iter().find(|one| one.index == device.index).expect("the device is still there");
            assert!(later.bytes[0] >= device.bytes[0] && later.bytes[0] + device.bytes[0] > 0 || most == 0);
        }
    }
}
