//! What two packets of one flow have in common, whichever way they go.

use std::net::{IpAddr, Ipv6Addr};

use super::{Endpoint, Transport};

/// An address as two words in network order; IPv4 in its v4-mapped form, so that both families share one order.
pub(crate) type AddressWords = [u64; 2];

/// Words of `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
pub(crate) fn v4_words(addr: [u8; 4]) -> AddressWords {
    [0, 0xffff_0000_0000 | u64::from(u32::from_be_bytes(addr))]
}

/// Words of an IPv6 address.
pub(crate) fn v6_words(addr: [u8; 16]) -> AddressWords {
    let bits = u128::from_be_bytes(addr);
    [(bits >> 64) as u64, bits as u64]
}

/// Words of either.
pub(crate) fn words_of(addr: IpAddr) -> AddressWords {
    match addr {
        IpAddr::V4(v4) => v4_words(v4.octets()),
        IpAddr::V6(v6) => v6_words(v6.octets()),
    }
}

fn addr_of(words: AddressWords) -> IpAddr {
    Ipv6Addr::from((u128::from(words[0]) << 64) | u128::from(words[1])).to_canonical()
}

/// One of the two ends of a flow, by the order of address and port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum End {
    /// The smaller.
    #[default]
    Low,
    /// The greater.
    High,
}

impl End {
    /// The opposite end.
    pub fn other(self) -> Self {
        match self {
            Self::Low => Self::High,
            Self::High => Self::Low,
        }
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self == Self::High)
    }
}

/// IP protocol, both addresses and both ports, the same for either direction.
///
/// Of ICMP, the ports hold what a question and its answer share: see [`icmp_ports`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub(crate) addrs: [AddressWords; 2],
    pub(crate) ports: [u16; 2],
    pub(crate) transport: u8,
}

impl FlowKey {
    /// The key of a packet and the end that sent it.
    #[inline(always)]
    pub(crate) fn of(transport: u8, source: (AddressWords, u16), destination: (AddressWords, u16)) -> (Self, End) {
        if source <= destination {
            (Self { addrs: [source.0, destination.0], ports: [source.1, destination.1], transport }, End::Low)
        } else {
            (Self { addrs: [destination.0, source.0], ports: [destination.1, source.1], transport }, End::High)
        }
    }

    /// As [`Self::of`], for what a question and its answer share in the place of ports: not swapped with the addresses.
    pub(crate) fn of_portless(
        transport: u8,
        source: AddressWords,
        destination: AddressWords,
        shared: [u16; 2],
    ) -> (Self, End) {
        let (key, sender) = Self::of(transport, (source, 0), (destination, 0));
        (Self { ports: shared, ..key }, sender)
    }

    /// The key of two endpoints and the end that `source` is.
    pub fn of_endpoints(transport: Transport, source: Endpoint, destination: Endpoint) -> (Self, End) {
        Self::of(transport.0, (words_of(source.addr), source.port), (words_of(destination.addr), destination.port))
    }

    /// The IP protocol.
    pub fn transport(&self) -> Transport {
        Transport(self.transport)
    }

    /// Address and port of an end; port 0 where the transport has none.
    pub fn endpoint(&self, end: End) -> Endpoint {
        let port = if has_ports(self.transport) { self.ports[end.index()] } else { 0 };
        Endpoint { addr: addr_of(self.addrs[end.index()]), port }
    }
}

/// Whether the first four bytes of a protocol's header are source and destination port: TCP, UDP, DCCP, SCTP, UDP-Lite.
pub(crate) fn has_ports(transport: u8) -> bool {
    matches!(transport, 6 | 17 | 33 | 132 | 136)
}

/// What an ICMP question and its answer share, in the place of ports: the question's type (its high byte set, so that
/// type 0 is not port 0) and the identifier; for messages without an answer, their type and code.
///
/// Pairs: RFC 792 (echo, timestamp, information), RFC 950 (mask), RFC 1256 (router), RFC 4443 (echo), RFC 4861 (router,
/// neighbour).
pub(crate) fn icmp_ports(transport: u8, kind: u8, code: u8, identifier: u16) -> [u16; 2] {
    const ICMP: u8 = 1;
    const ICMPV6: u8 = 58;
    let (question, tail) = match (transport, kind) {
        (ICMP, 0 | 8) => (8, identifier),
        (ICMP, 13 | 14) => (13, identifier),
        (ICMP, 15 | 16) => (15, identifier),
        (ICMP, 17 | 18) => (17, identifier),
        (ICMP, 9 | 10) => (10, 0),
        (ICMPV6, 128 | 129) => (128, identifier),
        (ICMPV6, 133 | 134) => (133, 0),
        (ICMPV6, 135 | 136) => (135, 0),
        _ => (kind, u16::from(code)),
    };
    [0x100 | u16::from(question), tail]
}

/// The type of the question that an ICMP answer answers; `None` of what is no answer. Pairs as in [`icmp_ports`].
pub(crate) fn icmp_question(transport: u8, kind: u8) -> Option<u8> {
    Some(match (transport, kind) {
        (1, 0) => 8,
        (1, 14 | 16 | 18) => kind - 1,
        (1, 9) => 10,
        (58, 129 | 134 | 136) => kind - 1,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        let socket: std::net::SocketAddr = text.parse().unwrap();
        Endpoint { addr: socket.ip(), port: socket.port() }
    }

    #[test]
    fn both_directions_share_a_key() {
        let cases = [
            ("10.0.0.1:1", "10.0.0.2:2"),
            ("10.0.0.1:7", "10.0.0.1:8"),
            ("[::1]:5", "[fe80::1]:5"),
            ("[::1]:5", "9.9.9.9:5"),
        ];
        for (a, b) in cases {
            let (a, b) = (endpoint(a), endpoint(b));
            let (there, from_a) = FlowKey::of_endpoints(Transport::TCP, a, b);
            let (back, from_b) = FlowKey::of_endpoints(Transport::TCP, b, a);
            assert_eq!(there, back);
            assert_eq!(from_a.other(), from_b);
            assert_eq!((there.endpoint(from_a), there.endpoint(from_b)), (a, b));
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_one() {
        let (mapped, _) =
            FlowKey::of_endpoints(Transport::UDP, endpoint("[::ffff:10.0.0.1]:1"), endpoint("10.0.0.2:2"));
        let (plain, _) = FlowKey::of_endpoints(Transport::UDP, endpoint("10.0.0.1:1"), endpoint("10.0.0.2:2"));
        assert_eq!(mapped, plain);
    }

    #[test]
    fn an_echo_and_its_answer_share_a_key_and_two_pings_do_not() {
        let (a, b) = (v4_words([10, 0, 0, 9]), v4_words([10, 0, 0, 1]));
        let key = |from, to, kind, id| FlowKey::of_portless(1, from, to, icmp_ports(1, kind, 0, id)).0;
        assert_eq!(key(a, b, 8, 77), key(b, a, 0, 77));
        assert_ne!(key(a, b, 8, 77), key(a, b, 8, 78));
        assert_ne!(key(a, b, 3, 77), key(a, b, 11, 77));
        assert_eq!(key(a, b, 8, 77).endpoint(End::Low).port, 0);
    }
}
