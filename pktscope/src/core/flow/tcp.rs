//! The state of one TCP connection: each side's sequence space, Zeek's endpoint states and history, and what was lost.
//!
//! Side 0 is the initiator. All sequence arithmetic is modulo 2^32.

use std::time::Duration;

use super::{
    ConnState, TcpSummary,
    history::{History, Letter},
};
use crate::core::packet::TcpHeader;

mod losses;

pub(super) use losses::Losses;

/// Zeek's endpoint states (src/analyzer/protocol/tcp/TCP_Endpoint.h, `EndpointState`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum EndState {
    /// Nothing sent.
    #[default]
    Inactive,
    /// SYN sent.
    SynSent,
    /// SYN with ACK sent, no SYN seen.
    SynAckSent,
    /// Sends, though no handshake was seen.
    Partial,
    /// Took part in a handshake.
    Established,
    /// FIN sent.
    Closed,
    /// RST sent.
    Reset,
}

/// What a segment meant for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpEvent {
    /// The handshake is complete: the initiator answered the responder's SYN.
    Established,
    /// One side sent FIN.
    HalfClosed,
    /// Both did.
    Closed,
    /// A side sent RST inside the window.
    Reset,
    /// An RST outside the window, or of a connection already closed, was disregarded.
    ResetDisregarded,
}

/// Seen flags of one side.
mod seen {
    pub(super) const SYN: u8 = 0x01;
    pub(super) const FIN: u8 = 0x02;
    pub(super) const RST: u8 = 0x04;
    pub(super) const DATA: u8 = 0x08;
    pub(super) const ACK: u8 = 0x10;
    pub(super) const MULTIPLE: u8 = 0x20;
    /// `next` holds a value.
    pub(super) const NEXT: u8 = 0x40;
    /// `acked` holds a value.
    pub(super) const ACKED: u8 = 0x80;
}

/// A scale that no SYN gave.
const SCALE_UNKNOWN: u8 = 0x0f;
/// What the window of a connection joined mid-stream is taken to be scaled by: Linux and the BSDs announce 6 to 9 with
/// default buffers, Windows 8.
const SCALE_ASSUMED: u8 = 8;
/// A segment or acknowledgement further ahead than this is taken to be nonsense, not a gap (RFC 7323: the window is
/// below 2^30).
const LARGEST_JUMP: i32 = 1 << 30;

/// Hot state of a connection: 32 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TcpState {
    /// One past the highest sequence number sent.
    next: [u32; 2],
    /// The highest acknowledgement number sent.
    acked: [u32; 2],
    /// The initiator's initial sequence number.
    initial: u32,
    /// Microseconds, 0 where not known; `RTT_UNKNOWABLE` where the SYN was repeated (Karn).
    rtt: u32,
    window: [u16; 2],
    /// Window scales, a nibble a side.
    scales: u8,
    /// Not of TCP: the upper bits of the flow's packet counts, a nibble a side; kept here because here is room.
    pub(super) packets_high: u8,
    seen: [u8; 2],
}

const RTT_UNKNOWABLE: u32 = u32::MAX;

/// A view on one connection's parts, wherever the table keeps them.
pub(super) struct Connection<'a> {
    /// The segment's time and the first packet's, in nanoseconds.
    pub(super) now: u64,
    pub(super) started_at: &'a u64,
    pub(super) tcp: &'a mut TcpState,
    pub(super) ends: &'a mut [EndState; 2],
    pub(super) history: &'a mut History,
    pub(super) losses: &'a mut Option<Box<Losses>>,
}

fn ahead(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

/// The later of two sequence numbers, the second where there is one.
fn furthest(a: u32, b: Option<u32>) -> u32 {
    match b {
        Some(b) if 0 < ahead(b, a) && ahead(b, a) < LARGEST_JUMP => b,
        _ => a,
    }
}

impl TcpState {
    pub(super) fn new() -> Self {
        Self { scales: SCALE_UNKNOWN << 4 | SCALE_UNKNOWN, ..Self::default() }
    }

    fn has(&self, side: usize, bits: u8) -> bool {
        self.seen[side] & bits != 0
    }

    fn scale(&self, side: usize) -> u8 {
        self.scales >> (4 * side) & 0x0f
    }

    fn set_scale(&mut self, side: usize, scale: u8) {
        self.scales = self.scales & !(0x0f << (4 * side)) | scale << (4 * side);
    }

    /// Keeps an ICMP message's type and code where TCP keeps its initial sequence number.
    pub(super) fn set_icmp(&mut self, kind: u8, code: u8) {
        self.initial = u32::from_be_bytes([0, 0, kind, code]);
    }

    /// What [`Self::set_icmp`] kept.
    pub(super) fn icmp(&self) -> (u8, u8) {
        let [.., kind, code] = self.initial.to_be_bytes();
        (kind, code)
    }

    /// Whether this SYN begins another connection: neither side of this one sent it.
    pub(super) fn is_other_connection(&self, side: usize, header: &TcpHeader, ends: [EndState; 2]) -> bool {
        if header.flags & (TcpHeader::SYN | TcpHeader::ACK | TcpHeader::RST | TcpHeader::FIN) != TcpHeader::SYN {
            return false;
        }
        match side {
            0 if self.is_late_syn(header) => false,
            // A SYN after its refusal tries again, even with the same number (Windows does).
            0 => {
                !self.has(0, seen::SYN)
                    || header.sequence != self.initial
                    || ends == [EndState::SynSent, EndState::Reset]
            }
            // A simultaneous open (RFC 9293, 3.5), or its repetition.
            _ if ends[0] == EndState::SynSent => {
                self.has(1, seen::NEXT) && header.sequence != self.next[1].wrapping_sub(1)
            }
            _ => true,
        }
    }

    /// Whether a SYN is the one that the responder's SYN, seen before it, acknowledged.
    fn is_late_syn(&self, header: &TcpHeader) -> bool {
        let acknowledged = self.acked[1].wrapping_sub(header.sequence.wrapping_add(1));
        !self.has(0, seen::SYN)
            && self.has(1, seen::SYN)
            && self.has(1, seen::ACKED)
            && acknowledged <= u32::from(u16::MAX)
    }

    /// The sequence numbers that the peer of `side` takes: from its last acknowledgement to its window's end.
    fn is_in_window(&self, side: usize, sequence: u32) -> bool {
        let peer = 1 - side;
        if self.has(side, seen::NEXT) && sequence == self.next[side] {
            return true;
        }
        if !self.has(peer, seen::ACKED) {
            // One way only: nothing to hold it against but what the side itself sent last.
            return !self.has(side, seen::NEXT) || self.next[side].wrapping_sub(sequence) <= 1;
        }
        let scale = match (self.scale(side), self.scale(peer)) {
            (SCALE_UNKNOWN, _) | (_, SCALE_UNKNOWN) => SCALE_ASSUMED,
            (_, scale) => scale,
        };
        let window = u32::from(self.window[peer]) << scale;
        sequence.wrapping_sub(self.acked[peer]) <= window
    }

    /// Whether the initiator has not yet answered the responder's SYN.
    pub(super) fn is_half_open(&self, ends: [EndState; 2]) -> bool {
        match ends {
            [EndState::SynSent, _] | [_, EndState::SynAckSent] => true,
            [EndState::Established, EndState::Established] => {
                self.has(0, seen::SYN) && !self.has(0, seen::ACK | seen::DATA | seen::FIN)
            }
            _ => false,
        }
    }
}

/// Whether the connection is over.
pub(super) fn is_closed(ends: [EndState; 2]) -> bool {
    ends.contains(&EndState::Reset) || ends == [EndState::Closed; 2]
}

/// Zeek's conn_state from its endpoint states (base/protocols/conn/main.zeek, `conn_state`).
pub(super) fn conn_state(ends: [EndState; 2], has_payload: bool) -> ConnState {
    use EndState::{Closed, Established, Inactive, Partial, Reset, SynAckSent, SynSent};
    match ends {
        [SynSent | SynAckSent, Reset] => ConnState::REJ,
        [Reset, Reset] if !has_payload => ConnState::REJ,
        [Inactive | Partial, Reset] => ConnState::RSTRH,
        [_, Reset] => ConnState::RSTR,
        [Reset, Inactive | Partial] => ConnState::RSTOS0,
        [Reset, _] => ConnState::RSTO,
        [Closed, Closed] => ConnState::SF,
        [Closed, Inactive | Partial] => ConnState::SH,
        [Closed, _] => ConnState::S2,
        [Inactive | Partial, Closed] => ConnState::SHR,
        [_, Closed] => ConnState::S3,
        [SynSent, Inactive] => ConnState::S0,
        [Established, Established] => ConnState::S1,
        _ => ConnState::OTH,
    }
}

impl Connection<'_> {
    /// Takes a segment of `side` with `payload` bytes.
    #[inline]
    pub(super) fn segment(&mut self, side: usize, header: &TcpHeader, payload: u32) -> Option<TcpEvent> {
        let was_half_open = self.tcp.is_half_open(*self.ends);
        if header.has(TcpHeader::RST) {
            return Some(self.reset(side, header, payload));
        }
        self.note(side, header, payload);
        if header.has(TcpHeader::SYN) {
            self.synchronise(side, header);
        }
        if header.has(TcpHeader::ACK) {
            self.acknowledge(side, header);
        }
        self.sequence(side, header, payload);
        self.advance(side, header);
        if was_half_open && side == 0 && !header.has(TcpHeader::SYN) {
            self.measure();
        }
        self.event(side, header, was_half_open)
    }

    /// Notes that the first packet came from the responder.
    pub(super) fn flip(&mut self) {
        self.letter(Letter::Flip, 0);
    }

    fn event(&self, side: usize, header: &TcpHeader, was_half_open: bool) -> Option<TcpEvent> {
        if header.has(TcpHeader::FIN) && self.ends[side] == EndState::Closed {
            return Some(if is_closed(*self.ends) { TcpEvent::Closed } else { TcpEvent::HalfClosed });
        }
        let is_established = *self.ends == [EndState::Established; 2] && !self.tcp.is_half_open(*self.ends);
        (was_half_open && is_established).then_some(TcpEvent::Established)
    }

    fn reset(&mut self, side: usize, header: &TcpHeader, payload: u32) -> TcpEvent {
        if is_closed(*self.ends) {
            self.note(side, header, payload);
            return TcpEvent::ResetDisregarded;
        }
        if !self.is_reset_valid(side, header) {
            return TcpEvent::ResetDisregarded;
        }
        self.note(side, header, payload);
        self.ends[side] = EndState::Reset;
        TcpEvent::Reset
    }

    /// RFC 9293, 3.10.7.3: in SYN-SENT the acknowledgement decides, afterwards the window.
    fn is_reset_valid(&self, side: usize, header: &TcpHeader) -> bool {
        if self.ends[1 - side] == EndState::SynSent && !self.tcp.has(side, seen::NEXT) {
            let expected = self.tcp.next[1 - side];
            return header.has(TcpHeader::ACK) && header.acknowledgement == expected
                || !header.has(TcpHeader::ACK) && header.sequence == 0;
        }
        self.tcp.is_in_window(side, header.sequence)
    }

    fn letter(&mut self, letter: Letter, side: usize) {
        if !self.history.push(letter, side) {
            self.losses().spill.push(letter, side);
        }
    }

    /// Puts the segment's letter, the first time for its side (Zeek: TCP.cc, `update_history`).
    fn note(&mut self, side: usize, header: &TcpHeader, payload: u32) {
        const CONTROL: u8 = TcpHeader::SYN | TcpHeader::FIN | TcpHeader::RST;
        let (bit, letter) = match header.flags & CONTROL {
            0 if payload > 0 => (seen::DATA, Letter::Data),
            0 if header.has(TcpHeader::ACK) => (seen::ACK, Letter::Ack),
            0 => return,
            TcpHeader::SYN if header.has(TcpHeader::ACK) => (seen::SYN, Letter::SynAck),
            TcpHeader::SYN => (seen::SYN, Letter::Syn),
            TcpHeader::FIN => (seen::FIN, Letter::Fin),
            TcpHeader::RST => (seen::RST, Letter::Rst),
            flags if flags & TcpHeader::SYN == 0 => (seen::MULTIPLE, Letter::Inconsistent),
            _ => (seen::MULTIPLE, Letter::Multiple),
        };
        if !self.tcp.has(side, bit) {
            self.tcp.seen[side] |= bit;
            self.letter(letter, side);
        } else if bit == seen::SYN && side == 0 && *self.ends == [EndState::SynSent, EndState::Inactive] {
            self.tcp.rtt = RTT_UNKNOWABLE;
        }
    }

    fn synchronise(&mut self, side: usize, header: &TcpHeader) {
        if side == 0 && !self.tcp.has(0, seen::NEXT) {
            self.tcp.initial = header.sequence;
        }
        self.tcp.set_scale(side, header.window_scale.unwrap_or(0));
        // Scaling holds only where both sides offer it (RFC 7323, 2.2).
        let is_answer = header.has(TcpHeader::ACK) && self.tcp.has(1 - side, seen::SYN);
        if is_answer && (self.tcp.scale(0) == 0 || self.tcp.scale(1) == 0) {
            self.tcp.scales = 0;
        }
    }

    /// What `side` acknowledges of the other side's bytes.
    #[inline]
    fn acknowledge(&mut self, side: usize, header: &TcpHeader) {
        let ack = header.acknowledgement;
        if self.tcp.window[side] != 0 && header.window == 0 && !header.has(TcpHeader::SYN) {
            self.count(side, Letter::ZeroWindow);
        }
        self.tcp.window[side] = header.window;
        if self.tcp.has(side, seen::ACKED) && ahead(ack, self.tcp.acked[side]) <= 0 {
            return;
        }
        let before = self.tcp.has(side, seen::ACKED).then_some(self.tcp.acked[side]);
        self.tcp.acked[side] = ack;
        self.tcp.seen[side] |= seen::ACKED;
        let peer = 1 - side;
        if !self.tcp.has(peer, seen::NEXT) || header.has(TcpHeader::SYN) {
            return;
        }
        let seen_to = furthest(self.tcp.next[peer], before);
        let unseen = ahead(ack, seen_to);
        if 0 < unseen && unseen < LARGEST_JUMP {
            self.gap(peer, unseen.unsigned_abs());
        }
        if self.losses.is_some() {
            self.close_holes(peer, ack);
        }
    }

    /// Zeek's state machine (src/analyzer/protocol/tcp/TCP.cc, `UpdateStateMachine`).
    fn advance(&mut self, side: usize, header: &TcpHeader) {
        use EndState::{Closed, Established, Inactive, Partial, Reset, SynAckSent, SynSent};
        let (own, peer) = (self.ends[side], self.ends[1 - side]);
        if header.has(TcpHeader::FIN) {
            if own != Reset {
                self.ends[side] = Closed;
            }
            return;
        }
        match (own, peer, header.has(TcpHeader::SYN), header.has(TcpHeader::ACK)) {
            (Inactive | SynSent, SynSent, true, true) if self.answers_syn(side, header) => {
                *self.ends = [Established; 2];
            }
            (Inactive | Partial, SynAckSent, true, false) => *self.ends = [Established; 2],
            (Inactive, _, true, false) => self.ends[side] = SynSent,
            (Inactive, Inactive | Partial | Established | Closed, true, true) => self.ends[side] = SynAckSent,
            (Inactive | Partial | SynSent, SynAckSent, false, true) => *self.ends = [Established; 2],
            (Inactive, _, false, _) => self.ends[side] = Partial,
            _ => {}
        }
    }

    /// Whether a SYN with ACK acknowledges the peer's SYN: at least its sequence number, at most what was sent (TFO data).
    fn answers_syn(&self, side: usize, header: &TcpHeader) -> bool {
        let peer = 1 - side;
        let sent = self.tcp.next[peer];
        let offset = ahead(sent, header.acknowledgement);
        (0..=i32::from(u16::MAX)).contains(&offset)
    }

    fn measure(&mut self) {
        if self.tcp.rtt == 0 {
            let elapsed = Duration::from_nanos(self.now.saturating_sub(*self.started_at));
            let micros = u32::try_from(elapsed.as_micros()).unwrap_or(RTT_UNKNOWABLE);
            self.tcp.rtt = micros.max(1);
        }
    }

    /// The connection as it stands, in the form that leaves the tracker.
    pub(super) fn summary(&self, has_payload: bool) -> TcpSummary {
        let losses = self.losses.as_deref();
        let rtt = self.tcp.rtt;
        TcpSummary {
            history: self.history.text(losses.map(|losses| &losses.spill)),
            conn_state: conn_state(*self.ends, has_payload),
            retransmitted: losses.map_or([0; 2], Losses::retransmitted).map(Some),
            out_of_order: Some(losses.map_or([0; 2], |losses| losses.out_of_order)),
            gap_bytes: Some(losses.map_or([0; 2], Losses::missing)),
            handshake_rtt: (rtt != 0 && rtt != RTT_UNKNOWABLE).then(|| Duration::from_micros(u64::from(rtt))),
            smoothed_rtt: None,
        }
    }
}
