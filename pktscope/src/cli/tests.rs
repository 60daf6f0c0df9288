use std::sync::Arc;

use clap::{CommandFactory as _, Parser as _};
use jiff::tz::TimeZone;
use serde_json::Value;

use super::{Arguments, Exit, json, listing::Rows};
use crate::{
    api::{HookReport, LedgerReport, LedgerSideReport, StatusReport},
    config::ConfigError,
    core::{
        alert::{Alert, Evidence, RuleId, Severity},
        effect::Effect,
        event::{DnsAnswer, DnsMessage, FlowRef},
        flow::{Attribution, Direction, Flow, FlowAction, FlowChange, FlowId, Transport, UnknownReason, Volume},
        time::Moment,
    },
    fixtures::{boot, curl, endpoint, flow, now},
    sink::ecs::Exporter,
    store::{Batch, Query, Reader, Store, StoreError, StoreOptions},
    view::{Clock, Paper, Table, status_text},
};

fn stored(effects: &[Effect]) -> (tempfile::TempDir, Reader) {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::default();
    let document = move |alert: &Alert, now: Moment| exporter.alert_text(alert, now);
    let store =
        Store::open(folder.path(), StoreOptions::new(&crate::config::Store::default(), Box::new(document))).unwrap();
    store.handle().push(Batch { effects, now: now(), ..Batch::default() });
    store.close().unwrap();
    let reader = Reader::open(folder.path()).unwrap();
    (folder, reader)
}

fn exported(effect: &Effect) -> Value {
    let mut out = Vec::new();
    assert!(Exporter::default().line(effect, now(), &mut out));
    serde_json::from_slice(&out).unwrap()
}

fn change(flow: Flow) -> Effect {
    let action = if flow.ended.is_some() { FlowAction::Ended } else { FlowAction::Updated };
    Effect::Flow(FlowChange { action, at: flow.last_seen, flow: Arc::new(flow) })
}

fn alert() -> Effect {
    Effect::Alert(Arc::new(Alert {
        id: 3,
        rule: RuleId::NewProcessDest,
        severity: Severity::Critical,
        at: Moment { boot: boot(30), wall: now().wall_at(boot(30)) },
        message: "curl met www.example.com".to_owned(),
        dedup_key: "new_process_dest|curl|example.com".to_owned(),
        evidence: Evidence::default(),
        flow: Some(Arc::new(flow())),
        process: Some(curl()),
        domain: None,
    }))
}

fn dns() -> Effect {
    Effect::Dns(Arc::new(DnsMessage {
        flow: FlowRef {
            cookie: 1,
            transport: Transport::UDP,
            source: endpoint("192.0.2.53", 53),
            destination: endpoint("192.0.2.10", 50_000),
        },
        process: Some(curl()),
        direction: Direction::Ingress,
        at: boot(11),
        id: 1,
        is_response: true,
        question: "www.example.com".into(),
        question_type: 28,
        response_code: 3,
        answers: vec![
            DnsAnswer::Alias { name: "www.example.com".into(), target: "example.com".into(), ttl: 60 },
            DnsAnswer::Address { name: "example.com".into(), addr: "2001:db8::80".parse().unwrap(), ttl: 300 },
            DnsAnswer::Other { record_type: 16, data_bytes: 120 },
        ],
        message_bytes: 180,
    }))
}

/// Takes out of `event` what the store does not keep, so that the rest can be compared to the byte.
fn without(mut event: Value, paths: &[&str]) -> Value {
    for path in paths {
        let (parent, key) = path.rsplit_once('/').unwrap();
        if let Some(fields) = event.pointer_mut(parent).and_then(Value::as_object_mut) {
            fields.remove(key);
        }
    }
    event
}

/// In what an export has and a stored row has not.
const NOT_STORED: [&str; 9] = [
    "/@timestamp",
    "/event/created",
    "/process/parent/start",
    "/pktscope/process/started_at",
    "/pktscope/process/parent_started_at",
    "/pktscope/process/device",
    "/pktscope/process/inode",
    "/pktscope/tcp",
    "/tls/client/supported_protocols",
];

#[test]
fn a_stored_flow_is_printed_as_the_event_it_was() {
    let inbound = Flow { id: FlowId(8), direction: Direction::Ingress, ended: None, ..flow() };
    let ping = Flow {
        id: FlowId(9),
        transport: Transport::ICMP,
        icmp: Some((8, 0)),
        attribution: Attribution::Unknown(UnknownReason::NoSocket),
        domain: None,
        tcp: None,
        tls: None,
        ..flow()
    };
    for flow in [flow(), inbound, ping] {
        let effect = change(flow);
        let (_folder, reader) = stored(std::slice::from_ref(&effect));
        let rows = reader.flows(&Query::default()).unwrap();
        let mut line = Vec::new();
        json::line(json::flow(&rows[0]), &mut line);
        let printed: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(without(printed, &NOT_STORED), without(exported(&effect), &NOT_STORED));
    }
}

#[test]
fn a_stored_dns_answer_is_printed_as_the_event_it_was() {
    let (_folder, reader) = stored(&[dns()]);
    let rows = reader.dns(&Query::default()).unwrap();
    let mut line = Vec::new();
    json::line(json::dns(&rows[0]), &mut line);
    let printed: Value = serde_json::from_slice(&line).unwrap();
    let not_stored = [&NOT_STORED[1..], &["/dns/id", "/network/direction", "/pktscope/dns/direction"]].concat();
    assert_eq!(without(printed, &not_stored), without(exported(&dns()), &not_stored));
}

#[test]
fn a_stored_alert_is_printed_as_the_event_it_was() {
    let (_folder, reader) = stored(&[alert()]);
    let rows = reader.alerts(&Query::default()).unwrap();
    let mut line = Vec::new();
    super::alerts::Alerts.json(&rows[0], &mut line);
    assert_eq!(serde_json::from_slice::<Value>(&line).unwrap(), exported(&alert()));
}

fn clock() -> Clock {
    Clock { now: now().wall, zone: TimeZone::UTC }
}

fn table<R: Rows>(rows: &R, reader: &Reader) -> String {
    let mut table = Table::new(&rows.columns());
    for row in rows.read(reader, &Query::default()).unwrap() {
        table.add(rows.cells(&row, &clock()));
    }
    table.heading(Paper::default()) + &table.take_rows(Paper::default())
}

#[test]
fn flows_read_as_who_talked_to_whom() {
    let open = Flow { id: FlowId(8), direction: Direction::Ingress, ended: None, last_seen: boot(70), ..flow() };
    let kernel = Flow {
        id: FlowId(9),
        transport: Transport::ICMPV6,
        attribution: Attribution::Kernel,
        destination: endpoint("ff02::2", 0),
        source: endpoint("fe80::1", 0),
        sent: Volume { ip_bytes: 56, packets: 1, payload_bytes: 0 },
        received: Volume::default(),
        domain: None,
        tcp: None,
        tls: None,
        last_seen: boot(80),
        ..flow()
    };
    let (_folder, reader) = stored(&[change(flow()), change(open), change(kernel)]);
    let expected = "\
TIME      PROCESS        PEER                 PROTO          SENT  RECEIVED  LASTED  STATE
00:00:12  curl[4242]  →  www.example.com:443  tcp           900 B  4.88 KiB   2.0 s  SF
00:01:10  curl[4242]  ←  192.0.2.10:43210     tcp        4.88 KiB     900 B   1m 0s  open
00:01:20  kernel      →  ff02::2              ipv6-icmp      56 B       0 B  1m 10s  end_of_flow
";
    assert_eq!(table(&super::flows::Flows, &reader), expected);
}

#[test]
fn processes_destinations_answers_and_alerts_have_their_tables() {
    let (_folder, reader) = stored(&[Effect::ProcessEnded(curl(), boot(20), 256), change(flow()), dns(), alert()]);
    let squeezed = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        squeezed(table(&super::processes::Processes, &reader)),
        "STARTED PID USER FLOWS SENT RECEIVED STATE PACKAGE PROGRAM \
         00:00:09 4242 ada 1 900 B 4.88 KiB exit 1 curl curl https://example.com/ (container c0ffee)"
    );
    assert_eq!(
        squeezed(table(&super::destinations::Destinations, &reader)),
        "DESTINATION PORTS COUNTRY NETWORK FLOWS SENT RECEIVED FIRST LAST PROCESSES \
         www.example.com 443 US Edgecast (AS15133) 1 900 B 4.88 KiB 00:00:10 00:00:12 curl"
    );
    assert_eq!(
        squeezed(table(&super::dns::Answers, &reader)),
        "TIME PROCESS QUESTION TYPE CODE ANSWERS SERVER \
         00:00:11 curl[4242] www.example.com AAAA NXDOMAIN example.com 2001:db8::80 192.0.2.53:53"
    );
    assert_eq!(
        squeezed(table(&super::alerts::Alerts, &reader)),
        "TIME ID SEVERITY RULE VERDICT MESSAGE \
         00:00:30 3 critical new_process_dest - curl met www.example.com"
    );
}

#[test]
fn a_destination_says_only_what_is_known() {
    let unnamed = Flow { domain: None, geo: crate::core::flow::Geo::default(), ..flow() };
    let (_folder, reader) = stored(&[change(unnamed)]);
    let rows = reader.destinations(&Query::default()).unwrap();
    let mut line = Vec::new();
    super::destinations::Destinations.json(&rows[0], &mut line);
    let printed: Value = serde_json::from_slice(&line).unwrap();
    let expected = serde_json::json!({"ip": ["93.184.216.34"], "port": [443], "bytes": 5000});
    assert_eq!(printed["destination"], expected);
}

#[test]
fn status_names_what_is_missing_and_what_was_lost() {
    let hook = |program: &str, reason: Option<&str>| HookReport {
        program: program.to_owned(),
        attach_point: "x".to_owned(),
        is_attached: reason.is_none(),
        reason: reason.map(str::to_owned),
        lost_without: "names of senders".to_owned(),
    };
    let side = LedgerSideReport {
        interface_bytes: 1_000,
        attributed_bytes: 900,
        unknown_bytes: 100,
        by_reason: [("no_socket".to_owned(), 100)].into(),
        ..LedgerSideReport::default()
    };
    let report = StatusReport {
        version: "0.1.0".to_owned(),
        pid: 7,
        uptime_seconds: 3_700,
        hooks: vec![hook("egress", None), hook("sendmsg4", Some("refused by the verifier"))],
        lost: [("ring_full".to_owned(), 12), ("peers_full".to_owned(), 0)].into(),
        ledger: Some(LedgerReport { tx: side.clone(), rx: side, ..LedgerReport::default() }),
        ..StatusReport::default()
    };
    let text = status_text(&super::status::sections(&report), false);
    for line in [
        "  running for      1h 1m",
        "  attached  1 of 2",
        "  sendmsg4  refused by the verifier; without it: names of senders",
        "  ring_full  12",
        "  processes    900 B sent, 900 B received (90.00 % of all bytes explained)",
        "    no socket  100 B sent",
    ] {
        assert!(text.lines().any(|printed| printed == line), "{line:?} is not in\n{text}");
    }
    assert!(!text.contains("peers_full"), "{text}");
}

#[test]
fn every_command_and_flag_of_the_interface_is_there() {
    Arguments::command().debug_assert();
    for line in [
        "run --config c --state-dir s --runtime-dir r --cgroup g --events - --learning-window 0s --geoip-country a \
         --geoip-asn b --ready-file f --duration 30s",
        "doctor --json",
        "status --json",
        "flows --since 1h --process curl --destination example.com --limit 5 -f --json",
        "processes --since 2026-11-20T12:00:00Z --json",
        "destinations --json",
        "dns --follow",
        "alerts --since 1d --json",
        "alerts mark 12 --verdict benign_true_positive --note x",
        "alerts mark 12 --verdict false_positive --state-dir s",
        "alerts suppress 12 --for 1s",
        "rules --json",
        "baseline status",
        "baseline reset --all",
        "baseline export",
        "baseline import -",
        "snapshot",
        "replay FILE --events - --state-dir s --learning-window 1h --geoip-country a --geoip-asn b",
        "config check --config c",
        "config show",
    ] {
        let words = std::iter::once("pktscope").chain(line.split_whitespace());
        if let Err(error) = Arguments::try_parse_from(words) {
            panic!("{line}: {error}");
        }
    }
    for line in [
        "alerts mark 12",
        "alerts mark 12 --verdict wrong",
        "flows --since yesterday",
        "run --duration 5",
        "baseline reset",
        "alerts suppress 12 --for 0s",
        "alerts suppress 12 --for 999ms",
    ] {
        let words = std::iter::once("pktscope").chain(line.split_whitespace());
        assert_eq!(Arguments::try_parse_from(words).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn errors_have_their_exit_codes() {
    let locked = || StoreError::Locked { directory: "/x".into(), pid: None };
    let wrapped = |error: anyhow::Error| Exit::of(&error.context("failed to run"));
    assert_eq!(wrapped(locked().into()), Exit::Running);
    assert_eq!(wrapped(crate::agent::RunError::from(locked()).into()), Exit::Running);
    assert_eq!(wrapped(crate::agent::RunError::from(crate::sensor::SensorError::Privilege).into()), Exit::Unsupported);
    let no_folder =
        crate::sensor::SensorError::Cgroup { path: "/x".into(), source: std::io::ErrorKind::NotFound.into() };
    assert_eq!(wrapped(crate::agent::RunError::from(no_folder).into()), Exit::Usage);
    let mistakes = ConfigError::Mistakes { path: "/x".into(), mistakes: Vec::new() };
    assert_eq!(wrapped(mistakes.into()), Exit::Usage);
    assert_eq!(wrapped(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()), Exit::Done);
    assert_eq!(wrapped(anyhow::anyhow!("anything else")), Exit::Failed);
}

#[test]
fn what_is_json_anyway_takes_the_flag_too() {
    for command in [["pktscope", "snapshot"].as_slice(), &["pktscope", "baseline", "export"]] {
        for line in [command.to_vec(), [command, &["--json"]].concat()] {
            assert!(Arguments::try_parse_from(&line).is_ok(), "{line:?}");
        }
    }
}
