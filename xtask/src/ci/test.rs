//! Unit, property and replay tests: all that needs no root.

use std::time::Duration;

use anyhow::Result;

use super::{Counts, Outcome, Verdict};
use crate::{command, toolchain::Toolchain};

/// A cold build with kernel programs takes some minutes on two cores, the tests another.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// `cargo test` on the workspace; every failure is shown, not only the first.
pub fn unprivileged(toolchain: &Toolchain) -> Result<Outcome> {
    let mut cargo = toolchain.cargo("test")?;
    cargo.args(["--workspace", "--no-fail-fast"]);
    let mut counts = Counts::default();
    let ended = command::watch(&mut cargo, LIMIT, |line| counts.take_line(line))?;
    let verdict = if ended.is_success() { Verdict::Passed } else { Verdict::Failed(ended.to_string()) };
    Ok(Outcome::of_cases("tests", verdict, counts))
}
