//! A captured frame's bytes in, one packet out: who sent it to whom, how large it was on the wire, what it carried.
//!
//! Written by hand because every packet of a capture passes here; lengths are checked before each read, and nothing
//! here allocates. It never trusts a length field beyond the bytes that were captured, except to count what was on the
//! wire.

use super::flow::{End, Endpoint, FlowKey, Transport};
use super::flow::{has_ports, icmp_ports, v4_words, v6_words};

mod link;
mod tunnel;
mod undecoded;

pub use link::LinkType;
pub use undecoded::Undecoded;

/// VLAN tags, MPLS labels, extension headers and tunnels followed in one frame before giving up; Linux follows 8
/// (`MAX_FLOW_DISSECT_HDRS` is 15, net/core/flow_dissector.c; both are far above what is in use).
pub const MAX_LAYERS: u32 = 16;

/// Which tunnels are seen into: the packet inside is then what is counted, instead of the one outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// VXLAN, UDP port 4789 (RFC 7348).
    pub vxlan: bool,
    /// GRE, IP protocol 47 (RFC 2784, RFC 2890), with IP or Ethernet inside.
    pub gre: bool,
    /// IP in IP, IP protocols 4 and 41 (RFC 2003, RFC 4213).
    pub ip_in_ip: bool,
}

impl Tunnels {
    /// All of them.
    pub const ALL: Self = Self { vxlan: true, gre: true, ip_in_ip: true };
}

/// A TCP header, as far as the state of a connection needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpHeader {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number; meaningless without [`Self::ACK`].
    pub acknowledgement: u32,
    /// Receive window, unscaled.
    pub window: u16,
    /// Flag bits.
    pub flags: u8,
    /// Window scale option (RFC 7323); read of segments with SYN only.
    pub window_scale: Option<u8>,
}

impl TcpHeader {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;

    /// Whether any of `flags` is set.
    #[inline]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

/// What a packet's transport header holds besides ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Nothing that a flow needs.
    #[default]
    None,
    /// TCP.
    Tcp(TcpHeader),
    /// ICMP type and code.
    Icmp(u8, u8),
}

/// A packet: one line of a flow's account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its flow.
    pub key: FlowKey,
    /// The end that sent it.
    pub sender: End,
    /// Size on the wire from the IP header on; of a reassembled datagram, of all its fragments.
    pub ip_bytes: u32,
    /// 1; of a reassembled datagram, the number of fragments.
    pub packets: u32,
    /// Bytes above the transport header, by the headers' own lengths.
    pub payload_bytes: u32,
    /// Those that were captured.
    pub payload: &'a [u8],
    /// The rest of the transport header.
    pub detail: Detail,
}

impl Packet<'_> {
    /// Who sent it.
    pub fn source(&self) -> Endpoint {
        self.key.endpoint(self.sender)
    }

    /// To whom.
    pub fn destination(&self) -> Endpoint {
        self.key.endpoint(self.sender.other())
    }

    /// Its IP protocol.
    pub fn transport(&self) -> Transport {
        self.key.transport()
    }

    /// Whether either end has this port, of a transport with ports; cheaper than the endpoints.
    pub fn has_port(&self, port: u16) -> bool {
        has_ports(self.key.transport) && self.key.ports.contains(&port)
    }
}

/// A fragment of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Identifies the datagram: words of source and destination, protocol, identification.
    pub datagram: DatagramKey,
    /// Where `data` begins in the datagram's payload, in bytes.
    pub offset: u32,
    /// Whether others follow it.
    pub has_more: bool,
    /// Size on the wire from the IP header on.
    pub ip_bytes: u32,
    /// Its part of the payload by the IP header's length; `data` is shorter where the capture cut it.
    pub data_bytes: u32,
    /// The captured part.
    pub data: &'a [u8],
}

/// What the fragments of one datagram share (RFC 791, RFC 8200).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    pub(crate) source: [u64; 2],
    pub(crate) destination: [u64; 2],
    pub(crate) identification: u32,
    pub(crate) transport: u8,
}

/// What a frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A whole packet.
    Packet(Packet<'a>),
    /// A part of one: see [`super::reassembly`].
    Fragment(Fragment<'a>),
}

/// An IP packet's header, read.
pub(crate) struct IpHeader<'a> {
    source: [u64; 2],
    destination: [u64; 2],
    transport: u8,
    /// On the wire, header included.
    ip_bytes: u32,
    /// Of those, after the headers.
    body_bytes: u32,
    /// What was captured of that.
    body: &'a [u8],
    /// Offset in bytes, whether others follow, identification.
    fragment: Option<(u32, bool, u32)>,
}

/// Decodes a captured frame.
///
/// `wire_bytes` is the frame's size on the wire, used only where the IP header gives no length (segmentation offload).
#[inline]
pub fn decode(link: LinkType, data: &[u8], wire_bytes: u32, tunnels: Tunnels) -> Result<Decoded<'_>, Undecoded> {
    let (offset, version) = link::ip_offset(link, data)?;
    let data = data.get(offset..).ok_or(Undecoded::Truncated)?;
    let wire_bytes = wire_bytes.saturating_sub(offset as u32);
    ip(version, data, wire_bytes, tunnels, MAX_LAYERS)
}

/// Which IP header follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IpVersion {
    V4,
    V6,
}

/// Inlined into the one place that every frame passes; what is in a tunnel goes by [`tunnel`].
#[inline(always)]
fn ip(
    version: IpVersion,
    data: &[u8],
    wire_bytes: u32,
    tunnels: Tunnels,
    layers: u32,
) -> Result<Decoded<'_>, Undecoded> {
    let header = match version {
        IpVersion::V4 => ipv4(data, wire_bytes)?,
        IpVersion::V6 => ipv6(data, wire_bytes)?,
    };
    if let Some((offset, has_more, identification)) = header.fragment {
        return Ok(Decoded::Fragment(Fragment {
            datagram: DatagramKey {
                source: header.source,
                destination: header.destination,
                identification,
                transport: header.transport,
            },
            offset,
            has_more,
            ip_bytes: header.ip_bytes,
            data_bytes: header.body_bytes,
            data: header.body,
        }));
    }
    Ok(transport(&header, tunnels, layers))
}

#[inline(always)]
fn ipv4(data: &[u8], wire_bytes: u32) -> Result<IpHeader<'_>, Undecoded> {
    let head: &[u8; 20] = data.first_chunk().ok_or(Undecoded::Truncated)?;
    let header_bytes = usize::from(head[0] & 0x0f) * 4;
    if head[0] >> 4 != 4 || header_bytes < 20 {
        return Err(Undecoded::Malformed);
    }
    let total = match u32::from(u16::from_be_bytes([head[2], head[3]])) {
        0 => wire_bytes,
        total => total,
    };
    let body_bytes = total.checked_sub(header_bytes as u32).ok_or(Undecoded::Malformed)?;
    let body = data.get(header_bytes..).ok_or(Undecoded::Truncated)?;
    let fragment = u16::from_be_bytes([head[6], head[7]]);
    let identification = u32::from(u16::from_be_bytes([head[4], head[5]]));
    Ok(IpHeader {
        source: v4_words([head[12], head[13], head[14], head[15]]),
        destination: v4_words([head[16], head[17], head[18], head[19]]),
        transport: head[9],
        ip_bytes: total,
        body_bytes,
        body: &body[..body.len().min(body_bytes as usize)],
        fragment: (fragment & 0x3fff != 0).then_some((
            u32::from(fragment & 0x1fff) * 8,
            fragment & 0x2000 != 0,
            identification,
        )),
    })
}

#[inline(always)]
fn ipv6(data: &[u8], wire_bytes: u32) -> Result<IpHeader<'_>, Undecoded> {
    let head: &[u8; 40] = data.first_chunk().ok_or(Undecoded::Truncated)?;
    if head[0] >> 4 != 6 {
        return Err(Undecoded::Malformed);
    }
    let ip_bytes = match u32::from(u16::from_be_bytes([head[4], head[5]])) {
        // A jumbogram (RFC 2675) or segmentation offload.
        0 => wire_bytes,
        payload => payload + 40,
    };
    let body = &data[40..];
    let body_bytes = ip_bytes.checked_sub(40).ok_or(Undecoded::Malformed)?;
    let mut header = IpHeader {
        source: v6_words(*head[8..].first_chunk().ok_or(Undecoded::Truncated)?),
        destination: v6_words(*head[24..].first_chunk().ok_or(Undecoded::Truncated)?),
        transport: head[6],
        ip_bytes,
        body_bytes,
        body: &body[..body.len().min(body_bytes as usize)],
        fragment: None,
    };
    if matches!(header.transport, 0 | 43 | 44 | 51 | 60) {
        // One that cannot be read leaves the protocol at what names it: the packet is counted without ports.
        let _ = extensions(&mut header);
    }
    Ok(header)
}

/// Steps over IPv6 extension headers (RFC 8200, 4; RFC 4302 of the authentication header's units). Mobility and host
/// identity headers have nothing behind them: they are protocols of their own (RFC 6275, 6.1.1; RFC 7401, 5.1).
fn extensions(header: &mut IpHeader<'_>) -> Result<(), Undecoded> {
    for _ in 0..MAX_LAYERS {
        let body = header.body;
        let units = |at: usize| body.get(at).map(|units| u32::from(*units)).ok_or(Undecoded::Truncated);
        let length = match header.transport {
            0 | 43 | 60 => (units(1)? + 1) * 8,
            51 => (units(1)? + 2) * 4,
            44 => 8,
            _ => return Ok(()),
        };
        let mut fragment = None;
        if header.transport == 44 {
            let head: &[u8; 8] = body.first_chunk().ok_or(Undecoded::Truncated)?;
            let place = u16::from_be_bytes([head[2], head[3]]);
            let identification = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
            // An atomic fragment (RFC 6946) is whole.
            fragment = (place & 0xfff9 != 0).then_some((u32::from(place & 0xfff8), place & 1 != 0, identification));
        }
        let next = body.first().copied().ok_or(Undecoded::Truncated)?;
        let body_bytes = header.body_bytes.checked_sub(length).ok_or(Undecoded::Malformed)?;
        header.body = body.get(length as usize..).ok_or(Undecoded::Truncated)?;
        (header.transport, header.body_bytes, header.fragment) = (next, body_bytes, fragment);
        if fragment.is_some() {
            return Ok(());
        }
    }
    Err(Undecoded::TooDeep)
}

/// Reads a reassembled datagram's payload as if it had come in one packet of `ip_bytes`.
pub(crate) fn reassembled<'a>(
    datagram: &DatagramKey,
    body: &'a [u8],
    body_bytes: u32,
    ip_bytes: u32,
    tunnels: Tunnels,
) -> Result<Packet<'a>, Undecoded> {
    let mut header = IpHeader {
        source: datagram.source,
        destination: datagram.destination,
        transport: datagram.transport,
        ip_bytes,
        body_bytes,
        body,
        fragment: None,
    };
    if matches!(header.transport, 0 | 43 | 51 | 60) {
        let _ = extensions(&mut header);
    }
    match transport(&header, tunnels, MAX_LAYERS) {
        Decoded::Packet(packet) => Ok(packet),
        Decoded::Fragment(_) => Err(Undecoded::TooDeep),
    }
}

/// What can be said of a datagram whose first fragment never came.
pub(crate) fn without_ports(datagram: &DatagramKey, ip_bytes: u32) -> Packet<'static> {
    let (key, sender) = FlowKey::of(datagram.transport, (datagram.source, 0), (datagram.destination, 0));
    Packet { key, sender, ip_bytes, packets: 1, ..Packet::default() }
}

#[inline(always)]
fn transport<'a>(header: &IpHeader<'a>, tunnels: Tunnels, layers: u32) -> Decoded<'a> {
    let inside = match header.transport {
        17 if tunnels.vxlan => tunnel::vxlan(header, tunnels, layers),
        4 if tunnels.ip_in_ip => tunnel::inner(header, IpVersion::V4, tunnels, layers),
        41 if tunnels.ip_in_ip => tunnel::inner(header, IpVersion::V6, tunnels, layers),
        47 if tunnels.gre => tunnel::gre(header, tunnels, layers),
        _ => None,
    };
    inside.unwrap_or_else(|| Decoded::Packet(outermost(header)))
}

/// A packet by its own transport header; without ports where that cannot be read.
#[inline(always)]
fn outermost<'a>(header: &IpHeader<'a>) -> Packet<'a> {
    match header.transport {
        6 => tcp(header),
        17 => udp(header),
        1 | 58 => icmp(header),
        _ => other(header),
    }
}

#[inline(always)]
fn packet_of<'a>(header: &IpHeader<'a>, ports: [u16; 2], header_bytes: u32, detail: Detail) -> Packet<'a> {
    let (key, sender) = FlowKey::of(header.transport, (header.source, ports[0]), (header.destination, ports[1]));
    Packet {
        key,
        sender,
        ip_bytes: header.ip_bytes,
        packets: 1,
        payload_bytes: header.body_bytes.saturating_sub(header_bytes),
        payload: header.body.get(header_bytes as usize..).unwrap_or_default(),
        detail,
    }
}

#[inline(always)]
fn tcp<'a>(header: &IpHeader<'a>) -> Packet<'a> {
    let Some(head) = header.body.first_chunk::<20>() else { return cut_short(header) };
    let header_bytes = u32::from(head[12] >> 4) * 4;
    if header_bytes < 20 {
        return cut_short(header);
    }
    let mut detail = TcpHeader {
        sequence: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
        acknowledgement: u32::from_be_bytes([head[8], head[9], head[10], head[11]]),
        window: u16::from_be_bytes([head[14], head[15]]),
        flags: head[13],
        window_scale: None,
    };
    if detail.has(TcpHeader::SYN) {
        let options = header.body.get(20..(header_bytes as usize).min(header.body.len()));
        detail.window_scale = options.and_then(window_scale);
    }
    let ports = [u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]])];
    packet_of(header, ports, header_bytes, Detail::Tcp(detail))
}

/// The window scale option, kind 3 (RFC 7323, 2.2); values above 14 count as 14.
fn window_scale(mut options: &[u8]) -> Option<u8> {
    loop {
        match options {
            [0, ..] | [] => return None,
            [1, rest @ ..] => options = rest,
            [3, 3, scale, ..] => return Some((*scale).min(14)),
            [_, length, ..] => options = options.get(usize::from((*length).max(2))..)?,
            [_] => return None,
        }
    }
}

#[inline(always)]
fn udp<'a>(header: &IpHeader<'a>) -> Packet<'a> {
    let Some(head) = header.body.first_chunk::<8>() else { return cut_short(header) };
    let ports = [u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]])];
    let mut packet = packet_of(header, ports, 8, Detail::None);
    // The UDP length may be below what IP carries (padding); 0 is a jumbogram's or offload's.
    let length = u32::from(u16::from_be_bytes([head[4], head[5]]));
    if 8 <= length && length - 8 < packet.payload_bytes {
        packet.payload_bytes = length - 8;
        packet.payload = &packet.payload[..packet.payload.len().min(length as usize - 8)];
    }
    packet
}

#[inline(never)]
fn icmp<'a>(header: &IpHeader<'a>) -> Packet<'a> {
    let Some(&[kind, code]) = header.body.first_chunk::<2>() else { return portless(header) };
    let identifier = header.body.get(4..6).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let shared = icmp_ports(header.transport, kind, code, identifier);
    let (key, sender) = FlowKey::of_portless(header.transport, header.source, header.destination, shared);
    // Type, code, checksum and the four bytes after them are the header of every message (RFC 792, RFC 4443).
    Packet { key, sender, ..packet_of(header, [0, 0], 8, Detail::Icmp(kind, code)) }
}

#[inline(never)]
fn other<'a>(header: &IpHeader<'a>) -> Packet<'a> {
    match header.body.first_chunk::<4>() {
        Some(head) if has_ports(header.transport) => {
            let ports = [u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]])];
            packet_of(header, ports, transport_header_bytes(header), Detail::None)
        }
        _ => portless(header),
    }
}

/// Header length of transports whose payload is told apart: DCCP by its data offset, SCTP's common header, UDP-Lite.
fn transport_header_bytes(header: &IpHeader<'_>) -> u32 {
    match header.transport {
        33 => header.body.get(4).map_or(0, |words| u32::from(*words) * 4),
        132 => 12,
        136 => 8,
        _ => 0,
    }
}

fn portless<'a>(header: &IpHeader<'a>) -> Packet<'a> {
    packet_of(header, [0, 0], 0, Detail::None)
}

/// A transport header that does not fit: cut by the capture, or too short on the wire. The ports alone tell the flow.
fn cut_short<'a>(header: &IpHeader<'a>) -> Packet<'a> {
    let Some(head) = header.body.first_chunk::<4>() else { return portless(header) };
    let ports = [u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]])];
    let header_bytes = if header.transport == 6 { 20 } else { 8 };
    Packet { payload: &[], ..packet_of(header, ports, header_bytes, Detail::None) }
}

#[cfg(test)]
mod tests;
