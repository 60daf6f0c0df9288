//! `pktscope run`

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::place::Place;
use crate::{
    agent::{self, RunOptions},
    config::{Config, ConfigError, parse_duration},
};

const EXAMPLES: &str = "\
Examples:
  sudo pktscope run --learning-window 0s --events -    print every event as a line of JSON
  sudo pktscope run --cgroup /sys/fs/cgroup/system.slice/nginx.service

SIGTERM and SIGINT end it: every open flow is reported, the database is closed. SIGHUP reads the configuration again and
opens the event file anew.";

/// How the agent runs; a flag wins over the configuration file.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = EXAMPLES)]
pub struct RunArguments {
    #[command(flatten)]
    pub(super) detection: DetectionArguments,
    /// The cgroup2 folder to watch [default: the root of the cgroup2 mount, so the whole host]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Append every event to this file as a line of JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Create this file once every hook is attached
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Stop after this time, such as 30s or 1h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Keep a damaged database under another name and start with an empty one
    #[arg(long)]
    move_damaged_store_aside: bool,
}

/// Flags that `run` and `replay` share.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct DetectionArguments {
    /// How long a program is learned before it raises alerts; 0s starts active [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    learning_window: Option<Duration>,
    /// MaxMind database of countries
    #[arg(long, value_name = "FILE")]
    geoip_country: Option<PathBuf>,
    /// MaxMind database of autonomous systems
    #[arg(long, value_name = "FILE")]
    geoip_asn: Option<PathBuf>,
}

impl DetectionArguments {
    pub(super) fn apply(&self, config: &mut Config) {
        set(&mut config.detect.learning_window, self.learning_window);
        set_path(&mut config.geoip.country, &self.geoip_country);
        set_path(&mut config.geoip.asn, &self.geoip_asn);
    }
}

fn set<T>(setting: &mut T, flag: Option<T>) {
    if let Some(flag) = flag {
        *setting = flag;
    }
}

fn set_path(setting: &mut Option<PathBuf>, flag: &Option<PathBuf>) {
    if flag.is_some() {
        setting.clone_from(flag);
    }
}

impl RunArguments {
    pub(super) fn run(&self, place: &Place) -> anyhow::Result<()> {
        let (arguments, place) = (self.clone(), place.clone());
        let reload = move || arguments.config(&place);
        let options = RunOptions {
            config: reload()?,
            reload: Box::new(reload),
            duration: self.duration,
            moves_damaged_store_aside: self.move_damaged_store_aside,
        };
        Ok(agent::run(options)?)
    }

    /// The configuration file's settings with the flags on top.
    pub(super) fn config(&self, place: &Place) -> Result<Config, ConfigError> {
        let mut config = place.config()?;
        self.detection.apply(&mut config);
        set_path(&mut config.agent.cgroup, &self.cgroup);
        set_path(&mut config.agent.events, &self.events);
        set_path(&mut config.agent.ready_file, &self.ready_file);
        Ok(config)
    }
}
