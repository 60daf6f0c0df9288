//! `cargo bench -p pktscope --bench detect`: what detection costs, all detectors with the store on disk, and verdicts.
//!
//! The work is the steady state of pktscope-core's own figure: 50 programs with 20 destinations each, with identity, name,
//! country and AS. Times are CPU time of the whole process, held on one core, less that of making the flows. Memory is
//! what the process grew by, in a process of its own.

use std::{env, fs, hint::black_box, path::Path, process::Command, sync::Arc, time::Duration};

use pktscope::{
    config,
    core::{
        alert::{
            RuleId,
            disposition::{DispositionSettings, Dispositions, Outcome, Record, Scope, Verdict},
        },
        detect::{Detection, DetectionInput, DetectionSettings},
        effect::Effect,
        flow::{
            Attribution, ConnState, Direction, Domain, DomainSource, Endpoint, Flow, FlowAction, FlowChange, FlowId,
            Geo, Method, Owner, TcpSummary, Transport, Volume,
        },
        process::{ImageHash, Process, ProcessKey},
        time::{BootTime, Moment, WallTime},
    },
    store::{self, Batch, Store, StoreHandle, StoreOptions},
};

const PROGRAMS: u32 = 50;
const DESTINATIONS: u32 = 20;
/// Updates of every flow.
const ROUNDS: u64 = 4_000;
const SECOND: u64 = 1_000_000_000;
/// Monday 2026-03-02T00:00:00Z.
const START: u64 = 1_772_409_600 * SECOND;
/// Between two rounds: a million updates in a second.
const STEP: u64 = SECOND / 1_000;
const HOUR: u64 = 3_600 * SECOND;
const PAIRS: u32 = 50_000;
const MIB: f64 = 1_048_576.0;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "--memory") {
        return measure_memory();
    }
    // `cargo test` runs benches too, without this argument.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    hold_on_one_core();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder can be written");
    steady("steady updates, all detectors", None);
    steady("steady updates, all detectors, store on disk", Some(folder.path()));
    novel("every flow a new destination, store on disk", folder.path());
    memory();
    verdicts();
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn process_time() -> Duration {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn thread_time() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Threads that are started later stay there, too.
fn hold_on_one_core() {
    // SAFETY: a zeroed cpu_set_t is an empty set, and the pointers are to a set of ours.
    unsafe {
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut one);
        let first = (0..libc::CPU_SETSIZE as usize).find(|cpu| libc::CPU_ISSET(*cpu, &one)).unwrap_or(0);
        libc::CPU_ZERO(&mut one);
        libc::CPU_SET(first, &mut one);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one);
    }
}

/// `syscw` of proc(5): write calls of this process.
fn write_calls() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("syscw: ")).and_then(|calls| calls.parse().ok()).unwrap_or(0)
}

fn process(program: u32) -> Arc<Process> {
    Arc::new(Process {
        key: ProcessKey { pid: 1_000 + program, started_at: BootTime(START) },
        entity_id: format!("p{program}").into(),
        comm: format!("program{program}").into(),
        executable: format!("/usr/bin/program{program}").into(),
        hash: ImageHash::Sha256(format!("{program:064x}").into()),
        ..Process::default()
    })
}

/// A connection of a program to one of its destinations.
fn flow(id: u64, process: &Arc<Process>, destination: u32, started: BootTime) -> Flow {
    let owner = Owner { process: process.clone(), method: Method::Connect, creator: None, ambiguity: None };
    let name: Arc<str> = format!("host{destination}.example.com").into();
    let domain = Domain {
        name: format!("www.{name}").into(),
        registrable: name,
        source: DomainSource::TlsSni,
        learned_at: started,
        disagreeing: None,
        candidates: 1,
    };
    Flow {
        id: FlowId(id),
        transport: Transport::TCP,
        source: Endpoint { addr: [192, 0, 2, 1].into(), port: 40_000 },
        destination: Endpoint { addr: std::net::Ipv4Addr::from(0x2d21_0000 + destination).into(), port: 443 },
        icmp: None,
        direction: Direction::Egress,
        sent: Volume::default(),
        received: Volume::default(),
        started_at: started,
        last_seen: started,
        ended: None,
        attribution: Attribution::Process(owner),
        domain: Some(domain),
        geo: Geo { country: Some(*b"SE"), as_number: Some(1_299), as_organization: Some("TELIA".into()) },
        tcp: Some(TcpSummary {
            history: "ShADad".into(),
            conn_state: ConnState::S1,
            retransmitted: [None; 2],
            out_of_order: None,
            gap_bytes: None,
            handshake_rtt: None,
            smoothed_rtt: None,
        }),
        tls: None,
    }
}

fn moment(boot: u64) -> Moment {
    Moment { boot: BootTime(boot), wall: WallTime(boot.cast_signed()) }
}

/// A host that learns for an hour and has its flows open from then on.
fn learned(flows: &mut [Flow]) -> Detection {
    let settings = DetectionSettings { learning_window: Duration::from_secs(3_600), ..DetectionSettings::default() };
    let mut detection = Detection::new(settings);
    for flow in flows {
        flow.sent = Volume { ip_bytes: 900, packets: 6, payload_bytes: 600 };
        flow.received = Volume { ip_bytes: 4_000, packets: 5, payload_bytes: 3_700 };
        let change = FlowChange { action: FlowAction::Started, at: BootTime(START), flow: Arc::new(flow.clone()) };
        detection.step(DetectionInput::Flow(&change), moment(START));
    }
    (0..=60).for_each(|minute| drop(detection.tick(moment(START + minute * 60 * SECOND))));
    detection
}

fn open_store(folder: &Path) -> (Store, StoreHandle) {
    let document = Box::new(|_: &_, _| String::from("{}"));
    let store = Store::open(folder, StoreOptions::new(&config::Store::default(), document)).expect("a store opens");
    let handle = store.handle();
    (store, handle)
}

fn report(what: &str, updates: u64, cpu: Duration, calls: u64) {
    let rate = updates as f64 / cpu.as_secs_f64();
    println!("{what:<50} {:>10.3} M/s {:>8.4} write calls each", rate / 1e6, calls as f64 / updates as f64);
}

/// Everything that a turn of the agent does with completed flows: detection, then the store.
fn steady(what: &str, folder: Option<&Path>) {
    let processes: Vec<_> = (0..PROGRAMS).map(process).collect();
    let ids = (0..PROGRAMS).flat_map(|program| (0..DESTINATIONS).map(move |destination| (program, destination)));
    let mut flows: Vec<_> = ids
        .zip(1..)
        .map(|((program, destination), id)| flow(id, &processes[program as usize], destination, BootTime(START)))
        .collect();
    let mut detection = learned(&mut flows);
    let store = folder.map(|folder| open_store(&folder.join("steady")));
    let (started, calls, mut making) = (process_time(), write_calls(), Duration::ZERO);
    for round in 1..=ROUNDS {
        let now = moment(START + HOUR + round * STEP);
        let before = thread_time();
        let changes = grown(&mut flows, now.boot);
        making += thread_time() - before;
        let mut effects = Vec::with_capacity(changes.len());
        for change in changes {
            let alerts = detection.step(DetectionInput::Flow(&change), now);
            effects.push(Effect::Flow(change));
            effects.extend(alerts.into_iter().map(|alert| Effect::Alert(Arc::new(alert))));
        }
        hand_out(&store, &mut detection, &effects, round, now);
    }
    store.into_iter().for_each(|(store, _)| store.close().expect("the store closes"));
    assert_eq!(detection.counts().raised, 0, "a steady host raises nothing");
    report(what, ROUNDS * flows.len() as u64, process_time() - started - making, write_calls() - calls);
}

/// A packet more on every flow.
fn grown(flows: &mut [Flow], now: BootTime) -> Vec<FlowChange> {
    let grow = |flow: &mut Flow| {
        flow.sent.ip_bytes += 60;
        flow.sent.packets += 1;
        flow.sent.payload_bytes += 8;
        flow.received.ip_bytes += 52;
        flow.received.packets += 1;
        flow.last_seen = now;
        FlowChange { action: FlowAction::Updated, at: now, flow: Arc::new(flow.clone()) }
    };
    flows.iter_mut().map(grow).collect()
}

/// As the agent does: effects every turn, changed rows once a second.
fn hand_out(
    store: &Option<(Store, StoreHandle)>,
    detection: &mut Detection,
    effects: &[Effect],
    round: u64,
    now: Moment,
) {
    let Some((_, handle)) = store else { return };
    let has_alert = effects.iter().any(|effect| matches!(effect, Effect::Alert(_)));
    let is_due = has_alert || round.is_multiple_of(SECOND / STEP);
    let state = if is_due { detection.take_dirty().into_iter().map(store::baseline_row).collect() } else { Vec::new() };
    handle.push(Batch { effects, state, now, ..Batch::default() });
}

/// Every flow is a program's first contact with its destination.
fn novel(what: &str, folder: &Path) {
    const CONTACTS: u32 = 40_000;
    let process = process(0);
    let mut detection = learned(&mut [flow(1, &process, 0, BootTime(START))]);
    let store = Some(open_store(&folder.join("novel")));
    let (started, calls, mut making) = (process_time(), write_calls(), Duration::ZERO);
    let mut alerts = 0;
    for contact in 1..=CONTACTS {
        let now = moment(START + HOUR + u64::from(contact) * 20 * SECOND);
        let before = thread_time();
        let mut flow = flow(u64::from(contact) + 1, &process, 1_000 + contact, now.boot);
        flow.sent = Volume { ip_bytes: 900, packets: 6, payload_bytes: 600 };
        flow.received = Volume { ip_bytes: 4_000, packets: 5, payload_bytes: 3_700 };
        let change = FlowChange { action: FlowAction::Started, at: now.boot, flow: Arc::new(flow) };
        making += thread_time() - before;
        let raised = detection.step(DetectionInput::Flow(&change), now);
        alerts += raised.len();
        let raised = raised.into_iter().map(|alert| Effect::Alert(Arc::new(alert)));
        let effects: Vec<_> = std::iter::once(Effect::Flow(change)).chain(raised).collect();
        hand_out(&store, &mut detection, &effects, 0, now);
    }
    store.into_iter().for_each(|(store, _)| store.close().expect("the store closes"));
    assert!(alerts >= CONTACTS as usize / 2, "{alerts} alerts");
    report(what, u64::from(CONTACTS), process_time() - started - making, write_calls() - calls);
}

/// The second number of `/proc/self/statm` is the resident set in pages (proc_pid_statm(5)).
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

fn memory() {
    let own = env::current_exe().expect("a running program has a path");
    let output = Command::new(own).arg("--memory").output().expect("this program runs");
    print!("{}", String::from_utf8_lossy(&output.stdout));
}

/// Fifty thousand pairs of program and destination, learned.
fn measure_memory() {
    let before = resident_bytes();
    let settings = DetectionSettings { learning_window: Duration::from_secs(3_600), ..DetectionSettings::default() };
    let mut detection = Detection::new(settings);
    let processes: Vec<_> = (0..PAIRS / 100).map(process).collect();
    for pair in 0..PAIRS {
        let now = moment(START + u64::from(pair) * SECOND / 1_000);
        let mut flow = flow(u64::from(pair), &processes[(pair / 100) as usize], pair, now.boot);
        flow.sent = Volume { ip_bytes: 900, packets: 6, payload_bytes: 600 };
        flow.received = Volume { ip_bytes: 4_000, packets: 5, payload_bytes: 3_700 };
        for action in [FlowAction::Started, FlowAction::Ended] {
            flow.ended =
                (action == FlowAction::Ended).then_some((now.boot, pktscope::core::flow::EndReason::EndOfFlow));
            let change = FlowChange { action, at: now.boot, flow: Arc::new(flow.clone()) };
            detection.step(DetectionInput::Flow(&change), now);
        }
    }
    drop(detection.take_dirty());
    let (programs, pairs, _) = detection.baseline().size();
    assert!(pairs >= PAIRS as usize && programs > 100);
    let grown = (resident_bytes() - before) as f64;
    println!(
        "{:<50} {:>10.1} MiB {:>8.0} bytes each",
        format!("{PAIRS} programs and destinations"),
        grown / MIB,
        grown / f64::from(PAIRS)
    );
}

fn record(number: u32) -> Record {
    Record {
        rule: Some(RuleId::ALL[number as usize % RuleId::ALL.len()]),
        verdict: Verdict::ALL[number as usize % Verdict::ALL.len()],
        scope: Scope::Detection(Some(number.to_string().into())),
        at: None,
        analyst: "ada".into(),
        note: "".into(),
    }
}

/// Verdicts a second: new ones, known ones, and new ones that take the place of the oldest.
fn verdicts() {
    const KEPT: u32 = 90_000;
    let settings = DispositionSettings::default();
    let records: Vec<_> = (0..KEPT).map(record).collect();
    let mut all = Dispositions::new(settings);
    let wall = |number: u32| WallTime((START + u64::from(number) * SECOND / 100).cast_signed());
    let time = |what: &str, all: &mut Dispositions, records: &[Record], expected: Outcome, from: u32| {
        let started = thread_time();
        for (record, number) in records.iter().zip(from..) {
            let outcome = record.rule.map(|rule| all.apply_to(rule, record, wall(number)));
            assert_eq!(black_box(outcome).as_ref(), Some(&expected));
        }
        let cpu = thread_time() - started;
        println!("{what:<50} {:>10.2} M/s", records.len() as f64 / cpu.as_secs_f64() / 1e6);
        drop(all.take_dirty());
    };
    time("verdicts, all new", &mut all, &records, Outcome::Accepted, 0);
    time("verdicts, all known", &mut all, &records, Outcome::Duplicate, 0);
    let fill: Vec<_> = (KEPT..settings.max_records as u32).map(record).collect();
    fill.iter().for_each(|record| drop(all.apply(record, wall(KEPT), |_| Vec::new())));
    drop(all.take_dirty());
    let more: Vec<_> = (0..500_000).map(|number| record(1_000_000 + number)).collect();
    time("verdicts, all new, table full", &mut all, &more, Outcome::Accepted, 100_000);
}
