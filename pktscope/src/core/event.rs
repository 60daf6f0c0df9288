//! What the kernel, a capture or a recording reported, typed: the inputs of the core.

use std::{net::IpAddr, sync::Arc};

use super::{
    effect::Ledger,
    flow::{ClientHello, Direction, DomainSource, Endpoint, FlowChange, Geo, Method, Transport, UnknownReason, Volume},
    ledger::{Growth, LedgerClass},
    process::{FileId, ImageHash, Package, Process, ProcessKey, Script},
    time::BootTime,
};

/// One input of [`super::pipeline::Pipeline::step`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A process that was there before the agent.
    Running(Running),
    /// A process ran a new image.
    Exec(Exec),
    /// A process was forked.
    Fork(Fork),
    /// The last thread of a process exited.
    Exit(Exit),
    /// A socket's state: at its end, or as it stood at a sweep.
    Socket(SocketReport),
    /// First payload bytes of a flow, or a DNS payload: what [`super::dissect`] makes [`Event::Dns`] and
    /// [`Event::ServerName`] of.
    Payload(Payload),
    /// A message of DNS, mDNS or LLMNR seen on the wire.
    Dns(DnsMessage),
    /// A destination's name found in a flow's first bytes.
    ServerName(ServerName),
    /// The answer to an [`super::effect::Lookup`].
    Answer(Answer),
    /// A flow of a recording, already complete.
    RecordedFlow(FlowChange),
    /// What a recording tells of a process, when it became known.
    RecordedProcess(Arc<Process>),
    /// A DNS answer of a recording: its question is not there, and names stand in the flows.
    RecordedDns(DnsMessage),
    /// A closed interval of a recording's ledger.
    RecordedLedger(Ledger),
    /// A sweep of all sockets is complete: sockets it did not report are gone.
    SweepDone(BootTime),
    /// The addresses of the agent's network namespace, when they may have changed.
    OwnAddresses(Vec<IpAddr>),
    /// Bytes that no socket of ours explains, or the interfaces' own counters: input of the ledger.
    Ledger(LedgerReading),
}

/// A process that was there before the agent, as `/proc` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Who; the start time is exact to the tick of 10 ms that `/proc` gives.
    pub key: ProcessKey,
    /// Its parent, where it has one.
    pub parent: Option<ProcessKey>,
    /// Effective user, where it could be read.
    pub uid: Option<u32>,
    /// The kernel's name for it.
    pub comm: Arc<str>,
    /// Absolute path of the image; empty where it could not be read.
    pub executable: Arc<str>,
    /// Device and inode of the image.
    pub file: Option<FileId>,
    /// Arguments.
    pub arguments: Vec<Arc<str>>,
    /// Whether it is a thread of the kernel, which has no image.
    pub is_kernel_thread: bool,
}

/// A process ran a new image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// Who.
    pub key: ProcessKey,
    /// When.
    pub at: BootTime,
    /// Its parent.
    pub parent: ProcessKey,
    /// Effective user.
    pub uid: u32,
    /// cgroup2 id.
    pub cgroup_id: u64,
    /// The kernel's name for it.
    pub comm: Arc<str>,
    /// The path given to `execve`; may be relative.
    pub filename: Arc<str>,
    /// The same as the kernel has it, where it is not UTF-8.
    pub raw_filename: Option<Arc<[u8]>>,
    /// Device and inode of the image.
    pub file: FileId,
    /// Device and inode of its working directory, where known.
    pub folder: Option<FileId>,
    /// The last part of the image's own path, or what a file in memory is called (`memfd:NAME`); empty where it has 32 bytes
    /// or more.
    pub image_name: Arc<str>,
    /// Arguments, as far as they fit the record.
    pub arguments: Vec<Arc<str>>,
    /// Whether the record had room for all arguments.
    pub has_all_arguments: bool,
}

/// A process was forked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The child.
    pub key: ProcessKey,
    /// When.
    pub at: BootTime,
    /// The parent.
    pub parent: ProcessKey,
    /// Effective user.
    pub uid: u32,
    /// cgroup2 id.
    pub cgroup_id: u64,
    /// The kernel's name for it.
    pub comm: Arc<str>,
}

/// The last thread of a process exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Who.
    pub key: ProcessKey,
    /// When.
    pub at: BootTime,
    /// Wait status as in `wait(2)`.
    pub status: i32,
}

/// A process stamped on a socket, in process context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Who.
    pub key: ProcessKey,
    /// Effective user at that time.
    pub uid: u32,
    /// cgroup2 id.
    pub cgroup_id: u64,
}

/// Who opened a socket's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Opening {
    /// This socket connected or sent first.
    #[default]
    Active,
    /// This socket was accepted, or received first.
    Passive,
}

/// Which packets a report counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketScope {
    /// The socket's connection, or an unconnected socket's first peer.
    Primary,
    /// Another peer of an unconnected socket, or a handshake seen by a listener.
    Peer,
    /// Peers that found the peer table full: totals only, the tuple is unspecified.
    Overflow,
    /// A kernel socket's packets, after or beside any process's socket.
    Kernel,
    /// What TIME_WAIT sent and received for a connection whose socket is gone: the connection's, or nobody's.
    TimeWait,
    /// IP packets that a packet socket sent as frames.
    Frames,
    /// Frames of a packet socket that hold no IP packet: for the ledger only, the tuple is unspecified.
    NotIp,
}

/// What a TCP socket knew at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcpReport {
    /// `sk_state` when the process closed it, or now (include/net/tcp_states.h); 0 where not known.
    pub state: u8,
    /// Whether the handshake was completed.
    pub is_established: bool,
    /// `sk_err`: 0, or an errno such as ECONNRESET, ECONNREFUSED, ETIMEDOUT.
    pub error: u16,
    /// Segments retransmitted by this side.
    pub retransmitted: u32,
    /// Smoothed round trip in microseconds; 0 where not known.
    pub srtt_us: u32,
    /// Whether the other side's FIN was received before the socket ended.
    pub has_fin_received: bool,
    /// Whether the other side reset the connection.
    pub is_reset_received: bool,
    /// Whether this side reset the connection.
    pub is_reset_sent: bool,
}

/// A socket's flow, as the kernel counts it: totals so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketReport {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// The network namespace's cookie; 0 where not known.
    pub netns: u64,
    /// What the report counts.
    pub scope: SocketScope,
    /// When the report was taken.
    pub at: BootTime,
    /// First packet.
    pub started_at: BootTime,
    /// Whether the socket, or this peer of it, is over.
    pub is_closed: bool,
    /// IP protocol.
    pub transport: Transport,
    /// This side.
    pub local: Endpoint,
    /// The other side.
    pub remote: Endpoint,
    /// ICMP type and code of the first message.
    pub icmp: Option<(u8, u8)>,
    /// Who opened it.
    pub opening: Opening,
    /// Interface of the first packet; 0 where not known.
    pub interface: u32,
    /// The last process seen using it.
    pub user: Option<Stamp>,
    /// The process that made it.
    pub creator: Option<Stamp>,
    /// How `user` is known.
    pub method: Method,
    /// Why nobody is named, where neither `user` nor `creator` is.
    pub unknown: Option<UnknownReason>,
    /// Whether several processes held it and none was seen sending.
    pub is_shared: bool,
    /// Sent by this side.
    pub sent: Volume,
    /// Received by this side.
    pub received: Volume,
    /// Of `sent.ip_bytes`, `received.ip_bytes`: headers that segmentation offload added after, or joined before, the
    /// point of counting.
    pub segment_header_bytes: [u64; 2],
    /// TCP only.
    pub tcp: Option<TcpReport>,
}

/// Ties a DNS message or a server name to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowRef {
    /// The socket's cookie; 0 in a capture.
    pub cookie: u64,
    /// IP protocol.
    pub transport: Transport,
    /// Sender of the packet.
    pub source: Endpoint,
    /// Receiver of the packet.
    pub destination: Endpoint,
}

/// A packet's payload above TCP or UDP, copied because it may name the flow's destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The packet's flow.
    pub flow: FlowRef,
    /// `Egress` where this host's socket sent it, `Ingress` where it received it.
    pub direction: Direction,
    /// The process using the socket; `None` where nobody is known, and in a capture.
    pub user: Option<Stamp>,
    /// When.
    pub at: BootTime,
    /// TCP sequence number of the first byte; `None` of UDP.
    pub sequence: Option<u32>,
    /// The payload, as far as it was copied.
    pub bytes: Arc<[u8]>,
    /// Payload bytes of the packet that were not copied, all of them after `bytes`.
    pub missing_bytes: u32,
}

/// One record of an answer section that names an address or an alias.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DnsAnswer {
    /// A or AAAA.
    Address {
        /// The record's own name.
        name: Arc<str>,
        /// Its address.
        addr: IpAddr,
        /// Seconds.
        ttl: u32,
    },
    /// CNAME.
    Alias {
        /// The record's own name.
        name: Arc<str>,
        /// What it stands for.
        target: Arc<str>,
        /// Seconds.
        ttl: u32,
    },
    /// Any other type, kept for its size.
    Other {
        /// Type number.
        record_type: u16,
        /// Bytes of record data.
        data_bytes: u32,
    },
}

/// A DNS message, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsMessage {
    /// The packet's flow.
    pub flow: FlowRef,
    /// The process that owns the socket, where one does.
    pub process: Option<Arc<Process>>,
    /// `Egress` where this host's socket sent it, `Ingress` where it received it: on loopback a message is seen both
    /// ways, and a question that came in was asked by somebody else than `process`.
    pub direction: Direction,
    /// When.
    pub at: BootTime,
    /// Transaction id.
    pub id: u16,
    /// Whether it is an answer.
    pub is_response: bool,
    /// Name asked for: lower case, no trailing dot, non-ASCII and control bytes escaped.
    pub question: Arc<str>,
    /// Type asked for, by number.
    pub question_type: u16,
    /// Response code (RFC 1035, RFC 6895).
    pub response_code: u16,
    /// Answer section.
    pub answers: Vec<DnsAnswer>,
    /// Size of the message in bytes.
    pub message_bytes: u32,
}

/// A destination's name found in a flow's first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName {
    /// The flow, source is the client.
    pub flow: FlowRef,
    /// When.
    pub at: BootTime,
    /// The name; `None` where a hello has none.
    pub name: Option<Arc<str>>,
    /// Where it was found.
    pub source: DomainSource,
    /// The hello, of TLS and QUIC.
    pub hello: Option<Arc<ClientHello>>,
}

/// The answer to a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What user space could find out about a process.
    Process(ProcessFacts),
    /// Country and AS of an address.
    Geo(IpAddr, Geo),
}

/// What user space found out about a process; a `None` changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Whom it is about.
    pub key: ProcessKey,
    /// Which of its images: [`super::effect::ProcessLookup::image`] of the question.
    pub image: u32,
    /// The kernel's 16-byte name.
    pub comm: Option<Arc<str>>,
    /// The parent's key.
    pub parent: Option<ProcessKey>,
    /// Effective user.
    pub uid: Option<u32>,
    /// Whether it turned out to be a thread of the kernel.
    pub is_kernel_thread: bool,
    /// Absolute path of the image.
    pub executable: Option<Arc<str>>,
    /// Device and inode of the image.
    pub file: Option<FileId>,
    /// Hash of the image.
    pub hash: Option<ImageHash>,
    /// Owning package.
    pub package: Option<Arc<Package>>,
    /// Script, where the executable is an interpreter.
    pub script: Option<Arc<Script>>,
    /// Arguments joined by a space.
    pub command_line: Option<Arc<str>>,
    /// Name of the user.
    pub user: Option<Arc<str>>,
    /// Container id.
    pub container_id: Option<Arc<str>>,
    /// Container image.
    pub container_image: Option<Arc<str>>,
    /// cgroup2 path below its mount.
    pub cgroup_path: Option<Arc<str>>,
    /// What could not be taken and why.
    pub missing: Option<Arc<str>>,
}

/// One interface's own counters around a sweep, in IP-layer bytes since the interface came up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceReading {
    /// Interface index in the agent's network namespace.
    pub index: u32,
    /// Sent, received: whether it counts what goes on the wire after segmentation, or super-packets once.
    pub has_wire_segments: [bool; 2],
    /// Sent and received just before the sockets were swept.
    pub before: [u64; 2],
    /// Sent and received just after.
    pub after: [u64; 2],
}

/// A device whose packets leave by an interface in scope, with no IP header added on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackedInterface {
    /// Interface index in the agent's network namespace.
    pub index: u32,
    /// As of the interface below.
    pub has_wire_segments: [bool; 2],
}

/// What a device has carried that no inet socket of this host sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnownedReading {
    /// Interface index in the agent's network namespace.
    pub interface: u32,
    /// Whose it is.
    pub class: LedgerClass,
    /// All of it, since the device was first seen.
    pub total: Growth,
}

/// Readings for the ledger, taken at the close of an interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerReading {
    /// When.
    pub at: BootTime,
    /// The interfaces in scope: each wire once, stacked devices left out.
    pub interfaces: Vec<InterfaceReading>,
    /// Devices stacked on those (bond, bridge, VLAN …): sockets that use them reach an interface in scope.
    pub stacked: Vec<StackedInterface>,
    /// What devices carried that no inet socket of this host sent, in all.
    pub unowned: Vec<UnownedReading>,
    /// Records lost since the agent started, by place.
    pub lost: Vec<(&'static str, u64)>,
}
