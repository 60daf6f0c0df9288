//! The order of the steps.

use anyhow::{Result, bail};
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

/// Runs every check to its end, prints the summary, and fails where any failed.
pub fn test(arguments: &TestArguments) -> Result<()> {
    let toolchain = toolchain::ensure()?;
    let mut outcomes = Vec::new();
    for (name, take) in steps(&toolchain, arguments) {
        outcomes.push(timed(name, &*take));
    }
    println!("\n{}", outcome::summary(&outcomes));
    let failed: Vec<&str> = outcomes.iter().filter(|o| o.is_failed()).map(|o| o.name.as_str()).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
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
