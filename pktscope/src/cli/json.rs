//! Stored rows as the events they were, in the export's names.

use std::{borrow::Cow, net::IpAddr};

use crate::{
    core::{
        community_id::community_id,
        dns_words::{record_type_word, response_code_word},
        flow::{Endpoint, Transport, Volume},
        time::WallTime,
    },
    sink::ecs::{
        Exporter,
        document::{
            Attribution, AutonomousSystem, Cgroup, Container, Digits, Dns, DnsAnswer, DnsExtra, DnsQuestion, Document,
            Event, Geo, Hash, Icmp, Named, Network, Package, Parent, Payload, Pktscope, Process, ProcessExtra, Script,
            Side, Time, Tls, TlsClient, User,
        },
        has_ports,
    },
    store::{DnsRow, FlowRow, ProcessRow},
};

/// Appends a document as a line.
pub(super) fn line(document: Document<'_>, out: &mut Vec<u8>) {
    Exporter::default().write(document, out);
    out.push(b'\n');
}

/// A flow as `flow_ended`, or `flow_updated` where it is open.
pub(super) fn flow(row: &FlowRow) -> Document<'_> {
    let [source_port, destination_port] =
        [row.source_port, row.destination_port].map(|port| has_ports(row.transport).then_some(port));
    let mut document = row.process.as_ref().map_or_else(Document::default, process);
    document.timestamp = Some(Time(row.ended_at.unwrap_or(row.last_seen)));
    document.event = Some(flow_event(row));
    document.network = Some(flow_network(row));
    document.source = Some(side(row.source_ip, source_port, &row.sent));
    document.destination = Some(Side {
        domain: row.domain.as_deref(),
        registered_domain: row.registered_domain.as_deref(),
        geo: row.country.as_deref().map(|code| Geo { country_iso_code: Some(code) }),
        r#as: autonomous_system(row.as_number, row.as_organization.as_deref()),
        ..side(row.destination_ip, destination_port, &row.received)
    });
    document.tls = row.ja4.as_deref().map(|ja4| Tls {
        client: Some(TlsClient { server_name: row.server_name.as_deref(), ja4: Some(ja4), ..TlsClient::default() }),
    });
    add_flow_extras(row, document.pktscope.get_or_insert_default());
    document
}

fn flow_event(row: &FlowRow) -> Event<'_> {
    let is_over = row.ended_at.is_some();
    let end = match row.end_reason.as_deref() {
        Some("end_of_flow" | "reset") => row.ended_at.unwrap_or(row.last_seen).max(row.last_seen),
        _ => row.last_seen,
    };
    Event {
        kind: Some("event"),
        category: Some(["network"]),
        r#type: Some(if is_over { &["connection", "end"] } else { &["connection", "info"] }),
        dataset: Some("pktscope.flow"),
        action: Some(if is_over { "flow_ended" } else { "flow_updated" }),
        reason: row.end_reason.as_deref(),
        start: Some(Time(row.started_at)),
        end: Some(Time(end)),
        duration: u64::try_from(end.since(row.started_at).as_nanos()).ok(),
        ..Event::default()
    }
}

fn flow_network(row: &FlowRow) -> Network<'_> {
    let source = Endpoint { addr: row.source_ip, port: row.source_port };
    let destination = Endpoint { addr: row.destination_ip, port: row.destination_port };
    Network {
        direction: Some(&row.direction),
        community_id: Some(community_id(row.transport, source, destination, row.icmp)),
        bytes: Some(row.sent.ip_bytes.saturating_add(row.received.ip_bytes)),
        packets: Some(row.sent.packets.saturating_add(row.received.packets)),
        ..network(row.transport, row.source_ip)
    }
}

fn network<'a>(transport: Transport, source: IpAddr) -> Network<'a> {
    Network {
        transport: Some(transport.name().map_or_else(|| Cow::Owned(transport.0.to_string()), Cow::Borrowed)),
        r#type: Some(if source.is_ipv4() { "ipv4" } else { "ipv6" }),
        iana_number: Some(Digits(transport.0)),
        ..Network::default()
    }
}

fn side<'a>(ip: IpAddr, port: Option<u16>, volume: &Volume) -> Side<'a> {
    Side { ip: Some(ip), port, bytes: Some(volume.ip_bytes), packets: Some(volume.packets), ..Side::default() }
}

fn autonomous_system(number: Option<u32>, name: Option<&str>) -> Option<AutonomousSystem<'_>> {
    let organization = name.map(|name| Named { name: Some(name) });
    (number.is_some() || organization.is_some()).then_some(AutonomousSystem { number, organization })
}

fn add_flow_extras<'a>(row: &'a FlowRow, extras: &mut Pktscope<'a>) {
    extras.flow_id = Some(row.flow_id);
    extras.flows = (row.flows != 1).then_some(row.flows);
    extras.domain_source = row.domain_source.as_deref();
    extras.domain_candidates = row.domain_candidates;
    extras.domain_age = row.domain_age;
    extras.payload = Some(Payload {
        source_bytes: Some(row.sent.payload_bytes),
        destination_bytes: Some(row.received.payload_bytes),
    });
    extras.attribution = Some(Attribution {
        method: row.method.as_deref(),
        status: Some(&row.status),
        reason: row.reason.as_deref(),
        creator_pid: row.creator_pid,
        ambiguity: row.ambiguity.as_deref(),
    });
    extras.history = row.history.as_deref();
    extras.conn_state = row.conn_state.as_deref();
    extras.icmp = row.icmp.map(|(kind, code)| Icmp { r#type: Some(kind), code: Some(code) });
    extras.has_encrypted_hello = row.has_encrypted_hello;
}

/// A process as a part of any event.
pub(super) fn process(row: &ProcessRow) -> Document<'_> {
    let time = |at: Option<WallTime>| at.map(Time);
    let exit_code =
        row.wait_status.filter(|status| status & 0x7f == 0).and_then(|status| u8::try_from(status >> 8).ok());
    Document {
        process: Some(Process {
            pid: Some(row.pid),
            name: some(&row.name),
            executable: some(&row.executable),
            start: time(row.started_at),
            end: time(row.ended_at),
            exit_code,
            entity_id: some(&row.entity_id),
            hash: row.sha256.as_deref().map(|sha256| Hash { sha256: Some(sha256) }),
            command_line: some(&row.command_line),
            parent: row.parent_pid.map(|pid| Parent {
                pid: Some(pid),
                start: None,
                executable: row.parent_executable.as_deref(),
            }),
        }),
        user: row.uid.map(|uid| User { id: Some(Digits(uid)), name: row.user.as_deref() }),
        container: row.container_id.as_deref().map(|id| Container {
            id: Some(id),
            image: row.container_image.as_deref().map(|name| Named { name: Some(name) }),
        }),
        package: row.package_name.as_deref().map(|name| Package {
            r#type: row.package_manager.as_deref(),
            name: Some(name),
            version: row.package_version.as_deref(),
        }),
        pktscope: Some(process_extras(row)),
        ..Document::default()
    }
}

fn process_extras(row: &ProcessRow) -> Pktscope<'_> {
    let has_cgroup = row.cgroup_id.is_some() || row.cgroup_path.is_some();
    Pktscope {
        cgroup: has_cgroup.then_some(Cgroup { id: row.cgroup_id, path: row.cgroup_path.as_deref() }),
        process: Some(ProcessExtra {
            hash_error: row.hash_error.as_deref(),
            package_is_unmodified: row.package_is_unmodified,
            script: row.script_path.as_deref().map(|path| Script {
                path: Some(path),
                sha256: row.script_sha256.as_deref(),
                ..Script::default()
            }),
            missing: row.missing.as_deref(),
            exit_signal: row
                .wait_status
                .and_then(|status| u8::try_from(status & 0x7f).ok())
                .filter(|signal| *signal != 0),
            ..ProcessExtra::default()
        }),
        ..Pktscope::default()
    }
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// A process as `process_started`, or `process_ended`, with what it sent.
pub(super) fn process_event(row: &ProcessRow) -> Document<'_> {
    let is_over = row.ended_at.is_some();
    let traffic = row.traffic.unwrap_or_default();
    let mut document = process(row);
    document.timestamp = row.ended_at.or(row.started_at).map(Time);
    document.event = Some(Event {
        kind: Some("event"),
        category: Some(["process"]),
        r#type: Some(if is_over { &["end"] } else { &["start"] }),
        dataset: Some("pktscope.process"),
        action: Some(if is_over { "process_ended" } else { "process_started" }),
        ..Event::default()
    });
    document.source = Some(Side { bytes: Some(traffic.bytes_out), ..Side::default() });
    document.destination = Some(Side { bytes: Some(traffic.bytes_in), ..Side::default() });
    document.pktscope.get_or_insert_default().flows = Some(traffic.flows);
    document
}

/// A DNS answer as `dns_answered`.
pub(super) fn dns(row: &DnsRow) -> Document<'_> {
    let client = Endpoint { addr: row.client_ip, port: row.client_port };
    let server = Endpoint { addr: row.server_ip, port: row.server_port };
    let end = |end: Endpoint, bytes| Side { ip: Some(end.addr), port: Some(end.port), bytes, ..Side::default() };
    let mut document = row.process.as_ref().map_or_else(Document::default, process);
    document.timestamp = Some(Time(row.at));
    document.event = Some(Event {
        kind: Some("event"),
        category: Some(["network"]),
        r#type: Some(&["protocol"]),
        dataset: Some("pktscope.dns"),
        action: Some("dns_answered"),
        ..Event::default()
    });
    document.network = Some(Network {
        protocol: Some("dns"),
        community_id: Some(community_id(row.transport, client, server, None)),
        ..network(row.transport, row.client_ip)
    });
    document.source = Some(end(client, None));
    document.destination = Some(end(server, Some(row.message_bytes.into())));
    let answers = answers(row);
    let addresses: Vec<IpAddr> = answers.iter().filter_map(|answer| answer.data.as_deref()?.parse().ok()).collect();
    document.dns = Some(Dns {
        r#type: Some("answer"),
        question: Some(DnsQuestion {
            name: Some(&row.question),
            r#type: Some(record_type_word(row.question_type)),
            registered_domain: None,
        }),
        response_code: Some(response_code_word(row.response_code)),
        answers: (!answers.is_empty()).then_some(answers),
        resolved_ip: (!addresses.is_empty()).then_some(addresses),
        ..Dns::default()
    });
    document.pktscope.get_or_insert_default().dns =
        Some(DnsExtra { message_bytes: Some(row.message_bytes), direction: None });
    document
}

fn answers(row: &DnsRow) -> Vec<DnsAnswer<'_>> {
    let number = |value: &serde_json::Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let stored = row.answers.as_array().map(Vec::as_slice).unwrap_or_default();
    stored
        .iter()
        .map(|answer| {
            let addr: Option<IpAddr> = answer["data"].as_str().and_then(|text| text.parse().ok());
            let kind = match addr {
                Some(IpAddr::V4(_)) => Cow::Borrowed("A"),
                Some(IpAddr::V6(_)) => Cow::Borrowed("AAAA"),
                None if answer["alias"].is_string() => Cow::Borrowed("CNAME"),
                None => {
                    record_type_word(answer["type"].as_u64().and_then(|kind| u16::try_from(kind).ok()).unwrap_or(0))
                }
            };
            DnsAnswer {
                name: answer["name"].as_str(),
                r#type: Some(kind),
                data: answer["data"].as_str().or(answer["alias"].as_str()).map(Cow::Borrowed),
                ttl: number(&answer["ttl"]),
                bytes: number(&answer["bytes"]),
            }
        })
        .collect()
}
