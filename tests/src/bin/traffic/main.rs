//! Moves bytes over the network in every way that Linux offers, and says as JSON what it did.
//!
//! Each line on standard output is a [`pktscope_tests::traffic::Report`]. With `--pause` it waits for a line (or the
//! end) of standard input before it sends, with `--linger` before it closes.

mod disguise;
mod handover;
mod moving;
mod packet;
mod raw;
mod report;
mod scan;
mod sctp;
mod serve;
mod socket;
mod tcp;
mod udp;
mod uring;
mod xdp;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    disguise: disguise::Disguise,
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Connects, sends, reads the answer to its end.
    Tcp(tcp::Tcp),
    /// Sends datagrams.
    Udp(udp::Udp),
    /// Sends messages over SCTP.
    Sctp(sctp::Sctp),
    /// Tries to connect to many addresses and ports.
    Scan(scan::Scan),
    /// Sends packets of any IP protocol from a raw socket.
    Raw(raw::Raw),
    /// Sends ICMP echo requests from a ping socket.
    Ping(raw::Ping),
    /// Sends frames from a packet socket.
    Packet(packet::Packet),
    /// Sends frames from an AF_XDP socket.
    Xdp(xdp::Xdp),
    /// Sends on a connection that another process made.
    Handover(handover::Handover),
    /// Accepts connections in workers that were forked before.
    Prefork(serve::Prefork),
    /// Serves connections on a listener that was given as descriptor 3.
    Activated(serve::Activated),
    /// Receives datagrams and sends each back.
    Echo(serve::Echo),
    /// Listens, says so, and replaces itself with `activated`.
    Activate(serve::Activate),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.disguise.memfd {
        return disguise::run_from_memory();
    }
    if let Some(child) = arguments.disguise.as_pid.map(disguise::fork_as).transpose()?.filter(|child| *child != 0) {
        return handover::wait(child);
    }
    arguments.disguise.put_on()?;
    if arguments.disguise.thread {
        let worker = std::thread::Builder::new().name("second-thread".into()).spawn(|| run(arguments.kind))?;
        return worker.join().expect("the thread does not panic");
    }
    run(arguments.kind)
}

fn run(kind: Kind) -> Result<()> {
    match kind {
        Kind::Tcp(tcp) => tcp.run(),
        Kind::Udp(udp) => udp.run(),
        Kind::Scan(scan) => scan.run(),
        Kind::Sctp(sctp) => sctp.run(),
        Kind::Raw(raw) => raw.run(),
        Kind::Ping(ping) => ping.run(),
        Kind::Packet(packet) => packet.run(),
        Kind::Xdp(xdp) => xdp.run(),
        Kind::Handover(handover) => handover.run(),
        Kind::Prefork(prefork) => prefork.run(),
        Kind::Activated(activated) => activated.run(),
        Kind::Echo(echo) => echo.run(),
        Kind::Activate(activate) => activate.run(),
    }
}
