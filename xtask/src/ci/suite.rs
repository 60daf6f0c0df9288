//! The order of the steps.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{Outcome, Verdict, deny, format, outcome, test as unit};
use crate::{clock::Stopwatch, command, e2e, tidy, toolchain, toolchain::Toolchain};

/// Arguments of `test`.
#[derive(Args, Default)]
pub struct TestArguments {
    /// Leave out what needs root: the end-to-end tests
    #[arg(long)]
    unprivileged: bool,
}

impl TestArguments {
    /// What CI runs.
    pub fn ci() -> Self {
        Self::default()
    }
}

/// A step: its name for when it breaks, and what it does.
type Step<'a> = (&'a str, Box<dyn Fn() -> Result<Outcome> + 'a>);

/// Runs every check to its end; the summary is the last thing printed, the exit code says whether all passed.
pub fn test(arguments: &TestArguments) -> Result<ExitCode> {
    let toolchain = toolchain::ensure()?;
    let outcomes: Vec<Outcome> =
        steps(&toolchain, arguments).into_iter().map(|(name, take)| timed(name, &*take)).collect();
    println!("\n{}", outcome::summary(&outcomes));
    Ok(if outcomes.iter().any(Outcome::is_failed) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn steps<'a>(toolchain: &'a Toolchain, arguments: &TestArguments) -> Vec<Step<'a>> {
    let mut steps: Vec<Step> = vec![
        ("format", Box::new(format::format)),
        ("tidy", Box::new(tidy::step)),
        ("clippy", Box::new(|| format::clippy(toolchain))),
        ("deny", Box::new(deny::step)),
        ("tests", Box::new(|| unit::unprivileged(toolchain))),
    ];
    if !arguments.unprivileged {
        steps.push(("e2e", Box::new(|| e2e::step(toolchain))));
    }
    steps
}

fn timed(name: &str, take: &dyn Fn() -> Result<Outcome>) -> Outcome {
    command::say(&format!("== {name}"));
    let watch = Stopwatch::start();
    let broken = |reason: anyhow::Error| Outcome::single(name, Verdict::Failed(format!("{reason:#}")));
    let outcome = take().unwrap_or_else(broken);
    Outcome { took: watch.elapsed(), ..outcome }
}
