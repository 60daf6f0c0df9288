//! Connections that mostly lead nowhere.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use pktscope_tests::traffic::Report;

use crate::{report, socket};

/// A host that is there answers, or refuses, much sooner.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub struct Scan {
    /// The host.
    #[arg(long)]
    to: IpAddr,
    /// First port.
    #[arg(long, default_value_t = 20)]
    first_port: u16,
    /// How many ports.
    #[arg(long, default_value_t = 100)]
    ports: u16,
}

impl Scan {
    pub fn run(&self) -> Result<()> {
        for port in self.first_port..self.first_port + self.ports {
            let to = SocketAddr::new(self.to, port);
            let attempt = socket::stream(to, false)?.connect_timeout(&to.into(), PATIENCE);
            // A refusal is what a scan mostly gets.
            drop(attempt);
        }
        let done = report::of_this_process("sender", "done");
        report::print(&Report { sent_units: self.ports.into(), remote: Some(SocketAddr::new(self.to, 0)), ..done })
    }
}
