//! A program, or an interface, sends at line rate.
//!
//! - **Sign**: bytes sent in a second above the bound, several seconds in a row. Only what is sent counts: a download at
//!   line rate is somebody else's upload.
//! - **Data needed**: none learned. Bytes reported for a stretch of time are spread evenly over it.
//! - **Blind spots**: bursts shorter than a flow's reports and than an interval of the ledger, once spread over them.
//! - **Benign causes**: backups and image pushes on a fast link: set the bound to what the link is for.
//! - **Reference**: netwatch-sdk's bandwidth alert.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    DetectionSettings, Detector, Finding, LedgerSight, Sight, Verdict,
    finding::{bytes_words, destination_words, program_words},
    sight::Actor,
};
use crate::core::{
    alert::{RuleId, Severity},
    baseline::{Baseline, Steady},
    flow::Flow,
};

/// Seconds kept: a flow's report may be late by its update interval and its idle time-out.
const KEPT_SECONDS: u32 = 256;
/// Bytes a second from which a program is named among a second's senders.
const NAMED_BYTES: u64 = 1_000_000;
/// Senders named for each second.
const MAX_SENDERS: usize = 16;
/// Seconds that a report of a program explains its interface's counters.
const EXPLAINED_SECONDS: u64 = 60;

/// A second's bytes, and who sent most of them.
#[derive(Debug, Default)]
struct Second {
    number: u32,
    bytes: u64,
    senders: Vec<(Actor, u64, Arc<Flow>)>,
}

/// Decides `bandwidth`.
#[derive(Debug, Default)]
pub struct Bandwidth {
    seconds: VecDeque<Second>,
    /// How long the interfaces have sent above the bound.
    above: Duration,
    last_named: Option<Steady>,
    reported: u32,
}

impl Detector for Bandwidth {
    fn rule(&self) -> RuleId {
        RuleId::Bandwidth
    }

    fn see_flow(&mut self, sight: &Sight<'_>, normal: &Baseline, settings: &DetectionSettings) -> Verdict {
        if sight.delta.sent == 0 {
            return Verdict::Normal;
        }
        let (first, last) = stretch(sight);
        self.spread(sight, first, last);
        let bounds = settings.bandwidth;
        let until = last.saturating_add(bounds.seconds - bounds.seconds.min(1));
        let Some(end) = self.run(first, until, bounds.bytes_per_second, bounds.seconds) else { return Verdict::Normal };
        if normal.learning.is_learning() {
            return Verdict::Normal;
        }
        self.reported = end;
        self.last_named = Some(sight.now);
        self.finding(sight, end, normal, settings)
            .map_or(Verdict::NeedMoreData, |finding| Verdict::Suspicious(Box::new(finding)))
    }

    /// The interfaces' own counters see what the flows' reports, spread over a minute, do not.
    fn see_ledger(&mut self, sight: &LedgerSight<'_>, normal: &Baseline, settings: &DetectionSettings) -> Verdict {
        let bounds = settings.bandwidth;
        let elapsed = sight.ledger.ended_at.since(sight.ledger.started_at);
        let sent = rate(sight.ledger.tx.interface_bytes, elapsed.as_secs_f64().max(1e-3));
        let is_above = sent > bounds.bytes_per_second;
        self.above = if is_above { self.above + elapsed } else { Duration::ZERO };
        let is_explained = self.last_named.is_some_and(|at| sight.now.since(at).as_secs() < EXPLAINED_SECONDS);
        if self.above < Duration::from_secs(bounds.seconds.into()) || is_explained || normal.learning.is_learning() {
            return Verdict::Normal;
        }
        Verdict::Suspicious(Box::new(host_finding(sight, sent, bounds.bytes_per_second)))
    }
}

/// The seconds in which a change's bytes were sent.
fn stretch(sight: &Sight<'_>) -> (u32, u32) {
    let last = sight.seen;
    let first = sight.before.unwrap_or(last).min(last);
    let floor = sight.now.seconds().saturating_sub(KEPT_SECONDS - 1);
    (first.seconds().max(floor), last.seconds().max(floor))
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate in bytes"
)]
fn rate(bytes: u64, seconds: f64) -> u64 {
    (bytes as f64 / seconds) as u64
}

impl Bandwidth {
    /// Spreads a change's bytes over its seconds.
    fn spread(&mut self, sight: &Sight<'_>, first: u32, last: u32) {
        // A report covers the time after the one before, so the first second counts only where it is the only one.
        let first = if first < last { first + 1 } else { first };
        let share = sight.delta.sent / u64::from(last - first + 1);
        for number in first..=last {
            let Some(second) = self.second(number) else { continue };
            second.bytes += share;
            if share >= NAMED_BYTES {
                second.name(sight, share);
            }
        }
    }

    fn second(&mut self, number: u32) -> Option<&mut Second> {
        let newest = self.seconds.back().map_or(number, |second| second.number.max(number));
        while self.seconds.front().is_some_and(|second| second.number + KEPT_SECONDS <= newest) {
            self.seconds.pop_front();
        }
        if number + KEPT_SECONDS <= newest {
            return None;
        }
        let at = self.seconds.partition_point(|second| second.number < number);
        if self.seconds.get(at).is_none_or(|second| second.number != number) {
            self.seconds.insert(at, Second { number, ..Second::default() });
        }
        self.seconds.get_mut(at)
    }

    /// The end of the first run of seconds above a bound that touches a stretch and was not yet reported.
    fn run(&self, first: u32, until: u32, bound: u64, length: u32) -> Option<u32> {
        let start = self.seconds.partition_point(|second| second.number < first.saturating_sub(length));
        let mut run = 0;
        let mut before = None;
        for second in self.seconds.range(start..).take_while(|second| second.number <= until) {
            let follows = before.is_none_or(|before| before + 1 == second.number);
            run = if second.bytes <= bound { 0 } else { 1 + if follows { run } else { 0 } };
            before = Some(second.number);
            if run >= length && second.number > self.reported {
                return Some(second.number);
            }
        }
        None
    }

    fn finding(&self, sight: &Sight<'_>, end: u32, normal: &Baseline, settings: &DetectionSettings) -> Option<Finding> {
        let at = self.seconds.partition_point(|second| second.number < end);
        let second = self.seconds.get(at)?;
        let (actor, bytes, flow) = second.senders.iter().max_by_key(|(_, bytes, _)| *bytes)?;
        let name = program_words(normal, actor.program);
        let bound = settings.bandwidth.bytes_per_second;
        let message = format!(
            "this host sent {} a second for {} s, above its bound of {}; {name} sent most of it, to {}",
            bytes_words(second.bytes),
            settings.bandwidth.seconds,
            bytes_words(bound),
            destination_words(flow)
        );
        let found = Finding {
            actor: Some(*actor),
            flow: Some(flow.clone()),
            process: flow.process().cloned(),
            ..Finding::new(RuleId::Bandwidth, Severity::Warning, sight.now)
        };
        let found =
            found.say(message).number("bytes_per_second", second.bytes).number("program_bytes_per_second", *bytes);
        Some(found.number("bound_bytes_per_second", bound).with_normal(normal))
    }
}

impl Second {
    fn name(&mut self, sight: &Sight<'_>, bytes: u64) {
        if let Some((_, sum, flow)) = self.senders.iter_mut().find(|(actor, ..)| *actor == sight.actor) {
            *sum += bytes;
            *flow = sight.flow().clone();
        } else if self.senders.len() < MAX_SENDERS {
            self.senders.push((sight.actor, bytes, sight.flow().clone()));
        }
    }
}

fn host_finding(sight: &LedgerSight<'_>, rate: u64, bound: u64) -> Finding {
    let message = format!(
        "this host's interfaces send {} a second, above the bound of {}",
        bytes_words(rate),
        bytes_words(bound)
    );
    let found =
        Finding { subject: "interfaces".to_owned(), ..Finding::new(RuleId::Bandwidth, Severity::Warning, sight.now) };
    found.say(message).number("bytes_per_second", rate).number("bound_bytes_per_second", bound)
}
