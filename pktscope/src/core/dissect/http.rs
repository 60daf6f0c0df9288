//! HTTP/1 requests: the joined first bytes of a client in, the host that is asked for out.

use crate::core::domain::{is_address, normalize};

use super::tls::Progress;

/// Longest head read, in bytes; servers take 8 or 16 KiB.
pub const MAX_HEAD_LEN: usize = 16 * 1024;
/// Headers read of one request.
const MAX_HEADERS: usize = 100;
/// The longest registered methods have 17 characters (IANA, HTTP Method Registry).
const MAX_METHOD_LEN: usize = 17;

/// A request's destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpHost {
    /// The host, normalised, without its port; `None` where it is missing, an address or not a name, or where the
    /// request is a CONNECT: its host is behind the proxy that the flow goes to.
    pub name: Option<String>,
}

/// Whether the bytes can be the start of a request line: a method in capitals, then a space.
pub fn is_request_start(bytes: &[u8]) -> bool {
    let method_len = bytes.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    let has_method = bytes.first().is_none_or(u8::is_ascii_uppercase) && method_len <= MAX_METHOD_LEN;
    has_method && (method_len == bytes.len() || method_len >= 3 && bytes[method_len] == b' ')
}

/// Reads the host from the first bytes of a TCP stream, as soon as its line is whole.
pub fn read_request(bytes: &[u8]) -> Progress<HttpHost> {
    if !is_request_start(bytes) {
        return Progress::Other;
    }
    let head = &bytes[..bytes.len().min(MAX_HEAD_LEN)];
    let is_whole = contains(head, b"\r\n\r\n") || contains(head, b"\n\n");
    let Some(lines) = whole_lines(head) else { return need_more(bytes) };
    let mut head = lines.to_vec();
    if !is_whole {
        head.extend_from_slice(b"\r\n");
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(&head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return need_more(bytes),
        Err(_) => return Progress::Other,
    }
    let host = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("host"));
    match host {
        _ if request.method == Some("CONNECT") => Progress::Done(HttpHost { name: None }),
        Some(host) => Progress::Done(HttpHost { name: host_name(host.value) }),
        None if is_whole => Progress::Done(HttpHost { name: None }),
        None => need_more(bytes),
    }
}

fn need_more(bytes: &[u8]) -> Progress<HttpHost> {
    if bytes.len() < MAX_HEAD_LEN { Progress::NeedMore(bytes.len() + 1) } else { Progress::Other }
}

/// Up to and with the last line feed.
fn whole_lines(head: &[u8]) -> Option<&[u8]> {
    let end = head.iter().rposition(|&byte| byte == b'\n')?;
    Some(&head[..=end])
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The name in a Host header (RFC 9110, 7.2).
fn host_name(value: &[u8]) -> Option<String> {
    let value = value.trim_ascii();
    let name = match value.iter().rposition(|&byte| byte == b':') {
        Some(colon) if value[colon + 1..].iter().all(u8::is_ascii_digit) => &value[..colon],
        _ => value,
    };
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if name.is_empty() || name.len() > 255 || !name.iter().all(is_name) {
        return None;
    }
    Some(normalize(name)).filter(|name| !is_address(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(request: &str, expected: Option<&str>) {
        let expected = Progress::Done(HttpHost { name: expected.map(str::to_owned) });
        assert_eq!(read_request(request.as_bytes()), expected, "{request}");
    }

    #[test]
    fn hosts() {
        check("GET / HTTP/1.1\r\nHost: Example.COM\r\n\r\n", Some("example.com"));
        check("GET / HTTP/1.1\r\nhost:example.com:8080\r\nAccept: */*\r\n\r\n", Some("example.com"));
        check("POST /x HTTP/1.0\r\nContent-Length: 0\r\n\r\n", None);
        check("GET / HTTP/1.1\r\nHost: 192.0.2.1:80\r\n\r\n", None);
        check("GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", None);
        check("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", None);
        check("CONNECT far.example:443 HTTP/1.1\r\nHost: far.example:443\r\n\r\n", None);
        check("VERSION-CONTROL /x HTTP/1.1\r\nHost: example.com\r\n\r\n", Some("example.com"));
    }

    #[test]
    fn the_host_is_known_before_the_head_ends() {
        check("GET / HTTP/1.1\r\nHost: example.com\r\nCookie: half", Some("example.com"));
    }

    #[test]
    fn a_line_that_is_not_whole_is_not_a_host() {
        for cut in ["", "GE", "GET", "GET / HT", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: exam"] {
            assert_eq!(read_request(cut.as_bytes()), Progress::NeedMore(cut.len() + 1), "{cut:?}");
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let long = [b'A'; 40];
        for bytes in
            [&b"SSH-2.0-OpenSSH\r\n"[..], b"get / HTTP/1.1\r\n", b"\x16\x03\x01", b"HTTP/1.1 200 OK\r\n\r\n", &long]
        {
            assert_eq!(read_request(bytes), Progress::Other, "{bytes:?}");
        }
        let endless = [b"GET / HTTP/1.1\r\nX: "[..].to_vec(), vec![b'a'; MAX_HEAD_LEN]].concat();
        assert_eq!(read_request(&endless), Progress::Other);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = read_request(&bytes);
            let _ = read_request(&[b"GET / HTTP/1.1\r\n", &bytes[..]].concat());
            let _ = read_request(&[b"GET / HTTP/1.1\r\nHost:", &bytes[..], b"\r\n\r\n"].concat());
        }
    }
}
