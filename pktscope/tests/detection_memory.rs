//! What detection holds of fifty thousand programs and destinations, counted at the allocator.

#[path = "support/counting.rs"]
mod counting;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use pktscope::core::{
    detect::{Detection, DetectionInput, DetectionSettings},
    flow::{
        Attribution, Direction, Domain, DomainSource, EndReason, Endpoint, Flow, FlowAction, FlowChange, FlowId, Geo,
        Method, Owner, Transport, Volume,
    },
    process::{ImageHash, Process, ProcessKey},
    time::{BootTime, Moment, WallTime},
};

use counting::{MIB, held_bytes};

const PAIRS: u32 = 50_000;
const PAIRS_OF_A_PROGRAM: u32 = 100;
/// Monday 2026-03-02T00:00:00Z.
const START: u64 = 1_772_409_600 * 1_000_000_000;
/// All pairs within a minute.
const STEP: u64 = 1_000_000;

fn process(number: u32) -> Arc<Process> {
    Arc::new(Process {
        key: ProcessKey { pid: 1_000 + number, started_at: BootTime(START) },
        executable: format!("/opt/vendor/programs/program-{number}").into(),
        hash: ImageHash::Sha256(format!("{number:064x}").into()),
        ..Process::default()
    })
}

fn connection(pair: u32, process: &Arc<Process>, at: BootTime) -> Flow {
    let owner = Owner { process: process.clone(), method: Method::Connect, creator: None, ambiguity: None };
    let name: Arc<str> = format!("customer-{pair}.example.com").into();
    Flow {
        id: FlowId(u64::from(pair)),
        transport: Transport::TCP,
        source: Endpoint { addr: [192, 0, 2, 1].into(), port: 40_000 },
        destination: Endpoint { addr: Ipv4Addr::from(0x2d21_0000 + pair).into(), port: 443 },
        icmp: None,
        direction: Direction::Egress,
        sent: Volume { ip_bytes: 900, packets: 6, payload_bytes: 600 },
        received: Volume { ip_bytes: 4_000, packets: 5, payload_bytes: 3_700 },
        started_at: at,
        last_seen: at,
        ended: Some((at, EndReason::EndOfFlow)),
        attribution: Attribution::Process(owner),
        domain: Some(Domain {
            name: format!("www.{name}").into(),
            registrable: name,
            source: DomainSource::TlsSni,
            learned_at: at,
            disagreeing: None,
            candidates: 1,
        }),
        geo: Geo { country: Some(*b"SE"), as_number: Some(1_299), as_organization: Some("TELIA".into()) },
        tcp: None,
        tls: None,
    }
}

/// One test: the allocator counts for the whole process.
#[test]
fn fifty_thousand_programs_and_destinations_fit_into_64_mebibytes() {
    let before = held_bytes();
    let settings = DetectionSettings { learning_window: Duration::from_secs(3_600), ..DetectionSettings::default() };
    let mut detection = Detection::new(settings);
    for program in 0..PAIRS / PAIRS_OF_A_PROGRAM {
        let process = process(program);
        for pair in program * PAIRS_OF_A_PROGRAM..(program + 1) * PAIRS_OF_A_PROGRAM {
            let boot = BootTime(START + u64::from(pair) * STEP);
            let now = Moment { boot, wall: WallTime(boot.0.cast_signed()) };
            let flow = Arc::new(connection(pair, &process, boot));
            let change = FlowChange { action: FlowAction::Ended, at: boot, flow };
            assert!(detection.step(DetectionInput::Flow(&change), now).is_empty(), "the host learns");
        }
    }
    assert!(detection.take_dirty().len() > PAIRS as usize);
    let (programs, pairs, evictions) = detection.baseline().size();
    let held = held_bytes() - before;
    println!(
        "{pairs} pairs of {programs} programs hold {:.1} MiB, {} bytes each",
        held as f64 / MIB as f64,
        held / pairs
    );
    assert_eq!((pairs, evictions.pairs), (PAIRS as usize, 0));
    assert!(held <= 64 * MIB, "{held} bytes");
}
