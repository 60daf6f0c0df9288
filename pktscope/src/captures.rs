//! For tests: captures that others made and what other tools computed from them, kept beside the repository.
//!
//! Tests that use them say so and pass where they are not there; nothing of them is part of the repository.

use std::{
    fs,
    io::Read as _,
    net::IpAddr,
    path::{Path, PathBuf},
};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use pcap_parser::{Linktype, PcapBlockOwned, PcapError, create_reader, pcapng::Block};

use crate::core::{
    event::{FlowRef, Payload},
    flow::{Direction, Endpoint, Transport},
    time::BootTime,
};

/// Where they are looked for.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures")
}

/// The file's path, or a note that the test is skipped.
pub(crate) fn file(name: &str) -> Option<PathBuf> {
    let path = root().join(name);
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return None;
    }
    Some(path)
}

/// A file's bytes, unpacked where its name ends in `.gz`.
pub(crate) fn bytes(path: &Path) -> Vec<u8> {
    let packed = fs::read(path).unwrap();
    if path.extension().is_none_or(|extension| extension != "gz") {
        return packed;
    }
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
    unpacked
}

/// The rows of a gzipped NDJSON file.
pub(crate) fn rows(name: &str) -> Option<Vec<serde_json::Value>> {
    let text = String::from_utf8(bytes(&file(name)?)).unwrap();
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// A TCP segment or UDP datagram of a capture.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Counted from 1, as Wireshark does.
    pub(crate) frame: u64,
    /// Nanoseconds since the epoch.
    pub(crate) at: u64,
    pub(crate) transport: Transport,
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
    /// Of TCP: the first byte's, and whether the segment opens the connection.
    pub(crate) sequence: Option<u32>,
    pub(crate) is_syn: bool,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    /// The packet as the core takes it; `None` of one that carries no bytes and opens nothing.
    pub(crate) fn payload(&self) -> Option<Payload> {
        if self.payload.is_empty() && !self.is_syn {
            return None;
        }
        let (source, destination, transport) = (self.source, self.destination, self.transport);
        Some(Payload {
            flow: FlowRef { cookie: 0, transport, source, destination },
            direction: Direction::Egress,
            at: BootTime(self.at),
            sequence: self.sequence,
            bytes: self.payload.as_slice().into(),
            user: None,
            missing_bytes: 0,
        })
    }
}

/// Every TCP segment and UDP datagram that is not inside a tunnel; fragments and other link types are left out.
pub(crate) fn packets(path: &Path) -> Vec<Packet> {
    let unpacked = bytes(path);
    let mut packets = Vec::new();
    for (index, (link, at, frame)) in frames(&unpacked).into_iter().enumerate() {
        let number = u64::try_from(index).unwrap() + 1;
        packets.extend(slice(link, &frame).and_then(|sliced| packet(number, at, &sliced)));
    }
    packets
}

/// Link type, nanoseconds and bytes of every frame.
fn frames(unpacked: &[u8]) -> Vec<(Linktype, u64, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut links = Vec::new();
    let Ok(mut reader) = create_reader(1 << 20, unpacked) else { return frames };
    loop {
        match reader.next() {
            Ok((offset, block)) => {
                match block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        let scale = if header.is_nanosecond_precision() { 1 } else { 1000 };
                        links = vec![(header.network, scale, 0)];
                    }
                    PcapBlockOwned::Legacy(block) => {
                        let Some(&(link, scale, _)) = links.first() else { break };
                        let at = u64::from(block.ts_sec) * 1_000_000_000 + u64::from(block.ts_usec) * scale;
                        frames.push((link, at, block.data.to_vec()));
                    }
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => links.clear(),
                    PcapBlockOwned::NG(Block::InterfaceDescription(block)) => {
                        let units = block.ts_resolution().unwrap_or(1_000_000);
                        links.push((block.linktype, 1_000_000_000 / units.max(1), 0));
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                        let Some(&(link, scale, _)) = links.get(block.if_id as usize) else { break };
                        let ticks = u64::from(block.ts_high) << 32 | u64::from(block.ts_low);
                        let len = (block.caplen as usize).min(block.data.len());
                        frames.push((link, ticks.saturating_mul(scale), block.data[..len].to_vec()));
                    }
                    PcapBlockOwned::NG(Block::SimplePacket(block)) => {
                        let Some(&(link, ..)) = links.first() else { break };
                        frames.push((link, 0, block.data.to_vec()));
                    }
                    PcapBlockOwned::NG(_) => {}
                }
                reader.consume(offset);
            }
            Err(PcapError::Incomplete(_)) => {
                if reader.refill().is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    frames
}

fn slice(link: Linktype, frame: &[u8]) -> Option<LaxSlicedPacket<'_>> {
    match link {
        Linktype::ETHERNET => LaxSlicedPacket::from_ethernet(frame).ok(),
        Linktype::RAW | Linktype(12) | Linktype::IPV4 | Linktype::IPV6 => LaxSlicedPacket::from_ip(frame).ok(),
        Linktype::NULL | Linktype::LOOP => LaxSlicedPacket::from_ip(frame.get(4..)?).ok(),
        Linktype(9) => LaxSlicedPacket::from_ip(ppp_payload(frame)?).ok(),
        Linktype::LINUX_SLL => LaxSlicedPacket::from_ip(frame.get(16..)?).ok(),
        Linktype::LINUX_SLL2 => LaxSlicedPacket::from_ip(frame.get(20..)?).ok(),
        _ => None,
    }
}

/// RFC 1662, 3.1: address and control where not left out, then the protocol.
fn ppp_payload(frame: &[u8]) -> Option<&[u8]> {
    let frame = frame.strip_prefix(&[0xff, 0x03]).unwrap_or(frame);
    frame.strip_prefix(&[0x00, 0x21]).or_else(|| frame.strip_prefix(&[0x00, 0x57]))
}

fn packet(frame: u64, at: u64, sliced: &LaxSlicedPacket<'_>) -> Option<Packet> {
    let net = sliced.net.as_ref()?;
    let (source, destination): (IpAddr, IpAddr) = match net {
        LaxNetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Arp(_) => return None,
    };
    let end = |addr, port| Endpoint { addr, port };
    Some(match sliced.transport.as_ref()? {
        TransportSlice::Tcp(tcp) => Packet {
            frame,
            at,
            transport: Transport::TCP,
            source: end(source, tcp.source_port()),
            destination: end(destination, tcp.destination_port()),
            sequence: Some(tcp.sequence_number().wrapping_add(tcp.syn().into())),
            is_syn: tcp.syn(),
            payload: tcp.payload().to_vec(),
        },
        TransportSlice::Udp(udp) => Packet {
            frame,
            at,
            transport: Transport::UDP,
            source: end(source, udp.source_port()),
            destination: end(destination, udp.destination_port()),
            sequence: None,
            is_syn: false,
            payload: udp.payload().to_vec(),
        },
        _ => return None,
    })
}
