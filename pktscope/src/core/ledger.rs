//! The ledger: for each interval and direction, what the interfaces carried against who explains it.
//!
//! In come the growth of each socket's counters and, at the close of an interval, what passed the interfaces without an
//! inet socket and the interfaces' own counters. Out comes a row in which `interface = attributed + kernel + forwarded + unknown` always holds. It never guesses an owner.
//!
//! Traffic goes on while counters are read, so the interfaces are read before and after the sockets. Everything is
//! compared as totals since the start: what one reading could not yet tell, the next one settles.

use std::collections::BTreeMap;

use super::{
    effect::{Ledger, LedgerSide},
    event::{InterfaceReading, LedgerReading, SocketReport},
    time::BootTime,
};

/// Bytes that an interface sent and nothing else saw.
pub const NOT_SEEN_BY_SENSOR: &str = "not_seen_by_sensor";
/// Bytes that an interface received and no socket did: the kernel took them itself, or dropped them.
pub const NO_SOCKET: &str = "no_socket";
/// Bytes of sockets that are neither inet nor packet sockets.
pub const OTHER_SOCKETS: &str = "other_sockets";
/// Bytes of sockets whose owner is not known.
pub const OWNER_UNKNOWN: &str = "owner_unknown";

/// Why bytes that only the interfaces counted are unknown, by way.
const UNSEEN: [&str; 2] = [NOT_SEEN_BY_SENSOR, NO_SOCKET];

/// Sent, then received.
const WAYS: [usize; 2] = [0, 1];

/// Whose bytes a growth is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LedgerClass {
    /// A process owns them.
    Attributed,
    /// The kernel's own.
    Kernel,
    /// They pass through.
    Forwarded,
    /// A socket whose owner is not known.
    Unknown,
    /// A socket that is neither an inet nor a packet one.
    OtherSockets,
}

/// Every reason for which bytes are unknown, in the order of their letters.
pub const REASONS: [&str; 4] = [NO_SOCKET, NOT_SEEN_BY_SENSOR, OTHER_SOCKETS, OWNER_UNKNOWN];

/// The reasons of the classes that nobody explains.
const CLASS_REASONS: [(LedgerClass, &str); 2] =
    [(LedgerClass::Unknown, OWNER_UNKNOWN), (LedgerClass::OtherSockets, OTHER_SOCKETS)];

/// How much a socket's counters grew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Wire bytes: sent, received.
    pub wire_bytes: [u64; 2],
    /// Of those, headers that segmentation offload adds after, or joins before, the point of counting.
    pub segment_header_bytes: [u64; 2],
}

/// Growth of one class on one interface since the last close.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    wire: [u64; 2],
    headers: [u64; 2],
}

impl Growth {
    /// What a total grew by; all of it where it began anew.
    fn since(&self, before: &Self) -> Self {
        let mut grown = Self::default();
        for way in WAYS {
            let Some(bytes) = self.wire_bytes[way].checked_sub(before.wire_bytes[way]) else { return *self };
            grown.wire_bytes[way] = bytes;
            grown.segment_header_bytes[way] =
                self.segment_header_bytes[way].saturating_sub(before.segment_header_bytes[way]);
        }
        grown
    }
}

impl Tally {
    fn add(&mut self, growth: &Growth) {
        for way in WAYS {
            self.wire[way] = self.wire[way].saturating_add(growth.wire_bytes[way]);
            self.headers[way] = self.headers[way].saturating_add(growth.segment_header_bytes[way]);
        }
    }

    fn as_counted(&self, way: usize, has_wire_segments: bool) -> u64 {
        if has_wire_segments { self.wire[way] } else { self.wire[way].saturating_sub(self.headers[way]) }
    }
}

/// One direction's totals since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Balance {
    /// Carried by interfaces that are gone or were reset.
    settled: u64,
    /// Told so far, of every kind.
    told: u64,
    /// Bytes that the interfaces had not counted yet at the last close: told when they have.
    held_back: Held,
}

/// Explained bytes that are held back, by whose they are.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    attributed: u64,
    forwarded: u64,
    kernel: u64,
}

impl Held {
    fn total(&self) -> u64 {
        self.attributed + self.forwarded + self.kernel
    }

    /// Forgets so many bytes.
    fn let_go(&mut self, bytes: u64) {
        let mut left = bytes;
        for part in [&mut self.attributed, &mut self.forwarded, &mut self.kernel] {
            let gone = left.min(*part);
            *part -= gone;
            left -= gone;
        }
    }
}

/// What one class is worth in an interval.
#[derive(Debug, Default)]
struct Explained {
    attributed: u64,
    kernel: u64,
    forwarded: u64,
    by_reason: Vec<(&'static str, u64)>,
}

impl Explained {
    fn unknown(&self) -> u64 {
        self.by_reason.iter().map(|(_, bytes)| bytes).sum()
    }

    fn total(&self) -> u64 {
        self.attributed + self.kernel + self.forwarded + self.unknown()
    }

    fn add(&mut self, held: &Held) {
        self.attributed += held.attributed;
        self.forwarded += held.forwarded;
        self.kernel += held.kernel;
    }

    /// Takes out up to `bytes` of what is explained.
    fn hold_back(&mut self, bytes: u64) -> Held {
        let mut left = bytes;
        let mut take = |part: &mut u64| {
            let taken = left.min(*part);
            *part -= taken;
            left -= taken;
            taken
        };
        Held {
            attributed: take(&mut self.attributed),
            forwarded: take(&mut self.forwarded),
            kernel: take(&mut self.kernel),
        }
    }
}

/// Collects growth between closes. Cost: a growth is one look-up; a close is linear in interfaces and reasons.
#[derive(Debug, Default)]
pub struct LedgerBook {
    opened_at: Option<BootTime>,
    tallies: BTreeMap<(u32, LedgerClass), Tally>,
    /// Counters where each interface's share of the totals begins.
    bases: BTreeMap<u32, [u64; 2]>,
    /// Counters at the last close.
    latest: BTreeMap<u32, [u64; 2]>,
    /// What passed each interface without an inet socket, at the last close.
    unowned: BTreeMap<(u32, LedgerClass), Growth>,
    /// What packet sockets sent that is not IP, by socket.
    frames: BTreeMap<u64, Growth>,
    lost: BTreeMap<&'static str, u64>,
    balances: [Balance; 2],
}

impl LedgerBook {
    /// Adds what a socket's counters grew by, on the interface that its packets use.
    pub fn grow(&mut self, interface: u32, class: LedgerClass, growth: &Growth) {
        self.tallies.entry((interface, class)).or_default().add(growth);
    }

    /// Takes the totals of a packet socket's frames that are not IP.
    pub fn grow_frames(&mut self, report: &SocketReport) {
        let total = Growth {
            wire_bytes: [report.sent.ip_bytes, report.received.ip_bytes],
            segment_header_bytes: report.segment_header_bytes,
        };
        let before = self.frames.insert(report.cookie, total).unwrap_or_default();
        if report.is_closed {
            self.frames.remove(&report.cookie);
        }
        let is_owned = report.user.or(report.creator).is_some();
        let class = if is_owned { LedgerClass::Attributed } else { LedgerClass::Unknown };
        self.grow(report.interface, class, &total.since(&before));
    }

    /// Closes the interval; `None` for the first reading, which only sets where the totals begin.
    pub fn close(&mut self, reading: &LedgerReading) -> Option<Ledger> {
        self.grow_unowned(reading);
        let ledger = match self.opened_at.replace(reading.at) {
            Some(started_at) => Some(self.settle(reading, started_at)),
            None => {
                self.bases = reading.interfaces.iter().map(|one| (one.index, one.after)).collect();
                None
            }
        };
        self.tallies.clear();
        self.latest = reading.interfaces.iter().map(|one| (one.index, one.after)).collect();
        self.lost = reading.lost.iter().copied().collect();
        ledger
    }

    fn grow_unowned(&mut self, reading: &LedgerReading) {
        let earlier = std::mem::take(&mut self.unowned);
        for one in &reading.unowned {
            let key = (one.interface, one.class);
            self.grow(one.interface, one.class, &one.total.since(&earlier.get(&key).copied().unwrap_or_default()));
            self.unowned.insert(key, one.total);
        }
    }

    fn settle(&mut self, reading: &LedgerReading, started_at: BootTime) -> Ledger {
        self.settle_gone_interfaces(reading);
        let [tx, rx] = WAYS.map(|way| self.close_side(reading, way));
        Ledger { started_at, ended_at: reading.at, tx, rx, lost: self.lost_since(reading) }
    }

    /// Moves what an interface carried into the settled total where it is gone or its counters went back.
    fn settle_gone_interfaces(&mut self, reading: &LedgerReading) {
        let is_continued = |index: u32, latest: [u64; 2]| {
            let present = reading.interfaces.iter().find(|one| one.index == index);
            present.is_some_and(|one| WAYS.iter().all(|&way| one.after[way] >= latest[way]))
        };
        for (&index, &latest) in &self.latest {
            if is_continued(index, latest) {
                continue;
            }
            let base = self.bases.remove(&index).unwrap_or_default();
            for way in WAYS {
                self.balances[way].settled += latest[way].saturating_sub(base[way]);
            }
        }
    }

    fn close_side(&mut self, reading: &LedgerReading, way: usize) -> LedgerSide {
        let mut explained = self.explained(reading, way);
        let (least, most) = self.carried(reading, way);
        let balance = &mut self.balances[way];
        let held_before = std::mem::take(&mut balance.held_back);
        explained.add(&held_before);
        let unseen = least.saturating_sub(balance.told + explained.total());
        if unseen > 0 {
            explained.by_reason.push((UNSEEN[way], unseen));
        }
        let mut ahead = explained.hold_back((balance.told + explained.total()).saturating_sub(most));
        // Ahead twice running is no race between two readings: something counted the same packet twice.
        let counted_twice = ahead.total().min(held_before.total());
        ahead.let_go(counted_twice);
        balance.held_back = ahead;
        balance.told += explained.total();
        into_side(explained, counted_twice)
    }

    /// The least and the most that the interfaces have carried since the start.
    fn carried(&self, reading: &LedgerReading, way: usize) -> (u64, u64) {
        let since_base = |counter: fn(&InterfaceReading) -> [u64; 2]| {
            let one = |one: &InterfaceReading| {
                counter(one)[way].saturating_sub(self.bases.get(&one.index).map_or(0, |base| base[way]))
            };
            self.balances[way].settled + reading.interfaces.iter().map(one).sum::<u64>()
        };
        (since_base(|one| one.before), since_base(|one| one.after))
    }

    fn explained(&self, reading: &LedgerReading, way: usize) -> Explained {
        let of = |class| self.tallied(reading, way, class);
        let reasons = CLASS_REASONS.map(|(class, reason)| (reason, of(class)));
        Explained {
            attributed: of(LedgerClass::Attributed),
            kernel: of(LedgerClass::Kernel),
            forwarded: of(LedgerClass::Forwarded),
            by_reason: reasons.into_iter().filter(|(_, bytes)| *bytes != 0).collect(),
        }
    }

    fn tallied(&self, reading: &LedgerReading, way: usize, class: LedgerClass) -> u64 {
        let counted = |(index, has_wire_segments): (u32, [bool; 2])| {
            self.tallies.get(&(index, class)).map_or(0, |tally| tally.as_counted(way, has_wire_segments[way]))
        };
        let below = reading.interfaces.iter().map(|one| (one.index, one.has_wire_segments));
        let above = reading.stacked.iter().map(|one| (one.index, one.has_wire_segments));
        below.chain(above).map(counted).sum()
    }

    fn lost_since(&self, reading: &LedgerReading) -> Vec<(&'static str, u64)> {
        let since = |(place, count): &(&'static str, u64)| {
            (*place, count.saturating_sub(self.lost.get(place).copied().unwrap_or(0)))
        };
        reading.lost.iter().map(since).collect()
    }
}

fn into_side(explained: Explained, counted_twice_bytes: u64) -> LedgerSide {
    LedgerSide {
        interface_bytes: explained.total(),
        attributed_bytes: explained.attributed,
        kernel_bytes: explained.kernel,
        forwarded_bytes: explained.forwarded,
        unknown_bytes: explained.unknown(),
        by_reason: explained.by_reason,
        counted_twice_bytes,
    }
}

#[cfg(test)]
mod tests {
    use pktscope_common::state::{Counts, PeerKey, PeerState, Stamp, flags};

    use super::*;
    use crate::core::{
        decode::{self, IsClosed},
        event::{SocketScope, UnownedReading},
    };

    const ETH: u32 = 2;

    fn reading(at: u64, before: u64, after: u64) -> LedgerReading {
        LedgerReading {
            at: BootTime(at),
            interfaces: vec![InterfaceReading {
                index: ETH,
                has_wire_segments: [true; 2],
                before: [before, 0],
                after: [after, 0],
            }],
            ..LedgerReading::default()
        }
    }

    fn sent(bytes: u64) -> Growth {
        Growth { wire_bytes: [bytes, 0], segment_header_bytes: [0, 0] }
    }

    fn opened() -> LedgerBook {
        let mut book = LedgerBook::default();
        assert_eq!(book.close(&reading(0, 1_000, 1_000)), None);
        book
    }

    fn assert_adds_up(side: &LedgerSide) {
        let parts = side.attributed_bytes + side.kernel_bytes + side.forwarded_bytes + side.unknown_bytes;
        assert_eq!(side.interface_bytes, parts);
        assert_eq!(side.unknown_bytes, side.by_reason.iter().map(|(_, bytes)| bytes).sum::<u64>());
    }

    #[test]
    fn what_the_sockets_explain_is_attributed() {
        let mut book = opened();
        book.grow(ETH, LedgerClass::Attributed, &sent(300));
        book.grow(ETH, LedgerClass::Kernel, &sent(40));
        book.grow(1, LedgerClass::Attributed, &sent(9_999));
        let ledger = book.close(&reading(10, 1_340, 1_340)).expect("second close");
        assert_adds_up(&ledger.tx);
        assert_eq!((ledger.tx.attributed_bytes, ledger.tx.kernel_bytes, ledger.tx.unknown_bytes), (300, 40, 0));
    }

    #[test]
    fn what_only_the_interface_saw_is_unknown() {
        let mut book = opened();
        book.grow(ETH, LedgerClass::Attributed, &sent(300));
        let ledger = book.close(&reading(10, 1_800, 1_800)).expect("second close");
        assert_adds_up(&ledger.tx);
        assert_eq!(ledger.tx.by_reason, [(NOT_SEEN_BY_SENSOR, 500)]);
    }

    #[test]
    fn traffic_between_two_readings_is_neither_unknown_nor_counted_twice() {
        let mut book = opened();
        book.grow(ETH, LedgerClass::Attributed, &sent(500));
        let first = book.close(&reading(10, 1_300, 1_700)).expect("second close");
        assert_eq!((first.tx.unknown_bytes, first.tx.counted_twice_bytes), (0, 0));
        book.grow(ETH, LedgerClass::Attributed, &sent(500));
        let second = book.close(&reading(20, 2_000, 2_000)).expect("third close");
        assert_eq!((second.tx.unknown_bytes, second.tx.counted_twice_bytes), (0, 0));
        assert_eq!(first.tx.interface_bytes + second.tx.interface_bytes, 1_000);
    }

    #[test]
    fn what_the_interface_has_not_counted_yet_is_told_with_the_next_interval() {
        let mut book = opened();
        book.grow(ETH, LedgerClass::Attributed, &sent(500));
        let first = book.close(&reading(10, 1_300, 1_400)).expect("second close");
        assert_eq!((first.tx.interface_bytes, first.tx.attributed_bytes), (400, 400));
        let second = book.close(&reading(20, 1_500, 1_500)).expect("third close");
        assert_eq!((second.tx.attributed_bytes, second.tx.counted_twice_bytes), (100, 0));
        assert_adds_up(&second.tx);
    }

    #[test]
    fn bytes_explained_twice_are_said_and_do_not_hide_unknown_ones_for_ever() {
        let mut book = opened();
        book.grow(ETH, LedgerClass::Attributed, &sent(200));
        book.close(&reading(10, 1_100, 1_100)).expect("second close");
        let second = book.close(&reading(20, 1_100, 1_100)).expect("third close");
        assert_eq!(second.tx.counted_twice_bytes, 100);
        let third = book.close(&reading(30, 1_150, 1_150)).expect("fourth close");
        assert_eq!(third.tx.by_reason, [(NOT_SEEN_BY_SENSOR, 50)]);
    }

    #[test]
    fn a_software_device_counts_a_super_packet_once() {
        let mut book = opened();
        let growth = Growth { wire_bytes: [1_104, 0], segment_header_bytes: [104, 0] };
        book.grow(ETH, LedgerClass::Attributed, &growth);
        let mut closing = reading(10, 2_000, 2_000);
        closing.interfaces[0].has_wire_segments = [false; 2];
        let ledger = book.close(&closing).expect("second close");
        assert_eq!((ledger.tx.attributed_bytes, ledger.tx.unknown_bytes), (1_000, 0));
    }

    #[test]
    fn a_socket_on_a_stacked_device_counts_on_the_interface_below() {
        let mut book = opened();
        book.grow(7, LedgerClass::Attributed, &sent(120));
        let mut closing = reading(10, 1_120, 1_120);
        closing.stacked.push(crate::core::event::StackedInterface { index: 7, has_wire_segments: [true; 2] });
        let ledger = book.close(&closing).expect("second close");
        assert_eq!((ledger.tx.attributed_bytes, ledger.tx.unknown_bytes), (120, 0));
    }

    fn unowned(class: LedgerClass, wire_bytes: [u64; 2], segment_header_bytes: [u64; 2]) -> UnownedReading {
        UnownedReading { interface: ETH, class, total: Growth { wire_bytes, segment_header_bytes } }
    }

    #[test]
    fn what_passes_without_an_inet_socket_is_explained_by_its_class_and_counted_from_the_opening_on() {
        let mut book = LedgerBook::default();
        let mut opening = reading(0, 1_000, 1_000);
        opening.unowned = vec![unowned(LedgerClass::Forwarded, [500, 900], [0; 2])];
        assert_eq!(book.close(&opening), None);
        let mut closing = reading(10, 1_350, 1_350);
        closing.interfaces[0].before[1] = 300;
        closing.interfaces[0].after[1] = 300;
        closing.unowned = vec![
            unowned(LedgerClass::Forwarded, [700, 1_130], [0; 2]),
            unowned(LedgerClass::Kernel, [40, 0], [0; 2]),
            unowned(LedgerClass::OtherSockets, [60, 0], [0; 2]),
        ];
        let ledger = book.close(&closing).expect("second close");
        assert_adds_up(&ledger.tx);
        assert_adds_up(&ledger.rx);
        assert_eq!((ledger.tx.forwarded_bytes, ledger.tx.kernel_bytes), (200, 40));
        assert_eq!(ledger.tx.by_reason, [(OTHER_SOCKETS, 60), (NOT_SEEN_BY_SENSOR, 50)]);
        assert_eq!((ledger.rx.forwarded_bytes, ledger.rx.by_reason), (230, vec![(NO_SOCKET, 70)]));
    }

    #[test]
    fn a_forwarded_super_packet_counts_as_the_interface_counts_it() {
        let mut book = opened();
        let mut closing = reading(10, 2_000, 2_000);
        closing.interfaces[0].has_wire_segments = [false, true];
        closing.interfaces[0].after[1] = 1_104;
        closing.interfaces[0].before[1] = 1_104;
        closing.unowned = vec![unowned(LedgerClass::Forwarded, [1_104, 1_104], [104, 104])];
        let ledger = book.close(&closing).expect("second close");
        assert_eq!((ledger.tx.forwarded_bytes, ledger.tx.unknown_bytes), (1_000, 0));
        assert_eq!((ledger.rx.forwarded_bytes, ledger.rx.unknown_bytes), (1_104, 0));
    }

    #[test]
    fn forwarded_packets_that_wait_in_a_queue_are_told_when_they_have_left() {
        let mut book = opened();
        let mut closing = reading(10, 1_300, 1_400);
        closing.unowned = vec![unowned(LedgerClass::Forwarded, [500, 0], [0; 2])];
        let first = book.close(&closing).expect("second close");
        assert_eq!((first.tx.interface_bytes, first.tx.forwarded_bytes), (400, 400));
        let mut closing = reading(20, 1_500, 1_500);
        closing.unowned = vec![unowned(LedgerClass::Forwarded, [500, 0], [0; 2])];
        let second = book.close(&closing).expect("third close");
        assert_eq!((second.tx.forwarded_bytes, second.tx.counted_twice_bytes), (100, 0));
    }

    #[test]
    fn frames_that_are_not_ip_are_their_owner_s_and_each_counts_once() {
        let mut book = opened();
        let frames = |cookie, sent_bytes, pid| {
            let state = PeerState {
                counts: Counts { sent_bytes, sent_packets: 1, ..Counts::default() },
                interface: ETH,
                flags: flags::FRAMES | flags::NOT_IP,
                user: Stamp { pid, ..Stamp::default() },
                ..PeerState::default()
            };
            let report = decode::peer(&PeerKey { cookie, ..PeerKey::default() }, &state, BootTime(5), IsClosed::No);
            assert_eq!(report.scope, SocketScope::NotIp);
            report
        };
        book.grow_frames(&frames(1, 28, 9));
        book.grow_frames(&frames(1, 84, 9));
        book.grow_frames(&frames(2, 50, 0));
        let ledger = book.close(&reading(10, 1_134, 1_134)).expect("second close");
        assert_eq!((ledger.tx.attributed_bytes, ledger.tx.by_reason), (84, vec![(OWNER_UNKNOWN, 50)]));
    }

    #[test]
    fn an_interface_that_goes_keeps_what_it_carried() {
        let mut book = opened();
        book.grow(ETH, LedgerClass::Attributed, &sent(100));
        book.close(&reading(10, 1_100, 1_100)).expect("second close");
        let none = LedgerReading { at: BootTime(20), ..LedgerReading::default() };
        let gone = book.close(&none).expect("third close");
        assert_adds_up(&gone.tx);
        assert_eq!((gone.tx.interface_bytes, gone.tx.counted_twice_bytes), (0, 0));
        book.grow(3, LedgerClass::Attributed, &sent(70));
        let mut back = reading(30, 70, 70);
        back.interfaces[0].index = 3;
        let ledger = book.close(&back).expect("fourth close");
        assert_eq!((ledger.tx.attributed_bytes, ledger.tx.unknown_bytes), (70, 0));
    }

    #[test]
    fn losses_are_those_of_the_interval() {
        let mut book = LedgerBook::default();
        let with = |at, count| LedgerReading { lost: vec![("ring_full", count)], ..reading(at, 0, 0) };
        book.close(&with(0, 5));
        assert_eq!(book.close(&with(10, 12)).expect("second close").lost, [("ring_full", 7)]);
    }
}
