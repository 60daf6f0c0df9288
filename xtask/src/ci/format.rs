//! Formatting and lints, with rustfmt and Clippy fetched where rustup lacks them.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Result;

use super::{Outcome, Verdict};
use crate::{command, toolchain::Toolchain, workspace};

/// A cold build of every dependency takes some minutes on two cores.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// `cargo fmt --check`.
pub fn format() -> Result<Outcome> {
    if let Err(reason) = ensure_component("rustfmt", "fmt") {
        return Ok(skipped("format", &reason));
    }
    let mut cargo = Command::new("cargo");
    cargo.current_dir(workspace::root()).args(["fmt", "--all", "--check"]);
    watched("format", &mut cargo)
}

/// Clippy on every target of the workspace, warnings being errors.
pub fn clippy(toolchain: &Toolchain) -> Result<Outcome> {
    if let Err(reason) = ensure_component("clippy", "clippy") {
        return Ok(skipped("clippy", &reason));
    }
    // `--all-targets` leaves out targets with `test = false`, so the end-to-end tests are named.
    for targets in [["--workspace", "--all-targets"].as_slice(), &["--workspace", "--test", "e2e"]] {
        let mut cargo = toolchain.cargo("clippy")?;
        let outcome = watched("clippy", cargo.args(targets).args(["--", "--deny", "warnings"]))?;
        if outcome.is_failed() {
            return Ok(outcome);
        }
    }
    Ok(Outcome::single("clippy", Verdict::Passed))
}

fn skipped(name: &str, reason: &anyhow::Error) -> Outcome {
    Outcome::single(name, Verdict::Skipped(format!("{reason:#}")))
}

fn watched(name: &str, cargo: &mut Command) -> Result<Outcome> {
    let ended = command::watch(cargo, LIMIT, |_| ())?;
    let verdict = if ended.is_success() { Verdict::Passed } else { Verdict::Failed(ended.to_string()) };
    Ok(Outcome::single(name, verdict))
}

/// Makes sure that `cargo <subcommand>` is there, fetching its rustup component where it is not.
fn ensure_component(component: &str, subcommand: &str) -> Result<()> {
    let mut version = Command::new("cargo");
    version.args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if version.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    command::say(&format!("will install rustup's component {component}"));
    command::run(Command::new("rustup").args(["component", "add", component]))
}
