//! Figures of the DNS seen on the wire, for `status`: totals, names that do not exist, time to answer, names asked most.
//!
//! In come messages and what the name table made of them. The names are counted with the space-saving algorithm
//! (Metwally, Agrawal, El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams", ICDT 2005):
//! bounded memory, and a count is never too low.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{domain::registrable, event::DnsMessage, names::DnsOutcome};

/// Upper bounds of the buckets of the time to answer, in milliseconds; the last bucket has none.
pub const LATENCY_BOUNDS_MS: [u64; 7] = [5, 10, 25, 50, 100, 250, 500];
/// Domains counted at once: a count is too high by at most a 500th of all questions.
const MAX_DOMAINS: usize = 500;
/// `NXDOMAIN` (RFC 1035, section 4.1.1).
const NAME_DOES_NOT_EXIST: u16 = 3;

/// See the module. Cost: logarithmic in the domains counted for each question.
#[derive(Clone, Debug, Default)]
pub struct DnsAnalytics {
    /// Questions.
    pub queries: u64,
    /// Answers.
    pub responses: u64,
    /// Answers that the name does not exist.
    pub nxdomain: u64,
    /// Matched answers by the time they took, see [`LATENCY_BOUNDS_MS`].
    pub latency_buckets: [u64; 8],
    domains: BTreeMap<Arc<str>, u64>,
    /// The same by count.
    by_count: BTreeSet<(u64, Arc<str>)>,
}

impl DnsAnalytics {
    /// Takes a message; what a local resolver's end shows again counts once.
    pub fn observe(&mut self, message: &DnsMessage, outcome: DnsOutcome) {
        match outcome {
            DnsOutcome::Served => return,
            DnsOutcome::Answered(latency) => self.latency_buckets[bucket(latency)] += 1,
            DnsOutcome::Asked | DnsOutcome::Unasked => {}
        }
        if message.is_response {
            self.responses += 1;
            self.nxdomain += u64::from(message.response_code == NAME_DOES_NOT_EXIST);
        } else {
            self.queries += 1;
            self.count(registrable(&message.question));
        }
    }

    fn count(&mut self, domain: &str) {
        let known = self.domains.get_key_value(domain).map(|(name, count)| (*count, name.clone()));
        let (count, name) = known.unwrap_or_else(|| (self.inherited(), domain.into()));
        let mut entry = (count, name);
        self.by_count.remove(&entry);
        entry.0 += 1;
        self.domains.insert(entry.1.clone(), entry.0);
        self.by_count.insert(entry);
    }

    /// The count that a new domain begins with: that of the rarest, whose place it takes where there is no other.
    fn inherited(&mut self) -> u64 {
        if self.domains.len() < MAX_DOMAINS {
            return 0;
        }
        let Some((count, name)) = self.by_count.pop_first() else { return 0 };
        self.domains.remove(&name);
        count
    }

    /// The domains asked for most, with their number of questions; at most `limit`.
    pub fn top_domains(&self, limit: usize) -> Vec<(Arc<str>, u64)> {
        let mut top: Vec<_> = self.domains.iter().map(|(name, count)| (name.clone(), *count)).collect();
        top.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        top.truncate(limit);
        top
    }
}

fn bucket(latency: Duration) -> usize {
    let millis = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
    LATENCY_BOUNDS_MS.iter().position(|bound| millis < *bound).unwrap_or(LATENCY_BOUNDS_MS.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        event::FlowRef,
        flow::{Direction, Endpoint, Transport},
        time::BootTime,
    };

    fn message(name: &str, response_code: Option<u16>) -> DnsMessage {
        let endpoint = Endpoint { addr: [192, 0, 2, 53].into(), port: 53 };
        DnsMessage {
            flow: FlowRef { cookie: 1, transport: Transport::UDP, source: endpoint, destination: endpoint },
            process: None,
            direction: Direction::Egress,
            at: BootTime(0),
            id: 1,
            is_response: response_code.is_some(),
            question: name.into(),
            question_type: 1,
            response_code: response_code.unwrap_or(0),
            answers: Vec::new(),
            message_bytes: 40,
        }
    }

    #[test]
    fn questions_and_answers_are_counted_once_each() {
        let mut analytics = DnsAnalytics::default();
        analytics.observe(&message("www.example.org", None), DnsOutcome::Asked);
        analytics.observe(&message("www.example.org", None), DnsOutcome::Served);
        analytics.observe(&message("www.example.org", Some(3)), DnsOutcome::Answered(Duration::from_millis(5)));
        analytics.observe(&message("www.example.org", Some(0)), DnsOutcome::Answered(Duration::from_secs(2)));
        assert_eq!((analytics.queries, analytics.responses, analytics.nxdomain), (1, 2, 1));
        assert_eq!(analytics.latency_buckets, [0, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(analytics.top_domains(5), [("example.org".into(), 1)]);
    }

    #[test]
    fn a_flood_of_names_neither_grows_the_table_nor_hides_the_most_asked() {
        let mut analytics = DnsAnalytics::default();
        for n in 0..5_000 {
            analytics.observe(&message(&format!("host{n}.example-{n}.com"), None), DnsOutcome::Asked);
            analytics.observe(&message("a.busy.org", None), DnsOutcome::Asked);
        }
        assert_eq!(analytics.domains.len(), MAX_DOMAINS);
        let top = analytics.top_domains(1);
        assert!(&*top[0].0 == "busy.org" && top[0].1 >= 5_000, "{top:?}");
    }
}
