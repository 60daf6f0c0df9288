//! Connections that change hands.

use std::{
    io, mem,
    net::{Shutdown, SocketAddr},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    process,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use pktscope_tests::traffic::Report;
use socket2::Socket;

use crate::{
    moving::{self, Reading, Way, message, vector_of},
    report,
    socket::{self, count},
    tcp::described,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum How {
    /// A forked child sends; the parent, who made the connection, exits first.
    Inherit,
    /// A forked child and its parent both send.
    Share,
    /// The descriptor is passed to another process over a Unix socket.
    Pass,
}

#[derive(Debug, Args)]
pub struct Handover {
    /// The server.
    #[arg(long)]
    to: SocketAddr,
    /// How the other process comes by the connection.
    #[arg(long, value_enum)]
    how: How,
    /// Payload bytes each sender sends.
    #[arg(long, default_value_t = 1000)]
    bytes: u64,
    /// Wait for a line between the two senders' turns.
    #[arg(long)]
    pause: bool,
}

impl Handover {
    pub fn run(&self) -> Result<()> {
        match self.how {
            How::Inherit => self.inherit(),
            How::Share => self.share(),
            How::Pass => self.pass(),
        }
    }

    fn connect(&self) -> Result<Socket> {
        let socket = socket::stream(self.to, false)?;
        socket.connect(&self.to.into()).with_context(|| format!("failed to connect to {}", self.to))?;
        Ok(socket)
    }

    fn inherit(&self) -> Result<()> {
        let socket = self.connect()?;
        report::print(&described("creator", "ready", &socket))?;
        let (mut parent_end, child_end) = UnixStream::pair()?;
        if fork()? != 0 {
            // Standard output stays open in the child; its end is what the caller waits for.
            process::exit(0);
        }
        drop(child_end);
        // Ends when the parent is gone: its copy of the other end was the last.
        io::copy(&mut parent_end, &mut io::sink())?;
        self.send("sender", socket)
    }

    fn share(&self) -> Result<()> {
        let socket = self.connect()?;
        let child = fork()?;
        if child == 0 {
            self.send_part("sender", &socket)?;
            process::exit(0);
        }
        wait(child)?;
        if self.pause {
            report::wait_for_word()?;
        }
        self.send("creator", socket)
    }

    fn pass(&self) -> Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        // The child is forked before the socket exists, so the message is the only way it comes by it.
        let child = fork()?;
        if child == 0 {
            drop(ours);
            let socket = Socket::from(receive_descriptor(theirs.as_raw_fd())?);
            self.send("sender", socket)?;
            process::exit(0);
        }
        let socket = self.connect()?;
        report::print(&described("creator", "ready", &socket))?;
        send_descriptor(ours.as_raw_fd(), socket.as_raw_fd())?;
        drop(socket);
        wait(child)
    }

    fn send_part(&self, role: &str, socket: &Socket) -> Result<()> {
        let sent_units = moving::send(socket.as_raw_fd(), Way::Send, self.bytes)?;
        report::print(&Report { sent_bytes: self.bytes, sent_units, ..described(role, "sent", socket) })
    }

    fn send(&self, role: &str, socket: Socket) -> Result<()> {
        let done = described(role, "done", &socket);
        let sent_units = moving::send(socket.as_raw_fd(), Way::Send, self.bytes)?;
        socket.shutdown(Shutdown::Write)?;
        let received_bytes = moving::receive(socket.as_raw_fd(), Reading::Read)?;
        drop(socket);
        report::print(&Report { sent_bytes: self.bytes, sent_units, received_bytes, ..done })
    }
}

/// Forks this process, which has one thread.
pub fn fork() -> Result<i32> {
    // SAFETY: no other thread exists whose locks the child could find held.
    let pid = unsafe { libc::fork() };
    ensure!(pid >= 0, "fork: {}", io::Error::last_os_error());
    Ok(pid)
}

/// Waits for a child and wants it to have succeeded.
pub fn wait(child: i32) -> Result<()> {
    let mut status = 0;
    // SAFETY: the status is an int that outlives the call.
    count("waitpid", unsafe { libc::waitpid(child, &mut status, 0) } as isize)?;
    ensure!(status == 0, "child {child} ended with status {status}");
    Ok(())
}

/// Room for one descriptor's control message.
#[repr(C, align(8))]
struct Control([u8; 64]);

fn send_descriptor(over: RawFd, descriptor: RawFd) -> Result<()> {
    let (mut vector, mut control) = (vector_of(b"!"), Control([0; 64]));
    let mut header = message(&mut vector);
    header.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: the control buffer is aligned and larger than CMSG_SPACE of one int, so the first header lies inside it.
    unsafe {
        header.msg_controllen = libc::CMSG_SPACE(mem::size_of::<RawFd>() as u32) as _;
        let first = libc::CMSG_FIRSTHDR(&header);
        ((*first).cmsg_level, (*first).cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
        (*first).cmsg_len = libc::CMSG_LEN(mem::size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(first).cast::<RawFd>().write_unaligned(descriptor);
        count("sendmsg", libc::sendmsg(over, &header, 0)).map(drop)
    }
}

fn receive_descriptor(over: RawFd) -> Result<OwnedFd> {
    let (mut byte, mut control) = ([0u8; 1], Control([0; 64]));
    let mut vector = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut header = message(&mut vector);
    (header.msg_control, header.msg_controllen) = (control.0.as_mut_ptr().cast(), control.0.len() as _);
    // SAFETY: the buffers outlive the call; a first header is only read where the kernel wrote one, and its descriptor
    // is new to this process.
    unsafe {
        count("recvmsg", libc::recvmsg(over, &mut header, 0))?;
        let first = libc::CMSG_FIRSTHDR(&header);
        ensure!(!first.is_null(), "no descriptor was passed");
        Ok(OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned()))
    }
}
