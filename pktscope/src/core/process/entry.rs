//! One process in the table.

use std::sync::Arc;

use super::{
    ImageHash, Process, ProcessKey,
    image::{Context, Image},
    strings::Strings,
};
use crate::core::{
    effect::{LookupDepth, ProcessLookup},
    event::{ProcessFacts, Stamp},
    time::BootTime,
};

/// Earlier images of one process that are kept; a chain of wrappers (`sh`, `env`, `nice`, …) is rarely longer.
const MAX_PREVIOUS: usize = 4;

/// An image that an exec replaced.
pub(super) struct Previous {
    /// [`Entry::image_number`] of it.
    pub number: u32,
    pub replaced_at: BootTime,
    pub comm: Arc<str>,
    pub image: Arc<Image>,
    pub asked: Option<LookupDepth>,
    /// Made when first needed.
    pub process: Option<Arc<Process>>,
}

/// Whether the world was told of a process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Announcement {
    /// It owns no socket and is no ancestor of one that does.
    NotNeeded,
    /// As soon as its facts are there, or at this time without them.
    DueBy(BootTime),
    Done,
}

/// A process: what it runs is shared with its forks.
pub(super) struct Entry {
    /// As exact as it was ever given.
    pub key: ProcessKey,
    pub parent: Option<ProcessKey>,
    pub uid: Option<u32>,
    pub cgroup_id: Option<u64>,
    pub comm: Arc<str>,
    pub image: Arc<Image>,
    /// Execs seen, so that an answer about an earlier image is not taken for this one's.
    pub image_number: u32,
    pub context: Arc<Context>,
    /// The parent's path when this process was forked; the parent may exec, or be forgotten.
    pub parent_image: Option<Arc<Image>>,
    /// Made when first needed, and again when a fact changed.
    pub process: Option<Arc<Process>>,
    /// Oldest first.
    pub previous: Vec<Previous>,
    /// The process as another user, and what it was made from: a server may have made sockets before it gave up its
    /// rights, and others after.
    pub other_user: Option<(Arc<Process>, Arc<Process>)>,
    pub is_awaiting_user: bool,
    pub is_kernel_thread: bool,
    pub is_agent: bool,
    pub asked: Option<LookupDepth>,
    pub is_answered: bool,
    pub announcement: Announcement,
    pub ended: Option<(BootTime, i32)>,
    pub last_used: BootTime,
}

impl Entry {
    pub(super) fn new(key: ProcessKey, now: BootTime) -> Self {
        Self {
            key,
            parent: None,
            uid: None,
            cgroup_id: None,
            comm: "".into(),
            image: Arc::default(),
            image_number: 0,
            context: Arc::default(),
            parent_image: None,
            process: None,
            previous: Vec::new(),
            other_user: None,
            is_awaiting_user: false,
            is_kernel_thread: false,
            is_agent: false,
            asked: None,
            is_answered: false,
            announcement: Announcement::NotNeeded,
            ended: None,
            last_used: now,
        }
    }

    /// Whether all that tells the program is known, its hash too, or will not become known.
    pub(super) fn is_settled(&self) -> bool {
        self.is_kernel_thread || self.is_answered && self.image.facts.hash != ImageHash::Pending
    }

    /// The process as a stamp shows it, where it has been told of, is still what it was at `at`, and the stamp says
    /// nothing new.
    pub(super) fn settled_at(&self, stamp: &Stamp, at: BootTime) -> Option<Arc<Process>> {
        let process = self.process.as_ref()?;
        let is_exact = stamp.key.started_at == self.key.started_at && self.key.started_at == process.key.started_at;
        let is_told = self.announcement == Announcement::Done && !self.is_awaiting_user;
        let is_same = process.uid == Some(stamp.uid) && self.uid.is_some() && self.cgroup_id.is_some();
        let is_of_then = self.previous.last().is_none_or(|last| last.replaced_at <= at);
        (is_exact && is_told && is_same && is_of_then).then(|| process.clone())
    }

    /// Puts a new image in place; the old one stays, for the sockets that it used.
    pub(super) fn replace_image(&mut self, image: Image, comm: Arc<str>, at: BootTime) {
        let image = std::mem::replace(&mut self.image, Arc::new(image));
        let comm = std::mem::replace(&mut self.comm, comm);
        let process = self.process.take();
        let (number, asked) = (self.image_number, self.asked.take());
        if image.number != 0 || process.is_some() {
            self.previous.push(Previous { number, replaced_at: at, comm, image, asked, process });
        }
        if self.previous.len() > MAX_PREVIOUS {
            self.previous.remove(0);
        }
        self.image_number = self.image_number.wrapping_add(1);
        self.is_answered = false;
    }

    /// Forgets the earlier images that nobody asked for.
    pub(super) fn drop_unused_previous(&mut self) {
        self.previous.retain(|one| one.process.is_some());
        self.previous.shrink_to_fit();
    }

    /// The process as others see it.
    pub(super) fn process(&mut self, boot_id: &str) -> Arc<Process> {
        if self.process.is_none() {
            self.process = Some(Arc::new(self.build(&self.comm, &self.image, boot_id)));
        }
        self.process.clone().unwrap_or_default()
    }

    /// The process as it was at a time, where that is an earlier image that is still known; with the question to ask
    /// about it where that is still to be asked.
    pub(super) fn previous_at(&mut self, at: BootTime, boot_id: &str) -> Option<(Arc<Process>, Option<ProcessLookup>)> {
        let index = self.previous.iter().position(|previous| at < previous.replaced_at)?;
        let previous = &self.previous[index];
        let is_to_ask = previous.asked < Some(LookupDepth::Full);
        let question = is_to_ask
            .then(|| self.question_about((&previous.comm, &previous.image), previous.number, LookupDepth::Full));
        let process = match &previous.process {
            Some(process) => process.clone(),
            None => Arc::new(self.build(&previous.comm, &previous.image, boot_id)),
        };
        self.previous[index].asked = Some(LookupDepth::Full);
        self.previous[index].process = Some(process.clone());
        Some((process, question))
    }

    /// Takes an answer about an earlier image; `None` where that is forgotten, or nobody saw it.
    pub(super) fn apply_to_previous(
        &mut self,
        facts: &ProcessFacts,
        strings: &mut Strings,
        boot_id: &str,
    ) -> Option<Arc<Process>> {
        let index = self.previous.iter().position(|previous| previous.number == facts.image)?;
        let image = Arc::new(self.previous[index].image.updated(facts, strings));
        let process = self.previous[index].process.is_some();
        let process = process.then(|| Arc::new(self.build(&self.previous[index].comm, &image, boot_id)));
        self.previous[index].image = image;
        self.previous[index].process.clone_from(&process);
        process
    }

    fn build(&self, comm: &Arc<str>, image: &Image, boot_id: &str) -> Process {
        let context = &self.context;
        let parent_path = self.parent_image.as_ref().map(|parent| parent.path().clone());
        Process {
            key: self.key,
            entity_id: self.key.entity_id(boot_id),
            comm: comm.clone(),
            executable: image.path().clone(),
            file: image.file,
            hash: image.facts.hash.clone(),
            package: image.facts.package.clone(),
            script: image.facts.script.clone(),
            command_line: image.command_line(),
            uid: self.uid,
            user: context.user.clone(),
            parent: self.parent,
            parent_executable: parent_path.filter(|path| !path.is_empty()),
            container_id: context.container_id.clone(),
            container_image: context.container_image.clone(),
            cgroup_id: self.cgroup_id,
            cgroup_path: context.cgroup_path.clone(),
            missing: image.facts.missing.clone(),
            is_agent: self.is_agent,
        }
    }

    /// A process of this entry as another user than its own.
    pub(super) fn as_user(&mut self, process: Arc<Process>, uid: u32, user: Option<Arc<str>>) -> Arc<Process> {
        if let Some((own, other)) = &self.other_user
            && Arc::ptr_eq(own, &process)
            && (other.uid, &other.user) == (Some(uid), &user)
        {
            return other.clone();
        }
        let other = Arc::new(Process { uid: Some(uid), user, ..process.as_ref().clone() });
        self.other_user = Some((process, other.clone()));
        other
    }

    /// Makes the process anew after a change; `None` where nobody has seen it, or nothing that shows changed.
    pub(super) fn rebuild(&mut self, boot_id: &str) -> Option<Arc<Process>> {
        let old = self.process.as_ref()?;
        let new = self.build(&self.comm, &self.image, boot_id);
        // Keys are equal also where one is more exact.
        if new == **old && new.key.started_at == old.key.started_at {
            return None;
        }
        let new = Arc::new(new);
        self.process = Some(new.clone());
        Some(new)
    }

    /// Takes over what its parent's answers brought since the fork, where both still run what they ran then.
    pub(super) fn refresh(&mut self, parent: &Arc<Image>) {
        if !self.is_answered && self.image.number == parent.number {
            self.image = parent.clone();
        }
        if self.parent_image.as_ref().is_none_or(|known| known.number == parent.number) {
            self.parent_image = Some(parent.clone());
        }
    }

    /// The question to ask about it.
    pub(super) fn question(&self, depth: LookupDepth) -> ProcessLookup {
        self.question_about((&self.comm, &self.image), self.image_number, depth)
    }

    fn question_about(&self, (comm, image): (&Arc<str>, &Image), number: u32, depth: LookupDepth) -> ProcessLookup {
        ProcessLookup {
            key: self.key,
            image: number,
            image_at: image.at,
            depth,
            executable: image.executable.clone().unwrap_or_default(),
            comm: comm.clone(),
            filename: image.filename.clone(),
            raw_filename: image.raw_filename.clone(),
            file: image.file,
            folder: image.folder,
            script: image.script_path(),
            image_name: image.name.clone(),
            arguments: image.arguments.clone(),
            parent: self.parent,
            cgroup_id: self.cgroup_id.unwrap_or(0),
            uid: self.uid,
        }
    }
}
