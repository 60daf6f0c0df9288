//! `cargo xtask bench flow`: the flow tracker and the replay, beside the tracker of flowscope 0.1.0.
//!
//! A bench target of the agent's package does the measuring, so that the reference is a dependency of nothing else.

use std::process::Command;

use anyhow::Result;

use crate::command;

/// Builds and runs it; needs no privilege.
pub fn measure() -> Result<()> {
    command::run(Command::new("cargo").args(["bench", "--package", "pktscope", "--bench", "flow"]))
}
