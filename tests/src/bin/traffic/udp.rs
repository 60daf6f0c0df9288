//! Datagrams.

use std::{
    mem,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use pktscope_tests::traffic::Report;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    moving::{message, vector_of},
    report,
    socket::{count, mapped},
    tcp::described,
    uring,
};

/// `IPPROTO_UDPLITE` (include/uapi/linux/in.h).
const UDP_LITE: i32 = 136;
/// `UDP_SEGMENT` (include/uapi/linux/udp.h).
const UDP_SEGMENT: i32 = 103;
/// Datagrams of one `sendmmsg`.
const BATCH: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    Sendto,
    Sendmsg,
    Sendmmsg,
    Uring,
    /// One call that the kernel cuts into datagrams of `--bytes`.
    Segment,
}

#[derive(Debug, Args)]
pub struct Udp {
    /// Where to send from.
    #[arg(long)]
    from: Option<SocketAddr>,
    /// The receiver; further destinations have the next addresses.
    #[arg(long)]
    to: SocketAddr,
    /// How many destinations to go through in turn.
    #[arg(long, default_value_t = 1)]
    destinations: u32,
    /// Payload bytes of one datagram.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Datagrams to send.
    #[arg(long, default_value_t = 10)]
    count: u64,
    /// How to send them.
    #[arg(long, value_enum, default_value_t = Way::Sendto)]
    way: Way,
    /// Milliseconds between two datagrams.
    #[arg(long, default_value_t = 0)]
    gap: u64,
    /// After all is sent, connect the socket to this receiver and send all again.
    #[arg(long)]
    then: Option<SocketAddr>,
    /// Connect the socket first.
    #[arg(long)]
    connected: bool,
    /// UDP-Lite instead of UDP.
    #[arg(long)]
    lite: bool,
    /// Use an IPv6 socket for an IPv4 receiver.
    #[arg(long)]
    mapped: bool,
    /// Wait for an echo of each datagram before the next.
    #[arg(long)]
    echo: bool,
    /// Wait for a line before sending.
    #[arg(long)]
    pause: bool,
    /// Wait for a line before closing.
    #[arg(long)]
    linger: bool,
}

impl Udp {
    pub fn run(&self) -> Result<()> {
        let to = if self.mapped { mapped(self.to) } else { self.to };
        let protocol = if self.lite { Protocol::from(UDP_LITE) } else { Protocol::UDP };
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(protocol)).context("no socket")?;
        if let Some(from) = self.from {
            socket.bind(&from.into()).with_context(|| format!("failed to bind {from}"))?;
        }
        if self.connected || self.way == Way::Uring || self.way == Way::Segment {
            socket.connect(&to.into()).context("failed to connect")?;
        }
        if self.pause {
            report::print(&described("sender", "ready", &socket))?;
            report::wait_for_word()?;
        }
        let received_bytes = self.send_all(&socket, to)?;
        if let Some(then) = self.then {
            socket.connect(&then.into()).with_context(|| format!("failed to connect to {then}"))?;
            self.send_all(&socket, then)?;
        }
        let (sent_bytes, sent_units) = (self.bytes as u64 * self.count, self.count);
        let sent = Report { sent_bytes, sent_units, received_bytes, ..described("sender", "sent", &socket) };
        let sent = Report { remote: sent.remote.or(Some(to)), ..sent };
        if self.linger {
            report::print(&sent)?;
            report::wait_for_word()?;
        }
        drop(socket);
        report::print(&Report { stage: "done".into(), ..sent })
    }

    /// Gives the bytes received.
    fn send_all(&self, socket: &Socket, first: SocketAddr) -> Result<u64> {
        let payload = vec![b'd'; self.bytes];
        match self.way {
            Way::Sendmmsg => return self.send_batches(socket.as_raw_fd(), first, &payload).map(|()| 0),
            Way::Segment => return self.send_segmented(socket.as_raw_fd()).map(|()| 0),
            _ => {}
        }
        let mut received = 0;
        for number in 0..self.count {
            if number > 0 {
                thread::sleep(Duration::from_millis(self.gap)); // waits: the pace that was asked for
            }
            self.send_one(socket, self.destination(first, number), &payload)?;
            if self.echo {
                received += socket.recv(&mut vec![mem::MaybeUninit::uninit(); self.bytes])? as u64;
            }
        }
        Ok(received)
    }

    fn destination(&self, first: SocketAddr, number: u64) -> SocketAddr {
        let step = (number % u64::from(self.destinations)) as u32;
        let addr = match first.ip() {
            IpAddr::V4(addr) => IpAddr::V4((u32::from(addr) + step).into()),
            IpAddr::V6(addr) => IpAddr::V6((u128::from(addr) + u128::from(step)).into()),
        };
        SocketAddr::new(addr, first.port())
    }

    fn send_one(&self, socket: &Socket, to: SocketAddr, payload: &[u8]) -> Result<()> {
        let addr = SockAddr::from(to);
        match self.way {
            Way::Uring => uring::send_once(socket.as_raw_fd(), payload).map(drop),
            Way::Sendmsg => send_message(socket.as_raw_fd(), (!self.connected).then_some(&addr), payload),
            _ if self.connected => socket.send(payload).map(drop).context("send"),
            _ => socket.send_to(payload, &addr).map(drop).with_context(|| format!("sendto {to}")),
        }
    }

    fn send_batches(&self, socket: RawFd, first: SocketAddr, payload: &[u8]) -> Result<()> {
        let mut next = 0;
        while next < self.count {
            let size = BATCH.min(usize::try_from(self.count - next)?) as u64;
            let addrs: Vec<SockAddr> = (next..next + size).map(|at| self.destination(first, at).into()).collect();
            next += send_batch(socket, &addrs, self.connected, payload)?;
        }
        Ok(())
    }

    fn send_segmented(&self, socket: RawFd) -> Result<()> {
        let size = libc::c_int::try_from(self.bytes)?;
        let length = size_of_val(&size) as libc::socklen_t;
        // SAFETY: the option's value is an int that outlives the call.
        let set = unsafe { libc::setsockopt(socket, libc::SOL_UDP, UDP_SEGMENT, (&raw const size).cast(), length) };
        count("UDP_SEGMENT", set as isize)?;
        let most = (60_000 / self.bytes).clamp(1, 64) as u64;
        let mut left = self.count;
        while left > 0 {
            let now = left.min(most);
            let payload = vec![b'g'; self.bytes * usize::try_from(now)?];
            // SAFETY: the payload outlives the call.
            count("send", unsafe { libc::send(socket, payload.as_ptr().cast(), payload.len(), 0) })?;
            left -= now;
        }
        Ok(())
    }
}

fn addressed(vector: &mut libc::iovec, to: Option<&SockAddr>) -> libc::msghdr {
    let mut header = message(vector);
    if let Some(to) = to {
        (header.msg_name, header.msg_namelen) = (to.as_ptr().cast_mut().cast(), to.len());
    }
    header
}

fn send_message(socket: RawFd, to: Option<&SockAddr>, payload: &[u8]) -> Result<()> {
    let mut vector = vector_of(payload);
    // SAFETY: the message points to the payload and the address, which outlive the call.
    count("sendmsg", unsafe { libc::sendmsg(socket, &addressed(&mut vector, to), 0) }).map(drop)
}

fn send_batch(socket: RawFd, to: &[SockAddr], is_connected: bool, payload: &[u8]) -> Result<u64> {
    let mut vectors = vec![vector_of(payload); to.len()];
    let headers = vectors.iter_mut().zip(to).map(|(vector, to)| addressed(vector, (!is_connected).then_some(to)));
    let mut messages: Vec<_> = headers.map(|msg_hdr| libc::mmsghdr { msg_hdr, msg_len: 0 }).collect();
    // SAFETY: the array and what it points to outlive the call; the kernel writes the lengths only.
    let sent = unsafe { libc::sendmmsg(socket, messages.as_mut_ptr(), messages.len() as u32, 0) };
    Ok(count("sendmmsg", sent as isize)? as u64)
}
