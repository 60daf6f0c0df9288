//! `cargo bench -p pktscope --bench connections`: what short connections cost the core, from record to effect.
//!
//! Each connection has both ends on this host, as in `cargo xtask bench overhead`: two records of ended sockets, read
//! every 50 ms, with a tick every 250 ms. Times are CPU time of this thread.

use std::{hint::black_box, time::Duration};

use pktscope::core::{
    decode::{self, Record},
    detect::{Detection, DetectionSettings},
    effect::{Effect, Lookup},
    event::{Answer, Event, ProcessFacts},
    flow::FlowId,
    pipeline::{Pipeline, PipelineSettings},
    process::ImageHash,
    time::{BootTime, Moment, WallTime},
};
use pktscope_common::{
    record::{RECORD_VERSION, RecordHeader, RecordKind, SocketRecord},
    state::{Counts, Stamp, Tuple, flags, method},
};

const CONNECTIONS: u64 = 200_000;
/// What one connection takes on the machine, both ends.
const CONNECTION_NANOS: u64 = 90_000;
const POLL_NANOS: u64 = 50_000_000;
const TICK_POLLS: u64 = 5;
const START: u64 = 1_000_000_000_000;
const CLIENT: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
const SERVER: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2];

fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn moment(at: u64) -> Moment {
    Moment { boot: BootTime(at), wall: WallTime(1_700_000_000_000_000_000 + at as i64) }
}

/// The record of one end of connection `number`, as the kernel writes it.
fn record(number: u64, is_client: bool) -> [u8; size_of::<SocketRecord>()] {
    let ended_at = START + number * CONNECTION_NANOS;
    let ports = [(1024 + number % 63_000) as u16, 443].map(u16::to_be_bytes);
    let pid = if is_client { 4_000 } else { 4_001 };
    let stamp = Stamp { started_at: 7_000_000_000, cgroup_id: 1, pid, uid: 0 };
    let (sent, received) = if is_client { ((336, 6), (214, 4)) } else { ((214, 4), (336, 6)) };
    let side = |first, second| if is_client { (first, second) } else { (second, first) };
    let (local_addr, remote_addr) = side(CLIENT, SERVER);
    let (local_port, remote_port) = if is_client { (ports[0], ports[1]) } else { (ports[1], ports[0]) };
    let record = SocketRecord {
        header: RecordHeader {
            kind: RecordKind::SocketEnd as u16,
            version: RECORD_VERSION,
            size: size_of::<SocketRecord>() as u32,
            at: ended_at,
        },
        cookie: 2 * number + u64::from(is_client),
        netns: 1,
        started_at: ended_at - CONNECTION_NANOS,
        counts: Counts {
            sent_bytes: sent.0,
            sent_packets: sent.1,
            received_bytes: received.0,
            received_packets: received.1,
            ..Counts::default()
        },
        tuple: Tuple { local_addr, remote_addr, local_port, remote_port, protocol: 6, ..Tuple::default() },
        user: stamp,
        creator: stamp,
        payload_sent_bytes: if is_client { 16 } else { 2 },
        payload_received_bytes: if is_client { 2 } else { 16 },
        retransmitted: 0,
        srtt_us: 30,
        interface: 2,
        flags: flags::REGISTERED
            | flags::ESTABLISHED
            | flags::FIN_RECEIVED
            | if is_client { flags::ACTIVE } else { flags::PASSIVE },
        error: 0,
        tcp_state: if is_client { 7 } else { 9 },
        method: if is_client { method::CONNECT } else { method::ACCEPT },
        reserved: 0,
    };
    // SAFETY: a record is plain integers without padding.
    unsafe { std::mem::transmute(record) }
}

/// Answers look-ups as the enricher would, and counts the rest.
fn settle(pipeline: &mut Pipeline, effects: &mut Vec<Effect>, now: Moment) -> u64 {
    let mut told = 0;
    for effect in std::mem::take(effects) {
        match effect {
            Effect::Lookup(Lookup::Process(question)) => {
                let facts = ProcessFacts {
                    key: question.key,
                    image: question.image,
                    comm: Some("curl".into()),
                    executable: Some("/usr/bin/curl".into()),
                    hash: Some(ImageHash::Sha256("ab".into())),
                    ..ProcessFacts::default()
                };
                pipeline.step(Event::Answer(Answer::Process(facts)), now, effects);
            }
            effect => told += u64::from(matches!(black_box(effect), Effect::Flow(_))),
        }
    }
    told
}

fn main() {
    let settings = PipelineSettings { boot_id: "bench".into(), ..PipelineSettings::default() };
    let mut pipeline = Pipeline::new(settings, Detection::new(DetectionSettings::default()), FlowId(1));
    let (mut effects, mut events, mut told, mut polls) = (Vec::new(), Vec::new(), 0, 0);
    let started = cpu_time();
    let mut next_poll = START;
    for number in 0..CONNECTIONS {
        for is_client in [false, true] {
            if let Ok(Record::Event(event)) = decode::record(&record(number, is_client)) {
                events.push(event);
            }
        }
        let at = START + number * CONNECTION_NANOS;
        if at < next_poll {
            continue;
        }
        next_poll += POLL_NANOS;
        polls += 1;
        let now = moment(at);
        for event in events.drain(..) {
            pipeline.step(event, now, &mut effects);
        }
        if polls % TICK_POLLS == 0 {
            pipeline.tick(now, &mut effects);
        }
        told += settle(&mut pipeline, &mut effects, now);
    }
    let spent = cpu_time() - started;
    println!(
        "{CONNECTIONS} connections: {:.2} µs of CPU each, {:.2} changes of flows told each",
        spent.as_secs_f64() * 1e6 / CONNECTIONS as f64,
        told as f64 / CONNECTIONS as f64
    );
}
