//! The agent's events as they come, without what other programs of the machine cause.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    net::IpAddr,
    path::PathBuf,
};

use serde::Deserialize;

use crate::{event::Event, namespace};

/// The events file, read as it grows.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    read: u64,
    partial: Vec<u8>,
    /// Every event kept, in order.
    pub events: Vec<Event>,
    has_floods: bool,
    /// By address, the numbers of the flow events that touch it.
    flows: HashMap<IpAddr, Vec<usize>>,
}

impl EventLog {
    /// Reads a file, from its start; flows to 198.18.0.0/15 only where `has_floods`.
    pub fn new(path: PathBuf, has_floods: bool) -> Self {
        Self { path, has_floods, read: 0, partial: Vec::new(), events: Vec::new(), flows: HashMap::new() }
    }

    /// Every flow event so far that touches an address.
    pub fn flows_touching(&self, addr: IpAddr) -> Vec<Event> {
        self.flows.get(&addr).into_iter().flatten().map(|number| self.events[*number].clone()).collect()
    }

    /// Reads what was written since.
    ///
    /// # Panics
    /// Where a whole line is not JSON.
    pub fn read_more(&mut self) {
        let Ok(mut file) = File::open(&self.path) else { return };
        let mut bytes = Vec::new();
        let count = file.seek(SeekFrom::Start(self.read)).and_then(|_| file.read_to_end(&mut bytes));
        self.read += count.unwrap_or_default() as u64;
        self.partial.append(&mut bytes);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else { return };
        let rest = self.partial.split_off(end + 1);
        let lines = std::mem::replace(&mut self.partial, rest);
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let text = String::from_utf8_lossy(line);
            if !is_foreign(&text, self.has_floods) {
                self.add(Event::parse(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}")));
            }
        }
    }

    fn add(&mut self, event: Event) {
        let ends = [event.addr("source.ip"), event.addr("destination.ip")];
        if event.is("flow") {
            let ends = if ends[0] == ends[1] { &ends[..1] } else { &ends[..] };
            ends.iter().flatten().for_each(|addr| self.flows.entry(*addr).or_default().push(self.events.len()));
        }
        self.events.push(event);
    }
}

/// What tells whom a line is about.
#[derive(Deserialize)]
struct Ends<'a> {
    #[serde(borrow)]
    source: Option<End<'a>>,
    #[serde(borrow)]
    destination: Option<End<'a>>,
}

#[derive(Deserialize)]
struct End<'a> {
    ip: Option<&'a str>,
}

/// Whether a line is about addresses of which none can be a test's: a busy machine has many flows, and every test's agent
/// sees them all. So are those of a flood, of one test.
fn is_foreign(line: &str, has_floods: bool) -> bool {
    let Ok(Ends { source, destination }) = serde_json::from_str(line) else { return false };
    let addresses = [source, destination].map(|end| end?.ip?.parse::<IpAddr>().ok());
    let mut known = addresses.into_iter().flatten().peekable();
    match addresses.iter().flatten().any(is_flood) {
        true => !has_floods,
        false => known.peek().is_some() && !known.any(namespace::may_be_a_tests),
    }
}

/// Whether an address is of the benchmark range, 198.18.0.0/15 (RFC 2544).
fn is_flood(addr: &IpAddr) -> bool {
    matches!(addr, IpAddr::V4(addr) if matches!(addr.octets(), [198, 18 | 19, ..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_test_can_have_caused_is_foreign() {
        let line = |source: &str, destination: &str| {
            format!(
                r#"{{"event":{{"dataset":"pktscope.flow"}},"source":{{"ip":"{source}"}},"destination":{{"ip":"{destination}"}}}}"#
            )
        };
        assert!(is_foreign(&line("10.129.0.1", "93.184.216.34"), false), "a subnet that was not given out");
        let own = namespace::claimed_for_test();
        assert!(!is_foreign(&line(&own.to_string(), "93.184.216.34"), false));
        assert!(!is_foreign(&line("127.0.0.1", "127.0.0.1"), false));
        assert!(!is_foreign(&line("192.0.2.1", "192.0.2.2"), false), "addresses for documentation");
        let flood = line(&own.to_string(), "198.18.7.7");
        assert!(is_foreign(&flood, false) && !is_foreign(&flood, true));
        assert!(!is_foreign(r#"{"event":{"dataset":"pktscope.ledger"}}"#, false));
    }
}
