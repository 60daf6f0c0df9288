//! What each part added since its last report.

use super::{PARTS_PER_FLOW, Part, PartKey, SocketTracker, grown};
use crate::core::{
    event::SocketReport,
    flow::{FlowId, Volume},
    ledger::Growth,
};

/// What a report adds to its part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grown {
    pub(super) sent: Volume,
    pub(super) received: Volume,
    /// Of both: headers of segments, sent and received.
    pub(super) segment_header_bytes: [u64; 2],
    /// The flow that the part went to so far, which may be over.
    pub(super) flow: Option<FlowId>,
    /// Whether the part is in the table.
    pub(super) is_held: bool,
}

impl Grown {
    /// What a part's first report adds.
    pub(super) fn first(report: &SocketReport) -> Self {
        let [sent, received] = [report.sent, report.received].map(|volume| counted_here(volume, report));
        let segment_header_bytes = report.segment_header_bytes;
        Self { sent, received, segment_header_bytes, flow: None, is_held: !report.is_closed }
    }

    /// Whether there is anything new.
    pub(super) fn has_any(&self) -> bool {
        [&self.sent, &self.received].into_iter().any(|more| more.packets > 0 || more.ip_bytes > 0)
    }

    /// As the ledger counts it, with what was inferred to be received besides.
    pub(super) fn with(&self, inferred: &Volume) -> Growth {
        let wire_bytes = [self.sent.ip_bytes, self.received.ip_bytes + inferred.ip_bytes];
        Growth { wire_bytes, segment_header_bytes: self.segment_header_bytes }
    }
}

impl<U: Default> SocketTracker<U> {
    /// Without its part a report would be counted again at every sweep.
    pub(super) fn has_room_for(&self, part_key: &PartKey) -> bool {
        let bound = self.settings.max_flows.saturating_mul(PARTS_PER_FLOW);
        self.parts.len() < bound || self.parts.contains_key(&part_key.id)
    }

    /// What the part grew by since its last report. A part whose first report is its last is not held.
    pub(super) fn growth(&mut self, part_key: &PartKey, report: &SocketReport) -> Grown {
        let sweep = self.sweep;
        let &SocketReport { sent, received, segment_header_bytes, .. } = report;
        let Some(part) = self.parts.get_mut(&part_key.id) else {
            if !report.is_closed {
                self.parts.insert(part_key.id, Part { flow: None, sent, received, segment_header_bytes, sweep });
            }
            return Grown::first(report);
        };
        let whole = Grown { sent, received, segment_header_bytes, flow: part.flow, is_held: true };
        let segment_header_bytes =
            [0, 1].map(|way| report.segment_header_bytes[way].saturating_sub(part.segment_header_bytes[way]));
        part.segment_header_bytes = report.segment_header_bytes;
        let payload = [part.sent.payload_bytes, part.received.payload_bytes];
        let grown = grown(&report.sent, &part.sent).zip(grown(&report.received, &part.received));
        (part.sent, part.received, part.sweep) = (report.sent, report.received, sweep);
        match grown {
            Some((sent, received)) => {
                part.sent.payload_bytes = part.sent.payload_bytes.max(payload[0]);
                part.received.payload_bytes = part.received.payload_bytes.max(payload[1]);
                Grown { sent, received, segment_header_bytes, ..whole }
            }
            None => {
                self.statistics.counters_restarted += 1;
                whole
            }
        }
    }
}

/// A first report's totals: a TCP socket tells its payload since the connection began, which may be before the agent; the
/// packets counted since can have carried so much at most.
fn counted_here(volume: Volume, report: &SocketReport) -> Volume {
    if report.tcp.is_none() {
        return volume;
    }
    let headers = if report.local.addr.is_ipv4() { 40 } else { 60 };
    let most = volume.ip_bytes.saturating_sub(volume.packets.saturating_mul(headers));
    Volume { payload_bytes: volume.payload_bytes.min(most), ..volume }
}
