//! A program calls a destination at regular intervals.
//!
//! - **Sign**: the gaps between contacts, folded over missed ones, lie close together, and so do the bytes sent. A beat
//!   is a new connection or a burst of data on an open one.
//! - **Data needed**: five beats; twenty from a program with many destinations.
//! - **Blind spots**: exponentially distributed sleeps; destinations that were contacted while learning; data on a busy
//!   connection, whose bursts are only reported once an update interval.
//! - **Benign causes**: telemetry, synchronisation and update checks of software installed after learning.
//! - **Reference**: quantile fold, compared with RITA, Elastic, Sentinel and periodograms;
//!   implants sleep after each beat, so the phase is a random walk and only the interval distribution is stable.

use std::collections::VecDeque;

use ahash::{AHashMap, AHashSet};

use super::{
    DetectionSettings, Detector, Finding, Sight, Verdict, finding::program_words, settings::BeaconSettings,
    sight::Actor, standing::is_new_program,
};
use crate::core::{
    alert::{RuleId, Severity},
    baseline::{Baseline, PairState, ProgramId, Steady},
};

/// Beats kept; the longest suffix judged.
const MAX_BEATS: usize = 128;
/// Suffixes judged.
const SUFFIXES: [usize; 5] = [6, 12, 24, 64, 128];
/// Fewest beats judged.
const MIN_BEATS: usize = 5;
/// Beats at which a destination is judged; then every thirty-second.
const CHECKPOINTS: [u32; 11] = [5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64];
/// Contacts closer than this are one beat.
const SHORTEST_GAP_MS: u32 = 500;
/// Regularity from which a destination counts as one of a monitor's.
const REGULAR: f64 = 0.5;
/// Learned failing destinations remembered.
const MAX_FAILING: usize = 16_384;
/// Packets from which data on an open connection is a stream, not a beat.
const STREAM_PACKETS: u64 = 256;
/// How much longer than the update interval a gap may be and still be the agent's own: a sweep and its delay.
const SWEEP_MS: u64 = 1_500;

/// A destination's beats: milliseconds since the first, and bytes.
#[derive(Debug)]
struct Beats {
    base: Steady,
    times: VecDeque<u32>,
    bytes: VecDeque<u32>,
    count: u32,
    period_ms: u32,
    /// Gaps as long as the interval at which busy flows are reported.
    reported_gaps: u32,
}

/// How regular a suffix is.
#[derive(Clone, Copy, Debug, Default)]
struct Regularity {
    score: f64,
    beats: usize,
    period: f64,
    low: f64,
    high: f64,
}

/// Decides `beaconing`.
#[derive(Debug, Default)]
pub struct Beaconing {
    beats: AHashMap<(Actor, u64), Beats>,
    regular: AHashMap<Actor, AHashSet<u64>>,
    failing: AHashSet<(ProgramId, u64)>,
    evicted: u64,
}

impl Detector for Beaconing {
    fn rule(&self) -> RuleId {
        RuleId::Beaconing
    }

    fn see_flow(&mut self, sight: &Sight<'_>, normal: &Baseline, settings: &DetectionSettings) -> Verdict {
        let Some(bytes) = contribution(sight) else { return Verdict::Normal };
        let is_learning = normal.learning.is_learning();
        if sight.destination.is_resolver || !sight.is_owned || self.is_learned(sight, normal, &settings.beacon) {
            return Verdict::Normal;
        }
        if is_learning && sight.is_decided && !sight.outcome.is_contact() && self.failing.len() < MAX_FAILING {
            self.failing.insert((sight.actor.program, sight.destination.key));
        }
        let Some(beats) = self.beat(sight, bytes, settings) else { return Verdict::Normal };
        let best = beats.regularity(MIN_BEATS);
        let steady = beats.regularity(settings.beacon.busy_beats as usize);
        beats.period_ms = milliseconds(best.period);
        if best.score >= REGULAR {
            self.regular.entry(sight.actor).or_default().insert(sight.destination.key);
        }
        if is_learning { Verdict::Normal } else { self.judge(sight, [best, steady], normal, &settings.beacon) }
    }

    fn forget(&mut self, program: ProgramId) {
        self.beats.retain(|(actor, _), _| actor.program != program);
        self.regular.retain(|actor, _| actor.program != program);
        self.failing.retain(|(known, _)| *known != program);
    }

    fn evicted(&self) -> u64 {
        self.evicted
    }
}

impl Beaconing {
    /// Whether a destination was contacted so often while learning that its rhythm says nothing.
    fn is_learned(&self, sight: &Sight<'_>, normal: &Baseline, settings: &BeaconSettings) -> bool {
        let program = sight.actor.program;
        let label = sight.label.or_else(|| normal.known_label(&sight.destination.name));
        let pair = label.and_then(|label| normal.pair(program, label));
        let is_frequent = pair.is_some_and(|pair| {
            pair.is_periodic || (pair.state == PairState::Learned && pair.contacts >= settings.learned_contacts)
        });
        is_frequent || (!normal.learning.is_learning() && self.failing.contains(&(program, sight.destination.key)))
    }

    /// Adds a contact; the beats, where they are to be judged now.
    fn beat(
        &mut self,
        sight: &Sight<'_>,
        contribution: Contribution,
        settings: &DetectionSettings,
    ) -> Option<&mut Beats> {
        let key = (sight.actor, sight.destination.key);
        if self.beats.len() >= settings.limits.beacons && !self.beats.contains_key(&key) {
            self.evict(settings.limits.beacons);
        }
        let at = if sight.is_first() { sight.seen.min(sight.now) } else { sight.seen };
        let beats = self.beats.entry(key).or_insert_with(|| Beats::new(at));
        let Contribution::Beat(bytes) = contribution else {
            beats.add_bytes(contribution.bytes());
            return None;
        };
        let update = u64::try_from(settings.beacon.update_interval.as_millis()).unwrap_or(u64::MAX);
        let gap =
            sight.before.map_or(0, |before| u64::try_from(sight.now.since(before).as_millis()).unwrap_or(u64::MAX));
        let is_reported_gap = (update..update.saturating_add(SWEEP_MS)).contains(&gap);
        (beats.add(at, bytes, is_reported_gap) && is_checkpoint(beats.count)).then_some(beats)
    }

    fn evict(&mut self, capacity: usize) {
        let mut by_age: Vec<_> = self.beats.iter().map(|(key, beats)| (beats.last(), *key)).collect();
        by_age.sort_unstable();
        for (_, key) in by_age.into_iter().take((capacity / 16).max(1)) {
            self.beats.remove(&key);
            self.evicted += 1;
        }
    }

    /// Weighs regularity with context.
    fn judge(
        &self,
        sight: &Sight<'_>,
        [best, steady]: [Regularity; 2],
        normal: &Baseline,
        settings: &BeaconSettings,
    ) -> Verdict {
        if best.score < settings.threshold {
            return Verdict::NeedMoreData;
        }
        let program = sight.actor.program;
        let labels = normal.program(program).map_or(0, |known| known.row.labels);
        let best = if labels >= settings.busy_destinations { steady } else { best };
        if best.score < settings.threshold {
            return Verdict::NeedMoreData;
        }
        let regular = u32::try_from(self.regular.get(&sight.actor).map_or(0, |keys| keys.len())).unwrap_or(u32::MAX);
        let is_monitor = regular >= settings.monitor_destinations && regular * 3 >= labels;
        let shared = normal
            .known_label(&sight.destination.name)
            .and_then(|label| normal.label(label))
            .map_or(0, |label| label.programs);

        let is_vouched = normal.program(program).is_some_and(|known| known.location.suspicion() == 0);
        let is_ordinary =
            is_new_program(normal, program) && sight.destination.is_named && is_vouched && sight.actor.pid == 0;
        let penalties = [
            (shared >= settings.shared_programs, settings.shared_penalty),
            (sight.destination.is_private, settings.private_penalty),
            (is_monitor, settings.monitor_penalty),
            (is_ordinary, settings.ordinary_penalty),
        ];
        let penalty: f64 = penalties.into_iter().filter_map(|(applies, penalty)| applies.then_some(penalty)).sum();
        if best.score - penalty < settings.threshold {
            return Verdict::Normal;
        }
        Verdict::Suspicious(Box::new(finding(sight, best, best.score - penalty, normal)))
    }
}

/// What a change adds to the beats.
#[derive(Clone, Copy, Debug)]
enum Contribution {
    /// A new beat, with its bytes.
    Beat(u64),
    /// Bytes of the last one.
    Bytes(u64),
}

impl Contribution {
    fn bytes(self) -> u64 {
        match self {
            Self::Beat(bytes) | Self::Bytes(bytes) => bytes,
        }
    }
}

/// A new connection is a beat; its first bytes belong to it; later data on it is another.
fn contribution(sight: &Sight<'_>) -> Option<Contribution> {
    if sight.is_first() {
        return Some(Contribution::Beat(sight.delta.payload));
    }
    if sight.delta.payload == 0 {
        return None;
    }
    if sight.delta.packets > STREAM_PACKETS {
        return Some(Contribution::Bytes(sight.delta.payload));
    }
    let sent = sight.flow().sent;
    let total = if sent.payload_bytes > 0 { sent.payload_bytes } else { sent.ip_bytes };
    Some(if total == sight.delta.payload {
        Contribution::Bytes(total)
    } else {
        Contribution::Beat(sight.delta.payload)
    })
}

fn is_checkpoint(count: u32) -> bool {
    CHECKPOINTS.contains(&count) || (count > 64 && count.is_multiple_of(32))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and gaps are below 49 days")]
fn milliseconds(seconds: f64) -> u32 {
    (seconds * 1_000.0) as u32
}

impl Beats {
    fn new(base: Steady) -> Self {
        Self { base, times: VecDeque::new(), bytes: VecDeque::new(), count: 0, period_ms: 0, reported_gaps: 0 }
    }

    fn last(&self) -> Steady {
        self.base.plus(std::time::Duration::from_millis(self.times.back().copied().unwrap_or(0).into()))
    }

    fn add_bytes(&mut self, bytes: u64) {
        if let Some(last) = self.bytes.back_mut() {
            *last = last.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// Adds a contact; whether it is a beat of its own.
    fn add(&mut self, at: Steady, bytes: u64, is_reported_gap: bool) -> bool {
        let Ok(time) = u32::try_from(at.since(self.base).as_millis()) else {
            *self = Self::new(at);
            return self.add(at, bytes, false);
        };
        let shortest = SHORTEST_GAP_MS.max(self.period_ms / 4);
        if self.times.back().is_some_and(|last| time.saturating_sub(*last) < shortest) {
            self.add_bytes(bytes);
            return false;
        }
        if self.times.len() == MAX_BEATS {
            self.times.pop_front();
            self.bytes.pop_front();
        }
        self.times.push_back(time);
        self.bytes.push_back(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.count = self.count.saturating_add(1);
        self.reported_gaps += u32::from(is_reported_gap);
        true
    }

    /// The most regular suffix of at least some beats.
    fn regularity(&self, fewest: usize) -> Regularity {
        if self.reported_gaps * 2 > self.count {
            return Regularity::default();
        }
        let have = self.times.len();
        let whole = (have < SUFFIXES[0]).then_some(have);
        let suffixes =
            SUFFIXES.into_iter().filter(|length| *length <= have).chain(whole).filter(|length| *length >= fewest);
        let scored = suffixes.map(|length| self.suffix(length));
        scored.fold(Regularity::default(), |best, one| if one.score > best.score { one } else { best })
    }

    fn suffix(&self, length: usize) -> Regularity {
        let from = self.times.len() - length;
        let gaps: Vec<f64> = self
            .times
            .range(from..)
            .zip(self.times.range(from + 1..))
            .map(|(a, b)| f64::from(b - a) / 1_000.0)
            .collect();
        let Folded { period, low, high, regularity } = fold(gaps);
        let amount = (0.55 + 0.45 * (length_ratio(length)).log2() / 3.0).min(1.0);
        let sizes: Vec<f64> = self.bytes.range(from..).copied().map(f64::from).collect();
        let sameness = 0.8 + 0.2 * (1.0 - spread(sizes) / 0.5).max(0.0);
        Regularity { score: regularity * amount * sameness, beats: length, period, low, high }
    }
}

#[expect(clippy::cast_precision_loss, reason = "at most 128")]
fn length_ratio(length: usize) -> f64 {
    length as f64 / 4.0
}

/// Gaps folded over missed beats.
#[derive(Clone, Copy, Debug, Default)]
struct Folded {
    period: f64,
    low: f64,
    high: f64,
    regularity: f64,
}

/// Folds gaps that span several periods and measures how close the folded ones lie.
///
/// Reference points of low and high quantile over the median: uniform jitter of half .60 and 1.40, Cobalt Strike's of
/// half .73 and 1.27, a Poisson process .15 and 3.3.
#[expect(clippy::cast_precision_loss, reason = "at most 127 gaps")]
fn fold(mut gaps: Vec<f64>) -> Folded {
    gaps.sort_by(f64::total_cmp);
    let period = quantile(&gaps, 0.4);
    if period <= 0.0 {
        return Folded::default();
    }
    let count = gaps.len() as f64;
    let far = gaps.iter().filter(|gap| **gap > 6.5 * period).count() as f64 / count;
    let unfolded = gaps.iter().filter(|gap| **gap <= 1.6 * period).count() as f64 / count;
    let mut folded: Vec<f64> =
        gaps.iter().map(|gap| if *gap > 1.6 * period { gap / (gap / period).round() } else { *gap }).collect();
    folded.sort_by(f64::total_cmp);
    let middle = quantile(&folded, 0.5);
    let (low, high) = (quantile(&folded, 0.1) / middle, quantile(&folded, 0.9) / middle);
    let regularity = ((low - 0.35) / 0.4).clamp(0.0, 1.0)
        * ((1.9 - high) / 0.5).clamp(0.0, 1.0)
        * (1.0 - 2.0 * far).max(0.0)
        * (0.5 + 0.5 * (unfolded / 0.5).min(1.0));
    Folded { period: middle, low, high, regularity }
}

/// The quantile of sorted values, interpolated.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index below 128"
)]
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let position = share * last as f64;
    let (below, rest) = (position.floor(), position.fract());
    let at = |index: f64| sorted[(index as usize).min(last)];
    at(below) * (1.0 - rest) + at(below + 1.0) * rest
}

/// Median absolute deviation over the median; 0 where there is nothing.
fn spread(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let median = quantile(&values, 0.5);
    if median <= 0.0 {
        return 0.0;
    }
    let mut apart: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
    apart.sort_by(f64::total_cmp);
    quantile(&apart, 0.5) / median
}

fn finding(sight: &Sight<'_>, best: Regularity, score: f64, normal: &Baseline) -> Finding {
    let name = program_words(normal, sight.actor.program);
    let destination = sight.destination;
    let port = sight.flow().destination.port;
    let mut finding = Finding::about(RuleId::Beaconing, Severity::Warning, sight);
    if !destination.is_named {
        finding.subject = format!("{}:{port}", destination.name);
    }
    let message = format!(
        "{name} calls {} every {:.1} s or a multiple of it ({} contacts, 80 % of the gaps within {:.0} to {:.0} % of that)",
        finding.subject,
        best.period,
        best.beats,
        best.low * 100.0,
        best.high * 100.0
    );
    finding
        .say(message)
        .text("destination", destination.name.clone())
        .number("beats", best.beats as u64)
        .real("interval_seconds", best.period)
        .real("low_quantile", best.low)
        .real("high_quantile", best.high)
        .real("score", score)
        .with_normal(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fold_has_the_method_s_reference_points() {
        let uniform: Vec<f64> = (0..=100).map(|n| 60.0 * (0.5 + f64::from(n) / 100.0)).collect();
        let folded = fold(uniform);
        assert!((folded.low - 0.60).abs() < 0.05 && (folded.high - 1.40).abs() < 0.05, "{folded:?}");
        let poisson: Vec<f64> = (1..200).map(|n| -60.0 * (f64::from(n) / 200.0).ln()).collect();
        assert!(fold(poisson).regularity < 0.2);
    }

    #[test]
    fn missed_beats_are_folded() {
        let gaps = [60.0, 61.0, 120.0, 59.0, 60.0, 180.0, 60.5, 59.5].to_vec();
        assert!(fold(gaps).regularity > 0.9);
    }
}
