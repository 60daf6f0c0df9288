//! Frames in, packets out: decoding, fragments, and the account of what could not be decoded.

use std::io::Read;

use super::capture::{CaptureError, CaptureStatistics, Frame, Reader};
use crate::core::{
    packet::{Decoded, Packet, Tunnels, Undecoded, decode},
    reassembly::{Datagram, Reassembler, ReassemblyStatistics},
    time::BootTime,
};

/// Packets handed on together.
const BATCH: usize = 64;

/// A packet and its time. In a replay boot time is the capture's own time: nanoseconds since 1970.
pub type TimedPacket<'a> = (BootTime, Packet<'a>);

/// What a capture held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayStatistics {
    /// Of the file.
    pub capture: CaptureStatistics,
    /// Frames without a packet, by [`Undecoded::index`].
    pub undecoded: [u64; Undecoded::ALL.len()],
    /// Of fragments.
    pub reassembly: ReassemblyStatistics,
}

impl ReplayStatistics {
    /// Frames without a packet, by reason.
    pub fn undecoded_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Undecoded::ALL.map(Undecoded::name).into_iter().zip(self.undecoded)
    }
}

/// Reads a capture's packets.
#[derive(Debug)]
pub struct PacketReader<R> {
    reader: Reader<R>,
    tunnels: Tunnels,
    reassembler: Reassembler,
    undecoded: [u64; Undecoded::ALL.len()],
    last: BootTime,
}

impl<R: Read> PacketReader<R> {
    /// Sees into `tunnels`.
    pub fn new(reader: Reader<R>, tunnels: Tunnels) -> Self {
        let undecoded = [0; Undecoded::ALL.len()];
        Self { reader, tunnels, reassembler: Reassembler::default(), undecoded, last: BootTime::default() }
    }

    /// What was read so far.
    pub fn statistics(&self) -> ReplayStatistics {
        ReplayStatistics {
            capture: self.reader.statistics(),
            undecoded: self.undecoded,
            reassembly: self.reassembler.statistics(),
        }
    }

    /// Hands on the packets of the next part of the file, in order and in batches; `false` at the end.
    pub fn next_packets(&mut self, mut hand_on: impl FnMut(&[TimedPacket<'_>])) -> Result<bool, CaptureError> {
        let overdue = self.reassembler.expired(self.last);
        hand_on_datagrams(&overdue, self.last, self.tunnels, &mut hand_on);
        let Some(batch) = self.reader.next_batch()? else {
            let rest = self.reassembler.finish();
            hand_on_datagrams(&rest, self.last, self.tunnels, &mut hand_on);
            return Ok(false);
        };
        let mut packets = [(BootTime::default(), Packet::default()); BATCH];
        let mut count = 0;
        for frame in batch.frames() {
            let at = boot_time(&frame);
            self.last = at;
            match decode(frame.link, frame.data, frame.wire_bytes, self.tunnels) {
                Ok(Decoded::Packet(packet)) => {
                    packets[count] = (at, packet);
                    count += 1;
                }
                Ok(Decoded::Fragment(fragment)) => {
                    hand_on(&packets[..count]);
                    count = 0;
                    let whole = self.reassembler.fragment(&fragment, at);
                    hand_on_datagrams(&whole, at, self.tunnels, &mut hand_on);
                }
                Err(reason) => self.undecoded[reason.index()] += 1,
            }
            if count == BATCH {
                hand_on(&packets);
                count = 0;
            }
        }
        hand_on(&packets[..count]);
        Ok(true)
    }
}

fn boot_time(frame: &Frame<'_>) -> BootTime {
    BootTime(u64::try_from(frame.at.0).unwrap_or(0))
}

fn hand_on_datagrams(
    datagrams: &[Datagram],
    at: BootTime,
    tunnels: Tunnels,
    hand_on: &mut impl FnMut(&[TimedPacket<'_>]),
) {
    for datagram in datagrams {
        hand_on(&[(at, datagram.packet(tunnels))]);
    }
}
