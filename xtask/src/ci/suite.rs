//! The order of the steps.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{Outcome, Verdict, deny, format, outcome, test as unit};
use crate::{
    clock::Stopwatch,
    command, e2e,
    kernels::{self, Kernel, Selection},
    tidy,
    toolchain::{self, Toolchain},
};

/// Arguments of `test`.
#[derive(Args, Default)]
pub struct TestArguments {
    /// Leave out what needs root: the end-to-end tests, on this kernel and on others
    #[arg(long)]
    unprivileged: bool,
    /// Boot every kernel of the list with every test, not only the oldest and the newest with some
    #[arg(long, conflicts_with = "unprivileged")]
    kernels: bool,
    /// Boot no other kernel
    #[arg(long, conflicts_with = "kernels")]
    no_kernels: bool,
}

impl TestArguments {
    fn kernels(&self) -> Vec<Kernel> {
        match (self.no_kernels, self.kernels) {
            (true, _) => Vec::new(),
            (_, true) => Kernel::all().to_vec(),
            _ => Kernel::extremes().to_vec(),
        }
    }

    fn selection(&self) -> Selection {
        if self.kernels { Selection::of(&[]) } else { Selection::common() }
    }
}

/// A step: its name for when it breaks, and what it does.
type Step<'a> = (&'a str, Box<dyn Fn() -> Result<Outcome> + 'a>);

/// Runs every check to its end; the summary is the last thing printed, the exit code says whether all passed.
pub fn test(arguments: &TestArguments) -> Result<ExitCode> {
    let toolchain = toolchain::ensure()?;
    let steps = unprivileged(&toolchain);
    let mut outcomes: Vec<Outcome> = steps.into_iter().map(|(name, take)| timed(name, &*take)).collect();
    if !arguments.unprivileged {
        outcomes.extend(privileged(&toolchain, &arguments.kernels(), &arguments.selection()));
    }
    Ok(outcome::conclude(&outcomes))
}

fn unprivileged(toolchain: &Toolchain) -> Vec<Step<'_>> {
    vec![
        ("format", Box::new(format::format)),
        ("tidy", Box::new(tidy::step)),
        ("clippy", Box::new(|| format::clippy(toolchain))),
        ("deny", Box::new(deny::step)),
        ("tests", Box::new(|| unit::unprivileged(toolchain))),
    ]
}

/// The end-to-end tests on this kernel, then on others.
fn privileged(toolchain: &Toolchain, kernels: &[Kernel], selection: &Selection) -> Vec<Outcome> {
    command::say("== e2e");
    let programs = match e2e::build(toolchain) {
        Ok(programs) => programs,
        Err(reason) => return vec![broken("e2e", &reason)],
    };
    let mut outcomes = vec![timed("e2e", &|| e2e::step(&programs))];
    if !kernels.is_empty() {
        command::say("== kernels");
        outcomes.extend(kernels::steps(kernels, &programs, selection));
    }
    outcomes
}

fn broken(name: &str, reason: &anyhow::Error) -> Outcome {
    Outcome::single(name, Verdict::Failed(format!("{reason:#}")))
}

fn timed(name: &str, take: &dyn Fn() -> Result<Outcome>) -> Outcome {
    command::say(&format!("== {name}"));
    let watch = Stopwatch::start();
    let outcome = take().unwrap_or_else(|reason| broken(name, &reason));
    Outcome { took: watch.elapsed(), ..outcome }
}
