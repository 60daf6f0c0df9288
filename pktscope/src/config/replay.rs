//! What is said of captures: tunnels and networks, as they are written in TOML.

use std::net::IpAddr;

use super::setting::Setting;
use crate::core::packet::Tunnels;

/// Kinds of tunnels by name.
const KINDS: [(&str, Tunnels); 3] = [
    ("vxlan", Tunnels { vxlan: true, gre: false, ip_in_ip: false }),
    ("gre", Tunnels { vxlan: false, gre: true, ip_in_ip: false }),
    ("ipip", Tunnels { vxlan: false, gre: false, ip_in_ip: true }),
];

/// Both and.
fn joined(one: Tunnels, other: Tunnels) -> Tunnels {
    Tunnels { vxlan: one.vxlan || other.vxlan, gre: one.gre || other.gre, ip_in_ip: one.ip_in_ip || other.ip_in_ip }
}

/// The kinds with these names; `all` is every one.
///
/// # Errors
/// A name that is none, with those that are.
pub fn tunnels_named<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Tunnels, String> {
    names.into_iter().try_fold(Tunnels::default(), |known, name| {
        let kind = KINDS.iter().find(|(kind, _)| *kind == name).map(|(_, kind)| *kind);
        let kind = kind.or((name == "all").then_some(Tunnels::ALL));
        let names = || KINDS.map(|(kind, _)| kind).join(", ");
        let kind = kind.ok_or_else(|| format!("there is no tunnel \"{name}\"; there are: {}, all", names()))?;
        Ok(joined(known, kind))
    })
}

impl Setting for Tunnels {
    fn read(value: &toml::Value) -> Result<Self, String> {
        tunnels_named(Vec::<String>::read(value)?.iter().map(String::as_str))
    }

    fn show(&self) -> Option<String> {
        let is_set = |kind: Tunnels| joined(*self, kind) == *self;
        let names = KINDS.iter().filter(|(_, kind)| is_set(*kind)).map(|(name, _)| (*name).to_owned());
        names.collect::<Vec<_>>().show()
    }
}

/// A network: its address and the length of its prefix in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpAddr, pub u8);

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (addr, bits) = text.split_once('/')?;
        let addr: IpAddr = addr.parse().ok()?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        bits.parse().ok().filter(|bits| *bits <= most).map(|bits| Self(addr, bits))
    }
}

impl Setting for Vec<Network> {
    fn read(value: &toml::Value) -> Result<Self, String> {
        let network = |text: &String| {
            let wrong = || format!("\"{text}\" is no network; write it as \"192.0.2.0/24\" or \"2001:db8::/32\"");
            Network::parse(text).ok_or_else(wrong)
        };
        Vec::<String>::read(value)?.iter().map(network).collect()
    }

    fn show(&self) -> Option<String> {
        self.iter().map(|Network(addr, bits)| format!("{addr}/{bits}")).collect::<Vec<_>>().show()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn tunnels_and_networks_read_as_they_are_shown() {
        let text = "[replay]\ntunnels = [\"gre\", \"vxlan\"]\nlocal_networks = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.replay.tunnels, Tunnels { vxlan: true, gre: true, ip_in_ip: false });
        assert_eq!(config.replay.local_networks[1], Network("2001:db8::".parse().unwrap(), 32));
        let shown = config.show();
        assert!(shown.contains("tunnels = [\"vxlan\", \"gre\"]"), "{shown}");
        assert_eq!(Config::parse(&shown), Ok(config));
        assert_eq!(Config::parse("[replay]\ntunnels = [\"all\"]").unwrap().replay.tunnels, Tunnels::ALL);
        assert_eq!(Config::default().replay.tunnels, Tunnels::default());
    }

    #[test]
    fn what_is_no_tunnel_or_network_says_what_is() {
        let text = "[replay]\ntunnels = [\"teredo\"]\nlocal_networks = [\"192.0.2.0/33\"]\n";
        let mistakes: Vec<String> = Config::parse(text).unwrap_err().iter().map(ToString::to_string).collect();
        let expected = [
            "replay.tunnels: there is no tunnel \"teredo\"; there are: vxlan, gre, ipip, all",
            "replay.local_networks: \"192.0.2.0/33\" is no network; write it as \"192.0.2.0/24\" or \"2001:db8::/32\"",
        ];
        assert_eq!(mistakes, expected);
    }
}
