//! The commands and their arguments.

use clap::{Parser, Subcommand};

use super::{
    alerts::AlertsArguments,
    baseline::BaselineArguments,
    config::ConfigArguments,
    destinations, dns, doctor, flows,
    listing::Listing,
    output::{Format, Json},
    place::Place,
    processes,
    replay::{self, ReplayArguments},
    rules,
    run::RunArguments,
    snapshot, status,
};

/// Which program sent every byte that leaves this host, where to, and is that normal for it.
#[derive(Debug, Parser)]
#[command(name = "pktscope", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 bad arguments or configuration, 3 missing privilege or kernel \
    feature, 4 another agent is running on this state directory."
)]
pub struct Arguments {
    #[command(flatten)]
    place: Place,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent in the foreground
    Run(RunArguments),
    /// Tell what this machine can do: every hook, attachable or not, why, and what is lost without it
    Doctor(Format),
    /// Ask the running agent how it is: hooks, losses, ledger, baseline, memory, rates
    Status(Format),
    /// List flows: who talked to whom, how much, how it ended
    #[command(after_help = flows::EXAMPLES)]
    Flows(Listing),
    /// List processes that own or owned a socket, and what they sent
    #[command(after_help = processes::EXAMPLES)]
    Processes(Listing),
    /// List where this host's programs sent something, by name or address
    #[command(after_help = destinations::EXAMPLES)]
    Destinations(Listing),
    /// List DNS answers seen on the wire, and who asked
    #[command(after_help = dns::EXAMPLES)]
    Dns(Listing),
    /// List alerts, or record a verdict on one
    Alerts(AlertsArguments),
    /// Show one line a rule: alerts, verdicts, false-positive ratio
    Rules(Format),
    /// Show, forget, export or import what is learned of each program
    Baseline(BaselineArguments),
    /// Print one snapshot of the host as JSON
    Snapshot(Json),
    /// Put a capture or a recording through the same pipeline, offline and unprivileged
    #[command(after_help = replay::EXAMPLES)]
    Replay(ReplayArguments),
    /// Check the configuration, or show it with every default
    Config(ConfigArguments),
}

impl Arguments {
    /// Does what is asked.
    ///
    /// # Errors
    /// Whatever keeps it from being done; [`super::Exit::of`] gives its exit code.
    pub fn run(&self) -> anyhow::Result<()> {
        let place = &self.place;
        match &self.command {
            Command::Run(arguments) => arguments.run(place),
            Command::Doctor(format) => doctor::run(place, *format),
            Command::Status(format) => status::run(place, *format),
            Command::Flows(listing) => flows::run(place, listing),
            Command::Processes(listing) => processes::run(place, listing),
            Command::Destinations(listing) => destinations::run(place, listing),
            Command::Dns(listing) => dns::run(place, listing),
            Command::Alerts(arguments) => arguments.run(place),
            Command::Rules(format) => rules::run(place, *format),
            Command::Baseline(arguments) => arguments.run(place),
            Command::Snapshot(_) => snapshot::run(place),
            Command::Replay(arguments) => arguments.run(place),
            Command::Config(arguments) => arguments.run(place),
        }
    }
}
