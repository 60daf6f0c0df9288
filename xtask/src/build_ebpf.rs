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

/// Builds the agent without shared libraries, for images that have none, and gives its path.
pub fn static_agent(profile: Profile) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = toolchain::ensure()?.cargo("build")?;
    cargo.args(["--package", "pktscope", "--target", &target]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    // Of the target alone: build scripts and procedural macros must stay dynamic.
    let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"));
    command::run(cargo.env(variable, "-C target-feature=+crt-static"))?;
    Ok(workspace::target().join(target).join(profile.folder()).join("pktscope"))
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
