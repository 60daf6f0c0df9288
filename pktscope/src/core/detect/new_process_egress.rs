//! A program's first egress.
//!
//! - **Sign**: a program that the baseline has never seen sends for the first time, from a place that nobody vouches for,
//!   or to a destination that is neither named nor usual here.
//! - **Data needed**: the learning window is over. With fewer learned programs than
//!   [`super::settings::NoveltySettings::wide_baseline_programs`] every first egress is reported.
//! - **Blind spots**: a packaged or system program started for the first time and going to a named destination (it
//!   learns for itself, and the other rules watch it); malware inside a known program.
//! - **Benign causes**: software installed by hand, build results, tools in a home folder.
//! - **Reference**: pktscope-core's signal 2; places after the persistence and staging folders of MITRE ATT&CK T1036.005.

use std::sync::Arc;

use super::{
    DetectionSettings, Detector, Finding, Sight, Verdict,
    finding::{destination_words, program_words},
    standing::suspicion,
};
use crate::core::{
    alert::{RuleId, Severity},
    baseline::{Baseline, Location, ProgramId, Steady},
};

/// Programs waited for at most; a further one is judged at its first question.
const MAX_WAITING: usize = 4_096;

/// A program that has only asked a resolver so far.
#[derive(Debug)]
struct Asking {
    program: ProgramId,
    since: Steady,
    finding: Finding,
}

/// Decides `new_process_egress`.
#[derive(Debug, Default)]
pub struct NewProcessEgress {
    asking: Vec<Asking>,
}

impl Detector for NewProcessEgress {
    fn rule(&self) -> RuleId {
        RuleId::NewProcessEgress
    }

    fn see_flow(&mut self, sight: &Sight<'_>, normal: &Baseline, settings: &DetectionSettings) -> Verdict {
        let Some(novelty) = sight.novelty.filter(|novelty| novelty.is_first_egress) else { return Verdict::Normal };
        if normal.learning.is_learning() || sight.flow().process().is_none() || novelty.is_predecessors {
            return Verdict::Normal;
        }
        if !sight.destination.is_resolver {
            self.asking.retain(|asking| asking.program != sight.actor.program);
            return judge(sight, normal, settings);
        }
        if self.asking.iter().any(|asking| asking.program == sight.actor.program) {
            return Verdict::NeedMoreData;
        }
        match judge(sight, normal, settings) {
            Verdict::Suspicious(finding) if self.asking.len() < MAX_WAITING => {
                let name = program_words(normal, sight.actor.program);
                let message = format!(
                    "{name} made its first egress: it asks the resolver {} and nothing else",
                    sight.destination.name
                );
                let finding = Finding { flow: None, label: None, message, ..*finding };
                self.asking.push(Asking { program: sight.actor.program, since: sight.now, finding });
                Verdict::NeedMoreData
            }
            verdict => verdict,
        }
    }

    fn close_second(&mut self, now: Steady, _normal: &Baseline, settings: &DetectionSettings) -> Vec<Finding> {
        let is_over = |asking: &Asking| now.since(asking.since) >= settings.novelty.resolver_only_wait;
        if !self.asking.first().is_some_and(is_over) {
            return Vec::new();
        }
        let over = self.asking.iter().take_while(|asking| is_over(asking)).count();
        self.asking.drain(..over).map(|asking| Finding { at: now, ..asking.finding }).collect()
    }

    fn forget(&mut self, program: ProgramId) {
        self.asking.retain(|asking| asking.program != program);
    }
}

/// Whether a program's first egress is reported: then what it asks a resolver before is part of that.
pub(super) fn is_reported(sight: &Sight<'_>, normal: &Baseline, settings: &DetectionSettings) -> bool {
    matches!(judge(sight, normal, settings), Verdict::Suspicious(_))
}

fn judge(sight: &Sight<'_>, normal: &Baseline, settings: &DetectionSettings) -> Verdict {
    let flow = sight.flow();
    let suspicion = suspicion(normal, sight.actor.program, sight.destination, &flow.geo);
    let is_wide = is_wide(normal, settings.novelty.wide_baseline_programs);
    if is_wide && suspicion < settings.novelty.first_egress_suspicion {
        return Verdict::Normal;
    }
    let place = normal.program(sight.actor.program).map(|program| program.location);
    let name = program_words(normal, sight.actor.program);
    let mut finding = Finding::about(RuleId::NewProcessEgress, Severity::Warning, sight);
    finding.subject = String::new();
    let message = format!(
        "{name} ({}) made its first egress, to {}",
        place.map(Location::phrase).unwrap_or_default(),
        destination_words(flow)
    );
    let finding = finding
        .say(message)
        .text("destination", sight.destination.name.clone())
        .text("place", place.map(Location::word).unwrap_or_default())
        .number("suspicion", u64::from(suspicion))
        .flag("is_baseline_wide", is_wide)
        .list(
            "country",
            flow.geo.country.iter().map(|code| Arc::from(String::from_utf8_lossy(code).as_ref())).collect(),
        );
    Verdict::Suspicious(Box::new(finding.with_coverage(normal)))
}

/// Whether enough programs were learned to tell an ordinary new one from others.
fn is_wide(normal: &Baseline, programs: usize) -> bool {
    normal.all_programs().filter(|(_, program)| program.row.is_learned && program.row.labels > 0).count() >= programs
}
