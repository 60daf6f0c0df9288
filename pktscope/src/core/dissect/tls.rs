//! TLS ClientHello: the joined first bytes of a client in, what the hello says out.
//!
//! A hello may be spread over segments and over records; the caller joins segments, this module joins records.

use crate::core::{dissect::reader::Reader, domain::normalize, flow::ClientHello};

use super::ja4::{Ja4Transport, ja4};

/// Longest hello read, in bytes; the longest ones in use, with post-quantum key shares and padding, have 4 KiB.
pub const MAX_HELLO_LEN: usize = 32 * 1024;
/// Application protocols kept of one hello.
pub const MAX_ALPN: usize = 32;

const RECORD_HANDSHAKE: u8 = 22;
const RECORD_HEADER_LEN: usize = 5;
/// A record's longest fragment: 2^14 (RFC 8446, 5.1), and what TLS 1.2 allows it to grow by compression.
const MAX_RECORD_LEN: usize = (1 << 14) + 1024;
const CLIENT_HELLO: u8 = 1;
const HANDSHAKE_HEADER_LEN: usize = 4;

const EXT_SERVER_NAME: u16 = 0;
const EXT_SIGNATURE_ALGORITHMS: u16 = 13;
const EXT_ALPN: u16 = 16;
const EXT_SUPPORTED_VERSIONS: u16 = 43;
/// Encrypted ClientHello (RFC 9849) and the drafts' encrypted_server_name that came before it.
const EXT_ECH: u16 = 0xfe0d;
const EXT_ESNI: u16 = 0xffce;

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// Whole.
    Done(T),
    /// A good start: look again once there are this many bytes in all.
    NeedMore(usize),
    /// Something else.
    Other,
}

/// The fields of a hello that a fingerprint or a name is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawHello {
    /// `legacy_version`.
    pub version: u16,
    /// Cipher suites in order, GREASE included.
    pub ciphers: Vec<u16>,
    /// Extension types in order, GREASE included.
    pub extensions: Vec<u16>,
    /// Host name of the server_name extension, normalised; `None` where there is none.
    pub server_name: Option<String>,
    /// Protocols offered, raw, at most [`MAX_ALPN`].
    pub alpn: Vec<Vec<u8>>,
    /// Versions of the supported_versions extension.
    pub supported_versions: Vec<u16>,
    /// Of extension 13, in order.
    pub signature_algorithms: Vec<u16>,
    /// Whether the hello is the outer one of an encrypted hello. Clients also send GREASE ECH, which cannot be told
    /// from the real one (RFC 9849, 6.2); so the name is never more than the outer name then.
    pub has_encrypted_hello: bool,
}

impl RawHello {
    /// The hello as flows carry it.
    pub fn summary(&self, transport: Ja4Transport) -> ClientHello {
        ClientHello {
            server_name: self.server_name.as_deref().map(Into::into),
            alpn: self.alpn.iter().map(|protocol| normalize_protocol(protocol).into()).collect(),
            ja4: ja4(self, transport).into(),
            has_encrypted_hello: self.has_encrypted_hello,
        }
    }
}

/// Reads a ClientHello from the first bytes of a TCP stream.
pub fn read_records(bytes: &[u8]) -> Progress<RawHello> {
    let mut handshake = Vec::new();
    let mut at = 0;
    loop {
        let Some(header) = bytes.get(at..at + RECORD_HEADER_LEN) else {
            return if is_record_start(&bytes[at..]) {
                Progress::NeedMore(at + RECORD_HEADER_LEN)
            } else {
                Progress::Other
            };
        };
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if !is_record_start(header) || len == 0 || len > MAX_RECORD_LEN {
            return Progress::Other;
        }
        at += RECORD_HEADER_LEN;
        let end = at + len;
        handshake.extend_from_slice(&bytes[at..end.min(bytes.len())]);
        match read_handshake(&handshake) {
            Progress::NeedMore(_) if end <= bytes.len() => at = end,
            Progress::NeedMore(need) => return Progress::NeedMore(end.min(bytes.len() + need - handshake.len())),
            other => return other,
        }
    }
}

/// Reads a ClientHello from handshake bytes: TLS records unwrapped, or a QUIC CRYPTO stream.
pub fn read_handshake(bytes: &[u8]) -> Progress<RawHello> {
    match bytes.first() {
        Some(&CLIENT_HELLO) => {}
        Some(_) => return Progress::Other,
        None => return Progress::NeedMore(HANDSHAKE_HEADER_LEN),
    }
    let Some(&[_, high, middle, low]) = bytes.first_chunk() else { return Progress::NeedMore(HANDSHAKE_HEADER_LEN) };
    let len = u32::from_be_bytes([0, high, middle, low]) as usize;
    if len > MAX_HELLO_LEN {
        return Progress::Other;
    }
    match bytes.get(HANDSHAKE_HEADER_LEN..HANDSHAKE_HEADER_LEN + len) {
        Some(body) => read_body(body).map_or(Progress::Other, Progress::Done),
        None => Progress::NeedMore(HANDSHAKE_HEADER_LEN + len),
    }
}

/// Whether the bytes can be the start of a handshake record: type 22, major version 3.
pub fn is_record_start(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|&kind| kind == RECORD_HANDSHAKE) && bytes.get(1).is_none_or(|&major| major == 3)
}

/// RFC 8446, 4.1.2.
fn read_body(body: &[u8]) -> Option<RawHello> {
    let mut reader = Reader::new(body);
    let mut hello = RawHello { version: reader.u16()?, ..RawHello::default() };
    reader.take(32)?;
    reader.prefixed_u8()?;
    hello.ciphers = numbers(reader.prefixed_u16()?);
    reader.prefixed_u8()?;
    // TLS 1.0 and before allow a hello that ends here.
    let Some(mut extensions) = reader.prefixed_u16() else { return reader.is_empty().then_some(hello) };
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.prefixed_u16()?;
        hello.extensions.push(kind);
        read_extension(kind, data, &mut hello);
    }
    Some(hello)
}

/// A broken extension leaves its field empty; the rest of the hello still counts.
fn read_extension(kind: u16, mut data: Reader<'_>, hello: &mut RawHello) {
    match kind {
        EXT_SERVER_NAME => hello.server_name = server_name(data),
        EXT_ALPN => hello.alpn = protocols(data).unwrap_or_default(),
        EXT_SUPPORTED_VERSIONS => hello.supported_versions = data.prefixed_u8().map(numbers).unwrap_or_default(),
        EXT_SIGNATURE_ALGORITHMS => hello.signature_algorithms = data.prefixed_u16().map(numbers).unwrap_or_default(),
        EXT_ECH | EXT_ESNI => hello.has_encrypted_hello = true,
        _ => {}
    }
}

/// The first entry of type host_name (RFC 6066, 3).
fn server_name(mut data: Reader<'_>) -> Option<String> {
    const HOST_NAME: u8 = 0;
    let mut list = data.prefixed_u16()?;
    while !list.is_empty() {
        let kind = list.u8()?;
        let name = list.prefixed_u16()?.rest();
        if kind == HOST_NAME && !name.is_empty() {
            return Some(normalize(name));
        }
    }
    None
}

/// RFC 7301, 3.1.
fn protocols(mut data: Reader<'_>) -> Option<Vec<Vec<u8>>> {
    let mut list = data.prefixed_u16()?;
    let mut protocols = Vec::new();
    while !list.is_empty() && protocols.len() < MAX_ALPN {
        protocols.push(list.prefixed_u8()?.rest().to_vec());
    }
    Some(protocols)
}

fn numbers(mut reader: Reader<'_>) -> Vec<u16> {
    std::iter::from_fn(|| reader.u16()).collect()
}

/// Protocol names keep their case; bytes that are not printable ASCII become `\xHH`.
fn normalize_protocol(protocol: &[u8]) -> String {
    protocol.escape_ascii().to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A hello with a server name, `http/1.1`, one version and one signature algorithm.
    pub(crate) fn hello_bytes(name: &[u8]) -> Vec<u8> {
        let prefixed = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
        let extension = |kind: u16, data: &[u8]| [&kind.to_be_bytes()[..], &prefixed(data)].concat();
        let extensions = [
            extension(EXT_SERVER_NAME, &prefixed(&[&[0][..], &prefixed(name)].concat())),
            extension(EXT_ALPN, &prefixed(b"\x08http/1.1")),
            extension(EXT_SUPPORTED_VERSIONS, b"\x02\x03\x04"),
            extension(EXT_SIGNATURE_ALGORITHMS, &prefixed(b"\x04\x03")),
        ];
        let body =
            [&b"\x03\x03"[..], &[7; 32], &[0], &prefixed(b"\x13\x01"), b"\x01\0", &prefixed(&extensions.concat())];
        let body = body.concat();
        [&[CLIENT_HELLO, 0][..], &prefixed(&body)].concat()
    }

    /// The handshake bytes cut into records of at most `len` bytes.
    pub(crate) fn records(handshake: &[u8], len: usize) -> Vec<u8> {
        let record =
            |part: &[u8]| [&b"\x16\x03\x01"[..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
        handshake.chunks(len).flat_map(record).collect()
    }

    #[test]
    fn fields() {
        let Progress::Done(hello) = read_records(&records(&hello_bytes(b"Www.Example.org"), 1 << 14)) else { panic!() };
        assert_eq!(hello.server_name.as_deref(), Some("www.example.org"));
        assert_eq!((hello.supported_versions, hello.ciphers), (vec![0x0304], vec![0x1301]));
        assert_eq!((hello.alpn, hello.signature_algorithms), (vec![b"http/1.1".to_vec()], vec![0x0403]));
        assert!(!hello.has_encrypted_hello);
    }

    #[test]
    fn an_encrypted_hello_is_said_as_such() {
        let mut handshake = hello_bytes(b"outer.example");
        let more = [&EXT_ECH.to_be_bytes()[..], &[0, 3, 0, 1, 2]].concat();
        let extensions_at = HANDSHAKE_HEADER_LEN + 2 + 32 + 1 + 4 + 2;
        let len = u16::from_be_bytes([handshake[extensions_at], handshake[extensions_at + 1]]) + 7;
        handshake[extensions_at..extensions_at + 2].copy_from_slice(&len.to_be_bytes());
        handshake[3] += 7;
        handshake.extend_from_slice(&more);
        let Progress::Done(hello) = read_handshake(&handshake) else { panic!() };
        assert!(hello.has_encrypted_hello);
        assert_eq!(hello.summary(Ja4Transport::Tcp).server_name.as_deref(), Some("outer.example"));
    }

    #[test]
    fn same_hello_from_any_records() {
        let handshake = hello_bytes(b"example.org");
        let whole = read_handshake(&handshake);
        for len in 1..handshake.len() {
            assert_eq!(read_records(&records(&handshake, len)), whole, "records of {len}");
        }
    }

    #[test]
    fn every_prefix_asks_for_more_and_is_satisfied() {
        let bytes = records(&hello_bytes(b"example.org"), 40);
        let mut have = 0;
        while let Progress::NeedMore(need) = read_records(&bytes[..have]) {
            assert!(have < need && need <= bytes.len(), "{have} needs {need}");
            have = need;
        }
        assert!(matches!(read_records(&bytes[..have]), Progress::Done(_)));
    }

    #[test]
    fn other_bytes_are_refused() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            b"\x16\x04\x01",
            b"\x17\x03\x03\0\x01\0",
            b"\x16\x03\x01\0\0",
            b"\x16\x03\x01\0\x04\x02\0\0\0",
        ] {
            assert_eq!(read_records(bytes), Progress::Other, "{bytes:?}");
        }
        assert_eq!(read_handshake(&[1, 0xff, 0, 0]), Progress::Other);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = read_records(&bytes);
            let _ = read_handshake(&bytes);
            let _ = read_records(&records(&[&[1, 0, 2, 0][..], &bytes].concat(), 100));
        }

        #[test]
        fn damaged_hellos_never_panic(at in 0_usize..120, byte in any::<u8>()) {
            let mut handshake = hello_bytes(b"example.org");
            let at = at % handshake.len();
            handshake[at] = byte;
            if let Progress::Done(hello) = read_handshake(&handshake) {
                let _ = hello.summary(Ja4Transport::Tcp);
            }
        }
    }
}
