//! A capture's packets: through the packet tracker, their first bytes through the dissector.

use std::sync::Arc;

use super::{Change, FlowNotes, Pipeline};
use crate::core::{
    effect::Effect,
    event::{FlowRef, Payload, ServerName},
    flow::{Direction, FlowAction, FlowId, FlowKey, FlowSnapshot, Observer, Side, Transport},
    packet::{Detail, Packet},
    time::{BootTime, Moment},
};

/// Packets with payload of one flow that are looked at for a server name: a post-quantum hello spans several.
const MAX_INSPECTED: u8 = 16;
/// Ports of DNS, mDNS and LLMNR.
const DNS_PORTS: [u16; 3] = [53, 5353, 5355];

/// Packets of a capture, in its order.
pub type PacketBatch<'a> = [(BootTime, Packet<'a>)];

/// Collects what the packet tracker finds out.
#[derive(Debug, Default)]
pub(super) struct Captured {
    pub(super) changes: Vec<Change>,
    payloads: Vec<Payload>,
}

impl Observer<FlowNotes> for Captured {
    fn change(&mut self, action: FlowAction, at: BootTime, snapshot: FlowSnapshot, notes: &mut FlowNotes) {
        self.changes.push(Change::new(action, at, snapshot, notes));
    }

    fn payload(&mut self, _flow: FlowId, _side: Side, packet: &Packet<'_>, at: BootTime, notes: &mut FlowNotes) {
        let is_dns = DNS_PORTS.contains(&packet.source().port) || DNS_PORTS.contains(&packet.destination().port);
        if !is_dns && MAX_INSPECTED <= notes.inspected {
            return;
        }
        notes.inspected = notes.inspected.saturating_add(1);
        self.payloads.push(payload_of(packet, at));
    }
}

impl Pipeline {
    /// Takes a capture's packets; names found in them are known to the flows that start in the same batch.
    pub fn packets(&mut self, batch: &PacketBatch<'_>, now: Moment, effects: &mut Vec<Effect>) {
        self.packets.packets(batch, &mut self.captured);
        self.complete_captured(now, effects);
    }

    /// First what the payloads say, then the flows: so that a flow's first event has its name where it is known.
    pub(super) fn complete_captured(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let mut payloads = std::mem::take(&mut self.captured.payloads);
        for payload in payloads.drain(..) {
            self.on_payload(&payload, now, effects);
        }
        self.captured.payloads = payloads;
        self.changes.0.append(&mut self.captured.changes);
        self.complete_changes(now, effects);
    }

    /// Notes a server name with the capture's flow; `false` where the tracker has none.
    pub(super) fn note_captured_name(&mut self, name: &Arc<ServerName>) -> bool {
        let flow = &name.flow;
        let (key, _) = FlowKey::of_endpoints(flow.transport, flow.source, flow.destination);
        let notes = self.packets.user_mut(&key);
        let is_known = notes.is_some();
        notes.into_iter().for_each(|notes| notes.server_name = Some(name.clone()));
        is_known
    }

    /// Ends every flow of the capture.
    pub(super) fn finish_captured(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.packets.finish(crate::core::flow::EndReason::ForcedEnd, &mut self.captured);
        self.complete_captured(now, effects);
    }
}

fn payload_of(packet: &Packet<'_>, at: BootTime) -> Payload {
    let sequence = match &packet.detail {
        Detail::Tcp(tcp) if packet.transport() == Transport::TCP => Some(tcp.sequence),
        _ => None,
    };
    let captured = u32::try_from(packet.payload.len()).unwrap_or(u32::MAX);
    Payload {
        flow: FlowRef {
            cookie: 0,
            transport: packet.transport(),
            source: packet.source(),
            destination: packet.destination(),
        },
        direction: Direction::Egress,
        user: None,
        at,
        sequence,
        bytes: packet.payload.into(),
        missing_bytes: packet.payload_bytes.saturating_sub(captured),
    }
}
