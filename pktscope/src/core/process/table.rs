//! The table of processes: fed by execs, forks, exits and `/proc`, asked by sockets' stamps.
//!
//! In: [`Exec`], [`Fork`], [`Exit`], [`Running`] and [`ProcessFacts`], in any order and with gaps. Out: an
//! [`Arc<Process>`] for a stamp, and effects: look-ups, and the start, change and end of those processes that own sockets
//! or are ancestors of one that does. It never looks anything up itself and never grows past its limits.

mod announce;
mod forget;

use std::{
    collections::{BTreeSet, VecDeque},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use ahash::RandomState;
use hashbrown::HashMap;
use lru::LruCache;

use super::{
    FileId, Process, ProcessKey,
    entry::{Announcement, Entry},
    image::{Context, Image},
    interpreter,
    strings::{Strings, fixed_hasher},
};
use crate::core::{
    effect::{Effect, Lookup, LookupDepth, ProcessLookup},
    event::{Exec, Exit, Fork, ProcessFacts, Running, Stamp},
    time::BootTime,
};

/// Files whose path is remembered; a host runs a few hundred different ones.
const MAX_KNOWN_PATHS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Users whose name is remembered.
const MAX_USERS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// How long an image that was replaced by an exec is kept without being asked for: sockets that it used are reported
/// within a few sweeps of one second.
const KEEP_REPLACED: Duration = Duration::from_secs(10);

/// Bounds of a [`ProcessTable`].
#[derive(Clone, Copy, Debug)]
pub struct ProcessLimits {
    /// Processes, ended ones included.
    pub processes: usize,
    /// Of them, ended ones.
    pub ended: usize,
    /// How long an ended process is kept after its end or its last use.
    pub keep_ended: Duration,
    /// How long a process waits for its facts before it is announced without them.
    pub settle_timeout: Duration,
    /// The agent's own pid, which nobody else has while it runs.
    pub agent_pid: Option<u32>,
}

impl Default for ProcessLimits {
    fn default() -> Self {
        Self {
            processes: 131_072,
            ended: 16_384,
            keep_ended: Duration::from_secs(300),
            settle_timeout: Duration::from_secs(1),
            agent_pid: None,
        }
    }
}

/// What went wrong or was given up, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCounters {
    /// Processes whose end was only noticed when their pid came back.
    pub ends_missed: u64,
    /// Ended processes forgotten early because there were too many.
    pub evicted_ended: u64,
    /// Of them, those that owned a socket or are an ancestor of one that did.
    pub evicted_owners: u64,
    /// Live processes forgotten because the table was full.
    pub evicted_live: u64,
    /// Answers about an image that was replaced meanwhile; they go to that image while it is kept.
    pub stale_answers: u64,
    /// Answers about a process that is forgotten.
    pub unknown_answers: u64,
    /// Stamps of processes that no record had told of.
    pub unknown_stamps: u64,
}

/// See the module.
pub struct ProcessTable {
    boot_id: Arc<str>,
    limits: ProcessLimits,
    /// By rounded key.
    entries: HashMap<ProcessKey, Entry, RandomState>,
    /// The newest start tick of each pid.
    newest: HashMap<u32, BootTime, RandomState>,
    /// In the order of their coming, with keys that have gone since.
    arrivals: VecDeque<ProcessKey>,
    ended: BTreeSet<(BootTime, ProcessKey)>,
    due: BTreeSet<(BootTime, ProcessKey)>,
    replaced: VecDeque<(BootTime, ProcessKey)>,
    /// Resolved paths, by file and the name given to `execve`.
    paths: LruCache<(FileId, Arc<str>), Arc<str>, RandomState>,
    users: LruCache<u32, Option<Arc<str>>, RandomState>,
    strings: Strings,
    images: u64,
    counters: ProcessCounters,
}

impl ProcessTable {
    /// An empty table of the boot with this id (`/proc/sys/kernel/random/boot_id`).
    pub fn new(boot_id: &str, limits: ProcessLimits) -> Self {
        Self {
            boot_id: boot_id.into(),
            limits,
            entries: HashMap::with_hasher(fixed_hasher()),
            newest: HashMap::with_hasher(fixed_hasher()),
            arrivals: VecDeque::new(),
            ended: BTreeSet::new(),
            due: BTreeSet::new(),
            replaced: VecDeque::new(),
            paths: LruCache::with_hasher(MAX_KNOWN_PATHS, fixed_hasher()),
            users: LruCache::with_hasher(MAX_USERS, fixed_hasher()),
            strings: Strings::new(),
            images: 0,
            counters: ProcessCounters::default(),
        }
    }

    /// Takes a process that was there before the agent; what the kernel told of it meanwhile stays.
    pub fn on_running(&mut self, running: &Running, now: BootTime, effects: &mut Vec<Effect>) {
        let number = self.next_image();
        let image = Image::of_running(number, running, &mut self.strings);
        let comm = self.strings.share(&running.comm);
        let entry = self.admit(running.key, now, effects);
        entry.parent = entry.parent.or(running.parent);
        entry.uid = entry.uid.or(running.uid);
        if entry.image.number == 0 {
            entry.comm = comm;
            entry.image = Arc::new(image);
            entry.is_kernel_thread = running.is_kernel_thread;
        }
    }

    /// Takes a new image of a process.
    pub fn on_exec(&mut self, exec: &Exec, effects: &mut Vec<Effect>) {
        let path = self.paths.get(&(exec.file, exec.filename.clone())).cloned();
        let number = self.next_image();
        let image = Image::of_exec(number, exec, path.clone(), &mut self.strings);
        let comm = self.strings.share(&exec.comm);
        let entry = self.admit(exec.key, exec.at, effects);
        entry.parent = entry.parent.or(Some(exec.parent));
        entry.set_user(exec.uid, exec.cgroup_id);
        entry.replace_image(image, comm, exec.at);
        entry.is_kernel_thread = false;
        let is_needed = entry.announcement != Announcement::NotNeeded;
        let key = entry.key.rounded();
        self.replaced.push_back((exec.at, key));
        if is_needed {
            self.ask(key, LookupDepth::Full, effects);
        } else if path.is_none() || needs_directory(exec) {
            self.ask(key, LookupDepth::Image, effects);
        }
    }

    /// Takes a child, which runs what its parent runs.
    pub fn on_fork(&mut self, fork: &Fork, effects: &mut Vec<Effect>) {
        let comm = self.strings.share(&fork.comm);
        let parent = self.entries.get(&fork.parent.rounded()).map(|parent| {
            let is_same_place = parent.uid == Some(fork.uid) && parent.cgroup_id == Some(fork.cgroup_id);
            (parent.image.clone(), is_same_place.then(|| parent.context.clone()), parent.is_kernel_thread)
        });
        let entry = self.admit(fork.key, fork.at, effects);
        entry.parent = Some(fork.parent);
        entry.set_user(fork.uid, fork.cgroup_id);
        if entry.image.number != 0 {
            return;
        }
        entry.comm = comm;
        let Some((image, context, is_kernel_thread)) = parent else { return };
        entry.parent_image = Some(image.clone());
        entry.image = image;
        entry.context = context.unwrap_or_default();
        entry.is_kernel_thread = is_kernel_thread;
    }

    /// Takes a process's end; it stays for a while, as its sockets are reported later.
    pub fn on_exit(&mut self, exit: &Exit, effects: &mut Vec<Effect>) {
        self.end(exit.key.rounded(), exit.at, exit.status, effects);
        while self.ended.len() > self.limits.ended {
            self.forget_oldest_ended(effects);
        }
    }

    /// Takes what user space found out; gives the process where that changed what is shown of it.
    pub fn on_facts(&mut self, facts: &ProcessFacts, now: BootTime, effects: &mut Vec<Effect>) -> Option<Arc<Process>> {
        let key = facts.key.rounded();
        let Some(entry) = self.entries.get_mut(&key) else {
            self.counters.unknown_answers += 1;
            return None;
        };
        entry.is_awaiting_user = false;
        if let Some(uid) = facts.uid {
            self.users.put(uid, self.strings.share_some(facts.user.as_ref()));
        }
        if entry.image_number != facts.image {
            self.counters.stale_answers += 1;
            return entry.apply_to_previous(facts, &mut self.strings, &self.boot_id);
        }
        entry.apply(facts, &mut self.strings);
        if let (Some(file), Some(path)) = (entry.image.file, &facts.executable)
            && facts.file == Some(file)
            && !entry.image.filename.is_empty()
        {
            self.paths.put((file, entry.image.filename.clone()), path.clone());
        }
        self.show(key, now, effects)
    }

    /// The process of a stamp, made known and asked about where that is needed.
    pub fn lookup_or_request(&mut self, stamp: &Stamp, now: BootTime, effects: &mut Vec<Effect>) -> Arc<Process> {
        if let Some(process) = self.known(stamp, now, now) {
            return process;
        }
        let key = self.use_stamp(stamp, now, effects);
        let process = self.materialise(key).unwrap_or_default();
        self.as_stamped(process, stamp, now, effects)
    }

    /// The process of a stamp as it was at `at`, where nothing is left to be asked or told.
    fn known(&mut self, stamp: &Stamp, at: BootTime, now: BootTime) -> Option<Arc<Process>> {
        let entry = self.entries.get_mut(&stamp.key.rounded())?;
        entry.last_used = now;
        entry.settled_at(stamp, at)
    }

    /// As [`Self::lookup_or_request`], but the image that the process ran at `at`, where an exec replaced it since.
    pub fn lookup_at(&mut self, stamp: &Stamp, at: BootTime, now: BootTime, effects: &mut Vec<Effect>) -> Arc<Process> {
        if let Some(process) = self.known(stamp, at, now) {
            return process;
        }
        let key = self.use_stamp(stamp, now, effects);
        let previous = self.entries.get_mut(&key).and_then(|entry| entry.previous_at(at, &self.boot_id));
        let (process, question) = previous.unwrap_or_else(|| (self.materialise(key).unwrap_or_default(), None));
        effects.extend(question.map(|question| Effect::Lookup(Lookup::Process(Box::new(question)))));
        self.as_stamped(process, stamp, now, effects)
    }

    /// The process of a key, where it is known.
    pub fn get(&mut self, key: ProcessKey) -> Option<Arc<Process>> {
        self.materialise(key.rounded())
    }

    /// Whether all that tells the program is known, its hash too, or will not become known: until then a flow's first
    /// report waits, for at most [`ProcessLimits::settle_timeout`].
    pub fn is_settled(&self, key: ProcessKey) -> bool {
        self.entries.get(&key.rounded()).is_none_or(|entry| {
            let is_told = entry.announcement == Announcement::Done;
            !entry.is_awaiting_user && (is_told || entry.is_settled())
        })
    }

    /// Whether the world was told of it, with all that was to be found out.
    pub fn is_told(&self, key: ProcessKey) -> bool {
        let entry = self.entries.get(&key.rounded());
        entry.is_some_and(|entry| !entry.is_awaiting_user && entry.announcement == Announcement::Done)
    }

    /// Whether it is a thread of the kernel, which is no program.
    pub fn is_kernel_thread(&self, key: ProcessKey) -> bool {
        self.entries.get(&key.rounded()).is_some_and(|entry| entry.is_kernel_thread)
    }

    /// Announces what waited long enough and forgets what ended long ago; to be called about once a second.
    pub fn tick(&mut self, now: BootTime, effects: &mut Vec<Effect>) {
        while let Some(next) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&next);
            self.stop_waiting(next.1, effects);
        }
        while let Some((_, key)) = self.ended.first().copied().filter(|(at, _)| self.is_past_keeping(*at, now)) {
            self.forget_ended(key, now, effects);
        }
        while let Some((_, key)) = self.replaced.front().copied().filter(|(at, _)| KEEP_REPLACED <= now.since(*at)) {
            self.replaced.pop_front();
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.drop_unused_previous();
            }
        }
    }

    /// Processes known, ended ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no process is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What went wrong or was given up, since the start.
    pub fn counters(&self) -> ProcessCounters {
        self.counters
    }

    pub(super) fn parent_of(&self, key: ProcessKey) -> Option<ProcessKey> {
        let parent = self.entries.get(&key)?.parent?.rounded();
        self.entries.contains_key(&parent).then_some(parent)
    }

    /// The process of a rounded key, with what its parent's answers brought.
    pub(super) fn materialise(&mut self, key: ProcessKey) -> Option<Arc<Process>> {
        if let Some(process) = &self.entries.get(&key)?.process {
            return Some(process.clone());
        }
        self.refresh(key);
        self.entries.get_mut(&key).map(|entry| entry.process(&self.boot_id))
    }

    fn refresh(&mut self, key: ProcessKey) {
        let parent =
            self.parent_of(key).and_then(|parent| self.entries.get(&parent)).map(|parent| parent.image.clone());
        if let (Some(parent), Some(entry)) = (parent, self.entries.get_mut(&key)) {
            entry.refresh(&parent);
        }
    }

    fn next_image(&mut self) -> u64 {
        self.images += 1;
        self.images
    }

    /// The entry of a key, new where it is not known; a pid that comes back ends its former holder.
    fn admit(&mut self, key: ProcessKey, at: BootTime, effects: &mut Vec<Effect>) -> &mut Entry {
        let rounded = key.rounded();
        if !self.entries.contains_key(&rounded) {
            self.make_room(effects);
            self.end_former_holder(rounded, at, effects);
            self.arrivals.push_back(rounded);
        }
        let entry = self.entries.entry(rounded).or_insert_with(|| Entry::new(key, at));
        entry.is_agent = self.limits.agent_pid == Some(key.pid);
        if entry.key.started_at == rounded.started_at {
            entry.key = key;
        }
        entry
    }

    fn end_former_holder(&mut self, key: ProcessKey, at: BootTime, effects: &mut Vec<Effect>) {
        let newest = self.newest.entry(key.pid).or_insert(key.started_at);
        let former = ProcessKey { pid: key.pid, started_at: *newest };
        *newest = former.started_at.max(key.started_at);
        if former.started_at < key.started_at && self.entries.get(&former).is_some_and(|entry| entry.ended.is_none()) {
            self.counters.ends_missed += 1;
            self.end(former, at, 0, effects);
        }
    }

    fn end(&mut self, key: ProcessKey, at: BootTime, status: i32, effects: &mut Vec<Effect>) {
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.ended.is_none()) else { return };
        entry.ended = Some((at, status));
        if entry.announcement == Announcement::Done {
            effects.push(Effect::ProcessEnded(entry.process(&self.boot_id), at, status));
        }
        self.ended.insert((at, key));
    }

    /// The rounded key of a stamp's process, which is needed from now on.
    fn use_stamp(&mut self, stamp: &Stamp, now: BootTime, effects: &mut Vec<Effect>) -> ProcessKey {
        let key = stamp.key.rounded();
        if !self.entries.contains_key(&key) {
            self.counters.unknown_stamps += 1;
        }
        let entry = self.admit(stamp.key, now, effects);
        entry.last_used = now;
        let is_more_exact =
            entry.process.as_ref().is_some_and(|process| process.key.started_at != entry.key.started_at);
        let is_news = entry.uid.is_none() || entry.cgroup_id.is_none() || is_more_exact;
        entry.uid = entry.uid.or(Some(stamp.uid));
        entry.cgroup_id = entry.cgroup_id.or(Some(stamp.cgroup_id));
        let announcement = entry.announcement;
        if is_news {
            self.tell_change(key, effects);
        }
        if announcement == Announcement::NotNeeded {
            self.need(key, now, effects);
        }
        key
    }

    /// A stamp's process as the user it had then, which may not be the one it started as.
    fn as_stamped(
        &mut self,
        process: Arc<Process>,
        stamp: &Stamp,
        now: BootTime,
        effects: &mut Vec<Effect>,
    ) -> Arc<Process> {
        let key = stamp.key.rounded();
        let Some(entry) = self.entries.get_mut(&key).filter(|_| process.uid != Some(stamp.uid)) else {
            return process;
        };
        let name = self.users.get(&stamp.uid).cloned();
        if name.is_none() && !entry.is_awaiting_user {
            entry.is_awaiting_user = true;
            let question = ProcessLookup { uid: Some(stamp.uid), ..entry.question(LookupDepth::Image) };
            effects.push(Effect::Lookup(Lookup::Process(Box::new(question))));
            self.due.insert((now.plus(self.limits.settle_timeout), key));
        }
        entry.as_user(process, stamp.uid, name.flatten())
    }
}

/// Whether the script's path can only be told while the process can still be asked for its working directory.
fn needs_directory(exec: &Exec) -> bool {
    let arguments: Vec<&str> = exec.arguments.iter().map(AsRef::as_ref).collect();
    let is_relative = |path: &str| !path.starts_with('/');
    match interpreter::program_of(&exec.filename, &arguments) {
        Some(interpreter::Program::File(path)) => is_relative(path),
        _ => interpreter::is_script_run(&exec.filename, &arguments) && is_relative(&exec.filename),
    }
}

impl Entry {
    fn set_user(&mut self, uid: u32, cgroup_id: u64) {
        if self.uid != Some(uid) || self.cgroup_id != Some(cgroup_id) {
            self.context = Arc::new(Context::default());
        }
        self.uid = Some(uid);
        self.cgroup_id = Some(cgroup_id);
    }

    fn apply(&mut self, facts: &ProcessFacts, strings: &mut Strings) {
        self.image = Arc::new(self.image.updated(facts, strings));
        let is_about_own_user = facts.uid.is_none() || self.uid.is_none() || facts.uid == self.uid;
        let user = self.context.user.clone();
        let context = self.context.updated(facts, strings);
        self.context = Arc::new(if is_about_own_user { context } else { Context { user, ..context } });
        self.parent = self.parent.or(facts.parent);
        self.uid = self.uid.or(facts.uid);
        self.is_kernel_thread |= facts.is_kernel_thread;
        self.is_answered = true;
        if let Some(comm) = facts.comm.as_ref().filter(|_| self.comm.is_empty()) {
            self.comm = strings.share(comm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::process::{ImageHash, Script};

    const SECOND: u64 = 1_000_000_000;
    const BOOT: &str = "f3b0c442-98fc-1c14-9afb-f4c8996fb924";

    fn key(pid: u32, second: u64) -> ProcessKey {
        ProcessKey { pid, started_at: BootTime(second * SECOND + 1_234_567) }
    }

    fn exec(key: ProcessKey, parent: ProcessKey, filename: &str, arguments: &[&str]) -> Exec {
        Exec {
            key,
            at: key.started_at.plus(Duration::from_millis(1)),
            parent,
            uid: 1000,
            cgroup_id: 7,
            comm: filename.rsplit('/').next().unwrap().into(),
            filename: filename.into(),
            raw_filename: None,
            file: FileId { device: 1, inode: filename.len() as u64 },
            folder: None,
            arguments: arguments.iter().map(|argument| Arc::from(*argument)).collect(),
            image_name: "".into(),
            has_all_arguments: true,
        }
    }

    fn fork(key: ProcessKey, parent: ProcessKey) -> Fork {
        Fork { key, at: key.started_at, parent, uid: 1000, cgroup_id: 7, comm: "forked".into() }
    }

    fn stamp(key: ProcessKey) -> Stamp {
        Stamp { key, uid: 1000, cgroup_id: 7 }
    }

    fn facts(key: ProcessKey, image: u32, executable: &str) -> ProcessFacts {
        let hash = Some(ImageHash::Sha256("ab".into()));
        ProcessFacts { key, image, executable: Some(executable.into()), hash, ..Default::default() }
    }

    struct Bench {
        table: ProcessTable,
        effects: Vec<Effect>,
        now: BootTime,
    }

    impl Bench {
        fn new(limits: ProcessLimits) -> Self {
            Self { table: ProcessTable::new(BOOT, limits), effects: Vec::new(), now: BootTime(100 * SECOND) }
        }

        fn exec(&mut self, key: ProcessKey, parent: ProcessKey, filename: &str, arguments: &[&str]) {
            self.table.on_exec(&exec(key, parent, filename, arguments), &mut self.effects);
        }

        fn fork(&mut self, key: ProcessKey, parent: ProcessKey) {
            self.table.on_fork(&fork(key, parent), &mut self.effects);
        }

        fn exit(&mut self, key: ProcessKey) {
            self.table.on_exit(&Exit { key, at: self.now, status: 256 }, &mut self.effects);
        }

        fn answer(&mut self, facts: &ProcessFacts) -> Option<Arc<Process>> {
            self.table.on_facts(facts, self.now, &mut self.effects)
        }

        fn owner(&mut self, key: ProcessKey) -> Arc<Process> {
            self.table.lookup_or_request(&stamp(key), self.now, &mut self.effects)
        }

        fn wait(&mut self, seconds: u64) {
            self.now = self.now.plus(Duration::from_secs(seconds));
            self.table.tick(self.now, &mut self.effects);
        }

        /// What was told since the last call, one word each.
        fn told(&mut self) -> Vec<String> {
            let told = self.effects.drain(..).map(|effect| match effect {
                Effect::ProcessStarted(process) => format!("started {} {}", process.key.pid, process.executable),
                Effect::ProcessChanged(process) => format!("changed {} {}", process.key.pid, process.executable),
                Effect::ProcessEnded(process, _, status) => format!("ended {} {status}", process.key.pid),
                Effect::Lookup(Lookup::Process(question)) => format!("{:?}? {}", question.depth, question.key.pid),
                other => format!("{other:?}"),
            });
            told.collect()
        }
    }

    #[test]
    fn an_owner_and_its_ancestors_are_announced_once_when_their_facts_are_there() {
        let (init, shell, curl) = (key(1, 0), key(10, 5), key(11, 6));
        let mut bench = Bench::new(ProcessLimits::default());
        bench.exec(init, ProcessKey::default(), "/sbin/init", &["init"]);
        bench.exec(shell, init, "/bin/sh", &["sh"]);
        bench.fork(curl, shell);
        bench.exec(curl, shell, "/bin/curl", &["curl", "-s", "http://a"]);
        bench.effects.clear();

        let owner = bench.owner(curl);
        assert_eq!((&*owner.command_line, owner.parent), ("curl -s http://a", Some(shell)));
        assert_eq!(owner.parent_executable.as_deref(), Some("/bin/sh"));
        assert_eq!(bench.told(), ["Full? 1", "Full? 10", "Full? 11"]);
        bench.owner(curl);
        assert!(bench.told().is_empty(), "asked once");

        bench.answer(&facts(shell, 1, "/usr/bin/dash"));
        bench.answer(&facts(curl, 1, "/usr/bin/curl"));
        assert_eq!(bench.told(), ["started 10 /usr/bin/dash", "started 11 /usr/bin/curl"]);
        assert_eq!(bench.owner(curl).parent_executable.as_deref(), Some("/usr/bin/dash"));

        bench.wait(2);
        assert_eq!(bench.told(), ["started 1 /sbin/init"], "who is never answered for is announced as it is");
        bench.exit(curl);
        assert_eq!(bench.told(), ["ended 11 256"]);
    }

    #[test]
    fn a_process_is_settled_when_its_hash_is_there_or_will_not_come() {
        let child = key(11, 6);
        let mut bench = Bench::new(ProcessLimits::default());
        bench.exec(child, key(10, 5), "/bin/curl", &["curl"]);
        bench.owner(child);
        bench.effects.clear();
        assert!(!bench.table.is_settled(child));
        bench.answer(&ProcessFacts { hash: None, ..facts(child, 1, "/usr/bin/curl") });
        assert!(!bench.table.is_settled(child) && bench.told().is_empty());
        let hash = Some(ImageHash::Unreadable("gone".into()));
        bench.answer(&ProcessFacts { key: child, image: 1, hash, ..Default::default() });
        assert!(bench.table.is_settled(child));
        assert_eq!(bench.told(), ["started 11 /usr/bin/curl"]);
    }

    #[test]
    fn a_process_that_ended_before_its_facts_came_is_started_then_ended() {
        let (parent, child) = (key(10, 5), key(11, 6));
        let mut bench = Bench::new(ProcessLimits::default());
        bench.exec(child, parent, "./beacon", &["./beacon"]);
        bench.owner(child);
        bench.exit(child);
        bench.effects.clear();
        bench.answer(&facts(child, 1, "/tmp/beacon"));
        assert_eq!(bench.told(), ["started 11 /tmp/beacon", "ended 11 256"]);
    }

    #[test]
    fn an_exec_is_asked_about_at_once_until_its_path_is_known() {
        let parent = key(10, 5);
        let mut bench = Bench::new(ProcessLimits::default());
        bench.exec(key(11, 6), parent, "/bin/tool", &["tool"]);
        assert_eq!(bench.told(), ["Image? 11"]);
        let file = Some(FileId { device: 1, inode: 9 });
        bench.answer(&ProcessFacts { file, ..facts(key(11, 6), 1, "/usr/bin/tool") });
        bench.exec(key(12, 7), parent, "/bin/tool", &["tool"]);
        assert!(bench.told().is_empty(), "the path of this file is known");
        assert_eq!(&*bench.table.get(key(12, 7)).unwrap().executable, "/usr/bin/tool");
        bench.exec(key(13, 8), parent, "/bin/tool", &["python3", "relative.py"]);
        bench.exec(key(14, 8), parent, "./tools", &["/usr/bin/python3", "./tools"]);
        assert_eq!(bench.told(), ["Image? 14"], "a script needs the working directory of its process");
    }

    #[test]
    fn a_fork_runs_its_parents_image_and_an_exec_replaces_it() {
        let (parent, child) = (key(10, 5), key(11, 6));
        let mut bench = Bench::new(ProcessLimits::default());
        bench.exec(parent, key(1, 0), "/usr/sbin/server", &["server", "-d"]);
        bench.answer(&ProcessFacts {
            hash: Some(ImageHash::Sha256("ab".into())),
            ..facts(parent, 1, "/usr/sbin/server")
        });
        bench.fork(child, parent);
        let process = bench.table.get(child).unwrap();
        assert_eq!((&*process.executable, &*process.command_line), ("/usr/sbin/server", "server -d"));
        assert_eq!(process.hash, ImageHash::Sha256("ab".into()));
        bench.exec(child, parent, "/bin/date", &["date"]);
        let process = bench.table.get(child).unwrap();
        assert_eq!((&*process.executable, &process.hash), ("/bin/date", &ImageHash::Pending));
        assert_eq!(process.entity_id, child.entity_id(BOOT), "the process is the same");
    }

    #[test]
    fn an_earlier_image_owns_what_it_connected() {
        let (parent, child) = (key(10, 5), key(11, 6));
        let mut bench = Bench::new(ProcessLimits::default());
        let mut second = exec(child, parent, "/bin/nc", &["nc"]);
        second.at = child.started_at.plus(Duration::from_secs(3));
        bench.exec(child, parent, "/bin/bash", &["bash"]);
        bench.table.on_exec(&second, &mut bench.effects);
        let mut at = |seconds| {
            let at = child.started_at.plus(Duration::from_secs(seconds));
            bench.table.lookup_at(&stamp(child), at, BootTime(100 * SECOND), &mut bench.effects).executable.clone()
        };
        assert_eq!((&*at(1), &*at(4)), ("/bin/bash", "/bin/nc"));
        bench.wait(60);
        let at = child.started_at.plus(Duration::from_secs(1));
        let process = bench.table.lookup_at(&stamp(child), at, bench.now, &mut bench.effects);
        assert_eq!(&*process.executable, "/bin/bash", "an image that was asked for stays");
    }

    #[test]
    fn a_pid_that_comes_back_is_another_process() {
        let (first, second) = (key(11, 6), key(11, 60));
        let mut bench = Bench::new(ProcessLimits::default());
        bench.exec(first, key(10, 5), "/bin/first", &["first"]);
        bench.owner(first);
        bench.answer(&facts(first, 1, "/bin/first"));
        bench.effects.clear();
        bench.exec(second, key(10, 5), "/bin/other", &["other"]);
        assert_eq!(bench.told()[0], "ended 11 0", "its end was lost, its successor tells");
        assert_eq!(bench.table.counters().ends_missed, 1);
        assert_eq!(&*bench.table.get(first).unwrap().executable, "/bin/first");
        assert_eq!(&*bench.table.get(second).unwrap().executable, "/bin/other");
        assert_ne!(first.entity_id(BOOT), second.entity_id(BOOT));
    }

    #[test]
    fn start_times_of_the_kernel_and_of_proc_name_one_process() {
        let exact = key(11, 6);
        let mut bench = Bench::new(ProcessLimits::default());
        let running = Running {
            key: exact.rounded(),
            comm: "sshd".into(),
            executable: "/usr/sbin/sshd".into(),
            arguments: vec!["sshd".into(), "-D".into()],
            ..Default::default()
        };
        bench.table.on_running(&running, bench.now, &mut bench.effects);
        assert_eq!(bench.table.get(exact).unwrap().cgroup_id, None);
        let process = bench.owner(exact);
        assert_eq!(process.cgroup_id, Some(7), "the stamp knows what /proc did not show");
        assert_eq!((bench.table.len(), &*process.executable), (1, "/usr/sbin/sshd"));
        assert_eq!(process.key.started_at, exact.started_at, "the exact time is taken");
        assert_eq!(process.entity_id, exact.rounded().entity_id(BOOT), "the id does not depend on it");
    }

    #[test]
    fn an_answer_about_a_replaced_image_is_dropped() {
        let child = key(11, 6);
        let mut bench = Bench::new(ProcessLimits::default());
        bench.exec(child, key(10, 5), "/bin/a", &["a"]);
        bench.exec(child, key(10, 5), "/bin/bb", &["bb"]);
        assert!(bench.answer(&facts(child, 1, "/bin/a")).is_none());
        assert_eq!(bench.table.counters().stale_answers, 1);
        assert_eq!(&*bench.table.get(child).unwrap().executable, "/bin/bb");
    }

    #[test]
    fn an_answer_about_an_earlier_image_reaches_that_image() {
        let child = key(11, 6);
        let mut bench = Bench::new(ProcessLimits::default());
        bench.exec(child, key(10, 5), "/bin/bash", &["bash"]);
        bench.exec(child, key(10, 5), "/bin/nc", &["nc"]);
        bench.effects.clear();
        let owner = |bench: &mut Bench| {
            bench.table.lookup_at(&stamp(child), child.started_at, bench.now, &mut bench.effects).executable.clone()
        };
        assert_eq!(&*owner(&mut bench), "/bin/bash");
        let asked: Vec<u32> = bench
            .effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Lookup(Lookup::Process(question)) => Some(question.image),
                _ => None,
            })
            .collect();
        assert_eq!(asked, [2, 1], "both images are asked about");
        let changed = bench.answer(&facts(child, 1, "/usr/bin/bash")).unwrap();
        assert_eq!(&*changed.executable, "/usr/bin/bash");
        assert_eq!(&*owner(&mut bench), "/usr/bin/bash");
        assert_eq!(&*bench.table.get(child).unwrap().executable, "/bin/nc");
    }

    #[test]
    fn a_failure_to_read_changes_no_known_fact() {
        let child = key(11, 6);
        let mut bench = Bench::new(ProcessLimits::default());
        bench.exec(child, key(10, 5), "/usr/bin/python3", &["python3", "/x.py"]);
        let known = ImageHash::Sha256("ab".into());
        let script =
            |hash: &ImageHash| Some(Arc::new(Script { path: "/x.py".into(), hash: hash.clone(), package: None }));
        let (hash, user) = (Some(known.clone()), Some("ann".into()));
        let full = ProcessFacts { hash, user, script: script(&known), ..facts(child, 1, "/usr/bin/python3.11") };
        bench.answer(&full);
        let before = bench.table.get(child).unwrap();
        let unreadable = ImageHash::Unreadable("gone".into());
        let failed = ProcessFacts {
            key: child,
            image: 1,
            script: script(&unreadable),
            hash: Some(unreadable),
            ..Default::default()
        };
        assert!(bench.answer(&failed).is_none(), "nothing changed");
        assert_eq!(bench.table.get(child).unwrap(), before);
        assert_eq!((before.user.as_deref(), &before.hash), (Some("ann"), &known));

        // Nor is a path that was resolved while the process lived.
        let as_written = Script { path: "./x.py".into(), hash: ImageHash::Unreadable("ended".into()), package: None };
        let failed =
            ProcessFacts { key: child, image: 1, script: Some(Arc::new(as_written)), ..ProcessFacts::default() };
        assert!(bench.answer(&failed).is_none(), "nothing changed");
        let other = Script { path: "y.py".into(), hash: ImageHash::Pending, package: None };
        let another = ProcessFacts { key: child, image: 1, script: Some(Arc::new(other)), ..ProcessFacts::default() };
        bench.answer(&another);
        assert_eq!(&*bench.table.get(child).unwrap().script.as_ref().unwrap().path, "y.py");
    }

    #[test]
    fn a_process_that_changed_its_user_is_shown_as_what_it_was() {
        let server = key(11, 6);
        let mut bench = Bench::new(ProcessLimits::default());
        bench.exec(server, key(10, 5), "/bin/server", &["server"]);
        bench.owner(server);
        let (uid, user) = (Some(1000), Some("ann".into()));
        bench.answer(&ProcessFacts { uid, user, ..facts(server, 1, "/bin/server") });
        bench.effects.clear();
        let later = Stamp { uid: 65_534, ..stamp(server) };
        let lookup = |bench: &mut Bench, stamp: &Stamp| {
            let process = bench.table.lookup_or_request(stamp, bench.now, &mut bench.effects);
            (process.uid.unwrap(), process.user.as_deref().map(str::to_owned))
        };
        assert_eq!(lookup(&mut bench, &later), (65_534, None));
        assert_eq!(bench.told(), ["Image? 11"]);
        assert!(!bench.table.is_settled(server));
        let (uid, user) = (Some(65_534), Some("nobody".into()));
        bench.answer(&ProcessFacts { key: server, image: 1, uid, user, ..Default::default() });
        assert!(bench.table.is_settled(server));
        assert_eq!(lookup(&mut bench, &later), (65_534, Some("nobody".to_owned())));
        assert_eq!(lookup(&mut bench, &stamp(server)), (1000, Some("ann".to_owned())));
        assert!(bench.told().is_empty(), "names are remembered");
    }

    #[test]
    fn a_stamp_that_no_record_told_of_is_asked_about() {
        let lost = key(11, 6);
        let mut bench = Bench::new(ProcessLimits::default());
        bench.exec(key(10, 5), key(1, 0), "/bin/sh", &["sh"]);
        bench.effects.clear();
        assert_eq!(bench.owner(lost).uid, Some(1000));
        assert_eq!((bench.told(), bench.table.counters().unknown_stamps), (vec!["Full? 11".to_owned()], 1));
        let (comm, parent) = (Some("curl".into()), Some(key(10, 5).rounded()));
        bench.answer(&ProcessFacts { comm, parent, ..facts(lost, 0, "/usr/bin/curl") });
        assert_eq!(bench.told(), ["started 11 /usr/bin/curl", "Full? 10"], "its parent is an ancestor now");
        assert_eq!(bench.table.ancestors(lost).len(), 1);
    }

    #[test]
    fn a_child_of_an_unknown_parent_keeps_what_its_fork_told() {
        let child = key(11, 6);
        let mut bench = Bench::new(ProcessLimits::default());
        bench.fork(child, key(10, 5));
        let process = bench.owner(child);
        assert_eq!((&*process.comm, process.parent, process.uid), ("forked", Some(key(10, 5)), Some(1000)));
        assert_eq!(bench.told(), ["Full? 11"]);
    }

    #[test]
    fn wrong_parents_make_no_circle() {
        let (a, b) = (key(10, 5), key(11, 5));
        let mut bench = Bench::new(ProcessLimits::default());
        bench.exec(a, b, "/bin/a", &["a"]);
        bench.exec(b, a, "/bin/b", &["b"]);
        assert_eq!(bench.table.ancestors(a).len(), 1);
        let mut parent = key(1, 0);
        for n in 0..1000 {
            bench.fork(key(100 + n, 6), parent);
            parent = key(100 + n, 6);
        }
        assert_eq!(bench.table.ancestors(parent).len(), crate::core::process::lineage::MAX_ANCESTORS);
    }

    #[test]
    fn ended_processes_stay_while_they_are_used_and_go_later() {
        let (used, idle) = (key(11, 6), key(12, 6));
        let mut bench = Bench::new(ProcessLimits::default());
        bench.exec(used, key(10, 5), "/bin/used", &["used"]);
        bench.exec(idle, key(10, 5), "/bin/idle", &["idle"]);
        bench.exit(used);
        bench.exit(idle);
        bench.wait(200);
        bench.owner(used);
        bench.wait(200);
        assert!(bench.table.get(used).is_some() && bench.table.get(idle).is_none());
        bench.wait(300);
        assert!(bench.table.is_empty());
    }

    #[test]
    fn the_table_keeps_its_bounds_and_counts_what_it_forgets() {
        let limits = ProcessLimits { processes: 100, ended: 10, ..Default::default() };
        let mut bench = Bench::new(limits);
        for n in 0..1000 {
            bench.exec(key(1000 + n, 6), key(1, 0), "/bin/x", &["x"]);
            if n % 2 == 0 {
                bench.exit(key(1000 + n, 6));
            }
            assert!(bench.table.len() <= 100 && bench.table.ended.len() <= 10);
            assert!(bench.table.arrivals.len() < 300 && bench.table.newest.len() <= 100);
        }
        let counters = bench.table.counters();
        let forgotten = counters.evicted_ended + counters.evicted_live;
        assert_eq!(forgotten + bench.table.len() as u64, 1000);
        assert_eq!(counters.evicted_owners, 0, "nobody needed any of them");
    }

    #[test]
    fn an_ended_owner_that_is_forgotten_early_is_counted_apart() {
        let mut bench = Bench::new(ProcessLimits { ended: 10, ..Default::default() });
        for n in 0..30 {
            bench.exec(key(1000 + n, 6), key(1, 0), "/bin/x", &["x"]);
            if n < 5 {
                bench.owner(key(1000 + n, 6));
            }
            bench.exit(key(1000 + n, 6));
        }
        let counters = bench.table.counters();
        assert_eq!((counters.evicted_ended, counters.evicted_owners), (20, 5));
    }

    #[test]
    fn a_kernel_thread_is_known_as_one_until_it_runs_a_program() {
        let (kthreadd, helper) = (key(2, 0), key(50, 6));
        let mut bench = Bench::new(ProcessLimits::default());
        let running = Running { key: kthreadd.rounded(), is_kernel_thread: true, ..Default::default() };
        bench.table.on_running(&running, bench.now, &mut bench.effects);
        bench.fork(helper, kthreadd);
        assert!(bench.table.is_kernel_thread(helper));
        bench.exec(helper, kthreadd, "/sbin/modprobe", &["modprobe"]);
        assert!(!bench.table.is_kernel_thread(helper));
    }

    #[test]
    fn device_numbers_agree_with_stat() {
        use std::os::unix::fs::MetadataExt;
        let device = std::fs::metadata("/proc/self/exe").unwrap().dev();
        let s_dev = (libc::major(device) << 20) | libc::minor(device);
        assert_eq!(FileId::from_kernel(s_dev, 3), FileId { device, inode: 3 });
        let wide = FileId::from_kernel((0xabc << 20) | 0xf_1234, 0).device;
        assert_eq!((libc::major(wide), libc::minor(wide)), (0xabc, 0xf_1234));
    }
}
