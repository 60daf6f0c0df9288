//! What a process runs, and where it runs: the parts of a process that its forks share.

use std::sync::Arc;

use super::{FileId, ImageHash, Package, Script, strings::Strings};
use crate::core::{
    event::{Exec, ProcessFacts, Running},
    time::BootTime,
};

/// An image in memory; a fork shares it, an exec brings a new one.
#[derive(Clone, Default)]
pub(super) struct Image {
    /// Tells images apart; 0 where the image is not known. Later facts about an image keep its number.
    pub number: u64,
    /// When it was run; 0 where not known.
    pub at: BootTime,
    /// The path given to `execve`.
    pub filename: Arc<str>,
    /// The same in bytes, where it is not UTF-8.
    pub raw_filename: Option<Arc<[u8]>>,
    /// The image's absolute path, once an answer gave it.
    pub executable: Option<Arc<str>>,
    pub file: Option<FileId>,
    /// Where it was run from.
    pub folder: Option<FileId>,
    /// The last part of its own path; empty where not known.
    pub name: Arc<str>,
    /// Each ended by a NUL.
    pub arguments: Arc<str>,
    pub has_all_arguments: bool,
    pub facts: ImageFacts,
}

/// What only user space can find out about an image.
#[derive(Clone, Default)]
pub(super) struct ImageFacts {
    pub hash: ImageHash,
    pub package: Option<Arc<Package>>,
    pub script: Option<Arc<Script>>,
    pub command_line: Option<Arc<str>>,
    pub missing: Option<Arc<str>>,
}

/// Where a process runs: user and container.
#[derive(Clone, Default)]
pub(super) struct Context {
    pub user: Option<Arc<str>>,
    pub container_id: Option<Arc<str>>,
    pub container_image: Option<Arc<str>>,
    pub cgroup_path: Option<Arc<str>>,
}

/// The longest command line that is kept, in bytes; the kernel's record holds at most about a quarter of that, `/proc`
/// gives up to 2 MiB.
const MAX_COMMAND_LINE_BYTES: usize = 4096;

impl Image {
    /// The absolute path of its script; empty where there is none, or it is not known.
    pub(super) fn script_path(&self) -> Arc<str> {
        let script = self.facts.script.as_ref().map(|script| &script.path);
        script.filter(|path| path.starts_with('/')).cloned().unwrap_or_default()
    }

    pub(super) fn of_exec(number: u64, exec: &Exec, executable: Option<Arc<str>>, strings: &mut Strings) -> Self {
        Self {
            number,
            at: exec.at,
            filename: strings.share(&exec.filename),
            raw_filename: exec.raw_filename.clone(),
            executable,
            file: Some(exec.file),
            folder: exec.folder,
            name: strings.share(&exec.image_name),
            arguments: strings.share(&terminated(&exec.arguments)),
            has_all_arguments: exec.has_all_arguments,
            facts: ImageFacts::default(),
        }
    }

    pub(super) fn of_running(number: u64, running: &Running, strings: &mut Strings) -> Self {
        let is_readable = !running.executable.is_empty();
        Self {
            number,
            at: BootTime(0),
            filename: "".into(),
            raw_filename: None,
            executable: is_readable.then(|| strings.share(&running.executable)),
            file: running.file,
            folder: None,
            name: "".into(),
            arguments: strings.share(&terminated(&running.arguments)),
            has_all_arguments: true,
            facts: ImageFacts::default(),
        }
    }

    /// The path to show: resolved, else as given to `execve`.
    pub(super) fn path(&self) -> &Arc<str> {
        self.executable.as_ref().unwrap_or(&self.filename)
    }

    /// Arguments joined by a space; an ellipsis stands for those that the record had no room for.
    pub(super) fn command_line(&self) -> Arc<str> {
        if let Some(known) = &self.facts.command_line {
            return known.clone();
        }
        let mut line = self.arguments.trim_end_matches('\0').replace('\0', " ");
        if !self.has_all_arguments && !line.is_empty() {
            line.push_str(" …");
        }
        line.into()
    }

    /// With an answer's facts; a `None` changes nothing.
    pub(super) fn updated(&self, facts: &ProcessFacts, strings: &mut Strings) -> Self {
        let mut image = self.clone();
        replace(&mut image.executable, strings.share_some(facts.executable.as_ref()));
        image.file = image.file.or(facts.file);
        let known = &mut image.facts;
        known.hash = facts.hash.as_ref().map_or(known.hash.clone(), |hash| known.hash.updated(hash));
        replace(&mut known.package, facts.package.clone());
        let script = facts.script.as_ref().map(|script| later_script(known.script.as_ref(), script));
        replace(&mut known.script, script);
        let line = facts.command_line.as_deref().map(|line| Arc::from(bounded(line)));
        replace(&mut known.command_line, strings.share_some(line.as_ref()));
        replace(&mut known.missing, strings.share_some(facts.missing.as_ref()));
        image
    }
}

impl Context {
    pub(super) fn updated(&self, facts: &ProcessFacts, strings: &mut Strings) -> Self {
        let mut context = self.clone();
        replace(&mut context.user, strings.share_some(facts.user.as_ref()));
        replace(&mut context.container_id, strings.share_some(facts.container_id.as_ref()));
        replace(&mut context.container_image, strings.share_some(facts.container_image.as_ref()));
        replace(&mut context.cgroup_path, strings.share_some(facts.cgroup_path.as_ref()));
        context
    }
}

fn replace<T>(known: &mut Option<T>, later: Option<T>) {
    if later.is_some() {
        *known = later;
    }
}

/// A script's later answer; its known hash stays where the same path could not be read again.
fn later_script(known: Option<&Arc<Script>>, later: &Arc<Script>) -> Arc<Script> {
    match known {
        // Once the process has ended, its working directory is gone and the path is as it was written.
        Some(known) if known.path == later.path || is_unresolved(&later.path, &known.path) => {
            let package = later.package.clone().or_else(|| known.package.clone());
            Arc::new(Script { path: known.path.clone(), hash: known.hash.updated(&later.hash), package })
        }
        _ => later.clone(),
    }
}

/// Whether a path is what was written of one that is known in full.
fn is_unresolved(written: &str, full: &str) -> bool {
    let name = written.rsplit('/').next().unwrap_or(written);
    !written.starts_with(['/', '-']) && full.starts_with('/') && full.rsplit('/').next() == Some(name)
}

fn terminated(arguments: &[Arc<str>]) -> Arc<str> {
    let joined: String = arguments.iter().flat_map(|argument| [&**argument, "\0"]).collect();
    bounded(&joined).into()
}

/// The longest start of `text` that is kept, cut between characters.
fn bounded(text: &str) -> &str {
    let mut end = text.len().min(MAX_COMMAND_LINE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
