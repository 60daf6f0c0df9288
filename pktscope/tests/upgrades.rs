//! Connections that go on in TLS after a dialogue in the clear, against tshark.
//!
//! `fixtures/upgrades.pcap` has real clients (openssl, curl, gnutls-cli, Python's libraries, ldapsearch, psql, mariadb) up
//! to their ClientHello, each with Debian's server of its protocol; where there was none at hand (NNTP, XMPP), with one
//! that says no more than the dialogue needs. tshark 4.0 read `fixtures/upgrades.tshark` from it.

#![expect(clippy::unwrap_used, reason = "a test's helper may panic")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Client's port, server's port, server name; without a name where the client gave none.
type Hello = (u64, u64, String);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn told_by_pktscope() -> BTreeSet<Hello> {
    let mut replay = Command::new(env!("CARGO_BIN_EXE_pktscope"));
    let output = replay.arg("replay").arg(fixture("upgrades.pcap")).args(["--events", "-"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ends = events.filter(|event| event["event"]["action"] == "flow_ended" && event["tls"].is_object());
    ends.map(|flow| {
        assert_eq!(flow["tls"]["client"]["ja4"].as_str().unwrap().len(), 36, "{flow}");
        let port = |side: &str| flow[side]["port"].as_u64().unwrap();
        let name = flow["tls"]["client"]["server_name"].as_str().unwrap_or("").to_owned();
        (port("source"), port("destination"), name)
    })
    .collect()
}

/// Lines of ports and name, as tshark prints them.
fn read(text: &str) -> BTreeSet<Hello> {
    let hello = |line: &str| {
        let mut fields = line.split('\t');
        let mut port = || fields.next().unwrap().parse().unwrap();
        (port(), port(), fields.next().unwrap_or("").to_owned())
    };
    text.lines().map(hello).collect()
}

#[test]
fn every_hello_after_a_dialogue_in_the_clear_is_tsharks() {
    let truth = read(&fs::read_to_string(fixture("upgrades.tshark")).unwrap());
    assert!(truth.len() >= 25, "{truth:?}");
    // FTP's data connections have any port.
    let ports: BTreeSet<u64> = truth.iter().map(|(_, server, _)| *server).filter(|port| *port < 10_000).collect();
    assert_eq!(ports.into_iter().collect::<Vec<_>>(), [21, 24, 110, 119, 143, 389, 587, 3306, 4190, 5222, 5269, 5432]);
    assert_eq!(told_by_pktscope(), truth);
}

/// What is committed is what tshark says. ManageSieve, LMTP, NNTP and the FTP of `AUTH SSL` have no dissector in it that
/// goes over to TLS: it is told to look for TLS there.
#[test]
fn the_truth_is_still_tsharks() {
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(fixture("upgrades.pcap")).args(["-Y", "tls.handshake.type == 1", "-T", "fields"]);
    for decoded in ["4190,tls", "24,smtp", "21,tls", "119,tls", "5269,xmpp"] {
        tshark.args(["-d", &format!("tcp.port=={decoded}")]);
    }
    tshark.args(["-e", "tcp.srcport", "-e", "tcp.dstport", "-e", "tls.handshake.extensions_server_name"]);
    let Ok(output) = tshark.output() else {
        eprintln!("skipped: the_truth_is_still_tsharks: no tshark");
        return;
    };
    let truth = read(&fs::read_to_string(fixture("upgrades.tshark")).unwrap());
    assert_eq!(read(&String::from_utf8(output.stdout).unwrap()), truth);
}
