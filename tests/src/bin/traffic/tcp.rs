//! Streams.

use std::{
    net::{Shutdown, SocketAddr},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use pktscope_tests::{traffic::Report, wait::wait_until};
use socket2::{Domain, SockAddr, Socket};

use crate::{
    moving::{self, Reading, Way},
    report,
    socket::{self, addresses, mapped},
    uring,
};

/// The other side acknowledges within this time.
const ACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Sent with the SYN where TCP Fast Open is asked for.
const EARLY_BYTES: usize = 64;

#[derive(Debug, Args)]
pub struct Tcp {
    /// The server.
    #[arg(long)]
    to: SocketAddr,
    /// Payload bytes to send.
    #[arg(long, default_value_t = 16)]
    bytes: u64,
    /// How to send them.
    #[arg(long, value_enum, default_value_t = Way::Send)]
    way: Way,
    /// How to read the answer.
    #[arg(long, value_enum, default_value_t = Reading::Read)]
    reading: Reading,
    /// Make and connect the socket through io_uring too.
    #[arg(long)]
    uring_connect: bool,
    /// Use MPTCP.
    #[arg(long)]
    mptcp: bool,
    /// Send the first bytes with the SYN.
    #[arg(long)]
    fast_open: bool,
    /// Use an IPv6 socket for an IPv4 server.
    #[arg(long)]
    mapped: bool,
    /// Reset the connection instead of closing it.
    #[arg(long)]
    abort: bool,
    /// Close without waiting for the other side to close.
    #[arg(long)]
    leave: bool,
    /// How many connections, one after the other.
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Milliseconds between two connections.
    #[arg(long, default_value_t = 0)]
    gap: u64,
    /// Wait for a line before sending.
    #[arg(long)]
    pause: bool,
    /// Wait for a line before closing.
    #[arg(long)]
    linger: bool,
}

impl Tcp {
    pub fn run(&self) -> Result<()> {
        for number in 0..self.times {
            if number > 0 {
                thread::sleep(Duration::from_millis(self.gap)); // waits: the pace that was asked for
            }
            self.talk()?;
        }
        Ok(())
    }

    fn talk(&self) -> Result<()> {
        let (socket, early) = self.connect()?;
        let mut done = described("sender", "ready", &socket);
        if self.pause {
            report::print(&done)?;
            report::wait_for_word()?;
        }
        let rest = self.bytes.saturating_sub(early);
        done.sent_units = moving::send(socket.as_raw_fd(), self.way, rest)?;
        done.sent_bytes = early + rest;
        if self.linger {
            report::print(&Report { stage: "sent".into(), ..done.clone() })?;
            report::wait_for_word()?;
        }
        if self.abort {
            // An acknowledgement that meets the reset would find no socket, and be answered by the kernel.
            wait_until(ACKNOWLEDGED, || matches!(socket::unacknowledged(&socket), Ok(0)).then_some(()))
                .context("what was sent is not acknowledged")?;
            socket.set_linger(Some(Duration::ZERO)).context("failed to set SO_LINGER")?;
        } else if !self.leave {
            socket.shutdown(Shutdown::Write).context("failed to shut down")?;
            done.received_bytes = moving::receive(socket.as_raw_fd(), self.reading)?;
        }
        drop(socket);
        report::print(&Report { stage: "done".into(), ..done })
    }

    /// A connected socket, and how many bytes went with its SYN.
    fn connect(&self) -> Result<(Socket, u64)> {
        let to = if self.mapped { mapped(self.to) } else { self.to };
        let addr = SockAddr::from(to);
        if self.uring_connect {
            return Ok((uring::connect(Domain::for_address(to).into(), &addr)?, 0));
        }
        let socket = socket::stream(to, self.mptcp).context("failed to make a socket")?;
        if self.fast_open {
            let early = socket.send_to_with_flags(&[b'f'; EARLY_BYTES], &addr, libc::MSG_FASTOPEN);
            return Ok((socket, early.context("failed to send with the SYN")? as u64));
        }
        socket.connect(&addr).with_context(|| format!("failed to connect to {to}"))?;
        Ok((socket, 0))
    }
}

/// A report of this process with a socket's addresses.
pub fn described(role: &str, stage: &str, socket: &Socket) -> Report {
    let (local, remote) = addresses(socket);
    Report { local, remote, ..report::of_this_process(role, stage) }
}
