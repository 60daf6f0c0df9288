//! Community ID version 1, seed 0: the flow identifier that Zeek, Suricata, Arkime and others compute alike.
//!
//! Specification and test vectors: <https://github.com/corelight/community-id-spec>.

use std::net::IpAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::{Digest as _, Sha1};

use super::flow::{Endpoint, Transport};

const SEED: u16 = 0;

/// The flow's Community ID, the same for both directions.
///
/// `icmp` is the type and code of a message that `source` sent; the ports of both ends are ignored where the
/// transport has none. A flow whose ends are of different address families, which no packet has, gets an ID too.
pub fn community_id(transport: Transport, source: Endpoint, destination: Endpoint, icmp: Option<(u8, u8)>) -> String {
    let ports = match (transport, icmp) {
        (Transport::ICMP, Some((kind, code))) => Ports::of_icmp(kind, code, icmp_counterpart),
        (Transport::ICMPV6, Some((kind, code))) => Ports::of_icmp(kind, code, icmpv6_counterpart),
        (Transport::TCP | Transport::UDP | Transport::SCTP, _) => Ports::both(source.port, destination.port),
        _ => Ports { pair: None, is_one_way: false },
    };
    let mut low = (source.addr, ports.pair.map(|[source, _]| source));
    let mut high = (destination.addr, ports.pair.map(|[_, destination]| destination));
    if !ports.is_one_way && high < low {
        (low, high) = (high, low);
    }
    digest(transport, low, high)
}

/// What stands in the place of ports.
struct Ports {
    pair: Option<[u16; 2]>,
    /// An ICMP message without a counterpart is its own flow: its ends are never swapped.
    is_one_way: bool,
}

impl Ports {
    fn both(source: u16, destination: u16) -> Self {
        Self { pair: Some([source, destination]), is_one_way: false }
    }

    /// A request and its reply share an ID; any other message is one way, its code in the second place.
    fn of_icmp(kind: u8, code: u8, counterpart: fn(u8) -> Option<u8>) -> Self {
        let second = counterpart(kind);
        Self { pair: Some([kind.into(), second.unwrap_or(code).into()]), is_one_way: second.is_none() }
    }
}

/// The reply's type for a request's and the other way round (Zeek, src/analyzer/protocol/icmp/ICMP.cc).
fn icmp_counterpart(kind: u8) -> Option<u8> {
    Some(match kind {
        0 => 8,   // echo reply
        8 => 0,   // echo
        9 => 10,  // router advertisement
        10 => 9,  // router solicitation
        13 => 14, // timestamp
        14 => 13,
        15 => 16, // information
        16 => 15,
        17 => 18, // address mask
        18 => 17,
        _ => return None,
    })
}

/// [`icmp_counterpart`] of ICMPv6.
fn icmpv6_counterpart(kind: u8) -> Option<u8> {
    Some(match kind {
        128 => 129, // echo
        129 => 128,
        130 => 131, // multicast listener query and report
        131 => 130,
        133 => 134, // router solicitation and advertisement
        134 => 133,
        135 => 136, // neighbour solicitation and advertisement
        136 => 135,
        139 => 140, // node information query and response
        140 => 139,
        144 => 145, // home agent address discovery
        145 => 144,
        _ => return None,
    })
}

fn digest(transport: Transport, low: (IpAddr, Option<u16>), high: (IpAddr, Option<u16>)) -> String {
    let mut hash = Sha1::new();
    hash.update(SEED.to_be_bytes());
    for addr in [low.0, high.0] {
        match addr {
            IpAddr::V4(addr) => hash.update(addr.octets()),
            IpAddr::V6(addr) => hash.update(addr.octets()),
        }
    }
    hash.update([transport.0, 0]);
    for port in [low.1, high.1].into_iter().flatten() {
        hash.update(port.to_be_bytes());
    }
    let mut id = String::from("1:");
    STANDARD.encode_string(hash.finalize(), &mut id);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of the specification's baseline/baseline_deflt.json; for ICMP it gives type and counterpart or code.
    #[track_caller]
    fn check(transport: u8, source: &str, destination: &str, ports: Option<[u16; 2]>, expected: &str) {
        let [first, second] = ports.unwrap_or_default();
        let end = |addr: &str, port| Endpoint { addr: addr.parse().unwrap(), port };
        let icmp = matches!(transport, 1 | 58).then(|| (u8::try_from(first).unwrap(), u8::try_from(second).unwrap()));
        let id = community_id(Transport(transport), end(source, first), end(destination, second), icmp);
        assert_eq!(id, expected, "{transport} {source} {destination} {ports:?}");
    }

    #[test]
    fn icmp_baseline() {
        check(1, "192.168.0.89", "192.168.0.1", Some([8, 0]), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=");
        check(1, "192.168.0.1", "192.168.0.89", Some([0, 8]), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=");
        check(1, "10.0.0.1", "10.0.0.2", Some([11, 0]), "1:YHxtAirCG//0OzkcVAukqKQN9xM=");
    }

    #[test]
    fn icmpv6_baseline() {
        let near = "fe80::200:86ff:fe05:80da";
        let far = "fe80::260:97ff:fe07:69ea";
        let host = "3ffe:507:0:1:200:86ff:fe05:80da";
        check(58, near, far, Some([135, 136]), "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=");
        check(58, far, near, Some([136, 135]), "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=");
        check(58, far, near, Some([135, 136]), "1:zavyT/cezQr1fmImYCwYnMXbgck=");
        check(58, near, far, Some([136, 135]), "1:zavyT/cezQr1fmImYCwYnMXbgck=");
        check(58, "3ffe:501:1800:2345::2", host, Some([3, 0]), "1:2ObVBgIn28oZvibYZhZMBgh7WdQ=");
        check(58, "3ffe:501:410:0:2c0:dfff:fe47:33e", host, Some([1, 4]), "1:hLZd0XGWojozrvxqE0dWB1iM6R0=");
        check(58, host, "3ffe:501:0:1001::2", Some([128, 129]), "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg=");
        check(58, "3ffe:501:0:1001::2", host, Some([129, 128]), "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg=");
        check(58, near, "ff02::2", Some([133, 134]), "1:hO+sN4H+MG5MY/8hIrXPqc4ZQz0=");
        check(58, far, "ff02::1", Some([134, 133]), "1:pkvHqCL88/tg1k4cPigmZXUtL00=");
    }

    #[test]
    fn port_baseline() {
        let client = "2001:470:e5bf:dead:4957:2174:e82c:4887";
        let server = "2607:f8b0:400c:c03::1a";
        check(6, client, server, Some([63943, 25]), "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=");
        check(6, server, client, Some([25, 63943]), "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=");
        check(132, "192.168.170.8", "192.168.170.56", Some([7, 7]), "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs=");
        check(132, "192.168.170.56", "192.168.170.8", Some([7, 7]), "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs=");
        check(6, "128.232.110.120", "66.35.250.204", Some([34855, 80]), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
        check(6, "66.35.250.204", "128.232.110.120", Some([80, 34855]), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
        check(17, "192.168.1.52", "8.8.8.8", Some([54585, 53]), "1:d/FP5EW3wiY1vCndhwleRRKHowQ=");
        check(17, "8.8.8.8", "192.168.1.52", Some([53, 54585]), "1:d/FP5EW3wiY1vCndhwleRRKHowQ=");
    }

    #[test]
    fn portless_baseline() {
        check(46, "10.1.12.1", "10.1.12.2", None, "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw=");
        check(46, "10.1.12.2", "10.1.12.1", None, "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw=");
    }

    /// Arkime gives an ID with every session; of ICMP its rows lack type and code.
    #[test]
    fn as_arkime() {
        let Some(rows) = crate::captures::rows("truth/arkime_sessions.jsonl.gz") else { return };
        let mut checked = 0;
        for row in rows.iter().filter(|row| matches!(row["ipproto"].as_u64(), Some(6 | 17 | 132))) {
            let Some(expected) = row["community_id"].as_str() else { continue };
            let number = |field: &str| u16::try_from(row[field].as_u64().unwrap()).unwrap();
            let transport = u8::try_from(number("ipproto")).unwrap();
            let text = |field: &str| row[field].as_str().unwrap();
            check(transport, text("src"), text("dst"), Some([number("sport"), number("dport")]), expected);
            checked += 1;
        }
        eprintln!("{checked} sessions");
        assert!(checked > 500, "only {checked}");
    }
}
