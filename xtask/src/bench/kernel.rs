//! `bench kernel`: what each kernel program costs, against an empty one that sees the same packets.

use std::{ffi::OsString, path::Path};

use anyhow::Result;
use clap::Args;

use super::{
    agent::Agent,
    bpf::{EmptyClassifier, EmptyPair, ProgramInfo, Statistics},
    load::Work,
    netns::Pair,
    quantile::Spread,
};
use crate::command;

/// Arguments of `bench kernel`.
#[derive(Args)]
pub struct KernelArguments {
    /// How often each work is done; medians are printed
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Arguments of `pktscope run`
    #[arg(last = true)]
    agent_arguments: Vec<OsString>,
}

/// Enough of each that a program runs some hundred thousand times.
const WORKS: [Work; 3] = [Work::Gigabytes(4), Work::Connections(10_000), Work::Datagrams(200_000)];

/// One program during one work: runs a unit and nanoseconds a run, one value a round.
#[derive(Clone, Default)]
struct Column {
    runs: Vec<f64>,
    nanoseconds: Vec<f64>,
}

/// Measures and prints.
pub fn measure(program: &Path, arguments: &KernelArguments) -> Result<()> {
    let pair = Pair::new()?;
    let empty = EmptyPair::attach()?;
    // Inside, so that its program is on the interface's way out, and the empty one behind it.
    let agent = Agent::start_in(&pair.near, program, &arguments.agent_arguments)?;
    let interface = pair.near_interface()?;
    let classifier = pair.near.run(|| EmptyClassifier::attach(interface));
    if let Err(fault) = &classifier {
        command::say(&format!(
            "no empty program on the interface's way out (before Linux 6.6 there is no TCX): {fault:#}"
        ));
    }
    let empty = References { pair: empty, classifier: classifier.ok() };
    let _statistics = Statistics::enable()?;
    let known = read(&empty, &agent)?;
    let mut columns = vec![[Column::default(), Column::default(), Column::default()]; known.len()];
    for round in 1..=arguments.rounds {
        command::say(&format!("round {round} of {}", arguments.rounds));
        for (at, work) in WORKS.into_iter().enumerate() {
            let before = read(&empty, &agent)?;
            work.take(&pair)?;
            let after = read(&empty, &agent)?;
            for (row, (before, after)) in columns.iter_mut().zip(before.iter().zip(&after)) {
                row[at].take(work, before, after);
            }
        }
    }
    print(&empty, &known, &columns);
    Ok(())
}

/// The empty programs that others are compared with.
struct References {
    pair: EmptyPair,
    classifier: Option<EmptyClassifier>,
}

impl References {
    /// Where a program's reference stands among what is read.
    fn index_for(&self, name: &str) -> usize {
        match name {
            "ingress" | "bench_in" => 1,
            "tc_egress" | "bench_tc" if self.classifier.is_some() => 2,
            _ => 0,
        }
    }

    fn len(&self) -> usize {
        2 + usize::from(self.classifier.is_some())
    }
}

/// The empty programs, egress, ingress and the interface's, then the agent's.
fn read(empty: &References, agent: &Agent) -> Result<Vec<ProgramInfo>> {
    let mut infos = vec![ProgramInfo::of(&empty.pair.egress)?, ProgramInfo::of(&empty.pair.ingress)?];
    infos.extend(empty.classifier.as_ref().map(|classifier| ProgramInfo::of(&classifier.program)).transpose()?);
    infos.extend(ProgramInfo::of_process(agent.pid())?);
    Ok(infos)
}

impl Column {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2⁵³")]
    fn take(&mut self, work: Work, before: &ProgramInfo, after: &ProgramInfo) {
        let runs = (after.runs - before.runs) as f64;
        self.runs.push(runs / work.units() as f64);
        if 0.0 < runs {
            self.nanoseconds.push((after.run_nanoseconds - before.run_nanoseconds) as f64 / runs);
        }
    }

    fn nanoseconds(&self) -> f64 {
        Spread::of(self.nanoseconds.clone()).median
    }

    fn cell(&self, empty: f64) -> String {
        let runs = Spread::of(self.runs.clone()).median;
        if self.nanoseconds.is_empty() {
            return format!("{:>28}", "-");
        }
        let nanoseconds = self.nanoseconds();
        format!("{runs:>10.1} {nanoseconds:>7.0} ns {:>5.2} ×", nanoseconds / empty)
    }
}

fn print(empty: &References, infos: &[ProgramInfo], columns: &[[Column; 3]]) {
    println!("Per unit of work: runs, nanoseconds a run, that ÷ the empty program's in the same run (medians);");
    println!(
        "ingress is compared with the empty ingress program, tc_egress with the empty one on the interface's way out,"
    );
    println!("everything else with the empty egress program. All that tc_egress sees here has an inet socket.");
    println!("Loading takes at most the time shown: until the next program of the agent was loaded.\n");
    print!("{:<16} {:>6} {:>9} {:>8}", "program", "insns", "verified", "load ms");
    WORKS.iter().for_each(|work| print!(" {:>28}", work.unit()));
    println!();
    for (at, (info, row)) in infos.iter().zip(columns).enumerate() {
        let next = infos.get(at + 1).filter(|_| empty.len() <= at);
        let load = next.map_or("-".into(), |next| milliseconds(next.loaded_at.saturating_sub(info.loaded_at)));
        print!("{:<16} {:>6} {:>9} {load:>8}", info.name, info.instructions, info.verified_instructions);
        let reference = &columns[empty.index_for(&info.name)];
        row.iter().zip(reference).for_each(|(column, empty)| print!(" {}", column.cell(empty.nanoseconds())));
        println!();
    }
}

fn milliseconds(nanoseconds: u64) -> String {
    format!("{}.{}", nanoseconds / 1_000_000, nanoseconds / 100_000 % 10)
}
