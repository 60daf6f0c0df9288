//! Running commands: printed before they run, watched while they run, named when they fail.

use std::{
    io::{self, BufRead, BufReader, IsTerminal, PipeReader, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// How a watched command ended.
pub enum Ended {
    /// By itself.
    Exited(ExitStatus),
    /// It was stopped at its time limit.
    TimedOut(Duration),
}

impl Ended {
    /// Whether the command did what it was asked to.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Exited(status) if status.success())
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "{status}"),
            Self::TimedOut(limit) => write!(f, "stopped at its time limit of {} s", limit.as_secs()),
        }
    }
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) { word.into() } else { format!("'{word}'") }
}

/// Prints a line about what is being done.
pub fn say(line: &str) {
    eprintln!("xtask: {line}");
}

/// Prints the command, runs it with this terminal, and fails where it fails.
pub fn run(command: &mut Command) -> Result<()> {
    say(&shown(command));
    let status = command.status().with_context(|| format!("failed to start {}", shown(command)))?;
    if !status.success() {
        bail!("failed to run {}: {status}", shown(command));
    }
    Ok(())
}

/// Runs the command silently and gives its standard output, or fails with the end of its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("failed to start {}", shown(command)))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("failed to run {}: {}: {}", shown(command), output.status, last_line(&complaint));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim()
}

/// Runs the command, its standard output going where it was sent, or fails with the end of its standard error.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    let child = command.stderr(Stdio::piped()).spawn();
    let child = child.with_context(|| format!("failed to start {}", shown(command)))?;
    let output = child.wait_with_output().context("failed to wait for a command")?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("failed to run {}: {}: {}", shown(command), output.status, last_line(&complaint));
    }
    Ok(())
}

/// Prints the command, runs it with both outputs copied live and handed to `on_line`, and stops it at `limit`.
pub fn watch(command: &mut Command, limit: Duration, mut on_line: impl FnMut(&str)) -> Result<Ended> {
    say(&shown(command));
    follow(command, limit, |line| {
        show(line);
        on_line(line);
    })
}

/// Runs the command with every line of both outputs handed to `on_line`, and stops it at `limit`.
pub fn follow(command: &mut Command, limit: Duration, mut on_line: impl FnMut(&str)) -> Result<Ended> {
    let (reader, writer) = io::pipe().context("failed to make a pipe")?;
    let second = writer.try_clone().context("failed to share a pipe")?;
    command.stdout(writer).stderr(second).stdin(Stdio::null());
    let watched = Watched::start(command, limit)?;
    // Close this side's writers, else the reader below never sees the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    read_lines(reader, &mut on_line);
    watched.wait()
}

/// Prints a line of a command's.
pub fn show(line: &str) {
    // Losing a copy on a closed terminal must not stop the command.
    let _ = writeln!(io::stderr(), "{line}");
}

/// A running command with a time limit.
struct Watched {
    child: Child,
    limit: Duration,
    finished: mpsc::Sender<()>,
    watchdog: thread::JoinHandle<bool>,
}

impl Watched {
    fn start(command: &mut Command, limit: Duration) -> Result<Self> {
        // A process group of its own lets the limit reach the grandchildren; at a terminal it would take Ctrl-C away.
        let has_own_group = !io::stdin().is_terminal();
        if has_own_group {
            command.process_group(0);
        }
        let child = command.spawn().with_context(|| format!("failed to start {}", shown(command)))?;
        let (finished, deadline) = mpsc::channel::<()>();
        let id = child.id().cast_signed();
        let watchdog = thread::spawn(move || stop_at_limit(&deadline, limit, if has_own_group { -id } else { id }));
        Ok(Self { child, limit, finished, watchdog })
    }

    fn wait(mut self) -> Result<Ended> {
        let status = self.child.wait().context("failed to wait for a command")?;
        drop(self.finished);
        let is_stopped = self.watchdog.join().expect("the watchdog only waits and kills");
        Ok(if is_stopped { Ended::TimedOut(self.limit) } else { Ended::Exited(status) })
    }
}

/// Waits for the command's end or its limit; true where the limit came first and the command was stopped.
fn stop_at_limit(finished: &mpsc::Receiver<()>, limit: Duration, target: libc::pid_t) -> bool {
    if finished.recv_timeout(limit) != Err(mpsc::RecvTimeoutError::Timeout) {
        return false;
    }
    // SAFETY: kill takes no pointers; the target is a child that has not been waited for.
    unsafe { libc::kill(target, libc::SIGKILL) };
    true
}

fn read_lines(reader: PipeReader, on_line: &mut impl FnMut(&str)) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| 0 < read) {
        on_line(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watch_hands_on_every_line_and_the_status() {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let ended = watch(&mut command, Duration::from_secs(60), |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["one", "two"]);
        assert!(matches!(ended, Ended::Exited(status) if status.code() == Some(3)));
    }

    #[test]
    fn watch_stops_a_command_at_its_limit() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let ended = watch(&mut command, Duration::from_millis(50), |_| ()).unwrap();
        assert!(matches!(ended, Ended::TimedOut(_)));
    }

    #[test]
    fn a_failing_command_is_named_with_its_last_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo first >&2; echo 'no such thing' >&2; exit 1"]);
        let complaint = output(&mut command).unwrap_err().to_string();
        assert!(complaint.contains("sh -c") && complaint.ends_with("no such thing"), "{complaint}");
    }
}
