//! A program's first contact with a destination.
//!
//! - **Sign**: a program that was learned contacts a registrable domain, or an address without a name, that it never
//!   met.
//! - **Data needed**: the program's learning window is over. The contact must have come about: a refused or unanswered
//!   connection is the port scan rule's business.
//! - **Blind spots**: a destination that the host has long used under its name on a web port; programs that always meet
//!   new destinations (browsers, peer-to-peer), which only the other rules watch.
//! - **Benign causes**: a new mirror, a changed back-end address without a name, a moved service.
//! - **Reference**: pktscope-core's signal 1; rarity by distinct programs after RITA's prevalence modifier.

use ahash::AHashMap;

use super::{
    DetectionSettings, Detector, Finding, Sight, Verdict,
    finding::{destination_words, program_words},
    new_process_egress::is_reported,
    standing::is_established,
};
use crate::core::{
    alert::{RuleId, Severity},
    baseline::{Baseline, ProgramId, Steady, profile::HOST},
};

/// New destinations of a program in the current minute.
#[derive(Clone, Copy, Debug, Default)]
struct Burst {
    since: Steady,
    count: u32,
}

/// Decides `new_process_dest`.
#[derive(Debug, Default)]
pub struct NewProcessDest {
    bursts: AHashMap<ProgramId, Burst>,
}

impl Detector for NewProcessDest {
    fn rule(&self) -> RuleId {
        RuleId::NewProcessDest
    }

    fn see_flow(&mut self, sight: &Sight<'_>, normal: &Baseline, settings: &DetectionSettings) -> Verdict {
        let Some(novelty) = sight.novelty.filter(|novelty| novelty.is_new_label && !novelty.is_learning) else {
            return Verdict::Normal;
        };
        // A program's first egress is its own rule's business, the resolver it asks first included.
        let is_first =
            novelty.is_first_egress && (!sight.destination.is_resolver || is_reported(sight, normal, settings));
        if is_first || novelty.is_predecessors {
            return Verdict::Normal;
        }
        if is_ordinary(sight, normal, settings) {
            return Verdict::Normal;
        }
        let burst = self.bursts.entry(sight.actor.program).or_default();
        if sight.now.since(burst.since).as_secs() >= 60 {
            *burst = Burst { since: sight.now, count: 0 };
        }
        burst.count += 1;
        Verdict::Suspicious(Box::new(finding(sight, normal, burst.count > settings.novelty.burst, burst.count)))
    }

    fn close_minute(&mut self, now: Steady, _normal: &Baseline, _settings: &DetectionSettings) -> Vec<Finding> {
        self.bursts.retain(|_, burst| now.since(burst.since).as_secs() < 60);
        Vec::new()
    }

    fn forget(&mut self, program: ProgramId) {
        self.bursts.remove(&program);
    }
}

fn is_ordinary(sight: &Sight<'_>, normal: &Baseline, settings: &DetectionSettings) -> bool {
    let novelty = &settings.novelty;
    let is_explorer = normal.is_explorer(sight.actor.program);
    let seconds = u32::try_from(novelty.established_for.as_secs()).unwrap_or(u32::MAX);
    (is_explorer && !sight.destination.is_resolver)
        || (sight.destination.is_resolver && has_no_resolver(normal))
        || is_established(normal, sight.destination, sight.flow(), novelty.established_contacts, seconds)
}

/// Whether the host has not asked anybody yet: its first resolver is not a new one.
fn has_no_resolver(normal: &Baseline) -> bool {
    let host = normal.named(HOST).first().and_then(|id| normal.program(*id));
    host.is_none_or(|host| host.row.labels == 0)
}

fn finding(sight: &Sight<'_>, normal: &Baseline, is_burst: bool, count: u32) -> Finding {
    let flow = sight.flow();
    let name = program_words(normal, sight.actor.program);
    let mut finding = Finding::about(RuleId::NewProcessDest, Severity::Notice, sight);
    let message = if is_burst {
        finding.subject = "burst".to_owned();
        format!("{name} contacted {count} new destinations within a minute, the last {}", destination_words(flow))
    } else if sight.destination.is_resolver {
        format!("{name} asked a resolver that this host never used, {}", destination_words(flow))
    } else {
        format!("{name} contacted {} for the first time", destination_words(flow))
    };
    let (country, is_new_country) = place(sight);
    finding
        .say(message)
        .text("destination", sight.destination.name.clone())
        .number("new_destinations_this_minute", u64::from(count))
        .text("country", country)
        .flag("is_new_country", is_new_country)
        .text("as_organization", flow.geo.as_organization.clone().unwrap_or_default())
        .with_normal(normal)
}

fn place(sight: &Sight<'_>) -> (String, bool) {
    let country = sight.flow().geo.country.map(|code| String::from_utf8_lossy(&code).into_owned()).unwrap_or_default();
    (country, sight.novelty.is_some_and(|novelty| novelty.is_new_country))
}
