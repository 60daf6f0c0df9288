//! From a process to its program: the same one after an upgrade, another one after a swap.

use std::sync::Arc;

use ahash::AHashMap;

use super::{
    Detection, Verdict,
    sight::{Actor, ProgramSight},
};
use crate::core::{
    alert::grouping::About,
    alert::{Alert, RuleId},
    baseline::{
        Location, ProgramId, Steady,
        identity::{identity_hash, is_interpreter, is_package_manager, program_name},
        profile::MAX_IMAGES,
        rows::ProgramRow,
    },
    process::{ImageHash, Process, ProcessKey},
    time::Moment,
};

/// Processes whose program is remembered; at this many the table starts anew.
const MAX_PROCESSES: usize = 65_536;

/// The programs of the processes seen lately.
#[derive(Debug, Default)]
pub(super) struct Programs {
    by_process: AHashMap<ProcessKey, (Arc<Process>, Actor)>,
}

impl Programs {
    /// Forgets the processes of programs that are gone or whose identity is to be asked again.
    pub(super) fn drop_program(&mut self, id: ProgramId) {
        self.by_process.retain(|_, (_, actor)| actor.program != id);
    }

    /// Whether a process has had egress lately.
    pub(super) fn is_known(&self, process: &Process) -> bool {
        self.by_process.contains_key(&process.key)
    }

    /// What is best known of a process: the given value, or a later one with its facts.
    pub(super) fn latest(&self, process: &Arc<Process>) -> Arc<Process> {
        if *identity_hash(process) != ImageHash::Pending {
            return process.clone();
        }
        self.by_process.get(&process.key).map_or_else(|| process.clone(), |(known, _)| known.clone())
    }
}

impl Detection {
    /// The program behind a process with egress.
    pub(super) fn actor(&mut self, process: &Arc<Process>, at: Steady, now: Moment, alerts: &mut Vec<Alert>) -> Actor {
        if let Some((known, actor)) = self.programs.by_process.get(&process.key)
            && (Arc::ptr_eq(known, process) || **known == **process)
        {
            return *actor;
        }
        let (program, is_sure) = self.identify(process, at, now, alerts);
        let is_anonymous = process.script.is_none() && is_interpreter(&process.executable);
        let actor = Actor { program, pid: if is_anonymous { process.key.pid } else { 0 } };
        if self.programs.by_process.len() >= MAX_PROCESSES {
            self.programs.by_process.clear();
        }
        if is_sure {
            self.programs.by_process.insert(process.key, (process.clone(), actor));
        }
        actor
    }

    /// The program, and whether that will not change with what is known now.
    fn identify(
        &mut self,
        process: &Arc<Process>,
        at: Steady,
        now: Moment,
        alerts: &mut Vec<Alert>,
    ) -> (ProgramId, bool) {
        let name = program_name(process);
        let hash = sha256(process);
        let Some(program) = self.find(&name, hash) else {
            return (self.baseline.add_program(&name, new_row(process, at), Location::of(process)), true);
        };
        let verdict = self.ask_identity(program, process, at);
        let is_sure = verdict != Verdict::NeedMoreData;
        let found = match verdict {
            Verdict::Suspicious(finding) => {
                let is_stranger = finding.is_stranger;
                let is_learned = self.raise(*finding, now, alerts).is_learned();
                if is_stranger && !is_learned { self.stranger(&name, process, at) } else { program }
            }
            Verdict::Normal | Verdict::NeedMoreData => program,
        };
        if is_sure && found == program {
            self.learn_image(program, process);
        }
        (found, is_sure)
    }

    /// The program of a name that ran this image before, else the latest of the name.
    fn find(&self, name: &str, hash: Option<&Arc<str>>) -> Option<ProgramId> {
        let ids = self.baseline.named(name);
        let ran = |id: &&ProgramId| {
            self.baseline.program(**id).is_some_and(|known| hash.is_some_and(|hash| known.row.images.contains(hash)))
        };
        ids.iter().rev().find(ran).or(ids.last()).copied()
    }

    fn ask_identity(&mut self, program: ProgramId, process: &Arc<Process>, at: Steady) -> Verdict {
        let last_seen = self.baseline.program(program).map(|known| known.row.last_seen).unwrap_or(at);
        let sight = ProgramSight { program, process, now: at, last_seen };
        let mut verdict = Verdict::Normal;
        for detector in &mut self.detectors {
            let said = detector.see_program(&sight, &self.baseline, &self.settings);
            if detector.rule() == RuleId::IdentityChange {
                verdict = said;
            }
        }
        verdict
    }

    /// A program that took over another's name: it starts with nothing, and its alert is open.
    pub(super) fn stranger(&mut self, name: &Arc<str>, process: &Process, at: Steady) -> ProgramId {
        let id = self.baseline.add_program(name, new_row(process, at), Location::of(process));
        self.baseline.start_own_window(id, at);
        let until = at.plus(self.settings.open_alert);
        if let Some(program) = self.baseline.program_mut(id) {
            program.row.alert_open_until = Some(until);
        }
        let actor = Actor { program: id, pid: 0 };
        self.groups.raised(About { rule: RuleId::IdentityChange, actor, label: None, pid: 0, at }, until);
        id
    }

    /// Takes an image, its place and its package as the program's own.
    pub(super) fn learn_image(&mut self, id: ProgramId, process: &Process) {
        let hash = sha256(process);
        let package = package_of(process);
        let location = Location::of(process);
        let Some(known) = self.baseline.program(id) else { return };
        let is_known = hash.is_none_or(|hash| known.row.images.contains(hash));
        let is_same_package = package.is_none() || known.row.package == package;
        if is_known && is_same_package && known.location == location {
            return;
        }
        let Some(program) = self.baseline.program_mut(id) else { return };
        program.location = location;
        program.row.package = package.or(program.row.package.take());
        if let Some(hash) = hash.filter(|_| !is_known) {
            program.row.images.push(hash.clone());
            let excess = program.row.images.len().saturating_sub(MAX_IMAGES);
            program.row.images.drain(..excess);
        }
    }

    /// A package manager's egress is an update run.
    pub(super) fn note_update_run(&mut self, process: &Process) {
        if is_package_manager(&process.executable) {
            self.baseline.learning.note_update();
        }
    }
}

/// The known hash of what identifies a process.
pub(super) fn sha256(process: &Process) -> Option<&Arc<str>> {
    match identity_hash(process) {
        ImageHash::Sha256(hash) => Some(hash),
        ImageHash::Pending | ImageHash::Unreadable(_) => None,
    }
}

/// Owner and version of an image, or of the script that runs: its package, else its container's image.
pub(super) fn package_of(process: &Process) -> Option<(Arc<str>, Arc<str>)> {
    if let Some(package) = process.vouching_package() {
        return Some((format!("{}:{}", package.manager, package.name).into(), package.version.clone()));
    }
    process.container_image.as_ref().map(|image| ("image".into(), image.clone()))
}

fn new_row(process: &Process, at: Steady) -> ProgramRow {
    ProgramRow {
        executable: process.executable.clone(),
        images: sha256(process).cloned().into_iter().collect(),
        package: package_of(process),
        last_seen: at,
        ..ProgramRow::default()
    }
}
