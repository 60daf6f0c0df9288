//! IP fragments in, datagrams out, within bounds.
//!
//! A datagram is handed on once, when its last hole is filled, as one packet that counts all its fragments. One that
//! never completes is handed on as what came of it, when its time is over or its place is needed: so every byte is
//! counted. Overlapping fragments are an attack or a fault, never a need (RFC 5722): their datagram is given up.

use std::{collections::VecDeque, time::Duration};

use super::{
    packet::{self, DatagramKey, Fragment, Packet, Tunnels, Undecoded},
    time::BootTime,
};

/// Datagrams in the making.
pub const MAX_DATAGRAMS: usize = 256;
/// Bytes held for all of them.
pub const MAX_BYTES: usize = 8 << 20;
/// A datagram's largest payload (RFC 791).
const MAX_DATAGRAM_BYTES: u32 = 65_535;
/// How long fragments wait for the rest (`IP_FRAG_TIME`, include/net/ip.h; RFC 8200 says 60 s).
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// What a reassembler did, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReassemblyStatistics {
    /// Fragments taken.
    pub fragments: u64,
    /// Datagrams completed.
    pub completed: u64,
    /// Datagrams whose time was over.
    pub timed_out: u64,
    /// Datagrams given up because others needed the room.
    pub evicted: u64,
    /// Datagrams given up because their fragments overlap or exceed a datagram's size.
    pub invalid: u64,
}

/// A datagram that is complete, or will not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    key: DatagramKey,
    body: Vec<u8>,
    body_bytes: u32,
    ip_bytes: u32,
    fragments: u32,
    /// Whether `body` begins at the transport header.
    has_first: bool,
}

impl Datagram {
    /// The packet that it would have been in one piece, sized as all its fragments on the wire.
    pub fn packet(&self, tunnels: Tunnels) -> Packet<'_> {
        let read = match self.has_first {
            true => packet::reassembled(&self.key, &self.body, self.body_bytes, self.ip_bytes, tunnels),
            false => Err(Undecoded::Truncated),
        };
        let packet = read.unwrap_or_else(|_| packet::without_ports(&self.key, self.ip_bytes));
        // Of a packet in a tunnel, only what is inside is counted.
        Packet { packets: self.fragments, ..packet }
    }
}

#[derive(Debug)]
struct Pending {
    started_at: BootTime,
    datagram: Datagram,
    /// Received ranges of `body`, in order, none touching another.
    ranges: Vec<(u32, u32)>,
    /// Known once the last fragment came.
    total: Option<u32>,
    is_invalid: bool,
}

/// Fragments waiting for the rest of their datagrams, oldest first.
#[derive(Debug, Default)]
pub struct Reassembler {
    pending: VecDeque<Pending>,
    held_bytes: usize,
    statistics: ReassemblyStatistics,
}

impl Reassembler {
    /// What it did so far.
    pub fn statistics(&self) -> ReassemblyStatistics {
        self.statistics
    }

    /// Datagrams in the making.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes a fragment; gives what is complete now, and what is given up for it.
    pub fn fragment(&mut self, fragment: &Fragment<'_>, at: BootTime) -> Vec<Datagram> {
        self.statistics.fragments += 1;
        let mut out = self.expired(at);
        let index = match self.pending.iter().position(|pending| pending.datagram.key == fragment.datagram) {
            Some(index) => index,
            None => self.begin(fragment.datagram, at),
        };
        let Some(pending) = self.pending.get_mut(index) else { return out };
        let before = pending.datagram.body.len();
        let was_invalid = pending.is_invalid;
        pending.add(fragment);
        self.statistics.invalid += u64::from(pending.is_invalid && !was_invalid);
        self.held_bytes = (self.held_bytes + pending.datagram.body.len()).saturating_sub(before);
        if pending.is_complete() {
            self.statistics.completed += 1;
            out.extend(self.take(index));
        }
        while self.pending.len() > MAX_DATAGRAMS || self.held_bytes > MAX_BYTES {
            self.statistics.evicted += 1;
            out.extend(self.take(0));
        }
        out
    }

    /// Gives up what is older than [`TIMEOUT`].
    pub fn expired(&mut self, now: BootTime) -> Vec<Datagram> {
        let mut out = Vec::new();
        while self.pending.front().is_some_and(|oldest| now.since(oldest.started_at) >= TIMEOUT) {
            self.statistics.timed_out += 1;
            out.extend(self.take(0));
        }
        out
    }

    /// Gives up everything: the capture is over.
    pub fn finish(&mut self) -> Vec<Datagram> {
        self.statistics.timed_out += self.pending.len() as u64;
        self.held_bytes = 0;
        self.pending.drain(..).map(|pending| pending.datagram).collect()
    }

    fn begin(&mut self, key: DatagramKey, at: BootTime) -> usize {
        let datagram = Datagram { key, body: Vec::new(), body_bytes: 0, ip_bytes: 0, fragments: 0, has_first: false };
        let (ranges, total, is_invalid) = (Vec::new(), None, false);
        self.pending.push_back(Pending { started_at: at, datagram, ranges, total, is_invalid });
        self.pending.len() - 1
    }

    fn take(&mut self, index: usize) -> Option<Datagram> {
        let pending = self.pending.remove(index)?;
        self.held_bytes = self.held_bytes.saturating_sub(pending.datagram.body.len());
        Some(pending.datagram)
    }
}

impl Pending {
    fn add(&mut self, fragment: &Fragment<'_>) {
        self.datagram.ip_bytes = self.datagram.ip_bytes.saturating_add(fragment.ip_bytes);
        self.datagram.fragments += 1;
        let (start, end) = (fragment.offset, fragment.offset + fragment.data_bytes);
        if end > MAX_DATAGRAM_BYTES || !self.place(start, end) {
            self.is_invalid = true;
        }
        if self.is_invalid {
            return;
        }
        if !fragment.has_more {
            self.total = Some(end);
        }
        self.datagram.has_first |= start == 0;
        self.datagram.body_bytes = self.datagram.body_bytes.max(end);
        self.copy(start as usize, fragment.data);
    }

    /// What was cut by the capture stays zero; only what was captured from the start on is handed on.
    fn copy(&mut self, start: usize, data: &[u8]) {
        let body = &mut self.datagram.body;
        if body.len() < start + data.len() {
            body.resize(start + data.len(), 0);
        }
        body[start..start + data.len()].copy_from_slice(data);
    }

    /// Marks a range as received; `false` where part of it already was, unless it came again as a whole.
    fn place(&mut self, start: u32, end: u32) -> bool {
        let at = self.ranges.partition_point(|range| range.0 < start);
        let is_repeated = self.ranges.iter().any(|range| range.0 <= start && end <= range.1);
        if is_repeated {
            return true;
        }
        let overlaps_before = at > 0 && self.ranges[at - 1].1 > start;
        let overlaps_after = self.ranges.get(at).is_some_and(|next| next.0 < end);
        if overlaps_before || overlaps_after {
            return false;
        }
        let joins_before = at > 0 && self.ranges[at - 1].1 == start;
        let joins_after = self.ranges.get(at).is_some_and(|next| next.0 == end);
        match (joins_before, joins_after) {
            (true, true) => self.ranges[at - 1].1 = self.ranges.remove(at).1,
            (true, false) => self.ranges[at - 1].1 = end,
            (false, true) => self.ranges[at].0 = start,
            (false, false) => self.ranges.insert(at, (start, end)),
        }
        true
    }

    fn is_complete(&self) -> bool {
        !self.is_invalid && self.total.is_some_and(|total| self.ranges == [(0, total)])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::{
        flow::Transport,
        packet::{Decoded, LinkType, decode},
    };

    /// An IPv4 fragment of a UDP datagram from port 7 to port 9.
    fn fragment_bytes(identification: u16, offset: u16, has_more: bool, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        bytes.extend_from_slice(data);
        let total = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[4..6].copy_from_slice(&identification.to_be_bytes());
        let place = (offset / 8) | if has_more { 0x2000 } else { 0 };
        bytes[6..8].copy_from_slice(&place.to_be_bytes());
        bytes
    }

    fn feed(reassembler: &mut Reassembler, bytes: &[u8], at: u64) -> Vec<Datagram> {
        match decode(LinkType::Raw, bytes, bytes.len() as u32, Tunnels::default()) {
            Ok(Decoded::Fragment(fragment)) => reassembler.fragment(&fragment, BootTime(at * 1_000_000_000)),
            other => panic!("{other:?}"),
        }
    }

    fn datagram() -> Vec<u8> {
        let mut data = vec![0, 7, 0, 9, 0, 200, 0, 0];
        data.extend((0..192_u8).collect::<Vec<_>>());
        data
    }

    fn pieces() -> Vec<Vec<u8>> {
        let data = datagram();
        (0..200).step_by(40).map(|from| fragment_bytes(1, from as u16, from < 160, &data[from..from + 40])).collect()
    }

    #[test]
    fn any_order_of_fragments_gives_the_datagram_and_counts_them_all() {
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]] {
            let mut reassembler = Reassembler::default();
            let out: Vec<Datagram> = order.iter().flat_map(|at| feed(&mut reassembler, &pieces()[*at], 1)).collect();
            assert_eq!((out.len(), reassembler.len()), (1, 0));
            let packet = out[0].packet(Tunnels::default());
            assert_eq!((packet.packets, packet.ip_bytes, packet.payload_bytes), (5, 300, 192));
            assert_eq!((packet.source().port, packet.destination().port), (7, 9));
            assert_eq!(packet.payload, &datagram()[8..]);
        }
    }

    #[test]
    fn what_does_not_complete_is_counted_once_its_time_is_over() {
        let mut reassembler = Reassembler::default();
        feed(&mut reassembler, &pieces()[0], 1);
        feed(&mut reassembler, &pieces()[2], 2);
        assert!(reassembler.expired(BootTime(30_000_000_000)).is_empty());
        let out = reassembler.expired(BootTime(31_000_000_000));
        let packet = out[0].packet(Tunnels::default());
        assert_eq!((packet.packets, packet.ip_bytes, packet.source().port), (2, 120, 7));
        // Without the first fragment the ports are not known.
        feed(&mut reassembler, &pieces()[1], 40);
        let packet = reassembler.finish()[0].packet(Tunnels::default()).ip_bytes;
        assert_eq!(packet, 60);
    }

    #[test]
    fn overlaps_give_the_datagram_up_and_a_repeated_fragment_does_not() {
        let mut reassembler = Reassembler::default();
        let data = datagram();
        feed(&mut reassembler, &pieces()[0], 1);
        feed(&mut reassembler, &pieces()[0], 1);
        assert_eq!(reassembler.statistics().invalid, 0);
        feed(&mut reassembler, &fragment_bytes(1, 32, true, &data[32..72]), 1);
        for piece in &pieces()[1..] {
            assert!(feed(&mut reassembler, piece, 1).is_empty());
        }
        assert_eq!(reassembler.statistics().invalid, 1);
        assert_eq!(reassembler.finish()[0].packet(Tunnels::default()).packets, 7);
    }

    proptest! {
        #[test]
        fn bounds_hold_and_bytes_are_conserved(
            fragments in prop::collection::vec((0u16..600, 0u16..8000, any::<bool>(), 0usize..1400), 1..600),
        ) {
            let mut reassembler = Reassembler::default();
            let (mut bytes_in, mut packets, mut bytes) = (0, 0, 0);
            let count = fragments.len() as u32;
            for (identification, eighth, has_more, length) in fragments {
                let piece = fragment_bytes(identification, eighth * 8 + 8, has_more, &vec![0; length]);
                bytes_in += piece.len() as u32;
                for datagram in feed(&mut reassembler, &piece, u64::from(identification) / 20) {
                    let packet = datagram.packet(Tunnels::default());
                    (packets, bytes) = (packets + packet.packets, bytes + packet.ip_bytes);
                }
                prop_assert!(reassembler.len() <= MAX_DATAGRAMS && reassembler.held_bytes <= MAX_BYTES);
                let held: usize = reassembler.pending.iter().map(|pending| pending.datagram.body.len()).sum();
                prop_assert_eq!(held, reassembler.held_bytes);
            }
            for datagram in reassembler.finish() {
                let packet = datagram.packet(Tunnels::default());
                prop_assert_eq!(packet.transport(), Transport::UDP);
                (packets, bytes) = (packets + packet.packets, bytes + packet.ip_bytes);
            }
            prop_assert_eq!((packets, bytes), (count, bytes_in));
        }
    }
}
