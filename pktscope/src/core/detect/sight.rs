//! What a detector is shown: a change, and what it means for the program behind it.

use std::{net::IpAddr, sync::Arc};

use crate::core::{
    baseline::{LabelId, ProgramId, Steady},
    effect::Ledger,
    event::DnsMessage,
    flow::{ConnState, EndReason, Flow, FlowChange, Transport},
    process::Process,
};

/// Ports of DNS, multicast DNS and LLMNR: questions to a resolver are not a destination.
const RESOLVER_PORTS: [u16; 3] = [53, 5353, 5355];
/// IP and TCP headers with time stamps: a TCP packet above it carries data.
const TCP_HEADER_BYTES: u64 = 60;
/// Fixed seeds, so that the same input gives the same keys.
const KEYS: ahash::RandomState = ahash::RandomState::with_seeds(0x7069, 0x6e67, 0x7363, 0x6f70);

/// Who acts: a program, or one process of it where the program is an interpreter whose script is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actor {
    /// The program.
    pub program: ProgramId,
    /// The process; 0 where the program is identity enough.
    pub pid: u32,
}

/// Whom a flow goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Registrable domain, else address.
    pub name: Arc<str>,
    /// The same as a number; of an address with its port.
    pub key: u64,
    /// Whether it is a name.
    pub is_named: bool,
    /// Whether the address is private, local or link-local.
    pub is_private: bool,
    /// Whether it is a resolver's port.
    pub is_resolver: bool,
}

/// What was carried since the last change of the flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Bytes from source to destination.
    pub sent: u64,
    /// Bytes from destination to source.
    pub received: u64,
    /// Packets, both ways.
    pub packets: u64,
    /// Payload bytes from source to destination; all bytes where the flow does not tell payload.
    pub payload: u64,
}

impl Delta {
    /// Adds what was carried later.
    pub fn add(&mut self, later: Self) {
        self.sent += later.sent;
        self.received += later.received;
        self.packets += later.packets;
        self.payload += later.payload;
    }
}

/// How a contact went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Not yet known.
    #[default]
    Pending,
    /// Data was exchanged.
    Answered,
    /// Connected, without data so far or at all.
    Opened,
    /// Refused, or never answered.
    Failed,
    /// A datagram without an answer.
    Silent,
}

/// What a flow is the first of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Novelty {
    /// The program's first egress.
    pub is_first_egress: bool,
    /// The program never met this destination.
    pub is_new_label: bool,
    /// The program whose name this one took over met it.
    pub is_predecessors: bool,
    /// Whether new destinations of the program are learned without a word.
    pub is_learning: bool,
    /// The program never met this country.
    pub is_new_country: bool,
    /// The program never met this AS.
    pub is_new_as: bool,
}

/// A change of an egress flow with a program.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// The change.
    pub change: &'a FlowChange,
    /// When it was reported.
    pub now: Steady,
    /// When the flow's last packet was.
    pub seen: Steady,
    /// When the flow was reported before.
    pub before: Option<Steady>,
    /// Whose it is.
    pub actor: Actor,
    /// Whether a program owns it, or a host of a capture.
    pub is_owned: bool,
    /// Whom it goes to.
    pub destination: &'a Destination,
    /// The destination's label; `None` until the program met it.
    pub label: Option<LabelId>,
    /// Carried since the last change.
    pub delta: Delta,
    /// Carried since the last change that had a label; nothing while there is none.
    pub labelled: Delta,
    /// How the contact went.
    pub outcome: Outcome,
    /// Whether that became final with this change.
    pub is_decided: bool,
    /// What it is the first of; once in a flow's life.
    pub novelty: Option<Novelty>,
}

impl Sight<'_> {
    /// The flow as it stands.
    pub fn flow(&self) -> &Arc<Flow> {
        &self.change.flow
    }

    /// Whether this is the flow's first change.
    pub fn is_first(&self) -> bool {
        self.before.is_none()
    }
}

/// A DNS answer.
#[derive(Clone, Copy, Debug)]
pub struct DnsSight<'a> {
    /// The message.
    pub message: &'a DnsMessage,
    /// When.
    pub now: Steady,
    /// Who asked, where known.
    pub actor: Option<Actor>,
}

/// A program that has egress, with what is known of its image now.
#[derive(Clone, Copy, Debug)]
pub struct ProgramSight<'a> {
    /// Which.
    pub program: ProgramId,
    /// The process that runs it.
    pub process: &'a Arc<Process>,
    /// When.
    pub now: Steady,
    /// Its last egress before.
    pub last_seen: Steady,
}

/// A closed interval of the ledger.
#[derive(Clone, Copy, Debug)]
pub struct LedgerSight<'a> {
    /// What the interfaces carried, and who explains it.
    pub ledger: &'a Ledger,
    /// When.
    pub now: Steady,
}

impl Destination {
    /// Whom a flow goes to, by what is known of it now.
    pub fn of(flow: &Flow) -> Self {
        let addr = flow.destination.addr;
        let port = flow.destination.port;
        let is_resolver = flow.transport != Transport::ICMP && RESOLVER_PORTS.contains(&port);
        let (name, key, is_named) = match &flow.domain {
            Some(domain) if !is_resolver => (domain.registrable.clone(), KEYS.hash_one(&*domain.registrable), true),
            _ => (addr.to_string().into(), KEYS.hash_one((addr, port)), false),
        };
        Self { name, key, is_named, is_private: is_private(addr), is_resolver }
    }
}

/// A number for a text, the same in every run.
pub fn text_key(text: &str) -> u64 {
    KEYS.hash_one(text)
}

/// A number for a host and port, the same in every run.
pub fn target_key(addr: IpAddr, port: u16) -> u64 {
    KEYS.hash_one((addr, port))
}

/// Whether an address is not on the public Internet.
pub fn is_private(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => {
            let is_shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64; // RFC 6598
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_unspecified()
                || is_shared
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.is_unspecified()
        }
    }
}

impl Outcome {
    /// How a flow's contact went so far.
    pub fn of(flow: &Flow) -> Self {
        if flow.transport == Transport::TCP { Self::of_tcp(flow) } else { Self::of_datagrams(flow) }
    }

    /// Whether the other side took part.
    pub fn is_contact(self) -> bool {
        matches!(self, Self::Answered | Self::Opened)
    }

    fn of_tcp(flow: &Flow) -> Self {
        if has_tcp_data(flow) {
            return Self::Answered;
        }
        let is_over = flow.ended.is_some();
        match is_established(flow) {
            true => Self::Opened,
            false if is_over && is_forced(flow) => Self::Pending,
            false if is_over => Self::Failed,
            false => Self::Pending,
        }
    }

    fn of_datagrams(flow: &Flow) -> Self {
        match flow.received.packets {
            0 if flow.ended.is_some() => Self::Silent,
            0 => Self::Pending,
            _ => Self::Answered,
        }
    }
}

/// An end that says nothing of the other side.
fn is_forced(flow: &Flow) -> bool {
    matches!(flow.ended, Some((_, EndReason::ForcedEnd | EndReason::LackOfResources | EndReason::ActiveTimeout)))
}

fn has_tcp_data(flow: &Flow) -> bool {
    if flow.sent.payload_bytes > 0 || flow.received.payload_bytes > 0 {
        return true;
    }
    let carried = flow.sent.ip_bytes + flow.received.ip_bytes;
    match &flow.tcp {
        Some(tcp) if !tcp.history.is_empty() => carried > 0 && tcp.history.contains(['D', 'd']),
        _ => carried > TCP_HEADER_BYTES * (flow.sent.packets + flow.received.packets) && flow.received.packets > 0,
    }
}

fn is_established(flow: &Flow) -> bool {
    let Some(tcp) = &flow.tcp else { return flow.received.packets >= 2 };
    let by_state = matches!(
        tcp.conn_state,
        ConnState::S1 | ConnState::SF | ConnState::S2 | ConnState::S3 | ConnState::RSTO | ConnState::RSTR
    );
    by_state || tcp.history.contains(['h', 'A']) || (tcp.history.is_empty() && flow.received.packets >= 2)
}
