//! Raw sockets and ping sockets.

use std::{
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use pktscope_tests::traffic::Report;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{report, tcp::described};

/// An answer that takes longer will not come.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of an ICMP echo header.
const ECHO_HEADER: usize = 8;

#[derive(Debug, Args)]
pub struct Raw {
    /// The receiver.
    #[arg(long)]
    to: IpAddr,
    /// IP protocol number.
    #[arg(long, default_value_t = 253)]
    protocol: u8,
    /// Payload bytes of one packet.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Packets to send.
    #[arg(long, default_value_t = 10)]
    count: u64,
    /// Wait for a line before sending.
    #[arg(long)]
    pause: bool,
}

impl Raw {
    pub fn run(&self) -> Result<()> {
        let to = SocketAddr::new(self.to, 0);
        let protocol = Protocol::from(i32::from(self.protocol));
        let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(protocol)).context("no raw socket")?;
        if self.pause {
            report::print(&described("sender", "ready", &socket))?;
            report::wait_for_word()?;
        }
        let payload = vec![b'r'; self.bytes];
        for _ in 0..self.count {
            socket.send_to(&payload, &to.into()).with_context(|| format!("failed to send to {}", self.to))?;
        }
        let (sent_bytes, sent_units) = (self.bytes as u64 * self.count, self.count);
        let done = described("sender", "done", &socket);
        drop(socket);
        report::print(&Report { remote: Some(to), sent_bytes, sent_units, ..done })
    }
}

#[derive(Debug, Args)]
pub struct Ping {
    /// The receiver.
    #[arg(long)]
    to: IpAddr,
    /// Use a raw socket, as an old `ping` does.
    #[arg(long)]
    raw: bool,
    /// Payload bytes of one request.
    #[arg(long, default_value_t = 56)]
    bytes: usize,
    /// Requests to send, each after the answer to the last.
    #[arg(long, default_value_t = 5)]
    count: u16,
}

impl Ping {
    pub fn run(&self) -> Result<()> {
        let to = SocketAddr::new(self.to, 0);
        let protocol = if self.to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
        let kind = if self.raw { Type::RAW } else { Type::DGRAM };
        let socket = Socket::new(Domain::for_address(to), kind, Some(protocol)).context("no ICMP socket")?;
        socket.set_read_timeout(Some(ANSWER_DEADLINE))?;
        let mut received_bytes = 0;
        for sequence in 0..self.count {
            socket.send_to(&self.request(sequence), &to.into()).context("failed to send")?;
            received_bytes += self.answer(&socket)?;
        }
        let (sent_bytes, sent_units) = (u64::from(self.count) * self.bytes as u64, self.count.into());
        let done = described("sender", "done", &socket);
        drop(socket);
        report::print(&Report { remote: Some(to), sent_bytes, sent_units, received_bytes, ..done })
    }

    /// An echo request; the kernel fills the checksum in, but for raw IPv4 sockets.
    fn request(&self, sequence: u16) -> Vec<u8> {
        let kind = if self.to.is_ipv4() { 8 } else { 128 };
        let mut packet = vec![kind, 0, 0, 0];
        packet.extend((std::process::id() as u16).to_be_bytes());
        packet.extend(sequence.to_be_bytes());
        packet.resize(ECHO_HEADER + self.bytes, b'p');
        if self.to.is_ipv4() {
            let checksum = checksum(&packet).to_be_bytes();
            packet[2..4].copy_from_slice(&checksum);
        }
        packet
    }

    /// Waits for an echo reply; a raw socket also sees what is not one.
    fn answer(&self, socket: &Socket) -> Result<u64> {
        let mut buffer = vec![MaybeUninit::uninit(); 65_536];
        loop {
            let size = socket.recv(&mut buffer).context("no answer")?;
            // SAFETY: the kernel has initialised the first `size` bytes.
            let packet = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), size) };
            let header = if self.raw && self.to.is_ipv4() { 20 } else { 0 };
            if matches!(packet.get(header), Some(0 | 129)) {
                return Ok((size - header - ECHO_HEADER) as u64);
            }
        }
    }
}

/// The internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
