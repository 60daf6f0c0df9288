//! What the tracker may be told, and what it says of itself.

use std::{net::IpAddr, time::Duration};

use crate::core::seed::DEFAULT_SEED;

/// Bounds and time-outs of the tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowSettings {
    /// Flows held at once; when full, one is evicted for each new one.
    pub max_flows: usize,
    /// A TCP handshake that does not complete (netfilter waits 60 to 120 s, Zeek 5 s; Linux repeats a SYN after 1, 2, 4,
    /// 8 and 16 s).
    pub tcp_half_open_timeout: Duration,
    /// TCP without a packet.
    pub tcp_timeout: Duration,
    /// TCP that is over, kept to absorb late segments: as long as TIME-WAIT (`TCP_TIMEWAIT_LEN`, include/net/tcp.h), for a
    /// FIN comes again after 20 s and more where its ACK was lost. Such flows give way first when the table is full.
    pub tcp_closed_timeout: Duration,
    /// UDP without a packet.
    pub udp_timeout: Duration,
    /// Any other protocol without a packet.
    pub other_timeout: Duration,
    /// Longest life of a flow before it is reported as ended and begun anew; `None`: no limit.
    pub active_timeout: Option<Duration>,
    /// Shortest time between two updates of one flow.
    pub update_interval: Duration,
    /// How long a closed socket's flow waits for what the kernel still sends in its name (the last ACK of TIME-WAIT).
    pub socket_linger: Duration,
    /// Networks that count as this host's side in a capture, as address and prefix length; none: private, loopback and
    /// link-local ones.
    pub local_networks: Vec<(IpAddr, u8)>,
    /// Seed of the table's hash; another one each run keeps attackers from choosing collisions. Results do not depend
    /// on it.
    pub hash_seed: u64,
}

impl Default for FlowSettings {
    fn default() -> Self {
        Self {
            max_flows: 100_000,
            tcp_half_open_timeout: Duration::from_secs(30),
            tcp_timeout: Duration::from_secs(300),
            tcp_closed_timeout: Duration::from_secs(60),
            udp_timeout: Duration::from_secs(60),
            other_timeout: Duration::from_secs(30),
            active_timeout: None,
            update_interval: Duration::from_secs(60),
            socket_linger: Duration::from_millis(600),
            local_networks: Vec::new(),
            hash_seed: DEFAULT_SEED,
        }
    }
}

impl FlowSettings {
    /// Whether an address counts as this host's side.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        if self.local_networks.is_empty() {
            return is_private(addr);
        }
        self.local_networks.iter().any(|(network, bits)| contains(*network, *bits, addr))
    }
}

fn contains(network: IpAddr, bits: u8, addr: IpAddr) -> bool {
    match (network, addr) {
        (IpAddr::V4(network), IpAddr::V4(addr)) => {
            let differing = network.to_bits() ^ addr.to_bits();
            differing.leading_zeros() >= u32::from(bits.min(32))
        }
        (IpAddr::V6(network), IpAddr::V6(addr)) => {
            let differing = network.to_bits() ^ addr.to_bits();
            differing.leading_zeros() >= u32::from(bits.min(128))
        }
        _ => false,
    }
}

/// RFC 1918, RFC 4193, loopback and link-local.
fn is_private(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

/// What a tracker did, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStatistics {
    /// Flows that began.
    pub started: u64,
    /// Flows that ended, whatever the reason.
    pub ended: u64,
    /// Of those: ended for lack of room before both sides took part, or after they were closed.
    pub evicted_unconfirmed: u64,
    /// Of those: ended for lack of room though both sides took part.
    pub evicted_confirmed: u64,
    /// Packets taken.
    pub packets: u64,
    /// Their IP-layer bytes.
    pub ip_bytes: u64,
    /// RSTs outside the window, or of closed connections: they ended nothing.
    pub resets_disregarded: u64,
    /// Flows that ended because a new SYN took their tuple.
    pub tuples_reused: u64,
    /// Packets older than a packet before them, by less than a clock step.
    pub packets_back_in_time: u64,
    /// Times the clock stepped back.
    pub clock_steps: u64,
    /// Packets that pass no hook, inferred from the kernel's answers: to a TIME-WAIT socket, and echo requests.
    pub packets_inferred: u64,
    /// Packets of closed connections that came after their flows had been told as ended: counted for their owners, in no
    /// flow.
    pub packets_late: u64,
    /// Socket reports that gave less than an earlier one: the kernel's totals began anew.
    pub counters_restarted: u64,
    /// Socket reports not taken for lack of room; their totals come with the socket's last report.
    pub reports_refused: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_is_private_unless_networks_are_given() {
        type Networks<'a> = &'a [(&'a str, u8)];
        let is_local = |networks: Networks<'_>, addr: &str| {
            let local_networks = networks.iter().map(|(addr, bits)| (addr.parse().unwrap(), *bits)).collect();
            FlowSettings { local_networks, ..FlowSettings::default() }.is_local(addr.parse().unwrap())
        };
        let cases: [(Networks<'_>, &str, bool); 7] = [
            (&[], "192.168.3.4", true),
            (&[], "fe80::1", true),
            (&[], "8.8.8.8", false),
            (&[("8.8.0.0", 16)], "8.8.8.8", true),
            (&[("8.8.0.0", 16)], "192.168.3.4", false),
            (&[("2001:db8::", 32)], "2001:db8::9", true),
            (&[("0.0.0.0", 0)], "2001:db8::9", false),
        ];
        for (networks, addr, expected) in cases {
            assert_eq!(is_local(networks, addr), expected, "{networks:?} {addr}");
        }
    }
}
