//! Captures of connections as hosts make them, the same in every run: DNS look-ups, handshakes, hellos, data, ends.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    net::Ipv4Addr,
    path::Path,
};

/// What a capture holds.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Connections open at once.
    pub open: u32,
    /// Data segments of a connection on average, each two answered by an ACK.
    pub segments: u64,
    /// Payload of a data segment.
    pub segment_bytes: usize,
    /// Nanoseconds between two frames.
    pub spacing: u64,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the file.
    pub bytes: u64,
    /// Frames in it.
    pub frames: u64,
    /// Flows in it, look-ups included.
    pub flows: u64,
}

/// 2023-11-14.
const START: u64 = 1_700_000_000_000_000_000;
/// Servers, each with a name.
const SERVERS: u64 = 5_000;
/// Every so many connections are preceded by a look-up; a stub resolver's cache answers for the others.
const LOOKUP_EVERY: u64 = 4;
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 53);

const FIN: u8 = 1;
const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Deterministic numbers (xorshift64, Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// One connection on its way.
#[derive(Clone, Copy)]
struct Connection {
    client: (Ipv4Addr, u16),
    server: u64,
    step: u32,
    segments_left: u64,
    sent: [u32; 2],
}

fn server_addr(server: u64) -> Ipv4Addr {
    Ipv4Addr::from(0x5db8_0000 | u32::try_from(server).unwrap_or(0))
}

fn server_name(server: u64) -> String {
    format!("www.site-{server:04}.example")
}

/// Writes a pcap file of at least `bytes`.
pub fn write(path: &Path, traffic: Traffic, bytes: u64) -> io::Result<Written> {
    let mut writer = Writer::new(BufWriter::with_capacity(1 << 20, File::create(path)?), traffic)?;
    let mut open: Vec<Connection> = Vec::new();
    while writer.written.bytes < bytes {
        if open.len() < traffic.open as usize {
            open.push(writer.connect()?);
            continue;
        }
        let place = usize::try_from(writer.random.below(u64::from(traffic.open))).unwrap_or(0);
        if !writer.advance(&mut open[place])? {
            open[place] = writer.connect()?;
        }
    }
    writer.out.flush()?;
    Ok(writer.written)
}

struct Writer<W> {
    out: W,
    traffic: Traffic,
    random: Random,
    written: Written,
    frame: Vec<u8>,
    connections: u64,
}

impl<W: Write> Writer<W> {
    fn new(mut out: W, traffic: Traffic) -> io::Result<Self> {
        // Nanosecond resolution, version 2.4, Ethernet (draft-ietf-opsawg-pcap).
        let header = [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat();
        out.write_all(&header)?;
        let written = Written { bytes: header.len() as u64, ..Written::default() };
        Ok(Self { out, traffic, random: Random(0x9e37_79b9), written, frame: Vec::new(), connections: 0 })
    }

    /// A connection's SYN, after the look-up where there is one.
    fn connect(&mut self) -> io::Result<Connection> {
        self.connections += 1;
        self.written.flows += 1;
        let number = self.connections;
        let client = Ipv4Addr::from(0x0a00_0000 | u32::try_from(number / 28_000 % 0x00ff_0000).unwrap_or(0));
        let port = u16::try_from(32_768 + number % 28_000).unwrap_or(0);
        let server = self.random.below(SERVERS);
        let segments_left = 1 + self.random.below(2 * self.traffic.segments);
        let mut connection = Connection { client: (client, port), server, step: 0, segments_left, sent: [0; 2] };
        if number.is_multiple_of(LOOKUP_EVERY) {
            self.look_up(&connection)?;
        }
        self.advance(&mut connection)?;
        Ok(connection)
    }

    fn look_up(&mut self, connection: &Connection) -> io::Result<()> {
        self.written.flows += 1;
        let (client, server) = (connection.client, connection.server);
        let resolver = (RESOLVER, 53);
        for is_response in [false, true] {
            let message = dns_message(client.1, &server_name(server), is_response.then(|| server_addr(server)));
            let (from, to) = if is_response { (resolver, client) } else { (client, resolver) };
            let mut header = [from.1, to.1, u16::try_from(8 + message.len()).unwrap_or(0), 0].map(u16::to_be_bytes);
            header[3] = [0, 0];
            self.packet((from.0, to.0), UDP, &header.concat(), &message)?;
        }
        Ok(())
    }

    /// The connection's next segment; `false` where it is over.
    fn advance(&mut self, connection: &mut Connection) -> io::Result<bool> {
        let data = [0x17_u8; 1460];
        let data = &data[..self.traffic.segment_bytes.min(data.len())];
        let step = connection.step;
        connection.step += 1;
        match step {
            0 => self.segment(connection, 0, SYN, &[])?,
            1 => self.segment(connection, 1, SYN | ACK, &[])?,
            2 => self.segment(connection, 0, ACK, &[])?,
            3 => {
                let hello = client_hello(&server_name(connection.server));
                self.segment(connection, 0, PSH | ACK, &hello)?;
            }
            _ if connection.segments_left > 0 && step.is_multiple_of(3) => self.segment(connection, 0, ACK, &[])?,
            _ if connection.segments_left > 0 => {
                connection.segments_left -= 1;
                self.segment(connection, 1, ACK, data)?;
            }
            _ => {
                self.segment(connection, 0, FIN | ACK, &[])?;
                self.segment(connection, 1, FIN | ACK, &[])?;
                self.segment(connection, 0, ACK, &[])?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A segment of the client (0) or the server (1).
    fn segment(&mut self, connection: &mut Connection, side: usize, flags: u8, payload: &[u8]) -> io::Result<()> {
        let server = (server_addr(connection.server), 443);
        let (from, to) = if side == 0 { (connection.client, server) } else { (server, connection.client) };
        let mut header = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
        header.extend(connection.sent[side].to_be_bytes());
        header.extend(connection.sent[1 - side].to_be_bytes());
        header.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        self.packet((from.0, to.0), TCP, &header, payload)?;
        let control = u32::from(flags & (SYN | FIN) != 0);
        let length = u32::try_from(payload.len()).unwrap_or(0) + control;
        connection.sent[side] = connection.sent[side].wrapping_add(length);
        Ok(())
    }

    /// Writes a record with an Ethernet frame, padded to Ethernet's smallest.
    fn packet(&mut self, ends: (Ipv4Addr, Ipv4Addr), protocol: u8, header: &[u8], payload: &[u8]) -> io::Result<()> {
        const SMALLEST: usize = 60;
        let ip_bytes = u16::try_from(20 + header.len() + payload.len()).unwrap_or(u16::MAX);
        self.frame.clear();
        self.frame.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0]);
        self.frame.extend(ip_bytes.to_be_bytes());
        self.frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        self.frame.extend(ends.0.octets());
        self.frame.extend(ends.1.octets());
        self.frame.extend(header);
        self.frame.extend(payload);
        if self.frame.len() < SMALLEST {
            self.frame.resize(SMALLEST, 0);
        }
        let at = START + self.written.frames * self.traffic.spacing;
        let length = self.frame.len() as u64;
        let record = [at / 1_000_000_000, at % 1_000_000_000, length, length];
        let record = record.map(|word| u32::try_from(word).unwrap_or(0).to_le_bytes()).concat();
        self.out.write_all(&record)?;
        self.out.write_all(&self.frame)?;
        self.written.frames += 1;
        self.written.bytes += (record.len() + self.frame.len()) as u64;
        Ok(())
    }
}

/// A question for an A record, or its answer (RFC 1035).
fn dns_message(id: u16, name: &str, answer: Option<Ipv4Addr>) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend(if answer.is_some() { [0x81, 0x80] } else { [0x01, 0x00] });
    message.extend([0, 1, 0, u8::from(answer.is_some()), 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    if let Some(addr) = answer {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4]);
        message.extend(addr.octets());
    }
    message
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes()[..], bytes].concat()
}

fn extension(number: u16, body: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &with_length(body)].concat()
}

/// A ClientHello in one record, with a server name (RFC 8446, 4.1.2; RFC 6066, 3).
fn client_hello(name: &str) -> Vec<u8> {
    let entry = [&[0][..], &with_length(name.as_bytes())].concat();
    let extensions = [
        extension(0, &with_length(&entry)),
        extension(10, &with_length(&[0, 29, 0, 23])),
        extension(13, &with_length(&[4, 3, 8, 4])),
        extension(16, &with_length(b"\x02h2\x08http/1.1")),
        extension(43, &[4, 3, 4, 3, 3]),
        extension(51, &with_length(&extension(29, &[7; 32]))),
    ];
    let mut body = [&[3, 3][..], &[5; 32], &[32], &[6; 32]].concat();
    body.extend(with_length(&[0x13, 1, 0x13, 2, 0xc0, 0x2b, 0xc0, 0x2f]));
    body.extend([1, 0]);
    body.extend(with_length(&extensions.concat()));
    let handshake = [&[1, 0][..], &with_length(&body)].concat();
    [&[0x16, 3, 1][..], &with_length(&handshake)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAFFIC: Traffic = Traffic { open: 3, segments: 4, segment_bytes: 700, spacing: 1000 };

    #[test]
    fn what_is_written_is_what_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traffic.pcap");
        let written = write(&path, TRAFFIC, 100_000).unwrap();
        let file = std::fs::read(&path).unwrap();
        assert_eq!(file.len() as u64, written.bytes);
        let (mut at, mut frames, mut syns) = (24, 0, 0);
        while at < file.len() {
            let length = u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
            let frame = &file[at + 16..at + 16 + length];
            let ip_bytes = u16::from_be_bytes([frame[16], frame[17]]) as usize;
            assert!(ip_bytes + 14 == length || length == 60 && ip_bytes + 14 < 60);
            syns += u64::from(frame[23] == TCP && frame[47] == SYN);
            (at, frames) = (at + 16 + length, frames + 1);
        }
        assert_eq!(frames, written.frames);
        assert!(syns < written.flows && written.flows <= syns + syns / LOOKUP_EVERY);
        assert_eq!(write(&path, TRAFFIC, 100_000).unwrap(), written);
        assert_eq!(std::fs::read(&path).unwrap(), file);
    }
}
