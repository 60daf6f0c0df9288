//! Many open flows: processes that hold connections.

use std::{
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdin, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::netns::Namespace;

/// Arguments of the hidden `bench hold-flows`.
#[derive(Args)]
pub struct HoldArguments {
    /// How many connections, each of two sockets
    #[arg(long)]
    connections: usize,
}

/// Connections that one process holds: twice as many descriptors stay below the common limit of 20,000.
const PER_PROCESS: usize = 9_000;

/// Opens the connections over loopback, exchanges a byte on each, says so, and waits for standard input to close.
pub fn hold(arguments: &HoldArguments) -> Result<()> {
    raise_descriptor_limit();
    let listener = TcpListener::bind("127.0.0.1:0").context("failed to listen")?;
    let address = listener.local_addr().context("failed to ask for an address")?;
    let mut held = Vec::new();
    for number in 0..arguments.connections {
        let near = TcpStream::connect(address).with_context(|| format!("failed to open connection {number}"))?;
        let (far, _) = listener.accept().with_context(|| format!("failed to accept connection {number}"))?;
        std::io::Write::write_all(&mut &near, b"a").context("failed to send")?;
        (&far).read_exact(&mut [0]).context("failed to receive")?;
        held.push((near, far));
    }
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new()).context("failed to wait")?;
    drop(held);
    Ok(())
}

/// Up to what this process may; the default for interactive use is 1,024.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a live rlimit.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}

/// Processes that hold connections until dropped.
pub struct Holders(Vec<(Child, ChildStdin)>);

impl Holders {
    /// Starts as many as so many sockets need, all at once, and waits until all connections are open.
    pub fn start(namespace: &Namespace, sockets: usize) -> Result<Self> {
        let own = std::env::current_exe().context("failed to find this program")?;
        let (mut holders, mut outputs) = (Self(Vec::new()), Vec::new());
        let mut left = sockets / 2;
        while 0 < left {
            let connections = left.min(PER_PROCESS);
            left -= connections;
            let mut command = namespace.command(own.as_os_str());
            command.args(["bench", "hold-flows", "--connections", &connections.to_string()]);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("failed to start")?;
            let input = child.stdin.take().context("a piped input is there")?;
            outputs.push(child.stdout.take().context("a piped output is there")?);
            holders.0.push((child, input));
        }
        for output in outputs {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).context("failed to hear of a holder of connections")?;
            if line.trim() != "ready" {
                bail!("a holder of connections gave up");
            }
        }
        Ok(holders)
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        let (children, inputs): (Vec<_>, Vec<_>) = self.0.drain(..).unzip();
        drop(inputs);
        for mut child in children {
            let _ = child.wait();
        }
    }
}
