//! How often the store writes: alone in its process, because the kernel counts a process's write calls.

#![expect(clippy::unwrap_used, reason = "a test's helper may panic")]

use std::{sync::Arc, time::Duration};

use pktscope::{
    config,
    core::{
        effect::Effect,
        flow::{
            Attribution, Direction, Endpoint, Flow, FlowAction, FlowChange, FlowId, Geo, Method, Owner, Transport,
            Volume,
        },
        process::{Process, ProcessKey},
        time::{BootTime, Moment, WallTime},
    },
    store::{Batch, Query, Reader, Store, StoreOptions},
};

const PROGRAMS: u32 = 50;
const DESTINATIONS: u8 = 20;
const ROUNDS: u64 = 1_000;

/// `syscw` of proc(5): write calls of this process.
fn write_calls() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("syscw: ")).unwrap().parse().unwrap()
}

fn flow(program: u32, destination: u8) -> Flow {
    let process = Process {
        key: ProcessKey { pid: 1_000 + program, started_at: BootTime(1) },
        entity_id: format!("p{program}").into(),
        executable: format!("/usr/bin/program{program}").into(),
        ..Process::default()
    };
    let attribution = Attribution::Process(Owner {
        process: Arc::new(process),
        method: Method::Connect,
        creator: None,
        ambiguity: None,
    });
    Flow {
        id: FlowId(u64::from(program) * 1_000 + u64::from(destination)),
        transport: Transport::TCP,
        source: Endpoint { addr: [192, 0, 2, 1].into(), port: 40_000 },
        destination: Endpoint { addr: [198, 51, 100, destination].into(), port: 443 },
        icmp: None,
        direction: Direction::Egress,
        sent: Volume::default(),
        received: Volume::default(),
        started_at: BootTime(1),
        last_seen: BootTime(1),
        ended: None,
        attribution,
        domain: None,
        geo: Geo::default(),
        tcp: None,
        tls: None,
    }
}

#[test]
fn a_million_updates_cost_less_than_a_write_call_in_ten() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions::new(&config::Store::default(), Box::new(|_, _| String::new()));
    let store = Store::open(folder.path(), StoreOptions { batch_interval: Duration::from_secs(1), ..options }).unwrap();
    let handle = store.handle();
    let mut flows: Vec<Flow> = (0..PROGRAMS)
        .flat_map(|program| (0..DESTINATIONS).map(move |destination| flow(program, destination)))
        .collect();
    let before = write_calls();
    let mut updates = 0_u64;
    for round in 1..=ROUNDS {
        for flow in &mut flows {
            flow.sent = Volume { ip_bytes: round * 1_500, packets: round, payload_bytes: round * 1_400 };
        }
        let change = |flow: &Flow| {
            Effect::Flow(FlowChange { action: FlowAction::Updated, at: BootTime(round), flow: Arc::new(flow.clone()) })
        };
        let effects: Vec<Effect> = flows.iter().map(change).collect();
        updates += effects.len() as u64;
        let now = Moment { boot: BootTime(round), wall: WallTime(1_800_000_000_000_000_000) };
        handle.push(Batch { effects: &effects, now, ..Batch::default() });
    }
    store.close().unwrap();
    let calls = write_calls() - before;
    println!("{updates} updates, {calls} write calls, {:.4} an update", calls as f64 / updates as f64);
    assert!(calls * 10 <= updates, "{calls} write calls for {updates} updates");
    assert!(handle.stats().lost.iter().all(|(_, lost)| *lost == 0));
    let rows = Reader::open(folder.path()).unwrap().flows(&Query::default()).unwrap();
    assert_eq!(rows.len(), flows.len());
    assert!(rows.iter().all(|row| row.sent.packets == ROUNDS));
}
