//! A program's image is not the one that was learned.
//!
//! - **Sign**: an image whose hash its program never had, that no package, no container image and no update run
//!   explains; or an image that can no longer be read.
//! - **Data needed**: hashes; packages explain upgrades best. Without package data an update is a package manager's
//!   egress shortly before and at least two images that change together.
//! - **Blind spots**: code injected into a running process; an attacker who changes two images right after a package
//!   manager's egress on a host without package data.
//! - **Benign causes**: programs that update themselves, software built in place.
//! - **Reference**: pktscope-core's signal 5; MITRE ATT&CK T1554.

use std::sync::Arc;

use ahash::AHashSet;

use super::{
    DetectionSettings, Detector, Finding, Sight, Verdict,
    finding::program_words,
    programs::{package_of, sha256},
    sight::{Actor, ProgramSight},
};
use crate::core::{
    alert::{RuleId, Severity},
    baseline::{
        Baseline, Location, ProgramId, Steady,
        identity::{identity_hash, is_package_manager},
        rows::ProgramRow,
    },
    process::{ImageHash, Process},
};

/// Changes waited for at most; a further one is reported at once.
const MAX_PENDING: usize = 1_024;
/// Words of a hash error that say the process was gone, not that somebody hid its image.
const GONE: [&str; 4] = ["ended", "gone", "found again", "recording"];

/// A change that may turn out to be part of an update.
#[derive(Debug)]
struct Pending {
    sight_program: ProgramId,
    hash: Arc<str>,
    since: Steady,
    finding: Finding,
}

/// Decides `identity_change`.
#[derive(Debug, Default)]
pub struct IdentityChange {
    last_update: Option<Steady>,
    /// End of the last update that was recognised.
    explained: Option<Steady>,
    /// Programs that the update has changed.
    updated: AHashSet<ProgramId>,
    pending: Vec<Pending>,
}

impl Detector for IdentityChange {
    fn rule(&self) -> RuleId {
        RuleId::IdentityChange
    }

    fn see_flow(&mut self, sight: &Sight<'_>, _normal: &Baseline, _settings: &DetectionSettings) -> Verdict {
        if sight.is_first() && sight.flow().process().is_some_and(|process| is_package_manager(&process.executable)) {
            self.last_update = Some(sight.now);
        }
        Verdict::Normal
    }

    fn see_program(&mut self, sight: &ProgramSight<'_>, normal: &Baseline, settings: &DetectionSettings) -> Verdict {
        let Some(program) = normal.program(sight.program) else { return Verdict::Normal };
        if normal.learning.is_learning() || program.row.images.is_empty() {
            return Verdict::Normal;
        }
        match identity_hash(sight.process) {
            ImageHash::Pending => Verdict::Normal,
            ImageHash::Unreadable(reason) if GONE.iter().any(|word| reason.contains(word)) => Verdict::Normal,
            ImageHash::Unreadable(reason) => Verdict::Suspicious(Box::new(unreadable(sight, normal, reason))),
            ImageHash::Sha256(hash) if program.row.images.contains(hash) => Verdict::Normal,
            ImageHash::Sha256(_) if is_package_upgrade(&program.row, sight.process) => Verdict::Normal,
            ImageHash::Sha256(hash) => self.changed(sight, &program.row, hash, normal, settings),
        }
    }

    fn close_second(&mut self, now: Steady, _normal: &Baseline, settings: &DetectionSettings) -> Vec<Finding> {
        if self.pending.is_empty() {
            return Vec::new();
        }
        let wait = settings.identity.together_wait;
        let (over, waiting) =
            std::mem::take(&mut self.pending).into_iter().partition(|pending| now.since(pending.since) >= wait);
        self.pending = waiting;
        over.into_iter().map(|pending: Pending| Finding { at: now, ..pending.finding }).collect()
    }

    fn finish(&mut self, now: Steady, _normal: &Baseline, _settings: &DetectionSettings) -> Vec<Finding> {
        std::mem::take(&mut self.pending).into_iter().map(|pending| Finding { at: now, ..pending.finding }).collect()
    }

    fn forget(&mut self, program: ProgramId) {
        self.pending.retain(|pending| pending.sight_program != program);
        self.updated.remove(&program);
    }
}

impl IdentityChange {
    fn changed(
        &mut self,
        sight: &ProgramSight<'_>,
        row: &ProgramRow,
        hash: &Arc<str>,
        normal: &Baseline,
        settings: &DetectionSettings,
    ) -> Verdict {
        let rules = &settings.identity;
        let is_vouched = Location::of(sight.process).suspicion() == 0 && sight.process.vouching_package().is_none();
        let is_near = |at: Option<Steady>| at.is_some_and(|at| sight.now.since(at) <= rules.update_window);
        let is_updated = self.updated.contains(&sight.program);
        if is_vouched
            && !is_updated
            && (is_near(self.explained) || self.explained.is_some_and(|at| sight.last_seen <= at))
        {
            self.updated.insert(sight.program);
            return Verdict::Normal;
        }
        let finding = changed(sight, row, hash, normal);
        if !is_near(self.last_update) || !is_vouched || self.pending.len() >= MAX_PENDING {
            return Verdict::Suspicious(Box::new(finding));
        }
        if !self.pending.iter().any(|pending| pending.hash == *hash && pending.sight_program == sight.program) {
            self.pending.push(Pending { sight_program: sight.program, hash: hash.clone(), since: sight.now, finding });
        }
        if self.pending.len() < rules.together as usize {
            return Verdict::NeedMoreData;
        }
        self.explained = Some(sight.now);
        self.updated = self.pending.drain(..).map(|pending| pending.sight_program).collect();
        Verdict::Normal
    }
}

/// Whether a package, or a newer image of a container, accounts for a new hash.
fn is_package_upgrade(row: &ProgramRow, process: &Process) -> bool {
    let Some((owner, version)) = package_of(process) else { return false };
    match process.vouching_package().and_then(|package| package.is_unmodified) {
        Some(is_unmodified) => is_unmodified,
        None => row.package.as_ref().is_some_and(|(known, was)| *known == owner && *was != version),
    }
}

fn about(sight: &ProgramSight<'_>, severity: Severity) -> Finding {
    Finding {
        actor: Some(Actor { program: sight.program, pid: 0 }),
        process: Some(sight.process.clone()),
        ..Finding::new(RuleId::IdentityChange, severity, sight.now)
    }
}

fn changed(sight: &ProgramSight<'_>, row: &ProgramRow, hash: &Arc<str>, normal: &Baseline) -> Finding {
    let name = program_words(normal, sight.program);
    let old = row.images.last().cloned().unwrap_or_default();
    // A program that was never seen on the network has no day of its own yet.
    let is_known = row.first_seen != Steady::default();
    let since = if is_known { row.first_seen } else { sight.now }.date();
    let finding = Finding { subject: hash.to_string(), is_stranger: true, ..about(sight, Severity::Critical) };
    let package = package_of(sight.process);
    let is_modified = sight.process.vouching_package().is_some_and(|package| package.is_unmodified == Some(false));
    finding
        .say(format!(
            "{name} runs another image than the one known since {since}, and no package or update explains it"
        ))
        .text("new_sha256", hash.clone())
        .text("old_sha256", old)
        .text("known_since", since)
        .text("package", package.map(|(owner, version)| format!("{owner} {version}")).unwrap_or_default())
        .flag("is_packaged_file_modified", is_modified)
        .with_coverage(normal)
}

fn unreadable(sight: &ProgramSight<'_>, normal: &Baseline, reason: &str) -> Finding {
    let name = program_words(normal, sight.program);
    let known =
        normal.program(sight.program).and_then(|program| program.row.images.last().cloned()).unwrap_or_default();
    let finding = Finding { subject: "unreadable".to_owned(), ..about(sight, Severity::Warning) };
    finding
        .say(format!(
            "the image of {name} can no longer be read ({reason}); the one known before stays what it is compared with"
        ))
        .text("reason", reason)
        .text("old_sha256", known)
        .flag("has_hash", sha256(sight.process).is_some())
        .with_coverage(normal)
}
