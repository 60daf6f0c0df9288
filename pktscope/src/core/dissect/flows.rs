//! The first bytes of flows: payloads in, DNS messages and server names out.
//!
//! A flow's state is dropped as soon as it gave a name or can give none; what is left is a mark without buffers, so
//! that the rest of the flow costs one look-up. Both the marks and the buffers have a bound over all flows.

use std::sync::Arc;

use lru::LruCache;

use crate::core::{
    domain::is_address,
    event::{Event, FlowRef, Payload, ServerName},
    flow::{ClientHello, DomainSource, Transport},
    seed::{DEFAULT_SEED, hasher},
};

use super::{
    dns::{self, DnsError},
    http::{self, HttpHost},
    ja4::Ja4Transport,
    quic::{self, QuicHead},
    stream::Joiner,
    tls::{self, Progress, RawHello},
    upgrade,
};

/// Ports of DNS, mDNS and LLMNR.
const DNS_PORTS: [u16; 3] = [53, 5353, 5355];
/// Bytes held of one direction of a flow: the longest DNS message on TCP with its length (RFC 1035, 4.2.2).
const MAX_STREAM_LEN: usize = (1 << 16) + 1;
/// Segments looked at before a flow is given up; a hello in segments of 536 bytes has less.
const MAX_SEGMENTS: u16 = 64;
/// Segments of a flow whose first one is not known, that may be nonsense before an earlier one makes sense of them.
const MAX_UNPLACED_SEGMENTS: u16 = 4;
/// Bytes of the length before a DNS message on TCP.
const DNS_PREFIX_LEN: usize = 2;

/// Bounds over all flows.
#[derive(Clone, Copy, Debug)]
pub struct DissectLimits {
    /// Directions of flows remembered, about 150 bytes each without buffers.
    pub flows: usize,
    /// Bytes buffered.
    pub buffered_bytes: usize,
    /// Seed of the hashes of addresses and ports, which others choose. No result depends on it.
    pub hash_seed: u64,
}

impl Default for DissectLimits {
    fn default() -> Self {
        Self { flows: 65_536, buffered_bytes: 16 << 20, hash_seed: DEFAULT_SEED }
    }
}

/// What was seen and what was lost; totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DissectCounters {
    /// DNS messages read.
    pub dns_messages: u64,
    /// DNS messages read only in part: broken records, or cut by the copy.
    pub dns_partial: u64,
    /// Payloads on a DNS port that are no DNS message.
    pub dns_malformed: u64,
    /// Updates, notifications and the like.
    pub dns_other_opcode: u64,
    /// Server names and hellos found.
    pub server_names: u64,
    /// Starts of a hello or request that turned out broken, too long or never whole.
    pub unreadable_starts: u64,
    /// Flows forgotten with bytes in their buffer because a bound was reached.
    pub evicted_flows: u64,
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct HeadKey(FlowRef);

impl HeadKey {
    /// The other direction.
    fn back(self) -> Self {
        Self(FlowRef { source: self.0.destination, destination: self.0.source, ..self.0 })
    }
}

enum Head {
    /// Nothing more to find.
    Done,
    Tcp(Box<TcpHead>),
    Quic(Box<QuicHead>),
}

impl Head {
    fn buffered_bytes(&self) -> usize {
        match self {
            Self::Done => 0,
            Self::Tcp(head) => head.joiner.buffered_bytes(),
            Self::Quic(head) => head.buffered_bytes(),
        }
    }
}

/// The first segments of one direction of a TCP flow.
struct TcpHead {
    joiner: Joiner,
    /// Sequence number of the joiner's offset 0.
    first: Option<u32>,
    /// Whether `first` is known to be the connection's first byte.
    is_placed: bool,
    segments: u16,
    /// How long the joined bytes must be before another look is worth it.
    need: usize,
}

/// Finds names in the first bytes of flows.
pub struct FlowDissector {
    heads: LruCache<HeadKey, Head, ahash::RandomState>,
    limits: DissectLimits,
    buffered_bytes: usize,
    counters: DissectCounters,
}

impl Default for FlowDissector {
    fn default() -> Self {
        Self::new(DissectLimits::default())
    }
}

impl FlowDissector {
    /// A dissector without state.
    pub fn new(limits: DissectLimits) -> Self {
        Self {
            heads: LruCache::unbounded_with_hasher(hasher(limits.hash_seed)),
            limits,
            buffered_bytes: 0,
            counters: DissectCounters::default(),
        }
    }

    /// Totals so far.
    pub fn counters(&self) -> DissectCounters {
        self.counters
    }

    /// Bytes in buffers now.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    /// Takes one payload; what it completes is appended as [`Event::Dns`] and [`Event::ServerName`].
    ///
    /// A TCP payload without bytes is a connection's SYN: its `sequence` is the first byte's.
    pub fn observe(&mut self, payload: &Payload, out: &mut Vec<Event>) {
        match (payload.flow.transport, is_dns(&payload.flow)) {
            (Transport::UDP, true) => self.read_dns(&payload.bytes, payload, out),
            (Transport::UDP, false) => self.observe_udp(payload, out),
            (Transport::TCP, is_dns) => self.observe_tcp(payload, is_dns, out),
            _ => {}
        }
    }

    /// Drops what is held of a flow that ended.
    pub fn forget(&mut self, flow: &FlowRef) {
        if self.heads.is_empty() {
            return;
        }
        let key = HeadKey(*flow);
        self.take(&key);
        self.take(&key.back());
    }

    fn read_dns(&mut self, bytes: &[u8], payload: &Payload, out: &mut Vec<Event>) {
        match dns::parse(bytes) {
            Ok(parts) => {
                self.counters.dns_messages += 1;
                self.counters.dns_partial += u64::from(parts.is_partial);
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX).saturating_add(payload.missing_bytes);
                out.extend(dns::messages(parts, payload, len).into_iter().map(Event::Dns));
            }
            Err(DnsError::Opcode) => self.counters.dns_other_opcode += 1,
            Err(DnsError::TooShort | DnsError::Question) => self.counters.dns_malformed += 1,
        }
    }

    fn observe_udp(&mut self, payload: &Payload, out: &mut Vec<Event>) {
        let key = HeadKey(payload.flow);
        self.heads.promote(&key);
        let mut quic = match self.heads.peek(&key) {
            Some(Head::Quic(_)) => match self.take(&key) {
                Some(Head::Quic(head)) => head,
                _ => return,
            },
            Some(_) => return,
            // Only clients' packets can be opened; the other direction of a known flow is the server's.
            None if self.heads.contains(&key.back()) || !quic::is_initial(&payload.bytes) => return,
            None => Box::default(),
        };
        let head = match quic.push(&payload.bytes) {
            Progress::NeedMore(_) => Head::Quic(quic),
            Progress::Done(hello) => self.name_by_hello(&hello, DomainSource::QuicSni, payload, out),
            Progress::Other => self.give_up(),
        };
        self.keep(key, head);
    }

    fn observe_tcp(&mut self, payload: &Payload, is_dns: bool, out: &mut Vec<Event>) {
        let key = HeadKey(payload.flow);
        let is_syn = payload.bytes.is_empty() && payload.missing_bytes == 0;
        let mut tcp = match self.heads.get(&key) {
            Some(Head::Tcp(head)) if !is_syn || head.first == payload.sequence => match self.take(&key) {
                Some(Head::Tcp(head)) => head,
                _ => return,
            },
            Some(_) if !is_syn => return,
            _ => Box::new(TcpHead::new(payload.sequence, is_syn)),
        };
        let head = match tcp.add(payload) {
            Err(GiveUp) => self.give_up(),
            Ok(()) if is_dns => self.read_dns_stream(tcp, payload, out),
            Ok(()) => self.read_client_stream(tcp, payload, out),
        };
        self.keep(key, head);
    }

    /// Every whole message of a DNS stream; the stream goes on.
    fn read_dns_stream(&mut self, mut tcp: Box<TcpHead>, payload: &Payload, out: &mut Vec<Event>) -> Head {
        while let Some((len, bytes)) = tcp.joiner.ready().split_first_chunk::<DNS_PREFIX_LEN>() {
            let len = usize::from(u16::from_be_bytes(*len));
            if len < dns::HEADER_LEN {
                return if tcp.may_start_earlier() { Head::Tcp(tcp) } else { self.give_up() };
            }
            let Some(message) = bytes.get(..len) else { break };
            let whole = Payload { missing_bytes: 0, ..payload.clone() };
            self.read_dns(message, &whole, out);
            tcp.joiner.consume(DNS_PREFIX_LEN + len);
            tcp.is_placed = true;
            tcp.segments = 0;
        }
        Head::Tcp(tcp)
    }

    fn read_client_stream(&mut self, mut tcp: Box<TcpHead>, payload: &Payload, out: &mut Vec<Event>) -> Head {
        let bytes = tcp.joiner.ready();
        if bytes.len() < tcp.need {
            return Head::Tcp(tcp);
        }
        let tls = tls::read_records(bytes);
        let http = if tls == Progress::Other { http::read_request(bytes) } else { Progress::Other };
        match (tls, http) {
            (Progress::Done(hello), _) => self.name_by_hello(&hello, DomainSource::TlsSni, payload, out),
            (_, Progress::Done(host)) => self.name_by_host(host, payload, out),
            (Progress::NeedMore(need), _) | (_, Progress::NeedMore(need)) => {
                // Nothing yet is no good start.
                tcp.need = if bytes.is_empty() { 1 } else { need };
                Head::Tcp(tcp)
            }
            (Progress::Other, Progress::Other) => self.read_upgrade(tcp, payload, out),
        }
    }

    /// What is neither TLS nor HTTP may become TLS.
    fn read_upgrade(&mut self, mut tcp: Box<TcpHead>, payload: &Payload, out: &mut Vec<Event>) -> Head {
        match upgrade::find_end(tcp.joiner.ready()) {
            Progress::Done(len) => {
                tcp.joiner.consume(len);
                (tcp.is_placed, tcp.need) = (true, 1);
                self.read_client_stream(tcp, payload, out)
            }
            Progress::NeedMore(_) => Head::Tcp(tcp),
            Progress::Other if tcp.may_start_earlier() => Head::Tcp(tcp),
            Progress::Other => self.end_unnamed(&tcp),
        }
    }

    /// Most flows speak something else, which is no loss; a hello or request that began well is one.
    fn end_unnamed(&mut self, tcp: &TcpHead) -> Head {
        if tcp.need > 1 { self.give_up() } else { Head::Done }
    }

    fn give_up(&mut self) -> Head {
        self.counters.unreadable_starts += 1;
        Head::Done
    }

    fn name_by_hello(
        &mut self,
        hello: &RawHello,
        source: DomainSource,
        payload: &Payload,
        out: &mut Vec<Event>,
    ) -> Head {
        let transport = if source == DomainSource::QuicSni { Ja4Transport::Quic } else { Ja4Transport::Tcp };
        let hello: Arc<ClientHello> = hello.summary(transport).into();
        let name = hello.server_name.clone().filter(|name| !is_address(name));
        self.name(ServerName { flow: payload.flow, at: payload.at, name, source, hello: Some(hello) }, out)
    }

    fn name_by_host(&mut self, host: HttpHost, payload: &Payload, out: &mut Vec<Event>) -> Head {
        let Some(name) = host.name else { return Head::Done };
        let (flow, at, source) = (payload.flow, payload.at, DomainSource::HttpHost);
        self.name(ServerName { flow, at, name: Some(name.into()), source, hello: None }, out)
    }

    fn name(&mut self, name: ServerName, out: &mut Vec<Event>) -> Head {
        self.counters.server_names += 1;
        out.push(Event::ServerName(name));
        Head::Done
    }

    /// Removes a head; its bytes are not counted until it is stored again.
    fn take(&mut self, key: &HeadKey) -> Option<Head> {
        let head = self.heads.pop(key)?;
        self.buffered_bytes -= head.buffered_bytes();
        Some(head)
    }

    /// Stores a head whose bytes are not counted now, and makes room for it.
    fn keep(&mut self, key: HeadKey, head: Head) {
        self.buffered_bytes += head.buffered_bytes();
        let replaced = self.heads.put(key, head);
        self.buffered_bytes -= replaced.map_or(0, |head| head.buffered_bytes());
        while self.heads.len() > self.limits.flows || self.buffered_bytes > self.limits.buffered_bytes {
            let Some((_, evicted)) = self.heads.pop_lru() else { return };
            self.buffered_bytes -= evicted.buffered_bytes();
            self.counters.evicted_flows += u64::from(evicted.buffered_bytes() > 0);
        }
    }
}

/// A stream is past its bounds.
struct GiveUp;

impl TcpHead {
    fn new(first: Option<u32>, is_placed: bool) -> Self {
        Self { joiner: Joiner::new(MAX_STREAM_LEN), first, is_placed, segments: 0, need: 1 }
    }

    /// Whether bytes before the first ones seen may still come.
    fn may_start_earlier(&self) -> bool {
        !self.is_placed && self.segments < MAX_UNPLACED_SEGMENTS
    }

    fn add(&mut self, payload: &Payload) -> Result<(), GiveUp> {
        self.segments += 1;
        if self.segments > MAX_SEGMENTS {
            return Err(GiveUp);
        }
        let Some((sequence, first)) = payload.sequence.zip(self.first) else {
            return self.joiner.insert(self.joiner.end(), &payload.bytes).map_err(|_| GiveUp);
        };
        // Sequence numbers wrap; half the range is before, half after (RFC 9293, 3.4).
        let distance = i64::from(sequence.wrapping_sub(first).cast_signed());
        match u64::try_from(distance) {
            Ok(offset) => self.joiner.insert(offset, &payload.bytes),
            Err(_) => self.add_before(sequence, distance.unsigned_abs(), &payload.bytes),
        }
        .map_err(|_| GiveUp)
    }

    /// A segment `distance` bytes before the first: the true start, or a repetition of what the start is known to follow.
    fn add_before(&mut self, sequence: u32, distance: u64, bytes: &[u8]) -> Result<(), super::stream::TooLong> {
        if self.is_placed {
            let repeated = usize::try_from(distance).unwrap_or(usize::MAX);
            return self.joiner.insert(0, bytes.get(repeated..).unwrap_or_default());
        }
        if distance > MAX_STREAM_LEN as u64 {
            return Ok(());
        }
        self.joiner.prepend_hole(distance);
        self.first = Some(sequence);
        self.need = 1;
        self.joiner.insert(0, bytes)
    }
}

fn is_dns(flow: &FlowRef) -> bool {
    DNS_PORTS.contains(&flow.source.port) || DNS_PORTS.contains(&flow.destination.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        dissect::tls::tests::{hello_bytes, records},
        flow::{Direction, Endpoint},
        time::BootTime,
    };
    use proptest::prelude::*;

    fn flow(transport: Transport, source_port: u16, destination_port: u16) -> FlowRef {
        let end = |addr: [u8; 4], port| Endpoint { addr: addr.into(), port };
        let (source, destination) = (end([10, 0, 0, 1], source_port), end([192, 0, 2, 1], destination_port));
        FlowRef { cookie: 7, transport, source, destination }
    }

    fn payload(flow: FlowRef, sequence: Option<u32>, bytes: &[u8]) -> Payload {
        let (direction, at) = (Direction::Egress, BootTime(5));
        Payload { flow, direction, user: None, at, sequence, bytes: bytes.into(), missing_bytes: 0 }
    }

    /// What the segments of one flow give, each with its sequence number.
    fn observe(dissector: &mut FlowDissector, flow: FlowRef, segments: &[(u32, &[u8])]) -> Vec<Event> {
        let mut out = Vec::new();
        segments.iter().for_each(|(at, bytes)| dissector.observe(&payload(flow, Some(*at), bytes), &mut out));
        out
    }

    fn names(events: &[Event]) -> Vec<String> {
        let name = |event: &Event| match event {
            Event::ServerName(found) => found.name.as_deref().unwrap_or("-").to_owned(),
            Event::Dns(message) => message.question.to_string(),
            other => panic!("{other:?}"),
        };
        events.iter().map(name).collect()
    }

    #[track_caller]
    fn check(segments: &[(u32, &[u8])], expected: &[&str]) {
        let mut dissector = FlowDissector::default();
        let events = observe(&mut dissector, flow(Transport::TCP, 4000, 443), segments);
        assert_eq!(names(&events), expected);
        assert_eq!(dissector.buffered_bytes(), 0);
    }

    #[test]
    fn hello_in_segments() {
        let bytes = records(&hello_bytes(b"example.org"), 60);
        let (a, rest) = bytes.split_at(3);
        let (b, c) = rest.split_at(70);
        let (at_b, at_c) = (3, 73);
        check(&[(0, &bytes)], &["example.org"]);
        check(&[(0, a), (at_b, b), (at_c, c)], &["example.org"]);
        check(&[(0, a), (at_c, c), (at_b, b)], &["example.org"]);
        check(&[(0, a), (0, a), (at_b, b), (at_b, b), (at_c, c)], &["example.org"]);
        check(&[(at_b, b), (0, a), (at_c, c)], &["example.org"]);
        check(&[(at_c, c), (at_b, b), (0, a)], &["example.org"]);
    }

    #[test]
    fn sequence_numbers_wrap() {
        let bytes = records(&hello_bytes(b"example.org"), 1 << 14);
        let (a, b) = bytes.split_at(40);
        check(&[(u32::MAX - 19, a), (20, b)], &["example.org"]);
    }

    #[test]
    fn one_name_a_flow() {
        let hello = records(&hello_bytes(b"example.org"), 1 << 14);
        let end = u32::try_from(hello.len()).unwrap();
        check(&[(0, &hello), (end, &hello), (0, &hello)], &["example.org"]);
    }

    #[test]
    fn a_new_connection_on_the_same_ports() {
        let (one, two) = (records(&hello_bytes(b"one.example"), 999), records(&hello_bytes(b"two.example"), 999));
        check(&[(0, b""), (0, &one), (7_000_000, b""), (7_000_000, &two)], &["one.example", "two.example"]);
    }

    #[test]
    fn an_address_is_no_name() {
        let events = observe(
            &mut FlowDissector::default(),
            flow(Transport::TCP, 4000, 443),
            &[(0, &records(&hello_bytes(b"192.0.2.1"), 999))],
        );
        let [Event::ServerName(found)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(found.name, None);
        assert_eq!(found.hello.as_ref().unwrap().server_name.as_deref(), Some("192.0.2.1"));
    }

    #[test]
    fn request_on_any_port() {
        check(&[(0, b"GET / HTTP/1.1\r\nHo"), (18, b"st: example.com\r\n")], &["example.com"]);
    }

    #[test]
    fn a_hello_after_a_dialogue_in_the_clear() {
        let hello = records(&hello_bytes(b"mail.example"), 1 << 14);
        let (a, b) = hello.split_at(40);
        check(&[(5, b"EHLO x\r\n"), (13, b"STARTTLS\r\n"), (23, &hello)], &["mail.example"]);
        check(&[(5, b"EHLO x\r\nSTARTTLS\r\n"), (23, a), (63, b)], &["mail.example"]);
        check(&[(13, b"STARTTLS\r\n"), (5, b"EHLO x\r\n"), (23, a), (13, b"STARTTLS\r\n"), (63, b)], &["mail.example"]);
        check(&[(0, b"\x00\x00\x00\x08\x04\xd2\x16\x2f"), (8, &hello)], &["mail.example"]);
        check(&[(0, b""), (0, b"EHLO x\r\n"), (8, b"MAIL FROM:<a@b>\r\n"), (25, &hello)], &[]);
    }

    #[test]
    fn a_dialogue_that_stays_in_the_clear_is_no_broken_start() {
        let mut dissector = FlowDissector::default();
        let segments: [(u32, &[u8]); 4] =
            [(0, b""), (0, b"EHLO x\r\n"), (8, b"STARTTLS\r\n"), (18, b"MAIL FROM:<a@b>\r\n")];
        assert_eq!(observe(&mut dissector, flow(Transport::TCP, 4000, 25), &segments), []);
        assert_eq!((dissector.counters().unreadable_starts, dissector.buffered_bytes()), (0, 0));
    }

    #[test]
    fn other_protocols_end_at_once_or_after_a_few_segments() {
        check(&[(0, b""), (0, b"SSH-2.0-OpenSSH_9.7\r\n")], &[]);
        check(&[(0, b"\x00\x01"), (2, b"xx"), (4, b"xx"), (6, b"xx"), (8, b"xx")], &[]);
    }

    #[test]
    fn dns_over_tcp() {
        let message = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01";
        let prefixed = [&[0, u8::try_from(message.len()).unwrap()][..], message].concat();
        let twice = prefixed.repeat(2);
        let mut dissector = FlowDissector::default();
        for cut in 1..twice.len() {
            let (head, tail) = twice.split_at(cut);
            let flow = FlowRef { cookie: cut as u64, ..flow(Transport::TCP, 4000, 53) };
            let segments = [(9, head), (9 + u32::try_from(cut).unwrap(), tail)];
            assert_eq!(names(&observe(&mut dissector, flow, &segments)), ["a.example", "a.example"], "cut at {cut}");
        }
        assert_eq!(dissector.buffered_bytes(), 0);
    }

    #[test]
    fn bounds_over_all_flows() {
        let limits = DissectLimits { flows: 50, buffered_bytes: 4000, ..DissectLimits::default() };
        let mut dissector = FlowDissector::new(limits);
        let start = &records(&hello_bytes(b"example.org"), 1 << 14)[..100];
        for cookie in 0..1000 {
            let flow = FlowRef { cookie, ..flow(Transport::TCP, 4000, 443) };
            observe(&mut dissector, flow, &[(0, start)]);
            assert!(dissector.buffered_bytes() <= limits.buffered_bytes && dissector.heads.len() <= limits.flows);
        }
        assert_eq!(dissector.counters().evicted_flows, 960);
    }

    #[test]
    fn a_forgotten_flow_holds_nothing() {
        let mut dissector = FlowDissector::default();
        let flow = flow(Transport::TCP, 4000, 443);
        observe(&mut dissector, flow, &[(0, &records(&hello_bytes(b"example.org"), 1 << 14)[..50])]);
        assert_eq!(dissector.buffered_bytes(), 50);
        dissector.forget(&flow);
        assert_eq!((dissector.buffered_bytes(), dissector.heads.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn any_segments_stay_within_bounds(
            segments in proptest::collection::vec(
                (any::<u8>(), any::<u32>(), prop_oneof![Just(0_u32), Just(1)], proptest::collection::vec(any::<u8>(), 0..300)),
                0..60,
            ),
            is_udp in any::<bool>(),
        ) {
            let limits = DissectLimits { flows: 8, buffered_bytes: 2000, ..DissectLimits::default() };
            let mut dissector = FlowDissector::new(limits);
            let hello = records(&hello_bytes(b"example.org"), 30);
            let mut out = Vec::new();
            for (cookie, sequence, scale, mut bytes) in segments {
                if cookie & 1 == 0 {
                    bytes.splice(0..0, hello.iter().copied().take(usize::from(cookie) * 2));
                }
                let transport = if is_udp { Transport::UDP } else { Transport::TCP };
                let port = if cookie & 2 == 0 { 53 } else { 443 };
                let flow = FlowRef { cookie: u64::from(cookie % 16), ..flow(transport, 4000, port) };
                dissector.observe(&payload(flow, Some(sequence % 500 * scale), &bytes), &mut out);
                prop_assert!(dissector.buffered_bytes() <= limits.buffered_bytes);
            }
        }
    }
}
