//! `pktscope replay` as a user runs it, on captures made here: what it reads, what it says, and how it ends.

#![expect(clippy::unwrap_used, reason = "a test's helper may panic")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use etherparse::PacketBuilder;
use serde_json::Value;
use tempfile::TempDir;

const CLIENT: [u8; 4] = [10, 0, 0, 1];
const SERVER: [u8; 4] = [93, 184, 216, 34];
const MILLISECOND: u64 = 1_000_000;

/// A capture in the making.
struct Capture {
    file: Vec<u8>,
    at: u64,
}

impl Capture {
    fn new() -> Self {
        let header = [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat();
        Self { file: header, at: 1_700_000_000_000 * MILLISECOND }
    }

    /// Adds a frame, `millis` after the one before.
    fn frame(&mut self, millis: u64, frame: &[u8]) {
        self.at += millis * MILLISECOND;
        let length = frame.len() as u64;
        let record = [self.at / 1_000_000_000, self.at % 1_000_000_000, length, length];
        self.file.extend(record.map(|word| (word as u32).to_le_bytes()).concat());
        self.file.extend_from_slice(frame);
    }

    fn saved(&self, folder: &TempDir) -> PathBuf {
        let path = folder.path().join("capture.pcap");
        fs::write(&path, &self.file).unwrap();
        path
    }
}

fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64).udp(from.1, to.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// One TCP connection: where each side is, and how its segments look.
#[derive(Clone, Copy)]
struct Tcp {
    port: u16,
    /// Next sequence number of client and server.
    next: [u32; 2],
}

impl Tcp {
    fn new(port: u16) -> Self {
        Self { port, next: [1000, 50_000] }
    }

    /// A segment of the client (0) or server (1); `flags` are letters of SAFRP.
    fn segment(&mut self, side: usize, flags: &str, payload: &[u8]) -> Vec<u8> {
        let frame = self.at(side, flags, self.next[side], payload);
        let control = flags.contains(['S', 'F']);
        self.next[side] += payload.len() as u32 + u32::from(control);
        frame
    }

    /// As [`Self::segment`], anywhere in the stream.
    fn at(&self, side: usize, flags: &str, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let (client, server) = ((CLIENT, self.port), (SERVER, 80));
        let (from, to) = if side == 0 { (client, server) } else { (server, client) };
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64);
        let mut builder = ethernet.tcp(from.1, to.1, sequence, 8000);
        for flag in flags.chars() {
            builder = match flag {
                'S' => builder.syn(),
                'A' => builder.ack(self.next[1 - side]),
                'F' => builder.fin(),
                'R' => builder.rst(),
                _ => builder.psh(),
            };
        }
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    fn opens(&mut self, capture: &mut Capture) {
        capture.frame(5, &self.segment(0, "S", b""));
        capture.frame(20, &self.segment(1, "SA", b""));
        capture.frame(10, &self.segment(0, "A", b""));
    }

    fn closes(&mut self, capture: &mut Capture) {
        capture.frame(5, &self.segment(0, "FA", b""));
        capture.frame(5, &self.segment(1, "FA", b""));
        capture.frame(5, &self.segment(0, "A", b""));
    }
}

fn replay(file: &Path, arguments: &[&str]) -> Output {
    let mut replay = Command::new(env!("CARGO_BIN_EXE_pktscope"));
    replay.arg("replay").arg(file).args(arguments).output().unwrap()
}

/// The flows that ended, of a replay that prints every event.
fn flows(file: &Path, arguments: &[&str]) -> Vec<Value> {
    let output = replay(file, &[&["--events", "-"], arguments].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"]["action"] == "flow_ended").collect()
}

fn text<'a>(event: &'a Value, pointer: &str) -> &'a str {
    event.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn number(event: &Value, pointer: &str) -> u64 {
    event.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// A packet inside VXLAN (RFC 7348).
fn vxlan(inner: &[u8]) -> Vec<u8> {
    let header = [8, 0, 0, 0, 0, 0, 7, 0];
    udp(([172, 16, 0, 1], 55_000), ([172, 16, 0, 2], 4789), &[&header[..], inner].concat())
}

#[test]
fn tunnels_are_seen_into_where_the_configuration_or_the_flag_says_so() {
    let (folder, mut capture) = (TempDir::new().unwrap(), Capture::new());
    let mut tcp = Tcp::new(4000);
    for _ in 0..2 {
        capture.frame(1, &vxlan(&tcp.segment(0, "PA", b"hello")));
    }
    let file = capture.saved(&folder);
    let config = folder.path().join("pktscope.toml");
    fs::write(&config, "[replay]\ntunnels = [\"vxlan\"]\n").unwrap();
    let config = config.to_str().unwrap();
    let seen = |arguments: &[&str]| {
        let flows = flows(&file, arguments);
        assert_eq!(flows.len(), 1, "{flows:?}");
        (text(&flows[0], "/destination/ip").to_owned(), number(&flows[0], "/source/bytes"))
    };
    let (outside, inside) = (("172.16.0.2".to_owned(), 2 * 95 + 2 * 14), ("93.184.216.34".to_owned(), 2 * 45));
    let outside = (outside.0, 2 * (20 + 8 + 8 + 14 + 45));
    assert_eq!(seen(&[]), outside);
    assert_eq!(seen(&["--tunnels", "gre,ipip"]), outside);
    assert_eq!(seen(&["--tunnels", "vxlan"]), inside);
    assert_eq!(seen(&["--config", config]), inside);
    assert_eq!(seen(&["--config", config, "--tunnels", "gre"]), outside);
    let refused = replay(&file, &["--tunnels", "teredo"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there are: vxlan, gre, ipip, all"));
}

#[test]
fn the_networks_that_are_ours_are_set_in_the_configuration() {
    let (folder, mut capture) = (TempDir::new().unwrap(), Capture::new());
    Tcp::new(4000).opens(&mut capture);
    let file = capture.saved(&folder);
    let config = folder.path().join("pktscope.toml");
    fs::write(&config, "[replay]\nlocal_networks = [\"93.184.216.0/24\"]\n").unwrap();
    let direction = |arguments: &[&str]| text(&flows(&file, arguments)[0], "/network/direction").to_owned();
    assert_eq!(direction(&[]), "egress");
    assert_eq!(direction(&["--config", config.to_str().unwrap()]), "ingress");
}

/// Connections of all kinds, look-ups, a fragmented datagram.
fn varied() -> Capture {
    let mut capture = Capture::new();
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";
    let answer =
        [&b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0"[..], &question[12..], b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04"];
    let resolver = ([10, 0, 0, 53], 53);
    capture.frame(1, &udp((CLIENT, 5353 + 40_000), resolver, question));
    capture.frame(8, &udp(resolver, (CLIENT, 5353 + 40_000), &[answer.concat(), SERVER.to_vec()].concat()));
    for port in 4000..4005 {
        let mut tcp = Tcp::new(port);
        tcp.opens(&mut capture);
        capture.frame(1, &tcp.segment(0, "PA", b"GET / HTTP/1.1\r\nHost: www.example\r\n\r\n"));
        capture.frame(9, &tcp.segment(1, "PA", &[7; 700]));
        capture.frame(1, &tcp.segment(0, "A", b""));
        tcp.closes(&mut capture);
    }
    let mut first = udp((CLIENT, 7), (SERVER, 9), &[1; 72]);
    let mut rest = first[..34].to_vec();
    rest.extend(first.split_off(34 + 40));
    for (frame, place) in [(&mut first, 0x2000_u16), (&mut rest, 5)] {
        let bytes = frame.len() as u16 - 14;
        frame[16..18].copy_from_slice(&bytes.to_be_bytes());
        frame[20..22].copy_from_slice(&place.to_be_bytes());
        capture.frame(1, frame);
    }
    capture
}

#[test]
fn two_replays_are_the_same_byte_for_byte() {
    let folder = TempDir::new().unwrap();
    let file = varied().saved(&folder);
    let run = |name: &str| {
        let events = folder.path().join(name);
        let output = replay(&file, &["--json", "--learning-window", "0s", "--events", events.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        (fs::read(events).unwrap(), output.stdout)
    };
    let (events, alerts) = run("one.ndjson");
    assert_eq!(run("two.ndjson"), (events.clone(), alerts));
    // And so are two replays of that recording.
    let recording = folder.path().join("one.ndjson");
    let again = || replay(&recording, &["--json", "--learning-window", "0s"]).stdout;
    assert_eq!(again(), again());
    assert!(events.split(|byte| *byte == b'\n').count() > 14);
}

/// A datagram to each of many destinations, 10 s apart.
fn contacts() -> Capture {
    let mut capture = Capture::new();
    for host in 1..=20 {
        capture.frame(10_000, &udp((CLIENT, 4000), ([93, 184, 216, host], 9999), b"hello"));
    }
    capture
}

/// Rule and incident of each alert, in the order told.
fn alerts(file: &Path) -> Vec<(String, String)> {
    let output = replay(file, &["--json", "--learning-window", "0s"]);
    let told = String::from_utf8(output.stdout).unwrap();
    let alerts = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    alerts.map(|alert| (text(&alert, "/rule/id").into(), text(&alert, "/pktscope/alert/dedup_key").into())).collect()
}

#[test]
fn a_recording_of_a_capture_gives_its_alerts_in_their_order() {
    let folder = TempDir::new().unwrap();
    let file = contacts().saved(&folder);
    let events = folder.path().join("events.ndjson");
    replay(&file, &["--learning-window", "0s", "--events", events.to_str().unwrap()]);
    let live = alerts(&file);
    assert!(live.len() > 10, "{live:?}");
    assert_eq!(alerts(&events), live);
}

#[test]
fn what_another_configuration_would_have_raised_is_compared() {
    let folder = TempDir::new().unwrap();
    let file = contacts().saved(&folder);
    let quiet = folder.path().join("quiet.toml");
    fs::write(&quiet, "[detect]\ndisabled = [\"new_process_dest\"]\n").unwrap();
    let quiet = quiet.to_str().unwrap();
    let differences = |arguments: &[&str]| {
        let output = replay(&file, &[&["--learning-window", "0s"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let told = String::from_utf8(output.stdout).unwrap();
        told.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    let lost = alerts(&file).iter().filter(|(rule, _)| rule == "new_process_dest").count();
    assert_eq!(differences(&["--compare", quiet]), vec!["- new_process_dest"; lost]);
    let plain = folder.path().join("plain.toml");
    fs::write(&plain, "").unwrap();
    let plain = plain.to_str().unwrap();
    assert_eq!(differences(&["--config", quiet, "--compare", plain]), vec!["+ new_process_dest"; lost]);
    assert!(differences(&["--compare", plain]).is_empty());
}

#[test]
fn names_of_a_capture_are_found_as_live() {
    let folder = TempDir::new().unwrap();
    let flows = flows(&varied().saved(&folder), &[]);
    assert_eq!(flows.len(), 7);
    for flow in flows.iter().filter(|flow| number(flow, "/destination/port") == 80) {
        assert_eq!(text(flow, "/destination/domain"), "www.example");
    }
}

#[test]
fn what_is_cut_off_or_corrupt_is_counted_and_the_rest_is_replayed() {
    let folder = TempDir::new().unwrap();
    let whole = varied();
    let mut cut = Capture { file: whole.file[..whole.file.len() - 10].to_vec(), at: 0 };
    let output = replay(&cut.saved(&folder), &["--json"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("could be read only in part") && told.contains("bytes unread"), "{told}");
    assert!(told.contains("48 frames, 7 flows"), "{told}");
    // A record of a gigabyte in the middle: nothing tells where the next one begins.
    let middle = whole.file.len() / 2;
    cut.file = [&whole.file[..24], &whole.file[24..middle]].concat();
    cut.file.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 64]);
    let output = replay(&cut.saved(&folder), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(flows(&cut.saved(&folder), &[]).len() >= 3);
    // What is neither a capture nor a recording.
    fs::write(folder.path().join("capture.pcap"), b"this is a letter\n").unwrap();
    let output = replay(&folder.path().join("capture.pcap"), &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let missing = replay(&folder.path().join("nothing.pcap"), &[]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("nothing.pcap"));
}

#[test]
fn throughput_is_said_at_the_end_and_never_between_the_alerts() {
    let folder = TempDir::new().unwrap();
    let file = varied().saved(&folder);
    for arguments in [&[][..], &["--json"], &["--events", "-"]] {
        let output = replay(&file, arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("49 frames, 7 flows") && told.contains("/s)"), "{arguments:?}: {told}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("frames,"));
    }
}

/// Connections in every state that a capture can leave them in.
fn states() -> Capture {
    let mut capture = Capture::new();
    let mut each = 4000..;
    let mut connection = || Tcp::new(each.next().unwrap());
    capture.frame(1, &connection().segment(0, "S", b""));
    let mut refused = connection();
    capture.frame(1, &refused.segment(0, "S", b""));
    capture.frame(4, &refused.at(1, "RA", 0, b""));
    let mut half_open = connection();
    capture.frame(1, &half_open.segment(0, "S", b""));
    capture.frame(3, &half_open.segment(1, "SA", b""));
    let kinds: [(&str, &[(usize, &str)]); 5] = [
        ("closed", &[(0, "FA"), (1, "FA"), (0, "A")]),
        ("half closed by the client", &[(0, "FA"), (1, "A")]),
        ("half closed by the server", &[(1, "FA"), (0, "A")]),
        ("reset by the client", &[(0, "RA")]),
        ("reset by the server", &[(1, "RA")]),
    ];
    for (_, ending) in kinds {
        let mut tcp = connection();
        tcp.opens(&mut capture);
        capture.frame(1, &tcp.segment(0, "PA", &[1; 100]));
        capture.frame(30, &tcp.segment(1, "PA", &[2; 900]));
        capture.frame(1, &tcp.segment(0, "A", b""));
        for (side, flags) in ending {
            capture.frame(2, &tcp.segment(*side, flags, b""));
        }
    }
    // Sent again after its acknowledgement's time, and in the middle of a stream.
    let mut again = connection();
    again.opens(&mut capture);
    let first = again.next[0];
    capture.frame(1, &again.segment(0, "PA", &[1; 100]));
    capture.frame(400, &again.at(0, "PA", first, &[1; 100]));
    capture.frame(1, &again.segment(1, "A", b""));
    let mut joined = connection();
    capture.frame(1, &joined.segment(0, "PA", &[1; 100]));
    capture.frame(1, &joined.segment(1, "PA", &[1; 50]));
    capture
}

/// What either tool says of a connection.
#[derive(Debug, Default, PartialEq)]
struct Told {
    /// Packets, IP-layer bytes and payload of client and server.
    volume: [[u64; 3]; 2],
    /// Which of SYN, SYN-ACK, ACK, data, FIN and RST were seen: tshark's completeness.
    completeness: u64,
    /// Segments sent again.
    again: u64,
    /// The handshake's round trip in microseconds, where there is all of it.
    round_trip: Option<u64>,
    /// Microseconds from the capture's start to the first and the last packet.
    times: [u64; 2],
}

const SYN_ACK: u64 = 2;
const HANDSHAKE_ACK: u64 = 4;

/// Microseconds since [`Capture::new`].
fn micros(event: &Value, pointer: &str) -> u64 {
    let at: jiff::Timestamp = text(event, pointer).parse().unwrap();
    u64::try_from(at.as_microsecond()).unwrap() - 1_700_000_000_000_000
}

/// By the client's port.
fn told_by_pktscope(file: &Path) -> BTreeMap<u64, Told> {
    let row = |flow: &Value| {
        let volume = |side: &str| {
            [format!("/{side}/packets"), format!("/{side}/bytes"), format!("/pktscope/payload/{side}_bytes")]
                .map(|pointer| number(flow, &pointer))
        };
        let history = text(flow, "/pktscope/history");
        let has = |letters: &[char]| u64::from(history.contains(letters));
        // An ACK has a letter of its own only without payload; tshark's bit is the handshake's.
        let is_open = u64::from(history.contains('h') && history.contains('A'));
        let handshake = has(&['S']) | has(&['h']) << 1 | is_open << 2;
        let again = ["source", "destination"].map(|side| number(flow, &format!("/pktscope/tcp/{side}_retransmitted")));
        let round_trip = flow.pointer("/pktscope/tcp/handshake_rtt").and_then(Value::as_u64).map(|nanos| nanos / 1000);
        let told = Told {
            volume: [volume("source"), volume("destination")],
            completeness: handshake | has(&['D', 'd']) << 3 | has(&['F', 'f']) << 4 | has(&['R', 'r']) << 5,
            again: again[0] + again[1],
            round_trip,
            times: ["/event/start", "/event/end"].map(|pointer| micros(flow, pointer)),
        };
        (number(flow, "/source/port"), told)
    };
    flows(file, &[]).iter().map(row).collect()
}

fn told_by_tshark(file: &Path) -> Option<BTreeMap<u64, Told>> {
    let fields = [
        "frame.time_relative",
        "tcp.srcport",
        "tcp.dstport",
        "ip.len",
        "tcp.len",
        "tcp.completeness",
        "tcp.analysis.retransmission",
        "tcp.analysis.initial_rtt",
    ];
    let mut tshark = Command::new("tshark");
    // In two passes: each packet then has what its whole connection came to.
    tshark.arg("-r").arg(file).args(["-2", "-T", "fields"]).args(fields.iter().flat_map(|field| ["-e", field]));
    let output = tshark.output().ok()?;
    let mut told: BTreeMap<u64, Told> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let value = |at: usize| fields[at].parse::<u64>().unwrap_or(0);
        let micros = |at: usize| fields[at].parse::<f64>().ok().map(|seconds| (seconds * 1e6).round() as u64);
        let side = usize::from(value(1) == 80);
        let row = told.entry(value(1 + side)).or_default();
        // The first packet comes a millisecond after the capture's start.
        let at = micros(0).unwrap() + 1000;
        row.times = if row.volume == [[0; 3]; 2] { [at; 2] } else { [row.times[0], at] };
        for (total, more) in row.volume[side].iter_mut().zip([1, value(3), value(4)]) {
            *total += more;
        }
        row.completeness = value(5);
        row.again += u64::from(!fields[6].is_empty());
        row.round_trip = row.round_trip.or(micros(7));
    }
    // tshark takes a refusal's ACK for a handshake's too, and its time for the round trip.
    for told in told.values_mut().filter(|told| told.completeness & SYN_ACK == 0) {
        told.completeness &= !HANDSHAKE_ACK;
        told.round_trip = None;
    }
    Some(told)
}

#[test]
fn connections_in_every_state_are_tsharks() {
    let folder = TempDir::new().unwrap();
    let file = states().saved(&folder);
    let ours = told_by_pktscope(&file);
    assert_eq!(ours.len(), 10);
    let Some(theirs) = told_by_tshark(&file) else {
        eprintln!("skipped: connections_in_every_state_are_tsharks: no tshark");
        return;
    };
    assert_eq!(ours, theirs);
}

/// The states by name, as Zeek's manual has them (base/protocols/conn/main.zeek).
#[test]
fn connections_in_every_state_have_zeeks_names() {
    let folder = TempDir::new().unwrap();
    let flows = flows(&states().saved(&folder), &[]);
    let mut told: Vec<_> = flows
        .iter()
        .map(|flow| (number(flow, "/source/port"), text(flow, "/pktscope/conn_state"), text(flow, "/pktscope/history")))
        .collect();
    told.sort_unstable();
    let expected = [
        (4000, "S0", "S"),
        (4001, "REJ", "Sr"),
        (4002, "S1", "Sh"),
        (4003, "SF", "ShADdFf"),
        (4004, "S2", "ShADdFa"),
        (4005, "S3", "ShADdf"),
        (4006, "RSTO", "ShADdR"),
        (4007, "RSTR", "ShADdr"),
        (4008, "S1", "ShADTa"),
        (4009, "OTH", "Dd"),
    ];
    assert_eq!(told, expected);
}
