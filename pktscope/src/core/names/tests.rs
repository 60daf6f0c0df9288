use proptest::prelude::*;

use super::*;
use crate::core::{
    event::FlowRef,
    flow::{Endpoint, Transport},
    time::{Moment, WallTime},
};

const SERVER: [u8; 4] = [198, 51, 100, 7];

fn at(seconds: u64) -> BootTime {
    BootTime(0).plus(Duration::from_secs(seconds))
}

fn key(pid: u32) -> ProcessKey {
    ProcessKey { pid, started_at: at(0) }
}

fn process(pid: u32, executable: &str) -> Arc<Process> {
    Arc::new(Process { key: key(pid), executable: executable.into(), ..Process::default() })
}

fn end(addr: &str, port: u16) -> Endpoint {
    Endpoint { addr: addr.parse().unwrap(), port }
}

/// A question at its asker's socket, from 10.0.0.1 to 10.0.0.53.
fn question(name: &str, process: Option<Arc<Process>>, seconds: u64) -> DnsMessage {
    let (source, destination) = (end("10.0.0.1", 4000), end("10.0.0.53", 53));
    DnsMessage {
        flow: FlowRef { cookie: 9, transport: Transport::UDP, source, destination },
        process,
        direction: Direction::Egress,
        at: at(seconds),
        id: 77,
        is_response: false,
        question: name.into(),
        question_type: 1,
        response_code: 0,
        answers: Vec::new(),
        message_bytes: 40,
    }
}

/// The answer to a question, one second later.
fn answer(question: &DnsMessage, answers: Vec<DnsAnswer>) -> DnsMessage {
    DnsMessage {
        flow: FlowRef { source: question.flow.destination, destination: question.flow.source, ..question.flow },
        direction: Direction::Ingress,
        at: question.at.plus(Duration::from_secs(1)),
        is_response: true,
        answers,
        ..question.clone()
    }
}

fn address(name: &str, ttl: u32) -> DnsAnswer {
    DnsAnswer::Address { name: name.into(), addr: SERVER.into(), ttl }
}

fn alias(name: &str, target: &str, ttl: u32) -> DnsAnswer {
    DnsAnswer::Alias { name: name.into(), target: target.into(), ttl }
}

/// A question and its answer with one address.
fn resolve(table: &mut NameTable, name: &str, process: Option<Arc<Process>>, seconds: u64, ttl: u32) {
    let question = question(name, process, seconds);
    assert_eq!(table.observe_dns(&question), DnsOutcome::Asked);
    let outcome = table.observe_dns(&answer(&question, vec![address(name, ttl)]));
    assert_eq!(outcome, DnsOutcome::Answered(Duration::from_secs(1)));
}

fn name(table: &NameTable, askers: &[ProcessKey], seconds: u64) -> Option<String> {
    table.lookup(askers, SERVER.into(), at(seconds)).map(|domain| domain.name.to_string())
}

#[test]
fn the_asker_gets_the_name_and_others_do_not() {
    let mut table = NameTable::default();
    resolve(&mut table, "www.example.com", Some(process(5, "/usr/bin/curl")), 10, 300);
    let domain = table.lookup(&[key(5)], SERVER.into(), at(12)).unwrap();
    assert_eq!((&*domain.name, &*domain.registrable), ("www.example.com", "example.com"));
    assert_eq!((domain.source, domain.learned_at, domain.candidates), (DomainSource::DnsAnswer, at(11), 1));
    assert_eq!(name(&table, &[key(6)], 12), None);
    assert_eq!(name(&table, &[key(6), key(5)], 12).as_deref(), Some("www.example.com"), "a child of the asker");
}

#[test]
fn two_processes_know_one_address_by_two_names() {
    let mut table = NameTable::default();
    resolve(&mut table, "a.example", Some(process(5, "/usr/bin/a")), 10, 300);
    resolve(&mut table, "b.example", Some(process(6, "/usr/bin/b")), 20, 300);
    assert_eq!(name(&table, &[key(5)], 30).as_deref(), Some("a.example"));
    assert_eq!(name(&table, &[key(6)], 30).as_deref(), Some("b.example"));
}

#[test]
fn a_name_asked_for_later_does_not_name_what_started_before() {
    let mut table = NameTable::default();
    resolve(&mut table, "a.example", None, 10, 300);
    assert_eq!(name(&table, &[], 10), None);
    resolve(&mut table, "a.example", None, 20, 300);
    let domain = table.lookup(&[], SERVER.into(), at(15)).unwrap();
    assert_eq!(domain.learned_at, at(11), "the answer before it");
    assert_eq!(table.lookup(&[], SERVER.into(), at(30)).unwrap().learned_at, at(21));
}

#[test]
fn an_alias_keeps_the_asked_name_and_the_shortest_time() {
    let mut table = NameTable::default();
    let question = question("www.example.com", None, 10);
    table.observe_dns(&question);
    let answers = vec![alias("www.example.com", "x.cdn.example", 100), address("x.cdn.example", 9000)];
    table.observe_dns(&answer(&question, answers));
    assert_eq!(name(&table, &[], 111).as_deref(), Some("www.example.com"));
    assert_eq!(name(&table, &[], 112), None);
}

#[test]
fn aliases_in_a_circle_end() {
    let mut table = NameTable::default();
    let question = question("a.example", None, 10);
    table.observe_dns(&question);
    let answers = vec![alias("a.example", "b.example", 1), alias("b.example", "a.example", 1), address("b.example", 1)];
    table.observe_dns(&answer(&question, answers));
    assert_eq!(name(&table, &[], 12).as_deref(), Some("a.example"));
}

#[test]
fn an_unrelated_address_names_nothing() {
    let mut table = NameTable::default();
    let question = question("a.example", None, 10);
    table.observe_dns(&question);
    table.observe_dns(&answer(&question, vec![address("bank.example", 300)]));
    assert_eq!(name(&table, &[], 12), None);
    assert_eq!(table.counters().unrelated_addresses, 1);
}

#[test]
fn an_unasked_answer_names_nothing() {
    let asked = question("a.example", None, 10);
    let good = answer(&asked, vec![address("a.example", 300)]);
    let other_end = FlowRef { source: end("10.0.0.66", 53), ..good.flow };
    let other_port = FlowRef { destination: end("10.0.0.1", 4001), ..good.flow };
    let forged = [
        DnsMessage { id: 78, ..good.clone() },
        DnsMessage { flow: other_end, ..good.clone() },
        DnsMessage { flow: other_port, ..good.clone() },
        DnsMessage { question: "b.example".into(), ..good.clone() },
        DnsMessage { question_type: 28, ..good.clone() },
        DnsMessage { at: at(41), ..good.clone() },
    ];
    for message in forged {
        let mut table = NameTable::default();
        table.observe_dns(&asked);
        assert_eq!(table.observe_dns(&message), DnsOutcome::Unasked, "{message:?}");
        assert_eq!((table.len(), table.counters().unasked_answers), (0, 1));
    }
}

#[test]
fn a_second_answer_names_nothing() {
    let mut table = NameTable::default();
    resolve(&mut table, "a.example", None, 10, 300);
    let asked = question("a.example", None, 10);
    let late = DnsAnswer::Address { name: "a.example".into(), addr: [203, 0, 113, 1].into(), ttl: 300 };
    assert_eq!(table.observe_dns(&answer(&asked, vec![late])), DnsOutcome::Unasked);
    assert_eq!(table.len(), 1);
}

#[test]
fn time_to_live_has_a_floor_and_a_cap() {
    let check = |ttl, last: u64| {
        let mut table = NameTable::default();
        resolve(&mut table, "a.example", None, 0, ttl);
        assert!(name(&table, &[], last).is_some() && name(&table, &[], last + 1).is_none(), "TTL {ttl}");
    };
    check(0, 61);
    check(60, 61);
    check(300, 301);
    check(u32::MAX, 86_401);
}

#[test]
fn a_local_resolver_asks_for_everybody() {
    let mut table = NameTable::default();
    resolve(&mut table, "a.example", Some(process(5, "/usr/lib/systemd/systemd-resolved")), 10, 300);
    assert_eq!(name(&table, &[key(99)], 12).as_deref(), Some("a.example"));
}

#[test]
fn who_answers_is_a_resolver_whatever_its_name() {
    let mut table = NameTable::default();
    let (client, resolver) = (process(5, "/usr/bin/curl"), process(6, "/opt/own-dns"));
    // The client's question on loopback, at both ends.
    let asked = DnsMessage { question: "a.example".into(), ..question("a.example", Some(client), 10) };
    let at_server = DnsMessage { process: Some(resolver.clone()), direction: Direction::Ingress, ..asked.clone() };
    assert_eq!(table.observe_dns(&asked), DnsOutcome::Asked);
    assert_eq!(table.observe_dns(&at_server), DnsOutcome::Served);
    // The resolver's own question upstream, from another port.
    let source = end("10.0.0.1", 5000);
    let mut upstream = question("a.example", Some(resolver.clone()), 10);
    upstream.flow = FlowRef { source, destination: end("9.9.9.9", 53), ..upstream.flow };
    table.observe_dns(&upstream);
    table.observe_dns(&answer(&upstream, vec![address("a.example", 300)]));
    assert_eq!(name(&table, &[key(99)], 12).as_deref(), Some("a.example"), "host-wide");
    // The answer to the client, at both ends.
    let good = answer(&asked, vec![address("a.example", 300)]);
    let from_server = DnsMessage { process: Some(resolver), direction: Direction::Egress, ..good.clone() };
    assert_eq!(table.observe_dns(&from_server), DnsOutcome::Served);
    assert_eq!(table.observe_dns(&good), DnsOutcome::Answered(Duration::from_secs(1)));
    assert_eq!(table.len(), 2);
}

#[test]
fn mdns_answers_repeat_no_question() {
    let mut table = NameTable::default();
    let mut asked = question("printer.local", None, 10);
    asked.flow = FlowRef { source: end("10.0.0.1", 5353), destination: end("224.0.0.251", 5353), ..asked.flow };
    table.observe_dns(&asked);
    let mut found = answer(&asked, vec![address("printer.local", 120)]);
    found.flow = FlowRef { source: end("10.0.0.9", 5353), destination: end("224.0.0.251", 5353), ..found.flow };
    assert!(matches!(table.observe_dns(&found), DnsOutcome::Answered(_)));
    let other = DnsMessage { answers: vec![address("other.local", 120)], question: "other.local".into(), ..found };
    assert_eq!(table.observe_dns(&other), DnsOutcome::Unasked);
    assert_eq!(name(&table, &[], 12).as_deref(), Some("printer.local"));
}

#[test]
fn who_hears_a_question_to_a_group_is_no_resolver() {
    let mut table = NameTable::default();
    let browser = process(5, "/usr/bin/browser");
    let mut heard = question("printer.local", Some(browser.clone()), 10);
    heard.flow = FlowRef { source: end("10.0.0.9", 5353), destination: end("224.0.0.251", 5353), ..heard.flow };
    heard.direction = Direction::Ingress;
    assert_eq!(table.observe_dns(&heard), DnsOutcome::Served);
    resolve(&mut table, "a.example", Some(browser), 20, 300);
    assert_eq!(name(&table, &[key(99)], 22), None);
}

#[test]
fn llmnr_is_answered_by_whoever_has_the_name() {
    let mut table = NameTable::default();
    let mut asked = question("host", None, 10);
    asked.flow = FlowRef { destination: end("224.0.0.252", 5355), ..asked.flow };
    table.observe_dns(&asked);
    let mut found = answer(&asked, vec![address("host", 30)]);
    found.flow = FlowRef { source: end("10.0.0.9", 5355), ..found.flow };
    assert!(matches!(table.observe_dns(&found), DnsOutcome::Answered(_)));
}

fn server_name(name: &str) -> ServerName {
    let (source, destination) = (end("10.0.0.1", 4000), Endpoint { addr: SERVER.into(), port: 443 });
    let flow = FlowRef { cookie: 1, transport: Transport::TCP, source, destination };
    ServerName { flow, at: at(13), name: Some(name.into()), source: DomainSource::TlsSni, hello: None }
}

#[test]
fn a_server_name_alone_names() {
    let domain = NameTable::default().join_server_name(None, &server_name("www.example.com"), &[]).unwrap();
    assert_eq!((&*domain.name, &*domain.registrable), ("www.example.com", "example.com"));
    assert_eq!((domain.source, domain.learned_at), (DomainSource::TlsSni, at(13)));
    let unnamed = ServerName { name: None, ..server_name("") };
    assert_eq!(NameTable::default().join_server_name(None, &unnamed, &[]), None);
}

#[test]
fn agreeing_sources_keep_the_first_and_disagreeing_ones_both() {
    let mut table = NameTable::default();
    resolve(&mut table, "a.example", Some(process(5, "/usr/bin/curl")), 10, 300);
    let asked = table.lookup(&[key(5)], SERVER.into(), at(12));
    let same = table.join_server_name(asked.as_ref(), &server_name("a.example"), &[key(5)]).unwrap();
    assert_eq!(Some(&same), asked.as_ref());
    let fronted = table.join_server_name(asked.as_ref(), &server_name("b.example"), &[key(5)]).unwrap();
    assert_eq!((&*fronted.name, fronted.source), ("a.example", DomainSource::DnsAnswer));
    assert_eq!(fronted.disagreeing, Some(("b.example".into(), DomainSource::TlsSni)));
}

#[test]
fn a_server_name_decides_between_several_asked_names() {
    let mut table = NameTable::default();
    resolve(&mut table, "a.example", Some(process(5, "/usr/bin/curl")), 9, 300);
    resolve(&mut table, "b.example", Some(process(5, "/usr/bin/curl")), 10, 300);
    let asked = table.lookup(&[key(5)], SERVER.into(), at(12)).unwrap();
    assert_eq!((&*asked.name, asked.candidates), ("b.example", 2));
    let sure = table.join_server_name(Some(&asked), &server_name("a.example"), &[key(5)]).unwrap();
    assert_eq!((&*sure.name, sure.source, sure.candidates), ("a.example", DomainSource::DnsAnswer, 1));
    assert_eq!(sure.disagreeing, None);
}

#[test]
fn questions_are_bounded() {
    let mut table = NameTable::new(NameSettings { max_questions: 10, ..NameSettings::default() });
    for id in 0..50 {
        table.observe_dns(&DnsMessage { id, ..question("a.example", None, 10) });
    }
    assert_eq!(table.counters().evicted_questions, 40);
}

#[test]
fn nothing_depends_on_the_seed() {
    let run = |hash_seed| {
        let settings = NameSettings { max_names: 10, max_questions: 5, hash_seed, ..NameSettings::default() };
        let mut table = NameTable::new(settings);
        for number in 0..40 {
            let name = format!("{number}.example");
            table.observe_dns(&DnsMessage { id: 900 + number, ..question("waits.example", None, 10) });
            resolve(&mut table, &name, Some(process(5, "/usr/bin/curl")), 10, 300);
        }
        let found = table.lookup(&[key(5)], SERVER.into(), at(12)).unwrap();
        (found.name, found.candidates, table.counters())
    };
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(DEFAULT_SEED));
}

#[test]
fn in_a_capture_every_message_counts() {
    let mut table = NameTable::default();
    let mut asked = question("a.example", None, 10);
    asked.flow.cookie = 0;
    let good = DnsMessage { direction: Direction::Egress, ..answer(&asked, vec![address("a.example", 300)]) };
    table.observe_dns(&asked);
    assert!(matches!(table.observe_dns(&good), DnsOutcome::Answered(_)));
}

/// The rows that a table hands to the store at a second of a boot whose clock starts at 1,000 s of the wall's.
fn stored(table: &mut NameTable, seconds: u64) -> Vec<NameRow> {
    table.take_changed(usize::MAX, &"boot".into(), moment(seconds))
}

fn moment(seconds: u64) -> Moment {
    Moment { boot: at(seconds), wall: WallTime(0).plus(Duration::from_secs(1_000 + seconds)) }
}

#[test]
fn names_survive_a_restart_as_long_as_they_hold() {
    let mut before = NameTable::default();
    before.note_changes();
    resolve(&mut before, "short.example", Some(process(5, "/usr/bin/curl")), 10, 1);
    resolve(&mut before, "long.example", Some(process(6, "/usr/bin/curl")), 20, 300);
    resolve(&mut before, "everybody.example", Some(process(7, "/usr/sbin/dnsmasq")), 30, 300);
    let rows = stored(&mut before, 40);
    assert_eq!(
        rows.iter().map(|row| &*row.name).collect::<Vec<_>>(),
        ["short.example", "long.example", "everybody.example"]
    );
    let after = |boot_id, seconds| {
        let mut table = NameTable::default();
        table.restore(&rows, boot_id, moment(seconds));
        table
    };
    let table = after("boot", 50);
    assert_eq!(table.lookup(&[key(6)], SERVER.into(), at(60)), before.lookup(&[key(6)], SERVER.into(), at(60)));
    assert_eq!(table.lookup(&[key(6)], SERVER.into(), at(60)).unwrap().learned_at, at(21));
    assert_eq!(name(&table, &[key(5)], 60).as_deref(), Some("short.example"), "the floor holds");
    assert_eq!(name(&table, &[key(5)], 80).as_deref(), Some("everybody.example"), "it is over while an agent runs");
    assert_eq!(name(&table, &[key(9)], 60).as_deref(), Some("everybody.example"));
    assert_eq!((after("boot", 80).len(), after("boot", 400).len()), (2, 0), "it was over while none ran");
    assert_eq!(after("boot", 50).counters().names, 0, "nothing was learned");
    let rebooted = after("another", 50);
    assert_eq!((name(&rebooted, &[key(6)], 60).as_deref(), rebooted.len()), (Some("everybody.example"), 1));
}

#[test]
fn a_clock_that_was_set_back_makes_no_name_hold_longer() {
    let mut before = NameTable::default();
    before.note_changes();
    resolve(&mut before, "a.example", None, 1_000_000, 300);
    let mut after = NameTable::default();
    after.restore(&stored(&mut before, 1_000_002), "boot", moment(10));
    assert_eq!(after.lookup(&[], SERVER.into(), at(11)).map(|domain| domain.learned_at), Some(at(10)));
    assert_eq!(name(&after, &[], 10 + 86_400).as_deref(), Some("a.example"));
    assert_eq!(name(&after, &[], 11 + 86_400), None);
}

#[test]
fn a_change_is_handed_to_the_store_once_and_only_where_there_is_one() {
    let mut table = NameTable::default();
    resolve(&mut table, "before.example", None, 1, 300);
    table.note_changes();
    assert!(stored(&mut table, 2).is_empty(), "nobody asked for changes");
    resolve(&mut table, "a.example", None, 10, 300);
    resolve(&mut table, "b.example", None, 11, 300);
    resolve(&mut table, "a.example", None, 12, 300);
    let rows = table.take_changed(1, &"boot".into(), moment(20));
    assert_eq!((&*rows[0].name, rows[0].learned_at), ("a.example", moment(13).wall), "as it stands");
    assert_eq!(stored(&mut table, 20).len(), 1, "the rest later");
    assert!(stored(&mut table, 20).is_empty());
    resolve(&mut table, "before.example", None, 30, 300);
    assert_eq!(stored(&mut table, 40).len(), 1, "a renewal is a change");
}

proptest! {
    /// Whatever is learned and thrown out, a change list no longer than the table gives what it holds.
    #[test]
    fn changes_stay_within_the_table(steps in proptest::collection::vec((any::<u8>(), any::<bool>()), 0..300)) {
        let mut table = NameTable::new(NameSettings { max_names: 8, ..NameSettings::default() });
        table.note_changes();
        for (seconds, (name, is_taken)) in (10..).zip(steps) {
            resolve(&mut table, &format!("{name}.example"), None, seconds * 2, 300);
            if is_taken {
                let rows = stored(&mut table, seconds * 2 + 1);
                prop_assert!(rows.len() <= 8);
                let last = format!("{name}.example");
                prop_assert!(rows.iter().any(|row| *row.name == last));
            }
        }
    }
}
