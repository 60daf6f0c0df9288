//! Builds of the agent with its kernel programs inside.

use std::path::PathBuf;

use anyhow::Result;

use crate::{command, toolchain, toolchain::Toolchain, workspace};

/// How the agent is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Fast to build.
    Dev,
    /// Fast to run.
    Release,
}

impl Profile {
    /// The folder of its products, below the target folder.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds the agent, setting the tool chain up first where needed, and gives its path.
pub fn agent(profile: Profile) -> Result<PathBuf> {
    agent_with(&toolchain::ensure()?, profile)
}

/// Builds the agent with this tool chain and gives its path.
pub fn agent_with(toolchain: &Toolchain, profile: Profile) -> Result<PathBuf> {
    let mut cargo = toolchain.cargo("build")?;
    cargo.args(["--package", "pktscope"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    command::run(&mut cargo)?;
    Ok(workspace::target().join(profile.folder()).join("pktscope"))
}
