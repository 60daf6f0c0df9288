//! Saying what was done, and waiting for the word to go on.

use std::{
    fs,
    io::{self, Read, Write},
};

use anyhow::{Context, Result};
use pktscope_tests::traffic::Report;

/// A report of this process.
pub fn of_this_process(role: &str, stage: &str) -> Report {
    // SAFETY: these take nothing and cannot fail.
    let (parent, uid) = unsafe { (libc::getppid(), libc::geteuid()) };
    let executable = fs::read_link("/proc/self/exe").unwrap_or_default();
    Report {
        role: role.into(),
        stage: stage.into(),
        pid: std::process::id(),
        parent: parent.unsigned_abs(),
        uid,
        comm: fs::read_to_string("/proc/self/comm").unwrap_or_default().trim_end().into(),
        executable: executable.to_string_lossy().into_owned(),
        ..Report::default()
    }
}

/// Writes one report as one line at once, so that lines of several processes never mix.
pub fn print(report: &Report) -> Result<()> {
    let mut line = serde_json::to_string(report)?;
    line.push('\n');
    io::stdout().write_all(line.as_bytes()).and_then(|()| io::stdout().flush()).context("failed to report")
}

/// Waits for a line, or the end, of standard input.
pub fn wait_for_word() -> Result<()> {
    let mut byte = [0];
    // Read unbuffered: another process may have to read the next line.
    while io::stdin().lock().read(&mut byte).context("failed to read standard input")? == 1 && byte[0] != b'\n' {}
    Ok(())
}
