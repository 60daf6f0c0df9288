//! `pktscope config`

use clap::{Args, Subcommand};

use super::{output::print, place::Place};

/// Checks or shows the configuration.
#[derive(Args, Debug)]
pub struct ConfigArguments {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Name every mistake at once; says nothing and exits with 0 where there is none
    Check,
    /// Print every setting with its meaning and its value, as TOML
    Show,
}

impl ConfigArguments {
    pub(super) fn run(&self, place: &Place) -> anyhow::Result<()> {
        let config = place.config()?;
        match self.command {
            ConfigCommand::Check => Ok(()),
            ConfigCommand::Show => Ok(print(config.show().as_bytes())?),
        }
    }
}
