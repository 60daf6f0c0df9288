//! The two formats' records, over pcap-parser's readers of single records and blocks.

use pcap_parser::{
    InterfaceDescriptionBlock, PcapHeader, parse_block_be, parse_block_le, parse_pcap_frame, parse_pcap_frame_be,
    parse_pcap_frame_modified, parse_pcap_header, pcapng::Block,
};

use super::{MAX_BLOCK_BYTES, MAX_FRAME_BYTES};
use crate::core::packet::LinkType;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// Block types (draft-ietf-opsawg-pcapng, 4 and 10): a section header reads the same in both byte orders.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER_BIG: [u8; 4] = [0x1a, 0x2b, 0x3c, 0x4d];
const BYTE_ORDER_LITTLE: [u8; 4] = [0x4d, 0x3c, 0x2b, 0x1a];
/// The section header's fixed part and its closing length.
const SECTION_HEADER_BYTES: usize = 28;
/// Interfaces described in one section; more are an attack on memory.
const MAX_INTERFACES: usize = 65_536;

/// Where a frame lies in the buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) at: i64,
    pub(super) wire_bytes: u32,
    pub(super) start: u32,
    pub(super) length: u32,
    pub(super) link: LinkType,
}

/// What the next bytes are, and how many of them.
#[derive(Debug)]
pub(super) enum Parsed {
    Frame(Span, usize),
    /// No frame: another kind of block.
    Other(usize),
    /// A block that contradicts itself; its length tells where the next begins.
    Bad(usize),
    /// A block that is too large to be kept.
    Oversized(u64),
    /// Not all there yet.
    Incomplete,
    /// Nothing that follows can be told.
    Corrupt,
}

/// A file's format and what its headers said.
#[derive(Debug, Default)]
pub(super) enum Format {
    Pcap(Pcap),
    PcapNg(PcapNg),
    #[default]
    GivenUp,
}

/// Of the classic format.
#[derive(Debug)]
pub(super) struct Pcap {
    link: LinkType,
    order: Order,
    nanos_per_unit: u32,
    is_modified: bool,
}

/// Of pcapng: the current section's.
#[derive(Debug, Default)]
pub(super) struct PcapNg {
    order: Order,
    interfaces: Vec<Interface>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Little,
    Big,
}

impl Order {
    fn u32_at(self, bytes: &[u8], at: usize) -> u32 {
        let word = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).copied().unwrap_or_default();
        match self {
            Self::Little => u32::from_le_bytes(word),
            Self::Big => u32::from_be_bytes(word),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: LinkType,
    units_per_second: u64,
    offset_seconds: i64,
    snap_length: u32,
}

fn link_of(number: i32) -> LinkType {
    // The upper bits say whether frames end with a check sequence.
    LinkType::from(number as u16)
}

impl Format {
    /// The format by its first bytes, and how many of them were its header; `None` for neither.
    pub(super) fn detect(bytes: &[u8]) -> Option<(Self, usize)> {
        if bytes.first_chunk() == Some(&SECTION_HEADER.to_be_bytes()) {
            return Some((Self::PcapNg(PcapNg::default()), 0));
        }
        let (rest, header) = parse_pcap_header(bytes).ok()?;
        Some((Self::Pcap(Pcap::new(&header)), bytes.len() - rest.len()))
    }

    #[inline]
    pub(super) fn parse(&mut self, bytes: &[u8]) -> Parsed {
        match self {
            Self::Pcap(pcap) => pcap.parse(bytes),
            Self::PcapNg(pcapng) => pcapng.parse(bytes),
            Self::GivenUp => Parsed::Corrupt,
        }
    }
}

impl Pcap {
    fn new(header: &PcapHeader) -> Self {
        Self {
            link: link_of(header.network.0),
            order: if header.is_bigendian() { Order::Big } else { Order::Little },
            nanos_per_unit: if header.is_nanosecond_precision() { 1 } else { 1000 },
            is_modified: header.is_modified_format(),
        }
    }

    #[inline]
    fn parse(&self, bytes: &[u8]) -> Parsed {
        const CAPTURED_LENGTH_AT: usize = 8;
        if bytes.len() >= CAPTURED_LENGTH_AT + 4
            && self.order.u32_at(bytes, CAPTURED_LENGTH_AT) > MAX_FRAME_BYTES as u32
        {
            return Parsed::Corrupt;
        }
        let parsed = match (self.is_modified, self.order) {
            (true, _) => parse_pcap_frame_modified(bytes),
            (false, Order::Little) => parse_pcap_frame(bytes),
            (false, Order::Big) => parse_pcap_frame_be(bytes),
        };
        let Ok((rest, record)) = parsed else { return Parsed::Incomplete };
        let consumed = bytes.len() - rest.len();
        let nanos = i64::from(record.ts_usec) * i64::from(self.nanos_per_unit);
        let span = Span {
            at: i64::from(record.ts_sec) * NANOS_PER_SECOND as i64 + nanos,
            wire_bytes: record.origlen.max(record.caplen),
            start: (consumed - record.data.len()) as u32,
            length: record.caplen,
            link: self.link,
        };
        Parsed::Frame(span, consumed)
    }
}

impl PcapNg {
    fn parse(&mut self, bytes: &[u8]) -> Parsed {
        if bytes.len() < 12 {
            return Parsed::Incomplete;
        }
        let is_section = bytes.first_chunk() == Some(&SECTION_HEADER.to_be_bytes());
        if is_section && let Err(parsed) = self.begin_section(bytes) {
            return parsed;
        }
        let length = self.order.u32_at(bytes, 4) as usize;
        if length < 12 || !length.is_multiple_of(4) {
            return Parsed::Corrupt;
        }
        if length > MAX_BLOCK_BYTES {
            return match self.order.u32_at(bytes, 0) {
                3 | 6 | SECTION_HEADER => Parsed::Corrupt,
                _ => Parsed::Oversized(length as u64),
            };
        }
        match bytes.get(..length) {
            Some(block) => self.block(block),
            None => Parsed::Incomplete,
        }
    }

    fn begin_section(&mut self, bytes: &[u8]) -> Result<(), Parsed> {
        if bytes.len() < SECTION_HEADER_BYTES {
            return Err(Parsed::Incomplete);
        }
        self.order = match bytes[8..12].first_chunk() {
            Some(&BYTE_ORDER_LITTLE) => Order::Little,
            Some(&BYTE_ORDER_BIG) => Order::Big,
            _ => return Err(Parsed::Corrupt),
        };
        self.interfaces.clear();
        Ok(())
    }

    fn block(&mut self, block: &[u8]) -> Parsed {
        let parsed = match self.order {
            Order::Little => parse_block_le(block),
            Order::Big => parse_block_be(block),
        };
        let Ok((_, parsed)) = parsed else { return Parsed::Bad(block.len()) };
        match parsed {
            Block::InterfaceDescription(interface) => self.describe(&interface, block.len()),
            Block::EnhancedPacket(packet) => {
                let place = Place { start: 28, room: packet.data.len(), interface: packet.if_id, block: block.len() };
                let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                self.frame(place, Some(units), packet.caplen, packet.origlen)
            }
            Block::SimplePacket(packet) => {
                let place = Place { start: 12, room: packet.data.len(), interface: 0, block: block.len() };
                let snap_length = self.interfaces.first().map_or(0, |interface| interface.snap_length);
                let limit = if snap_length == 0 { u32::MAX } else { snap_length };
                self.frame(place, None, packet.origlen.min(limit), packet.origlen)
            }
            _ => Parsed::Other(block.len()),
        }
    }

    fn describe(&mut self, interface: &InterfaceDescriptionBlock<'_>, consumed: usize) -> Parsed {
        let Some(units_per_second) = interface.ts_resolution().filter(|units| *units > 0) else {
            return Parsed::Bad(consumed);
        };
        if self.interfaces.len() == MAX_INTERFACES {
            return Parsed::Bad(consumed);
        }
        self.interfaces.push(Interface {
            link: link_of(interface.linktype.0),
            units_per_second,
            offset_seconds: interface.ts_offset(),
            snap_length: interface.snaplen,
        });
        Parsed::Other(consumed)
    }

    fn frame(&self, place: Place, units: Option<u64>, captured: u32, wire_bytes: u32) -> Parsed {
        let interface = self.interfaces.get(place.interface as usize);
        let Some(interface) = interface.filter(|_| captured as usize <= place.room) else {
            return Parsed::Bad(place.block);
        };
        let span = Span {
            // A simple packet has no time.
            at: units.map_or(0, |units| interface.nanos(units)),
            wire_bytes: wire_bytes.max(captured),
            start: place.start,
            length: captured,
            link: interface.link,
        };
        Parsed::Frame(span, place.block)
    }
}

/// Where a packet block keeps its frame.
struct Place {
    start: u32,
    room: usize,
    interface: u32,
    block: usize,
}

impl Interface {
    fn nanos(&self, units: u64) -> i64 {
        let (seconds, rest) = match self.units_per_second {
            NANOS_PER_SECOND => (units / NANOS_PER_SECOND, units % NANOS_PER_SECOND),
            1_000_000 => (units / 1_000_000, units % 1_000_000 * 1000),
            resolution => {
                let nanos = u128::from(units % resolution) * u128::from(NANOS_PER_SECOND) / u128::from(resolution);
                (units / resolution, nanos as u64)
            }
        };
        let seconds = (seconds as i64).saturating_add(self.offset_seconds);
        seconds.saturating_mul(NANOS_PER_SECOND as i64).saturating_add(rest as i64)
    }
}
