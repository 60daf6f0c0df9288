//! Root: had already, or through `sudo`, asked for once and with a reason.

use std::{ffi::OsStr, io::IsTerminal, process::Command, process::Stdio, thread, time::Duration};

use anyhow::{Result, bail};

use crate::{command, workspace};

/// sudo's shortest customary memory is 5 minutes; refreshed well inside it, nobody is asked twice.
const REFRESH_INTERVAL: Duration = Duration::from_secs(120);

/// The way to run a command as root.
#[derive(Clone, Copy, Debug)]
pub enum Root {
    /// This process is root.
    Had,
    /// `sudo` lets this user.
    Sudo,
}

impl Root {
    /// Gets root, saying why it is needed; asks for a password at most once, and only at a terminal.
    pub fn acquire(reason: &str) -> Result<Self> {
        if is_root() {
            return Ok(Self::Had);
        }
        if workspace::find_program("sudo").is_none() {
            bail!("root is needed to {reason}, and there is no sudo: run this command as root");
        }
        if is_sudo_silent() {
            return Ok(Self::Sudo);
        }
        if !std::io::stdin().is_terminal() {
            bail!("root is needed to {reason}; sudo wants a password and there is no terminal to ask at: run as root");
        }
        command::say(&format!("root is needed to {reason}: asking sudo"));
        if !Command::new("sudo").arg("--validate").status().is_ok_and(|status| status.success()) {
            bail!("root is needed to {reason}, and sudo refused: run this command as root");
        }
        thread::spawn(keep_fresh);
        Ok(Self::Sudo)
    }

    /// A command that runs `program` as root with the variables given, which sudo would otherwise drop.
    pub fn command(self, program: impl AsRef<OsStr>, variables: &[(&str, String)]) -> Command {
        match self {
            Self::Had => {
                let mut command = Command::new(program);
                command.envs(variables.iter().map(|(name, value)| (name, value)));
                command
            }
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.args(["--", "env"]).args(variables.iter().map(|(name, value)| format!("{name}={value}")));
                command.arg(program);
                command
            }
        }
    }
}

/// Whether this process is root.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn is_sudo_silent() -> bool {
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn keep_fresh() {
    while is_sudo_silent() {
        thread::sleep(REFRESH_INTERVAL);
    }
}
