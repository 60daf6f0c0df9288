//! Answers the core's questions about processes, on threads of its own.
//!
//! In: [`ProcessLookup`]s. Out: [`ProcessFacts`], first what is quick to find out, then what needs whole files to be read.
//! Both queues are bounded; what finds one full is counted and goes unanswered.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::sync::mpsc;

use super::{
    container::{Cgroup, Cgroups},
    container_image::ContainerImages,
    file::{OpenFile, open_folder},
    hash::Hasher,
    image::{self, Surroundings},
    package::{Layer, Packages, find_layer},
    procfs::{Proc, ProcessFolder},
    script::{self, FoundScript},
    seen::SeenFiles,
    user::Users,
};
use crate::{
    clock,
    core::{
        effect::{LookupDepth, ProcessLookup},
        event::ProcessFacts,
        process::{ImageHash, Package, Script},
    },
};

/// How often files that are held open or deferred are looked at while there are no questions.
const HOUSEKEEPING: Duration = Duration::from_millis(100);

/// Bounds of an [`Enricher`].
#[derive(Clone, Copy, Debug)]
pub struct EnrichSettings {
    /// Questions that may wait; one takes a few hundred microseconds.
    pub questions: usize,
    /// Processes whose files may wait to be read; each holds up to two descriptors. More wait without holding any, up to
    /// as many as there may be questions.
    pub files: usize,
    /// Answers that may wait to be taken; the threads wait when they are as many.
    pub answers: usize,
}

impl Default for EnrichSettings {
    fn default() -> Self {
        Self { questions: 8192, files: 128, answers: 1024 }
    }
}

/// What an [`Enricher`] did and left undone, since its start.
#[derive(Debug, Default)]
pub struct EnrichCounters {
    /// Questions taken.
    pub questions: AtomicU64,
    /// Questions that found their queue full.
    pub questions_dropped: AtomicU64,
    /// Processes that had ended before they could be looked at.
    pub processes_gone: AtomicU64,
    /// Files read whole.
    pub files_read: AtomicU64,
    /// Processes whose files found both queues full and were not read.
    pub files_dropped: AtomicU64,
    /// Processes whose files wait to be read now.
    files_waiting: AtomicU64,
}

/// The threads that look processes up; they end when this and the receiver are dropped.
pub struct Enricher {
    questions: SyncSender<ProcessLookup>,
    counters: Arc<EnrichCounters>,
}

impl Enricher {
    /// Starts the threads; answers come out of the receiver.
    ///
    /// # Errors
    /// Where a thread cannot be started or the root directory cannot be opened.
    pub fn spawn(settings: EnrichSettings) -> io::Result<(Self, mpsc::Receiver<ProcessFacts>)> {
        let counters = Arc::new(EnrichCounters::default());
        let (questions, asked) = sync_channel(settings.questions);
        let (files, waiting) = sync_channel(settings.files);
        let (answers, answered) = mpsc::channel(settings.answers);
        let root = image::host_root();
        let packages = Packages::new(root)?;
        let output = LookerOutput { files, answers: answers.clone(), counters: counters.clone() };
        let looker = Looker::new(settings, open_folder(root)?, output);
        let reader = FileReader { hasher: Hasher::default(), packages, answers, counters: counters.clone() };
        thread::Builder::new().name("enrich-process".into()).spawn(move || looker.run(&asked))?;
        thread::Builder::new().name("enrich-file".into()).spawn(move || reader.run(&waiting))?;
        Ok((Self { questions, counters }, answered))
    }

    /// Takes a question; never waits.
    pub fn submit(&self, question: ProcessLookup) {
        let counter = match self.questions.try_send(question) {
            Ok(()) => &self.counters.questions,
            Err(_) => &self.counters.questions_dropped,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// What was done and left undone.
    pub fn counters(&self) -> &EnrichCounters {
        &self.counters
    }
}

/// Files of one process that are to be read whole.
struct FileTask {
    /// What is known already; of it only key, image and what is missing count.
    facts: ProcessFacts,
    executable: Option<OpenFile>,
    script: Option<FoundScript>,
    /// The container image's layers that have the executable and the script.
    layers: [Option<Layer>; 2],
}

/// Answers what can be answered without reading whole files.
struct Looker {
    proc: Proc,
    host_root: OwnedFd,
    seen: SeenFiles,
    cgroups: Cgroups,
    images: ContainerImages,
    users: Users,
    settings: EnrichSettings,
    /// Questions whose files are to be read once there is room.
    deferred: VecDeque<ProcessLookup>,
    output: LookerOutput,
}

/// What a [`Looker`] does next.
enum Next {
    /// Answers a question.
    Question(ProcessLookup),
    /// Hands on the files of a process that was answered for before.
    Deferred(ProcessLookup),
}

/// Where a [`Looker`] leaves what it found.
struct LookerOutput {
    files: SyncSender<FileTask>,
    answers: mpsc::Sender<ProcessFacts>,
    counters: Arc<EnrichCounters>,
}

impl Looker {
    fn new(settings: EnrichSettings, host_root: OwnedFd, output: LookerOutput) -> Self {
        Self {
            proc: Proc::new(),
            settings,
            deferred: VecDeque::new(),
            output,
            host_root,
            seen: SeenFiles::default(),
            cgroups: Cgroups::default(),
            images: ContainerImages::new(image::host_root()),
            users: Users::default(),
        }
    }

    fn run(mut self, questions: &Receiver<ProcessLookup>) {
        while let Some(next) = self.next(questions) {
            let (Next::Question(question) | Next::Deferred(question)) = &next;
            let (facts, task) = self.answer(question);
            if matches!(next, Next::Question(_)) && self.output.answers.blocking_send(facts).is_err() {
                return;
            }
            if let Some(task) = task.filter(|_| question.depth == LookupDepth::Full) {
                self.read(task, question);
            }
        }
    }

    /// What to do next; `None` at the end.
    fn next(&mut self, questions: &Receiver<ProcessLookup>) -> Option<Next> {
        while self.seen.is_holding() || !self.deferred.is_empty() {
            self.seen.release(clock::now().boot);
            if self.has_room_for_files()
                && let Some(question) = self.deferred.pop_front()
            {
                return Some(Next::Deferred(question));
            }
            match questions.recv_timeout(HOUSEKEEPING) {
                Ok(question) => return Some(Next::Question(question)),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        questions.recv().ok().map(Next::Question)
    }

    fn has_room_for_files(&self) -> bool {
        self.output.counters.files_waiting.load(Ordering::Relaxed) <= self.settings.files as u64 / 2
    }

    /// Hands a process's files on to be read, or defers that.
    fn read(&mut self, task: FileTask, question: &ProcessLookup) {
        self.output.counters.files_waiting.fetch_add(1, Ordering::Relaxed);
        if self.output.files.try_send(task).is_ok() {
            return;
        }
        self.output.counters.files_waiting.fetch_sub(1, Ordering::Relaxed);
        if self.deferred.len() < self.settings.questions {
            self.deferred.push_back(question.clone());
            return;
        }
        self.output.counters.files_dropped.fetch_add(1, Ordering::Relaxed);
        let hash = Some(ImageHash::Unreadable("too many files were waiting to be read".into()));
        let facts = ProcessFacts { key: question.key, image: question.image, hash, ..ProcessFacts::default() };
        // A receiver that is gone needs no answer.
        let _ = self.output.answers.blocking_send(facts);
    }

    fn answer(&mut self, question: &ProcessLookup) -> (ProcessFacts, Option<FileTask>) {
        let own = self.proc.open(question.key).filter(|own| !own.is_zombie());
        if own.as_ref().is_some_and(ProcessFolder::is_kernel_thread) {
            return (kernel_thread(question, own.as_ref()), None);
        }
        if own.is_none() {
            self.output.counters.processes_gone.fetch_add(1, Ordering::Relaxed);
        }
        let parent = question.parent.and_then(|parent| self.proc.open(parent));
        let around = Surroundings { own: own.as_ref(), parent: parent.as_ref(), host_root: &self.host_root };
        let now = clock::now();
        let found = image::find(question, &around, &mut self.seen, now);
        let arguments = arguments(question, around.own);
        let executable = found.path.as_deref().unwrap_or(&question.filename);
        let mut search = script::Search { question, around: &around, seen: &mut self.seen, now };
        let script = search.find(executable, &arguments);
        let script_file = script.as_ref().and_then(|script| script.file.as_ref());
        let layers = [found.file.as_ref(), script_file].map(|file| layer(file?, around.own.or(around.parent)));
        let facts = ProcessFacts {
            key: question.key,
            image: question.image,
            executable: found.path,
            file: found.file.as_ref().map(|file| question.file.unwrap_or(file.stamp.id)),
            command_line: command_line(&arguments),
            script: script.as_ref().map(|script| Arc::new(script.facts())),
            missing: found.missing.as_deref().map(Arc::from),
            ..self.surroundings(question, own.as_ref())
        };
        (facts.clone(), Some(FileTask { facts, executable: found.file, script, layers }))
    }

    /// Facts that do not depend on the image.
    fn surroundings(&mut self, question: &ProcessLookup, own: Option<&ProcessFolder>) -> ProcessFacts {
        let cgroup = self.cgroup(question.cgroup_id, own);
        let uid = question.uid.or_else(|| own?.uid());
        ProcessFacts {
            comm: own.map(ProcessFolder::comm),
            parent: question.parent.or_else(|| Some(self.proc.open_pid(own?.parent_pid())?.key)),
            uid,
            user: uid.and_then(|uid| self.users.name(uid)),
            container_image: cgroup.container_id.as_ref().and_then(|id| self.images.name(id)),
            container_id: cgroup.container_id,
            cgroup_path: cgroup.path,
            ..ProcessFacts::default()
        }
    }

    fn cgroup(&mut self, id: u64, own: Option<&ProcessFolder>) -> Cgroup {
        match own.and_then(|own| own.cgroups().ok()) {
            Some(text) => {
                let cgroup = Cgroup::parse(&text);
                self.cgroups.learn(id, &cgroup);
                cgroup
            }
            None => self.cgroups.find(id).unwrap_or_default(),
        }
    }
}

/// The layer that a container's file comes from, by its own mounts or by those of its parent.
fn layer(file: &OpenFile, process: Option<&ProcessFolder>) -> Option<Layer> {
    if file.is_deleted || !file.is_on_overlay() {
        return None;
    }
    find_layer(&process?.mounts().ok()?, image::host_root(), &file.path)
}

fn kernel_thread(question: &ProcessLookup, own: Option<&ProcessFolder>) -> ProcessFacts {
    ProcessFacts {
        key: question.key,
        image: question.image,
        comm: own.map(ProcessFolder::comm),
        is_kernel_thread: true,
        missing: Some("executable: a thread of the kernel has none".into()),
        ..ProcessFacts::default()
    }
}

/// The arguments that the process itself shows, as the record may not have had room for all, else those of the record.
fn arguments(question: &ProcessLookup, own: Option<&ProcessFolder>) -> String {
    let shown = own.and_then(|own| own.arguments().ok()).filter(|shown| !shown.is_empty());
    // The record may have cut its last argument, so that the NUL after it is none of the process's own.
    let recorded = question.arguments.strip_suffix('\0').unwrap_or(&question.arguments);
    match shown {
        // A process may write over its arguments (setproctitle); what it was started with is what counts.
        Some(shown) if shown.starts_with(recorded) => shown,
        _ => question.arguments.to_string(),
    }
}

fn command_line(arguments: &str) -> Option<Arc<str>> {
    let line = arguments.trim_end_matches('\0').replace('\0', " ");
    (!line.is_empty()).then(|| line.into())
}

impl FoundScript {
    fn facts(&self) -> Script {
        Script { path: self.path.clone(), hash: self.hash.clone(), package: None }
    }
}

/// Reads whole files.
struct FileReader {
    hasher: Hasher,
    packages: Packages,
    answers: mpsc::Sender<ProcessFacts>,
    counters: Arc<EnrichCounters>,
}

impl FileReader {
    fn run(mut self, tasks: &Receiver<FileTask>) {
        while let Ok(task) = tasks.recv() {
            self.counters.files_waiting.fetch_sub(1, Ordering::Relaxed);
            let facts = self.answer(task);
            if self.answers.blocking_send(facts).is_err() {
                return;
            }
        }
    }

    fn answer(&mut self, task: FileTask) -> ProcessFacts {
        let hash = match &task.executable {
            Some(file) => self.hash(file),
            None => ImageHash::Unreadable("the file that ran could not be found again".into()),
        };
        let image = task.facts.container_image.as_ref();
        let [image_layer, script_layer] = &task.layers;
        let (package, failure) = match self.package(task.executable.as_ref(), image_layer.as_ref(), image) {
            Ok(package) => (package, None),
            Err(failure) => (None, Some(format!("package: {failure}"))),
        };
        let script = task.script.map(|script| {
            let hash = script.file.as_ref().map(|file| self.hash(file));
            // The same databases: what is wrong with them was said of the image.
            let package = self.package(script.file.as_ref(), script_layer.as_ref(), image).ok().flatten();
            Arc::new(Script { path: script.path, hash: hash.unwrap_or(script.hash), package })
        });
        ProcessFacts {
            key: task.facts.key,
            image: task.facts.image,
            hash: Some(hash),
            package,
            script,
            missing: failure.map(|failure| joined(task.facts.missing.as_deref(), &failure)),
            ..ProcessFacts::default()
        }
    }

    fn hash(&mut self, file: &OpenFile) -> ImageHash {
        if let Some(known) = file.stamp_now().ok().and_then(|stamp| self.hasher.known(&stamp)) {
            return known;
        }
        self.counters.files_read.fetch_add(1, Ordering::Relaxed);
        self.hasher.hash(file)
    }

    /// The host's package, else the layer of the container's image.
    fn package(
        &mut self,
        file: Option<&OpenFile>,
        layer: Option<&Layer>,
        image: Option<&Arc<str>>,
    ) -> Result<Option<Arc<Package>>, String> {
        let Some(file) = file else { return Ok(None) };
        let package = self.packages.find(file, &mut self.hasher)?;
        Ok(package.or_else(|| layer.map(|layer| Arc::new(of_image(layer, image)))))
    }
}

fn of_image(layer: &Layer, image: Option<&Arc<str>>) -> Package {
    Package {
        manager: "image",
        name: image.cloned().unwrap_or_else(|| "container image".into()),
        version: layer.name.as_str().into(),
        is_unmodified: Some(layer.is_of_image),
    }
}

fn joined(first: Option<&str>, second: &str) -> Arc<str> {
    first.map_or_else(|| second.into(), |first| format!("{first}; {second}").into())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::{
            fd::AsRawFd,
            unix::{
                ffi::OsStrExt,
                fs::{MetadataExt, symlink},
            },
        },
        path::{Path, PathBuf},
        process::{Child, Command, Stdio},
    };

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;
    use crate::core::{
        process::{FileId, ProcessKey},
        time::BootTime,
    };

    /// A program that waits until its input ends.
    const WAITS: &str = "/bin/cat";

    struct Bench {
        enricher: Enricher,
        answers: mpsc::Receiver<ProcessFacts>,
        folder: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let (enricher, answers) = Enricher::spawn(EnrichSettings::default()).unwrap();
            Self { enricher, answers, folder: tempfile::tempdir().unwrap() }
        }

        /// A copy of a program under another name; made by another process, as a child of another test's may still hold
        /// a file that this process wrote, which then cannot be run.
        fn copy(&self, program: &str, name: &str) -> PathBuf {
            let path = self.folder.path().canonicalize().unwrap().join(name);
            assert!(Command::new("cp").arg(program).arg(&path).status().unwrap().success());
            path
        }

        /// The quick answer, and that about the files.
        fn ask(&mut self, question: ProcessLookup) -> (ProcessFacts, ProcessFacts) {
            self.enricher.submit(ProcessLookup { depth: LookupDepth::Full, ..question });
            (self.answers.blocking_recv().unwrap(), self.answers.blocking_recv().unwrap())
        }

        fn ask_quick(&mut self, question: ProcessLookup) -> ProcessFacts {
            self.enricher.submit(ProcessLookup { depth: LookupDepth::Image, ..question });
            self.answers.blocking_recv().unwrap()
        }
    }

    /// A process that lives until it is dropped.
    struct Living(Child);

    impl Living {
        fn start(command: &mut Command) -> Self {
            Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
        }

        fn key(&self) -> ProcessKey {
            Proc::new().open_pid(self.0.id()).unwrap().key
        }

        /// A copy of [`WAITS`], once it has given back what it was given: from then on everything about it stands.
        fn waiting(command: &mut Command) -> Self {
            let mut process = Self::start(command);
            io::Write::write_all(process.0.stdin.as_mut().unwrap(), b"\n").unwrap();
            process.wait_for_line();
            process
        }

        /// Once it has written something, everything about it stands.
        fn wait_for_line(&mut self) {
            let mut byte = [0];
            io::Read::read_exact(self.0.stdout.as_mut().unwrap(), &mut byte).unwrap();
        }
    }

    impl Drop for Living {
        fn drop(&mut self) {
            drop(self.0.stdin.take());
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn own_key() -> ProcessKey {
        Proc::new().open_pid(std::process::id()).unwrap().key
    }

    /// The key of a process that is not there.
    fn ended_key() -> ProcessKey {
        ProcessKey { pid: 0x7fff_fff0, started_at: BootTime(1) }
    }

    fn file_id(path: &Path) -> FileId {
        let stat = fs::metadata(path).unwrap();
        FileId { device: stat.dev(), inode: stat.ino() }
    }

    fn arguments(words: &[&str]) -> Arc<str> {
        words.iter().flat_map(|word| [*word, "\0"]).collect::<String>().into()
    }

    fn sha256sum(path: &Path) -> Option<ImageHash> {
        let output = Command::new("sha256sum").arg(path).output().unwrap();
        Some(ImageHash::Sha256(String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap().into()))
    }

    fn path_of(facts: &ProcessFacts) -> &Path {
        Path::new(facts.executable.as_deref().unwrap_or(""))
    }

    #[test]
    fn a_living_process_is_described_whole() {
        let mut bench = Bench::new();
        let program = bench.copy(WAITS, "living");
        let process = Living::waiting(Command::new(&program).args(["-u", "-"]));
        let (quick, files) = bench.ask(ProcessLookup { key: process.key(), image: 3, ..Default::default() });
        assert_eq!((quick.image, files.image), (3, 3));
        assert_eq!(path_of(&quick), program);
        assert_eq!(quick.file, Some(file_id(&program)));
        assert_eq!(quick.comm.as_deref(), Some("living"));
        assert_eq!(quick.command_line.as_deref(), Some(&*format!("{} -u -", program.display())));
        assert_eq!(quick.parent, Some(own_key()));
        assert_eq!(quick.uid, Some(fs::metadata("/proc/self").unwrap().uid()));
        assert_eq!(files.hash, sha256sum(&program));
        assert_eq!(quick.missing, None);
    }

    #[test]
    fn a_thousand_ended_processes_of_fifty_programs_have_their_paths() {
        let mut bench = Bench::new();
        let programs: Vec<PathBuf> = (0..50).map(|n| bench.copy("/bin/true", &format!("tool-{n}"))).collect();
        let alias = bench.folder.path().join("alias");
        symlink(bench.folder.path(), &alias).unwrap();
        for n in 0..1000 {
            let program = &programs[n % 50];
            let name = program.file_name().unwrap();
            let filename = if n % 2 == 0 { program.clone() } else { alias.join(name) };
            let filename = filename.to_str().unwrap().into();
            let file = Some(file_id(program));
            let facts = bench.ask_quick(ProcessLookup { key: ended_key(), filename, file, ..Default::default() });
            assert_eq!((path_of(&facts), &facts.missing), (program.as_path(), &None));
        }
        assert_eq!(bench.enricher.counters().processes_gone.load(Ordering::Relaxed), 1000);
    }

    #[test]
    fn a_relative_name_is_resolved_in_the_parents_directory_and_checked() {
        let mut bench = Bench::new();
        let program = bench.copy("/bin/true", "tool");
        let parent = Living::waiting(Command::new(WAITS).current_dir(bench.folder.path()));
        let question = ProcessLookup {
            key: ended_key(),
            filename: "./tool".into(),
            file: Some(file_id(&program)),
            parent: Some(parent.key()),
            ..Default::default()
        };
        assert_eq!(path_of(&bench.ask_quick(question.clone())), program);
        let other = Some(FileId { device: 0xffff, inode: 1 });
        let facts = bench.ask_quick(ProcessLookup { file: other, ..question });
        assert_eq!(facts.executable, None);
        assert!(facts.missing.unwrap().contains("ended before"));
    }

    #[test]
    fn a_program_whose_path_is_no_text_is_hashed_after_its_end() {
        let mut bench = Bench::new();
        let program = bench.copy("/bin/true", "plain").with_file_name(std::ffi::OsStr::from_bytes(b"odd\xff\xfename"));
        fs::rename(program.with_file_name("plain"), &program).unwrap();
        let raw = program.as_os_str().as_bytes();
        let question = ProcessLookup {
            key: ended_key(),
            filename: String::from_utf8_lossy(raw).into(),
            raw_filename: Some(raw.into()),
            file: Some(file_id(&program)),
            ..Default::default()
        };
        let (quick, files) = bench.ask(question.clone());
        assert_eq!(quick.executable.as_deref(), Some(&*question.filename));
        assert_eq!(files.hash, sha256sum(&program));
    }

    #[test]
    fn a_swapped_binary_is_what_ran_and_not_what_lies_there_now() {
        let mut bench = Bench::new();
        let program = bench.copy(WAITS, "swapped");
        let (ran, expected) = (file_id(&program), sha256sum(&program));
        let process = Living::waiting(&mut Command::new(&program));
        fs::rename(bench.copy("/bin/true", "new"), &program).unwrap();
        let question = ProcessLookup {
            key: process.key(),
            filename: program.to_str().unwrap().into(),
            file: Some(ran),
            ..Default::default()
        };
        let (quick, files) = bench.ask(question.clone());
        assert_eq!((path_of(&quick), quick.file), (program.as_path(), Some(ran)));
        assert_eq!(files.hash, expected);
        assert!(quick.missing.unwrap().contains("deleted"));

        let key = process.key();
        drop(process);
        let question = ProcessLookup { key, ..question };
        assert_eq!(bench.ask(question.clone()).1.hash, expected, "the file is still held");
        let (quick, files) = Bench::new().ask(question);
        assert_eq!(quick.executable, None, "the file of that name is another one");
        assert!(matches!(files.hash, Some(ImageHash::Unreadable(_))), "{:?}", files.hash);
    }

    #[test]
    fn a_program_that_deleted_itself_and_ended_is_hashed_from_the_first_look() {
        let mut bench = Bench::new();
        let program = bench.copy(WAITS, "short");
        let expected = sha256sum(&program);
        let process = Living::waiting(&mut Command::new(&program));
        let question = ProcessLookup { key: process.key(), file: Some(file_id(&program)), ..Default::default() };
        bench.ask_quick(question.clone());
        fs::remove_file(&program).unwrap();
        drop(process);
        let (quick, files) = bench.ask(question);
        assert_eq!(path_of(&quick), program);
        assert_eq!(files.hash, expected);
    }

    fn can_mount() -> bool {
        Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success())
    }

    /// A copy of [`WAITS`] that runs on a mount of its own namespace, and the question about it.
    fn on_private_mount(program: &Path) -> (Living, ProcessLookup) {
        let script = "mount -t tmpfs none \"$1\" && cp \"$2\" \"$0\" && exec \"$0\"";
        let mut run = Command::new("unshare");
        run.args(["--mount", "sh", "-c", script]).args([program, program.parent().unwrap(), Path::new(WAITS)]);
        let process = Living::waiting(&mut run);
        let inside = PathBuf::from(format!("/proc/{}/root{}", process.0.id(), program.display()));
        let (filename, file) = (program.to_str().unwrap().into(), Some(file_id(&inside)));
        let question = ProcessLookup { key: process.key(), filename, file, ..Default::default() };
        (process, question)
    }

    /// The mounts of a namespace go with its last process, and a file on one of them is then shown as below that mount's own
    /// root.
    #[test]
    fn a_program_on_a_private_mount_that_went_with_it_keeps_its_path() {
        if !can_mount() {
            return;
        }
        let mut bench = Bench::new();
        let program = bench.folder.path().canonicalize().unwrap().join("private");
        let (process, question) = on_private_mount(&program);
        let expected = sha256sum(Path::new(WAITS));
        assert_eq!(path_of(&bench.ask_quick(question.clone())), program);
        drop(process);
        let (quick, files) = bench.ask(question.clone());
        assert_eq!((path_of(&quick), &quick.missing), (program.as_path(), &None));
        assert_eq!(files.hash, expected);
        let (quick, files) = Bench::new().ask(question);
        assert_eq!(quick.executable, None, "nothing leads there any more");
        assert!(quick.missing.unwrap().contains("ended before"));
        assert!(matches!(files.hash, Some(ImageHash::Unreadable(_))), "{:?}", files.hash);
    }

    #[test]
    fn a_program_whose_mount_was_taken_away_keeps_its_path() {
        if !can_mount() {
            return;
        }
        let mut bench = Bench::new();
        let program = bench.folder.path().canonicalize().unwrap().join("unmounted");
        let (process, question) = on_private_mount(&program);
        let mut unmount = Command::new("nsenter");
        unmount.args(["--mount", "--target", &process.0.id().to_string(), "umount", "-l"]).arg(bench.folder.path());
        assert!(unmount.status().unwrap().success());
        let link = fs::read_link(format!("/proc/{}/exe", process.0.id())).unwrap();
        assert_eq!(link, Path::new("/unmounted"), "what the kernel says");
        let (quick, files) = bench.ask(question);
        assert_eq!(path_of(&quick), program);
        assert_eq!(files.hash, sha256sum(Path::new(WAITS)));
    }

    #[test]
    fn a_file_that_was_changed_after_it_ran_is_not_what_ran() {
        let mut bench = Bench::new();
        let program = bench.copy("/bin/true", "changed");
        let filename: Arc<str> = program.to_str().unwrap().into();
        let file = Some(file_id(&program));
        let now = clock::now().boot;
        let question = ProcessLookup { key: ended_key(), filename, file, image_at: now, ..Default::default() };
        let (_, files) = bench.ask(question.clone());
        assert_eq!(files.hash, sha256sum(&program));
        let mut bench = Bench { folder: bench.folder, ..Bench::new() };
        let later = ProcessLookup { image_at: BootTime(1), ..question };
        let (quick, files) = bench.ask(later);
        assert_eq!(path_of(&quick), program, "it still has its name");
        assert!(quick.missing.unwrap().contains("changed after"));
        assert!(matches!(files.hash, Some(ImageHash::Unreadable(_))));
    }

    #[test]
    fn a_file_in_memory_is_named_and_hashed() {
        let mut bench = Bench::new();
        let memory = memfd_create("payload", MemfdFlags::empty()).unwrap();
        io::copy(&mut fs::File::open(WAITS).unwrap(), &mut fs::File::from(memory.try_clone().unwrap())).unwrap();
        let process = Living::waiting(&mut Command::new(format!("/proc/self/fd/{}", memory.as_raw_fd())));
        let (quick, files) = bench.ask(ProcessLookup { key: process.key(), ..Default::default() });
        assert_eq!(path_of(&quick), Path::new("/memfd:payload"));
        assert!(quick.missing.unwrap().contains("memfd"));
        assert_eq!(files.hash, sha256sum(Path::new(WAITS)));
    }

    #[test]
    fn a_file_in_memory_that_went_with_its_process_is_known_as_one() {
        let mut bench = Bench::new();
        let memory = memfd_create("payload", MemfdFlags::CLOEXEC).unwrap();
        let stat = rustix::fs::fstat(&memory).unwrap();
        let question = ProcessLookup {
            key: ended_key(),
            filename: "/dev/fd/3".into(),
            comm: "memfd:payload".into(),
            file: Some(FileId { device: stat.st_dev, inode: stat.st_ino }),
            ..Default::default()
        };
        let quick = bench.ask_quick(question.clone());
        assert_eq!(path_of(&quick), Path::new("/memfd:payload"));
        assert!(quick.missing.unwrap().contains("memfd"));
        let entry = ProcessLookup { image_name: "memfd:payload of many letters".into(), ..question.clone() };
        assert_eq!(path_of(&bench.ask_quick(entry)), Path::new("/memfd:payload of many letters"));
        let older = ProcessLookup { comm: "3".into(), ..question };
        assert_eq!(path_of(&bench.ask_quick(older)), Path::new("/memfd:"));
    }

    #[test]
    fn a_program_that_ran_something_else_meanwhile_is_not_mistaken() {
        let mut bench = Bench::new();
        let first = bench.copy("/bin/true", "first");
        let process = Living::waiting(&mut Command::new(WAITS));
        let question = ProcessLookup {
            key: process.key(),
            filename: first.to_str().unwrap().into(),
            file: Some(file_id(&first)),
            ..Default::default()
        };
        assert_eq!(path_of(&bench.ask_quick(question)), first);
    }

    #[test]
    fn an_installed_programs_package_is_named() {
        let Ok(output) = Command::new("dpkg-query").args(["-W", "-f", "${Version}", "coreutils"]).output() else {
            return;
        };
        let mut bench = Bench::new();
        let process = Living::waiting(&mut Command::new(WAITS));
        let (_, files) = bench.ask(ProcessLookup { key: process.key(), ..Default::default() });
        let package = files.package.unwrap();
        let version = String::from_utf8(output.stdout).unwrap();
        assert_eq!((package.manager, &*package.name, &*package.version), ("dpkg", "coreutils", &*version));
        assert_eq!(package.is_unmodified, Some(true));
    }

    #[test]
    fn a_script_is_found_from_its_process_directory() {
        let mut bench = Bench::new();
        let script = bench.folder.path().canonicalize().unwrap().join("job.sh");
        fs::write(&script, "echo started\nread line\n").unwrap();
        let mut process = Living::start(Command::new("/bin/sh").arg("job.sh").current_dir(bench.folder.path()));
        process.wait_for_line();
        let (quick, files) = bench.ask(ProcessLookup { key: process.key(), ..Default::default() });
        assert_eq!(quick.script.unwrap().path.as_ref(), script.to_str().unwrap());
        let found = files.script.unwrap();
        assert_eq!((&*found.path, Some(found.hash.clone())), (script.to_str().unwrap(), sha256sum(&script)));
        assert_eq!(files.hash, sha256sum(Path::new("/bin/sh")));
    }

    /// The question about a shell that has ended and ran `job.sh` in `folder`.
    fn ended_job(folder: &Path, parent: ProcessKey) -> ProcessLookup {
        ProcessLookup {
            key: ended_key(),
            filename: "/bin/sh".into(),
            arguments: arguments(&["sh", "job.sh"]),
            folder: Some(file_id(folder)),
            parent: Some(parent),
            ..Default::default()
        }
    }

    #[test]
    fn an_ended_process_s_script_is_found_in_the_folder_that_it_ran_in_and_in_no_other() {
        let mut bench = Bench::new();
        let [here, elsewhere] = ["here", "elsewhere"].map(|name| {
            let folder = bench.folder.path().canonicalize().unwrap().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("job.sh"), format!("echo {name}\nread line\n")).unwrap();
            folder
        });
        let program = bench.copy(WAITS, "parent");
        let parent = Living::waiting(Command::new(&program).current_dir(&here));
        let (_, files) = bench.ask(ended_job(&here, parent.key()));
        let script = files.script.unwrap();
        assert_eq!(
            (Path::new(&*script.path), Some(script.hash.clone())),
            (&*here.join("job.sh"), sha256sum(&here.join("job.sh")))
        );

        let (_, files) = bench.ask(ended_job(&elsewhere, parent.key()));
        let script = files.script.unwrap();
        assert_eq!(&*script.path, "job.sh");
        assert!(matches!(&script.hash, ImageHash::Unreadable(why) if why.contains("ended")), "{script:?}");

        // Once a process was seen there, the folder is known.
        let mut process = Living::start(Command::new("/bin/sh").arg("job.sh").current_dir(&elsewhere));
        process.wait_for_line();
        let living = ProcessLookup { key: process.key(), folder: Some(file_id(&elsewhere)), ..Default::default() };
        bench.ask(living);
        let (_, files) = bench.ask(ended_job(&elsewhere, parent.key()));
        assert_eq!(Path::new(&*files.script.unwrap().path), elsewhere.join("job.sh"));
    }

    #[test]
    fn an_ended_process_s_script_has_the_path_that_was_found_while_it_lived() {
        let mut bench = Bench::new();
        let script = bench.folder.path().canonicalize().unwrap().join("job.sh");
        fs::write(&script, "true\n").unwrap();
        let known = ProcessLookup {
            script: script.to_str().unwrap().into(),
            folder: None,
            ..ended_job(Path::new("/"), own_key())
        };
        let (_, files) = bench.ask(known.clone());
        assert_eq!(Some(files.script.unwrap().hash.clone()), sha256sum(&script));
        let earlier = ProcessLookup { image_at: BootTime(1), ..known };
        let (_, files) = bench.ask(earlier);
        let found = files.script.unwrap();
        assert!(matches!(&found.hash, ImageHash::Unreadable(why) if why.contains("changed")), "{found:?}");
        assert_eq!(Path::new(&*found.path), script);
    }

    #[test]
    fn an_ended_scripts_interpreter_and_file_are_told_apart() {
        let mut bench = Bench::new();
        let script = bench.folder.path().canonicalize().unwrap().join("job");
        fs::write(&script, "#!/bin/sh -e\ntrue\n").unwrap();
        let name: Arc<str> = script.to_str().unwrap().into();
        let shell = Path::new("/bin/sh").canonicalize().unwrap();
        for arguments in [arguments(&["/bin/sh", "-e", &name]), "".into()] {
            let question = ProcessLookup {
                key: ended_key(),
                filename: name.clone(),
                file: Some(file_id(&shell)),
                arguments: arguments.clone(),
                ..Default::default()
            };
            let (quick, files) = bench.ask(question);
            assert_eq!(path_of(&quick), shell);
            assert_eq!(files.hash, sha256sum(&shell));
            if !arguments.is_empty() {
                let found = files.script.unwrap();
                assert_eq!((&found.path, Some(found.hash.clone())), (&name, sha256sum(&script)));
            }
        }
    }

    #[test]
    fn code_on_the_command_line_is_hashed_as_it_stands() {
        let mut bench = Bench::new();
        let code = bench.folder.path().join("code");
        fs::write(&code, "import socket").unwrap();
        let question = ProcessLookup {
            key: ended_key(),
            filename: "/usr/bin/python3".into(),
            arguments: arguments(&["python3", "-c", "import socket"]),
            ..Default::default()
        };
        let (quick, _) = bench.ask(question);
        let script = quick.script.unwrap();
        assert_eq!((&*script.path, Some(script.hash.clone())), ("-c", sha256sum(&code)));
    }

    #[test]
    fn a_full_queue_is_counted_and_holds_nobody_up() {
        let settings = EnrichSettings { questions: 2, files: 1, answers: 1 };
        let (enricher, mut answers) = Enricher::spawn(settings).unwrap();
        for _ in 0..100 {
            enricher.submit(ProcessLookup { key: ended_key(), ..Default::default() });
        }
        let counters = enricher.counters();
        let (taken, dropped) =
            (counters.questions.load(Ordering::Relaxed), counters.questions_dropped.load(Ordering::Relaxed));
        assert_eq!(taken + dropped, 100);
        assert!(90 <= dropped, "{dropped}");
        for _ in 0..taken {
            answers.blocking_recv().unwrap();
        }
    }

    #[test]
    fn files_that_find_their_queue_full_are_read_later() {
        let settings = EnrichSettings { files: 1, ..EnrichSettings::default() };
        let (enricher, mut answers) = Enricher::spawn(settings).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("large");
        fs::File::create(&file).unwrap().set_len(8 << 20).unwrap();
        let question = |n: u64| ProcessLookup {
            key: ProcessKey { pid: 0x7fff_fff0, started_at: BootTime(n) },
            depth: LookupDepth::Full,
            filename: file.to_str().unwrap().into(),
            file: Some(file_id(&file)),
            ..Default::default()
        };
        for n in 0..50 {
            enricher.submit(question(n));
        }
        let expected = sha256sum(&file);
        let mut hashed = 0;
        for _ in 0..100 {
            let facts = answers.blocking_recv().unwrap();
            hashed += usize::from(facts.hash.is_some());
            assert!(facts.hash.is_none() || facts.hash == expected);
        }
        assert_eq!((hashed, enricher.counters().files_read.load(Ordering::Relaxed)), (50, 1));
    }

    #[test]
    fn the_threads_end_with_their_owner() {
        let (enricher, mut answers) = Enricher::spawn(EnrichSettings::default()).unwrap();
        drop(enricher);
        assert_eq!(answers.blocking_recv(), None);
    }
}
