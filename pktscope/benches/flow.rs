//! `cargo bench -p pktscope --bench flow`: the flow tracker beside flowscope 0.1.0, in one run on the same packets.
//!
//! Frames lie in memory one after the other, as in a capture's buffer. Times are CPU time of this thread, so that other
//! work on the machine counts little; the two trackers take turns, the median of the rounds is shown. Memory is what
//! the process grew by, measured in a process of its own.

use std::{env, fs, hint::black_box, io::Write, net::Ipv4Addr, process::Command, time::Duration};

use flowscope::{FlowTracker, FlowTrackerConfig, PacketView, Timestamp, extract::FiveTuple};
use pktscope::{
    core::{
        flow::{FlowId, FlowSettings, Tracker},
        packet::{Decoded, LinkType, Packet, Tunnels, decode},
        time::BootTime,
    },
    replay::{capture::Reader, packets::PacketReader},
};

const FRAME_BYTES: usize = 118;
const SYN: u8 = 2;
const ACK: u8 = 16;
const MAX_FLOWS: usize = 4_000_000;
const NANOS: u64 = 1_000_000_000;
const START: u64 = 1_000_000 * NANOS;
/// Between two packets.
const STEP_NANOS: u64 = 300;

fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = cpu_time();
    work();
    (cpu_time() - start).as_secs_f64() * 1e9
}

/// Deterministic numbers (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

struct Segment {
    flow: u32,
    is_reply: bool,
    has_payload: bool,
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
}

/// An Ethernet frame of `bytes` with IPv4 and TCP; a SYN and the handshake's last ACK carry padding, the others payload.
fn write_frame(out: &mut Vec<u8>, segment: &Segment, bytes: usize) {
    let start = out.len();
    let client = Ipv4Addr::from(0x0a00_0000 | segment.flow >> 8).octets();
    let server = Ipv4Addr::from(0xc0a8_0000 | segment.flow & 0xff).octets();
    let ports = [40_000_u16.wrapping_add((segment.flow % 5000) as u16).to_be_bytes(), 443_u16.to_be_bytes()];
    let ((source, destination), (from, to)) = match segment.is_reply {
        false => ((client, server), (ports[0], ports[1])),
        true => ((server, client), (ports[1], ports[0])),
    };
    out.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    out.extend([0x45, 0]);
    let ip_bytes = if segment.has_payload { bytes as u16 - 14 } else { 40 };
    out.extend(ip_bytes.to_be_bytes());
    out.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    out.extend(source);
    out.extend(destination);
    out.extend(from);
    out.extend(to);
    out.extend(segment.sequence.to_be_bytes());
    out.extend(segment.acknowledgement.to_be_bytes());
    out.extend([0x50, segment.flags, 0xff, 0xff, 0, 0, 0, 0]);
    out.resize(start + bytes, 0x55);
}

fn handshakes(flows: u32) -> Vec<u8> {
    let mut frames = Vec::with_capacity(flows as usize * 3 * FRAME_BYTES);
    for flow in 0..flows {
        for (is_reply, flags, sequence, acknowledgement) in
            [(false, SYN, 99, 0), (true, SYN | ACK, 999, 100), (false, ACK, 100, 1000)]
        {
            let segment = Segment { flow, is_reply, has_payload: false, flags, sequence, acknowledgement };
            write_frame(&mut frames, &segment, FRAME_BYTES);
        }
    }
    frames
}

/// Data from both sides of all flows, in turn or at random; each call goes on where the last one ended.
struct Data {
    random: Random,
    sent: Vec<[u32; 2]>,
    is_random: bool,
}

impl Data {
    fn new(flows: u32, is_random: bool) -> Self {
        Self { random: Random(0x9e37_79b9), sent: vec![[0; 2]; flows as usize], is_random }
    }

    fn write(&mut self, packets: u32, frames: &mut Vec<u8>) {
        let payload = FRAME_BYTES as u32 - 54;
        frames.clear();
        for index in 0..packets {
            let number = if self.is_random { self.random.next() >> 8 } else { u64::from(index) };
            let flow = (number % self.sent.len() as u64) as u32;
            let is_reply = self.random.next() >> 32 & 1 == 1;
            let sent = &mut self.sent[flow as usize];
            let (own, other) = (usize::from(is_reply), usize::from(!is_reply));
            let first = [100, 1000];
            let sequence = first[own] + sent[own];
            let acknowledgement = first[other] + sent[other];
            let segment = Segment { flow, is_reply, has_payload: true, flags: ACK, sequence, acknowledgement };
            write_frame(frames, &segment, FRAME_BYTES);
            sent[own] += payload;
        }
    }
}

fn syns(count: u32) -> Vec<u8> {
    let mut frames = Vec::with_capacity(count as usize * FRAME_BYTES);
    for flow in 0..count {
        let flow = 50_000_000 + flow;
        let segment =
            Segment { flow, is_reply: false, has_payload: false, flags: SYN, sequence: flow, acknowledgement: 0 };
        write_frame(&mut frames, &segment, FRAME_BYTES);
    }
    frames
}

/// What both can do: take frames at a time and grow older.
trait Subject {
    fn take(&mut self, frames: &[u8], at: u64) -> u64;
    fn tick(&mut self, at: u64);
    fn flows(&self) -> usize;
}

struct Ours(Tracker<()>);

impl Ours {
    fn new(max_flows: usize) -> Self {
        Self(Tracker::new(FlowSettings { max_flows, ..FlowSettings::default() }, FlowId(1)))
    }
}

impl Subject for Ours {
    fn take(&mut self, frames: &[u8], mut at: u64) -> u64 {
        let mut batch = [(BootTime(0), Packet::default()); 16];
        for frames in frames.chunks(FRAME_BYTES * 16) {
            let mut count = 0;
            for frame in frames.chunks_exact(FRAME_BYTES) {
                at += STEP_NANOS;
                let decoded = decode(LinkType::Ethernet, frame, FRAME_BYTES as u32, Tunnels::default());
                if let Ok(Decoded::Packet(packet)) = decoded {
                    batch[count] = (BootTime(at), packet);
                    count += 1;
                }
            }
            self.0.packets(&batch[..count], &mut ());
        }
        at
    }

    fn tick(&mut self, at: u64) {
        self.0.tick(BootTime(at), &mut ());
    }

    fn flows(&self) -> usize {
        self.0.len()
    }
}

struct Theirs(FlowTracker<FiveTuple, ()>);

impl Theirs {
    fn new(max_flows: usize) -> Self {
        let config = FlowTrackerConfig { max_flows, ..FlowTrackerConfig::default() };
        Self(FlowTracker::with_config(FiveTuple::bidirectional(), config))
    }
}

fn timestamp(at: u64) -> Timestamp {
    Timestamp { sec: (at / NANOS) as u32, nsec: (at % NANOS) as u32 }
}

impl Subject for Theirs {
    fn take(&mut self, frames: &[u8], mut at: u64) -> u64 {
        for frame in frames.chunks_exact(FRAME_BYTES) {
            at += STEP_NANOS;
            black_box(self.0.track(PacketView::new(frame, timestamp(at))));
        }
        at
    }

    fn tick(&mut self, at: u64) {
        black_box(self.0.sweep(timestamp(at)));
    }

    fn flows(&self) -> usize {
        self.0.flow_count()
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What a row is to come up to.
enum Bar {
    None,
    /// So many times better than flowscope.
    Times(f64),
    /// At most this.
    Most(f64),
}

fn row(name: &str, unit: &str, ours: &mut [f64], theirs: &mut [f64], bar: Bar) {
    let (ours, theirs) = (median(ours), median(theirs));
    let (is_met, bar) = match bar {
        Bar::None => (true, String::new()),
        Bar::Times(least) => (least * ours <= theirs, format!("at least {least} x")),
        Bar::Most(most) => (ours <= most, format!("at most {most}")),
    };
    let missed = if is_met { "" } else { " MISSED" };
    println!("{name:<44} {ours:>10.1} {theirs:>10.1} {unit:<10} {:>6.1} x   {bar}{missed}", theirs / ours);
}

const ROUNDS: usize = 5;

/// Data of established flows.
fn established(flows: u32, packets: u32, is_random: bool) {
    let (before, mut data, mut frames) = (handshakes(flows), Data::new(flows, is_random), Vec::new());
    let (mut ours, mut theirs) = (Ours::new(MAX_FLOWS), Theirs::new(MAX_FLOWS));
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    let mut at = [START; 2];
    at[0] = ours.take(&before, at[0]);
    at[1] = theirs.take(&before, at[1]);
    assert_eq!((ours.flows(), theirs.flows()), (flows as usize, flows as usize));
    for _ in 0..ROUNDS {
        data.write(packets, &mut frames);
        our_times.push(timed(|| at[0] = ours.take(&frames, at[0])) / f64::from(packets));
        their_times.push(timed(|| at[1] = theirs.take(&frames, at[1])) / f64::from(packets));
    }
    let order = if is_random { "random order" } else { "in turn" };
    let bar = match (flows, is_random) {
        (1_000, _) => Bar::Times(2.0),
        (100_000, true) => Bar::Times(4.0),
        (1_000_000, true) => Bar::Times(5.0),
        _ => Bar::None,
    };
    row(&format!("data, {flows} flows, {order}"), "ns/packet", &mut our_times, &mut their_times, bar);
}

/// A SYN for each, into an empty table and into a full one.
fn flood(max_flows: usize, name: &str) {
    let (before, frames) = (handshakes(50_000), syns(200_000));
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (mut ours, mut theirs) = (Ours::new(max_flows), Theirs::new(max_flows));
        ours.take(&before, START);
        theirs.take(&before, START);
        our_times.push(timed(|| _ = black_box(ours.take(&frames, START))) / 200_000.0);
        their_times.push(timed(|| _ = black_box(theirs.take(&frames, START))) / 200_000.0);
    }
    row(name, "ns/packet", &mut our_times, &mut their_times, Bar::None);
}

fn idle_ticks(flows: u32) {
    let before = handshakes(flows);
    let (mut ours, mut theirs) = (Ours::new(MAX_FLOWS), Theirs::new(MAX_FLOWS));
    let at = [ours.take(&before, START), theirs.take(&before, START)];
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for second in 1..=ROUNDS as u64 {
        our_times.push(timed(|| ours.tick(at[0] + second * NANOS)) / 1e3);
        their_times.push(timed(|| theirs.tick(at[1] + second * NANOS)) / 1e3);
    }
    row(&format!("tick, {flows} flows, nothing due"), "us/tick", &mut our_times, &mut their_times, Bar::None);
}

fn all_expire(flows: u32) {
    let before = handshakes(flows);
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (mut ours, mut theirs) = (Ours::new(MAX_FLOWS), Theirs::new(MAX_FLOWS));
        ours.take(&before, START);
        theirs.take(&before, START);
        our_times.push(timed(|| ours.tick(START + 1000 * NANOS)) / 1e6);
        their_times.push(timed(|| theirs.tick(START + 1000 * NANOS)) / 1e6);
        assert_eq!((ours.flows(), theirs.flows()), (0, 0));
    }
    row(&format!("tick, {flows} flows, all due"), "ms/tick", &mut our_times, &mut their_times, Bar::None);
}

fn resident_bytes() -> f64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = rollup.lines().find(|line| line.starts_with("Rss:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}

/// In a process of its own: the bytes that each flow added.
fn measure_memory(subject: &str, flows: u32) {
    let before = handshakes(flows);
    let grown = |subject: &mut dyn Subject| {
        let start = resident_bytes();
        subject.take(&before, START);
        assert_eq!(subject.flows(), flows as usize);
        println!("{}", (resident_bytes() - start) / f64::from(flows));
    };
    // An eighth of the table is kept for flows that are not confirmed.
    let max_flows = flows as usize * 8 / 7 + 8;
    match subject {
        "ours" => grown(&mut Ours::new(max_flows)),
        _ => grown(&mut Theirs::new(max_flows)),
    }
}

fn memory(flows: u32) {
    let of = |subject: &str| {
        let own = env::current_exe().expect("this program has a path");
        let output = Command::new(own).args(["--memory", subject, &flows.to_string()]).output();
        let text = String::from_utf8(output.expect("it can be run again").stdout).unwrap_or_default();
        text.trim().parse::<f64>().unwrap_or(f64::NAN)
    };
    // What flowscope keeps a flow in, its table's room not counted.
    let bar = Bar::Most(176.0);
    row(&format!("memory, {flows} flows"), "bytes/flow", &mut [of("ours")], &mut [of("theirs")], bar);
}

/// A capture file of established flows.
fn write_capture(path: &std::path::Path, flows: u32, frame_bytes: usize, total_bytes: usize) {
    let mut random = Random(7);
    let mut sent = vec![[0_u32; 2]; flows as usize];
    let mut file = std::io::BufWriter::new(fs::File::create(path).expect("the capture can be written"));
    let header = [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat();
    file.write_all(&header).expect("the capture can be written");
    let mut frame = Vec::new();
    for index in 0..(total_bytes / (frame_bytes + 16)) as u64 {
        let flow = (random.next() % u64::from(flows)) as u32;
        let sent = &mut sent[flow as usize];
        let segment = Segment {
            flow,
            is_reply: false,
            has_payload: sent[0] > 0,
            flags: if sent[0] == 0 { SYN } else { ACK },
            sequence: 100 + sent[0],
            acknowledgement: 1,
        };
        sent[0] += if sent[0] == 0 { 1 } else { frame_bytes as u32 - 54 };
        frame.clear();
        write_frame(&mut frame, &segment, frame_bytes);
        let at = START + index * 1000;
        let length = frame.len() as u32;
        let record = [(at / NANOS) as u32, (at % NANOS) as u32, length, length].map(u32::to_le_bytes).concat();
        file.write_all(&record).and_then(|()| file.write_all(&frame)).expect("the capture can be written");
    }
}

fn replay(flows: u32, frame_bytes: usize) {
    let path = env::temp_dir().join(format!("pktscope-bench-{}.pcap", std::process::id()));
    write_capture(&path, flows, frame_bytes, 400 << 20);
    let (mut gigabytes, mut millions) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let reader = Reader::open(&path).expect("the capture can be opened");
        let mut packets = PacketReader::new(reader, Tunnels::default());
        let settings = FlowSettings { max_flows: MAX_FLOWS, ..FlowSettings::default() };
        let mut tracker = Tracker::<()>::new(settings, FlowId(1));
        let nanos = timed(|| while packets.next_packets(|batch| tracker.packets(batch, &mut ())).unwrap_or(false) {});
        let statistics = packets.statistics().capture;
        gigabytes.push(statistics.bytes as f64 / nanos);
        millions.push(statistics.frames as f64 / nanos * 1e3);
    }
    let _ = fs::remove_file(&path);
    let (gigabytes, millions) = (median(&mut gigabytes), median(&mut millions));
    println!("replay, {flows} flows, {frame_bytes}-byte frames: {gigabytes:.2} GB/s, {millions:.2} M packets/s");
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [_, subject, flows] = &arguments[..]
        && arguments[0] == "--memory"
    {
        return measure_memory(subject, flows.parse().unwrap_or(1));
    }
    // `cargo test` runs benches too, without this argument.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    println!("{:<44} {:>10} {:>10} {:<10}", "", "pktscope", "flowscope", "");
    for (flows, is_random) in [(1000, false), (1000, true), (100_000, false), (100_000, true), (1_000_000, true)] {
        established(flows, 2_000_000, is_random);
    }
    flood(MAX_FLOWS, "first SYN of new flows");
    flood(100_000, "SYN flood, table full");
    for flows in [10_000, 100_000, 1_000_000] {
        idle_ticks(flows);
    }
    all_expire(100_000);
    for flows in [100_000, 1_000_000] {
        memory(flows);
    }
    for (flows, frame_bytes) in [(1000, 64), (100_000, 64), (1000, 600), (100_000, 600), (1000, 1514)] {
        replay(flows, frame_bytes);
    }
}
