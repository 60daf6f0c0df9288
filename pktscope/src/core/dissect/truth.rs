//! The dissectors against what other tools computed from captures that others made.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::Value;

use super::{dns, flows::FlowDissector};
use crate::{
    captures::{self, Packet},
    core::{
        domain::is_address,
        event::{DnsAnswer, Event, FlowRef, ServerName},
        flow::{DomainSource, Transport},
    },
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

/// All that a capture's flows give.
fn dissect(packets: &[Packet]) -> Vec<Event> {
    let mut dissector = FlowDissector::default();
    let mut events = Vec::new();
    packets.iter().filter_map(Packet::payload).for_each(|payload| dissector.observe(&payload, &mut events));
    events
}

fn hellos(events: &[Event]) -> Vec<&ServerName> {
    fn hello(event: &Event) -> Option<&ServerName> {
        match event {
            Event::ServerName(name) if name.source != DomainSource::HttpHost => Some(name),
            _ => None,
        }
    }
    events.iter().filter_map(hello).collect()
}

/// Whether the row is about this flow's client.
fn is_same_flow(found: &ServerName, row: &Value) -> bool {
    row["src"] == found.flow.source.addr.to_string()
        && row["dst"] == found.flow.destination.addr.to_string()
        && row["sport"] == found.flow.source.port
        && row["dport"] == found.flow.destination.port
}

/// Captures whose hellos are not a flow's first bytes: after STARTTLS, a proxy's answer or a database's greeting.
const AFTER_A_GREETING: &[&str] = &[
    "adb_synthetic",
    "https-connect",
    "ldap-ssl",
    "mysql",
    "starttls",
    "socks",
    "ftp-auth-tls",
    "connect-with-header",
    "postgresql",
    "rdp-to-ssl",
];
/// Captures of frames inside frames, and of TLS on UDP inside another protocol, which this reader does not unwrap.
const TUNNELLED: &[&str] = &["pppoe", "geneve", "gtp", "rdpeudp", "tunnels/gre"];
/// Captures with a hello in SSL 2.0's form, which has no fields to name or fingerprint.
const SSL_2: &[&str] = &["https2-301-get", "ssl-v2", "ssl.v3"];

/// Why a capture's hello may be missing.
fn missing_reason(pcap: &str) -> Option<&'static str> {
    let reasons = [(AFTER_A_GREETING, "after a greeting"), (TUNNELLED, "tunnelled"), (SSL_2, "SSL 2.0")];
    let is_named = |(names, _): &(&[&str], &str)| names.iter().any(|name| pcap.contains(name));
    reasons.into_iter().find(is_named).map(|(_, reason)| reason)
}

/// What of a hello differs from tshark's reading.
fn hello_difference(found: &ServerName, row: &Value) -> Option<String> {
    let hello = found.hello.as_ref()?;
    let alpn: Vec<&str> = hello.alpn.iter().map(|protocol| &**protocol).collect();
    let is_same = *hello.ja4 == row["ja4"]
        && row["sni"] == hello.server_name.as_deref().unwrap_or("")
        && texts(row, "alpn") == alpn
        && row["quic"] == (found.source == DomainSource::QuicSni);
    (!is_same).then(|| format!("{hello:?}\n  {row}"))
}

/// Server name, protocols and JA4 of every first hello, as tshark sees them.
#[test]
fn hellos_as_tshark() {
    let (mut checked, mut wrong, mut left_out) = (0, Vec::new(), BTreeMap::new());
    for suite in ["arkime", "ipfixprobe", "ja4_pcap", "zeek_Traces"] {
        let Some(captures) = by_capture(&format!("truth/tls/{suite}.jsonl.gz")) else { return };
        for (packets, rows) in &captures {
            let events = dissect(packets);
            let mut hellos = hellos(&events);
            let mut seen = Vec::new();
            for row in rows {
                let pcap = row["pcap"].as_str().unwrap();
                let flow = ["src", "dst", "sport", "dport"].map(|field| row[field].clone());
                let reason = if seen.contains(&flow) {
                    Some("second hello of a flow")
                } else if pcap.ends_with("tls-non-ascii-alpn.pcapng") {
                    Some("tshark writes 3f where FoxIO's results have 99")
                } else {
                    missing_reason(pcap)
                };
                seen.push(flow);
                match hellos.iter().position(|found| is_same_flow(found, row)) {
                    Some(index) if reason.is_none() => {
                        checked += 1;
                        wrong.extend(hello_difference(hellos.remove(index), row));
                    }
                    None if reason.is_none() => wrong.push(format!("missing: {row}")),
                    _ => *left_out.entry(reason).or_insert(0) += 1,
                }
            }
        }
    }
    eprintln!("{checked} hellos compared, left out: {left_out:?}");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 330, "only {checked}");
}

/// JA4 and server name as FoxIO's own programs print them. Of a flow with a HelloRetryRequest the Rust one prints the
/// first hello, as this project does, and the Python one the second.
#[test]
fn ja4_as_published() {
    let Some(captures) = by_capture("truth/foxio_ja4.jsonl.gz") else { return };
    let (mut checked, mut wrong, mut left_out) = (0, Vec::new(), BTreeMap::new());
    for (packets, rows) in &captures {
        let events = dissect(packets);
        let hellos = hellos(&events);
        let is_ours = |row: &Value| {
            hellos.iter().filter(|found| is_same_flow(found, row)).filter_map(|found| found.hello.as_ref()).any(
                |hello| {
                    *hello.ja4 == row["ja4"]
                        && row["sni"].as_str().unwrap_or("") == hello.server_name.as_deref().unwrap_or("")
                },
            )
        };
        let is_same_row_flow =
            |a: &Value, b: &Value| ["src", "sport", "dst", "dport"].iter().all(|key| a[key] == b[key]);
        for row in rows {
            let is_second_hello = || {
                let first = rows.iter().find(|other| other["impl"] == "rust" && is_same_row_flow(row, other));
                row["impl"] == "python" && first.is_some_and(is_ours)
            };
            if let Some(reason) = missing_reason(row["pcap"].as_str().unwrap()) {
                *left_out.entry(reason).or_insert(0) += 1;
            } else if is_ours(row) {
                checked += 1;
            } else if is_second_hello() {
                *left_out.entry("second hello of a flow").or_insert(0) += 1;
            } else {
                wrong.push(row.to_string());
            }
        }
    }
    eprintln!("{checked} fingerprints compared, left out: {left_out:?}");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 300, "only {checked}");
}

/// Messages of TCP, joined, as tshark sees them.
#[test]
fn dns_over_tcp_as_tshark() {
    let (mut checked, mut wrong) = (0, Vec::new());
    for suite in ["arkime", "ipfixprobe", "ja4_pcap", "zeek_Traces"] {
        let Some(captures) = by_capture(&format!("truth/dns/{suite}.jsonl.gz")) else { return };
        for (packets, rows) in &captures {
            let events = dissect(packets);
            for row in rows.iter().filter(|row| is_dns_on_tcp(row)) {
                let is_same = |event: &Event| match event {
                    Event::Dns(message) => {
                        format!("{:#06x}", message.id) == row["id"]
                            && message.is_response == row["qr"]
                            && *message.question == row["qname"].as_str().unwrap().replace("<Root>", "").to_lowercase()
                            && is_prefix(&addresses(&message.answers, IpAddr::is_ipv4), &texts(row, "a"), true)
                    }
                    _ => false,
                };
                checked += 1;
                wrong.extend((!events.iter().any(is_same)).then(|| row.to_string()));
            }
        }
    }
    eprintln!("{checked} messages compared");
    assert!(wrong.is_empty(), "{} of {checked} missing:\n{}", wrong.len(), wrong.join("\n"));
}

/// An inverse query (opcode 1, RFC 3425 retired it) asks for no name.
fn is_dns_on_tcp(row: &Value) -> bool {
    row["tcp"] == true
        && (row["sport"] == 53 || row["dport"] == 53)
        && row["pcap"] != "zeek/Traces/dns-inverse-query.pcap"
}

/// Rows of other opcodes, of NetBIOS names, and of what [`missing_reason`] says.
fn is_left_out_of_zeek(row: &Value) -> bool {
    let opcode = row["opcode"].as_str().unwrap_or("0");
    opcode != "0" || row["id.resp_p"] == "137" || missing_reason(row["pcap"].as_str().unwrap()).is_some()
}

/// Zeek's own rows: the query of dns.log and the server name of ssl.log.
#[test]
fn names_as_zeek() {
    let Some(captures) = by_capture("truth/zeek_baseline.jsonl.gz") else { return };
    let (mut checked, mut wrong) = (0, Vec::new());
    for (packets, rows) in &captures {
        if !rows.iter().any(|row| row["log"] == "dns" || row["log"] == "ssl") {
            continue;
        }
        let events = dissect(packets);
        for row in rows.iter().filter(|row| !is_left_out_of_zeek(row)) {
            let field = |name: &str| row[name].as_str().unwrap_or("-");
            let is_flow = |flow: &FlowRef| {
                flow.source.addr.to_string() == field("id.orig_h") && flow.source.port.to_string() == field("id.orig_p")
            };
            let is_found = match field("log") {
                "dns" if field("query") != "-" => events.iter().any(|event| match event {
                    Event::Dns(message) => {
                        message.id.to_string() == field("trans_id")
                            && *message.question == field("query").to_lowercase()
                    }
                    _ => false,
                }),
                "ssl" if field("server_name") != "-" => hellos(&events).iter().any(|found| {
                    let name = found.hello.as_ref().and_then(|hello| hello.server_name.as_deref());
                    is_flow(&found.flow) && name == Some(field("server_name"))
                }),
                _ => continue,
            };
            checked += 1;
            wrong.extend((!is_found).then(|| row.to_string()));
        }
    }
    eprintln!("{checked} rows compared");
    assert!(wrong.is_empty(), "{} of {checked} missing:\n{}", wrong.len(), wrong.join("\n"));
}

/// ipfixprobe's own rows: a DNS name, an HTTP host, or JA4 and server name, between quotation marks. Its JA4 counts
/// GREASE among the extensions, which neither FoxIO nor tshark does: characters 6 and 7 are not compared.
#[test]
fn names_as_ipfixprobe() {
    let Some(rows) = captures::rows("truth/ipfixprobe_raw.jsonl.gz") else { return };
    let (mut checked, mut wrong) = (0, Vec::new());
    for suite in ["dns", "http", "tls"] {
        let Some(pcap) = captures::file(&format!("ipfixprobe/inputs/{suite}.pcap")) else { return };
        let events = dissect(&captures::packets(&pcap));
        for row in rows.iter().filter(|row| row["output"] == suite && has_quotes(row)) {
            let quoted: Vec<&str> = row["csv"].as_str().unwrap().split('"').skip(1).step_by(2).collect();
            let is_same = |event: &Event| match event {
                Event::Dns(message) => quoted.first().is_some_and(|name| name.to_lowercase() == *message.question),
                Event::ServerName(found) => match &found.hello {
                    Some(hello) => {
                        let name = hello.server_name.as_deref().unwrap_or("");
                        let is_ja4 =
                            |ja4: &str| ja4.get(..6) == hello.ja4.get(..6) && ja4.get(8..) == hello.ja4.get(8..);
                        matches!(quoted[..], [_, ja4, sni, ..] if is_ja4(ja4) && sni == name)
                    }
                    None => quoted.get(1).copied() == found.name.as_deref(),
                },
                _ => false,
            };
            checked += 1;
            wrong.extend((!events.iter().any(is_same)).then(|| row.to_string()));
        }
    }
    eprintln!("{checked} rows compared");
    assert!(wrong.is_empty(), "{} of {checked} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// The header and rows of other protocols have none.
fn has_quotes(row: &Value) -> bool {
    row["csv"].as_str().is_some_and(|csv| csv.contains('"'))
}

/// Hosts of HTTP requests are among those that Arkime lists for the session.
#[test]
fn http_hosts_as_arkime() {
    let Some(captures) = by_capture("truth/arkime_sessions.jsonl.gz") else { return };
    let (mut checked, mut wrong) = (0, Vec::new());
    for (packets, rows) in &captures {
        let events = dissect(packets);
        for row in rows.iter().filter(|row| has_http_1_request(row)) {
            let theirs = row["http"]["host"].as_array().map_or(&[][..], Vec::as_slice);
            let names = theirs.iter().filter_map(Value::as_str).filter(|host| !host.is_empty() && !has_address(host));
            let names: Vec<&str> = names.collect();
            let ours = events.iter().find_map(|event| match event {
                Event::ServerName(found) if is_http_session(found, row) => found.name.as_deref(),
                _ => None,
            });
            let is_same = ours.map_or(names.is_empty(), |name| names.contains(&name));
            checked += 1;
            wrong.extend((!is_same).then(|| format!("{ours:?} {names:?} {} {}", row["pcap"], row["sport"])));
        }
    }
    eprintln!("{checked} sessions compared");
    assert!(wrong.is_empty(), "{} of {checked} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Sessions of HTTP/2 begin with a request that has no host; two captures have link types that this reader leaves out.
fn has_http_1_request(row: &Value) -> bool {
    let pcap = row["pcap"].as_str().unwrap();
    let methods = row["http"]["method"].as_array().map_or(&[][..], Vec::as_slice);
    let is_read = !["80211http", "nflog"].iter().any(|name| pcap.contains(name)) && missing_reason(pcap).is_none();
    is_read && !methods.is_empty() && !methods.contains(&"PRI".into())
}

fn has_address(host: &str) -> bool {
    let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
    is_address(host) || is_address(bare) || is_address(bare.trim_matches(['[', ']']))
}

fn is_http_session(found: &ServerName, row: &Value) -> bool {
    found.source == DomainSource::HttpHost
        && row["src"] == found.flow.source.addr.to_string()
        && row["sport"] == found.flow.source.port
}
