//! `cargo xtask build` and `cargo xtask run`.

use std::{ffi::OsString, fs, os::unix::process::CommandExt, path::Path};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    build_ebpf::{self, Profile},
    command,
    root::Root,
    workspace,
};

/// Arguments of `build`.
#[derive(Args)]
pub struct BuildArguments {
    /// Optimise: what `run` uses
    #[arg(long)]
    release: bool,
    /// Link no shared library: for images that have none
    #[arg(long = "static")]
    is_static: bool,
}

/// Arguments of `run`.
#[derive(Args)]
pub struct RunArguments {
    /// Build without optimisation: quicker to build, dearer to run
    #[arg(long)]
    dev: bool,
    /// Arguments of `pktscope run`; without `--state-dir` and `--runtime-dir` both are below target/dev-state
    #[arg(last = true)]
    agent_arguments: Vec<OsString>,
}

/// Builds the agent and prints where it is.
pub fn build(arguments: &BuildArguments) -> Result<()> {
    let profile = if arguments.release { Profile::Release } else { Profile::Dev };
    let agent = if arguments.is_static { build_ebpf::static_agent(profile)? } else { build_ebpf::agent(profile)? };
    println!("{}", agent.display());
    Ok(())
}

/// Builds the agent, then becomes it, as root.
pub fn run(arguments: &RunArguments) -> Result<()> {
    let profile = if arguments.dev { Profile::Dev } else { Profile::Release };
    let agent = build_ebpf::agent(profile)?;
    let root = Root::acquire("load kernel programs")?;
    let state = workspace::target().join("dev-state");
    fs::create_dir_all(&state).with_context(|| format!("failed to create {}", state.display()))?;
    let mut command = root.command(&agent, &passed_on());
    command.arg("run").args(folder_arguments(&state, &arguments.agent_arguments)).args(&arguments.agent_arguments);
    command::say(&command::shown(&command));
    command::say(&format!(
        "ask it from another terminal: {} status --runtime-dir {}",
        agent.display(),
        state.display()
    ));
    Err(command.exec()).with_context(|| format!("failed to start {}", agent.display()))
}

/// The variables that change what the agent prints; sudo drops them otherwise.
fn passed_on() -> Vec<(&'static str, String)> {
    let set = |name| std::env::var(name).ok().map(|value| (name, value));
    ["RUST_LOG", "RUST_BACKTRACE", "NO_COLOR"].into_iter().filter_map(set).collect()
}

/// The folders of a developer's agent, except where the caller named others or a configuration that may.
fn folder_arguments(state: &Path, given: &[OsString]) -> Vec<OsString> {
    let is_given = |flag: &str| given.iter().any(|word| word.to_string_lossy().split('=').next() == Some(flag));
    let flags = ["--state-dir", "--runtime-dir"].into_iter().filter(|flag| !is_given(flag));
    flags.flat_map(|flag| [OsString::from(flag), state.into()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &[&str], expected: &[&str]) {
        let given: Vec<OsString> = given.iter().map(Into::into).collect();
        assert_eq!(folder_arguments(Path::new("/t"), &given), expected);
    }

    #[test]
    fn folders_default_to_the_developers_own() {
        check(&[], &["--state-dir", "/t", "--runtime-dir", "/t"]);
        check(&["--events", "-"], &["--state-dir", "/t", "--runtime-dir", "/t"]);
        check(&["--state-dir", "/s"], &["--runtime-dir", "/t"]);
        check(&["--state-dir=/s", "--runtime-dir=/r"], &[]);
    }
}
