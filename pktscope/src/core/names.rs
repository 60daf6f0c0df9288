//! Which name an address was asked for by: DNS answers in, names of flows' destinations out.
//!
//! An answer counts only where its question was seen going the other way: same transaction id, ends, name and type, in
//! time. Anything else is counted and names nothing. A name belongs to the process that asked; to every process where
//! the asker is a local resolver or nobody knows who asked. All tables are bounded, and what they forget is counted.

mod claims;
mod questions;
mod stored;

use std::{net::IpAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use lru::LruCache;

use super::{
    domain::registrable,
    event::{DnsAnswer, DnsMessage, ServerName},
    flow::{Direction, Domain, DomainSource},
    process::{Process, ProcessKey},
    seed::{DEFAULT_SEED, hasher},
    time::BootTime,
};
use claims::{Asker, Claims};
use questions::Questions;
pub use stored::{NameRow, StoredAsker};

const DNS_PORT: u16 = 53;
/// Processes remembered as local resolvers because they were seen answering.
const MAX_RESOLVERS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// Aliases followed in one answer; resolvers stop at 8 to 17 (BIND `max-recursion-depth`, unbound `MAX_RESTART_COUNT`).
const MAX_ALIASES: usize = 16;
/// Executables that resolve names on behalf of every process, also where their clients do not ask them by DNS.
const RESOLVERS: [&str; 16] = [
    "systemd-resolve",
    "systemd-resolved",
    "dnsmasq",
    "unbound",
    "named",
    "pdns_recursor",
    "dnsdist",
    "kresd",
    "nscd",
    "nsncd",
    "sssd",
    "dnscrypt-proxy",
    "stubby",
    "coredns",
    "cloudflared",
    "avahi-daemon",
];

/// Bounds of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameSettings {
    /// Names held: pairs of address and name for each asker. A million takes 140 MiB, texts of 24 characters included.
    pub max_names: usize,
    /// Questions waiting for their answer, about 300 bytes each.
    pub max_questions: usize,
    /// How long a question waits. glibc asks again after 5 s, twice (resolv.conf(5): `timeout`, `attempts`).
    pub question_timeout: Duration,
    /// Least time a name holds whatever its TTL: programs keep answers longer than a TTL of zero; browsers 60 s.
    pub ttl_floor: Duration,
    /// Longest time a name holds; unbound's `cache-max-ttl`.
    pub ttl_cap: Duration,
    /// Seed of the hashes of addresses and names, which others choose. No result depends on it.
    pub hash_seed: u64,
}

impl Default for NameSettings {
    fn default() -> Self {
        Self {
            max_names: 1_000_000,
            max_questions: 16_384,
            question_timeout: Duration::from_secs(30),
            ttl_floor: Duration::from_secs(60),
            ttl_cap: Duration::from_secs(86_400),
            hash_seed: DEFAULT_SEED,
        }
    }
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameCounters {
    /// Questions seen.
    pub questions: u64,
    /// Answers that matched one.
    pub answers: u64,
    /// Answers that nobody asked for: late, repeated or forged.
    pub unasked_answers: u64,
    /// Addresses in matched answers whose name is not the asked one nor an alias of it.
    pub unrelated_addresses: u64,
    /// Names learned, renewals not counted.
    pub names: u64,
    /// Names forgotten before their time because a bound was reached.
    pub evicted_names: u64,
    /// Questions forgotten before their time.
    pub evicted_questions: u64,
}

/// What a message was to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsOutcome {
    /// A question of this host, or of a host in the capture.
    Asked,
    /// The answer to one, after this time.
    Answered(Duration),
    /// An answer that nobody asked for.
    Unasked,
    /// A local resolver's end: the same message is, or was, seen at the asker's.
    Served,
}

/// Names of addresses by who asked for them.
pub struct NameTable {
    settings: NameSettings,
    questions: Questions,
    claims: Claims,
    resolvers: LruCache<ProcessKey, (), ahash::RandomState>,
    counters: NameCounters,
}

impl Default for NameTable {
    fn default() -> Self {
        Self::new(NameSettings::default())
    }
}

impl NameTable {
    /// An empty table.
    pub fn new(settings: NameSettings) -> Self {
        Self {
            settings,
            questions: Questions::new(&settings),
            claims: Claims::new(settings.max_names, hasher(settings.hash_seed)),
            resolvers: LruCache::with_hasher(MAX_RESOLVERS, hasher(settings.hash_seed)),
            counters: NameCounters::default(),
        }
    }

    /// Totals so far.
    pub fn counters(&self) -> NameCounters {
        NameCounters {
            names: self.claims.added(),
            evicted_names: self.claims.evicted(),
            evicted_questions: self.questions.evicted(),
            ..self.counters
        }
    }

    /// Names held now.
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    /// Whether no name is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a message; `process` must be filled in where the socket's owner is known.
    pub fn observe_dns(&mut self, message: &DnsMessage) -> DnsOutcome {
        if let Some(outcome) = self.observe_served(message) {
            return outcome;
        }
        if !message.is_response {
            self.counters.questions += 1;
            let asker = self.asker(message.process.as_deref());
            self.questions.ask(message, asker);
            return DnsOutcome::Asked;
        }
        let Some(question) = self.questions.answer(message) else {
            self.counters.unasked_answers += 1;
            return DnsOutcome::Unasked;
        };
        self.counters.answers += 1;
        self.learn(message, &question.name, question.asker);
        DnsOutcome::Answered(message.at.since(question.at))
    }

    /// The name an address had at a time, for a process: `askers` is the process, then the ancestors whose answers it
    /// may use, nearest first. Names that other processes asked for do not count.
    ///
    /// `at` is when the flow started: an answer that came later was not what it went by.
    pub fn lookup(&self, askers: &[ProcessKey], addr: IpAddr, at: BootTime) -> Option<Domain> {
        let of_process = askers.iter().map(|key| Asker::process(*key));
        let found = of_process.chain([Asker::HOST]).find_map(|asker| self.claims.best(addr, asker, at))?;
        Some(Domain {
            registrable: registrable(&found.name).into(),
            name: found.name,
            source: DomainSource::DnsAnswer,
            learned_at: found.learned_at,
            candidates: found.candidates,
            disagreeing: None,
        })
    }

    /// The name of a flow whose client said `found`, where `current` is what the flow had before.
    ///
    /// The asked name stays where there is one, so that a flow does not change its destination; a server name decides
    /// between several names that the address was asked for by, and is kept beside one that it contradicts.
    pub fn join_server_name(
        &self,
        current: Option<&Domain>,
        found: &ServerName,
        askers: &[ProcessKey],
    ) -> Option<Domain> {
        let Some(name) = &found.name else { return current.cloned() };
        let Some(current) = current else { return Some(server_domain(name, found)) };
        if current.name == *name {
            return Some(Domain { candidates: 1, disagreeing: None, ..current.clone() });
        }
        if self.is_candidate(found, name, askers) {
            let registrable = registrable(name).into();
            return Some(Domain {
                name: name.clone(),
                registrable,
                candidates: 1,
                disagreeing: None,
                ..current.clone()
            });
        }
        Some(Domain { disagreeing: Some((name.clone(), found.source)), ..current.clone() })
    }

    /// Whether the address was asked for by that name too.
    fn is_candidate(&self, found: &ServerName, name: &str, askers: &[ProcessKey]) -> bool {
        let of_process = askers.iter().map(|key| Asker::process(*key));
        let addr = found.flow.destination.addr;
        of_process.chain([Asker::HOST]).any(|asker| self.claims.has(addr, asker, name, found.at))
    }

    /// A resolver on this host receives questions and sends answers: that tells who is one, but for mDNS and LLMNR,
    /// where everybody hears the questions. In a capture, where no socket is known, every message counts as its asker's.
    fn observe_served(&mut self, message: &DnsMessage) -> Option<DnsOutcome> {
        let is_servers_end = match message.direction {
            Direction::Egress => message.is_response,
            Direction::Ingress => !message.is_response,
        };
        if !is_servers_end || message.flow.cookie == 0 {
            return None;
        }
        let server = if message.is_response { message.flow.source } else { message.flow.destination };
        if let Some(process) = message.process.as_ref().filter(|_| server.port == DNS_PORT) {
            self.resolvers.put(process.key, ());
        }
        Some(DnsOutcome::Served)
    }

    fn asker(&self, process: Option<&Process>) -> Asker {
        match process {
            Some(process) if !is_resolver(process) && !self.resolvers.contains(&process.key) => {
                Asker::process(process.key)
            }
            _ => Asker::HOST,
        }
    }

    /// Addresses of the asked name and of what it is an alias of, under the asked name.
    fn learn(&mut self, message: &DnsMessage, asked: &Arc<str>, asker: Asker) {
        let chain = Chain::follow(&message.answers, asked);
        for answer in &message.answers {
            let DnsAnswer::Address { name, addr, ttl } = answer else { continue };
            match chain.ttl(name) {
                Some(_) if addr.is_unspecified() => {}
                Some(chain_ttl) => {
                    let ttl = Duration::from_secs((*ttl).min(chain_ttl).into());
                    let held = ttl.clamp(self.settings.ttl_floor, self.settings.ttl_cap.max(self.settings.ttl_floor));
                    self.claims.put(*addr, asker, asked, message.at, message.at.plus(held));
                }
                None => self.counters.unrelated_addresses += 1,
            }
        }
    }
}

/// The asked name, what it is an alias of, and for how long each is.
struct Chain<'a> {
    links: Vec<(&'a str, u32)>,
}

impl<'a> Chain<'a> {
    fn follow(answers: &'a [DnsAnswer], asked: &'a str) -> Self {
        let mut links = vec![(asked, u32::MAX)];
        while let Some(&(last, ttl)) = links.last() {
            let next = answers.iter().find_map(|answer| match answer {
                DnsAnswer::Alias { name, target, ttl: alias_ttl } if **name == *last => {
                    Some((&**target, ttl.min(*alias_ttl)))
                }
                _ => None,
            });
            match next {
                Some(link) if links.len() <= MAX_ALIASES => links.push(link),
                _ => break,
            }
        }
        Self { links }
    }

    fn ttl(&self, name: &str) -> Option<u32> {
        self.links.iter().find(|(link, _)| *link == name).map(|(_, ttl)| *ttl)
    }
}

fn server_domain(name: &Arc<str>, found: &ServerName) -> Domain {
    Domain {
        registrable: registrable(name).into(),
        name: name.clone(),
        source: found.source,
        learned_at: found.at,
        candidates: 1,
        disagreeing: None,
    }
}

fn is_resolver(process: &Process) -> bool {
    let executable = process.executable.rsplit('/').next().unwrap_or_default();
    let name = if executable.is_empty() { &process.comm } else { executable };
    RESOLVERS.contains(&name)
}

#[cfg(test)]
mod tests;
