//! Frames from a packet socket.

use std::{
    ffi::CString,
    io, mem,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use pktscope_tests::traffic::Report;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{raw::checksum, report, socket::count};

/// `include/uapi/linux/if_packet.h`.
const PACKET_QDISC_BYPASS: i32 = 20;
/// `ETH_P_802_EX1` of `include/uapi/linux/if_ether.h`.
const EXPERIMENTAL: u16 = 0x88b5;

/// A UDP datagram and the interface that it leaves by.
#[derive(Debug, Args)]
pub struct Datagram {
    /// The interface to send from.
    #[arg(long)]
    device: String,
    /// Source address and port of the UDP datagram inside.
    #[arg(long)]
    from: SocketAddrV4,
    /// Its destination.
    #[arg(long)]
    to: SocketAddrV4,
    /// Its payload bytes.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
}

#[derive(Debug, Args)]
pub struct Packet {
    #[command(flatten)]
    datagram: Datagram,
    /// Call the frames by an experimental protocol (IEEE 802) instead of IP.
    #[arg(long)]
    not_ip: bool,
    /// Frames to send.
    #[arg(long, default_value_t = 10)]
    count: u64,
    /// Skip the interface's queueing discipline.
    #[arg(long)]
    bypass: bool,
    /// Wait for a line before sending.
    #[arg(long)]
    pause: bool,
    /// Wait for a line before closing.
    #[arg(long)]
    linger: bool,
}

impl Packet {
    pub fn run(&self) -> Result<()> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))).context("no packet socket")?;
        if self.bypass {
            bypass(&socket)?;
        }
        if self.pause {
            report::print(&report::of_this_process("sender", "ready"))?;
            report::wait_for_word()?;
        }
        let (mut frame, link) = (self.datagram.frame(), link_address(self.datagram.index()?)?);
        if self.not_ip {
            frame[12..14].copy_from_slice(&EXPERIMENTAL.to_be_bytes());
        }
        for _ in 0..self.count {
            send_frame(&socket, &frame, &link)?;
        }
        let sent = Report {
            local: Some(self.datagram.from.into()),
            remote: Some(self.datagram.to.into()),
            sent_bytes: self.datagram.bytes as u64 * self.count,
            sent_units: self.count,
            ..report::of_this_process("sender", "sent")
        };
        if self.linger {
            report::print(&sent)?;
            report::wait_for_word()?;
        }
        drop(socket);
        report::print(&Report { stage: "done".into(), ..sent })
    }
}

impl Datagram {
    /// The interface's index.
    pub fn index(&self) -> Result<u32> {
        let name = CString::new(self.device.as_str())?;
        // SAFETY: the name is a C string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        ensure!(index > 0, "no interface {}: {}", self.device, io::Error::last_os_error());
        Ok(index)
    }

    /// Ethernet (to anybody), IPv4, UDP without checksum.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([0x02, 0, 0, 0, 0, 1, 0x08, 0x00]);
        frame.extend(ipv4_header(*self.from.ip(), *self.to.ip(), 28 + self.bytes));
        frame.extend(self.from.port().to_be_bytes());
        frame.extend(self.to.port().to_be_bytes());
        frame.extend((8 + self.bytes as u16).to_be_bytes());
        frame.extend([0, 0]);
        frame.resize(frame.len() + self.bytes, b'k');
        frame
    }
}

fn ipv4_header(from: Ipv4Addr, to: Ipv4Addr, total: usize) -> Vec<u8> {
    let [high, low] = (total as u16).to_be_bytes();
    let mut header = vec![0x45, 0, high, low, 0, 1, 0, 0, 64, 17, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    header
}

fn bypass(socket: &Socket) -> Result<()> {
    let on: libc::c_int = 1;
    let size = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option's value is an int that outlives the call.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, PACKET_QDISC_BYPASS, (&raw const on).cast(), size)
    };
    count("PACKET_QDISC_BYPASS", set as isize).map(drop)
}

fn link_address(index: u32) -> Result<libc::sockaddr_ll> {
    // SAFETY: sockaddr_ll is plain data, valid when zeroed.
    let mut link: libc::sockaddr_ll = unsafe { mem::zeroed() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_ifindex = i32::try_from(index)?;
    link.sll_halen = 6;
    link.sll_protocol = (libc::ETH_P_IP as u16).to_be();
    Ok(link)
}

fn send_frame(socket: &Socket, frame: &[u8], link: &libc::sockaddr_ll) -> Result<()> {
    let size = size_of_val(link) as libc::socklen_t;
    // SAFETY: frame and address outlive the call.
    let sent = unsafe {
        let to = (&raw const *link).cast();
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, to, size)
    };
    count("sendto", sent).map(drop)
}
