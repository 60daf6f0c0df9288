//! The agent under measurement.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{cpu, netns::Namespace};
use crate::{clock::Stopwatch, command, workspace};

/// Loading the programs takes a second or two.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at a fact.
const PAUSE: Duration = Duration::from_millis(20);

/// How long it is looked at to see whether it works: it has settled where that is less than a hundredth of it.
const LOOK: Duration = Duration::from_secs(1);

/// A running agent; stopped when dropped.
pub struct Agent {
    child: Child,
    folder: PathBuf,
}

impl Agent {
    /// Starts it in a network namespace, on a state folder of its own, and waits until every hook is attached.
    pub fn start_in(namespace: &Namespace, program: &Path, arguments: &[OsString]) -> Result<Self> {
        Self::run(namespace.command(program.as_os_str()), program, arguments)
    }

    /// Starts it on a state folder of its own and waits until every hook is attached.
    pub fn start(program: &Path, arguments: &[OsString]) -> Result<Self> {
        Self::run(Command::new(program), program, arguments)
    }

    fn run(mut command: Command, program: &Path, arguments: &[OsString]) -> Result<Self> {
        let folder = workspace::target().join(format!("bench/{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        let log = fs::File::create(folder.join("log")).context("failed to create the agent's log")?;
        command.arg("run").arg("--state-dir").arg(&folder).arg("--runtime-dir").arg(&folder);
        command.arg("--ready-file").arg(folder.join("ready")).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().with_context(|| format!("failed to start {}", program.display()))?;
        let mut agent = Self { child, folder };
        agent.wait_ready()?;
        Ok(agent)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let watch = Stopwatch::start();
        while !self.folder.join("ready").exists() {
            if let Some(status) = self.child.try_wait().context("failed to ask after the agent")? {
                bail!("the agent ended at once with {status}: {}", self.log());
            }
            if READY_LIMIT < watch.elapsed() {
                bail!("the agent is not ready after {} s: {}", READY_LIMIT.as_secs(), self.log());
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Waits until it has done what it does at its start: it hashes every program that runs, once.
    pub fn wait_settled(&self) {
        let watch = Stopwatch::start();
        let mut before = self.cpu();
        while watch.elapsed() < READY_LIMIT {
            thread::sleep(LOOK);
            let after = self.cpu();
            if after.saturating_sub(before) < LOOK / 100 {
                return;
            }
            before = after;
        }
        command::say("the agent is still busy with its start: what that costs is counted");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time it has used.
    pub fn cpu(&self) -> Duration {
        cpu::process_time(self.pid())
    }

    /// Resident memory in bytes: now, and the most since [`Self::forget_most`].
    pub fn resident_bytes(&self) -> [u64; 2] {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        ["VmRSS:", "VmHWM:"].map(|name| parse_bytes(&status, name).unwrap_or(0))
    }

    /// From now on the most resident memory is what is resident now (proc_pid_clear_refs(5)).
    pub fn forget_most(&self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.pid());
        fs::write(&path, "5").with_context(|| format!("failed to write {path}"))
    }
}

/// Refuses to measure beside another agent: what runs without one here would run with that one.
pub fn expect_no_other(program: &Path) -> Result<()> {
    let name = program.file_name().unwrap_or_default().as_encoded_bytes();
    let is_agent = |folder: &Path| fs::read(folder.join("comm")).is_ok_and(|comm| comm.trim_ascii_end() == name);
    let folders = fs::read_dir("/proc").context("failed to read /proc")?;
    let other = folders.filter_map(Result::ok).map(|entry| entry.path()).find(|folder| is_agent(folder));
    if let Some(folder) = other {
        let pid = folder.file_name().unwrap_or_default().display();
        bail!("process {pid} is an agent, too, and would be in every figure: stop it first");
    }
    Ok(())
}

impl Drop for Agent {
    fn drop(&mut self) {
        // SAFETY: kill takes no pointers; the child has not been waited for.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A line of `/proc/PID/status` (proc_pid_status(5)).
fn parse_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(parse_bytes("VmPeak:\t  9 kB\nVmRSS:\t   40960 kB\n", "VmRSS:"), Some(40 * 1024 * 1024));
        assert_eq!(parse_bytes("", "VmRSS:"), None);
    }

    #[test]
    fn another_agent_is_refused_by_its_name() {
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        let refused = expect_no_other(&Path::new("/elsewhere").join(own.trim_end())).unwrap_err();
        assert!(refused.to_string().contains("stop it first"), "{refused}");
        expect_no_other(Path::new("/usr/bin/no-such-name")).unwrap();
    }
}
