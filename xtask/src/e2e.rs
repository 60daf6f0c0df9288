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
    let outcome = run_as(root, &build(&toolchain::ensure()?)?, &arguments.test_arguments)?;
    match outcome.verdict {
        Verdict::Failed(reason) => bail!("the end-to-end tests failed: {reason}"),
        _ => Ok(()),
    }
}

/// What the tests consist of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// The agent.
    pub agent: PathBuf,
    /// The test program.
    pub e2e: PathBuf,
    /// Programs that it runs, which it looks for in the folder above its own.
    pub beside: Vec<PathBuf>,
}

/// The tests as a step of a larger run: skipped aloud where root cannot be had.
pub fn step(programs: &Programs) -> Result<Outcome> {
    match Root::acquire("run the end-to-end tests") {
        Ok(root) => run_as(root, programs, &[]),
        Err(reason) => Ok(Outcome::single("e2e", Verdict::Skipped(format!("{reason:#}")))),
    }
}

fn run_as(root: Root, programs: &Programs, arguments: &[OsString]) -> Result<Outcome> {
    let variables = [("PKTSCOPE_BIN", programs.agent.display().to_string()), ("RUST_BACKTRACE", "1".into())];
    let mut tests = root.command(&programs.e2e, &variables);
    tests.args(arguments).current_dir(workspace::root().join("tests"));
    let mut counts = Counts::default();
    let ended = command::watch(&mut tests, LIMIT, |line| counts.take_line(line))?;
    let verdict = if ended.is_success() { Verdict::Passed } else { Verdict::Failed(ended.to_string()) };
    Ok(Outcome::of_cases("e2e", verdict, counts))
}

/// Builds the agent and its tests.
pub fn build(toolchain: &Toolchain) -> Result<Programs> {
    let agent = build_ebpf::agent_with(toolchain, Profile::Dev)?;
    let mut cargo = toolchain.cargo("test")?;
    cargo.args(["--package", "pktscope-tests", "--test", "e2e", "--no-run"]);
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    command::say(&command::shown(&cargo));
    let messages = cargo.output().context("failed to start cargo")?;
    let messages = String::from_utf8_lossy(&messages.stdout);
    programs(agent, &messages).context("failed to build the end-to-end tests")
}

fn programs(agent: PathBuf, messages: &str) -> Option<Programs> {
    let built: Vec<(String, PathBuf)> = messages.lines().filter_map(executable).collect();
    let e2e = built.iter().find(|(name, _)| name == "e2e").map(|(_, path)| path.clone())?;
    let beside = built.into_iter().filter(|(name, _)| name != "e2e").map(|(_, path)| path).collect();
    Some(Programs { agent, e2e, beside })
}

/// The name and path of an executable, from one of cargo's messages.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    Some((message["target"]["name"].as_str()?.into(), message["executable"].as_str()?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_among_cargos_messages() {
        let messages = [
            r#"{"reason":"compiler-artifact","target":{"name":"traffic"},"executable":"/t/traffic"}"#,
            "not json",
            r#"{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}"#,
            r#"{"reason":"compiler-artifact","target":{"name":"e2e"},"executable":"/t/deps/e2e-1"}"#,
        ];
        let found = programs("/t/pktscope".into(), &messages.join("\n")).unwrap();
        assert_eq!((found.e2e, found.beside), ("/t/deps/e2e-1".into(), vec!["/t/traffic".into()]));
        assert_eq!(programs("/t/pktscope".into(), messages[0]), None);
    }
}
