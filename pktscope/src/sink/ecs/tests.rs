//! Every expected Community ID was computed by the specification's own Python package.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Exporter, rfc3339};
use crate::{
    core::{
        alert::{Alert, Evidence, Fact, RuleId, Severity},
        effect::{Effect, Ledger, LedgerSide},
        event::{DnsAnswer, DnsMessage, FlowRef},
        flow::{
            Attribution, Direction, EndReason, Flow, FlowAction, FlowChange, Geo, Method, Owner, Transport,
            UnknownReason,
        },
        process::{ImageHash, Process, ProcessKey, Script},
        time::Moment,
    },
    fixtures::{boot, curl, endpoint, flow, now},
};

fn exported(effect: &Effect) -> Value {
    let mut line = Vec::new();
    assert!(Exporter { host_name: "ada-laptop".into() }.line(effect, now(), &mut line));
    assert_eq!(line.pop(), Some(b'\n'));
    assert!(!line.contains(&b'\n'));
    let mut value: Value = serde_json::from_slice(&line).unwrap();
    let created = value["event"].as_object_mut().and_then(|event| event.remove("created"));
    assert_eq!(created, Some(json!(rfc3339(now().wall).as_str())));
    value
}

fn ended(flow: Flow) -> Effect {
    Effect::Flow(FlowChange { action: FlowAction::Ended, at: boot(14), flow: Arc::new(flow) })
}

fn curl_fields() -> Value {
    json!({
        "process": {
            "pid": 4242, "name": "curl", "executable": "/usr/bin/curl", "start": "2026-11-20T00:00:09.000000001Z",
            "entity_id": "b0:4242:9", "hash": {"sha256": "ab12"}, "command_line": "curl https://example.com/",
            "parent": {"pid": 4000, "start": "2026-11-20T00:00:05.000000000Z", "executable": "/usr/bin/bash"},
        },
        "user": {"id": "1000", "name": "ada"},
        "container": {"id": "c0ffee", "image": {"name": "debian:12"}},
        "package": {"type": "dpkg", "name": "curl", "version": "7.88.1-10"},
    })
}

fn curl_extras() -> Value {
    json!({
        "cgroup": {"id": 5150, "path": "/user.slice"},
        "process": {
            "started_at": 9_000_000_001_u64, "parent_started_at": 5_000_000_000_u64, "device": 2049, "inode": 77,
            "package_is_unmodified": true,
        },
    })
}

fn merged(mut base: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("an object is needed") };
    base.as_object_mut().unwrap().extend(more);
    base
}

fn flow_sides() -> Value {
    json!({
        "network": {
            "transport": "tcp", "type": "ipv4", "iana_number": "6", "direction": "egress",
            "bytes": 5900, "packets": 17, "community_id": "1:ztN3/evCNA9zfXsD4kLThwlLUxw=",
        },
        "source": {"ip": "192.0.2.10", "port": 43210, "bytes": 900, "packets": 9},
        "destination": {
            "ip": "93.184.216.34", "port": 443, "bytes": 5000, "packets": 8,
            "domain": "www.example.com", "registered_domain": "example.com",
            "geo": {"country_iso_code": "US"}, "as": {"number": 15133, "organization": {"name": "Edgecast"}},
        },
        "tls": {"client": {
            "server_name": "www.example.com", "ja4": "t13d1516h2_8daaf6152771_02713d6af862",
            "supported_protocols": ["h2", "http/1.1"],
        }},
        "host": {"name": "ada-laptop"},
    })
}

fn flow_extras() -> Value {
    merged(
        curl_extras(),
        json!({
            "flow_id": 7, "domain_source": "tls_sni", "domain_age": 2_000_000_000_u64, "domain_candidates": 1, "has_encrypted_hello": false,
            "payload": {"source_bytes": 400, "destination_bytes": 4600},
            "attribution": {"status": "process", "method": "connect"},
            "history": "ShADadFf", "conn_state": "SF",
            "tcp": {
                "source_retransmitted": 1, "destination_retransmitted": 0,
                "source_out_of_order": 0, "destination_out_of_order": 2,
                "source_gap_bytes": 0, "destination_gap_bytes": 0, "handshake_rtt": 30_000_000,
            },
        }),
    )
}

#[test]
fn an_ended_flow_carries_every_field() {
    let expected = json!({
        "@timestamp": "2026-11-20T00:00:14.000000000Z",
        "event": {
            "kind": "event", "category": ["network"], "type": ["connection", "end"], "dataset": "pktscope.flow",
            "action": "flow_ended", "reason": "end_of_flow", "start": "2026-11-20T00:00:10.000000000Z",
            "end": "2026-11-20T00:00:13.000000000Z", "duration": 3_000_000_000_u64,
        },
        "pktscope": flow_extras(),
    });
    let expected = merged(merged(expected, flow_sides()), curl_fields());
    assert_eq!(exported(&ended(flow())), expected);
}

#[test]
fn a_whole_flow_is_told_as_its_start_and_its_end() {
    let Effect::Flow(change) = ended(flow()) else { panic!("a flow") };
    let mut whole = Vec::new();
    let effect = Effect::Flow(FlowChange { action: FlowAction::Whole, ..change.clone() });
    assert!(Exporter::default().line(&effect, now(), &mut whole));
    let open = Flow { ended: None, ..flow() };
    let started = Effect::Flow(FlowChange { action: FlowAction::Started, flow: open.into(), ..change.clone() });
    let mut apart = Vec::new();
    for effect in [started, Effect::Flow(change)] {
        assert!(Exporter::default().line(&effect, now(), &mut apart));
    }
    assert_eq!(String::from_utf8(whole).unwrap(), String::from_utf8(apart).unwrap());
}

#[test]
fn a_flow_that_timed_out_ended_with_its_last_packet() {
    let value = exported(&ended(Flow { ended: Some((boot(72), EndReason::IdleTimeout)), ..flow() }));
    assert_eq!(value["event"]["end"], "2026-11-20T00:00:12.000000000Z");
    assert_eq!(value["event"]["duration"], 2_000_000_000_u64);
    assert_eq!(value["event"]["reason"], "idle_timeout");
}

#[test]
fn an_icmp_flow_of_the_kernel_has_neither_ports_nor_a_process() {
    let effect = ended(Flow {
        transport: Transport::ICMPV6,
        source: endpoint("2001:db8::1", 0),
        destination: endpoint("2001:db8::2", 0),
        icmp: Some((128, 0)),
        attribution: Attribution::Kernel,
        ended: Some((boot(40), EndReason::IdleTimeout)),
        domain: None,
        geo: Geo::default(),
        tcp: None,
        tls: None,
        ..flow()
    });
    let expected = json!({
        "@timestamp": "2026-11-20T00:00:14.000000000Z",
        "event": {
            "kind": "event", "category": ["network"], "type": ["connection", "end"], "dataset": "pktscope.flow",
            "action": "flow_ended", "reason": "idle_timeout", "start": "2026-11-20T00:00:10.000000000Z",
            "end": "2026-11-20T00:00:12.000000000Z", "duration": 2_000_000_000_u64,
        },
        "host": {"name": "ada-laptop"},
        "network": {
            "transport": "ipv6-icmp", "type": "ipv6", "iana_number": "58", "direction": "egress",
            "bytes": 5900, "packets": 17, "community_id": "1:u2vMS3HiWth2lIMKHB1fjELshpQ=",
        },
        "source": {"ip": "2001:db8::1", "bytes": 900, "packets": 9},
        "destination": {"ip": "2001:db8::2", "bytes": 5000, "packets": 8},
        "pktscope": {
            "flow_id": 7, "payload": {"source_bytes": 400, "destination_bytes": 4600},
            "attribution": {"status": "kernel"}, "icmp": {"type": 128, "code": 0},
        },
    });
    assert_eq!(exported(&effect), expected);
}

#[test]
fn an_unknown_owner_comes_with_its_reason_and_another_creator_with_its_pid() {
    let unknown = Attribution::Unknown(UnknownReason::SocketOlderThanAgent);
    let value = exported(&ended(Flow { attribution: unknown, ..flow() }));
    assert_eq!(value["pktscope"]["attribution"], json!({"status": "unknown", "reason": "socket_older_than_agent"}));
    assert_eq!(value.get("process"), None);

    let handed_on = Attribution::Process(Owner {
        process: curl(),
        method: Method::Sendmsg,
        creator: Some(ProcessKey { pid: 1, started_at: boot(1) }),
        ambiguity: Some("held by 3 processes".into()),
    });
    let value = exported(&ended(Flow { attribution: handed_on, ..flow() }));
    let expected =
        json!({"status": "process", "method": "sendmsg", "creator_pid": 1, "ambiguity": "held by 3 processes"});
    assert_eq!(value["pktscope"]["attribution"], expected);
}

#[test]
fn an_open_flow_has_no_reason() {
    let open = Flow { ended: None, ..flow() };
    for (action, word, kind) in
        [(FlowAction::Started, "flow_started", "start"), (FlowAction::Updated, "flow_updated", "info")]
    {
        let effect = Effect::Flow(FlowChange { action, at: boot(12), flow: Arc::new(open.clone()) });
        let event = &exported(&effect)["event"];
        assert_eq!((&event["action"], &event["type"][1], event.get("reason")), (&json!(word), &json!(kind), None));
    }
}

#[test]
fn a_process_starts_and_ends_with_its_exit_code() {
    let started = exported(&Effect::ProcessStarted(curl()));
    let expected = json!({
        "@timestamp": "2026-11-20T00:00:09.000000001Z",
        "event": {
            "kind": "event", "category": ["process"], "type": ["start"], "dataset": "pktscope.process",
            "action": "process_started",
        },
        "host": {"name": "ada-laptop"},
        "pktscope": curl_extras(),
    });
    assert_eq!(started, merged(expected, curl_fields()));

    let ended = exported(&Effect::ProcessEnded(curl(), boot(20), 3 << 8));
    assert_eq!(ended["@timestamp"], "2026-11-20T00:00:20.000000000Z");
    assert_eq!((&ended["process"]["exit_code"], &ended["process"]["end"]), (&json!(3), &ended["@timestamp"]));
    let killed = exported(&Effect::ProcessEnded(curl(), boot(20), 9));
    assert_eq!(killed["pktscope"]["process"]["exit_signal"], 9);
    assert_eq!(killed["process"].get("exit_code"), None);
}

#[test]
fn a_process_whose_image_cannot_be_read_says_why() {
    let script = Script { path: "/opt/job.py".into(), hash: ImageHash::Sha256("cd34".into()), package: None };
    let process = Process {
        hash: ImageHash::Unreadable("permission denied".into()),
        script: Some(Arc::new(script)),
        missing: Some("executable: process ended first".into()),
        ..(*curl()).clone()
    };
    let value = exported(&Effect::ProcessStarted(Arc::new(process)));
    let extra = &value["pktscope"]["process"];
    assert_eq!(extra["hash_error"], "permission denied");
    assert_eq!(extra["script"], json!({"path": "/opt/job.py", "sha256": "cd34"}));
    assert_eq!(extra["missing"], "executable: process ended first");
    assert_eq!(value["process"].get("hash"), None);
}

#[test]
fn a_dns_answer_is_told_from_the_side_of_who_asked() {
    let (client, server) = (endpoint("192.0.2.10", 50_000), endpoint("192.0.2.53", 53));
    let message = DnsMessage {
        flow: FlowRef { cookie: 9, transport: Transport::UDP, source: server, destination: client },
        process: None,
        direction: Direction::Ingress,
        at: boot(11),
        id: 4711,
        is_response: true,
        question: "www.example.com".into(),
        question_type: 28,
        response_code: 0,
        answers: vec![
            DnsAnswer::Alias { name: "www.example.com".into(), target: "example.com".into(), ttl: 60 },
            DnsAnswer::Address { name: "example.com".into(), addr: "2001:db8::80".parse().unwrap(), ttl: 300 },
            DnsAnswer::Other { record_type: 16, data_bytes: 120 },
        ],
        message_bytes: 180,
    };
    let expected = json!({
        "@timestamp": "2026-11-20T00:00:11.000000000Z",
        "event": {
            "kind": "event", "category": ["network"], "type": ["protocol"], "dataset": "pktscope.dns",
            "action": "dns_answered",
        },
        "host": {"name": "ada-laptop"},
        "network": {
            "transport": "udp", "type": "ipv4", "iana_number": "17", "protocol": "dns", "direction": "egress",
            "community_id": "1:YLNFF4IpL8RuR7aIV+wi25MMyyQ=",
        },
        "source": {"ip": "192.0.2.10", "port": 50000},
        "destination": {"ip": "192.0.2.53", "port": 53, "bytes": 180},
        "dns": {
            "type": "answer", "id": "4711", "question": {"name": "www.example.com", "type": "AAAA"},
            "response_code": "NOERROR",
            "answers": [
                {"name": "www.example.com", "type": "CNAME", "data": "example.com", "ttl": 60},
                {"name": "example.com", "type": "AAAA", "data": "2001:db8::80", "ttl": 300},
                {"type": "TXT", "bytes": 120},
            ],
            "resolved_ip": ["2001:db8::80"],
        },
        "pktscope": {"dns": {"message_bytes": 180, "direction": "ingress"}},
    });
    assert_eq!(exported(&Effect::Dns(Arc::new(message))), expected);
}

#[test]
fn an_alert_carries_its_evidence_its_flow_and_its_process() {
    let alert = Alert {
        id: 12,
        rule: RuleId::Beaconing,
        severity: Severity::Warning,
        at: Moment { boot: boot(30), wall: now().wall_at(boot(30)) },
        message: "curl calls example.com every 60 s".to_owned(),
        dedup_key: "beacon|curl|example.com".to_owned(),
        evidence: Evidence(vec![
            ("beats", Fact::Number(12)),
            ("score", Fact::Real(0.75)),
            ("destination", Fact::Text("example.com".into())),
            ("is_learned", Fact::Flag(false)),
            ("usual", Fact::List(vec!["a.example".into(), "b.example".into()])),
        ]),
        flow: Some(Arc::new(flow())),
        process: Some(curl()),
        domain: None,
    };
    let expected = json!({
        "@timestamp": "2026-11-20T00:00:30.000000000Z",
        "message": "curl calls example.com every 60 s",
        "event": {
            "kind": "alert", "category": ["network"], "type": ["info"], "dataset": "pktscope.alert",
            "action": "alert_raised", "severity": 2, "start": "2026-11-20T00:00:10.000000000Z",
            "end": "2026-11-20T00:00:13.000000000Z", "duration": 3_000_000_000_u64,
        },
        "rule": {"id": "beaconing", "name": "Beaconing"},
        "pktscope": merged(flow_extras(), json!({"alert": {
            "id": 12, "severity": "warning", "dedup_key": "beacon|curl|example.com",
            "evidence": {
                "beats": 12, "score": 0.75, "destination": "example.com", "is_learned": false,
                "usual": ["a.example", "b.example"],
            },
        }})),
    });
    let expected = merged(merged(expected, flow_sides()), curl_fields());
    assert_eq!(exported(&Effect::Alert(Arc::new(alert.clone()))), expected);

    let about_a_name = Alert { flow: None, domain: Some("tunnel.example".into()), ..alert };
    let value = exported(&Effect::Alert(Arc::new(about_a_name)));
    assert_eq!(value["dns"]["question"], json!({"registered_domain": "tunnel.example"}));
    assert_eq!(value.get("destination"), None);
    assert_eq!(value["process"]["executable"], "/usr/bin/curl");
}

#[test]
fn a_ledger_interval_names_every_reason() {
    let side = |unknown_bytes, by_reason| LedgerSide {
        interface_bytes: 100,
        attributed_bytes: 70,
        kernel_bytes: 20,
        forwarded_bytes: 5,
        unknown_bytes,
        by_reason,
        counted_twice_bytes: 0,
    };
    let ledger = Ledger {
        started_at: boot(10),
        ended_at: boot(20),
        tx: side(5, vec![("af_packet", 3), ("no_socket", 2)]),
        rx: side(0, vec![]),
        lost: vec![("ring_full", 0)],
    };
    let fields = |unknown: u64, by_reason: Value| {
        json!({
            "interface_bytes": 100, "attributed_bytes": 70, "kernel_bytes": 20, "forwarded_bytes": 5,
            "unknown_bytes": unknown, "counted_twice_bytes": 0, "by_reason": by_reason,
        })
    };
    let expected = json!({
        "@timestamp": "2026-11-20T00:00:20.000000000Z",
        "event": {
            "kind": "metric", "category": ["network"], "type": ["info"], "dataset": "pktscope.ledger",
            "action": "ledger_closed", "start": "2026-11-20T00:00:10.000000000Z",
            "end": "2026-11-20T00:00:20.000000000Z", "duration": 10_000_000_000_u64,
        },
        "host": {"name": "ada-laptop"},
        "pktscope": {"ledger": {
            "tx": fields(5, json!({"af_packet": 3, "no_socket": 2})),
            "rx": fields(0, json!({})),
            "lost": {"ring_full": 0},
        }},
    });
    assert_eq!(exported(&Effect::Ledger(Arc::new(ledger))), expected);
}

#[test]
fn a_lookup_is_nothing_to_export() {
    let lookup = Effect::Lookup(crate::core::effect::Lookup::Geo("192.0.2.1".parse().unwrap()));
    let mut out = Vec::new();
    assert!(!Exporter::default().line(&lookup, now(), &mut out));
    assert!(out.is_empty());
}
