//! `pktscope replay` of a recording as a user runs it: its own time, silence included.

#![expect(clippy::unwrap_used, reason = "a test's helper may panic")]

use std::{fs, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A program's egress at a time of 2026-03-02: a flow that is open, with data both ways.
fn egress(number: u64, time: &str) -> Value {
    let at = format!("2026-03-02T{time}Z");
    json!({
        "@timestamp": at,
        "event": {"dataset": "pktscope.flow", "action": "flow_started", "start": at, "created": at},
        "network": {"transport": "tcp", "iana_number": "6", "direction": "egress"},
        "source": {"ip": "10.0.0.1", "port": 40_000, "bytes": 900, "packets": 9},
        "destination": {"ip": "93.184.216.34", "port": 4444, "bytes": 900, "packets": 9},
        "process": {
            "pid": number, "executable": format!("/tmp/program-{number}"), "start": at,
            "hash": {"sha256": format!("{number:064}")},
        },
        "pktscope": {
            "flow_id": number, "history": "ShADd", "conn_state": "S1",
            "attribution": {"status": "process", "method": "connect"},
        },
    })
}

/// Time, rule and program of each alert.
fn alerts(lines: &[Value], learning_window: &str) -> Vec<[String; 3]> {
    let folder = TempDir::new().unwrap();
    let recording = folder.path().join("events.ndjson");
    fs::write(&recording, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let mut replay = Command::new(env!("CARGO_BIN_EXE_pktscope"));
    let output = replay.arg("replay").arg(recording).args(["--json", "--learning-window", learning_window]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    let alert = |line: &str| {
        let alert: Value = serde_json::from_str(line).unwrap();
        let text = |path: &str| alert.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let time = text("/@timestamp").split_once('T').map(|(_, time)| time[..8].to_owned());
        [time.unwrap_or_default(), text("/rule/id"), text("/process/executable")]
    };
    told.lines().map(alert).collect()
}

fn first_egress(time: &str, number: u64) -> [String; 3] {
    [time.into(), "new_process_egress".into(), format!("/tmp/program-{number}")]
}

#[test]
fn learning_begins_with_the_first_line_and_silence_counts() {
    let lines = [egress(1, "12:00:00"), egress(2, "12:30:00"), egress(3, "13:30:00"), egress(4, "13:30:09")];
    assert_eq!(alerts(&lines, "1h"), [first_egress("13:30:02", 3), first_egress("13:30:11", 4)]);
}

#[test]
fn what_falls_due_in_a_silence_is_told_when_it_is_due() {
    // A flow to a bare address waits two seconds for its name.
    let lines = [egress(1, "12:00:00"), egress(2, "18:00:00")];
    assert_eq!(alerts(&lines, "0s"), [first_egress("12:00:02", 1), first_egress("18:00:02", 2)]);
}
