//! Which field says what: the core's types read into [`Document`]s.

use std::{borrow::Cow, net::IpAddr};

use super::document::{
    Alert as AlertFields, Attribution as AttributionFields, AutonomousSystem, Cgroup, Container, Counters, Digits,
    Disagreeing, Dns, DnsAnswer as AnswerFields, DnsExtra, DnsQuestion, Document, Event, EvidenceObject,
    Geo as GeoFields, Hash, Icmp, Ledger as LedgerFields, LedgerSide as LedgerSideFields, Named, Network,
    Package as PackageFields, Parent, Payload, Pktscope, Process as ProcessFields, ProcessExtra, Rule,
    Script as ScriptFields, Side, Strings, Tcp, Time, Tls, TlsClient, User,
};
use crate::core::{
    alert::Alert,
    community_id::community_id,
    dns_words::{record_type_word, response_code_word},
    effect::{Ledger, LedgerSide},
    event::{DnsAnswer, DnsMessage},
    flow::{
        Attribution, Direction, EndReason, Endpoint, Flow, FlowAction, FlowChange, Geo, TcpSummary, Transport, Volume,
    },
    process::{ImageHash, Process, Script},
    time::{BootTime, Moment},
};

const NETWORK: Option<[&str; 1]> = Some(["network"]);

fn text(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn time(at: BootTime, now: Moment) -> Option<Time> {
    (at != BootTime::default()).then(|| Time(now.wall_at(at)))
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether the transport has ports.
pub(crate) fn has_ports(transport: Transport) -> bool {
    const DCCP: Transport = Transport(33);
    [Transport::TCP, Transport::UDP, Transport::SCTP, Transport::UDPLITE, DCCP].contains(&transport)
}

fn ports(transport: Transport, source: Endpoint, destination: Endpoint) -> [Option<u16>; 2] {
    [source.port, destination.port].map(|port| has_ports(transport).then_some(port))
}

/// A flow's step as an event.
pub(super) fn flow_change<'a>(change: &'a FlowChange, now: Moment) -> Document<'a> {
    let mut document = Document { timestamp: time(change.at, now), ..flow(&change.flow, now) };
    let reason = change.flow.ended.map(|(_, reason)| reason.word());
    let types: &'static [&'static str] = match change.action {
        FlowAction::Started => &["connection", "start"],
        FlowAction::Updated => &["connection", "info"],
        FlowAction::Ended | FlowAction::Whole => &["connection", "end"],
    };
    document.event = Some(Event {
        kind: Some("event"),
        category: NETWORK,
        r#type: Some(types),
        dataset: Some("pktscope.flow"),
        action: Some(change.action.word()),
        reason: reason.filter(|_| matches!(change.action, FlowAction::Ended | FlowAction::Whole)),
        ..times(&change.flow, now)
    });
    document
}

/// Start, end and duration: a flow ends with its last packet, or with the close that ended it.
fn times<'a>(flow: &Flow, now: Moment) -> Event<'a> {
    let end = match flow.ended {
        Some((at, EndReason::EndOfFlow | EndReason::Reset)) => at.max(flow.last_seen),
        _ => flow.last_seen,
    };
    Event {
        start: time(flow.started_at, now),
        end: time(end, now),
        duration: Some(nanos(end.since(flow.started_at))),
        ..Event::default()
    }
}

/// What is known of a flow, without what happened to it.
fn flow<'a>(flow: &'a Flow, now: Moment) -> Document<'a> {
    let [source_port, destination_port] = ports(flow.transport, flow.source, flow.destination);
    let domain = flow.domain.as_ref();
    let destination = Side {
        domain: domain.map(|domain| &*domain.name),
        registered_domain: domain.map(|domain| &*domain.registrable),
        geo: country(&flow.geo),
        r#as: autonomous_system(flow.geo.as_number, flow.geo.as_organization.as_deref()),
        ..side(flow.destination.addr, destination_port, &flow.received)
    };
    let mut document = match flow.process() {
        Some(owner) => process(owner, now),
        None => Document::default(),
    };
    document.network = Some(network(flow));
    document.source = Some(side(flow.source.addr, source_port, &flow.sent));
    document.destination = Some(destination);
    document.tls = tls(flow);
    add_flow_extras(flow, document.pktscope.get_or_insert_default());
    document
}

fn network<'a>(flow: &Flow) -> Network<'a> {
    Network {
        transport: Some(transport(flow.transport)),
        r#type: Some(if flow.source.addr.is_ipv4() { "ipv4" } else { "ipv6" }),
        iana_number: Some(Digits(flow.transport.0)),
        direction: Some(flow.direction.word()),
        community_id: Some(community_id(flow.transport, flow.source, flow.destination, flow.icmp)),
        bytes: Some(flow.sent.ip_bytes.saturating_add(flow.received.ip_bytes)),
        packets: Some(flow.sent.packets.saturating_add(flow.received.packets)),
        ..Network::default()
    }
}

fn transport(transport: Transport) -> Cow<'static, str> {
    transport.name().map_or_else(|| Cow::Owned(transport.0.to_string()), Cow::Borrowed)
}

fn side<'a>(ip: IpAddr, port: Option<u16>, volume: &Volume) -> Side<'a> {
    Side { ip: Some(ip), port, bytes: Some(volume.ip_bytes), packets: Some(volume.packets), ..Side::default() }
}

fn country(geo: &Geo) -> Option<GeoFields<'_>> {
    let code = geo.country.as_ref().and_then(|code| std::str::from_utf8(code).ok())?;
    Some(GeoFields { country_iso_code: Some(code) })
}

/// `destination.as`, where anything of it is known.
fn autonomous_system(number: Option<u32>, organization: Option<&str>) -> Option<AutonomousSystem<'_>> {
    let organization = organization.map(|name| Named { name: Some(name) });
    (number.is_some() || organization.is_some()).then_some(AutonomousSystem { number, organization })
}

fn tls(flow: &Flow) -> Option<Tls<'_>> {
    let hello = flow.tls.as_ref()?;
    let client = TlsClient {
        server_name: hello.server_name.as_deref(),
        ja4: text(&hello.ja4),
        supported_protocols: (!hello.alpn.is_empty()).then_some(Strings(&hello.alpn)),
    };
    Some(Tls { client: Some(client) })
}

fn add_flow_extras<'a>(flow: &'a Flow, extras: &mut Pktscope<'a>) {
    extras.flow_id = Some(flow.id.0);
    if let Some(domain) = &flow.domain {
        extras.domain_source = Some(domain.source.word());
        extras.domain_age = Some(nanos(flow.started_at.since(domain.learned_at)));
        extras.domain_candidates = Some(domain.candidates);
        let disagreeing = domain.disagreeing.as_ref();
        extras.domain_disagreeing =
            disagreeing.map(|(name, source)| Disagreeing { name: Some(name), source: Some(source.word()) });
    }
    extras.payload = Some(Payload {
        source_bytes: Some(flow.sent.payload_bytes),
        destination_bytes: Some(flow.received.payload_bytes),
    });
    extras.attribution = Some(attribution(&flow.attribution));
    extras.icmp = flow.icmp.map(|(kind, code)| Icmp { r#type: Some(kind), code: Some(code) });
    extras.has_encrypted_hello = flow.tls.as_ref().map(|hello| hello.has_encrypted_hello);
    if let Some(summary) = &flow.tcp {
        extras.history = Some(&summary.history);
        extras.conn_state = Some(summary.conn_state.name());
        extras.tcp = Some(tcp(summary));
    }
}

fn attribution(attribution: &Attribution) -> AttributionFields<'_> {
    match attribution {
        Attribution::Process(owner) => AttributionFields {
            status: Some("process"),
            method: Some(owner.method.word()),
            creator_pid: owner.creator.map(|creator| creator.pid),
            ambiguity: owner.ambiguity.as_deref(),
            ..AttributionFields::default()
        },
        Attribution::Kernel => AttributionFields { status: Some("kernel"), ..AttributionFields::default() },
        Attribution::Unknown(reason) => {
            AttributionFields { status: Some("unknown"), reason: Some(reason.word()), ..AttributionFields::default() }
        }
    }
}

fn tcp(summary: &TcpSummary) -> Tcp {
    Tcp {
        source_retransmitted: summary.retransmitted[0],
        destination_retransmitted: summary.retransmitted[1],
        source_out_of_order: summary.out_of_order.map(|[source, _]| source),
        destination_out_of_order: summary.out_of_order.map(|[_, destination]| destination),
        source_gap_bytes: summary.gap_bytes.map(|[source, _]| source),
        destination_gap_bytes: summary.gap_bytes.map(|[_, destination]| destination),
        handshake_rtt: summary.handshake_rtt.map(nanos),
        smoothed_rtt: summary.smoothed_rtt.map(nanos),
    }
}

/// What is known of a process.
fn process<'a>(process: &'a Process, now: Moment) -> Document<'a> {
    let (sha256, _) = hash(&process.hash);
    Document {
        process: Some(ProcessFields {
            pid: Some(process.key.pid),
            name: text(&process.comm),
            executable: text(&process.executable),
            start: time(process.key.started_at, now),
            entity_id: text(&process.entity_id),
            hash: sha256.map(|sha256| Hash { sha256: Some(sha256) }),
            command_line: text(&process.command_line),
            parent: parent(process, now),
            ..ProcessFields::default()
        }),
        user: user(process),
        container: container(process),
        package: process.package.as_deref().map(PackageFields::from),
        pktscope: Some(Pktscope {
            cgroup: cgroup(process),
            process: Some(process_extra(process)),
            ..Pktscope::default()
        }),
        ..Document::default()
    }
}

fn hash(hash: &ImageHash) -> (Option<&str>, Option<&str>) {
    match hash {
        ImageHash::Pending => (None, None),
        ImageHash::Sha256(sha256) => (Some(sha256), None),
        ImageHash::Unreadable(reason) => (None, Some(reason)),
    }
}

fn parent(process: &Process, now: Moment) -> Option<Parent<'_>> {
    let parent = process.parent?;
    Some(Parent {
        pid: Some(parent.pid),
        start: time(parent.started_at, now),
        executable: process.parent_executable.as_deref().and_then(text),
    })
}

fn user(process: &Process) -> Option<User<'_>> {
    let id = process.uid?;
    Some(User { id: Some(Digits(id)), name: process.user.as_deref() })
}

fn container(process: &Process) -> Option<Container<'_>> {
    let id = process.container_id.as_deref()?;
    let image = process.container_image.as_deref().map(|name| Named { name: Some(name) });
    Some(Container { id: Some(id), image })
}

fn cgroup(process: &Process) -> Option<Cgroup<'_>> {
    let path = process.cgroup_path.as_deref();
    (process.cgroup_id.is_some() || path.is_some()).then_some(Cgroup { id: process.cgroup_id, path })
}

fn process_extra(process: &Process) -> ProcessExtra<'_> {
    let is_known = |at: &BootTime| *at != BootTime::default();
    ProcessExtra {
        started_at: Some(process.key.started_at).filter(is_known).map(|at| at.0),
        parent_started_at: process.parent.map(|parent| parent.started_at).filter(is_known).map(|at| at.0),
        hash_error: hash(&process.hash).1,
        is_hash_pending: (process.hash == ImageHash::Pending).then_some(true),
        device: process.file.map(|file| file.device),
        inode: process.file.map(|file| file.inode),
        package_is_unmodified: process.package.as_ref().and_then(|package| package.is_unmodified),
        script: process.script.as_deref().map(script),
        missing: process.missing.as_deref(),
        exit_signal: None,
        is_agent: process.is_agent.then_some(true),
    }
}

fn script(script: &Script) -> ScriptFields<'_> {
    let (sha256, hash_error) = hash(&script.hash);
    ScriptFields {
        path: Some(&script.path),
        sha256,
        hash_error,
        package: script.package.as_deref().map(PackageFields::from),
        package_is_unmodified: script.package.as_ref().and_then(|package| package.is_unmodified),
    }
}

/// A process that was first needed.
pub(super) fn process_started(started: &Process, now: Moment) -> Document<'_> {
    let at = time(started.key.started_at, now);
    process_event(started, now, Step { action: "process_started", types: &["start"], at })
}

/// A process that more is known of.
pub(super) fn process_changed(changed: &Process, now: Moment) -> Document<'_> {
    process_event(changed, now, Step { action: "process_changed", types: &["change"], at: time(now.boot, now) })
}

/// A process that ended with a wait status.
pub(super) fn process_ended(ended: &Process, at: BootTime, status: i32, now: Moment) -> Document<'_> {
    let at = time(at, now);
    let mut document = process_event(ended, now, Step { action: "process_ended", types: &["end"], at });
    let low_byte = |value: i32| u8::try_from(value & 0xff).unwrap_or(0);
    // wait(2): the low seven bits are the signal, the byte above them the exit code.
    let signal = low_byte(status) & 0x7f;
    if let Some(fields) = &mut document.process {
        fields.end = at;
        fields.exit_code = (signal == 0).then(|| low_byte(status >> 8));
    }
    if let Some(extra) = document.pktscope.as_mut().and_then(|extras| extras.process.as_mut()) {
        extra.exit_signal = (signal != 0).then_some(signal);
    }
    document
}

struct Step {
    action: &'static str,
    types: &'static [&'static str],
    at: Option<Time>,
}

fn process_event<'a>(subject: &'a Process, now: Moment, step: Step) -> Document<'a> {
    let event = Event {
        kind: Some("event"),
        category: Some(["process"]),
        r#type: Some(step.types),
        dataset: Some("pktscope.process"),
        action: Some(step.action),
        ..Event::default()
    };
    Document { timestamp: step.at.or(time(now.boot, now)), event: Some(event), ..process(subject, now) }
}

/// A DNS message; the source is who asked.
pub(super) fn dns<'a>(message: &'a DnsMessage, now: Moment) -> Document<'a> {
    let flow = &message.flow;
    let bytes = Some(u64::from(message.message_bytes));
    let (client, server) =
        if message.is_response { (flow.destination, flow.source) } else { (flow.source, flow.destination) };
    let end = |end: Endpoint, bytes| Side { ip: Some(end.addr), port: Some(end.port), bytes, ..Side::default() };
    let mut document = message.process.as_deref().map_or_else(Document::default, |owner| process(owner, now));
    document.timestamp = time(message.at, now);
    document.event = Some(Event {
        kind: Some("event"),
        category: NETWORK,
        r#type: Some(&["protocol"]),
        dataset: Some("pktscope.dns"),
        action: Some(if message.is_response { "dns_answered" } else { "dns_asked" }),
        ..Event::default()
    });
    document.network = Some(Network {
        transport: Some(transport(flow.transport)),
        r#type: Some(if client.addr.is_ipv4() { "ipv4" } else { "ipv6" }),
        iana_number: Some(Digits(flow.transport.0)),
        protocol: Some("dns"),
        direction: Some(dns_direction(message).word()),
        community_id: Some(community_id(flow.transport, client, server, None)),
        ..Network::default()
    });
    document.source = Some(end(client, bytes.filter(|_| !message.is_response)));
    document.destination = Some(end(server, bytes.filter(|_| message.is_response)));
    document.dns = Some(dns_fields(message));
    document.pktscope.get_or_insert_default().dns =
        Some(DnsExtra { message_bytes: Some(message.message_bytes), direction: Some(message.direction.word()) });
    document
}

/// The exchange's direction: of a question the message's own, of an answer the other one.
fn dns_direction(message: &DnsMessage) -> Direction {
    match (message.is_response, message.direction) {
        (true, Direction::Ingress) | (false, Direction::Egress) => Direction::Egress,
        (true, Direction::Egress) | (false, Direction::Ingress) => Direction::Ingress,
    }
}

fn dns_fields(message: &DnsMessage) -> Dns<'_> {
    let addresses: Vec<IpAddr> = message.answers.iter().filter_map(address).collect();
    Dns {
        r#type: Some(if message.is_response { "answer" } else { "query" }),
        id: Some(Digits(message.id)),
        question: Some(DnsQuestion {
            name: Some(&message.question),
            r#type: Some(record_type_word(message.question_type)),
            registered_domain: None,
        }),
        response_code: message.is_response.then(|| response_code_word(message.response_code)),
        answers: (!message.answers.is_empty()).then(|| message.answers.iter().map(answer).collect()),
        resolved_ip: (!addresses.is_empty()).then_some(addresses),
    }
}

fn address(answer: &DnsAnswer) -> Option<IpAddr> {
    match answer {
        DnsAnswer::Address { addr, .. } => Some(*addr),
        _ => None,
    }
}

fn answer(answer: &DnsAnswer) -> AnswerFields<'_> {
    match answer {
        DnsAnswer::Address { name, addr, ttl } => AnswerFields {
            name: Some(name),
            r#type: Some(if addr.is_ipv4() { "A" } else { "AAAA" }.into()),
            data: Some(addr.to_string().into()),
            ttl: Some(*ttl),
            bytes: None,
        },
        DnsAnswer::Alias { name, target, ttl } => AnswerFields {
            name: Some(name),
            r#type: Some("CNAME".into()),
            data: Some((&**target).into()),
            ttl: Some(*ttl),
            bytes: None,
        },
        DnsAnswer::Other { record_type, data_bytes } => AnswerFields {
            r#type: Some(record_type_word(*record_type)),
            bytes: Some(*data_bytes),
            ..AnswerFields::default()
        },
    }
}

/// An alert, with the fields of its flow and its process.
pub(super) fn alert<'a>(alert: &'a Alert, now: Moment) -> Document<'a> {
    let mut document = alert.flow.as_deref().map_or_else(Document::default, |subject| flow(subject, now));
    if let Some(program) = alert.process.as_deref() {
        let about = process(program, now);
        document.process = about.process;
        document.user = about.user;
        document.container = about.container;
        document.package = about.package;
        let extras = document.pktscope.get_or_insert_default();
        extras.cgroup = cgroup(program);
        extras.process = Some(process_extra(program));
    }
    document.timestamp = Some(Time(alert.at.wall));
    document.message = Some(&alert.message);
    document.event = Some(Event {
        kind: Some("alert"),
        category: NETWORK,
        r#type: Some(&["info"]),
        dataset: Some("pktscope.alert"),
        action: Some("alert_raised"),
        severity: Some(alert.severity.number()),
        ..alert.flow.as_deref().map_or_else(Event::default, |subject| times(subject, now))
    });
    document.rule = Some(Rule { id: Some(alert.rule.id()), name: Some(alert.rule.name()) });
    document.dns = alert.domain.as_deref().map(|domain| Dns {
        question: Some(DnsQuestion { registered_domain: Some(domain), ..DnsQuestion::default() }),
        ..Dns::default()
    });
    document.pktscope.get_or_insert_default().alert = Some(AlertFields {
        id: Some(alert.id),
        severity: Some(alert.severity.name()),
        dedup_key: Some(&alert.dedup_key),
        evidence: Some(EvidenceObject(&alert.evidence)),
    });
    document
}

/// A closed ledger interval.
pub(super) fn ledger(ledger: &Ledger, now: Moment) -> Document<'_> {
    let event = Event {
        kind: Some("metric"),
        category: NETWORK,
        r#type: Some(&["info"]),
        dataset: Some("pktscope.ledger"),
        action: Some("ledger_closed"),
        start: time(ledger.started_at, now),
        end: time(ledger.ended_at, now),
        duration: Some(nanos(ledger.ended_at.since(ledger.started_at))),
        ..Event::default()
    };
    let fields = LedgerFields {
        tx: Some(ledger_side(&ledger.tx)),
        rx: Some(ledger_side(&ledger.rx)),
        lost: Some(Counters(&ledger.lost)),
    };
    Document {
        timestamp: time(ledger.ended_at, now),
        event: Some(event),
        pktscope: Some(Pktscope { ledger: Some(fields), ..Pktscope::default() }),
        ..Document::default()
    }
}

fn ledger_side(side: &LedgerSide) -> LedgerSideFields<'_> {
    LedgerSideFields {
        interface_bytes: Some(side.interface_bytes),
        attributed_bytes: Some(side.attributed_bytes),
        kernel_bytes: Some(side.kernel_bytes),
        forwarded_bytes: Some(side.forwarded_bytes),
        unknown_bytes: Some(side.unknown_bytes),
        counted_twice_bytes: Some(side.counted_twice_bytes),
        by_reason: Some(Counters(&side.by_reason)),
    }
}
