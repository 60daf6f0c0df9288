//! The dissectors against what other tools computed from captures that others made.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::Value;

use super::dns;
use crate::{
    captures::{self, Packet},
    core::{event::DnsAnswer, flow::Transport},
};

/// The rows of a truth file by the capture they are about, each with its packets.
fn by_capture(truth: &str) -> Option<Vec<(Vec<Packet>, Vec<Value>)>> {
    let mut rows: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for row in captures::rows(truth)? {
        rows.entry(row["pcap"].as_str().unwrap().to_owned()).or_default().push(row);
    }
    rows.into_iter().map(|(pcap, rows)| Some((captures::packets(&captures::file(&pcap)?), rows))).collect()
}

fn texts(row: &Value, field: &str) -> Vec<String> {
    row[field].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Addresses of one family, in order.
fn addresses(answers: &[DnsAnswer], is_family: fn(&IpAddr) -> bool) -> Vec<String> {
    let addr = |answer: &DnsAnswer| match answer {
        DnsAnswer::Address { addr, .. } if is_family(addr) => Some(addr.to_string()),
        _ => None,
    };
    answers.iter().filter_map(addr).collect()
}

fn aliases(answers: &[DnsAnswer]) -> Vec<String> {
    let alias = |answer: &DnsAnswer| match answer {
        DnsAnswer::Alias { target, .. } => Some(target.to_string()),
        _ => None,
    };
    answers.iter().filter_map(alias).collect()
}

/// tshark lists the addresses of all sections, this parser those of the answer section, which comes first.
fn is_prefix(ours: &[String], theirs: &[String], has_other_sections: bool) -> bool {
    let theirs: Vec<String> = theirs.iter().map(|text| text.trim_end_matches('.').to_lowercase()).collect();
    theirs.starts_with(ours) && (has_other_sections || theirs.len() == ours.len())
}

/// What of a message differs from tshark's reading.
fn difference(payload: &[u8], row: &Value) -> Option<String> {
    let parts = match dns::parse(payload) {
        Ok(parts) => parts,
        Err(error) => return Some(error.to_string()),
    };
    let name = parts.questions.first().map_or("", |question| &question.name);
    let has_other_sections = payload[8..12] != [0; 4];
    let families = [("a", IpAddr::is_ipv4 as fn(&IpAddr) -> bool), ("aaaa", IpAddr::is_ipv6)];
    let mut same = vec![
        ("id", format!("{:#06x}", parts.id) == row["id"]),
        ("qr", row["qr"] == parts.is_response),
        ("rcode", row["rcode"].as_u64().is_none_or(|code| u64::from(parts.response_code & 0xf) == code)),
        ("qname", row["qname"].as_str().unwrap().replace("<Root>", "").to_lowercase() == name),
        ("cname", is_prefix(&aliases(&parts.answers), &texts(row, "cname"), has_other_sections)),
    ];
    for (field, is_family) in families {
        let ours = addresses(&parts.answers, is_family);
        same.push((field, is_prefix(&ours, &texts(row, field), has_other_sections)));
    }
    let wrong: Vec<&str> = same.into_iter().filter(|(_, is_same)| !is_same).map(|(field, _)| field).collect();
    (!wrong.is_empty()).then(|| format!("{wrong:?}: {parts:?}"))
}

/// Messages of UDP, as tshark sees them.
#[test]
fn dns_as_tshark() {
    let mut checked = 0;
    let mut wrong = Vec::new();
    let mut left_out = BTreeMap::new();
    for suite in ["arkime", "ipfixprobe", "ja4_pcap", "zeek_Traces"] {
        let Some(captures) = by_capture(&format!("truth/dns/{suite}.jsonl.gz")) else { return };
        for (packets, rows) in &captures {
            for row in rows {
                let packet = packets.iter().find(|packet| Some(packet.frame) == row["frame"].as_u64());
                match packet.map(|packet| dns_reason(packet, row)) {
                    Some(None) => {
                        checked += 1;
                        wrong.extend(difference(&packet.unwrap().payload, row).map(|why| format!("{why}\n  {row}")));
                    }
                    other => {
                        *left_out.entry(other.flatten().unwrap_or("tunnel, fragment or link type")).or_insert(0) += 1
                    }
                }
            }
        }
    }
    eprintln!("{checked} messages match, left out: {left_out:?}");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 700, "only {checked}: {left_out:?}");
}

/// Why a row is not compared.
fn dns_reason(packet: &Packet, row: &Value) -> Option<&'static str> {
    let is_port = |port: &Value| matches!(port.as_u64(), Some(53 | 5353 | 5355));
    if packet.transport != Transport::UDP {
        Some("TCP: joined by another test")
    } else if packet.payload.get(2).is_some_and(|flags| flags & 0x78 != 0) {
        Some("not a query: an update or a notification names no destination")
    } else if row["malformed"] == true || row["qname"].as_str().is_some_and(|name| name.starts_with("<Name")) {
        Some("malformed: tshark gives what it could read")
    } else if !is_port(&row["sport"]) && !is_port(&row["dport"]) {
        Some("tunnelled in UDP")
    } else {
        None
    }
}
