//! `bench overhead`: CPU for the same work with nothing, with an empty pair of programs, with the agent.

use std::{ffi::OsString, path::Path, thread, time::Duration};

use anyhow::Result;
use clap::Args;

use super::{agent::Agent, bpf::EmptyPair, cpu::Reading, load::Work, netns::Pair, quantile::Spread};
use crate::command;

/// Arguments of `bench overhead`.
#[derive(Args)]
pub struct OverheadArguments {
    /// Pairs of runs; medians are printed
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Arguments of `pktscope run`
    #[arg(last = true)]
    agent_arguments: Vec<OsString>,
}

/// Each takes a second or two of CPU, so that a tick of `/proc/stat` is less than 1 %.
const WORKS: [Work; 3] = [Work::Gigabytes(10), Work::Connections(40_000), Work::Datagrams(800_000)];
/// Before anything is counted, under every mode: caches, slabs and tables are as they are while the work goes on.
const WARM_UP: Work = Work::Connections(20_000);
/// What the agent does about a work after its end: longer than its sweep and its batch interval (1 s each).
const AFTERMATH: Duration = Duration::from_millis(2500);

/// What the work runs under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Nothing,
    EmptyPair,
    Agent,
}

const MODES: [Mode; 3] = [Mode::Nothing, Mode::EmptyPair, Mode::Agent];

/// One way of counting, out of both.
type Count = fn(&Reading) -> Duration;

const COUNTS: [(&str, Count); 2] = [("machine", |reading| reading.machine), ("tasks", |reading| reading.tasks)];

/// CPU of every work under every mode, in the order of [`WORKS`] and [`MODES`].
type Round = [[Reading; 3]; 3];

/// Measures and prints.
pub fn measure(program: &Path, arguments: &OverheadArguments) -> Result<()> {
    let pair = Pair::new()?;
    // Once to warm caches and the processor up; not counted.
    round(&pair, program, arguments, 0)?;
    let mut rounds = Vec::new();
    for number in 1..=arguments.rounds {
        command::say(&format!("round {number} of {}", arguments.rounds));
        rounds.push(round(&pair, program, arguments, number)?);
    }
    print(&rounds);
    Ok(())
}

/// Every mode once, each first in its turn, so that a drift of the machine meets all alike.
fn round(pair: &Pair, program: &Path, arguments: &OverheadArguments, number: usize) -> Result<Round> {
    let mut round = Round::default();
    for turn in 0..MODES.len() {
        let mode = (turn + number) % MODES.len();
        let readings = under(MODES[mode], pair, program, arguments)?;
        for (work, reading) in readings.into_iter().enumerate() {
            round[work][mode] = reading;
        }
    }
    Ok(round)
}

fn under(mode: Mode, pair: &Pair, program: &Path, arguments: &OverheadArguments) -> Result<[Reading; 3]> {
    let empty = (mode == Mode::EmptyPair).then(EmptyPair::attach).transpose()?;
    let agent = (mode == Mode::Agent).then(|| Agent::start(program, &arguments.agent_arguments)).transpose()?;
    // An agent also hashes a program once: what works here is not to be met for the first time while it is counted.
    WARM_UP.take(pair)?;
    agent.iter().for_each(Agent::wait_settled);
    let mut readings = [Reading::default(); 3];
    for (at, work) in WORKS.into_iter().enumerate() {
        readings[at] = cost(work, pair, agent.as_ref())?;
    }
    drop((empty, agent));
    Ok(readings)
}

/// CPU during the work, and the agent's until it is done with it.
fn cost(work: Work, pair: &Pair, agent: Option<&Agent>) -> Result<Reading> {
    let agent_cpu = || agent.map(Agent::cpu).unwrap_or_default();
    let (before, agent_before) = (Reading::take()?, agent_cpu());
    work.take(pair)?;
    let (used, agent_during) = (Reading::take()?.since(before), agent_cpu());
    if agent.is_some() {
        thread::sleep(AFTERMATH);
    }
    let agent_after = agent_cpu();
    Ok(Reading {
        machine: used.machine + agent_after.saturating_sub(agent_during),
        tasks: used.tasks + agent_after.saturating_sub(agent_before),
        agent: agent_after.saturating_sub(agent_before),
    })
}

fn print(rounds: &[Round]) {
    println!(
        "CPU for the same work without ÷ with, agent included: 1 is free. Median of {} pairs (quartiles).",
        rounds.len()
    );
    println!("machine: all processors, by /proc/stat. tasks: load generators, softirq threads and agent only.");
    println!("the agent's own: what its threads took, of the tasks' time with it.\n");
    println!(
        "{:<12} {:<8} {:>13}   {:<26} {:<26} {:>15}",
        "per", "counted", "CPU without", "empty pair", "agent", "the agent's own"
    );
    for (at, work) in WORKS.into_iter().enumerate() {
        let of = |mode: usize, count: Count| -> Vec<f64> {
            rounds.iter().map(|round| count(&round[at][mode]).as_secs_f64()).collect()
        };
        let own = shown_cost(Spread::of(of(2, |reading| reading.agent)).median, work);
        for (name, count) in COUNTS {
            let without = of(0, count);
            let [empty, agent] = [1, 2].map(|mode| ratio(&without, &of(mode, count)).to_string());
            let unit = shown_cost(Spread::of(without).median, work);
            println!("{:<12} {name:<8} {unit:>13}   {empty:<26} {agent:<26} {own:>15}", work.unit());
        }
    }
}

fn ratio(without: &[f64], with: &[f64]) -> Spread {
    Spread::of(without.iter().zip(with).map(|(without, with)| without / with).collect())
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2⁵³")]
fn shown_cost(seconds: f64, work: Work) -> String {
    let microseconds = seconds * 1e6 / work.units() as f64;
    if microseconds < 1000.0 { format!("{microseconds:.2} µs") } else { format!("{:.0} ms", microseconds / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let spread = ratio(&[1.0, 2.0, 3.0], &[2.0, 4.0, 3.0]);
        assert_eq!((spread.low, spread.median, spread.high), (0.5, 0.5, 0.75));
    }

    #[test]
    fn costs_are_shown_in_fitting_units() {
        assert_eq!(shown_cost(1.0, Work::Connections(40_000)), "25.00 µs");
        assert_eq!(shown_cost(3.0, Work::Gigabytes(10)), "300 ms");
    }
}
