//! Dispositions: what analysts made of alerts, and what that says about each rule.
//!
//! In: records, each with a time, and the time now. Out: per-rule counts over a rolling window, and rows to store. A
//! record is counted once however often it is read; a later verdict on the same alert takes the earlier one's place; a
//! time in the future is now; only the known rules exist. Nothing here decides anything: see [`super::tuning`].
//!
//! # Rows
//! [`DispositionRow`] under its `key` (the alert, the incident, or a digest of rule, time, analyst and note).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ahash::AHashMap;

use super::RuleId;
use crate::core::time::WallTime;

/// Longest note in bytes, as in rsigma.
pub const MAX_NOTE_BYTES: usize = 2_048;

/// An analyst's judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// What the rule says, and hostile.
    TruePositive,
    /// Not what the rule says.
    FalsePositive,
    /// What the rule says, and wanted.
    BenignTruePositive,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 3] = [Self::TruePositive, Self::FalsePositive, Self::BenignTruePositive];

    /// `true_positive`, `false_positive`, `benign_true_positive`.
    pub fn word(self) -> &'static str {
        match self {
            Self::TruePositive => "true_positive",
            Self::FalsePositive => "false_positive",
            Self::BenignTruePositive => "benign_true_positive",
        }
    }

    /// The verdict with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.word() == word)
    }
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One alert of a rule; the fingerprint is the alert's id or dedup key, where the record has one.
    Detection(Option<Arc<str>>),
    /// An incident: every rule that contributed to it.
    Incident(Arc<str>),
}

/// A record as it comes in, valid in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The rule; of an incident, `None` for every rule that contributed.
    pub rule: Option<RuleId>,
    /// The judgement.
    pub verdict: Verdict,
    /// What it is about.
    pub scope: Scope,
    /// When it was made; `None` for now.
    pub at: Option<WallTime>,
    /// Who made it; may be empty.
    pub analyst: Arc<str>,
    /// Why; may be empty.
    pub note: Arc<str>,
}

/// Why a record was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// It names no rule and no incident.
    NoRule,
    /// No rule has this id.
    UnknownRule(Arc<str>),
    /// No alert belongs to this incident, and the record names no rule.
    UnknownIncident(Arc<str>),
    /// It is older than the window, so that it can count for nothing.
    TooOld,
    /// The note is longer than [`MAX_NOTE_BYTES`].
    NoteTooLong,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Counted.
    Accepted,
    /// Counted in the place of an earlier verdict on the same alert.
    Replaced(Verdict),
    /// Known already, with the same verdict.
    Duplicate,
    /// Not taken.
    Rejected(Rejection),
}

/// Which verdicts count as false.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerator {
    /// False positives alone.
    #[default]
    FalsePositives,
    /// False and benign true positives.
    FalseAndBenign,
}

/// Settings of dispositions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DispositionSettings {
    /// How long a record counts. Default 30 d.
    pub window: Duration,
    /// Width of a bucket: a record leaves the window with its bucket. Default 1 d.
    pub bucket: Duration,
    /// Records of a rule from which it has a ratio. Default 5.
    pub min_sample: u32,
    /// Which verdicts count as false. Default false positives alone.
    pub numerator: Numerator,
    /// Records remembered, so that none is counted twice; the oldest give way. Default 100,000.
    pub max_records: usize,
}

impl Default for DispositionSettings {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30 * 86_400),
            bucket: Duration::from_secs(86_400),
            min_sample: 5,
            numerator: Numerator::default(),
            max_records: 100_000,
        }
    }
}

/// A counted record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DispositionRow {
    /// What makes it the same record.
    pub key: u64,
    /// The rule.
    pub rule: RuleId,
    /// The judgement.
    pub verdict: Verdict,
    /// When it was made, never after it was read.
    pub at: WallTime,
}

/// A rule's counts over the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RuleSummary {
    /// Which rule.
    pub rule: RuleId,
    /// Confirmed.
    pub true_positives: u32,
    /// Refuted.
    pub false_positives: u32,
    /// Confirmed and wanted.
    pub benign_true_positives: u32,
    /// Share of false ones by the chosen numerator; `None` below the minimum sample.
    pub false_positive_ratio: Option<f64>,
}

impl RuleSummary {
    /// All records of the rule.
    pub fn total(&self) -> u32 {
        self.true_positives + self.false_positives + self.benign_true_positives
    }
}

/// A remembered record.
#[derive(Clone, Copy, Debug)]
struct Counted {
    rule: RuleId,
    verdict: Verdict,
    at: WallTime,
}

/// Everything counted, for a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Width of the buckets the counts were made with.
    pub bucket: Duration,
    /// Every record, by key.
    pub records: Vec<DispositionRow>,
}

/// Dispositions of one host.
#[derive(Debug)]
pub struct Dispositions {
    settings: DispositionSettings,
    records: AHashMap<u64, Counted>,
    /// Keys by bucket, so that the oldest leave together; a key may be left behind by a later verdict.
    by_bucket: BTreeMap<i64, VecDeque<u64>>,
    counts: [BTreeMap<i64, [u32; 3]>; RuleId::ALL.len()],
    changed: Vec<u64>,
    evicted: u64,
}

impl Dispositions {
    /// Nothing counted yet.
    pub fn new(settings: DispositionSettings) -> Self {
        Self {
            settings,
            records: AHashMap::new(),
            by_bucket: BTreeMap::new(),
            counts: std::array::from_fn(|_| BTreeMap::new()),
            changed: Vec::new(),
            evicted: 0,
        }
    }

    /// Takes a record; `rules_of_incident` gives the rules whose alerts belong to an incident.
    ///
    /// A record about an incident without a rule counts once for each of its rules: one outcome each.
    pub fn apply(
        &mut self,
        record: &Record,
        now: WallTime,
        rules_of_incident: impl Fn(&str) -> Vec<RuleId>,
    ) -> Vec<Outcome> {
        match (record.rule, &record.scope) {
            (Some(rule), _) => vec![self.apply_to(rule, record, now)],
            (None, Scope::Detection(_)) => vec![Outcome::Rejected(Rejection::NoRule)],
            (None, Scope::Incident(incident)) => match rules_of_incident(incident) {
                rules if rules.is_empty() => vec![Outcome::Rejected(Rejection::UnknownIncident(incident.clone()))],
                rules => rules.into_iter().map(|rule| self.apply_to(rule, record, now)).collect(),
            },
        }
    }

    /// Takes a record for one rule.
    pub fn apply_to(&mut self, rule: RuleId, record: &Record, now: WallTime) -> Outcome {
        if record.note.len() > MAX_NOTE_BYTES {
            return Outcome::Rejected(Rejection::NoteTooLong);
        }
        let at = record.at.map_or(now, |at| at.min(now));
        if now.since(at) > self.settings.window {
            return Outcome::Rejected(Rejection::TooOld);
        }
        let key = key(rule, record);
        let fresh = Counted { rule, verdict: record.verdict, at };
        match self.records.get(&key).copied() {
            Some(known) if known.verdict == record.verdict || at < known.at => Outcome::Duplicate,
            Some(known) => {
                self.uncount(known);
                let is_moved = self.bucket_of(known.at) != self.bucket_of(at);
                self.count(key, fresh, is_moved);
                Outcome::Replaced(known.verdict)
            }
            None => {
                self.make_room(now);
                self.count(key, fresh, true);
                Outcome::Accepted
            }
        }
    }

    /// A rule's counts now: what is older than the window does not count, whether or not it was pruned.
    pub fn summary(&self, rule: RuleId, now: WallTime) -> RuleSummary {
        let oldest = self.bucket_of(WallTime(now.0.saturating_sub(nanos(self.settings.window))));
        let mut sums = [0_u32; 3];
        for counts in self.counts[rule as usize].range(oldest..).map(|(_, counts)| counts) {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        let [true_positives, false_positives, benign_true_positives] = sums;
        let total = true_positives + false_positives + benign_true_positives;
        let false_ones = match self.settings.numerator {
            Numerator::FalsePositives => false_positives,
            Numerator::FalseAndBenign => false_positives + benign_true_positives,
        };
        let is_enough = total > 0 && total >= self.settings.min_sample;
        let false_positive_ratio = is_enough.then(|| f64::from(false_ones) / f64::from(total));
        RuleSummary { rule, true_positives, false_positives, benign_true_positives, false_positive_ratio }
    }

    /// Every rule's counts now, in the rules' order.
    pub fn summaries(&self, now: WallTime) -> Vec<RuleSummary> {
        RuleId::ALL.into_iter().map(|rule| self.summary(rule, now)).collect()
    }

    /// Forgets what is older than the window.
    pub fn prune(&mut self, now: WallTime) {
        let oldest = self.bucket_of(WallTime(now.0.saturating_sub(nanos(self.settings.window))));
        while let Some(first) = self.by_bucket.first_entry().filter(|first| *first.key() < oldest) {
            let (bucket, keys) = first.remove_entry();
            self.drop_keys(bucket, keys);
        }
    }

    /// Records remembered, and how many gave way to the bound.
    pub fn size(&self) -> (usize, u64) {
        (self.records.len(), self.evicted)
    }

    /// Everything, by key.
    pub fn snapshot(&self) -> Snapshot {
        let mut records: Vec<_> = self.records.iter().map(|(key, counted)| counted.row(*key)).collect();
        records.sort_unstable_by_key(|row| row.key);
        Snapshot { bucket: self.settings.bucket, records }
    }

    /// Goes on from stored records, in any bucket width: the counts are made anew from the records' own times.
    pub fn restore(&mut self, records: &[DispositionRow], now: WallTime) {
        for row in records {
            let at = row.at.min(now);
            let is_new = !self.records.contains_key(&row.key);
            if is_new && now.since(at) <= self.settings.window && self.records.len() < self.settings.max_records {
                self.count(row.key, Counted { rule: row.rule, verdict: row.verdict, at }, true);
            }
        }
        self.changed.clear();
    }

    /// Records new or changed since the last call.
    pub fn take_dirty(&mut self) -> Vec<DispositionRow> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter_map(|key| self.records.get(&key).map(|counted| counted.row(key))).collect()
    }

    fn bucket_of(&self, at: WallTime) -> i64 {
        at.0.div_euclid(nanos(self.settings.bucket).max(1))
    }

    fn count(&mut self, key: u64, counted: Counted, is_new_in_bucket: bool) {
        let bucket = self.bucket_of(counted.at);
        self.records.insert(key, counted);
        if is_new_in_bucket {
            self.by_bucket.entry(bucket).or_default().push_back(key);
        }
        self.counts[counted.rule as usize].entry(bucket).or_default()[counted.verdict as usize] += 1;
        self.changed.push(key);
    }

    fn uncount(&mut self, counted: Counted) {
        let bucket = self.bucket_of(counted.at);
        if let Some(counts) = self.counts[counted.rule as usize].get_mut(&bucket) {
            counts[counted.verdict as usize] = counts[counted.verdict as usize].saturating_sub(1);
        }
    }

    /// Keeps the bound: first what is too old, then the oldest bucket.
    fn make_room(&mut self, now: WallTime) {
        if self.records.len() < self.settings.max_records {
            return;
        }
        self.prune(now);
        // Room for as many again: a table that is always nearly full of removed places is rebuilt again and again.
        self.records.reserve(self.settings.max_records);
        while self.records.len() >= self.settings.max_records {
            let Some((bucket, mut keys)) = self.by_bucket.pop_first() else { return };
            // The counts stay until their bucket leaves the window: only the memory of having read them is lost.
            let few = keys.len().min((self.settings.max_records / 16).max(1));
            self.evicted += few as u64;
            keys.drain(..few).for_each(|key| self.forget_key(bucket, key));
            if !keys.is_empty() {
                self.by_bucket.insert(bucket, keys);
            }
        }
    }

    fn drop_keys(&mut self, bucket: i64, keys: VecDeque<u64>) {
        keys.into_iter().for_each(|key| self.forget_key(bucket, key));
        self.counts.iter_mut().for_each(|rule| {
            rule.remove(&bucket);
        });
    }

    /// Forgets a key, unless a later verdict moved it to another bucket.
    fn forget_key(&mut self, bucket: i64, key: u64) {
        if self.records.get(&key).is_some_and(|counted| self.bucket_of(counted.at) == bucket) {
            self.records.remove(&key);
        }
    }
}

impl Counted {
    fn row(&self, key: u64) -> DispositionRow {
        DispositionRow { key, rule: self.rule, verdict: self.verdict, at: self.at }
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// What makes two records the same: the alert or incident they are about; where they name none, all they say but the
/// verdict, so that a re-read counts once and a changed verdict replaces.
///
/// FNV-1a of 64 bits (draft-eastlake-fnv): the key is stored, so it must be the same on every machine and in every
/// version. At the bound of records two of them share a key once in billions of times.
fn key(rule: RuleId, record: &Record) -> u64 {
    let mut digest = Fnv::new();
    digest.take(rule.id().as_bytes());
    match &record.scope {
        Scope::Detection(Some(fingerprint)) => digest.take(b"alert").take(fingerprint.as_bytes()),
        Scope::Incident(incident) => digest.take(b"incident").take(incident.as_bytes()),
        Scope::Detection(None) => {
            let at = record.at.map_or(i64::MIN, |at| at.0);
            digest.take(&at.to_be_bytes()).take(record.analyst.as_bytes()).take(record.note.as_bytes())
        }
    };
    digest.0
}

/// FNV-1a, each field followed by a byte that no UTF-8 text holds.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn take(&mut self, bytes: &[u8]) -> &mut Self {
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        for &byte in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(PRIME);
        }
        self
    }
}

#[cfg(test)]
mod tests;
