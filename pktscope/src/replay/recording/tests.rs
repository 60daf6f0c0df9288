//! The reader against lines as the benchmark's converter writes them, and against damage.

use std::io::Cursor;

use super::*;
use crate::core::{
    flow::{Attribution, Direction, EndReason, FlowAction},
    process::ImageHash,
};

const FLOW: &str = r#"{"@timestamp":"2026-03-02T00:01:00.078000000Z","event":{"kind":"event","category":["network"],"dataset":"pktscope.flow","action":"flow_ended","start":"2026-03-02T00:00:00.078000000Z","reason":"idle_timeout","end":"2026-03-02T00:01:00.078000000Z","duration":60000000000},"network":{"transport":"udp","type":"ipv4","iana_number":"17","direction":"egress","bytes":110,"packets":2},"source":{"ip":"10.20.1.7","port":50099,"bytes":39,"packets":1},"destination":{"ip":"10.20.0.2","port":53,"domain":"dns.corp.example","as":{"number":64500,"organization":{"name":"EXAMPLE"}},"geo":{"country_iso_code":"SE"},"bytes":71,"packets":1},"process":{"pid":1253,"name":"uptime","executable":"/usr/bin/uptime","entity_id":"1253:x","hash":{"sha256":"ce8a"}},"pktscope":{"flow_id":7,"domain_source":"dns_answer","attribution":{"status":"process","method":"connect"}}}"#;
const DNS: &str = r#"{"@timestamp":"2026-03-02T00:00:00.052000000Z","event":{"dataset":"pktscope.dns","action":"dns_answered"},"dns":{"question":{"name":"a.example.com","type":"TXT"},"response_code":"NXDOMAIN"},"source":{"ip":"10.20.1.7","bytes":39},"process":{"pid":1253,"name":"uptime","executable":"/usr/bin/uptime","entity_id":"1253:x","hash":{"sha256":"ce8a"}},"destination":{"ip":"10.20.0.2","port":53,"bytes":71}}"#;

fn read(text: &str) -> (Vec<Recorded>, RecordingStats) {
    let mut recording = Recording::new(Cursor::new(text.as_bytes()));
    let mut events = Vec::new();
    while let Some(event) = recording.next_event().unwrap() {
        events.push(event);
    }
    (events, recording.stats())
}

fn flow_change(recorded: &Recorded) -> &crate::core::flow::FlowChange {
    match &recorded.event {
        Event::RecordedFlow(change) => change,
        other => panic!("not a flow: {other:?}"),
    }
}

#[test]
fn a_flow_line_becomes_the_flow_it_says() {
    let (events, stats) = read(FLOW);
    let change = flow_change(&events[0]);
    let flow = &change.flow;
    assert_eq!((stats.flows, stats.lines), (1, 1));
    assert_eq!((change.action, flow.direction), (FlowAction::Ended, Direction::Egress));
    assert_eq!((flow.sent.ip_bytes, flow.received.ip_bytes, flow.destination.port), (39, 71, 53));
    assert_eq!(flow.domain.as_ref().map(|domain| &*domain.registrable), Some("corp.example"));
    assert_eq!((flow.geo.country, flow.geo.as_number), (Some(*b"SE"), Some(64_500)));
    assert_eq!(flow.ended.map(|(_, reason)| reason), Some(EndReason::IdleTimeout));
    assert_eq!(flow.last_seen, flow.started_at, "the packet is older than the time-out");
    assert!(
        matches!(&flow.attribution, Attribution::Process(owner) if &*owner.process.executable == "/usr/bin/uptime")
    );
}

#[test]
fn a_dns_line_becomes_an_answer_of_the_same_process_value() {
    let (events, stats) = read(&format!("{FLOW}\n{DNS}\n"));
    let Event::RecordedDns(message) = &events[1].event else { panic!("not DNS") };
    assert_eq!((stats.dns, message.question_type, message.response_code, message.message_bytes), (1, 16, 3, 71));
    let owner = flow_change(&events[0]).flow.process().unwrap().clone();
    assert!(Arc::ptr_eq(&owner, message.process.as_ref().unwrap()));
}

#[test]
fn a_line_is_replayed_when_it_was_written_and_tells_when_it_happened() {
    let written = DNS.replace(r#""event":{"#, r#""event":{"created":"2026-03-02T00:00:01.500000000Z","#);
    let (events, _) = read(&format!("{DNS}\n{written}"));
    let at = |index: usize| events[index].at.wall.0 - 1_772_409_600_000_000_000;
    assert_eq!((at(0), at(1)), (52_000_000, 1_500_000_000));
    for recorded in &events {
        let Event::RecordedDns(message) = &recorded.event else { panic!("not DNS") };
        assert_eq!(message.at.0, 1_772_409_600_052_000_000);
    }
}

#[test]
fn a_process_line_tells_what_became_known_and_not_its_end() {
    let line = |action: &str, hash: &str| {
        let head = format!(
            r#"{{"@timestamp":"2026-03-02T00:00:00Z","event":{{"dataset":"pktscope.process","action":"{action}"}}"#
        );
        format!(
            r#"{head},"process":{{"pid":7,"executable":"/usr/bin/job"{hash}}},"pktscope":{{"process":{{"is_hash_pending":{}}}}}}}"#,
            hash.is_empty()
        )
    };
    let lines = [
        line("process_started", ""),
        line("process_changed", r#","hash":{"sha256":"ce8a"}"#),
        line("process_ended", r#","hash":{"sha256":"ce8a"}"#),
    ];
    let (events, stats) = read(&lines.join("\n"));
    let hashes: Vec<_> = events
        .iter()
        .map(|recorded| match &recorded.event {
            Event::RecordedProcess(process) => process.hash.clone(),
            other => panic!("not a process: {other:?}"),
        })
        .collect();
    assert_eq!(hashes, [ImageHash::Pending, ImageHash::Sha256("ce8a".into())]);
    assert_eq!((stats.processes, stats.other, stats.incomplete), (2, 1, 0));
}

#[test]
fn damage_is_counted_and_what_follows_is_read() {
    let torn = &FLOW[..FLOW.len() / 2];
    let text = format!(
        "{torn}\n\n{FLOW}\n{{\"event\":{{\"dataset\":\"pktscope.alert\"}}}}\n{{\"event\":{{\"dataset\":\"pktscope.flow\"}}}}\n{torn}"
    );
    let (events, stats) = read(&text);
    assert_eq!(events.len(), 1);
    assert_eq!((stats.torn, stats.flows, stats.other, stats.incomplete), (2, 1, 1, 1));
}

#[test]
fn an_endless_line_is_skipped_without_being_held() {
    let text = format!("{}\n{FLOW}", "x".repeat(usize::try_from(MAX_LINE_BYTES).unwrap() * 2));
    let (events, stats) = read(&text);
    assert_eq!((events.len(), stats.too_long), (1, 1));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400), cut in 0..FLOW.len()) {
        let mut text = bytes;
        text.extend_from_slice(b"\n");
        text.extend_from_slice(&FLOW.as_bytes()[..cut]);
        let mut recording = Recording::new(Cursor::new(text));
        while recording.next_event().unwrap().is_some() {}
    }
}
