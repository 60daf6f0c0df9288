//! A program sends far more than is normal for it, or pushes to a destination it never used.
//!
//! - **Sign**: bytes sent in 1 min, 10 min, 1 h or 6 h far above everything learned for the program; or several MB in
//!   six hours, mostly outwards, to a destination that is new to the program.
//! - **Data needed**: a program learned with the host, or eight windows that it learned by itself later; without them
//!   only the second sign speaks. The windows are closed by the clock and when the agent stops, and a window already
//!   over its bounds is reported before it closes. A day without an alert about the program teaches once it is over,
//!   at most a quarter more than was known.
//! - **Blind spots**: what stays below the floors; a known program that pushes to a known destination at the hour at
//!   which it always pushes; bytes served to whoever connects in.
//! - **Benign causes**: a first backup, a moved disk image, a new synchronisation program.
//! - **Reference**: robust z-score on log bytes; Bullard and Gerth, FloCon 2014, for the producer-consumer ratio;
//!   pktscope-core's signal 4 for the moving average.

mod sender;

use ahash::AHashMap;

use super::{
    Accepted, DetectionSettings, Detector, Finding, Sight, Verdict,
    finding::{bytes_words, program_words},
    settings::VolumeSettings,
    sight::{Actor, Destination},
    standing::{is_new_program, suspicion},
};
use crate::core::{
    alert::{RuleId, Severity},
    baseline::{
        Baseline, BaselineRow, LabelId, PairState, ProgramId, Steady,
        volume::{Share, VolumeNormal, WINDOW_MINUTES},
    },
};

use sender::Sender;

/// Pairs new since learning whose bytes are followed; further ones are not.
const MAX_NEW_PAIRS: usize = 16_384;
/// The window of the second sign.
const SIX_HOURS: u32 = 360;

/// What went to a destination that is new to a program, by the minute in which it went.
#[derive(Debug, Default)]
struct Push {
    minutes: std::collections::VecDeque<(u32, u64, u64)>,
    sent: u64,
    received: u64,
}

/// Decides `volume_spike`.
#[derive(Debug, Default)]
pub struct VolumeSpike {
    senders: AHashMap<Actor, Sender>,
    active: Vec<Actor>,
    pushes: AHashMap<(Actor, u64), Push>,
    unfollowed: u64,
}

impl Detector for VolumeSpike {
    fn rule(&self) -> RuleId {
        RuleId::VolumeSpike
    }

    fn see_flow(&mut self, sight: &Sight<'_>, normal: &Baseline, settings: &DetectionSettings) -> Verdict {
        let (Some(label), true) = (sight.label, sight.is_owned) else { return Verdict::Normal };
        if sight.labelled.sent == 0 && sight.labelled.received == 0 {
            return Verdict::Normal;
        }
        if self.count(sight, label) < settings.volume.floors[0].min(settings.volume.new_destination_bytes) {
            return self.push(sight, label, normal, settings);
        }
        if normal.learning.is_learning() {
            return Verdict::Normal;
        }
        if let verdict @ Verdict::Suspicious(_) = self.push(sight, label, normal, settings) {
            return verdict;
        }
        self.open_minute(sight, normal, &settings.volume)
    }

    fn close_minute(&mut self, now: Steady, normal: &Baseline, settings: &DetectionSettings) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut active = std::mem::take(&mut self.active);
        active.sort_unstable();
        active.retain(|actor| {
            let Some(sender) = self.senders.get_mut(actor) else { return false };
            findings.extend(sender.close_minute(*actor, now, normal, settings));
            !sender.recent.is_empty() || sender.hour_bytes > 0
        });
        self.active = active;
        self.pushes.retain(|_, push| {
            push.expire(now.minute());
            !push.minutes.is_empty()
        });
        findings
    }

    fn forget(&mut self, program: ProgramId) {
        self.senders.retain(|actor, _| actor.program != program);
        self.active.retain(|actor| actor.program != program);
        self.pushes.retain(|(actor, _), _| actor.program != program);
    }

    fn take_dirty(&mut self, normal: &Baseline) -> Vec<BaselineRow> {
        let mut dirty: Vec<_> = self.senders.iter_mut().filter(|(_, sender)| sender.is_dirty).collect();
        dirty.sort_by_key(|(actor, _)| **actor);
        dirty
            .into_iter()
            .filter_map(|(actor, sender)| {
                sender.is_dirty = false;
                sender.row(*actor, normal)
            })
            .collect()
    }

    fn rows(&self, normal: &Baseline) -> Vec<BaselineRow> {
        let mut senders: Vec<_> = self.senders.iter().collect();
        senders.sort_by_key(|(actor, _)| **actor);
        senders.into_iter().filter_map(|(actor, sender)| sender.row(*actor, normal)).collect()
    }

    fn restore(&mut self, row: &BaselineRow, normal: &Baseline) {
        if let BaselineRow::Volume(row) = row
            && let Some(program) = normal.by_key(&row.program)
            && &*row.program.name != crate::core::baseline::profile::HOST
        {
            self.senders.insert(Actor { program, pid: 0 }, Sender::restored(row));
        }
    }

    fn accept(&mut self, incident: &Accepted<'_>) {
        let actor = incident.program.map(|program| Actor { program, pid: 0 });
        if let Some(sender) = actor.and_then(|actor| self.senders.get_mut(&actor)) {
            sender.accept_spike();
        }
    }

    fn evicted(&self) -> u64 {
        self.unfollowed
    }
}

impl VolumeSpike {
    /// Adds a change's bytes to its program's open minute; the bytes of the minute so far.
    fn count(&mut self, sight: &Sight<'_>, label: LabelId) -> u64 {
        let actor = whole(sight.actor);
        let sender = self.senders.entry(actor).or_default();
        if !sender.has_sent {
            sender.has_sent = true;
            self.active.push(actor);
        }
        sender.recent.add(sight.now, label, sight.labelled.sent, sight.labelled.received, sight.flow());
        sender.hour_bytes += sight.labelled.sent;
        sender.recent.open_bytes()
    }

    /// A minute that is over its bounds before it is over.
    fn open_minute(&mut self, sight: &Sight<'_>, normal: &Baseline, settings: &VolumeSettings) -> Verdict {
        let actor = whole(sight.actor);
        let Some(sender) = self.senders.get_mut(&actor) else { return Verdict::Normal };
        let bytes = sender.recent.open_bytes();
        let is_known = sender.is_known(0, actor, sight.now, normal, settings.min_samples);
        if !is_known || bytes < settings.floors[0] || sender.is_frozen(sight.now) {
            return Verdict::Normal;
        }
        if !sender.is_spike(0, bytes, sight.now, settings) {
            return Verdict::NeedMoreData;
        }
        let Some(share) = sender.recent.top(0).filter(is_pushed) else { return Verdict::Normal };
        let finding = finding(actor, &share, sight.now, normal, &sender.normal, (0, bytes));
        sender.note_spike(0, bytes, sight.now);
        sender.freeze(sight.now);
        Verdict::Suspicious(Box::new(finding))
    }

    fn freeze(&mut self, actor: Actor, now: Steady) {
        if let Some(sender) = self.senders.get_mut(&actor) {
            sender.freeze(now);
        }
    }

    /// Several MB, mostly outwards, to a destination that is new to the program.
    fn push(&mut self, sight: &Sight<'_>, label: LabelId, normal: &Baseline, settings: &DetectionSettings) -> Verdict {
        let program = sight.actor.program;
        let is_new = normal.pair(program, label).is_none_or(|pair| pair.state != PairState::Learned);
        if normal.learning.is_learning() || !is_new || sight.destination.is_private && !is_new_program(normal, program)
        {
            return Verdict::Normal;
        }
        let key = (sight.actor, target(sight));
        if self.pushes.len() >= MAX_NEW_PAIRS && !self.pushes.contains_key(&key) {
            self.unfollowed += 1;
            return Verdict::Normal;
        }
        let push = self.pushes.entry(key).or_default();
        push.add(sight.now.minute(), sight.labelled.sent, sight.labelled.received);
        let bound = push_bound(sight, normal, &settings.volume);
        if push.sent < bound || push.ratio() <= settings.volume.push_ratio {
            return Verdict::NeedMoreData;
        }
        let (sent, ratio) = (push.sent, push.ratio());
        *push = Push::default();
        self.freeze(whole(sight.actor), sight.now);
        Verdict::Suspicious(Box::new(push_finding(sight, normal, sent, ratio)))
    }
}

/// The program as a whole: what is normal is learned for it, not for one of its processes.
fn whole(actor: Actor) -> Actor {
    Actor { pid: 0, ..actor }
}

/// Whom a push goes to: the name, else all addresses of the AS together, else the address.
fn target(sight: &Sight<'_>) -> u64 {
    match sight.flow().geo.as_number {
        Some(number) if !sight.destination.is_named => u64::from(number),
        _ => sight.destination.key,
    }
}

/// The bytes that a new destination may get.
fn push_bound(sight: &Sight<'_>, normal: &Baseline, settings: &VolumeSettings) -> u64 {
    let destination: &Destination = sight.destination;
    let is_new = is_new_program(normal, sight.actor.program);
    let suspicion = suspicion(normal, sight.actor.program, destination, &sight.flow().geo);
    let is_ordinary = is_new && suspicion < settings.suspicion;
    if is_ordinary || normal.is_explorer(sight.actor.program) {
        settings.ordinary_destination_bytes
    } else {
        settings.new_destination_bytes
    }
}

impl Push {
    fn add(&mut self, minute: u32, sent: u64, received: u64) {
        match self.minutes.back_mut().filter(|(last, ..)| *last == minute) {
            Some((_, so_far, back)) => {
                *so_far += sent;
                *back += received;
            }
            None => self.minutes.push_back((minute, sent, received)),
        }
        self.sent += sent;
        self.received += received;
        self.expire(minute);
    }

    fn expire(&mut self, minute: u32) {
        while let Some(&(oldest, sent, received)) =
            self.minutes.front().filter(|(oldest, ..)| oldest + SIX_HOURS <= minute)
        {
            debug_assert!(oldest <= minute, "minutes come in order");
            self.sent -= sent;
            self.received -= received;
            self.minutes.pop_front();
        }
    }

    /// Producer-consumer ratio: 1 only sends, -1 only receives.
    #[expect(clippy::cast_precision_loss, reason = "a ratio of bytes")]
    fn ratio(&self) -> f64 {
        let (sent, received) = (self.sent as f64, self.received as f64);
        (sent - received) / (sent + received).max(1.0)
    }
}

/// Whether more went out than came back: a large download sends a lot of acknowledgements, too.
fn is_pushed(share: &Share) -> bool {
    share.sent > share.received
}

fn finding(
    actor: Actor,
    share: &Share,
    now: Steady,
    normal: &Baseline,
    learned: &VolumeNormal,
    (window, bytes): (usize, u64),
) -> Finding {
    let known = &learned.windows[window];
    let name = program_words(normal, actor.program);
    let minutes = WINDOW_MINUTES[window];
    let severity = if bytes >= known.max.max(1).saturating_mul(10) { Severity::Critical } else { Severity::Warning };
    let label = normal.label_name(share.label);
    let message = format!(
        "{name} sent {} within {minutes} min, most of it ({}) to {label}; the most it sent in such a time before was {}, usually {}",
        bytes_words(bytes),
        bytes_words(share.sent),
        bytes_words(known.max),
        bytes_words(known.median_bytes())
    );
    let found = Finding {
        actor: Some(actor),
        label: Some(label.clone()),
        subject: label.to_string(),
        flow: Some(share.flow.clone()),
        process: share.flow.process().cloned(),
        ..Finding::new(RuleId::VolumeSpike, severity, now)
    };
    found
        .say(message)
        .number("bytes", bytes)
        .number("window_minutes", u64::from(minutes))
        .number("top_destination_bytes", share.sent)
        .text("top_destination", label)
        .number("normal_max_bytes", known.max)
        .number("normal_median_bytes", known.median_bytes())
        .number("normal_windows", u64::from(known.samples()))
        .real("deviations", known.deviations(bytes))
        .real("moving_average_bytes", learned.average.mean)
        .with_normal(normal)
}

fn push_finding(sight: &Sight<'_>, normal: &Baseline, sent: u64, ratio: f64) -> Finding {
    let name = program_words(normal, sight.actor.program);
    let label = &sight.destination.name;
    let message = format!(
        "{name} pushed {} within six hours to {label}, a destination that is new to it ({:.0} % of the bytes went out)",
        bytes_words(sent),
        (ratio + 1.0) * 50.0
    );
    Finding::about(RuleId::VolumeSpike, Severity::Warning, sight)
        .say(message)
        .number("bytes", sent)
        .number("window_minutes", u64::from(SIX_HOURS))
        .text("top_destination", label.clone())
        .real("producer_consumer_ratio", ratio)
        .number("suspicion", u64::from(suspicion(normal, sight.actor.program, sight.destination, &sight.flow().geo)))
        .with_normal(normal)
}
