//! Where a flow went, by name: asked of a real resolver, said by real clients.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{
    resolver::{ALIAS, Daemon, NAME, asking, asking_at, forwarder, knowing, resolver},
    standing::{AGENT, pair},
};
use pktscope_tests::{
    agent::{Agent, AgentOptions},
    event::Event,
    flow::{DEADLINE, Side, end_of},
    machine::{missing_privilege, missing_program, output_of},
    mmdb,
    namespace::{Host, Pair},
    server::{HttpServer, TcpServer, UdpServer},
    skip_if,
    traffic::{Traffic, built},
};
use tempfile::TempDir;

fn missing_programs(programs: &[&str]) -> Option<String> {
    missing_privilege().or_else(|| programs.iter().find_map(|program| missing_program(program)))
}

/// The newest event of the flow that this process opened to this endpoint, once `is_told`.
fn expect_flow(pid: u32, to: SocketAddr, what: &str, is_told: impl Fn(&Event) -> bool) -> Event {
    AGENT.expect(DEADLINE, what, |event| {
        event.is("flow")
            && Side::Opener.is_of(event)
            && event.pid() == pid
            && event.endpoint("destination") == Some(to)
            && is_told(event)
    })
}

/// Runs a client to its end, whether or not it succeeds, and gives its process id.
fn pid_of(command: &mut Command) -> u32 {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

#[test]
fn a_resolved_name_names_the_connection() {
    skip_if!(missing_programs(&["dnsmasq", "curl", "unshare"]));
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let _resolver = resolver(&pair.far);
    // A server that does not speak HTTP's port, so that the name can only come from the answer.
    let server = HttpServer::start(&pair.far.namespace, pair.far.v4.into(), 100).unwrap();
    let url = format!("http://{NAME}:{}/", server.addr.port());
    let pid = pid_of(asking(&pair, folder.path(), "curl").args(["-4", "--silent", "--header", "Host:", &url]));
    let flow = expect_flow(pid, server.addr, "a named flow", |event| event.text("destination.domain") == NAME);
    assert_eq!(flow.text("pktscope.domain_source"), "dns_answer", "{flow}");
    let answer = AGENT.expect(DEADLINE, "the answer", |event| {
        event.is("dns")
            && event.has_action("dns_answered")
            && event.text("dns.question.name") == NAME
            && event.addr("source.ip") == Some(pair.near.v4.into())
    });
    assert_eq!(answer.pid(), pid, "who asked is told: {answer}");
    assert_eq!(answer.endpoint("destination"), Some(SocketAddr::from((pair.far.v4, 53))), "{answer}");
}

#[test]
fn what_a_local_resolver_asks_names_everybody_s_connections() {
    skip_if!(missing_programs(&["dnsmasq", "curl", "unshare"]));
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let _daemons = (resolver(&pair.far), forwarder(&pair));
    let server = HttpServer::start(&pair.far.namespace, pair.far.v4.into(), 100).unwrap();
    let url = format!("http://{NAME}:{}/", server.addr.port());
    let mut asker = asking_at(&pair, Ipv4Addr::LOCALHOST, folder.path(), "curl");
    let asker = pid_of(asker.args(["-4", "--silent", "--header", "Host:", &url]));
    let flow = expect_flow(asker, server.addr, "a named flow", |event| !event.text("destination.domain").is_empty());
    assert_eq!(flow.text("destination.domain"), NAME, "{flow}");
    AGENT.expect(DEADLINE, "the answer that the asker got", |event| {
        event.is("dns") && event.pid() == asker && event.text("dns.question.name") == NAME
    });
    // Another program, which asks nobody.
    let other = pid_of(pair.near.namespace.command("curl").args([
        "--silent",
        "--header",
        "Host:",
        &format!("http://{}/", server.addr),
    ]));
    let flow = expect_flow(other, server.addr, "a flow", |_| true);
    assert_eq!(flow.text("destination.domain"), NAME, "{flow}");
}

/// An agent that reports new destinations from its start on.
fn judging(state: &Path) -> Agent {
    AgentOptions::new().unwrap().state_dir(state).flag("--learning-window", "0s").start().unwrap()
}

/// Resolves the name before its first line and connects to the address before its second.
const RESOLVE_THEN_CONNECT: &str = "
import socket, sys
name, port = sys.argv[1:]
print(socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_STREAM)[0][4][0], flush=True)
address = sys.stdin.readline().strip()
socket.create_connection((address, port)).close()
print('connected', flush=True)
sys.stdin.readline()
";

#[test]
fn names_asked_for_before_a_restart_name_connections_after_it() {
    skip_if!(missing_programs(&["dnsmasq", "python3", "unshare"]));
    let (pair, folder) = (Pair::new().unwrap(), TempDir::new().unwrap());
    let _daemons = (resolver(&pair.far), forwarder(&pair));
    let server = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 0).unwrap();
    let state = folder.path().join("state");
    let script = folder.path().join("client.py");
    fs::write(&script, RESOLVE_THEN_CONNECT).unwrap();
    let before = judging(&state);
    let port = server.addr.port().to_string();
    let mut asker = asking(&pair, folder.path(), "python3");
    let mut asker = Daemon(piped(asker.arg(&script).args([NAME, &port])));
    let mut said = BufReader::new(asker.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(said.next().as_deref(), Some(pair.far.v4.to_string().as_str()), "the name is resolved");
    // Another program asks the forwarder, which everybody's names come from.
    pid_of(asking_at(&pair, Ipv4Addr::LOCALHOST, folder.path(), "python3").args([
        "-c",
        "import socket, sys; socket.getaddrinfo(sys.argv[1], 80)",
        ALIAS,
    ]));
    let is_answer = |name| move |event: &Event| event.is("dns") && event.text("dns.question.name") == name;
    for name in [NAME, ALIAS] {
        before.expect(DEADLINE, "an answer", is_answer(name));
    }
    assert!(before.stop().success());
    let after = judging(&state);
    writeln!(asker.0.stdin.as_mut().unwrap(), "{}", pair.far.v4).unwrap();
    assert_eq!(said.next().as_deref(), Some("connected"));
    let stranger = Traffic::new(&pair.near.namespace, &format!("tcp --to {}", server.addr)).run().unwrap();
    for (pid, name) in [(asker.0.id(), NAME), (stranger.pid, ALIAS)] {
        let flow = after.expect(DEADLINE, "a flow after the restart", |event| {
            event.is("flow") && event.pid() == pid && event.endpoint("destination") == Some(server.addr)
        });
        assert_eq!(flow.text("destination.domain"), name, "{flow}");
        assert_eq!(flow.text("pktscope.domain_source"), "dns_answer", "{flow}");
        assert!(flow.number("pktscope.domain_age") > 0, "asked for before: {flow}");
        let alert = after.expect(DEADLINE, "the first egress", |event| event.is("alert") && event.pid() == pid);
        assert!(alert.text("destination.domain").ends_with("example.test"), "a name, not an address: {alert}");
    }
}

fn piped(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn an_alias_keeps_the_name_that_was_asked() {
    skip_if!(missing_programs(&["dnsmasq", "curl", "unshare"]));
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let _resolver = resolver(&pair.far);
    let server = HttpServer::start(&pair.far.namespace, pair.far.v6.into(), 100).unwrap();
    let url = format!("http://{ALIAS}:{}/", server.addr.port());
    let pid = pid_of(asking(&pair, folder.path(), "curl").args(["-6", "--silent", "--header", "Host:", &url]));
    let flow = expect_flow(pid, server.addr, "a named flow", |event| !event.text("destination.domain").is_empty());
    assert_eq!(flow.text("destination.domain"), ALIAS, "{flow}");
}

#[test]
fn a_host_header_names_a_connection_that_nobody_resolved() {
    skip_if!(missing_programs(&["curl"]));
    let pair = pair();
    let server = HttpServer::start(&pair.far.namespace, pair.far.v4.into(), 100).unwrap();
    let url = format!("http://{}/", server.addr);
    let pid =
        pid_of(pair.near.namespace.command("curl").args(["--silent", "--header", "Host: header.example.test", &url]));
    let flow = expect_flow(pid, server.addr, "a named flow", |event| !event.text("destination.domain").is_empty());
    assert_eq!(flow.text("destination.domain"), "header.example.test");
    assert_eq!(flow.text("pktscope.domain_source"), "http_host", "{flow}");
}

/// A new key, and a certificate of it.
fn certificate_in(folder: &Path) -> (PathBuf, PathBuf) {
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
    let mut request = Command::new("openssl");
    request.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]);
    output_of(request.args(["-subj", "/CN=test", "-keyout"]).arg(&key).arg("-out").arg(&certificate));
    (key, certificate)
}

/// An `openssl s_server` with a certificate of its own.
fn tls_server(far: &Host, folder: &Path, version: &str) -> (Daemon, SocketAddr) {
    let (key, certificate) = certificate_in(folder);
    let mut server = far.namespace.command("openssl");
    server.args(["s_server", "-www", version, "-accept", &format!("{}:0", far.v4), "-key"]).arg(&key);
    server.arg("-cert").arg(&certificate).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = server.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // "ACCEPT 10.0.0.2:40231"
    let accepts = lines.into_iter().find_map(|line| line.strip_prefix("ACCEPT ")?.trim().parse().ok());
    (Daemon(child), accepts.expect("s_server says where it listens"))
}

fn check_tls(version: &str, curl: &[&str], ja4_start: &str) {
    skip_if!(missing_programs(&["curl", "openssl"]));
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let (_server, addr) = tls_server(&pair.far, folder.path(), version);
    let resolve = format!("secure.example.test:{}:{}", addr.port(), addr.ip());
    let url = format!("https://secure.example.test:{}/", addr.port());
    let mut client = pair.near.namespace.command("curl");
    let pid = pid_of(client.args(["--silent", "--insecure", "--resolve", &resolve]).args(curl).arg(&url));
    let flow = expect_flow(pid, addr, "a named flow", |event| !event.text("destination.domain").is_empty());
    assert_eq!(flow.text("destination.domain"), "secure.example.test");
    assert_eq!(flow.text("pktscope.domain_source"), "tls_sni", "{flow}");
    assert_eq!(flow.text("tls.client.server_name"), "secure.example.test");
    assert!(flow.text("tls.client.ja4").starts_with(ja4_start), "{flow}");
}

#[test]
fn tls_1_2_is_named_by_its_hello() {
    check_tls("-tls1_2", &["--tlsv1.2", "--tls-max", "1.2"], "t12d");
}

#[test]
fn tls_1_3_is_named_by_its_hello() {
    check_tls("-tls1_3", &["--tlsv1.3"], "t13d");
}

/// Speaks first where it is given a greeting, answers what comes with the next reply, and then goes on in TLS.
const UPGRADING_SERVER: &str = "
import socket, ssl, sys
address, port, key, certificate, greeting, *replies = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
listener = socket.create_server((address, int(port)))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.sendall(bytes.fromhex(greeting))
greeting = bytes.fromhex(greeting)
for reply in replies:
    # What follows MySQL's request at once is TLS.
    connection.recv(36 if b'mysql' in greeting else 4096)
    connection.sendall(bytes.fromhex(reply))
context.wrap_socket(connection, server_side=True).recv(1)
";

/// What a MySQL server says first: protocol 10, version, connection, nonce, all capabilities.
const MYSQL_GREETING: &[u8] =
    b"\x4a\0\0\0\x0a8.0.36\0\x01\0\0\0aaaaaaaa\0\xff\xff\x21\x02\0\xff\xff\x15\0\0\0\0\0\0\0\0\0\0\
    aaaaaaaaaaaa\0mysql_native_password\0";

/// What an XMPP server says to a client's stream.
const XMPP_FEATURES: &[u8] = b"<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' \
    xmlns='jabber:client' id='1' version='1.0'><stream:features>\
    <starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>";

fn check_upgrade(protocol: &str, port: u16, greeting: &[u8], replies: &[&[u8]]) {
    skip_if!(missing_programs(&["openssl", "python3"]));
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let (key, certificate) = certificate_in(folder.path());
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut server = pair.far.namespace.command("python3");
    server.args(["-c", UPGRADING_SERVER, &pair.far.v4.to_string(), &port.to_string()]).arg(key).arg(certificate);
    server.arg(hexadecimal(greeting)).args(replies.iter().map(|reply| hexadecimal(reply)));
    let mut child = server.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let line = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    let _server = Daemon(child);
    let addr = SocketAddr::new(pair.far.v4.into(), line.trim().parse().unwrap());
    let mut client = pair.near.namespace.command("openssl");
    client.args(["s_client", "-starttls", protocol, "-servername", "upgraded.example.test"]);
    let pid = pid_of(client.args(["-connect", &addr.to_string()]).stdin(Stdio::null()));
    let flow = expect_flow(pid, addr, "a named flow", |event| !event.text("destination.domain").is_empty());
    assert_eq!(flow.text("destination.domain"), "upgraded.example.test", "{protocol}: {flow}");
    assert_eq!(flow.text("pktscope.domain_source"), "tls_sni");
    assert!(flow.text("tls.client.ja4").starts_with("t13d"), "{flow}");
}

#[test]
fn mail_that_goes_on_in_tls_is_named_by_its_hello() {
    check_upgrade("smtp", 0, b"220 x\r\n", &[b"250-x\r\n250 STARTTLS\r\n", b"220 go\r\n"]);
    check_upgrade("pop3", 0, b"+OK\r\n", &[b"+OK\r\n"]);
    check_upgrade("imap", 143, b"* OK\r\n", &[b"* CAPABILITY IMAP4rev1 STARTTLS\r\n. OK\r\n", b". OK\r\n"]);
}

#[test]
fn other_protocols_that_go_on_in_tls_are_named_by_their_hello() {
    check_upgrade("ftp", 0, b"220 x\r\n", &[b"211-x\r\n AUTH TLS\r\n211 End\r\n", b"234 go\r\n"]);
    check_upgrade("postgres", 0, b"", &[b"S"]);
    check_upgrade("mysql", 0, MYSQL_GREETING, &[b""]);
    check_upgrade("nntp", 0, b"200 x\r\n", &[b"101 x\r\nSTARTTLS\r\n.\r\n", b"382 go\r\n"]);
    check_upgrade("sieve", 0, b"\"STARTTLS\"\r\nOK\r\n", &[b"OK\r\n"]);
    check_upgrade("xmpp", 0, b"", &[XMPP_FEATURES, b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"]);
    check_upgrade("ldap", 0, b"", &[b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00"]);
}

/// Sends OpenSSL's own ClientHello in three parts, each a segment of its own.
const SPLIT_HELLO: &str = "
import os, socket, ssl, sys
host, port = sys.argv[1].rsplit(':', 1)
context = ssl.create_default_context()
out = ssl.MemoryBIO()
tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname='split.example.test')
try:
    tls.do_handshake()
except ssl.SSLWantReadError:
    pass
hello = out.read()
s = socket.create_connection((host, int(port)))
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
cuts = [0, 60, len(hello) // 2, len(hello)]
for start, end in zip(cuts, cuts[1:]):
    s.sendall(hello[start:end])
    # Unsent bytes in the kernel's queue, so that the next part cannot join this one.
    import fcntl, struct, termios
    while struct.unpack('i', fcntl.ioctl(s, termios.TIOCOUTQ, b'0000'))[0]:
        pass
s.shutdown(socket.SHUT_WR)
s.recv(1)
print(os.getpid())
";

#[test]
fn a_hello_in_several_segments_is_read_whole() {
    skip_if!(missing_programs(&["python3"]));
    let pair = pair();
    let server = TcpServer::start(&pair.far.namespace, pair.far.v4.into(), 10).unwrap();
    let mut python = pair.near.namespace.command("python3");
    let pid = output_of(python.args(["-c", SPLIT_HELLO, &server.addr.to_string()])).trim().parse().unwrap();
    let flow = expect_flow(pid, server.addr, "a named flow", |event| !event.text("destination.domain").is_empty());
    assert_eq!(flow.text("destination.domain"), "split.example.test", "{flow}");
    assert_eq!(flow.text("pktscope.domain_source"), "tls_sni");
    assert!(flow.text("tls.client.ja4").starts_with("t13d"), "{flow}");
}

#[test]
fn a_quic_client_is_named_by_its_hello() {
    skip_if!(missing_programs(&["gtlsclient", "unshare"]));
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    // Nobody answers; the client's first packets already say where it wants to go.
    let sink = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap();
    // By name: for an address this client says `localhost` whatever its --sni is.
    let mut client = knowing(&pair, folder.path(), "quic.example.test", "gtlsclient");
    client.args(["--quiet", "--timeout=1s", "--handshake-timeout=1s", "--exit-on-first-stream-close"]);
    client.args(["quic.example.test", &sink.addr.port().to_string(), "https://quic.example.test/"]);
    let pid = pid_of(&mut client);
    let flow = expect_flow(pid, sink.addr, "a named flow", |event| !event.text("destination.domain").is_empty());
    assert_eq!(flow.text("destination.domain"), "quic.example.test", "{flow}");
    assert_eq!(flow.text("pktscope.domain_source"), "quic_sni", "{flow}");
    assert!(flow.text("tls.client.ja4").starts_with("q13d"), "{flow}");
}

#[test]
fn an_answer_that_nobody_asked_for_names_nothing() {
    skip_if!(missing_programs(&["python3"]));
    let pair = pair();
    let server = HttpServer::start(&pair.far.namespace, pair.far.v4.into(), 10).unwrap();
    let forged = forged_answer("forged.example.test", pair.far.v4.into());
    // The answer reaches a socket of the process that then connects, but it never asked.
    let script = "
import os, socket, sys
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind((sys.argv[1], 5555))
print('bound', flush=True)
u.recv(2000)
socket.create_connection((sys.argv[2], int(sys.argv[3]))).close()
";
    let mut python = pair.near.namespace.command("python3");
    python.args([
        "-c",
        script,
        &pair.near.v4.to_string(),
        &server.addr.ip().to_string(),
        &server.addr.port().to_string(),
    ]);
    let mut child = python.stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    let forger = pair.far.namespace.run(|| std::net::UdpSocket::bind((pair.far.v4, 53)).unwrap());
    forger.send_to(&forged, (pair.near.v4, 5555)).unwrap();
    assert!(child.wait().unwrap().success());
    let flow = expect_flow(child.id(), server.addr, "the flow's end", |event| event.is_flow_end());
    assert_eq!(flow.text("destination.domain"), "", "{flow}");
}

/// A DNS response with one A record.
fn forged_answer(name: &str, addr: IpAddr) -> Vec<u8> {
    let IpAddr::V4(addr) = addr else { panic!("an A record holds an IPv4 address") };
    let mut message = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    message.extend(addr.octets());
    message
}

#[test]
fn a_swapped_binary_and_a_script_have_hashes_of_what_ran() {
    skip_if!(missing_programs(&["sha256sum"]));
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let sink = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap();
    let program: PathBuf = folder.path().join("swapped");
    let mut hashes = Vec::new();
    for tail in [&b"first"[..], b"second"] {
        // A few bytes after an ELF image change its hash, not what it does. A new file, so a new inode.
        let mut image = fs::read(built("traffic")).unwrap();
        image.extend(tail);
        let next = folder.path().join("next");
        fs::write(&next, image).unwrap();
        fs::set_permissions(&next, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fs::rename(&next, &program).unwrap();
        let run = format!("udp --to {} --pause", sink.addr);
        let mut running = Traffic::of(&program, &pair.near.namespace, &run).start().unwrap();
        let pid = running.report().unwrap().pid;
        running.go_on().unwrap();
        running.finish().unwrap();
        let hash = output_of(Command::new("sha256sum").arg(&program)).split(' ').next().unwrap().to_owned();
        AGENT.expect(DEADLINE, "the image's hash", |event| {
            event.pid() == pid && event.text("process.hash.sha256") == hash
        });
        hashes.push(hash);
    }
    assert_ne!(hashes[0], hashes[1]);
}

#[test]
fn destinations_have_country_and_system_where_they_are_public() {
    skip_if!(missing_privilege());
    let countries = mmdb::countries(&[([45, 33, 0, 0].into(), 16, "US"), ([10, 0, 0, 0].into(), 8, "XX")]);
    let systems = mmdb::systems(&[([45, 33, 0, 0].into(), 16, 63_949, "Akamai Connected Cloud")]);
    let options = AgentOptions::new().unwrap().file("--geoip-country", "country.mmdb", &countries).unwrap();
    let agent = options.file("--geoip-asn", "asn.mmdb", &systems).unwrap().start().unwrap();
    let pair = Pair::new().unwrap();
    let send = |to: &str| {
        let report = Traffic::new(&pair.near.namespace, &format!("udp --to {to}:9")).run().unwrap();
        end_of(&agent, &report)
    };
    let public = send("45.33.32.156");
    assert_eq!(public.text("destination.geo.country_iso_code"), "US", "{public}");
    assert_eq!(public.number("destination.as.number"), 63_949, "{public}");
    assert_eq!(public.text("destination.as.organization.name"), "Akamai Connected Cloud");
    let private = send(&pair.far.v4.to_string());
    assert_eq!(private.get("destination.geo"), None, "private space is never looked up: {private}");
}
