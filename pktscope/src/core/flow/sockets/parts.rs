//! What each part added since its last report.

use super::{PARTS_PER_FLOW, Part, PartKey, SocketTracker, grown};
use crate::core::{event::SocketReport, flow::Volume};

impl<U: Default> SocketTracker<U> {
    /// Without its part a report would be counted again at every sweep.
    pub(super) fn has_room_for(&self, part_key: &PartKey) -> bool {
        let bound = self.settings.max_flows.saturating_mul(PARTS_PER_FLOW);
        self.parts.len() < bound || self.parts.contains_key(part_key)
    }

    /// What the part grew by since its last report.
    pub(super) fn growth(&mut self, part_key: &PartKey, report: &SocketReport) -> (Volume, Volume, [u64; 2]) {
        let sweep = self.sweep;
        let Some(part) = self.parts.get_mut(part_key) else {
            let (sent, received) = (report.sent, report.received);
            let segment_header_bytes = report.segment_header_bytes;
            self.parts.insert(*part_key, Part { flow: None, sent, received, segment_header_bytes, sweep });
            return (report.sent, report.received, report.segment_header_bytes);
        };
        let header_bytes =
            [0, 1].map(|way| report.segment_header_bytes[way].saturating_sub(part.segment_header_bytes[way]));
        part.segment_header_bytes = report.segment_header_bytes;
        let payload = [part.sent.payload_bytes, part.received.payload_bytes];
        let grown = grown(&report.sent, &part.sent).zip(grown(&report.received, &part.received));
        (part.sent, part.received, part.sweep) = (report.sent, report.received, sweep);
        if grown.is_some() {
            part.sent.payload_bytes = part.sent.payload_bytes.max(payload[0]);
            part.received.payload_bytes = part.received.payload_bytes.max(payload[1]);
        }
        match grown {
            Some((sent, received)) => (sent, received, header_bytes),
            None => {
                self.statistics.counters_restarted += 1;
                (report.sent, report.received, report.segment_header_bytes)
            }
        }
    }
}
