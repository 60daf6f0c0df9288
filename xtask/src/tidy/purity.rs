//! `core` is pure: no I/O, clock, runtime, serialisation, unsafe code or shared state.

use super::{
    paths,
    source::{Source, Violation},
};

/// Where the pure core lives.
const CORE: &str = "pktscope/src/core/";

/// What the core must not name, and why.
const OUTSIDE: [(&str, &str); 33] = [
    ("std::fs", "reads or writes files: return an Effect::Lookup"),
    ("std::io", "is I/O: take bytes, return values"),
    ("std::env", "reads the environment: take a setting"),
    ("std::process", "runs processes: return an effect"),
    ("std::thread", "is concurrency: core runs where it is called"),
    ("std::os", "is the operating system: return an effect"),
    ("std::net::TcpStream", "is a socket"),
    ("std::net::TcpListener", "is a socket"),
    ("std::net::UdpSocket", "is a socket"),
    ("std::net::ToSocketAddrs", "resolves names"),
    ("std::time::SystemTime", "is a clock: time is passed in"),
    ("std::time::Instant", "is a clock: time is passed in"),
    ("std::sync::Mutex", "is shared state: core owns what it changes"),
    ("std::sync::RwLock", "is shared state: core owns what it changes"),
    ("std::sync::OnceLock", "is a global: pass it in"),
    ("std::sync::LazyLock", "is a global: pass it in"),
    ("std::sync::atomic", "is shared state: core owns what it changes"),
    ("std::sync::mpsc", "is a channel: return effects"),
    ("thread_local", "is a global: pass it in"),
    ("unsafe", "core has no unsafe code: parse bytes with checks"),
    ("tokio", "is a runtime: core is not async"),
    ("async", "core is not async"),
    ("serde", "is serialisation: it lives at the edge that owns the format"),
    ("serde_json", "is serialisation: it lives at the edge that owns the format"),
    ("toml", "is serialisation: it lives at the edge that owns the format"),
    ("rusqlite", "is the store's"),
    ("aya", "is the sensor's"),
    ("libc", "is the operating system: return an effect"),
    ("procfs", "reads files: return an Effect::Lookup"),
    ("maxminddb", "reads files: return an Effect::Lookup"),
    ("tracing", "is output: return an effect or count it"),
    ("anyhow", "hides the error's type: after decode, core cannot fail"),
    ("jiff", "is a clock and a format: times are BootTime and WallTime"),
];

/// Flags every outside name under `core`.
pub fn check(source: &Source) -> Vec<Violation> {
    if !source.path.starts_with(CORE) {
        return Vec::new();
    }
    let breach = |named: &paths::Named| {
        let (path, why) = OUTSIDE.iter().find(|(path, _)| named.is_below(path))?;
        Some(source.violation(named.line, format!("core names {path}, which {why}")))
    };
    paths::named(source).iter().filter_map(breach).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_line(text: &str, expected: usize) {
        let found = check(&Source::parse("pktscope/src/core/a.rs", text).unwrap());
        assert_eq!(found.len(), expected, "{text}: {found:?}");
    }

    #[test]
    fn outside_names_are_flagged() {
        for text in [
            "use std::fs;",
            "use std::{net::{IpAddr, UdpSocket}};",
            "fn a() { let b = std::time::SystemTime::now(); }",
            "#[derive(serde::Serialize)] struct A;",
            "fn a() { unsafe { b() } }",
            "use tokio::sync::mpsc;",
            "static A: std::sync::OnceLock<u8> = std::sync::OnceLock::new();",
            "thread_local! { static A: u8 = 1; }",
        ] {
            let found = check(&Source::parse("pktscope/src/core/a.rs", text).unwrap());
            assert!(!found.is_empty(), "{text}");
        }
    }

    #[test]
    fn pure_names_pass() {
        check_line("use std::{net::IpAddr, sync::Arc, time::Duration, collections::BTreeMap};", 0);
        check_line("use super::time::BootTime; fn a(fs: u8, aya: u8) -> u8 { fs }", 1);
        check_line("#[cfg(test)]\nmod tests { use std::fs; }", 0);
    }

    #[test]
    fn other_folders_may_do_io() {
        assert!(check(&Source::parse("pktscope/src/store/a.rs", "use std::fs;").unwrap()).is_empty());
    }
}
