//! A capture's packets: through the packet tracker, their first bytes through the dissector.

use std::sync::Arc;

use super::{Change, Pipeline};
use crate::core::{
    effect::Effect,
    event::{Event, FlowRef, Payload, ServerName},
    flow::{Direction, EndReason, FlowAction, FlowId, FlowKey, FlowPacket, FlowSnapshot, Observer, Side, Transport},
    packet::{Detail, Packet},
    time::{BootTime, Moment},
};

/// The packets of a flow among which a client's are looked at for a server name: a handshake, then a post-quantum hello
/// in segments of 536 bytes with their acknowledgements, take fewer.
const MAX_INSPECTED: u64 = 24;

/// Flows of a capture ended in one step: their changes, about 2 KiB each while they are told, stay in the processor's
/// cache.
const FINISHED_AT_ONCE: usize = 64;

/// What the packet tracker keeps for the pipeline with each flow: the server name found in its first bytes.
pub(super) type CaptureNotes = Option<Arc<ServerName>>;

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
}

impl Observer<CaptureNotes> for Captured {
    fn change(&mut self, action: FlowAction, at: BootTime, snapshot: FlowSnapshot, server_name: &mut CaptureNotes) {
        self.changes.push(Change { action, at, snapshot, server_name: server_name.clone(), domain: None });
    }

    fn takes_payload(&self, number: u64, side: Side, packet: &Packet<'_>) -> bool {
        (number <= MAX_INSPECTED && side == Side::Source) || is_dns(packet)
    }

    fn payload(&mut self, of: &FlowPacket<'_>) {
        self.payloads.push(Inspected { flow: of.flow, payload: payload_of(of) });
    }
}

/// Whether either port is DNS's, mDNS's or LLMNR's.
fn is_dns(packet: &Packet<'_>) -> bool {
    packet.has_port(53) || packet.has_port(5353) || packet.has_port(5355)
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
        self.changes.list.append(&mut self.captured.changes);
        self.complete_changes(now, effects);
    }

    fn inspect(&mut self, inspected: &Inspected, now: Moment, effects: &mut Vec<Effect>) {
        let mut found = std::mem::take(&mut self.dissected);
        self.dissector.observe(&inspected.payload, &mut found);
        for event in found.drain(..) {
            match event {
                Event::ServerName(name) => self.note_captured_name(inspected.flow, &Arc::new(name)),
                Event::Dns(mut message) => {
                    message.flow.cookie = NO_SOCKET;
                    self.on_dns(message, now, effects);
                }
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
        self.packets.with_user(&key, flow, |known| *known = Some(name.clone()));
        for change in self.captured.changes.iter_mut().filter(|change| change.snapshot.id == flow) {
            change.server_name = Some(name.clone());
        }
    }

    /// Ends some of a capture's flows; whether there are more. To be called before [`Self::finish`] where all at once
    /// would take too much memory.
    pub fn finish_some_captured(&mut self, now: Moment, effects: &mut Vec<Effect>) -> bool {
        let has_more = self.packets.finish_some(FINISHED_AT_ONCE, EndReason::ForcedEnd, &mut self.captured);
        self.complete_captured(now, effects);
        has_more
    }
}

/// The cookie of a capture's messages once they are read.
const NO_SOCKET: u64 = 0;

/// For the dissector the flow's number stands for its socket, so that it takes no two flows between the same ends for one.
fn payload_of(of: &FlowPacket<'_>) -> Payload {
    let packet = of.packet;
    let sequence = match &packet.detail {
        Detail::Tcp(tcp) if packet.transport() == Transport::TCP => Some(tcp.sequence),
        _ => None,
    };
    let captured = u32::try_from(packet.payload.len()).unwrap_or(u32::MAX);
    Payload {
        flow: FlowRef {
            cookie: of.flow.0,
            transport: packet.transport(),
            source: packet.source(),
            destination: packet.destination(),
        },
        direction: Direction::Egress,
        user: None,
        at: of.at,
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
