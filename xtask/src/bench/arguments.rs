//! Arguments of `cargo xtask bench`, and getting root for it.

use std::{env, os::unix::process::CommandExt, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use super::{agent::expect_no_other, detection, flow_tracker, flows, idle, kernel, overhead, replay};
use crate::{
    build_ebpf::{self, Profile},
    command,
    root::{self, Root},
};

/// The variable that hands the built agent to the same command run as root.
const AGENT: &str = "PKTSCOPE_BIN";

/// Arguments of `bench`.
#[derive(Args)]
pub struct BenchArguments {
    #[command(subcommand)]
    figure: Figure,
}

#[derive(Subcommand)]
enum Figure {
    /// Nanoseconds a run, instructions and load time of each kernel program, against an empty one
    Kernel(kernel::KernelArguments),
    /// Whole-machine CPU for the same work: nothing, an empty pair of programs, the agent
    Overhead(overhead::OverheadArguments),
    /// CPU and memory of the agent with nothing to do, and with many open flows
    Idle(idle::IdleArguments),
    /// Nanoseconds a packet and bytes a flow of the flow tracker, against flowscope 0.1.0
    Flow,
    /// Gigabytes and packets a second of `pktscope replay` on one core, and its memory
    Replay(replay::ReplayArguments),
    /// Rate, writes and memory of detection; precision, recall and false alerts of each rule on recordings with known attacks
    Detection(detection::DetectionArguments),
    /// Hold connections open until standard input closes; a part of `idle`
    #[command(hide = true)]
    HoldFlows(flows::HoldArguments),
}

/// Builds the agent for speed, becomes root, measures.
pub fn run(arguments: &BenchArguments) -> Result<()> {
    match &arguments.figure {
        Figure::HoldFlows(arguments) => return flows::hold(arguments),
        Figure::Flow => return flow_tracker::measure(),
        _ => {}
    }
    if let Figure::Detection(arguments) = &arguments.figure {
        detection::measure_cost()?;
        let Some(suite) = detection::suite(arguments) else { return Ok(()) };
        return detection::measure(&agent()?, &suite, arguments);
    }
    let agent = agent()?;
    if let Figure::Replay(arguments) = &arguments.figure {
        return replay::measure(&agent, arguments);
    }
    if !root::is_root() {
        return become_root(&agent);
    }
    expect_no_other(&agent)?;
    match &arguments.figure {
        Figure::Kernel(arguments) => kernel::measure(&agent, arguments),
        Figure::Overhead(arguments) => overhead::measure(&agent, arguments),
        Figure::Idle(arguments) => idle::measure(&agent, arguments),
        Figure::HoldFlows(_) | Figure::Flow | Figure::Replay(_) | Figure::Detection(_) => Ok(()),
    }
}

/// The agent built for speed: the one that was handed over, else built now.
fn agent() -> Result<PathBuf> {
    match env::var_os(AGENT) {
        Some(path) => Ok(PathBuf::from(path)),
        None => build_ebpf::agent(Profile::Release),
    }
}

/// Runs this very command again as root; gives back only an error.
fn become_root(agent: &std::path::Path) -> Result<()> {
    let root = Root::acquire("load kernel programs and make network namespaces")?;
    let own = env::current_exe().context("failed to find this program")?;
    let mut again = root.command(own, &[(AGENT, agent.display().to_string())]);
    again.args(env::args_os().skip(1));
    command::say(&command::shown(&again));
    Err(again.exec()).context("failed to start this program as root")
}
