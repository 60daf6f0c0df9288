//! `cargo xtask e2e`: the end-to-end tests, built as the user and run as root.

use std::{ffi::OsString, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    build_ebpf::{self, Profile},
    ci::{Counts, Outcome, Verdict},
    command,
    root::Root,
    toolchain::{self, Toolchain},
    workspace,
};

/// The tests bound themselves; this bounds a hang of the machine under them.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Arguments of `e2e`.
#[derive(Args)]
pub struct E2eArguments {
    /// Filters and options of the test program
    #[arg(last = true)]
    test_arguments: Vec<OsString>,
}

/// Runs the tests and fails where one does.
pub fn run(arguments: &E2eArguments) -> Result<()> {
    let root = Root::acquire("run the end-to-end tests")?;
    let outcome = run_as(root, &toolchain::ensure()?, &arguments.test_arguments)?;
    match outcome.verdict {
        Verdict::Failed(reason) => bail!("the end-to-end tests failed: {reason}"),
        _ => Ok(()),
    }
}

/// The tests as a step of a larger run: skipped aloud where root cannot be had.
pub fn step(toolchain: &Toolchain) -> Result<Outcome> {
    match Root::acquire("run the end-to-end tests") {
        Ok(root) => run_as(root, toolchain, &[]),
        Err(reason) => Ok(Outcome::single("e2e", Verdict::Skipped(format!("{reason:#}")))),
    }
}

fn run_as(root: Root, toolchain: &Toolchain, arguments: &[OsString]) -> Result<Outcome> {
    if !workspace::root().join("tests/e2e").is_dir() {
        return Ok(Outcome::single("e2e", Verdict::Skipped("this tree has no end-to-end tests".into())));
    }
    let agent = build_ebpf::agent_with(toolchain, Profile::Dev)?;
    let program = build(toolchain)?;
    let variables = [("PKTSCOPE_BIN", agent.display().to_string()), ("RUST_BACKTRACE", "1".into())];
    let mut tests = root.command(&program, &variables);
    tests.args(arguments).current_dir(workspace::root().join("tests"));
    let mut counts = Counts::default();
    let ended = command::watch(&mut tests, LIMIT, |line| counts.take_line(line))?;
    let verdict = if ended.is_success() { Verdict::Passed } else { Verdict::Failed(ended.to_string()) };
    Ok(Outcome::of_cases("e2e", verdict, counts))
}

/// Builds the test program and gives its path.
fn build(toolchain: &Toolchain) -> Result<PathBuf> {
    let mut cargo = toolchain.cargo("test")?;
    cargo.args(["--package", "pktscope-tests", "--test", "e2e", "--no-run"]);
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    command::say(&command::shown(&cargo));
    let messages = cargo.output().context("failed to start cargo")?;
    let messages = String::from_utf8_lossy(&messages.stdout);
    messages.lines().find_map(executable).context("failed to build the end-to-end tests")
}

/// The path of the test program, from one of cargo's messages.
fn executable(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    (message["target"]["name"] == "e2e").then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_is_found_among_cargos_messages() {
        let other = r#"{"reason":"compiler-artifact","target":{"name":"pktscope"},"executable":"/t/pktscope"}"#;
        let wanted = r#"{"reason":"compiler-artifact","target":{"name":"e2e"},"executable":"/t/e2e-1"}"#;
        assert_eq!([other, "not json", wanted].into_iter().find_map(executable), Some("/t/e2e-1".into()));
        assert_eq!(executable(r#"{"target":{"name":"e2e"},"executable":null}"#), None);
    }
}
