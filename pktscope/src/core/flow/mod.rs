//! Flows: the type every later stage works on, and the tracker that makes it from packets or socket reports.

mod clock;
mod expiry;
mod history;
mod index;
mod key;
mod names;
mod settings;
mod snapshot;
mod socket_tcp;
mod sockets;
mod table;
mod tcp;
mod tracker;

pub use key::{End, FlowKey};
pub(crate) use key::{has_ports, icmp_ports, icmp_question, v4_words, v6_words};
pub use settings::{FlowSettings, FlowStatistics};
pub use snapshot::{FlowPacket, FlowSnapshot, Observer, Ownership, Side, SocketOwner};
pub use sockets::{Counted, SocketTracker};
pub use tcp::TcpEvent;
pub use tracker::{BATCH, Tracker};

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{
    process::{Process, ProcessKey},
    time::BootTime,
};

/// An IP protocol number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Transport(pub u8);

impl Transport {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite.
    pub const UDPLITE: Self = Self(136);

    /// The name ECS uses in `network.transport`; `None` where it has none.
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "icmp",
            2 => "igmp",
            4 => "ipip",
            6 => "tcp",
            17 => "udp",
            33 => "dccp",
            41 => "ipv6",
            47 => "gre",
            50 => "esp",
            51 => "ah",
            58 => "ipv6-icmp",
            89 => "ospf",
            132 => "sctp",
            136 => "udplite",
            _ => return None,
        })
    }
}

/// An address and a port; port 0 where the transport has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// IPv4 or IPv6 address; v4-mapped addresses are held as IPv4.
    pub addr: IpAddr,
    /// Port in host order.
    pub port: u16,
}

/// What went one way: totals so far, never deltas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Volume {
    /// IP-layer bytes on the wire, headers included, segmentation offload undone.
    pub ip_bytes: u64,
    /// Packets on the wire.
    pub packets: u64,
    /// Payload bytes, where the protocol or the socket gives them.
    pub payload_bytes: u64,
}

/// Which side opened the flow, seen from this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// This host opened it.
    #[default]
    Egress,
    /// The other side opened it.
    Ingress,
}

/// Why a flow ended: IPFIX's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// FIN both ways, or the socket was closed.
    EndOfFlow,
    /// RST inside the window, or the socket was reset.
    Reset,
    /// Nothing for the idle time-out.
    IdleTimeout,
    /// Open for longer than the active time-out.
    ActiveTimeout,
    /// The agent is stopping.
    ForcedEnd,
    /// Evicted: the table was full.
    LackOfResources,
}

/// How the owner of a flow is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// It made the socket.
    #[default]
    SocketCreate,
    /// It bound the socket.
    Bind,
    /// It connected the socket.
    Connect,
    /// It sent on the socket.
    Sendmsg,
    /// It received on the socket.
    Recvmsg,
    /// The socket was accepted from a listener that it made.
    Accept,
    /// It held the socket when the agent started.
    Snapshot,
    /// It was the last to hold the socket, which was accepted from a listener that another made.
    Close,
    /// A recording said so.
    Recording,
}

/// Why no process is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnknownReason {
    /// A capture has no processes.
    Capture,
    /// The socket is older than the agent and nobody was found holding it.
    SocketOlderThanAgent,
    /// The record that named the owner was lost.
    RecordLost,
    /// A packet left without a socket and was not forwarded.
    NoSocket,
    /// Several processes hold the socket and none was seen sending.
    Ambiguous,
}

/// The process behind a flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The last process seen sending, else the one that connected, accepted or made the socket.
    pub process: Arc<Process>,
    /// How that is known.
    pub method: Method,
    /// Who made the socket, where that is another process.
    pub creator: Option<ProcessKey>,
    /// Why the name may be wrong, where several processes share the socket.
    pub ambiguity: Option<Arc<str>>,
}

/// Whose a flow is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attribution {
    /// A process.
    Process(Owner),
    /// The kernel itself: replies, tunnels' outer packets, in-kernel sockets.
    Kernel,
    /// Nobody can be named.
    Unknown(UnknownReason),
}

/// Where a destination's name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DomainSource {
    /// A DNS answer to a question this host asked.
    DnsAnswer,
    /// The server name of a TLS ClientHello.
    TlsSni,
    /// The server name inside a QUIC Initial packet.
    QuicSni,
    /// An HTTP/1 Host header.
    HttpHost,
}

/// A destination's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Domain {
    /// Lower case, without the trailing dot.
    pub name: Arc<str>,
    /// eTLD+1 by the Public Suffix List; the name itself where it has none.
    pub registrable: Arc<str>,
    /// Where it comes from.
    pub source: DomainSource,
    /// When it was learned.
    pub learned_at: BootTime,
    /// How many names the address stood for at that time, this one included: 1 where the name is certain.
    pub candidates: u32,
    /// Another source's different name, kept beside it.
    pub disagreeing: Option<(Arc<str>, DomainSource)>,
}

/// Country and autonomous system of an address, where databases are given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Geo {
    /// ISO 3166-1 alpha-2.
    pub country: Option<[u8; 2]>,
    /// AS number.
    pub as_number: Option<u32>,
    /// AS organisation.
    pub as_organization: Option<Arc<str>>,
}

/// What a ClientHello said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientHello {
    /// Server name; the outer one where the hello is encrypted.
    pub server_name: Option<Arc<str>>,
    /// Application protocols offered, in order.
    pub alpn: Vec<Arc<str>>,
    /// JA4 fingerprint.
    pub ja4: Arc<str>,
    /// Whether the hello carries an encrypted inner hello (ECH), so that `server_name` is only the outer name.
    pub has_encrypted_hello: bool,
}

/// Zeek's conn_state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are Zeek's; see zeek's base/protocols/conn/main.zeek")]
pub enum ConnState {
    S0,
    S1,
    SF,
    REJ,
    S2,
    S3,
    RSTO,
    RSTR,
    RSTOS0,
    RSTRH,
    SH,
    SHR,
    OTH,
}

impl ConnState {
    /// Zeek's spelling.
    pub fn name(self) -> &'static str {
        match self {
            Self::S0 => "S0",
            Self::S1 => "S1",
            Self::SF => "SF",
            Self::REJ => "REJ",
            Self::S2 => "S2",
            Self::S3 => "S3",
            Self::RSTO => "RSTO",
            Self::RSTR => "RSTR",
            Self::RSTOS0 => "RSTOS0",
            Self::RSTRH => "RSTRH",
            Self::SH => "SH",
            Self::SHR => "SHR",
            Self::OTH => "OTH",
        }
    }
}

/// What is known of a TCP connection beyond its totals.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TcpSummary {
    /// Zeek's history letters.
    pub history: Arc<str>,
    /// Zeek's conn_state.
    pub conn_state: ConnState,
    /// Segments retransmitted by the source, and by the destination; a socket knows its own.
    pub retransmitted: [Option<u64>; 2],
    /// Segments out of order from the source, and from the destination; of packets only.
    pub out_of_order: Option<[u64; 2]>,
    /// Bytes missing from the source's stream, and from the destination's; of packets only.
    pub gap_bytes: Option<[u64; 2]>,
    /// Round trip seen in the handshake; of packets only.
    pub handshake_rtt: Option<Duration>,
    /// Round trip as the socket last smoothed it (RFC 6298); of sockets only.
    pub smoothed_rtt: Option<Duration>,
}

/// A flow's identifier, the same in every event of the flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u64);

/// A flow as it stands: what every stage after the tracker works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Unique within a state directory.
    pub id: FlowId,
    /// IP protocol.
    pub transport: Transport,
    /// The initiator.
    pub source: Endpoint,
    /// The responder.
    pub destination: Endpoint,
    /// ICMP type and code of the first message, for protocols that have them.
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
    pub attribution: Attribution,
    /// The destination's name.
    pub domain: Option<Domain>,
    /// The destination's country and AS.
    pub geo: Geo,
    /// TCP only.
    pub tcp: Option<TcpSummary>,
    /// What the ClientHello said.
    pub tls: Option<Arc<ClientHello>>,
}

impl Flow {
    /// The owning process, where one is named.
    pub fn process(&self) -> Option<&Arc<Process>> {
        match &self.attribution {
            Attribution::Process(owner) => Some(&owner.process),
            Attribution::Kernel | Attribution::Unknown(_) => None,
        }
    }
}

/// A step of a flow's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowAction {
    /// First seen.
    Started,
    /// Grew, changed state, or got its name.
    Updated,
    /// Over.
    Ended,
    /// First seen and over, told at once: stands for [`Self::Started`] and [`Self::Ended`] of a flow whose socket was
    /// closed when it was first reported.
    Whole,
}

/// A flow and what just happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowChange {
    /// What happened.
    pub action: FlowAction,
    /// When.
    pub at: BootTime,
    /// The flow as it stands.
    pub flow: Arc<Flow>,
}
