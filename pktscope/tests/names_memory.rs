//! What the name table and the dissector hold when they are full, counted at the allocator.

#[path = "support/counting.rs"]
mod counting;

use std::net::{IpAddr, Ipv4Addr};

use pktscope::core::{
    dissect::flows::{DissectLimits, FlowDissector},
    event::{DnsAnswer, DnsMessage, FlowRef, Payload},
    flow::{Direction, Endpoint, Transport},
    names::{NameSettings, NameTable},
    time::BootTime,
};

use counting::{MIB, held_bytes};

fn endpoint(addr: impl Into<IpAddr>, port: u16) -> Endpoint {
    Endpoint { addr: addr.into(), port }
}

fn flow(cookie: u64, transport: Transport, port: u16) -> FlowRef {
    let (source, destination) = (endpoint([10, 0, 0, 1], 4000), endpoint([10, 0, 0, 53], port));
    FlowRef { cookie, transport, source, destination }
}

fn question(number: u32) -> DnsMessage {
    DnsMessage {
        flow: flow(1, Transport::UDP, 53),
        process: None,
        direction: Direction::Egress,
        at: BootTime(u64::from(number)),
        id: 7,
        is_response: false,
        question: format!("host-{number:07}.example.com").into(),
        question_type: 1,
        response_code: 0,
        answers: Vec::new(),
        message_bytes: 60,
    }
}

fn answer(question: DnsMessage, number: u32) -> DnsMessage {
    let FlowRef { source, destination, .. } = question.flow;
    let addr = Ipv4Addr::from(0x0b00_0000 + number).into();
    DnsMessage {
        flow: FlowRef { source: destination, destination: source, ..question.flow },
        direction: Direction::Ingress,
        is_response: true,
        answers: vec![DnsAnswer::Address { name: question.question.clone(), addr, ttl: 3600 }],
        ..question
    }
}

/// One test: the allocator counts for the whole process.
#[test]
fn full_tables_stay_within_their_stated_memory() {
    let before = held_bytes();
    let mut table = NameTable::default();
    let max = u32::try_from(NameSettings::default().max_names).unwrap();
    for number in 0..max + 1000 {
        let question = question(number);
        table.observe_dns(&question);
        table.observe_dns(&answer(question, number));
    }
    let held = held_bytes() - before;
    println!("{} names hold {:.1} MiB, {} bytes each", table.len(), held as f64 / MIB as f64, held / table.len());
    assert_eq!((table.len(), table.counters().evicted_names), (max as usize, 1000));
    assert!(held < 160 * MIB, "{held} bytes");
    drop(table);

    let before = held_bytes();
    let limits = DissectLimits::default();
    let mut dissector = FlowDissector::new(limits);
    for cookie in 0..2 * limits.flows as u64 {
        let flow = flow(cookie, Transport::TCP, 443);
        let bytes = [&b"\x16\x03\x01\x04\x00\x01\x00\x03\xfc\x03\x03"[..], &[0; 900]].concat();
        let direction = Direction::Egress;
        let payload = Payload {
            flow,
            user: None,
            direction,
            at: BootTime(cookie),
            sequence: Some(0),
            bytes: bytes.into(),
            missing_bytes: 0,
        };
        dissector.observe(&payload, &mut Vec::new());
    }
    let held = held_bytes() - before;
    println!("unfinished hellos hold {:.1} MiB", held as f64 / MIB as f64);
    assert!(dissector.buffered_bytes() <= limits.buffered_bytes);
    assert!(held < 40 * MIB, "{held} bytes");
}
