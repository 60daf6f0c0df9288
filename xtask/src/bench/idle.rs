//! `bench idle`: what the agent takes while nothing happens, without flows and with many open ones.

use std::{ffi::OsString, path::Path, thread, time::Duration};

use anyhow::Result;
use clap::Args;

use super::{agent::Agent, flows::Holders, netns::Namespace};
use crate::{clock::Stopwatch, command};

/// Arguments of `bench idle`.
#[derive(Args)]
pub struct IdleArguments {
    /// Open flows: TCP sockets of established connections, both ends counted
    #[arg(long, default_value_t = 100_000)]
    flows: usize,
    /// Seconds to look on, each time
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Arguments of `pktscope run`
    #[arg(last = true)]
    agent_arguments: Vec<OsString>,
}

/// After a start or a burst, until the agent has read, swept and written what there is.
const SETTLING: Duration = Duration::from_secs(10);

/// Measures and prints.
pub fn measure(program: &Path, arguments: &IdleArguments) -> Result<()> {
    let agent = Agent::start(program, &arguments.agent_arguments)?;
    println!("{:<22} {:>14} {:>12} {:>12}", "", "CPU of a core", "resident", "at most");
    agent.forget_most()?;
    look("idle", &agent, arguments);
    agent.forget_most()?;
    let namespace = Namespace::new()?;
    command::say(&format!("opening {} flows", arguments.flows));
    let holders = Holders::start(&namespace, arguments.flows)?;
    look(&format!("{} open flows", arguments.flows), &agent, arguments);
    agent.forget_most()?;
    drop(holders);
    look("flows closed again", &agent, arguments);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "bytes far below 2⁵³")]
fn look(name: &str, agent: &Agent, arguments: &IdleArguments) {
    thread::sleep(SETTLING);
    let (watch, before) = (Stopwatch::start(), agent.cpu());
    thread::sleep(Duration::from_secs(arguments.seconds));
    let share = agent.cpu().saturating_sub(before).as_secs_f64() / watch.elapsed().as_secs_f64();
    let [now, most] = agent.resident_bytes().map(|bytes| bytes as f64 / (1024.0 * 1024.0));
    println!("{name:<22} {:>12.2} % {now:>8.1} MiB {most:>8.1} MiB", share * 100.0);
}
