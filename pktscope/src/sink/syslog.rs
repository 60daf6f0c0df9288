//! Alerts to a syslog server: RFC 5424 messages, the event as JSON in each.
//!
//! Over UDP (RFC 5426) and the local socket a message is a datagram; over TCP (RFC 6587) it is octet-counted. Messages
//! wait in memory while the server is away. What a server took in without reading it is beyond what TCP tells.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _, UdpSocket},
    os::unix::net::UnixDatagram,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use super::{
    SinkCounts,
    backoff::Backoff,
    counts::Counter,
    ecs::rfc3339,
    queue::{Queue, Woken, join_within},
};
use crate::{
    config::{self, SyslogAddress},
    core::alert::{Alert, Severity},
};

const NAME: &str = "syslog";
const TIMEOUT: Duration = Duration::from_secs(5);
const STOP_LIMIT: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The sink.
#[derive(Debug)]
pub struct Syslog {
    target: String,
    facility: u8,
    host_name: String,
    queue: Arc<Queue<Vec<u8>>>,
    counter: Arc<Counter>,
    thread: Option<JoinHandle<()>>,
}

impl Syslog {
    /// Starts the thread; connects when there is something to send.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn start(address: &SyslogAddress, settings: &config::Syslog, host_name: &str) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(usize::try_from(settings.queue_max).unwrap_or(usize::MAX)));
        let counter = Arc::new(Counter::default());
        let sender =
            Sender { address: address.clone(), link: None, queue: Arc::clone(&queue), counter: Arc::clone(&counter) };
        let thread = std::thread::Builder::new().name(NAME.to_owned()).spawn(move || sender.run())?;
        let host_name = header_word(host_name, 255);
        Ok(Self {
            target: address.to_string(),
            facility: settings.facility.0,
            host_name,
            queue,
            counter,
            thread: Some(thread),
        })
    }

    /// Queues an alert and the event that it is exported as.
    pub fn send(&self, alert: &Alert, event: &str) {
        if self.queue.push(message(alert, event, self.facility, &self.host_name)) {
            self.counter.update(|counts| counts.lost += 1);
        }
    }

    /// Where it goes.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What became of the messages.
    pub fn counts(&self) -> SinkCounts {
        SinkCounts { waiting: u64::try_from(self.queue.len()).unwrap_or(u64::MAX), ..self.counter.read() }
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            join_within(thread, STOP_LIMIT);
        }
    }
}

/// One message (RFC 5424, section 6).
fn message(alert: &Alert, event: &str, facility: u8, host_name: &str) -> Vec<u8> {
    let priority = facility * 8 + severity(alert.severity);
    let at = rfc3339(alert.at.wall);
    // Six digits of a second are the most that a syslog time has.
    let (micros, pid) = (&at.as_str()[..26], std::process::id());
    let rule = alert.rule.id();
    format!("<{priority}>1 {micros}Z {host_name} pktscope {pid} {rule} - {event}").into_bytes()
}

/// Syslog's severities (RFC 5424, table 2).
fn severity(severity: Severity) -> u8 {
    match severity {
        Severity::Critical => 2,
        Severity::Warning => 4,
        Severity::Notice => 5,
        Severity::Info => 6,
    }
}

/// A header field: printable ASCII without spaces, `-` where there is nothing.
fn header_word(text: &str, longest: usize) -> String {
    let word: String = text.chars().filter(char::is_ascii_graphic).take(longest).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Unix(UnixDatagram),
}

impl Link {
    fn open(address: &SyslogAddress) -> io::Result<Self> {
        match address {
            SyslogAddress::Udp(host) => open_udp(host).map(Self::Udp),
            SyslogAddress::Tcp(host) => open_tcp(host).map(Self::Tcp),
            SyslogAddress::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(TIMEOUT))?;
                Ok(Self::Unix(socket))
            }
        }
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(message).map(drop),
            Self::Unix(socket) => socket.send(message).map(drop),
            Self::Tcp(stream) => send_tcp(stream, message),
        }
    }
}

fn open_udp(host: &str) -> io::Result<UdpSocket> {
    let mut result = Err(io::Error::from(io::ErrorKind::NotFound));
    for addr in host.to_socket_addrs()? {
        let any = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        result = UdpSocket::bind(any).and_then(|socket| socket.connect(addr).map(|()| socket));
        if result.is_ok() {
            break;
        }
    }
    result
}

fn open_tcp(host: &str) -> io::Result<TcpStream> {
    let mut result = Err(io::Error::from(io::ErrorKind::NotFound));
    for addr in host.to_socket_addrs()? {
        result = TcpStream::connect_timeout(&addr, TIMEOUT);
        if result.is_ok() {
            break;
        }
    }
    let stream = result?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Sends a frame; a server never sends, so that anything to read is its good-bye.
fn send_tcp(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let peek = stream.read(&mut [0; 64]);
    stream.set_nonblocking(false)?;
    match peek {
        Ok(0) => return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the server closed the connection")),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
        _ => {}
    }
    let mut frame = format!("{} ", message.len()).into_bytes();
    frame.extend_from_slice(message);
    stream.write_all(&frame)
}

struct Sender {
    address: SyslogAddress,
    link: Option<Link>,
    queue: Arc<Queue<Vec<u8>>>,
    counter: Arc<Counter>,
}

impl Sender {
    fn run(mut self) {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            let message = match self.queue.pop(Duration::MAX) {
                Woken::Message(message) => message,
                Woken::Timeout => continue,
                Woken::Closed => return,
            };
            match self.deliver(&message) {
                Ok(()) => {
                    backoff.reset();
                    self.counter.succeed(NAME);
                }
                Err(error) => {
                    self.link = None;
                    self.counter.fail(NAME, format!("{}: {error}", self.address));
                    if self.queue.put_back(message) {
                        self.counter.update(|counts| counts.lost += 1);
                    }
                    if self.queue.pause(backoff.pause()) {
                        return self.give_up();
                    }
                }
            }
        }
    }

    /// The agent stops while the server is away: what waits in memory is lost, and counted.
    fn give_up(&self) {
        let waiting = u64::try_from(self.queue.len()).unwrap_or(u64::MAX);
        self.counter.update(|counts| counts.lost += waiting);
        tracing::warn!("{waiting} messages for {} are lost: it took none until the end", self.address);
    }

    fn deliver(&mut self, message: &[u8]) -> io::Result<()> {
        let link = match &mut self.link {
            Some(link) => link,
            None => self.link.insert(Link::open(&self.address)?),
        };
        link.send(message)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::BufReader, net::TcpListener};

    use super::*;
    use crate::{
        core::alert::{Evidence, RuleId},
        fixtures::now,
    };

    fn alert(severity: Severity) -> Alert {
        Alert {
            id: 1,
            rule: RuleId::PortScan,
            severity,
            at: now(),
            message: String::new(),
            dedup_key: String::new(),
            evidence: Evidence::default(),
            flow: None,
            process: None,
            domain: None,
        }
    }

    fn start(address: SyslogAddress, queue_max: u32) -> Syslog {
        let settings = config::Syslog { queue_max, ..config::Syslog::default() };
        Syslog::start(&address, &settings, "ada laptop").unwrap()
    }

    fn expected(event: &str) -> String {
        format!("<26>1 2026-11-20T00:01:40.000000Z adalaptop pktscope {} port_scan - {event}", std::process::id())
    }

    /// Waits until `done` says so; the harness's own time-out ends a test that never gets there.
    fn wait_until(mut done: impl FnMut() -> bool) {
        while !done() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_message_has_every_field_of_the_rfc() {
        let text = |severity| String::from_utf8(message(&alert(severity), "{}", 3, "host")).unwrap();
        let priorities: Vec<_> =
            Severity::ALL.map(text).iter().map(|text| text.split('>').next().unwrap().to_owned()).collect();
        assert_eq!(priorities, ["<30", "<29", "<28", "<26"]);
        assert_eq!((header_word("", 3), header_word("ä b\nc\u{7f}dé", 2)), ("-".to_owned(), "bc".to_owned()));
    }

    #[test]
    fn udp_and_the_local_socket_get_a_datagram_a_message() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let syslog = start(SyslogAddress::Udp(server.local_addr().unwrap().to_string()), 10);
        syslog.send(&alert(Severity::Critical), "{\"a\":1}");
        let mut buffer = [0; 2048];
        let length = server.recv(&mut buffer).unwrap();
        assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), expected("{\"a\":1}"));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let server = UnixDatagram::bind(&path).unwrap();
        let syslog = start(SyslogAddress::Unix(path), 10);
        syslog.send(&alert(Severity::Critical), "{\"b\":2}");
        let length = server.recv(&mut buffer).unwrap();
        assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), expected("{\"b\":2}"));
        wait_until(|| syslog.counts().sent == 1);
    }

    fn read_frame(reader: &mut impl io::BufRead) -> String {
        let mut length = Vec::new();
        reader.read_until(b' ', &mut length).unwrap();
        let length: usize = std::str::from_utf8(&length).unwrap().trim().parse().unwrap();
        let mut message = vec![0; length];
        reader.read_exact(&mut message).unwrap();
        String::from_utf8(message).unwrap()
    }

    #[test]
    fn tcp_frames_are_counted_and_a_lost_connection_is_made_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let syslog = start(SyslogAddress::Tcp(listener.local_addr().unwrap().to_string()), 10);
        syslog.send(&alert(Severity::Critical), "{\"a\":1}");
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        assert_eq!(read_frame(&mut reader), expected("{\"a\":1}"));
        wait_until(|| syslog.counts().sent == 1);
        drop(reader);

        syslog.send(&alert(Severity::Critical), "{\"b\":\"ü\"}");
        let (stream, _) = listener.accept().unwrap();
        assert_eq!(read_frame(&mut BufReader::new(stream)), expected("{\"b\":\"ü\"}"));
    }

    #[test]
    fn a_dead_server_costs_the_oldest_messages_and_each_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let syslog = start(SyslogAddress::Unix(path.clone()), 3);
        for number in 0..20 {
            syslog.send(&alert(Severity::Info), &number.to_string());
        }
        // 17 gave way, or 16 while one was being sent.
        wait_until(|| syslog.counts().failures != 0 && syslog.counts().lost + syslog.counts().waiting == 20);
        let counts = syslog.counts();
        assert_eq!((counts.sent, counts.waiting), (0, 3));
        assert!(counts.error.unwrap().contains("unix://"));

        let server = UnixDatagram::bind(&path).unwrap();
        let mut newest = 0;
        let mut buffer = [0; 2048];
        while newest != 19 {
            let length = server.recv(&mut buffer).unwrap();
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            newest = text.rsplit(' ').next().unwrap().parse().unwrap();
        }
        wait_until(|| syslog.counts().sent + syslog.counts().lost == 20);
        assert_eq!(syslog.counts().error, None);
    }
}
