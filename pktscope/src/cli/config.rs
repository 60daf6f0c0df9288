//! `pktscope config`

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{output::print, place::Place};
use crate::config::Config;

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
    Show {
        /// Print the settings that have a value as one line of JSON
        #[arg(long)]
        json: bool,
    },
}

impl ConfigArguments {
    pub(super) fn run(&self, place: &Place) -> anyhow::Result<()> {
        let config = place.config()?;
        match self.command {
            ConfigCommand::Check => Ok(()),
            ConfigCommand::Show { json: false } => Ok(print(config.show().as_bytes())?),
            ConfigCommand::Show { json: true } => Ok(print(as_json(&config)?.as_bytes())?),
        }
    }
}

/// What is shown, but for the words about it.
fn as_json(config: &Config) -> anyhow::Result<String> {
    let settings: Value = toml::from_str(&config.show()).context("failed to read the shown configuration")?;
    Ok(format!("{settings}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_shown_as_json_too() {
        let shown: Value = serde_json::from_str(&as_json(&Config::default()).unwrap()).unwrap();
        assert_eq!(shown["flow"]["update_interval"], "1m");
        assert_eq!(shown["flow"]["flows_max"], 100_000);
    }
}
