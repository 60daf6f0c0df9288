//! The agent's process: started, waited for, read, stopped.

use std::{
    ffi::{CString, OsStr},
    fs::{self, File},
    io,
    net::IpAddr,
    os::unix::{
        ffi::OsStrExt,
        fs::OpenOptionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{event::Event, event_log::EventLog, namespace::Namespace, wait::wait_until};

/// Loading and attaching every program, on a machine that is busy with other tests.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// `pktscope run` promises to end 5 s after SIGTERM; the rest is for a busy machine.
const STOP_DEADLINE: Duration = Duration::from_secs(8);

/// The agent's binary: `PKTSCOPE_BIN`, else the one that was built beside this test.
pub fn binary() -> PathBuf {
    std::env::var_os("PKTSCOPE_BIN").map_or_else(|| crate::traffic::built("pktscope"), PathBuf::from)
}

/// A `pktscope` command other than `run`.
pub fn pktscope<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments);
    command
}

/// An agent that is not started yet.
#[derive(Debug)]
pub struct AgentOptions {
    command: Command,
    folder: TempDir,
    state: PathBuf,
    has_floods: bool,
    is_held_at_ready: bool,
}

impl AgentOptions {
    /// An agent with state, runtime folder and events of its own.
    ///
    /// # Errors
    /// Where no temporary folder can be made.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("pktscope-e2e-").tempdir().context("no temporary folder")?;
        let mut command = Command::new(binary());
        command.arg("run").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        let state = folder.path().join("state");
        Ok(Self { command, folder, state, has_floods: false, is_held_at_ready: false })
    }

    /// Adds a flag with its value.
    pub fn flag(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.arg(name).arg(value);
        self
    }

    /// Writes a configuration file and uses it.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub fn config(self, toml: &str) -> Result<Self> {
        self.file("--config", "pktscope.toml", toml.as_bytes())
    }

    /// Writes a file and gives it as a flag's value.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub fn file(self, flag: &str, name: &str, content: &[u8]) -> Result<Self> {
        let path = self.folder.path().join(name);
        fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(self.flag(flag, path))
    }

    /// Keeps the events of flows to 198.18.0.0/15 too, the benchmark range (RFC 2544): one test sends to tens of
    /// thousands of its addresses, which every other test's agent sees as well.
    pub fn with_floods(self) -> Self {
        Self { has_floods: true, ..self }
    }

    /// Stops it where it says that it is ready, until [`Agent::let_go`].
    pub fn held_at_ready(self) -> Self {
        Self { is_held_at_ready: true, ..self }
    }

    /// Keeps its state in this folder, to be shared with another agent.
    pub fn state_dir(mut self, folder: &Path) -> Self {
        self.state = folder.to_owned();
        self
    }

    /// Runs inside a network namespace.
    pub fn inside(mut self, namespace: &Namespace) -> Self {
        namespace.adopt(&mut self.command);
        self
    }

    /// Starts it without waiting for anything.
    ///
    /// # Errors
    /// Where the binary can't be run.
    pub fn spawn(mut self) -> Result<Agent> {
        let path = |name: &str| self.folder.path().join(name);
        let (events, ready, log) = (path("events.ndjson"), path("ready"), path("log"));
        if self.is_held_at_ready {
            make_pipe(&ready)?;
        }
        let command = &mut self.command;
        command.arg("--state-dir").arg(&self.state).arg("--runtime-dir").arg(path("runtime"));
        command.arg("--events").arg(&events).arg("--ready-file").arg(&ready);
        command.stdout(File::create(path("stdout"))?).stderr(File::create(&log)?);
        die_with_parent(command);
        let child = command.spawn().with_context(|| format!("failed to run {}", binary().display()))?;
        let log_of_events = Mutex::new(EventLog::new(events, self.has_floods));
        Ok(Agent {
            child: Mutex::new(child),
            folder: self.folder,
            state: self.state,
            ready,
            log,
            events: log_of_events,
        })
    }

    /// Starts it and waits until every hook is attached.
    ///
    /// # Errors
    /// Where it ends or is not ready in time, with what it said.
    pub fn start(self) -> Result<Agent> {
        let agent = self.spawn()?;
        agent.wait_ready()?;
        Ok(agent)
    }
}

/// Makes a named pipe: whoever opens it to write waits until somebody opens it to read.
fn make_pipe(path: &Path) -> Result<()> {
    let name = CString::new(path.as_os_str().as_bytes()).context("a path has no zero byte")?;
    // SAFETY: the name ends in a zero byte and lives as long as the call.
    let result = unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
    ensure!(result == 0, "failed to make {}: {}", path.display(), io::Error::last_os_error());
    Ok(())
}

/// Where the test is killed, its agent goes too.
fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and takes integers here.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// Statics are never dropped, so a shared agent's folder is removed when the process ends.
fn remove_at_exit(folder: &Path) {
    static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    extern "C" fn remove() {
        for folder in FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Nobody is left to be told.
            fs::remove_dir_all(folder).unwrap_or_default();
        }
    }
    let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    if folders.is_empty() {
        // SAFETY: the handler is a plain function that does not unwind.
        unsafe { libc::atexit(remove) };
    }
    folders.push(folder.to_owned());
}

/// A running agent; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Mutex<Child>,
    folder: TempDir,
    state: PathBuf,
    ready: PathBuf,
    log: PathBuf,
    events: Mutex<EventLog>,
}

impl Agent {
    /// An agent with default settings, but active from the start instead of learning for a week.
    ///
    /// # Errors
    /// As [`AgentOptions::start`].
    pub fn start() -> Result<Self> {
        AgentOptions::new()?.flag("--learning-window", "0s").start()
    }

    /// Starts an agent that lives as long as this process, for tests to share.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn start_shared(options: AgentOptions) -> Self {
        remove_at_exit(options.folder.path());
        let (sender, receiver) = mpsc::channel();
        // The agent dies with the thread that started it, so this one must not end.
        thread::spawn(move || {
            let started = options.start();
            if sender.send(started).is_ok() {
                loop {
                    thread::park();
                }
            }
        });
        receiver.recv().expect("the thread sends").expect("the agent starts")
    }

    /// Waits until every hook is attached.
    ///
    /// # Errors
    /// Where it ends or is not ready in time, with what it said.
    pub fn wait_ready(&self) -> Result<()> {
        enum Seen {
            Ready,
            Ended(ExitStatus),
        }
        let seen = wait_until(READY_DEADLINE, || match self.child().try_wait() {
            Ok(Some(status)) => Some(Seen::Ended(status)),
            _ => self.ready.exists().then_some(Seen::Ready),
        });
        match seen {
            Some(Seen::Ready) => Ok(()),
            Some(Seen::Ended(status)) => bail!("the agent ended with {status}: {}", self.log()),
            None => bail!("the agent was not ready within {READY_DEADLINE:?}: {}", self.log()),
        }
    }

    /// Lets one go on that was held where it says that it is ready, and that comes there while what this gives lives.
    ///
    /// # Errors
    /// Where it was not held.
    pub fn let_go(&self) -> Result<File> {
        let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&self.ready);
        opened.with_context(|| format!("failed to open {}", self.ready.display()))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Its state folder.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// Its runtime folder.
    pub fn runtime_dir(&self) -> PathBuf {
        self.folder.path().join("runtime")
    }

    /// The file of its events.
    pub fn events_file(&self) -> PathBuf {
        self.folder.path().join("events.ndjson")
    }

    /// Its configuration file, where it was given one.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("pktscope.toml")
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// A reading command on this agent's state.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = pktscope(arguments);
        command.arg("--state-dir").arg(&self.state).arg("--runtime-dir").arg(self.runtime_dir());
        command
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        let pid = self.child().id() as i32;
        // SAFETY: kill takes two integers; the child has not been reaped, so its pid is still its own.
        unsafe { libc::kill(pid, signal) };
    }

    /// Stops it as a service manager would and gives its exit status.
    ///
    /// # Panics
    /// Where it does not end in time.
    pub fn stop(&self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait_end(STOP_DEADLINE).unwrap_or_else(|| panic!("the agent did not end: {}", self.log()))
    }

    /// Waits for its end.
    pub fn wait_end(&self, deadline: Duration) -> Option<ExitStatus> {
        wait_until(deadline, || self.child().try_wait().ok().flatten())
    }

    /// Kills it without notice.
    pub fn kill(&self) -> ExitStatus {
        let mut child = self.child();
        // It may have ended by itself; the status tells.
        child.kill().unwrap_or_default();
        child.wait().unwrap_or_else(|_| ExitStatus::from_raw(-1))
    }

    /// Looks at its events until `look` finds what it wants or the deadline has passed.
    pub fn wait<T>(&self, deadline: Duration, mut look: impl FnMut(&[Event]) -> Option<T>) -> Option<T> {
        wait_until(deadline, || {
            let mut log = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            log.read_more();
            look(&log.events)
        })
    }

    /// Every event so far that `is_wanted`.
    pub fn events(&self, is_wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut log = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        log.read_more();
        log.events.iter().filter(|event| is_wanted(event)).cloned().collect()
    }

    /// Every flow event so far that touches an address.
    pub fn flows_touching(&self, addr: IpAddr) -> Vec<Event> {
        let mut log = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        log.read_more();
        log.flows_touching(addr)
    }

    /// Waits for the first event that `is_wanted`.
    ///
    /// # Panics
    /// Where it does not come in time, with the flows that were seen and the log's end.
    pub fn expect(&self, deadline: Duration, what: &str, is_wanted: impl Fn(&Event) -> bool) -> Event {
        let mut looked_at = 0;
        let found = self.wait(deadline, |events| {
            let found = events[looked_at..].iter().find(|event| is_wanted(event)).cloned();
            looked_at = events.len();
            found
        });
        found.unwrap_or_else(|| panic!("no {what} within {deadline:?}\n{}", self.describe()))
    }

    /// Waits until `count` events are there that `are_wanted`.
    ///
    /// # Panics
    /// Where they do not come in time.
    pub fn expect_count(&self, deadline: Duration, count: usize, are_wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let (mut looked_at, mut seen) = (0, Vec::new());
        let found = self.wait(deadline, |events| {
            seen.extend(events[looked_at..].iter().filter(|event| are_wanted(event)).cloned());
            looked_at = events.len();
            (seen.len() >= count).then(|| seen.clone())
        });
        found.unwrap_or_else(|| {
            let last = seen.last().map(Event::to_string).unwrap_or_default();
            panic!("{} of {count} events within {deadline:?}; the last: {last}\n{}", seen.len(), self.describe())
        })
    }

    /// Every loss told so far, by reason, one text a ledger.
    pub fn losses(&self) -> Vec<String> {
        let ledgers = self.events(|event| event.is("ledger"));
        let lost = ledgers.iter().filter_map(|event| event.get("pktscope.ledger.lost"));
        lost.filter(|lost| lost.as_object().is_some_and(|map| map.values().any(|count| count.as_u64() != Some(0))))
            .map(ToString::to_string)
            .collect()
    }

    /// How much the ledgers say was lost for `reason`.
    pub fn lost(&self, reason: &str) -> u64 {
        let ledgers = self.events(|event| event.is("ledger"));
        ledgers.iter().filter_map(|event| event.get("pktscope.ledger.lost")?.get(reason)?.as_u64()).sum()
    }

    /// The last events, the losses and the log's end, for a failure's message.
    pub fn describe(&self) -> String {
        let lost = self.losses().join("\n");
        let mut log = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        log.read_more();
        let flows = log.events.iter().rev().filter(|event| event.is("flow"));
        let last: Vec<String> = flows.take(5).map(Event::to_string).collect();
        let said = self.log();
        let end: Vec<&str> = said.lines().rev().take(20).collect();
        format!(
            "last flows (newest first):\n{}\nlost:\n{lost}\nlog (newest first):\n{}",
            last.join("\n"),
            end.join("\n")
        )
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}
