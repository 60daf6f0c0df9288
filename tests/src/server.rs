//! Servers inside the test's own process: what they received is the truth that no client and no sensor made.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};

use crate::namespace::Namespace;

/// Bytes read or written at once.
const CHUNK: usize = 64 * 1024;

/// What a server has received.
#[derive(Debug, Default)]
pub struct Received {
    bytes: AtomicU64,
    units: AtomicU64,
}

impl Received {
    /// Payload bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Connections that are over, or datagrams.
    pub fn units(&self) -> u64 {
        self.units.load(Ordering::SeqCst)
    }
}

/// A TCP server that reads each connection to its end, answers, and closes.
#[derive(Debug)]
pub struct TcpServer {
    listener: TcpListener,
    /// Its address.
    pub addr: SocketAddr,
    /// What it received.
    pub received: Arc<Received>,
}

impl TcpServer {
    /// Listens inside a namespace on a free port, answering with `reply` bytes.
    ///
    /// # Errors
    /// Where it can't listen.
    pub fn start(namespace: &Namespace, addr: IpAddr, reply: usize) -> Result<Self> {
        Self::start_on(namespace, SocketAddr::new(addr, 0), reply)
    }

    /// Listens inside a namespace on a given port, answering with `reply` bytes.
    ///
    /// # Errors
    /// Where it can't listen.
    pub fn start_on(namespace: &Namespace, addr: SocketAddr, reply: usize) -> Result<Self> {
        let listener =
            namespace.run(|| TcpListener::bind(addr)).with_context(|| format!("failed to listen on {addr}"))?;
        let (addr, received) = (listener.local_addr()?, Arc::new(Received::default()));
        let (accepting, counting) = (listener.try_clone()?, received.clone());
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let counting = counting.clone();
                thread::spawn(move || answer(stream, reply, &counting));
            }
        });
        Ok(Self { listener, addr, received })
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        // SAFETY: shutdown takes a descriptor that is open and an integer; it ends the accepting thread.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
    }
}

fn answer(mut stream: TcpStream, reply: usize, received: &Received) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        received.bytes.fetch_add(count as u64, Ordering::SeqCst);
    }
    let mut left = reply;
    while left > 0 {
        match stream.write(&buffer[..left.min(CHUNK)]) {
            Ok(written @ 1..) => left -= written,
            _ => break,
        }
    }
    // The client may have gone already.
    stream.shutdown(Shutdown::Write).unwrap_or_default();
    drop(stream);
    received.units.fetch_add(1, Ordering::SeqCst);
}

/// A UDP server that counts datagrams and may send each back.
#[derive(Debug)]
pub struct UdpServer {
    socket: UdpSocket,
    /// Its address.
    pub addr: SocketAddr,
    /// What it received.
    pub received: Arc<Received>,
}

impl UdpServer {
    /// Receives inside a namespace on a free port.
    ///
    /// # Errors
    /// Where it can't bind.
    pub fn start(namespace: &Namespace, addr: IpAddr, is_echo: bool) -> Result<Self> {
        Self::start_on(namespace, SocketAddr::new(addr, 0), is_echo)
    }

    /// Receives inside a namespace on a given port.
    ///
    /// # Errors
    /// Where it can't bind.
    pub fn start_on(namespace: &Namespace, addr: SocketAddr, is_echo: bool) -> Result<Self> {
        let socket = namespace.run(|| UdpSocket::bind(addr)).with_context(|| format!("failed to bind {addr}"))?;
        let (addr, received) = (socket.local_addr()?, Arc::new(Received::default()));
        let (receiving, counting) = (socket.try_clone()?, received.clone());
        thread::spawn(move || receive(&receiving, is_echo, &counting));
        Ok(Self { socket, addr, received })
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        // SAFETY: shutdown takes a descriptor that is open and an integer; it wakes the receiving thread with 0 bytes
        // (net/ipv4/datagram.c; an unconnected socket answers ENOTCONN but is woken all the same).
        unsafe { libc::shutdown(self.socket.as_raw_fd(), libc::SHUT_RDWR) };
    }
}

fn receive(socket: &UdpSocket, is_echo: bool, received: &Received) {
    let mut buffer = vec![0; CHUNK];
    while let Ok((count, from)) = socket.recv_from(&mut buffer) {
        if from.port() == 0 {
            return;
        }
        received.bytes.fetch_add(count as u64, Ordering::SeqCst);
        received.units.fetch_add(1, Ordering::SeqCst);
        if is_echo && socket.send_to(&buffer[..count], from).is_err() {
            return;
        }
    }
}
