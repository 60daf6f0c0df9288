//! A capture's packets: through the packet tracker, their first bytes through the dissector.

use std::sync::Arc;

use super::{Change, FlowNotes, Pipeline};
use crate::core::{
    effect::Effect,
    event::{Event, FlowRef, Payload, ServerName},
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
    payloads: Vec<Inspected>,
}

/// A payload of a captured flow that may hold a name.
#[derive(Debug)]
struct Inspected {
    flow: FlowId,
    payload: Payload,
    /// Whether the flow is new: an earlier one between the same ends has nothing to do with it.
    is_first: bool,
}

impl Observer<FlowNotes> for Captured {
    fn change(&mut self, action: FlowAction, at: BootTime, snapshot: FlowSnapshot, notes: &mut FlowNotes) {
        self.changes.push(Change::new(action, at, snapshot, notes));
    }

    fn payload(&mut self, flow: FlowId, _side: Side, packet: &Packet<'_>, at: BootTime, notes: &mut FlowNotes) {
        let is_dns = DNS_PORTS.iter().any(|port| packet.has_port(*port));
        if !is_dns && MAX_INSPECTED <= notes.inspected {
            return;
        }
        notes.captured_flow = flow;
        self.payloads.push(Inspected { flow, payload: payload_of(packet, at), is_first: notes.inspected == 0 });
        notes.inspected = notes.inspected.saturating_add(1);
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
        for inspected in payloads.drain(..) {
            self.inspect(&inspected, now, effects);
        }
        self.captured.payloads = payloads;
        self.changes.0.append(&mut self.captured.changes);
        self.complete_changes(now, effects);
    }

    fn inspect(&mut self, inspected: &Inspected, now: Moment, effects: &mut Vec<Effect>) {
        if inspected.is_first {
            self.dissector.forget(&inspected.payload.flow);
        }
        let mut found = std::mem::take(&mut self.dissected);
        self.dissector.observe(&inspected.payload, &mut found);
        for event in found.drain(..) {
            match event {
                Event::ServerName(name) => self.note_captured_name(inspected.flow, &Arc::new(name)),
                event => self.step(event, now, effects),
            }
        }
        self.dissected = found;
    }

    /// Notes a server name with the capture's flow and with what this batch has of it, even where it ended meanwhile and
    /// its ports are another's now.
    fn note_captured_name(&mut self, flow: FlowId, name: &Arc<ServerName>) {
        let FlowRef { transport, source, destination, .. } = name.flow;
        let (key, _) = FlowKey::of_endpoints(transport, source, destination);
        let notes = self.packets.user_mut(&key).filter(|notes| notes.captured_flow == flow);
        notes.into_iter().for_each(|notes| notes.server_name = Some(name.clone()));
        for change in self.captured.changes.iter_mut().filter(|change| change.snapshot.id == flow) {
            change.server_name = Some(name.clone());
        }
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

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::core::{
        detect::{Detection, DetectionSettings},
        flow::FlowId,
        packet::{Decoded, LinkType, Tunnels, decode},
        pipeline::PipelineSettings,
    };

    /// A segment between 10.0.0.1:4000 and 192.0.2.1:80; `flags` are P, S, F or R.
    fn segment(flags: &str, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut builder = PacketBuilder::ipv4([10, 0, 0, 1], [192, 0, 2, 1], 64).tcp(4000, 80, sequence, 1000);
        for flag in flags.chars() {
            builder = match flag {
                'S' => builder.syn(),
                'R' => builder.rst(),
                _ => builder.psh(),
            };
        }
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).unwrap();
        bytes
    }

    /// The last name of each flow, in order of their start.
    fn names(frames: &[Vec<u8>]) -> Vec<Option<String>> {
        let detection = Detection::new(DetectionSettings::default());
        let mut pipeline = Pipeline::new(PipelineSettings::default(), detection, FlowId(1));
        let packet = |(index, frame): (usize, &Vec<u8>)| {
            let frame: &'static [u8] = frame.clone().leak();
            let decoded = decode(LinkType::Raw, frame, frame.len() as u32, Tunnels::default());
            let Ok(Decoded::Packet(packet)) = decoded else { panic!("{decoded:?}") };
            (BootTime(index as u64 * 1_000_000), packet)
        };
        let batch: Vec<_> = frames.iter().enumerate().map(packet).collect();
        let mut effects = Vec::new();
        pipeline.packets(&batch, Moment::default(), &mut effects);
        pipeline.finish(Moment::default(), &mut effects);
        let ended = effects.into_iter().filter_map(|effect| match effect {
            Effect::Flow(change) if change.action == FlowAction::Ended => Some(change.flow),
            _ => None,
        });
        ended.map(|flow| flow.domain.as_ref().map(|domain| domain.name.to_string())).collect()
    }

    #[test]
    fn a_connection_on_used_ports_has_its_own_name() {
        let request = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
        let connection = |first: u32, host| [segment("S", first, b""), segment("P", first + 1, &request(host))];
        let one = connection(1000, "one.example");
        let end = 1001 + request("one.example").len() as u32;
        let two = connection(500_000, "two.example");
        let frames = [one.to_vec(), vec![segment("R", end, b"")], two.to_vec()].concat();
        assert_eq!(names(&frames), [Some("one.example".into()), Some("two.example".into())]);
    }
}
