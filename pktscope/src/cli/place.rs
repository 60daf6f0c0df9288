//! Where the agent keeps its things: flags that every command shares.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Config, ConfigError};

/// Which configuration and which agent.
#[derive(Args, Clone, Debug, Default)]
pub struct Place {
    /// Configuration file [default: /etc/pktscope/pktscope.toml where it exists]
    #[arg(long, value_name = "FILE", global = true, help_heading = "Places")]
    pub config: Option<PathBuf>,
    /// Folder of the database [default: /var/lib/pktscope]
    #[arg(long, value_name = "DIR", global = true, help_heading = "Places")]
    pub state_dir: Option<PathBuf>,
    /// Folder of the control socket [default: /run/pktscope]
    #[arg(long, value_name = "DIR", global = true, help_heading = "Places")]
    pub runtime_dir: Option<PathBuf>,
}

impl Place {
    /// The configuration with these flags applied.
    ///
    /// # Errors
    /// A file that cannot be read or has mistakes.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(directory) = &self.state_dir {
            config.agent.state_dir.clone_from(directory);
        }
        if let Some(directory) = &self.runtime_dir {
            config.agent.runtime_dir.clone_from(directory);
        }
        Ok(config)
    }
}
