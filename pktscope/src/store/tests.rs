use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rusqlite::Connection;

use super::*;
use crate::{
    core::{
        alert::{Alert, Evidence, RuleId, Severity},
        effect::{Effect, Ledger},
        event::{DnsAnswer, DnsMessage, FlowRef},
        flow::{Direction, EndReason, Flow, FlowAction, FlowChange, FlowId, Transport, Volume},
        names::{NameRow, StoredAsker},
        process::{ImageHash, Process, ProcessKey},
        time::{Moment, WallTime},
    },
    fixtures::{boot, curl, endpoint, flow, now, owned_by},
};

const NEVER: Duration = Duration::from_secs(3_600);

fn options() -> StoreOptions {
    let document = |alert: &Alert, _: Moment| format!("{{\"id\":{}}}", alert.id);
    StoreOptions {
        batch_interval: NEVER,
        rollup_above_per_second: 0,
        ..StoreOptions::new(&crate::config::Store::default(), Box::new(document))
    }
}

fn change(action: FlowAction, flow: Flow) -> Effect {
    Effect::Flow(FlowChange { action, at: flow.last_seen, flow: Arc::new(flow) })
}

fn alert(id: u64) -> Effect {
    Effect::Alert(Arc::new(Alert {
        id,
        rule: RuleId::NewProcessDest,
        severity: Severity::Notice,
        at: now(),
        message: format!("alert {id}"),
        dedup_key: format!("dest|{id}"),
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
        question_type: 1,
        response_code: 0,
        answers: vec![DnsAnswer::Address {
            name: "www.example.com".into(),
            addr: "93.184.216.34".parse().unwrap(),
            ttl: 60,
        }],
        message_bytes: 80,
    }))
}

/// A name of an address that everybody or a process asked for; times in seconds from now on.
fn name_row(last: u8, name: &str, pid: Option<u32>, [learned_at, expires_at]: [i64; 2]) -> NameRow {
    let at = |seconds: i64| WallTime(now().wall.0 + seconds * 1_000_000_000);
    let key = |pid| ProcessKey { pid, started_at: boot(3) };
    NameRow {
        addr: [192, 0, 2, last].into(),
        name: name.into(),
        asker: pid.map(|pid| StoredAsker { boot_id: "boot".into(), key: key(pid) }),
        since: at(learned_at - 1),
        learned_at: at(learned_at),
        expires_at: at(expires_at),
    }
}

fn keep_names(store: &Store, names: Vec<NameRow>, now: Moment) {
    store.handle().push(Batch { names, now, ..Batch::default() });
    store.handle().flush().unwrap();
}

#[test]
fn names_are_read_back_in_their_order_while_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), options()).unwrap();
    let names = vec![
        name_row(1, "late.example", None, [50, 500]),
        name_row(1, "early.example", Some(7), [40, 400]),
        name_row(2, "soon.example", None, [30, 90]),
    ];
    keep_names(&store, names.clone(), now());
    let renewed = name_row(1, "early.example", Some(7), [60, 600]);
    keep_names(&store, vec![renewed.clone()], now());
    drop(store);
    let read = |seconds: i64| {
        Reader::open(folder.path()).unwrap().names(WallTime(now().wall.0 + seconds * 1_000_000_000)).unwrap()
    };
    assert_eq!(read(100), (vec![names[0].clone(), renewed], 0));
    assert_eq!(read(601), (Vec::new(), 0));
}

#[test]
fn names_that_hold_no_more_are_deleted_and_damaged_ones_counted() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), options()).unwrap();
    let names = vec![name_row(1, "over.example", None, [-9, -1]), name_row(2, "a.example", None, [0, 99])];
    keep_names(&store, names, now());
    let connection = Connection::open(folder.path().join(DATABASE_NAME)).unwrap();
    let count = || connection.query_row("SELECT count(*) FROM names", [], |row| row.get::<_, i64>(0)).unwrap();
    let later = Moment { boot: now().boot.plus(Duration::from_secs(61)), ..now() };
    keep_names(&store, vec![name_row(3, "b.example", None, [0, 99])], later);
    drop(store);
    assert_eq!(count(), 2);
    connection.execute("UPDATE names SET address = 'nonsense' WHERE name = 'a.example'", []).unwrap();
    let (names, unreadable) = Reader::open(folder.path()).unwrap().names(now().wall).unwrap();
    assert_eq!((names.len(), unreadable), (1, 1));
}

#[test]
fn a_database_of_the_first_version_gets_the_table_of_names() {
    let folder = tempfile::tempdir().unwrap();
    push_and_flush(&Store::open(folder.path(), options()).unwrap(), &[change(FlowAction::Ended, flow())]);
    let connection = Connection::open(folder.path().join(DATABASE_NAME)).unwrap();
    connection
        .execute_batch("DROP TABLE names; ALTER TABLE flows DROP COLUMN domain_age; PRAGMA user_version = 1")
        .unwrap();
    drop(connection);
    let refusal = Reader::open(folder.path()).unwrap_err().to_string();
    assert!(refusal.contains("pktscope.db"), "{refusal}");
    let store = Store::open(folder.path(), options()).unwrap();
    keep_names(&store, vec![name_row(1, "a.example", None, [50, 500])], now());
    let reader = Reader::open(folder.path()).unwrap();
    assert_eq!((newest(&reader).flow_id, reader.names(WallTime(0)).unwrap().0.len()), (7, 1));
}

fn push(store: &Store, effects: &[Effect]) {
    store.handle().push(Batch { effects, now: now(), ..Batch::default() });
}

fn push_and_flush(store: &Store, effects: &[Effect]) {
    push(store, effects);
    store.handle().flush().unwrap();
}

fn newest(reader: &Reader) -> FlowRow {
    reader.flows(&Query::default()).unwrap().pop().unwrap()
}

#[test]
fn a_flow_is_read_back_as_it_was_and_its_growth_replaces_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), options()).unwrap();
    let reader = Reader::open(folder.path()).unwrap();
    push_and_flush(&store, &[change(FlowAction::Started, Flow { ended: None, ..flow() })]);
    let open = newest(&reader);
    assert_eq!((open.ended_at, open.end_reason), (None, None));

    let sent = Volume { ip_bytes: 1_000, packets: 10, payload_bytes: 500 };
    push_and_flush(&store, &[change(FlowAction::Ended, Flow { sent, ..flow() })]);
    let rows = reader.flows(&Query::default()).unwrap();
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((row.flow_id, row.flows, row.sent, row.received), (7, 1, sent, flow().received));
    assert_eq!(row.ended_at, Some(now().wall_at(boot(13))));
    assert_eq!((row.end_reason.as_deref(), row.domain.as_deref()), (Some("end_of_flow"), Some("www.example.com")));
    assert_eq!((row.method.as_deref(), row.conn_state.as_deref()), (Some("connect"), Some("SF")));
    let process = row.process.as_ref().unwrap();
    assert_eq!((process.pid, process.executable.as_str()), (4242, "/usr/bin/curl"));
    assert_eq!((process.sha256.as_deref(), process.package_name.as_deref()), (Some("ab12"), Some("curl")));
    assert_eq!(process.started_at, Some(now().wall_at(curl().key.started_at)));
    assert!(open.written_at < row.written_at);
}

#[test]
fn a_flow_that_is_over_before_the_batch_is_one_row() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), options()).unwrap();
    let open = Flow { ended: None, ..flow() };
    push(&store, &[change(FlowAction::Started, open.clone()), change(FlowAction::Updated, open)]);
    push_and_flush(&store, &[change(FlowAction::Ended, flow())]);
    // The flow and its process.
    assert_eq!(store.handle().stats().rows, 1);
    assert_eq!(Reader::open(folder.path()).unwrap().flows(&Query::default()).unwrap().len(), 1);
}

#[test]
fn a_process_keeps_the_hash_that_was_known() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), options()).unwrap();
    push_and_flush(&store, &[Effect::ProcessStarted(curl())]);
    let unreadable = Process { hash: ImageHash::Unreadable("deleted".into()), ..(*curl()).clone() };
    push_and_flush(&store, &[Effect::ProcessEnded(Arc::new(unreadable), boot(20), 256)]);
    let rows = Reader::open(folder.path()).unwrap().processes(&Query::default()).unwrap();
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((row.sha256.as_deref(), row.hash_error.as_deref()), (Some("ab12"), Some("deleted")));
    assert_eq!((row.ended_at, row.wait_status), (Some(now().wall_at(boot(20))), Some(256)));
}

#[test]
fn dns_answers_alerts_ledgers_and_verdicts_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), options()).unwrap();
    let ledger = Ledger { started_at: boot(10), ended_at: boot(20), lost: vec![("ring_full", 3)], ..Ledger::default() };
    push_and_flush(&store, &[dns(), alert(1), alert(2), Effect::Ledger(Arc::new(ledger))]);
    let verdict = |key: &str, verdict: &str| DispositionRow {
        key: key.to_owned(),
        at: now().wall,
        alert_id: Some(2),
        rule: "new_process_dest".to_owned(),
        verdict: verdict.to_owned(),
        ..DispositionRow::default()
    };
    for row in [verdict("a", "true_positive"), verdict("b", "false_positive"), verdict("a", "true_positive")] {
        store.handle().push(Batch { dispositions: vec![row], now: now(), ..Batch::default() });
    }
    store.handle().flush().unwrap();
    let reader = Reader::open(folder.path()).unwrap();

    let answers = reader.dns(&Query::default()).unwrap();
    assert_eq!((answers[0].question.as_str(), answers[0].client_port), ("www.example.com", 50_000));
    assert_eq!(answers[0].answers[0]["data"], "93.184.216.34");
    let alerts = reader.alerts(&Query::default()).unwrap();
    let seen: Vec<_> = alerts.iter().map(|row| (row.id, row.verdict.as_deref(), row.document.as_str())).collect();
    assert_eq!(seen, [(1, None, "{\"id\":1}"), (2, Some("false_positive"), "{\"id\":2}")]);
    assert_eq!(alerts[0].process.as_ref().unwrap().name, "curl");
    assert_eq!(reader.dispositions().unwrap().len(), 2);
    assert_eq!(reader.ledger(5).unwrap()[0].lost["ring_full"], 3);
    assert_eq!((reader.last_alert_id().unwrap(), reader.alert(3).unwrap()), (Some(2), None));
}

#[test]
fn filters_find_what_they_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), options()).unwrap();
    let plain = Flow {
        id: FlowId(8),
        destination: endpoint("198.51.100.7", 8080),
        domain: None,
        ended: Some((boot(60), EndReason::Reset)),
        last_seen: boot(60),
        ..flow()
    };
    push_and_flush(&store, &[change(FlowAction::Ended, flow()), change(FlowAction::Ended, plain), dns(), alert(1)]);
    let reader = Reader::open(folder.path()).unwrap();
    let ids = |query: Query| -> Vec<u64> { reader.flows(&query).unwrap().iter().map(|row| row.flow_id).collect() };
    let to = |text: &str| ids(Query { destination: Some(text.to_owned()), ..Query::default() });
    let by = |text: &str| ids(Query { process: Some(text.to_owned()), ..Query::default() });
    for (text, expected) in [
        ("example.com", vec![7]),
        ("EXAMPLE.com", vec![7]),
        ("ample.com", vec![]),
        ("*ample.com", vec![7]),
        ("198.51.100.7", vec![8]),
        (":8080", vec![8]),
        ("example.com:443", vec![7]),
        ("example.com:80", vec![]),
        ("AS15133", vec![7, 8]),
        ("' OR 1=1 --", vec![]),
    ] {
        assert_eq!(to(text), expected, "{text}");
    }
    for (text, expected) in [
        ("curl", vec![7, 8]),
        ("4242", vec![7, 8]),
        ("/usr/bin/curl", vec![7, 8]),
        ("url", vec![]),
        ("cu*", vec![7, 8]),
    ] {
        assert_eq!(by(text), expected, "{text}");
    }
    assert_eq!(ids(Query { since: Some(now().wall_at(boot(30))), ..Query::default() }), [8]);
    assert_eq!(ids(Query { limit: Some(1), ..Query::default() }), [8]);
    let query = Query { destination: Some("www.example.com".to_owned()), ..Query::default() };
    assert_eq!((reader.dns(&query).unwrap().len(), reader.alerts(&query).unwrap().len()), (1, 1));
    assert_eq!(reader.processes(&query).unwrap().len(), 1);
    let elsewhere = Query { destination: Some(":53".to_owned()), ..Query::default() };
    assert_eq!((reader.dns(&elsewhere).unwrap().len(), reader.processes(&elsewhere).unwrap().len()), (1, 0));
}

#[test]
fn a_process_that_was_written_long_ago_is_found_where_it_talked_since() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), options()).unwrap();
    let open = Flow { ended: None, ..flow() };
    push_and_flush(&store, &[Effect::ProcessStarted(curl()), change(FlowAction::Started, open.clone())]);
    let later = Moment { boot: now().boot.plus(NEVER), wall: now().wall.plus(NEVER) };
    let since = Query { since: Some(now().wall.plus(NEVER / 2)), ..Query::default() };
    let reader = Reader::open(folder.path()).unwrap();
    assert_eq!(reader.processes(&since).unwrap(), []);
    let effects = [change(FlowAction::Updated, Flow { last_seen: later.boot, ..open })];
    store.handle().push(Batch { effects: &effects, now: later, ..Batch::default() });
    store.handle().flush().unwrap();
    let rows = reader.processes(&since).unwrap();
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    let traffic = row.traffic.unwrap();
    assert_eq!((row.pid, traffic.flows, traffic.bytes_out, traffic.bytes_in), (4242, 1, 900, 5_000));
}

#[test]
fn destinations_are_summed_by_name_or_address() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), options()).unwrap();
    let other_address = Flow { id: FlowId(8), destination: endpoint("93.184.216.35", 80), ..flow() };
    let unnamed = Flow { id: FlowId(9), destination: endpoint("198.51.100.7", 22), domain: None, ..flow() };
    let inbound = Flow { id: FlowId(10), direction: Direction::Ingress, ..flow() };
    let effects: Vec<_> = [flow(), other_address, unnamed, inbound].map(|flow| change(FlowAction::Ended, flow)).into();
    push_and_flush(&store, &effects);
    let rows = Reader::open(folder.path()).unwrap().destinations(&Query::default()).unwrap();
    let [address, domain] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((address.destination.as_str(), address.is_domain, address.flows), ("198.51.100.7", false, 1));
    assert_eq!((domain.destination.as_str(), domain.flows, domain.bytes_out), ("www.example.com", 2, 1_800));
    assert_eq!(domain.addresses, ["93.184.216.34", "93.184.216.35"]);
    assert_eq!(
        (domain.ports.as_slice(), domain.processes.as_slice()),
        ([80, 443].as_slice(), ["curl".to_owned()].as_slice())
    );
}

#[test]
fn followers_miss_nothing_when_the_clock_is_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut cursor = None;
    let mut seen = Vec::new();
    for (id, wall) in [(1, 5_000), (2, 4_000), (3, 1_000), (4, 6_000)] {
        let store = Store::open(folder.path(), options()).unwrap();
        let effects = [change(FlowAction::Ended, Flow { id: FlowId(id), ..flow() })];
        let now = Moment { wall: WallTime(wall), ..now() };
        store.handle().push(Batch { effects: &effects, now, ..Batch::default() });
        store.close().unwrap();
        let query = Query { after: cursor, ..Query::default() };
        for row in Reader::open(folder.path()).unwrap().flows(&query).unwrap() {
            cursor = cursor.max(Some(row.written_at));
            seen.push(row.flow_id);
        }
    }
    assert_eq!(seen, [1, 2, 3, 4]);
}

#[test]
fn a_second_agent_is_refused_and_told_who_is_first() {
    let folder = tempfile::tempdir().unwrap();
    let first = Store::open(folder.path(), options()).unwrap();
    let error = Store::open(folder.path(), options()).err().unwrap();
    let StoreError::Locked { pid, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*pid, Some(std::process::id()));
    assert!(error.to_string().contains("--state-dir"), "{error}");
    first.close().unwrap();
    Store::open(folder.path(), options()).unwrap();
}

#[test]
fn nobody_else_may_read_the_state() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("state");
    let store = Store::open(&directory, options()).unwrap();
    push_and_flush(&store, &[alert(1)]);
    for name in ["", DATABASE_NAME, "pktscope.lock", "pktscope.db-wal", "pktscope.db-shm"] {
        let mode = std::fs::metadata(directory.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
    }
}

#[test]
fn rows_beyond_the_bound_are_counted_and_what_is_known_still_grows() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), StoreOptions { queue_max: 10, ..options() }).unwrap();
    let handle = store.handle();
    // More than half a queue wakes the thread; a locked database keeps it from emptying the queue.
    let blocker = Connection::open(folder.path().join(DATABASE_NAME)).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let started = |id| change(FlowAction::Started, Flow { id: FlowId(id), ended: None, ..flow() });
    let mut effects: Vec<_> = (1..=15).map(started).collect();
    effects.extend([alert(1), change(FlowAction::Ended, Flow { id: FlowId(3), ..flow() })]);
    // In one batch, so that the thread cannot take the flows before the last change of one of them.
    push(&store, &effects);
    blocker.execute_batch("COMMIT").unwrap();
    handle.flush().unwrap();
    let lost = handle.stats().lost;
    assert_eq!(lost[0], ("store_queue_flows", 5));
    assert_eq!(lost[3], ("store_queue_alerts", 1));
    let rows = Reader::open(folder.path()).unwrap().flows(&Query::default()).unwrap();
    assert_eq!(rows.len(), 10);
    assert_eq!(rows.iter().filter(|row| row.ended_at.is_some()).map(|row| row.flow_id).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_replay_waits_for_room_instead_of_losing_rows() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), StoreOptions { queue_max: 10, waits_when_full: true, ..options() }).unwrap();
    for id in 1..=200 {
        push(&store, &[change(FlowAction::Ended, Flow { id: FlowId(id), ..flow() })]);
    }
    let handle = store.handle();
    store.close().unwrap();
    assert_eq!(handle.stats().lost[0], ("store_queue_flows", 0));
    assert_eq!(Reader::open(folder.path()).unwrap().flows(&Query::default()).unwrap().len(), 200);
}

#[test]
fn many_short_flows_share_a_row_and_their_sums_are_exact() {
    let folder = tempfile::tempdir().unwrap();
    let batch_interval = Duration::from_secs(1);
    let options = StoreOptions { batch_interval, rollup_above_per_second: 10, ..options() };
    let store = Store::open(folder.path(), options).unwrap();
    let nobody = |id: u64, port: u16| Flow { id: FlowId(id), destination: endpoint("198.51.100.7", port), ..flow() };
    let short = |id: u64, port: u16| {
        [
            change(FlowAction::Started, Flow { ended: None, ..nobody(id, port) }),
            change(FlowAction::Ended, nobody(id, port)),
        ]
    };
    let mut at = now();
    let mut next_id = 100;
    for _ in 0..3 {
        let effects: Vec<_> =
            (0..1_000_u64).flat_map(|index| short(next_id + index, 80 + u16::from(index % 4 == 0))).collect();
        next_id += 1_000;
        store.handle().push(Batch { effects: &effects, now: at, ..Batch::default() });
        store.handle().flush().unwrap();
        at.boot = at.boot.plus(Duration::from_secs(1));
        at.wall = at.wall.plus(Duration::from_secs(1));
    }
    let rows = Reader::open(folder.path()).unwrap().flows(&Query::default()).unwrap();
    let sum = |read: fn(&FlowRow) -> u64| rows.iter().map(read).sum::<u64>();
    assert_eq!(sum(|row| row.flows), 3_000);
    assert_eq!(sum(|row| row.sent.ip_bytes), 3_000 * flow().sent.ip_bytes);
    assert_eq!(sum(|row| row.received.packets), 3_000 * flow().received.packets);
    assert_eq!(store.handle().stats().rolled_up_flows, 3_000);
    // A row a port.
    let mut shared: Vec<_> = rows.iter().map(|row| (row.destination_port, row.flows)).collect();
    shared.sort_unstable();
    assert_eq!(shared, [(80, 2_250), (81, 750)]);
}

#[test]
fn flows_that_were_collected_slowly_have_a_row_each() {
    let folder = tempfile::tempdir().unwrap();
    let batch_interval = Duration::from_secs(3600);
    let options = StoreOptions { batch_interval, rollup_above_per_second: 1, ..options() };
    let store = Store::open(folder.path(), options).unwrap();
    let mut at = now();
    for id in 1..=4_000 {
        let effects = [change(FlowAction::Whole, Flow { id: FlowId(id), ..flow() })];
        store.handle().push(Batch { effects: &effects, now: at, ..Batch::default() });
        at.boot = at.boot.plus(Duration::from_secs(2));
    }
    store.handle().flush().unwrap();
    assert_eq!(store.handle().stats().rolled_up_flows, 0);
}

#[test]
fn a_flow_that_was_stored_open_is_never_rolled_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), StoreOptions { rollup_above_per_second: 1, ..options() }).unwrap();
    let flows = |ended: bool| -> Vec<Effect> {
        let make = |id| Flow { id: FlowId(id), ended: flow().ended.filter(|_| ended), ..flow() };
        let action = if ended { FlowAction::Ended } else { FlowAction::Started };
        (1..=50).map(|id| change(action, make(id))).collect()
    };
    push_and_flush(&store, &flows(false));
    push_and_flush(&store, &flows(true));
    let rows = Reader::open(folder.path()).unwrap().flows(&Query::default()).unwrap();
    assert_eq!((rows.len(), rows.iter().filter(|row| row.ended_at.is_some()).count()), (50, 50));
}

#[test]
fn flows_that_a_killed_agent_left_open_end_when_they_were_last_seen() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), options()).unwrap();
    push(&store, &[change(FlowAction::Started, Flow { ended: None, ..flow() })]);
    store.close().unwrap();
    let _again = Store::open(folder.path(), options()).unwrap();
    let row = newest(&Reader::open(folder.path()).unwrap());
    assert_eq!((row.ended_at, row.end_reason.as_deref()), (Some(row.last_seen), Some("forced_end")));
}

#[test]
fn old_rows_go_and_their_processes_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let store =
        Store::open(folder.path(), StoreOptions { retention: Duration::from_secs(3_600), ..options() }).unwrap();
    push_and_flush(&store, &[change(FlowAction::Ended, flow()), dns(), alert(1)]);
    let later = Moment { boot: now().boot.plus(NEVER * 2), wall: now().wall.plus(NEVER * 2) };
    let other = Process { key: ProcessKey { pid: 9, ..curl().key }, entity_id: "nine".into(), ..(*curl()).clone() };
    let newer = Flow { id: FlowId(9), attribution: owned_by(Arc::new(other)), ..flow() };
    for _ in 0..2 {
        let effects = [change(FlowAction::Ended, newer.clone())];
        store.handle().push(Batch { effects: &effects, now: later, ..Batch::default() });
        store.handle().flush().unwrap();
    }
    let reader = Reader::open(folder.path()).unwrap();
    let ids: Vec<_> = reader.flows(&Query::default()).unwrap().iter().map(|row| row.flow_id).collect();
    assert_eq!((ids, reader.dns(&Query::default()).unwrap().len()), (vec![9], 0));
    // Alerts are kept for longer, and with them their process.
    assert_eq!(reader.alerts(&Query::default()).unwrap().len(), 1);
    assert_eq!(reader.processes(&Query::default()).unwrap().len(), 2);
}

#[test]
fn the_database_is_held_below_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let bytes_max = 2 << 20;
    let store = Store::open(folder.path(), StoreOptions { bytes_max, ..options() }).unwrap();
    let mut at = now();
    for batch in 0..30_u64 {
        let effects: Vec<_> = (0..1_000)
            .map(|index| change(FlowAction::Ended, Flow { id: FlowId(batch * 1_000 + index), ..flow() }))
            .collect();
        store.handle().push(Batch { effects: &effects, now: at, ..Batch::default() });
        store.handle().flush().unwrap();
        at.boot = at.boot.plus(Duration::from_secs(61));
    }
    let handle = store.handle();
    store.close().unwrap();
    let bytes = std::fs::metadata(folder.path().join(DATABASE_NAME)).unwrap().len();
    assert!(bytes < 2 * bytes_max, "{bytes} bytes");
    let rows = Reader::open(folder.path()).unwrap().flows(&Query::default()).unwrap();
    assert!(rows.iter().any(|row| row.flow_id == 29_999), "the newest flow is gone");
    assert_eq!(handle.stats().failed_batches, 0);
}

/// Mounts a small file system; `None` where this process may not.
fn small_disk(bytes: u32) -> Option<(tempfile::TempDir, impl Drop)> {
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
        .arg(folder.path())
        .status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("skipped: mounting a small tmpfs needs root");
        return None;
    }
    let unmount = Unmount(folder.path().to_owned());
    Some((folder, unmount))
}

#[test]
fn a_full_disk_is_told_loses_nothing_and_is_got_over() {
    let Some((folder, unmount)) = small_disk(3 << 20) else { return };
    let store = Store::open(folder.path(), options()).unwrap();
    let handle = store.handle();
    push_and_flush(&store, &[alert(1), change(FlowAction::Ended, flow())]);

    let ballast = folder.path().join("ballast");
    let mut size = 3 << 20;
    while std::fs::write(&ballast, vec![0; size]).is_err() {
        size -= 4_096;
    }
    let mut next_id = 100;
    let error = loop {
        let flows: Vec<_> =
            (0..500).map(|index| change(FlowAction::Ended, Flow { id: FlowId(next_id + index), ..flow() })).collect();
        next_id += 500;
        push(&store, &flows);
        if let Err(error) = handle.flush() {
            break error;
        }
        assert!(next_id < 100_000, "the disk never was full");
    };
    assert!(error.contains("full"), "{error}");
    push(&store, &[alert(2)]);
    assert!(handle.flush().is_err());
    let stats = handle.stats();
    assert!(stats.error.is_some() && stats.failed_batches != 0 && stats.waiting != 0, "{stats:?}");
    let reader = Reader::open(folder.path()).unwrap();
    assert_eq!(reader.alerts(&Query::default()).unwrap().len(), 1);

    std::fs::remove_file(&ballast).unwrap();
    handle.flush().unwrap();
    assert_eq!((handle.stats().error, handle.stats().waiting), (None, 0));
    assert_eq!(reader.alerts(&Query::default()).unwrap().len(), 2);
    let flows = reader.flows(&Query::default()).unwrap().len() as u64;
    assert_eq!(flows, 1 + next_id - 100);
    store.close().unwrap();
    drop(unmount);
}

const CHILD_DIRECTORY: &str = "PKTSCOPE_TEST_STORE";

/// Not a test by itself: the process that the next one kills.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let interval = Duration::from_millis(5);
    let store = Store::open(Path::new(&directory), StoreOptions { batch_interval: interval, ..options() }).unwrap();
    let first = Reader::open(Path::new(&directory)).unwrap().last_alert_id().unwrap().unwrap_or(0) + 1;
    for id in first.. {
        let state = vec![StateRow {
            table: StateTable::Baseline("novelty"),
            key: id.to_string().into(),
            value: Some(b"seen".to_vec()),
        }];
        let effects = [alert(id), change(FlowAction::Ended, Flow { id: FlowId(id), ..flow() })];
        store.handle().push(Batch { effects: &effects, state, now: now(), ..Batch::default() });
        if id % 7 == 0 {
            store.handle().flush().unwrap();
            println!("\nstored {id}");
        }
    }
}

fn spawn_child(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["store::tests::child_that_writes_until_it_is_killed", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Reads what the child says it stored, kills it in the midst of it, and reads the rest.
fn kill_after(child: &mut Child, reports: u32) -> u64 {
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let stored = |output: &mut std::io::Lines<_>| {
        output.find_map(|line: std::io::Result<String>| line.ok()?.strip_prefix("stored ")?.parse::<u64>().ok())
    };
    let mut newest = 0;
    for _ in 0..reports {
        newest = stored(&mut output).expect("the child ended by itself");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while let Some(id) = stored(&mut output) {
        newest = id;
    }
    newest
}

#[test]
fn killed_at_any_instant_the_store_keeps_what_it_said_and_no_halves() {
    let folder = tempfile::tempdir().unwrap();
    for reports in [1, 2, 3, 5, 9, 14, 20, 31] {
        let stored = kill_after(&mut spawn_child(folder.path()), reports);
        let connection = Connection::open(folder.path().join(DATABASE_NAME)).unwrap();
        let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        let reader = Reader::open(folder.path()).unwrap();
        let alerts: Vec<_> = reader.alerts(&Query::default()).unwrap().iter().map(|row| row.id).collect();
        let newest = *alerts.last().unwrap();
        assert!(stored <= newest, "{stored} was reported as stored, the newest is {newest}");
        let mut ids = alerts.clone();
        ids.sort_unstable();
        assert_eq!(ids, (1..=newest).collect::<Vec<_>>(), "an alert is missing in between");
        let mut novelty: Vec<u64> =
            reader.baseline("novelty").unwrap().iter().map(|(key, _)| key.parse().unwrap()).collect();
        novelty.sort_unstable();
        assert_eq!(ids, novelty, "an alert without its novelty, or the other way round");
    }
}

fn damaged(directory: &Path, bytes: &[u8]) -> StoreError {
    std::fs::write(directory.join(DATABASE_NAME), bytes).unwrap();
    Store::open(directory, options()).err().unwrap()
}

#[test]
fn a_damaged_database_is_named_with_its_remedy_and_moved_aside_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    let error = damaged(folder.path(), b"this is no database, this is a text of some length to be sure of it");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("pktscope.db is damaged") && text.contains("--move-damaged-store-aside"), "{text}");
    let aside = move_aside(folder.path(), WallTime(1_795_132_900_000_000_000)).unwrap();
    assert_eq!(aside.file_name().unwrap(), "pktscope.db.damaged-1795132900");
    assert!(aside.exists());
    push_and_flush(&Store::open(folder.path(), options()).unwrap(), &[alert(1)]);
}

#[test]
fn a_database_of_another_program_version_or_maker_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DATABASE_NAME);
    let open = || Store::open(folder.path(), options()).err().unwrap();
    let run = |sql: &str| Connection::open(&path).unwrap().execute_batch(sql).unwrap();

    run("CREATE TABLE bookmarks (url TEXT)");
    assert!(matches!(open(), StoreError::Foreign { .. }));
    std::fs::remove_file(&path).unwrap();

    Store::open(folder.path(), options()).unwrap().close().unwrap();
    run("CREATE TRIGGER evil AFTER INSERT ON flows BEGIN DELETE FROM alerts; END");
    let error = open();
    assert!(error.to_string().contains("trigger evil is unknown or changed"), "{error}");
    assert!(matches!(Reader::open(folder.path()).unwrap_err(), StoreError::Foreign { .. }));
    run("DROP TRIGGER evil; ALTER TABLE flows RENAME COLUMN reason TO because");
    assert!(open().to_string().contains("table flows is unknown or changed"));
    run("ALTER TABLE flows RENAME COLUMN because TO reason; PRAGMA user_version = 99");
    assert!(matches!(open(), StoreError::Newer { found: 99, .. }));
}

#[test]
fn values_of_the_wrong_type_are_an_error_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), options()).unwrap();
    push_and_flush(&store, &[change(FlowAction::Ended, flow()), dns(), alert(1)]);
    let connection = Connection::open(folder.path().join(DATABASE_NAME)).unwrap();
    let reader = Reader::open(folder.path()).unwrap();
    for value in ["'not an address'", "x'ff'", "-1", "1e300", "99999999999", "NULL"] {
        for (table, columns) in [
            ("flows", ["destination_ip", "source_port", "flows", "domain", "icmp_type"].as_slice()),
            ("processes", &["pid", "executable", "uid", "started_at"]),
            ("alerts", &["rule", "severity", "destination_ip", "document"]),
            ("dns", &["server_ip", "question_type", "answers"]),
        ] {
            for column in columns {
                let _ = connection
                    .execute_batch(&format!("SAVEPOINT here; UPDATE {table} SET {column} = {value}; RELEASE here"));
                let _ = (reader.flows(&Query::default()), reader.processes(&Query::default()));
                let _ = (reader.destinations(&Query::default()), reader.alerts(&Query::default()));
                let _ = reader.dns(&Query::default());
            }
        }
    }
    let error = reader.flows(&Query::default()).unwrap_err();
    assert!(error.to_string().starts_with("failed to read flows from database"), "{error}");
}

#[test]
fn flipped_bytes_never_panic_the_reader_or_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DATABASE_NAME);
    let store = Store::open(folder.path(), options()).unwrap();
    let flows: Vec<_> = (1..200).map(|id| change(FlowAction::Ended, Flow { id: FlowId(id), ..flow() })).collect();
    push_and_flush(&store, &flows);
    push_and_flush(&store, &[dns(), alert(1)]);
    store.close().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % bound as u64).unwrap()
    };
    let mut refused = 0;
    for _ in 0..150 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random(20) {
            let place = random(bytes.len());
            bytes[place] ^= 1 << random(8);
        }
        bytes.truncate(whole.len() - random(2) * random(whole.len()));
        std::fs::write(&path, &bytes).unwrap();
        let Ok(reader) = Reader::open(folder.path()) else {
            refused += 1;
            continue;
        };
        let _ = (reader.flows(&Query::default()), reader.destinations(&Query::default()));
        let _ = (reader.processes(&Query::default()), reader.alerts(&Query::default()), reader.dns(&Query::default()));
        drop(reader);
        if let Ok(store) = Store::open(folder.path(), options()) {
            push(&store, &[alert(2), change(FlowAction::Ended, flow())]);
            let _ = store.handle().flush();
            let _ = store.close();
        }
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(folder.path().join(format!("{DATABASE_NAME}{suffix}")));
        }
    }
    assert_ne!(refused, 0);
}

#[test]
fn a_folder_without_a_database_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = Reader::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }) && error.to_string().contains("pktscope run"), "{error}");
}

#[test]
fn a_folder_that_cannot_be_looked_into_is_not_called_empty() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    // Root may look into every folder, but a file is none for anybody.
    let error = Reader::open(&file).err().unwrap();
    assert!(matches!(error, StoreError::Missing { .. } | StoreError::Closed { .. }), "{error}");
    let too_long = folder.path().join("x".repeat(300));
    assert!(matches!(Reader::open(&too_long).err().unwrap(), StoreError::Closed { .. }), "it can't be told");
}
