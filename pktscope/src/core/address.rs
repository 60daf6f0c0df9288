//! Which addresses belong to nobody in particular, so that no database knows their country or network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is one host's on the public internet: not private, shared, loopback, link-local, multicast,
/// reserved, or kept for documentation and tests (IANA special-purpose address registries, RFC 6890).
pub fn is_public(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => is_public_v4(addr),
        IpAddr::V6(addr) => addr.to_ipv4_mapped().map_or_else(|| is_public_v6(addr), is_public_v4),
    }
}

fn is_public_v4(addr: Ipv4Addr) -> bool {
    let is_special = addr.is_private()
        || addr.is_loopback()
        || addr.is_link_local()
        || addr.is_documentation()
        || matches!(
            addr.octets(),
            [0 | 224..=255, ..]           // this network, multicast, reserved, broadcast
                | [100, 64..=127, ..]     // shared by carriers' NAT, RFC 6598
                | [192, 0, 0, _]          // protocol assignments
                | [198, 18 | 19, ..] // benchmarks, RFC 2544
        );
    !is_special
}

fn is_public_v6(addr: Ipv6Addr) -> bool {
    let is_special = matches!(
        addr.segments(),
        [0, 0, 0, 0, 0, 0, 0, 0 | 1]         // unspecified, loopback
            | [0x100, 0, 0, 0, ..]           // discard, RFC 6666
            | [0x2001, 2..=0x1ff, ..]        // protocol assignments; 2001::/32 is Teredo, and routed
            | [0x2001, 0xdb8, ..]            // documentation
            | [0x3fff, 0..=0xfff, ..]        // documentation, RFC 9637
            | [0xfc00..=0xfdff, ..]          // unique local
            | [0xfe80..=0xfeff, ..]          // link-local, former site-local
            | [0xff00..=0xffff, ..] // multicast
    );
    !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses() {
        let special = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.53",
            "169.254.1.1",
            "172.31.0.1",
            "192.168.1.1",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.251",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "100::1",
            "2001:db8::1",
            "3fff:1::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::fb",
            "::ffff:10.0.0.1",
        ];
        for addr in special {
            assert!(!is_public(addr.parse().unwrap()), "{addr}");
        }
    }

    #[test]
    fn public_addresses() {
        let public = [
            "1.1.1.1",
            "100.63.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2001:4860:4860::8888",
            "2a00::1",
            "::ffff:8.8.8.8",
        ];
        for addr in public {
            assert!(is_public(addr.parse().unwrap()), "{addr}");
        }
    }
}
