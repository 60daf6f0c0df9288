//! Kernel record bytes to [`super::event::Event`]; a torn, short or unknown record is a counted error.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use pktscope_common::{
    limits::{ARGUMENTS_BYTES, COMM_BYTES, FILENAME_BYTES, IMAGE_NAME_BYTES},
    record::{RECORD_VERSION, RecordKind},
    state::{self, Counts, PeerKey, PeerState, Tuple, flags, method},
};

use super::{
    event::{Event, Exec, Exit, FlowRef, Fork, Opening, Payload, SocketReport, SocketScope, Stamp, TcpReport},
    flow::{Direction, Endpoint, Method, Transport, UnknownReason, Volume},
    process::{FileId, ProcessKey},
    time::BootTime,
};

/// Why a record is not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its kind needs, or than it says it is.
    #[error("the record is cut short")]
    TooShort,
    /// Of a kind that is not known.
    #[error("the record is of an unknown kind")]
    UnknownKind,
    /// Of another version than this program's.
    #[error("the record is of another version")]
    UnknownVersion,
}

/// Bits of the kernel's device numbers (include/linux/kdev_t.h, `MINORBITS`).
const MINOR_BITS: u32 = 20;

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Something for the pipeline.
    Event(Event),
    /// The end of a TCP socket whose connection TIME_WAIT goes on with: a [`Record::Lingered`] may follow.
    Lingering(SocketReport),
    /// What TIME_WAIT sent and received.
    Lingered(SocketReport),
}

/// Reads a record of the ring buffer.
///
/// # Errors
/// [`DecodeError`] where the bytes are no whole record of a known kind and version.
pub fn record(bytes: &[u8]) -> Result<Record, DecodeError> {
    let mut reader = Reader(bytes);
    let (kind, version, size) = (reader.u16()?, reader.u16()?, reader.u32()?);
    let at = BootTime(reader.u64()?);
    if version != RECORD_VERSION {
        return Err(DecodeError::UnknownVersion);
    }
    // The ring rounds lengths up to 8 bytes.
    let body =
        (size as usize).checked_sub(16).and_then(|length| reader.0.get(..length)).ok_or(DecodeError::TooShort)?;
    let reader = Reader(body);
    match kind {
        _ if kind == RecordKind::SocketOpen as u16 => socket(reader, at, IsClosed::No),
        _ if kind == RecordKind::SocketEnd as u16 => socket(reader, at, IsClosed::Yes),
        _ if kind == RecordKind::Exec as u16 => exec(reader, at).map(Record::Event),
        _ if kind == RecordKind::Fork as u16 => fork(reader, at).map(Record::Event),
        _ if kind == RecordKind::Exit as u16 => exit(reader, at).map(Record::Event),
        _ if kind == RecordKind::Payload as u16 => payload(reader, at).map(Record::Event),
        _ if kind == RecordKind::Linger as u16 => lingered(reader, at),
        _ => Err(DecodeError::UnknownKind),
    }
}

/// Whether a report is its socket's last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsClosed {
    /// More may follow.
    No,
    /// The socket, or this peer of it, is over.
    Yes,
}

/// What is left of a record.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(DecodeError::TooShort)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_ne_bytes)
    }

    fn stamp(&mut self) -> Result<state::Stamp, DecodeError> {
        let (started_at, cgroup_id) = (self.u64()?, self.u64()?);
        Ok(state::Stamp { started_at, cgroup_id, pid: self.u32()?, uid: self.u32()? })
    }

    fn counts(&mut self) -> Result<Counts, DecodeError> {
        Ok(Counts {
            sent_bytes: self.u64()?,
            sent_packets: self.u64()?,
            sent_header_bytes: self.u64()?,
            received_bytes: self.u64()?,
            received_packets: self.u64()?,
            received_header_bytes: self.u64()?,
        })
    }

    fn tuple(&mut self) -> Result<Tuple, DecodeError> {
        Ok(Tuple {
            local_addr: self.array()?,
            remote_addr: self.array()?,
            local_port: self.array()?,
            remote_port: self.array()?,
            protocol: self.u8()?,
            icmp_type: self.u8()?,
            icmp_code: self.u8()?,
            reserved: self.u8()?,
        })
    }

    /// Text in a field of `N` bytes, up to its first zero.
    fn text<const N: usize>(&mut self) -> Result<Arc<str>, DecodeError> {
        let bytes: [u8; N] = self.array()?;
        Ok(lossy(bytes.split(|&byte| byte == 0).next().unwrap_or_default()))
    }
}

fn lossy(bytes: &[u8]) -> Arc<str> {
    String::from_utf8_lossy(bytes).into()
}

fn endpoint(addr: [u8; 16], port: [u8; 2]) -> Endpoint {
    let addr = Ipv6Addr::from(addr);
    Endpoint { addr: addr.to_ipv4_mapped().map_or(IpAddr::V6(addr), IpAddr::V4), port: u16::from_be_bytes(port) }
}

fn key(stamp: &state::Stamp) -> ProcessKey {
    ProcessKey { pid: stamp.pid, started_at: BootTime(stamp.started_at) }
}

fn owner(stamp: &state::Stamp) -> Option<Stamp> {
    (stamp.pid != 0).then(|| Stamp { key: key(stamp), uid: stamp.uid, cgroup_id: stamp.cgroup_id })
}

fn socket(mut reader: Reader<'_>, at: BootTime, is_closed: IsClosed) -> Result<Record, DecodeError> {
    let (cookie, netns, started_at) = (reader.u64()?, reader.u64()?, BootTime(reader.u64()?));
    let (counts, tuple) = (reader.counts()?, reader.tuple()?);
    let (user, creator) = (reader.stamp()?, reader.stamp()?);
    let payload = [reader.u64()?, reader.u64()?];
    let (retransmitted, srtt_us) = (reader.u32()?, reader.u32()?);
    let (interface, flags) = (reader.u32()?, reader.u32()?);
    let (error, tcp_state, method) = (reader.u16()?, reader.u8()?, reader.u8()?);
    let about = About { cookie, netns, started_at, interface, flags, method, icmp: [tuple.icmp_type, tuple.icmp_code] };
    let mut report = report(&about, &tuple, &counts, [&user, &creator]);
    report.at = at;
    report.is_closed = is_closed == IsClosed::Yes;
    if report.transport == Transport::TCP {
        [report.sent.payload_bytes, report.received.payload_bytes] = payload;
    }
    report.tcp = (report.transport == Transport::TCP).then_some(TcpReport {
        state: tcp_state,
        is_established: flags & flags::ESTABLISHED != 0,
        error,
        retransmitted,
        srtt_us,
        has_fin_received: flags & flags::FIN_RECEIVED != 0,
        is_reset_received: flags & flags::RESET_RECEIVED != 0,
        is_reset_sent: flags & flags::RESET_SENT != 0,
    });
    let lingers = flags & flags::LINGERS != 0 && report.is_closed;
    Ok(if lingers { Record::Lingering(report) } else { Record::Event(Event::Socket(report)) })
}

fn lingered(mut reader: Reader<'_>, at: BootTime) -> Result<Record, DecodeError> {
    let (cookie, netns, tuple) = (reader.u64()?, reader.u64()?, reader.tuple()?);
    let (interface, _reserved, counts) = (reader.u32()?, reader.u32()?, reader.counts()?);
    let about = About { cookie, netns, started_at: at, interface, flags: 0, method: 0, icmp: [0; 2] };
    let nobody = state::Stamp::default();
    let mut report = report(&about, &tuple, &counts, [&nobody, &nobody]);
    (report.scope, report.is_closed, report.unknown) = (SocketScope::TimeWait, true, None);
    Ok(Record::Lingered(report))
}

/// What a socket's and a peer's record have in common beside tuple, counts and stamps.
struct About {
    cookie: u64,
    netns: u64,
    started_at: BootTime,
    interface: u32,
    flags: u32,
    method: u8,
    icmp: [u8; 2],
}

fn report(about: &About, tuple: &Tuple, counts: &Counts, [user, creator]: [&state::Stamp; 2]) -> SocketReport {
    let transport = Transport(tuple.protocol);
    let is_icmp = matches!(transport, Transport::ICMP | Transport::ICMPV6);
    SocketReport {
        cookie: about.cookie,
        netns: about.netns,
        scope: scope(about.flags),
        at: about.started_at,
        started_at: about.started_at,
        is_closed: false,
        transport,
        local: endpoint(tuple.local_addr, tuple.local_port),
        remote: endpoint(tuple.remote_addr, tuple.remote_port),
        icmp: is_icmp.then_some((about.icmp[0], about.icmp[1])),
        opening: opening(about.flags, tuple),
        interface: about.interface,
        user: owner(user),
        creator: owner(creator),
        method: how(about.method),
        unknown: unknown(about.flags, user, creator),
        is_shared: about.flags & flags::SHARED != 0 && is_guessed(about.method),
        sent: volume(tuple, counts.sent_bytes, counts.sent_packets),
        received: volume(tuple, counts.received_bytes, counts.received_packets),
        segment_header_bytes: [counts.sent_header_bytes, counts.received_header_bytes],
        tcp: None,
    }
}

fn scope(bits: u32) -> SocketScope {
    match bits {
        _ if bits & flags::KERNEL != 0 => SocketScope::Kernel,
        _ if bits & flags::NOT_IP != 0 => SocketScope::NotIp,
        _ if bits & flags::FRAMES != 0 => SocketScope::Frames,
        _ => SocketScope::Primary,
    }
}

/// Payload of protocols whose headers have one size: those of IP without options and of UDP (RFC 768), or the fixed part
/// of ICMP (RFC 792). TCP tells its own.
fn volume(tuple: &Tuple, ip_bytes: u64, packets: u64) -> Volume {
    let is_v4 = Ipv6Addr::from(tuple.local_addr).to_ipv4_mapped().is_some();
    let network = if is_v4 { 20 } else { 40 };
    let payload_bytes = match Transport(tuple.protocol) {
        Transport::UDP | Transport::UDPLITE | Transport::ICMP | Transport::ICMPV6 => {
            ip_bytes.saturating_sub(packets.saturating_mul(network + 8))
        }
        _ => 0,
    };
    Volume { ip_bytes, packets, payload_bytes }
}

/// Who opened a flow. Where the kernel could not tell of a connection older than the agent: servers listen on ports below those that
/// clients are given (net.ipv4.ip_local_port_range), so the higher port is taken for the client's.
fn opening(bits: u32, tuple: &Tuple) -> Opening {
    let is_lower = u16::from_be_bytes(tuple.local_port) < u16::from_be_bytes(tuple.remote_port);
    match bits & (flags::ACTIVE | flags::PASSIVE) {
        0 if is_lower => Opening::Passive,
        flags::PASSIVE => Opening::Passive,
        _ => Opening::Active,
    }
}

fn how(method: u8) -> Method {
    match method {
        method::CONNECT => Method::Connect,
        method::SEND => Method::Sendmsg,
        method::ACCEPT | method::ACCEPTED => Method::Accept,
        method::SNAPSHOT => Method::Snapshot,
        method::RECEIVE => Method::Recvmsg,
        method::BIND => Method::Bind,
        method::CLOSE => Method::Close,
        _ => Method::SocketCreate,
    }
}

/// Whether the user is merely one of the processes that could use the socket.
fn is_guessed(method: u8) -> bool {
    matches!(method, method::SNAPSHOT | method::ACCEPT)
}

fn unknown(bits: u32, user: &state::Stamp, creator: &state::Stamp) -> Option<UnknownReason> {
    let is_named = user.pid != 0 || creator.pid != 0;
    (!is_named && bits & flags::KERNEL == 0).then_some(UnknownReason::SocketOlderThanAgent)
}

/// The report of a peer in the peer table.
pub fn peer(key: &PeerKey, peer: &PeerState, at: BootTime, is_closed: IsClosed) -> SocketReport {
    let about = About {
        cookie: key.cookie,
        netns: key.netns,
        started_at: BootTime(peer.started_at),
        interface: peer.interface,
        flags: peer.flags,
        method: peer.method,
        icmp: [peer.icmp_type, peer.icmp_code],
    };
    let mut report = report(&about, &key.tuple, &peer.counts, [&peer.user, &peer.creator]);
    if report.scope == SocketScope::Primary {
        report.scope = SocketScope::Peer;
    }
    report.at = at;
    report.is_closed = is_closed == IsClosed::Yes;
    report
}

/// The report of a socket's peers that found no place in the peer table.
pub fn overflow(cookie: u64, counts: &Counts, at: BootTime) -> SocketReport {
    let about = About { cookie, netns: 0, started_at: at, interface: 0, flags: 0, method: 0, icmp: [0; 2] };
    let nobody = state::Stamp::default();
    let mut report = report(&about, &Tuple::default(), counts, [&nobody, &nobody]);
    report.scope = SocketScope::Overflow;
    report.unknown = None;
    report
}

fn exec(mut reader: Reader<'_>, at: BootTime) -> Result<Event, DecodeError> {
    let (process, parent) = (reader.stamp()?, reader.stamp()?);
    let (inode, folder_inode, folder_device, device) = (reader.u64()?, reader.u64()?, reader.u32()?, reader.u32()?);
    let (arguments_bytes, total, filename_bytes) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let _reserved = reader.u32()?;
    let comm = reader.text::<COMM_BYTES>()?;
    let image_name = reader.text::<IMAGE_NAME_BYTES>()?;
    let filename: [u8; FILENAME_BYTES] = reader.array()?;
    let arguments: [u8; ARGUMENTS_BYTES] = reader.array()?;
    let filename = filename.get(..(filename_bytes as usize).saturating_sub(1)).unwrap_or_default();
    let arguments = arguments.get(..arguments_bytes as usize).ok_or(DecodeError::TooShort)?;
    Ok(Event::Exec(Exec {
        key: key(&process),
        at,
        parent: key(&parent),
        uid: process.uid,
        cgroup_id: process.cgroup_id,
        comm,
        filename: lossy(filename),
        raw_filename: std::str::from_utf8(filename).is_err().then(|| filename.into()),
        file: FileId { device: device_number(device), inode },
        folder: (folder_inode != 0).then(|| FileId { device: device_number(folder_device), inode: folder_inode }),
        image_name,
        arguments: split_arguments(arguments),
        has_all_arguments: arguments_bytes == total,
    }))
}

/// `stat.st_dev` of a kernel device number.
fn device_number(device: u32) -> u64 {
    let (major, minor) = (u64::from(device >> MINOR_BITS), u64::from(device & ((1 << MINOR_BITS) - 1)));
    // glibc's makedev: bits/sysmacros.h.
    (major & 0xfff) << 8 | (major & !0xfff) << 32 | minor & 0xff | (minor & !0xff) << 12
}

fn split_arguments(bytes: &[u8]) -> Vec<Arc<str>> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() { Vec::new() } else { bytes.split(|&byte| byte == 0).map(lossy).collect() }
}

fn fork(mut reader: Reader<'_>, at: BootTime) -> Result<Event, DecodeError> {
    let (process, parent) = (reader.stamp()?, reader.stamp()?);
    Ok(Event::Fork(Fork {
        key: key(&process),
        at,
        parent: key(&parent),
        uid: process.uid,
        cgroup_id: process.cgroup_id,
        comm: reader.text::<COMM_BYTES>()?,
    }))
}

fn exit(mut reader: Reader<'_>, at: BootTime) -> Result<Event, DecodeError> {
    let started_at = BootTime(reader.u64()?);
    let key = ProcessKey { pid: reader.u32()?, started_at };
    Ok(Event::Exit(Exit { key, at, status: i32::from_ne_bytes(reader.array()?) }))
}

fn payload(mut reader: Reader<'_>, at: BootTime) -> Result<Event, DecodeError> {
    let (cookie, tuple, user) = (reader.u64()?, reader.tuple()?, reader.stamp()?);
    let (payload_bytes, sequence, is_sent) = (reader.u32()?, reader.u32()?, reader.u8()?);
    let _reserved: [u8; 7] = reader.array()?;
    let local = endpoint(tuple.local_addr, tuple.local_port);
    let remote = endpoint(tuple.remote_addr, tuple.remote_port);
    let (source, destination) = if is_sent == 1 { (local, remote) } else { (remote, local) };
    let transport = Transport(tuple.protocol);
    let bytes: Arc<[u8]> = reader.0.get(..payload_bytes as usize).unwrap_or(reader.0).into();
    Ok(Event::Payload(Payload {
        flow: FlowRef { cookie, transport, source, destination },
        direction: if is_sent == 1 { Direction::Egress } else { Direction::Ingress },
        user: owner(&user),
        at,
        sequence: (transport == Transport::TCP).then_some(sequence),
        missing_bytes: payload_bytes - bytes.len() as u32,
        bytes,
    }))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use pktscope_common::record::SocketRecord;
    use proptest::prelude::*;

    use super::*;

    fn header(kind: u16, version: u16, size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(version.to_ne_bytes());
        bytes.extend((size as u32).to_ne_bytes());
        bytes.extend(77u64.to_ne_bytes());
        bytes
    }

    fn exit_record() -> Vec<u8> {
        let mut bytes = header(RecordKind::Exit as u16, RECORD_VERSION, 32);
        bytes.extend(5u64.to_ne_bytes());
        bytes.extend(42u32.to_ne_bytes());
        bytes.extend((9i32 << 8).to_ne_bytes());
        bytes
    }

    #[test]
    fn reads_an_exit() {
        let key = ProcessKey { pid: 42, started_at: BootTime(5) };
        let expected = Event::Exit(Exit { key, at: BootTime(77), status: 9 << 8 });
        assert_eq!(record(&exit_record()), Ok(Record::Event(expected)));
    }

    /// An IPv4 socket's end: two packets of 128 bytes sent, one of 60 received, and what TCP tells of its payload.
    fn socket_record(protocol: u8) -> Vec<u8> {
        let mut bytes = header(RecordKind::SocketEnd as u16, RECORD_VERSION, size_of::<SocketRecord>());
        [100_u64, 1, 70, 256, 2, 0, 60, 1, 0].iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        for last in [1, 2] {
            bytes.extend(Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets());
        }
        bytes.extend([0x9c, 0x40, 0x01, 0xbb, protocol, 0, 0, 0]);
        bytes.extend([0; 48]);
        [42_u64, 7].iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.resize(size_of::<SocketRecord>(), 0);
        bytes
    }

    #[test]
    fn payload_is_what_headers_of_one_size_leave_and_what_tcp_tells() {
        for (protocol, expected) in [(17, [200, 32]), (1, [200, 32]), (6, [42, 7]), (253, [0, 0])] {
            let Ok(Record::Event(Event::Socket(report))) = record(&socket_record(protocol)) else {
                panic!("no socket of protocol {protocol}");
            };
            assert_eq!((report.sent.ip_bytes, report.sent.packets), (256, 2));
            let payload = [report.sent.payload_bytes, report.received.payload_bytes];
            assert_eq!(payload, expected, "protocol {protocol}");
        }
    }

    #[test]
    fn refuses_what_is_torn_or_unknown() {
        let whole = exit_record();
        for length in 0..whole.len() {
            assert_eq!(record(&whole[..length]), Err(DecodeError::TooShort), "{length} bytes");
        }
        assert_eq!(record(&header(99, RECORD_VERSION, 16)), Err(DecodeError::UnknownKind));
        assert_eq!(record(&header(RecordKind::Exit as u16, RECORD_VERSION + 1, 32)), Err(DecodeError::UnknownVersion));
    }

    #[test]
    fn device_numbers_are_those_of_stat() {
        assert_eq!(device_number(8 << 20 | 1), libc::makedev(8, 1));
        assert_eq!(device_number(259 << 20 | 0x12345), libc::makedev(259, 0x12345));
    }

    #[test]
    fn arguments_are_split_at_zeros() {
        let split = |bytes: &[u8]| split_arguments(bytes).iter().map(|word| word.to_string()).collect::<Vec<_>>();
        assert_eq!(split(b"a\0\0b c\0"), ["a", "", "b c"]);
        assert_eq!(split(b"cut sho"), ["cut sho"]);
        assert!(split(b"").is_empty());
    }

    #[test]
    fn the_lower_port_is_the_server_where_nobody_saw_the_opening() {
        let tuple = |local: u16, remote: u16| Tuple {
            local_port: local.to_be_bytes(),
            remote_port: remote.to_be_bytes(),
            ..Tuple::default()
        };
        assert_eq!(opening(flags::OLD, &tuple(443, 50_000)), Opening::Passive);
        assert_eq!(opening(flags::OLD, &tuple(50_000, 443)), Opening::Active);
        assert_eq!(opening(flags::ACTIVE, &tuple(443, 50_000)), Opening::Active);
        assert_eq!(opening(flags::PASSIVE, &tuple(50_000, 443)), Opening::Passive);
    }

    #[test]
    fn mapped_addresses_are_v4() {
        let mapped = "::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!(endpoint(mapped, [0, 53]), Endpoint { addr: "192.0.2.1".parse().unwrap(), port: 53 });
    }

    proptest! {
        #[test]
        fn no_bytes_panic(kind in 0u16..9, size in 0usize..1100, body in proptest::collection::vec(any::<u8>(), 0..1100)) {
            let mut bytes = header(kind, RECORD_VERSION, size);
            bytes.extend(body);
            let _ = record(&bytes);
        }
    }
}
