//! Running the traffic generator, and what it reports.

use std::{
    ffi::OsStr,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{namespace::Namespace, wait::wait_until};

/// One thing that the generator did, as it knows it: the truth of a test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What this process was in the scenario: `sender`, `creator`, `worker`, `listener`.
    pub role: String,
    /// How far it is: `ready`, `sent`, `done`.
    pub stage: String,
    /// Its process id.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Effective user id.
    pub uid: u32,
    /// The kernel's name for it.
    pub comm: String,
    /// `/proc/self/exe`.
    pub executable: String,
    /// Its socket's address.
    pub local: Option<SocketAddr>,
    /// The other side's.
    pub remote: Option<SocketAddr>,
    /// Payload bytes sent.
    pub sent_bytes: u64,
    /// Datagrams or messages sent.
    pub sent_units: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
}

/// A binary that cargo built beside this test.
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test.parent().expect("a file is in a folder");
    let folder = if folder.ends_with("deps") { folder.parent().expect("deps is in a folder") } else { folder };
    folder.join(name)
}

/// A generator that is not started yet.
#[derive(Debug)]
pub struct Traffic {
    command: Command,
}

impl Traffic {
    /// The generator inside a namespace; `arguments` are separated by blanks.
    pub fn new(namespace: &Namespace, arguments: &str) -> Self {
        Self::of(&built("traffic"), namespace, arguments)
    }

    /// A copy of the generator, or a program that runs it.
    pub fn of(program: &Path, namespace: &Namespace, arguments: &str) -> Self {
        let mut command = namespace.command(program);
        command.args(arguments.split_whitespace());
        Self { command }
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// The command, to change more.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it.
    ///
    /// # Errors
    /// Where it can't be run.
    pub fn start(mut self) -> Result<Running> {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(&mut self.command).with_context(|| format!("failed to run {:?}", self.command))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = BufReader::new(output.context("standard output is a pipe")?);
        Ok(Running { child, input, output })
    }

    /// Runs it to its end and gives its last report.
    ///
    /// # Errors
    /// Where it fails or reports nothing.
    pub fn run(self) -> Result<Report> {
        self.run_all()?.pop().context("the generator reported nothing")
    }

    /// Runs it to its end and gives all its reports.
    ///
    /// # Errors
    /// Where it fails.
    pub fn run_all(self) -> Result<Vec<Report>> {
        self.start()?.finish()
    }
}

/// A program that was just copied is busy while a child that another test forks still holds the descriptor it was
/// written through, so until that child has called exec.
const WRITTEN_DEADLINE: Duration = Duration::from_secs(5);

fn spawn(command: &mut Command) -> io::Result<Child> {
    let spawned = wait_until(WRITTEN_DEADLINE, || match command.spawn() {
        Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => None,
        result => Some(result),
    });
    spawned.unwrap_or_else(|| command.spawn())
}

/// A running generator; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its next report.
    ///
    /// # Errors
    /// Where it ends without one.
    pub fn report(&mut self) -> Result<Report> {
        self.next()?.context("the generator ended without a report")
    }

    /// Lets it go on from where it pauses.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn go_on(&mut self) -> Result<()> {
        let input = self.input.as_mut().context("the input is closed")?;
        input.write_all(b"\n").and_then(|()| input.flush()).context("the generator is gone")
    }

    /// Closes its input, waits for its end and gives the reports that were not read yet.
    ///
    /// # Errors
    /// Where it fails.
    pub fn finish(mut self) -> Result<Vec<Report>> {
        self.input = None;
        let mut reports = Vec::new();
        while let Some(report) = self.next()? {
            reports.push(report);
        }
        let status = self.child.wait().context("failed to wait for the generator")?;
        if !status.success() {
            bail!("the generator ended with {status} after {reports:?}");
        }
        Ok(reports)
    }

    fn next(&mut self) -> Result<Option<Report>> {
        let mut line = String::new();
        let count = self.output.read_line(&mut line).context("failed to read a report")?;
        if count == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line).map(Some).with_context(|| format!("not a report: {line}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}
