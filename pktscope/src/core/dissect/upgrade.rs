//! What a client says in the clear before it goes on in TLS: the first bytes of a TCP stream in, where TLS begins out.

use super::tls::Progress;

/// Longest dialogue read, in bytes; a client's greeting and its request are below 200.
const MAX_LEN: usize = 4096;

/// PostgreSQL's SSLRequest, and the GSSENCRequest that a client with Kerberos credentials tries before
/// (protocol documentation, 55.7).
const POSTGRESQL: [[u8; 8]; 2] = [[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], [0, 0, 0, 8, 4, 0xd2, 0x16, 0x30]];

/// MySQL's SSLRequest: a packet of 32 bytes, the client's first, whose flags have `CLIENT_SSL` and `CLIENT_PROTOCOL_41`.
const MYSQL_HEADER: [u8; 4] = [32, 0, 0, 1];
const MYSQL_LEN: usize = 36;
const MYSQL_FLAGS: u16 = 0x0800 | 0x0200;

/// LDAP's StartTLS (RFC 4511, 4.14.1): an extended request of this name. Its message fits the length's short form.
const LDAP_SEQUENCE: u8 = 0x30;
const LDAP_START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// Commands after which the next byte is TLS: SMTP (RFC 3207), IMAP and POP3 (RFC 2595), FTP (RFC 4217), NNTP (RFC 4642),
/// ManageSieve (RFC 5804).
const UPGRADES: [&[u8]; 4] = [b"STARTTLS", b"STLS", b"AUTH TLS", b"AUTH SSL"];
/// Commands that clients give before.
const GREETINGS: [&[u8]; 10] =
    [b"EHLO", b"HELO", b"LHLO", b"CAPA", b"CAPABILITY", b"CAPABILITIES", b"MODE", b"FEAT", b"NOOP", b"ID"];

/// How an XMPP stream begins, with or without its XML declaration, and what the client asks for TLS with
/// (RFC 6120, 4.7 and 5.4.2.1).
const XMPP_STARTS: [&[u8]; 2] = [b"<?xml ", b"<stream:stream "];
const XMPP_START_TLS: &[u8] = b"urn:ietf:params:xml:ns:xmpp-tls";

/// Finds how many bytes in the clear come before TLS. `NeedMore` and `Other` say whether it may still come.
pub fn find_end(bytes: &[u8]) -> Progress<usize> {
    let whole = |len: usize| if len <= bytes.len() { Progress::Done(len) } else { Progress::NeedMore(len) };
    match *bytes {
        [] => Progress::NeedMore(1),
        [0, ..] if POSTGRESQL.iter().any(|request| is_start_of(bytes, request)) => whole(POSTGRESQL[0].len()),
        [32, ..] if is_start_of(bytes, &MYSQL_HEADER) && is_mysql_upgrade(bytes) => whole(MYSQL_LEN),
        [LDAP_SEQUENCE] => Progress::NeedMore(2),
        [LDAP_SEQUENCE, len @ ..=0x7f, ref rest @ ..] => match rest.get(..len.into()) {
            Some(message) if contains(message, LDAP_START_TLS) => Progress::Done(2 + usize::from(len)),
            Some(_) => Progress::Other,
            None => Progress::NeedMore(2 + usize::from(len)),
        },
        [b'<', ..] if XMPP_STARTS.iter().any(|start| is_start_of(bytes, start)) => find_element(bytes),
        _ => find_line(bytes),
    }
}

/// The end of the element that asks for TLS: of a start tag that is closed at once, or of the end tag after it.
fn find_element(bytes: &[u8]) -> Progress<usize> {
    let more = if bytes.len() < MAX_LEN { Progress::NeedMore(bytes.len() + 1) } else { Progress::Other };
    let Some(name) = position(bytes, XMPP_START_TLS) else { return more };
    let Some(tag_end) = bytes[name..].iter().position(|&byte| byte == b'>').map(|end| name + end) else { return more };
    if bytes[tag_end - 1] == b'/' {
        return Progress::Done(tag_end + 1);
    }
    position(&bytes[tag_end..], b"</starttls>").map_or(more, |end| Progress::Done(tag_end + end + b"</starttls>".len()))
}

/// Whether one begins with the other, as far as both go.
fn is_start_of(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.iter().zip(wanted).all(|(byte, wanted)| byte == wanted)
}

fn is_mysql_upgrade(bytes: &[u8]) -> bool {
    let flags = bytes.get(MYSQL_HEADER.len()..).and_then(<[u8]>::first_chunk);
    flags.is_none_or(|flags| u16::from_le_bytes(*flags) & MYSQL_FLAGS == MYSQL_FLAGS)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    position(bytes, part).is_some()
}

fn position(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// The end of the line that asks for TLS, where all before it are greetings.
fn find_line(bytes: &[u8]) -> Progress<usize> {
    let mut at = 0;
    while let Some(end) = bytes[at..].iter().position(|&byte| byte == b'\n') {
        let line = bytes[at..at + end].trim_ascii_end();
        at += end + 1;
        match command(line) {
            Some(Command::Upgrade) => return Progress::Done(at),
            Some(Command::Greeting) => {}
            None => return Progress::Other,
        }
    }
    let is_text = bytes[at..].iter().all(|&byte| byte == b'\r' || (b' '..=b'~').contains(&byte));
    if is_text && bytes.len() < MAX_LEN { Progress::NeedMore(bytes.len() + 1) } else { Progress::Other }
}

enum Command {
    Greeting,
    Upgrade,
}

/// What a line says, with or without IMAP's tag before it.
fn command(line: &[u8]) -> Option<Command> {
    let untagged = line.iter().position(|&byte| byte == b' ').map_or(&[][..], |space| &line[space + 1..]);
    [line, untagged].into_iter().find_map(|text| {
        let word = text.split(|&byte| byte == b' ').next().unwrap_or(text);
        if UPGRADES.iter().any(|upgrade| text.eq_ignore_ascii_case(upgrade)) {
            return Some(Command::Upgrade);
        }
        GREETINGS.iter().any(|greeting| word.eq_ignore_ascii_case(greeting)).then_some(Command::Greeting)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Progress<usize>) {
        assert_eq!(find_end(bytes), expected, "{}", bytes.escape_ascii());
    }

    #[test]
    fn the_end_of_each_dialogue_is_found() {
        for lines in [
            "EHLO mail.example.com\r\nSTARTTLS\r\n",
            "ehlo x\r\nstarttls\r\n",
            "CAPA\r\nSTLS\r\n",
            "STLS\n",
            "CAPABILITIES\r\nMODE READER\r\nSTARTTLS\r\n",
            "AUTH TLS\r\n",
            ". CAPABILITY\r\n. STARTTLS\r\n",
            "a1 ID (\"name\" \"client\")\r\na2 StartTLS\r\n",
        ] {
            let bytes = [lines.as_bytes(), b"\x16\x03\x01"].concat();
            check(&bytes, Progress::Done(lines.len()));
            (1..lines.len()).for_each(|cut| check(&bytes[..cut], Progress::NeedMore(cut + 1)));
        }
    }

    #[test]
    fn an_element_that_asks_is_found() {
        let stream = "<stream:stream to='example.com' version='1.0'>";
        let declared = format!("<?xml version='1.0'?>{stream}");
        for (start, end) in [(stream, "/>"), (&declared, "/>"), (stream, "></starttls>"), (stream, " ></starttls>")] {
            let text = format!("{start}<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'{end}");
            check(&[text.as_bytes(), b"\x16\x03\x01"].concat(), Progress::Done(text.len()));
            (1..text.len()).for_each(|cut| check(&text.as_bytes()[..cut], Progress::NeedMore(cut + 1)));
        }
        check(b"<html>\r\n", Progress::Other);
        check(format!("{stream}{}", " ".repeat(MAX_LEN)).as_bytes(), Progress::Other);
    }

    #[test]
    fn requests_in_binary_are_found() {
        check(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f, 0x16], Progress::Done(8));
        check(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x30], Progress::Done(8));
        check(&[0, 0, 0, 8], Progress::NeedMore(8));
        let ldap = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
        check(ldap, Progress::Done(ldap.len()));
        check(&ldap[..10], Progress::NeedMore(ldap.len()));
        check(b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00", Progress::Other);
        let mut mysql = [0; 36];
        mysql[..6].copy_from_slice(&[32, 0, 0, 1, 0x05, 0xae]);
        check(&mysql, Progress::Done(36));
        check(&mysql[..20], Progress::NeedMore(36));
        mysql[5] = 0xa6;
        check(&mysql, Progress::Other);
    }

    #[test]
    fn other_dialogues_are_left() {
        check(b"SSH-2.0-OpenSSH_9.2\r\n", Progress::Other);
        check(b"GET / HTTP/1.1\r\n", Progress::Other);
        check(b"EHLO x\r\nMAIL FROM:<a@b>\r\nSTARTTLS\r\n", Progress::Other);
        check(b"NICK x\r\n", Progress::Other);
        check(&[0, 0, 0, 8, 0, 3, 0, 0], Progress::Other);
        check(b"EHLO \x00", Progress::Other);
        check(&[b'a'; MAX_LEN], Progress::Other);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), first in 0usize..5) {
            let bytes = [[&b""[..], b"\x30", b"\x00\x00", b"EHLO x\n", b"<?xml urn:ietf:params:xml:ns:xmpp-tls"][first], &bytes].concat();
            if let Progress::Done(len) = find_end(&bytes) {
                prop_assert!(0 < len && len <= bytes.len());
            }
        }
    }
}
