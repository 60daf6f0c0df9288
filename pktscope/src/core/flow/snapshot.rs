//! What leaves a tracker: a flow without what later stages add to it.

use std::sync::Arc;

use super::{
    Attribution, ClientHello, Direction, Domain, EndReason, Endpoint, Flow, FlowAction, FlowId, Geo, Method, TcpEvent,
    TcpSummary, Transport, UnknownReason, Volume,
};
use crate::core::{event::Stamp, packet::Packet, time::BootTime};

/// Whose a flow is, as far as the kernel said: stamps, not yet processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// A capture has no processes.
    Capture,
    /// A process's socket.
    Socket(SocketOwner),
    /// The kernel's own packets.
    Kernel,
}

/// The stamps of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOwner {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// The last process seen using it.
    pub user: Option<Stamp>,
    /// The process that made it.
    pub creator: Option<Stamp>,
    /// How `user` is known.
    pub method: Method,
    /// Why nobody is named, where neither is.
    pub unknown: Option<UnknownReason>,
    /// Whether several processes held it and none was seen sending.
    pub is_shared: bool,
}

/// A flow as a tracker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowSnapshot {
    /// Its number.
    pub id: FlowId,
    /// IP protocol.
    pub transport: Transport,
    /// The initiator.
    pub source: Endpoint,
    /// The responder.
    pub destination: Endpoint,
    /// ICMP type and code of the first message.
    pub icmp: Option<(u8, u8)>,
    /// Seen from this host.
    pub direction: Direction,
    /// From source to destination.
    pub sent: Volume,
    /// From destination to source.
    pub received: Volume,
    /// First packet.
    pub started_at: BootTime,
    /// Last packet known of.
    pub last_seen: BootTime,
    /// When and why it ended.
    pub ended: Option<(BootTime, EndReason)>,
    /// Whose it is.
    pub ownership: Ownership,
    /// TCP only.
    pub tcp: Option<TcpSummary>,
}

impl FlowSnapshot {
    /// The flow, with what the later stages know.
    pub fn into_flow(
        self,
        attribution: Attribution,
        domain: Option<Domain>,
        geo: Geo,
        tls: Option<Arc<ClientHello>>,
    ) -> Flow {
        Flow {
            id: self.id,
            transport: self.transport,
            source: self.source,
            destination: self.destination,
            icmp: self.icmp,
            direction: self.direction,
            sent: self.sent,
            received: self.received,
            started_at: self.started_at,
            last_seen: self.last_seen,
            ended: self.ended,
            attribution,
            domain,
            geo,
            tcp: self.tcp,
            tls,
        }
    }
}

/// Who sent a packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The initiator.
    Source,
    /// The responder.
    Destination,
}

/// A captured packet, as a part of its flow.
#[derive(Clone, Copy, Debug)]
pub struct FlowPacket<'a> {
    /// Its flow.
    pub flow: FlowId,
    /// Its place in the flow, from 1; both sides are counted together.
    pub number: u64,
    /// Who sent it.
    pub side: Side,
    /// When.
    pub at: BootTime,
    /// The packet.
    pub packet: &'a Packet<'a>,
}

/// Receives what a tracker finds out, in order: a flow's start, its packets' payloads and TCP's steps, updates, its end.
///
/// `user` is the flow's own state of the caller, made by `Default` when it starts and dropped after its end.
pub trait Observer<U> {
    /// A flow started, grew or ended.
    fn change(&mut self, action: FlowAction, at: BootTime, flow: FlowSnapshot, user: &mut U);

    /// Whether a flow whose socket is closed at its first report may be told once it is over, as [`FlowAction::Whole`],
    /// instead of at once and again.
    fn takes_whole(&self) -> bool {
        false
    }

    /// Whether a captured packet's payload is wanted, by its place in the flow as in [`FlowPacket::number`].
    fn takes_payload(&self, _number: u64, _side: Side, _packet: &Packet<'_>) -> bool {
        true
    }

    /// A captured packet with payload.
    fn payload(&mut self, _packet: &FlowPacket<'_>) {}

    /// A TCP connection was established, half-closed, closed or reset.
    fn tcp(&mut self, _flow: FlowId, _event: TcpEvent, _at: BootTime, _user: &mut U) {}
}

impl<U> Observer<U> for Vec<(FlowAction, FlowSnapshot)> {
    fn change(&mut self, action: FlowAction, _at: BootTime, flow: FlowSnapshot, _user: &mut U) {
        self.push((action, flow));
    }
}

/// Wants nothing: for measurements.
impl<U> Observer<U> for () {
    fn change(&mut self, _action: FlowAction, _at: BootTime, _flow: FlowSnapshot, _user: &mut U) {}
}
