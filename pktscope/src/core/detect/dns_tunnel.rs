//! Data inside DNS names or answers.
//!
//! - **Sign**: what is sent to a registrable domain in names not asked before, what comes back in record types that
//!   carry data, or questions by the hundred to a domain that nothing ever connects to; each in windows of 15 min, 6 h
//!   and 24 h, and above four times what was learned for the domain.
//! - **Data needed**: the answers; connections by name, to tell a tunnel from a content network.
//! - **Blind spots**: below about a byte a second; DNS inside TLS or HTTPS; names asked through a resolver that caches.
//! - **Benign causes**: reputation look-ups of security software, which are tunnels by design; blocklist look-ups.
//! - **Reference**: Ozery et al., "Information-Based Heavy Hitters for Real-Time DNS Data Exfiltration Detection", NDSS
//!   2024; Paxson et al., USENIX Security 2013. The domain is the Public Suffix List's, private section included.

use std::{collections::VecDeque, sync::Arc};

use ahash::{AHashMap, AHashSet};

use super::{
    Accepted, DetectionSettings, Detector, DnsSight, Finding, Sight, Verdict,
    finding::{bytes_words, program_words},
    settings::DnsTunnelSettings,
    sight::text_key,
};
use crate::core::{
    alert::{RuleId, Severity},
    baseline::{Baseline, BaselineRow, Steady, rows::DnsParentRow},
    domain::{has_known_suffix, registrable},
    event::DnsMessage,
};

/// Length of a slot; windows are whole slots, so that they slide.
const SLOT_SECONDS: u32 = 300;
/// Slots of each window: 15 min, 6 h, 24 h.
const WINDOW_SLOTS: [u32; 3] = [3, 72, 288];
/// Names remembered for each domain, twice; beyond it every name counts as new.
const MAX_NAMES: usize = 20_000;
/// Names remembered for all domains together; beyond it the domains idle longest give way.
const MAX_ALL_NAMES: usize = 1_000_000;
/// A name that exists weighs this much; the weight of one that does not is a part of it.
const WHOLE: u64 = 1_000;
/// NXDOMAIN (RFC 1035).
const NAME_ERROR: u16 = 3;
/// CNAME, NULL, MX, TXT, KEY: types whose data an attacker chooses.
const CARRIERS: [u16; 5] = [5, 10, 15, 16, 25];

/// What was asked under a domain in a slot.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    number: u32,
    /// Bytes of new names, in thousandths.
    name_bytes: u64,
    names: u64,
    length: u64,
    /// Questions, in thousandths.
    questions: u64,
    answer_bytes: u64,
    connections: u64,
}

/// A registrable domain.
#[derive(Debug, Default)]
struct Parent {
    slots: VecDeque<Slot>,
    names: AHashSet<u64>,
    older_names: AHashSet<u64>,
    rotated: u32,
    last: Steady,
    learned: Option<Maxima>,
    has_connections: bool,
    is_dirty: bool,
}

/// The most that was learned, for each window.
#[derive(Clone, Copy, Debug, Default)]
struct Maxima {
    name_bytes: [u64; 3],
    questions: [u64; 3],
    answer_bytes: [u64; 3],
}

/// Decides `dns_tunnel`.
#[derive(Debug, Default)]
pub struct DnsTunnel {
    parents: AHashMap<Arc<str>, Parent>,
    all_names: usize,
    evicted: u64,
}

/// Why a domain is reported.
#[derive(Clone, Copy, Debug)]
enum Sign {
    NewNames,
    Questions,
    Answers,
    AllNew,
}

impl Detector for DnsTunnel {
    fn rule(&self) -> RuleId {
        RuleId::DnsTunnel
    }

    fn see_flow(&mut self, sight: &Sight<'_>, _normal: &Baseline, _settings: &DetectionSettings) -> Verdict {
        if sight.novelty.is_some()
            && sight.destination.is_named
            && let Some(parent) = self.parents.get_mut(&sight.destination.name)
        {
            parent.slot(slot_number(sight.now)).connections += 1;
            parent.has_connections = true;
        }
        Verdict::Normal
    }

    fn see_dns(&mut self, sight: &DnsSight<'_>, normal: &Baseline, settings: &DetectionSettings) -> Verdict {
        let name = &*sight.message.question;
        if is_local(name) {
            return Verdict::Normal;
        }
        let is_unlisted = name.len() >= settings.dns.long_name_bytes && !has_known_suffix(name);
        let verdict = self.ask(registrable(name), sight, normal, settings);
        if !is_unlisted || matches!(verdict, Verdict::Suspicious(_)) {
            return verdict;
        }
        let top = name.rsplit('.').next().unwrap_or(name);
        self.ask(top, sight, normal, settings)
    }

    fn close_minute(&mut self, now: Steady, _normal: &Baseline, settings: &DetectionSettings) -> Vec<Finding> {
        if self.all_names > MAX_ALL_NAMES || self.parents.len() > settings.limits.dns_parents {
            self.evict(settings.limits.dns_parents);
        }
        if now.minute().is_multiple_of(60) {
            let slot = slot_number(now);
            self.parents.retain(|_, parent| {
                let is_kept =
                    parent.learned.is_some() || slot.saturating_sub(slot_number(parent.last)) < 2 * WINDOW_SLOTS[2];
                self.all_names -= if is_kept { 0 } else { parent.names.len() + parent.older_names.len() };
                is_kept
            });
        }
        Vec::new()
    }

    fn take_dirty(&mut self, _normal: &Baseline) -> Vec<BaselineRow> {
        let mut dirty: Vec<_> = self.parents.iter_mut().filter(|(_, parent)| parent.is_dirty).collect();
        dirty.sort_by(|a, b| a.0.cmp(b.0));
        dirty
            .into_iter()
            .filter_map(|(name, parent)| {
                parent.is_dirty = false;
                parent.row(name)
            })
            .collect()
    }

    fn rows(&self, _normal: &Baseline) -> Vec<BaselineRow> {
        let mut parents: Vec<_> = self.parents.iter().collect();
        parents.sort_by(|a, b| a.0.cmp(b.0));
        parents.into_iter().filter_map(|(name, parent)| parent.row(name)).collect()
    }

    fn restore(&mut self, row: &BaselineRow, _normal: &Baseline) {
        if let BaselineRow::DnsParent(row) = row {
            let learned =
                Maxima { name_bytes: row.name_bytes, questions: row.questions, answer_bytes: row.answer_bytes };
            let parent = self.parents.entry(row.parent.clone()).or_default();
            parent.learned = Some(learned);
            parent.last = parent.last.max(row.last_seen);
        }
    }

    fn accept(&mut self, incident: &Accepted<'_>) {
        if let Some(parent) = incident.label.and_then(|label| self.parents.get_mut(label)) {
            parent.learn(incident.now);
        }
    }

    fn evicted(&self) -> u64 {
        self.evicted
    }
}

impl DnsTunnel {
    /// Counts a question under a domain and judges the domain.
    fn ask(
        &mut self,
        parent_name: &str,
        sight: &DnsSight<'_>,
        normal: &Baseline,
        settings: &DetectionSettings,
    ) -> Verdict {
        let key: Arc<str> = match self.parents.get_key_value(parent_name) {
            Some((known, _)) => known.clone(),
            None => parent_name.into(),
        };
        let parent = self.parents.entry(key.clone()).or_default();
        let held = parent.names.len() + parent.older_names.len();
        parent.count(sight.message, parent_name, sight.now, settings.dns.missing_weight);
        self.all_names = (self.all_names + parent.names.len() + parent.older_names.len()).saturating_sub(held);
        if normal.learning.is_learning() {
            parent.learn(sight.now);
            return Verdict::Normal;
        }
        let now = slot_number(sight.now);
        let sums: [Slot; 3] = std::array::from_fn(|window| parent.sum(window, now));
        let found = (0..WINDOW_SLOTS.len())
            .find_map(|window| parent.sign(window, &sums[window], &settings.dns).map(|sign| (window, sign)));
        let Some((window, sign)) = found else { return Verdict::NeedMoreData };
        Verdict::Suspicious(Box::new(finding(&key, sight, &sums[window], (window, sign), parent.learned, normal)))
    }

    /// Throws out the sixteenth of the domains that were asked for longest ago.
    fn evict(&mut self, capacity: usize) {
        let mut by_age: Vec<_> = self.parents.iter().map(|(name, parent)| (parent.last, name.clone())).collect();
        by_age.sort_unstable();
        for (_, name) in by_age.into_iter().take((capacity / 16).max(1)) {
            if let Some(parent) = self.parents.remove(&name) {
                self.all_names -= parent.names.len() + parent.older_names.len();
                self.evicted += 1;
            }
        }
    }
}

impl Parent {
    fn slot(&mut self, number: u32) -> &mut Slot {
        let oldest = number.saturating_sub(WINDOW_SLOTS[2]);
        while self.slots.front().is_some_and(|slot| slot.number <= oldest) {
            self.slots.pop_front();
        }
        if self.slots.back().is_none_or(|slot| slot.number < number) {
            self.slots.push_back(Slot { number, ..Slot::default() });
        }
        let last = self.slots.len() - 1;
        &mut self.slots[last]
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a thousand")]
    fn count(&mut self, message: &DnsMessage, parent: &str, now: Steady, missing_weight: f64) {
        let sub = sub_domain(&message.question, parent);
        let is_missing = message.response_code == NAME_ERROR;
        let weight = if is_missing { (missing_weight * WHOLE as f64) as u64 } else { WHOLE };
        self.last = now;
        let number = slot_number(now);
        let is_new = !sub.is_empty() && self.remember(text_key(sub), number);
        let is_carrier = CARRIERS.contains(&message.question_type);
        let answer = u64::from(message.message_bytes).saturating_sub(message.question.len() as u64 + 18);
        let slot = self.slot(number);
        slot.questions += weight;
        slot.answer_bytes += if is_carrier && !is_missing { answer } else { 0 };
        if is_new {
            slot.name_bytes += sub.len() as u64 * weight;
            slot.length += sub.len() as u64;
            slot.names += 1;
        }
    }

    /// Whether a name was not asked in the last day or two.
    fn remember(&mut self, name: u64, slot: u32) -> bool {
        if slot.saturating_sub(self.rotated) >= WINDOW_SLOTS[2] {
            self.older_names = std::mem::take(&mut self.names);
            self.rotated = slot;
        }
        if self.names.contains(&name) || self.older_names.contains(&name) {
            return false;
        }
        if self.names.len() < MAX_NAMES {
            self.names.insert(name);
        }
        true
    }

    fn sum(&self, window: usize, now: u32) -> Slot {
        let from = (now + 1).saturating_sub(WINDOW_SLOTS[window]);
        let mut sum = Slot { number: now, ..Slot::default() };
        for slot in self.slots.iter().rev().take_while(|slot| slot.number >= from) {
            sum.name_bytes += slot.name_bytes;
            sum.names += slot.names;
            sum.length += slot.length;
            sum.questions += slot.questions;
            sum.answer_bytes += slot.answer_bytes;
            sum.connections += slot.connections;
        }
        sum
    }

    fn learn(&mut self, now: Steady) {
        let number = slot_number(now);
        let mut most = self.learned.unwrap_or_default();
        for window in 0..WINDOW_SLOTS.len() {
            let sum = self.sum(window, number);
            most.name_bytes[window] = most.name_bytes[window].max(sum.name_bytes / WHOLE);
            most.questions[window] = most.questions[window].max(sum.questions / WHOLE);
            most.answer_bytes[window] = most.answer_bytes[window].max(sum.answer_bytes);
        }
        self.learned = Some(most);
        self.is_dirty = true;
    }

    #[expect(clippy::cast_precision_loss, reason = "multiples of bytes and counts")]
    fn sign(&self, window: usize, sum: &Slot, settings: &DnsTunnelSettings) -> Option<Sign> {
        let learned = self.learned.unwrap_or_default();
        let is_connected = sum.connections * 4 >= sum.names && sum.connections > 0;
        let factor = if is_connected { settings.connected_factor } else { 1.0 };
        let above = |value: u64, bound: u64, most: u64| {
            value as f64 > (bound as f64 * factor).max(settings.times_learned * most as f64)
        };
        let (min_names, min_length) = settings.min_names;
        let questions = sum.questions / WHOLE;
        let has_names = sum.names >= min_names && sum.length as f64 >= min_length * sum.names as f64;
        if has_names && above(sum.name_bytes / WHOLE, settings.name_bytes[window], learned.name_bytes[window]) {
            return Some(Sign::NewNames);
        }
        if !self.has_connections && above(questions, settings.questions[window], learned.questions[window]) {
            return Some(Sign::Questions);
        }
        let answer_bound = settings.answer_bytes.get(window);
        if answer_bound.is_some_and(|bound| above(sum.answer_bytes, *bound, learned.answer_bytes[window])) {
            return Some(Sign::Answers);
        }
        let is_all_new =
            sum.names >= settings.all_new_names && sum.names * 20 >= questions * 19 && questions * 2 >= sum.names;
        let is_unknown = self.learned.is_none() && !self.has_connections;
        (window == 1 && is_all_new && is_unknown).then_some(Sign::AllNew)
    }

    fn row(&self, name: &Arc<str>) -> Option<BaselineRow> {
        let learned = self.learned?;
        Some(BaselineRow::DnsParent(DnsParentRow {
            parent: name.clone(),
            last_seen: self.last,
            name_bytes: learned.name_bytes,
            questions: learned.questions,
            answer_bytes: learned.answer_bytes,
        }))
    }
}

fn slot_number(at: Steady) -> u32 {
    at.seconds() / SLOT_SECONDS
}

/// The part of a name left of its domain, without the joining dot.
fn sub_domain<'a>(name: &'a str, parent: &str) -> &'a str {
    name.strip_suffix(parent).map_or("", |rest| rest.strip_suffix('.').unwrap_or(rest))
}

/// Names that no server outside answers: reverse look-ups, the link's own, single labels.
fn is_local(name: &str) -> bool {
    let top = name.rsplit('.').next().unwrap_or(name);
    !name.contains('.') || matches!(top, "arpa" | "local" | "localhost" | "internal")
}

fn finding(
    parent: &Arc<str>,
    sight: &DnsSight<'_>,
    sum: &Slot,
    (window, sign): (usize, Sign),
    learned: Option<Maxima>,
    normal: &Baseline,
) -> Finding {
    let name = sight.actor.map_or_else(|| "this host".into(), |actor| program_words(normal, actor.program));
    let hours = ["15 min", "6 h", "24 h"][window];
    let what = match sign {
        Sign::NewNames => format!("{} in {} new names", bytes_words(sum.name_bytes / WHOLE), sum.names),
        Sign::Questions => format!("{} questions and never connected to it", sum.questions / WHOLE),
        Sign::Answers => format!("questions that brought {} of data records", bytes_words(sum.answer_bytes)),
        Sign::AllNew => format!("{} questions, each a new name, and never connected to it", sum.names),
    };
    let most = learned.unwrap_or_default();
    let usual = match learned {
        Some(_) => format!("the most learned was {} in new names", bytes_words(most.name_bytes[window])),
        None => "nothing asked there before".to_owned(),
    };
    let found = Finding {
        actor: sight.actor,
        process: sight.message.process.clone(),
        domain: Some(parent.clone()),
        label: Some(parent.clone()),
        subject: parent.to_string(),
        ..Finding::new(RuleId::DnsTunnel, Severity::Critical, sight.now)
    };
    found
        .say(format!("{name} sent {parent} {what} within {hours}; {usual}"))
        .text("registered_domain", parent.clone())
        .text("last_question", sight.message.question.clone())
        .number("name_bytes", sum.name_bytes / WHOLE)
        .number("new_names", sum.names)
        .number("questions", sum.questions / WHOLE)
        .number("answer_bytes", sum.answer_bytes)
        .number("connections", sum.connections)
        .number("normal_max_name_bytes", most.name_bytes[window])
        .number("normal_max_questions", most.questions[window])
        .with_coverage(normal)
}
