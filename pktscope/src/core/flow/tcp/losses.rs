//! What is missing from a connection's streams, what came twice, and what came late.

use super::{Connection, LARGEST_JUMP, ahead, furthest, seen};
use crate::core::{
    flow::history::{Letter, Spill},
    packet::TcpHeader,
};

/// Holes remembered a side; the oldest becomes a gap when there are more.
const HOLES: usize = 4;

/// What few connections need.
#[derive(Clone, Debug, Default)]
pub(in crate::core::flow) struct Losses {
    pub(super) retransmitted: [u64; 2],
    /// SYN or FIN sent again.
    pub(super) repeated: [u64; 2],
    pub(super) out_of_order: [u64; 2],
    pub(super) gap_bytes: [u64; 2],
    pub(super) gaps: [u64; 2],
    pub(super) zero_windows: [u64; 2],
    /// Start and length of what has not been seen yet.
    pub(super) holes: [[(u32, u32); HOLES]; 2],
    pub(super) spill: Spill,
}

impl Connection<'_> {
    pub(super) fn losses(&mut self) -> &mut Losses {
        self.losses.get_or_insert_default()
    }

    pub(super) fn gap(&mut self, side: usize, bytes: u32) {
        self.losses().gap_bytes[side] += u64::from(bytes);
        self.count(side, Letter::Gap);
    }

    /// Counts, and puts the letter at 1, 10, 100 … (Zeek: `ScaledHistoryEntry`).
    pub(super) fn count(&mut self, side: usize, letter: Letter) {
        let losses = self.losses();
        let counter = match letter {
            Letter::Retransmission => &mut losses.retransmitted[side],
            Letter::ZeroWindow => &mut losses.zero_windows[side],
            _ => &mut losses.gaps[side],
        };
        *counter += 1;
        if counter.is_power_of_ten() {
            self.letter(letter, side);
        }
    }

    /// Holes that the receiver acknowledged were filled out of sight.
    pub(super) fn close_holes(&mut self, side: usize, ack: u32) {
        for index in 0..HOLES {
            let Some(losses) = self.losses.as_mut() else { return };
            let hole = &mut losses.holes[side][index];
            let missed = ahead(ack, hole.0).clamp(0, hole.1.min(LARGEST_JUMP as u32) as i32).unsigned_abs();
            if hole.1 == 0 || missed == 0 {
                continue;
            }
            *hole = (hole.0.wrapping_add(missed), hole.1 - missed);
            self.gap(side, missed);
        }
    }

    /// Places the segment in its side's sequence space.
    #[inline]
    pub(super) fn sequence(&mut self, side: usize, header: &TcpHeader, payload: u32) {
        let control = u32::from(header.has(TcpHeader::SYN)) + u32::from(header.has(TcpHeader::FIN));
        let start = header.sequence;
        let end = start.wrapping_add(payload).wrapping_add(control);
        if !self.tcp.has(side, seen::NEXT) {
            self.tcp.seen[side] |= seen::NEXT;
            self.tcp.next[side] = end;
            return;
        }
        let next = self.tcp.next[side];
        let advance = ahead(end, next);
        if advance <= 0 {
            let is_probe = payload <= 1 && start == next.wrapping_sub(1);
            if payload > 0 && !is_probe {
                self.old_segment(side, start, payload);
            } else if control > 0 {
                // A SYN or FIN again: no letter, as Zeek's are for data.
                self.losses().repeated[side] += 1;
            }
            return;
        }
        if advance >= LARGEST_JUMP {
            return;
        }
        if payload + control == 0 {
            return;
        }
        let acked = self.tcp.has(1 - side, seen::ACKED).then_some(self.tcp.acked[1 - side]);
        let counted_to = furthest(next, acked);
        let jump = ahead(start, counted_to);
        if 0 < jump {
            self.open_hole(side, counted_to, jump.unsigned_abs());
        }
        self.unmiss(side, furthest(next, Some(start)), end, counted_to);
        self.tcp.next[side] = end;
    }

    /// Bytes from `start` to `end` came after their acknowledgement: below `acked` they were counted as missing.
    fn unmiss(&mut self, side: usize, start: u32, end: u32, acked: u32) {
        let late = ahead(acked, start).min(ahead(end, start));
        if 0 < late
            && let Some(losses) = self.losses.as_mut()
        {
            losses.gap_bytes[side] = losses.gap_bytes[side].saturating_sub(u64::from(late.unsigned_abs()));
        }
    }

    /// A segment below the highest seen: it fills a hole, or it was sent before.
    fn old_segment(&mut self, side: usize, start: u32, payload: u32) {
        let hole = self.losses.as_mut().and_then(|losses| {
            losses.holes[side].iter_mut().find(|hole| {
                hole.1 > 0
                    && ahead(start.wrapping_add(payload), hole.0) > 0
                    && ahead(hole.0.wrapping_add(hole.1), start) > 0
            })
        });
        let Some(hole) = hole else { return self.count(side, Letter::Retransmission) };
        let hole_end = hole.0.wrapping_add(hole.1);
        let end = start.wrapping_add(payload);
        let (before, after) = (ahead(start, hole.0).max(0) as u32, ahead(hole_end, end).max(0) as u32);
        *hole = if before > 0 { (hole.0, before) } else { (end, after) };
        let rest = if before > 0 { after } else { 0 };
        self.losses().out_of_order[side] += 1;
        if rest > 0 {
            self.open_hole(side, end, rest);
        }
    }

    fn open_hole(&mut self, side: usize, start: u32, length: u32) {
        let holes = &mut self.losses().holes[side];
        let oldest = holes.iter().position(|hole| hole.1 == 0).unwrap_or_default();
        let lost = std::mem::replace(&mut holes[oldest], (start, length)).1;
        if lost > 0 {
            self.gap(side, lost);
        }
    }
}

impl Losses {
    /// Segments sent again, with data or without.
    pub(super) fn retransmitted(&self) -> [u64; 2] {
        [0, 1].map(|side| self.retransmitted[side] + self.repeated[side])
    }

    /// Gaps, and holes that nothing filled.
    pub(super) fn missing(&self) -> [u64; 2] {
        [0, 1].map(|side| {
            let open: u64 = self.holes[side].iter().map(|hole| u64::from(hole.1)).sum();
            self.gap_bytes[side] + open
        })
    }
}

trait PowerOfTen {
    fn is_power_of_ten(&self) -> bool;
}

impl PowerOfTen for u64 {
    fn is_power_of_ten(&self) -> bool {
        let exponent = self.checked_ilog10();
        exponent.is_some_and(|exponent| *self == 10_u64.pow(exponent))
    }
}
