//! A program, or an interface, sends at line rate.
//!
//! - **Sign**: bytes sent in a second above the bound, several seconds in a row. Only what is sent counts: a download at
//!   line rate is somebody else's upload.
//! - **Data needed**: none learned. Bytes reported for a stretch of time are spread evenly over it.
//! - **Blind spots**: bursts shorter than a flow's reports and than an interval of the ledger, once spread over them.
//! - **Benign causes**: backups and image pushes on a fast link: set the bound to what the link is for.
//! - **Reference**: netwatch-sdk's bandwidth alert.

use std::{sync::Arc, time::Duration};

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

/// Small flows' bytes by minute: spread over the minute together, not one by one over the seconds.
#[derive(Debug, Default)]
struct Background {
    minutes: [(u32, u64); 8],
}

impl Background {
    fn add(&mut self, second: u32, bytes: u64) {
        let minute = second / 60;
        let slot = &mut self.minutes[(minute % 8) as usize];
        if slot.0 != minute {
            *slot = (minute, 0);
        }
        slot.1 += bytes;
    }

    /// Bytes a second of a second's minute, as far as it is known.
    fn rate(&self, second: u32) -> u64 {
        let minute = second / 60;
        let (known, bytes) = self.minutes[(minute % 8) as usize];
        if known == minute { bytes / 60 } else { 0 }
    }
}

/// Decides `bandwidth`.
#[derive(Debug, Default)]
pub struct Bandwidth {
    /// The last seconds, each at its number modulo the length.
    ring: Vec<Second>,
    background: Background,
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
        if !self.spread(sight, first, last, settings.bandwidth.bytes_per_second) {
            return Verdict::Normal;
        }
        let bounds = settings.bandwidth;
        let until = last.saturating_add(bounds.seconds.saturating_sub(1));
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
    /// Spreads a change's bytes over its seconds; whether one of them is above the bound.
    fn spread(&mut self, sight: &Sight<'_>, first: u32, last: u32, bound: u64) -> bool {
        // A report covers the time after the one before, so the first second counts only where it is the only one.
        let first = if first < last { first + 1 } else { first };
        let share = sight.delta.sent / u64::from(last - first + 1);
        if first < last && share < NAMED_BYTES {
            self.background.add(last, sight.delta.sent);
            return false;
        }
        let background = self.background.rate(last);
        let mut is_above = false;
        for number in first..=last {
            let Some(second) = self.second(number) else { continue };
            second.bytes += share;
            is_above |= second.bytes + background > bound;
            if share >= NAMED_BYTES {
                second.name(sight, share);
            }
        }
        is_above
    }

    /// The slot of a second; `None` where it is older than the ring.
    fn second(&mut self, number: u32) -> Option<&mut Second> {
        if self.ring.is_empty() {
            self.ring.resize_with(KEPT_SECONDS as usize, Second::default);
        }
        let slot = self.ring.get_mut((number % KEPT_SECONDS) as usize)?;
        if slot.number > number {
            return None;
        }
        if slot.number < number {
            slot.number = number;
            slot.bytes = 0;
            slot.senders.clear();
        }
        Some(slot)
    }

    /// A second that is still in the ring.
    fn known(&self, number: u32) -> Option<&Second> {
        self.ring.get((number % KEPT_SECONDS) as usize).filter(|second| second.number == number)
    }

    /// The end of the first run of seconds above a bound that touches a stretch and was not yet reported.
    fn run(&self, first: u32, until: u32, bound: u64, length: u32) -> Option<u32> {
        let mut run = 0;
        for number in first.saturating_sub(length)..=until {
            let is_above = self.known(number).is_some_and(|second| second.bytes + self.background.rate(number) > bound);
            run = if is_above { run + 1 } else { 0 };
            if run >= length && number > self.reported {
                return Some(number);
            }
        }
        None
    }

    fn finding(&self, sight: &Sight<'_>, end: u32, normal: &Baseline, settings: &DetectionSettings) -> Option<Finding> {
        let second = self.known(end)?;
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
