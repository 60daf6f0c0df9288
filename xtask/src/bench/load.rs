//! Fixed amounts of network work, both ends on this machine, as plain system calls.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use super::netns::{Namespace, Pair};

/// What to do, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// One TCP connection that carries so many gigabytes (10⁹ bytes) one way.
    Gigabytes(u64),
    /// So many TCP connections, one after another: connect, 16 bytes out, 2 bytes back, close.
    Connections(u64),
    /// So many UDP datagrams of 64 bytes from one unconnected socket.
    Datagrams(u64),
}

/// Bytes a gigabyte.
const GIGABYTE: u64 = 1_000_000_000;
/// One write of bulk data.
const CHUNK: usize = 256 * 1024;
/// Twice as many datagrams may be on their way: fewer than fill a default buffer of 208 KiB at 1,280 bytes each (what
/// the kernel charges for one), so that none is dropped and
/// every run does the same work.
const WINDOW: u64 = 64;
/// A lost datagram would leave the receiver waiting for ever.
const RECEIVE_LIMIT: Duration = Duration::from_secs(20);

impl Work {
    /// How many units it has.
    pub fn units(self) -> u64 {
        match self {
            Self::Gigabytes(count) | Self::Connections(count) | Self::Datagrams(count) => count,
        }
    }

    /// What one unit is called.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Gigabytes(_) => "gigabyte",
            Self::Connections(_) => "connection",
            Self::Datagrams(_) => "datagram",
        }
    }

    /// Does it all.
    pub fn take(self, pair: &Pair) -> Result<()> {
        match self {
            Self::Gigabytes(count) => stream(pair, count * GIGABYTE),
            Self::Connections(count) => connections(pair, count),
            Self::Datagrams(count) => datagrams(pair, count),
        }
        .with_context(|| format!("failed to do the work of {self:?}"))
    }
}

/// Runs both ends, each on a thread inside its namespace.
fn both(
    pair: &Pair,
    near: impl FnOnce() -> io::Result<()> + Send,
    far: impl FnOnce() -> io::Result<()> + Send,
) -> io::Result<()> {
    let inside =
        |namespace: &Namespace, work: &mut dyn FnMut() -> io::Result<()>| namespace.enter().and_then(|()| work());
    let (mut near, mut far) = (Some(near), Some(far));
    thread::scope(|scope| {
        let far = scope.spawn(move || inside(&pair.far, &mut || far.take().map_or(Ok(()), |work| work())));
        let near = scope.spawn(move || inside(&pair.near, &mut || near.take().map_or(Ok(()), |work| work())));
        let results = [near.join(), far.join()];
        results.into_iter().try_for_each(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn listen(pair: &Pair) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = pair.far.run(|| TcpListener::bind((Pair::FAR, 0)))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn stream(pair: &Pair, bytes: u64) -> io::Result<()> {
    let (listener, address) = listen(pair)?;
    let send = move || {
        let (mut stream, chunk) = (TcpStream::connect(address)?, vec![0; CHUNK]);
        let mut left = bytes;
        while 0 < left {
            let next = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            left -= u64::try_from(stream.write(&chunk[..next])?).unwrap_or(0);
        }
        Ok(())
    };
    let receive = move || {
        let (mut stream, mut chunk) = (listener.accept()?.0, vec![0; CHUNK]);
        while 0 < stream.read(&mut chunk)? {}
        Ok(())
    };
    both(pair, send, receive)
}

fn connections(pair: &Pair, count: u64) -> io::Result<()> {
    let (listener, address) = listen(pair)?;
    let ask = move || {
        for _ in 0..count {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(&[0; 16])?;
            stream.read_exact(&mut [0; 2])?;
        }
        Ok(())
    };
    let answer = move || {
        for _ in 0..count {
            let mut stream = listener.accept()?.0;
            stream.read_exact(&mut [0; 16])?;
            stream.write_all(&[0; 2])?;
            // The client closes first, as most do.
            while 0 < stream.read(&mut [0; 2])? {}
        }
        Ok(())
    };
    both(pair, ask, answer)
}

fn datagrams(pair: &Pair, count: u64) -> io::Result<()> {
    let receiver = pair.far.run(|| UdpSocket::bind((Pair::FAR, 0)))?;
    receiver.set_read_timeout(Some(RECEIVE_LIMIT))?;
    let address = receiver.local_addr()?;
    let (arrived, window) = mpsc::channel();
    let send = move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for sent in 0..count {
            if sent % WINDOW == 0 && 2 * WINDOW <= sent {
                window.recv().map_err(io::Error::other)?;
            }
            socket.send_to(&[0; 64], address)?;
        }
        Ok(())
    };
    let receive = move || {
        for received in 1..=count {
            receiver.recv(&mut [0; 64])?;
            if received % WINDOW == 0 {
                // The sender may be done already.
                let _ = arrived.send(());
            }
        }
        Ok(())
    };
    both(pair, send, receive)
}
