//! One cause, one alert: which open incident explains a finding of another rule.
//!
//! In: raised findings. Out: whether a later one is only more of the same.

use std::sync::Arc;

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
    /// Findings about the same actor.
    Actor,
}

/// Which rule's incident explains which other rule's finding, and how far.
const COVERS: &[(RuleId, RuleId, Reach)] = &[
    (RuleId::NewProcessEgress, RuleId::NewProcessDest, Reach::Actor),
    (RuleId::NewProcessEgress, RuleId::NewGeo, Reach::Actor),
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
    until: Steady,
}

/// The open incidents, by actor.
#[derive(Debug, Default)]
pub struct Groups {
    open: AHashMap<Actor, Vec<Open>>,
}

impl Groups {
    /// Notes a raised incident that stays open until `until`.
    pub fn raised(&mut self, rule: RuleId, actor: Actor, label: Option<Arc<str>>, until: Steady) {
        if !COVERS.iter().any(|(cause, _, _)| *cause == rule)
            || (self.open.len() >= MAX_ACTORS && !self.open.contains_key(&actor))
        {
            return;
        }
        let list = self.open.entry(actor).or_default();
        list.retain(|open| open.rule != rule || open.label != label);
        list.push(Open { rule, label, until });
    }

    /// The rule whose open incident explains a finding.
    pub fn cause(&self, rule: RuleId, actor: Actor, label: Option<&Arc<str>>, at: Steady) -> Option<RuleId> {
        let of_program = Actor { pid: 0, ..actor };
        let lists = [Some(actor), (of_program != actor).then_some(of_program)];
        let mut open = lists.into_iter().flatten().filter_map(|actor| self.open.get(&actor)).flatten();
        open.find(|open| at < open.until && explains(open, rule, label)).map(|open| open.rule)
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
}

fn explains(open: &Open, rule: RuleId, label: Option<&Arc<str>>) -> bool {
    COVERS.iter().any(|&(cause, effect, reach)| {
        cause == open.rule
            && effect == rule
            && (reach == Reach::Actor || (open.label.is_some() && open.label.as_ref() == label))
    })
}
