//! Messages over one association of SCTP.

use std::{
    io::Read,
    net::{Shutdown, SocketAddr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use clap::Args;
use pktscope_tests::{server::SCTP, traffic::Report};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    moving::{self, Way},
    report,
    tcp::described,
};

#[derive(Debug, Args)]
pub struct Sctp {
    /// The server.
    #[arg(long)]
    to: SocketAddr,
    /// Payload bytes to send.
    #[arg(long, default_value_t = 10_000)]
    bytes: u64,
}

impl Sctp {
    pub fn run(&self) -> Result<()> {
        let kind = Domain::for_address(self.to);
        let mut socket = Socket::new(kind, Type::STREAM, Some(Protocol::from(SCTP))).context("no SCTP socket")?;
        socket.connect(&self.to.into()).with_context(|| format!("failed to connect to {}", self.to))?;
        let done = described("sender", "done", &socket);
        let sent_units = moving::send(socket.as_raw_fd(), Way::Send, self.bytes)?;
        socket.shutdown(Shutdown::Write).context("failed to shut down")?;
        // The association is over, in both directions, when there is nothing more to read.
        while socket.read(&mut [0; 4_096]).unwrap_or(0) > 0 {}
        drop(socket);
        report::print(&Report { sent_bytes: self.bytes, sent_units, ..done })
    }
}
