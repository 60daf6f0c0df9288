//! Servers inside the test's own process: what they received is the truth that no client and no sensor made.

use std::{
    io::{BufRead, BufReader, Read, Write},
    mem::MaybeUninit,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;

/// Bytes read or written at once.
const CHUNK: usize = 64 * 1024;

/// `IPPROTO_UDPLITE` (include/uapi/linux/in.h).
const UDP_LITE: i32 = 136;

/// `IPPROTO_SCTP` (include/uapi/linux/in.h).
pub const SCTP: i32 = 132;

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

/// An SCTP server that reads associations, one at a time, each to its end.
#[derive(Debug)]
pub struct SctpServer {
    listener: Socket,
    /// Its address.
    pub addr: SocketAddr,
    /// What it received.
    pub received: Arc<Received>,
}

impl SctpServer {
    /// Listens inside a namespace on a free port.
    ///
    /// # Errors
    /// Where it can't listen.
    pub fn start(namespace: &Namespace, addr: IpAddr) -> Result<Self> {
        let listener = namespace.run(|| listen_for_messages(SocketAddr::new(addr, 0)))?;
        let addr = listener.local_addr()?.as_socket().context("an address of IP")?;
        let (accepting, received) = (listener.try_clone()?, Arc::new(Received::default()));
        let counting = received.clone();
        thread::spawn(move || {
            while let Ok((mut socket, _)) = accepting.accept() {
                let mut buffer = vec![0; CHUNK];
                while let Ok(count @ 1..) = socket.read(&mut buffer) {
                    counting.bytes.fetch_add(count as u64, Ordering::SeqCst);
                }
                counting.units.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ok(Self { listener, addr, received })
    }
}

impl Drop for SctpServer {
    fn drop(&mut self) {
        // SAFETY: shutdown takes a descriptor that is open and an integer; it ends the accepting thread.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
    }
}

fn listen_for_messages(addr: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::from(SCTP)))?;
    socket.bind(&addr.into()).with_context(|| format!("failed to bind {addr}"))?;
    socket.listen(8).context("failed to listen")?;
    Ok(socket)
}

/// An HTTP/1 server that answers every request with a body of zeros and closes.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    /// Its address.
    pub addr: SocketAddr,
}

impl HttpServer {
    /// Listens inside a namespace on a free port.
    ///
    /// # Errors
    /// Where it can't listen.
    pub fn start(namespace: &Namespace, addr: IpAddr, body: usize) -> Result<Self> {
        Self::start_on(namespace, SocketAddr::new(addr, 0), body)
    }

    /// Listens inside a namespace on a given port.
    ///
    /// # Errors
    /// Where it can't listen.
    pub fn start_on(namespace: &Namespace, addr: SocketAddr, body: usize) -> Result<Self> {
        let listener =
            namespace.run(|| TcpListener::bind(addr)).with_context(|| format!("failed to listen on {addr}"))?;
        let (addr, accepting) = (listener.local_addr()?, listener.try_clone()?);
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                // A client that goes early is its own affair.
                thread::spawn(move || answer_request(stream, body).unwrap_or_default());
            }
        });
        Ok(Self { listener, addr })
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // SAFETY: shutdown takes a descriptor that is open and an integer; it ends the accepting thread.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
    }
}

fn answer_request(mut stream: TcpStream, body: usize) -> std::io::Result<()> {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {body}\r\nConnection: close\r\n\r\n")?;
    stream.write_all(&vec![0; body])
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
        Self::serve(socket, is_echo)
    }

    /// Receives UDP-Lite inside a namespace on a free port.
    ///
    /// # Errors
    /// Where it can't bind.
    pub fn start_lite(namespace: &Namespace, addr: IpAddr) -> Result<Self> {
        let addr = SocketAddr::new(addr, 0);
        let make =
            || socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::DGRAM, Some(UDP_LITE.into()));
        let socket = namespace.run(make).context("failed to make a UDP-Lite socket")?;
        socket.bind(&addr.into()).with_context(|| format!("failed to bind {addr}"))?;
        Self::serve(socket.into(), false)
    }

    fn serve(socket: UdpSocket, is_echo: bool) -> Result<Self> {
        let (addr, received) = (socket.local_addr()?, Arc::new(Received::default()));
        let (receiving, counting) = (socket2::Socket::from(socket.try_clone()?), received.clone());
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

fn receive(socket: &socket2::Socket, is_echo: bool, received: &Received) {
    let mut buffer = vec![MaybeUninit::uninit(); CHUNK];
    while let Ok((count, from)) = socket.recv_from(&mut buffer) {
        // Without a sender it is not a datagram but the shutdown.
        if from.as_socket().is_none() {
            return;
        }
        received.bytes.fetch_add(count as u64, Ordering::SeqCst);
        received.units.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the kernel has initialised the first `count` bytes.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), count) };
        if is_echo && socket.send_to(bytes, &from).is_err() {
            return;
        }
    }
}

/// A raw socket that takes every packet of a protocol, so that the kernel does not answer them with ICMP errors.
#[derive(Debug)]
pub struct RawServer(#[expect(dead_code, reason = "held open")] socket2::Socket);

impl RawServer {
    /// Receives inside a namespace.
    ///
    /// # Errors
    /// Where the socket can't be made.
    pub fn start(namespace: &Namespace, addr: IpAddr, protocol: i32) -> Result<Self> {
        let domain = socket2::Domain::for_address(SocketAddr::new(addr, 0));
        let make = || socket2::Socket::new(domain, socket2::Type::RAW, Some(protocol.into()));
        namespace.run(make).map(Self).context("failed to make a raw socket")
    }
}

/// An HTTP/1 server that keeps the body of every request: where alerts are posted to.
#[derive(Debug)]
pub struct Webhook {
    listener: TcpListener,
    /// Where to post.
    pub url: String,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Webhook {
    /// Listens on the loopback address of the test's own namespace.
    ///
    /// # Errors
    /// Where it can't listen.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("failed to listen")?;
        let url = format!("http://{}/alerts", listener.local_addr()?);
        let bodies: Arc<Mutex<Vec<String>>> = Arc::default();
        let (accepting, keeping) = (listener.try_clone()?, bodies.clone());
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let keeping = keeping.clone();
                // A client that goes early is its own affair.
                thread::spawn(move || keep_requests(stream, &keeping).unwrap_or_default());
            }
        });
        Ok(Self { listener, url, bodies })
    }

    /// Every body so far.
    pub fn bodies(&self) -> Vec<String> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        // SAFETY: shutdown takes a descriptor that is open and an integer; it ends the accepting thread.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
    }
}

/// Serves one connection, which may carry several requests.
fn keep_requests(stream: TcpStream, bodies: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut length, mut line) = (0, String::new());
        while reader.read_line(&mut line)? > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        if line.is_empty() {
            return Ok(());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        bodies.lock().unwrap_or_else(PoisonError::into_inner).push(String::from_utf8_lossy(&body).into_owned());
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}
