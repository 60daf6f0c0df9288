//! Servers whose processes matter.

use std::{
    net::{Shutdown, SocketAddr, UdpSocket},
    os::{
        fd::{AsRawFd, FromRawFd, IntoRawFd},
        unix::process::CommandExt,
    },
    process::{self, Command},
    ptr,
};

use anyhow::{Context, Result};
use clap::Args;
use pktscope_tests::traffic::Report;
use socket2::{Domain, Socket, Type};

use crate::{
    handover::{fork, wait},
    moving::{self, Reading, Way},
    report,
    socket::count,
    tcp::described,
};

/// The first descriptor that a service manager hands over (sd_listen_fds(3)).
const FIRST_DESCRIPTOR: i32 = 3;

fn listen(addr: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into()).with_context(|| format!("failed to bind {addr}"))?;
    socket.listen(1024)?;
    Ok(socket)
}

/// Accepts without asking for the peer's address, as accept(2) lets one.
fn accept_blindly(listener: &Socket) -> Result<Socket> {
    // SAFETY: no address is asked for.
    let fd =
        unsafe { libc::accept4(listener.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), libc::SOCK_CLOEXEC) } as isize;
    let fd = i32::try_from(count("accept4", fd)?)?;
    // SAFETY: the descriptor was just opened and has no other owner.
    Ok(unsafe { Socket::from_raw_fd(fd) })
}

/// Reads a connection to its end and closes, without ever asking whose it is.
fn serve_blindly(listener: &Socket) -> Result<()> {
    let socket = accept_blindly(listener)?;
    let received_bytes = moving::receive(socket.as_raw_fd(), Reading::Read)?;
    drop(socket);
    report::print(&Report { received_bytes, ..report::of_this_process("worker", "done") })
}

/// Reads a connection to its end, answers, closes, reports.
fn serve_one(listener: &Socket, reply: u64) -> Result<()> {
    let (socket, _) = listener.accept().context("failed to accept")?;
    let done = described("worker", "done", &socket);
    let received_bytes = moving::receive(socket.as_raw_fd(), Reading::Read)?;
    let sent_units = moving::send(socket.as_raw_fd(), Way::Send, reply)?;
    socket.shutdown(Shutdown::Write)?;
    drop(socket);
    report::print(&Report { received_bytes, sent_bytes: reply, sent_units, ..done })
}

#[derive(Debug, Args)]
pub struct Prefork {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Workers that accept.
    #[arg(long, default_value_t = 3)]
    workers: u32,
    /// Connections each worker serves before it ends.
    #[arg(long, default_value_t = 1)]
    connections: u32,
    /// Bytes of an answer.
    #[arg(long, default_value_t = 100)]
    reply: u64,
    /// Never ask for a peer's address, and never answer.
    #[arg(long)]
    blind: bool,
}

impl Prefork {
    pub fn run(&self) -> Result<()> {
        let listener = listen(self.listen)?;
        let mut workers = Vec::new();
        for _ in 0..self.workers {
            match fork()? {
                0 => {
                    (0..self.connections).try_for_each(|_| self.serve(&listener))?;
                    process::exit(0);
                }
                worker => workers.push(worker),
            }
        }
        report::print(&described("listener", "ready", &listener))?;
        workers.into_iter().try_for_each(wait)
    }

    fn serve(&self, listener: &Socket) -> Result<()> {
        if self.blind { serve_blindly(listener) } else { serve_one(listener, self.reply) }
    }
}

#[derive(Debug, Args)]
pub struct Activate {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// The program that gets the listener; it must be a copy of this one.
    #[arg(long)]
    program: String,
    /// Connections it serves before it ends.
    #[arg(long, default_value_t = 1)]
    connections: u32,
}

impl Activate {
    pub fn run(&self) -> Result<()> {
        let listener = listen(self.listen)?;
        report::print(&described("creator", "ready", &listener))?;
        let fd = listener.into_raw_fd();
        // SAFETY: both are descriptors; dup2 clears close-on-exec on the copy.
        count("dup2", unsafe { libc::dup2(fd, FIRST_DESCRIPTOR) } as isize)?;
        if fd == FIRST_DESCRIPTOR {
            // SAFETY: dup2 of a descriptor on itself changes nothing, so the flag is cleared here.
            count("fcntl", unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } as isize)?;
        }
        let mut command = Command::new(&self.program);
        command.args(["activated", "--connections", &self.connections.to_string()]);
        Err(command.exec()).with_context(|| format!("failed to run {}", self.program))
    }
}

#[derive(Debug, Args)]
pub struct Activated {
    /// Connections to serve.
    #[arg(long, default_value_t = 1)]
    connections: u32,
    /// Bytes of an answer.
    #[arg(long, default_value_t = 100)]
    reply: u64,
}

impl Activated {
    pub fn run(&self) -> Result<()> {
        // SAFETY: whoever started this process handed this descriptor over; nothing else here uses it.
        let listener = unsafe { Socket::from_raw_fd(FIRST_DESCRIPTOR) };
        (0..self.connections).try_for_each(|_| serve_one(&listener, self.reply))
    }
}

#[derive(Debug, Args)]
pub struct Echo {
    /// Where to receive.
    #[arg(long)]
    listen: SocketAddr,
    /// Datagrams to send back before it ends.
    #[arg(long, default_value_t = 1)]
    count: u64,
}

impl Echo {
    pub fn run(&self) -> Result<()> {
        let socket = UdpSocket::bind(self.listen).with_context(|| format!("failed to bind {}", self.listen))?;
        let mut done = Report { local: socket.local_addr().ok(), ..report::of_this_process("listener", "ready") };
        report::print(&done)?;
        let mut buffer = [0; 65_536];
        for _ in 0..self.count {
            let (size, from) = socket.recv_from(&mut buffer)?;
            done.received_bytes += size as u64;
            done.sent_bytes += socket.send_to(&buffer[..size], from)? as u64;
            (done.sent_units, done.remote) = (done.sent_units + 1, Some(from));
        }
        report::print(&Report { stage: "done".into(), ..done })
    }
}
