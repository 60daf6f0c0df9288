//! JA4, FoxIO's fingerprint of TLS clients (BSD 3-Clause; the other members of JA4+ are not free and not here).
//!
//! Definition: <https://github.com/FoxIO-LLC/ja4/blob/main/technical_details/JA4.md>. Where its text and its published
//! results differ, the results count: other tools' fingerprints come from the same programs.

use sha2::{Digest as _, Sha256};

use super::tls::RawHello;

const EXT_SERVER_NAME: u16 = 0;
const EXT_ALPN: u16 = 16;
/// Counts above this are given as 99.
const MAX_COUNT: usize = 99;
const EMPTY_HASH: &str = "000000000000";

/// What carried the hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ja4Transport {
    /// `t`
    Tcp,
    /// `q`
    Quic,
}

/// The fingerprint, 36 characters.
pub fn ja4(hello: &RawHello, transport: Ja4Transport) -> String {
    let ciphers = without_grease(&hello.ciphers);
    let extensions = without_grease(&hello.extensions);
    let mut out = String::with_capacity(36);
    out.push(match transport {
        Ja4Transport::Tcp => 't',
        Ja4Transport::Quic => 'q',
    });
    out.push_str(version(hello));
    out.push(if extensions.contains(&EXT_SERVER_NAME) { 'd' } else { 'i' });
    let (cipher_count, extension_count) = (ciphers.len().min(MAX_COUNT), extensions.len().min(MAX_COUNT));
    let [first, last] = alpn(hello);
    push_count(&mut out, cipher_count);
    push_count(&mut out, extension_count);
    out.extend([first, last, '_']);
    push_hash(&mut out, &sorted_list(ciphers));
    out.push('_');
    push_hash(&mut out, &extension_text(hello, extensions));
    out
}

fn extension_text(hello: &RawHello, mut extensions: Vec<u16>) -> String {
    extensions.retain(|kind| !matches!(*kind, EXT_SERVER_NAME | EXT_ALPN));
    let mut text = sorted_list(extensions);
    // Only extension 13; delegated_credentials (34) and signature_algorithms_cert (50) do not count.
    let algorithms = list(&without_grease(&hello.signature_algorithms));
    if !algorithms.is_empty() {
        text.push('_');
        text.push_str(&algorithms);
    }
    text
}

/// The highest version offered, GREASE left out.
fn version(hello: &RawHello) -> &'static str {
    let offered = hello.supported_versions.iter().copied().filter(|version| !is_grease(*version)).max();
    match offered.unwrap_or(hello.version) {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        0x0002 => "s2",
        0xfeff => "d1",
        0xfefd => "d2",
        0xfefc => "d3",
        _ => "00",
    }
}

/// First and last character of the first protocol. The text asks for hexadecimal digits where they are not
/// alphanumeric; every published result has `99` there.
fn alpn(hello: &RawHello) -> [char; 2] {
    let protocol = hello.alpn.first().map(Vec::as_slice).unwrap_or_default();
    let (Some(first), Some(last)) = (protocol.first(), protocol.last()) else { return ['0', '0'] };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        [char::from(*first), char::from(*last)]
    } else {
        ['9', '9']
    }
}

/// RFC 8701, 2.
fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

fn without_grease(values: &[u16]) -> Vec<u16> {
    values.iter().copied().filter(|value| !is_grease(*value)).collect()
}

fn sorted_list(mut values: Vec<u16>) -> String {
    values.sort_unstable();
    list(&values)
}

fn list(values: &[u16]) -> String {
    let mut text = String::with_capacity(values.len() * 5);
    for value in values {
        if !text.is_empty() {
            text.push(',');
        }
        value.to_be_bytes().into_iter().for_each(|byte| push_hexadecimal(&mut text, byte));
    }
    text
}

/// The first 12 hexadecimal digits of the text's SHA-256.
fn push_hash(out: &mut String, text: &str) {
    if text.is_empty() {
        return out.push_str(EMPTY_HASH);
    }
    Sha256::digest(text).into_iter().take(6).for_each(|byte| push_hexadecimal(out, byte));
}

/// Two digits, without the formatting machinery: a fingerprint has two hundred.
fn push_hexadecimal(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend([byte >> 4, byte & 0x0f].map(|digit| char::from(DIGITS[usize::from(digit)])));
}

/// Two decimal digits of a number up to [`MAX_COUNT`].
fn push_count(out: &mut String, count: usize) {
    out.extend([count / 10, count % 10].map(|digit| char::from(b'0' + digit as u8)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the published definition.
    fn published() -> RawHello {
        RawHello {
            version: 0x0303,
            ciphers: vec![
                0x2a2a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c,
                0x009d, 0x002f, 0x0035,
            ],
            extensions: vec![
                0x5a5a, 0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012, 0x002b,
                0xff01, 0x000b, 0x000a, 0x0015,
            ],
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            supported_versions: vec![0x6a6a, 0x0304, 0x0303],
            signature_algorithms: vec![0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601],
            ..RawHello::default()
        }
    }

    #[test]
    fn published_example() {
        assert_eq!(ja4(&published(), Ja4Transport::Tcp), "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    #[test]
    fn protocol_characters() {
        let check = |protocol: &[u8], expected| {
            let hello = RawHello { alpn: vec![protocol.to_vec()], ..published() };
            assert_eq!(&ja4(&hello, Ja4Transport::Quic)[8..10], expected, "{protocol:?}");
        };
        check(b"h3", "h3");
        check(b"http/1.1", "h1");
        check(b"x", "xx");
        check(b"", "00");
        check(b"\xab\xcd", "99");
        check(b"h\xff", "99");
    }

    #[test]
    fn nothing_offered() {
        assert_eq!(ja4(&RawHello::default(), Ja4Transport::Tcp), "t00i000000_000000000000_000000000000");
    }

    #[test]
    fn counts_stop_at_99() {
        let hello = RawHello { ciphers: (1..200).collect(), ..published() };
        assert!(ja4(&hello, Ja4Transport::Tcp).starts_with("t13d9916"));
    }
}
