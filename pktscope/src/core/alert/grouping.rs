//! One cause, one alert: which open incident explains a finding of another rule.
//!
//! In: raised findings. Out: whether a later one is only more of the same.

use std::{sync::Arc, time::Duration};

use ahash::AHashMap;

use super::RuleId;
use crate::core::{baseline::Steady, detect::Actor};

/// Programs with open incidents; beyond it the oldest are no longer grouped.
const MAX_ACTORS: usize = 16_384;

/// Whom a raised rule covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Findings about the same destination.
    Label,
    /// Findings about the same process, for [`GroupSettings::first_contacts`].
    Process,
    /// Findings about the same process, for [`GroupSettings::first_contacts`], and about the same actor for as long as a program that
    /// came after learning learns for itself: nothing is normal for it yet, and it has been reported.
    Newcomer,
    /// Findings about the same actor.
    Actor,
}

/// Which rule's incident explains which other rule's finding, and how far.
const COVERS: &[(RuleId, RuleId, Reach)] = &[
    (RuleId::NewProcessEgress, RuleId::NewProcessDest, Reach::Newcomer),
    (RuleId::NewProcessEgress, RuleId::NewGeo, Reach::Newcomer),
    // A resolver that the host never used, asked by a program whose first destination is then judged.
    (RuleId::NewProcessDest, RuleId::NewProcessEgress, Reach::Process),
    (RuleId::IdentityChange, RuleId::NewProcessEgress, Reach::Actor),
    (RuleId::NewProcessDest, RuleId::NewGeo, Reach::Label),
    (RuleId::PortScan, RuleId::NewProcessDest, Reach::Actor),
    (RuleId::PortScan, RuleId::NewGeo, Reach::Actor),
    (RuleId::Bandwidth, RuleId::VolumeSpike, Reach::Actor),
];

/// A raised incident that may explain others.
#[derive(Clone, Debug)]
struct Open {
    rule: RuleId,
    label: Option<Arc<str>>,
    pid: u32,
    raised: Steady,
    until: Steady,
}

/// What a finding is about.
#[derive(Clone, Debug)]
pub struct About {
    /// Its rule.
    pub rule: RuleId,
    /// Its program.
    pub actor: Actor,
    /// Its destination.
    pub label: Option<Arc<str>>,
    /// Its process; 0 where it is about none.
    pub pid: u32,
    /// When.
    pub at: Steady,
}

/// How long an incident explains others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupSettings {
    /// A process's contacts this soon after its first are the same cause; later ones are news.
    pub first_contacts: Duration,
    /// A program that comes after learning learns for itself for so long.
    pub program_window: Duration,
}

/// The open incidents, by actor.
#[derive(Debug, Default)]
pub struct Groups {
    open: AHashMap<Actor, Vec<Open>>,
    settings: GroupSettings,
}

impl Groups {
    /// No open incident.
    pub fn new(settings: GroupSettings) -> Self {
        Self { open: AHashMap::new(), settings }
    }

    /// Takes other settings.
    pub fn set_settings(&mut self, settings: GroupSettings) {
        self.settings = settings;
    }

    /// Notes a raised incident that stays open until `until`.
    pub fn raised(&mut self, about: About, until: Steady) {
        let About { rule, actor, label, pid, at: raised } = about;
        if !COVERS.iter().any(|(cause, _, _)| *cause == rule)
            || (self.open.len() >= MAX_ACTORS && !self.open.contains_key(&actor))
        {
            return;
        }
        let list = self.open.entry(actor).or_default();
        list.retain(|open| open.rule != rule || open.label != label);
        list.push(Open { rule, label, pid, raised, until });
    }

    /// The rule whose open incident explains a finding.
    pub fn cause(&self, about: &About) -> Option<RuleId> {
        let of_program = Actor { pid: 0, ..about.actor };
        let lists = [Some(about.actor), (of_program != about.actor).then_some(of_program)];
        let mut open = lists.into_iter().flatten().filter_map(|actor| self.open.get(&actor)).flatten();
        open.find(|open| about.at < open.until && self.explains(open, about)).map(|open| open.rule)
    }

    /// Drops what is no longer open.
    pub fn expire(&mut self, now: Steady) {
        self.open.retain(|_, list| {
            list.retain(|open| now < open.until);
            !list.is_empty()
        });
    }

    /// An analyst closed an incident of a rule.
    pub fn close(&mut self, rule: RuleId, actor: Actor) {
        if let Some(list) = self.open.get_mut(&actor) {
            list.retain(|open| open.rule != rule);
        }
    }

    fn explains(&self, open: &Open, about: &About) -> bool {
        let age = about.at.since(open.raised);
        let is_first_contact = open.pid != 0 && open.pid == about.pid && age < self.settings.first_contacts;
        let reaches = |reach| match reach {
            Reach::Actor => true,
            Reach::Label => open.label.is_some() && open.label == about.label,
            Reach::Process => is_first_contact,
            Reach::Newcomer => is_first_contact || age < self.settings.program_window,
        };
        COVERS.iter().any(|&(cause, effect, reach)| cause == open.rule && effect == about.rule && reaches(reach))
    }
}
