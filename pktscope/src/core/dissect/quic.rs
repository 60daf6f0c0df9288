//! QUIC Initial packets of clients: datagrams in, the ClientHello out.
//!
//! Initial packets are protected with keys that anyone can derive from the connection ID on the wire (RFC 9001, 5.2);
//! the check of their authentication tag tells them from arbitrary bytes. Nothing else of a connection can be read.

use aes::cipher::{BlockEncrypt as _, KeyInit as _, generic_array::GenericArray};
use aes_gcm::{AeadInPlace as _, Aes128Gcm};
use hkdf::Hkdf;
use sha2::Sha256;

use super::{
    reader::Reader,
    stream::Joiner,
    tls::{MAX_HELLO_LEN, Progress, RawHello, read_handshake},
};

/// Initial packets of one flow looked at; a post-quantum hello takes two or three, a Retry doubles that.
const MAX_PACKETS: u8 = 16;
/// RFC 9000, 17.2.
const MAX_CONNECTION_ID_LEN: usize = 20;
const SAMPLE_LEN: usize = 16;
const TAG_LEN: usize = 16;
/// Where the sample begins, counted from the packet number, whatever that one's length (RFC 9001, 5.4.2).
const SAMPLE_OFFSET: usize = 4;

/// What sets one version apart: its salt (RFC 9001, 5.2; RFC 9369, 3.3.1), labels and type numbers.
struct Version {
    salt: [u8; 20],
    key_label: &'static str,
    iv_label: &'static str,
    hp_label: &'static str,
    initial_type: u8,
    retry_type: u8,
}

impl Version {
    const V1: Self = Self {
        salt: [
            0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb,
            0x7f, 0x0a,
        ],
        key_label: "quic key",
        iv_label: "quic iv",
        hp_label: "quic hp",
        initial_type: 0,
        retry_type: 3,
    };
    const V2: Self = Self {
        salt: [
            0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9, 0xbd,
            0x2e, 0xd9,
        ],
        key_label: "quicv2 key",
        iv_label: "quicv2 iv",
        hp_label: "quicv2 hp",
        initial_type: 1,
        retry_type: 0,
    };
    /// draft-ietf-quic-tls-29 to -32.
    const DRAFT_29: Self = Self {
        salt: [
            0xaf, 0xbf, 0xec, 0x28, 0x99, 0x93, 0xd2, 0x4c, 0x9e, 0x97, 0x86, 0xf1, 0x9c, 0x61, 0x11, 0xe0, 0x43, 0x90,
            0xa8, 0x99,
        ],
        ..Self::V1
    };

    fn from_number(number: u32) -> Option<&'static Self> {
        match number {
            0x0000_0001 | 0xff00_0021 | 0xff00_0022 => Some(&Self::V1),
            0x6b33_43cf => Some(&Self::V2),
            0xff00_001d..=0xff00_0020 => Some(&Self::DRAFT_29),
            _ => None,
        }
    }
}

/// Whether a datagram begins with an Initial packet of a known version.
pub fn is_initial(datagram: &[u8]) -> bool {
    LongHeader::read(datagram).is_some_and(|header| header.is_initial())
}

/// The first packets of one direction of a QUIC flow.
pub struct QuicHead {
    keys: Option<ClientKeys>,
    crypto: Joiner,
    packets: u8,
}

impl Default for QuicHead {
    fn default() -> Self {
        Self { keys: None, crypto: Joiner::new(MAX_HELLO_LEN), packets: 0 }
    }
}

impl QuicHead {
    /// Bytes held.
    pub fn buffered_bytes(&self) -> usize {
        self.crypto.buffered_bytes()
    }

    /// Takes one datagram; `Other` where this direction will never give a hello.
    pub fn push(&mut self, datagram: &[u8]) -> Progress<RawHello> {
        let mut rest = datagram;
        while let Some(header) = LongHeader::read(rest) {
            if header.is_initial() {
                self.packets += 1;
                self.take_initial(&header);
            }
            match read_handshake(self.crypto.ready()) {
                Progress::NeedMore(_) if self.packets < MAX_PACKETS => {}
                Progress::NeedMore(_) => return Progress::Other,
                other => return other,
            }
            rest = header.after;
        }
        Progress::NeedMore(self.crypto.ready().len() + 1)
    }

    /// Joins the packet's CRYPTO frames where it can be opened as a client's.
    fn take_initial(&mut self, header: &LongHeader<'_>) {
        let opened = self.keys.as_ref().and_then(|keys| keys.open(header));
        if let Some(payload) = opened.or_else(|| self.open_afresh(header)) {
            join_crypto_frames(&payload, &mut self.crypto);
        }
    }

    /// Keys come from the connection ID of the client's first packet; a Retry or another version begins anew.
    fn open_afresh(&mut self, header: &LongHeader<'_>) -> Option<Vec<u8>> {
        let keys = ClientKeys::derive(header.version, header.destination_id)?;
        let payload = keys.open(header)?;
        self.keys = Some(keys);
        self.crypto = Joiner::new(MAX_HELLO_LEN);
        Some(payload)
    }
}

/// A packet with a long header (RFC 9000, 17.2), and what follows it in its datagram.
struct LongHeader<'a> {
    version: &'static Version,
    packet_type: u8,
    destination_id: &'a [u8],
    /// From the first byte to the end of the payload.
    packet: &'a [u8],
    /// Where the packet number begins in `packet`.
    number_at: usize,
    after: &'a [u8],
}

impl<'a> LongHeader<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let first = reader.u8()?;
        if first & 0xc0 != 0xc0 {
            return None;
        }
        let version = Version::from_number(reader.u32()?)?;
        let destination_id = connection_id(&mut reader)?;
        connection_id(&mut reader)?;
        let packet_type = (first >> 4) & 3;
        if packet_type == version.retry_type {
            return None;
        }
        if packet_type == version.initial_type {
            let token_len = usize::try_from(reader.varint()?).ok()?;
            reader.take(token_len)?;
        }
        let len = usize::try_from(reader.varint()?).ok()?;
        let number_at = bytes.len() - reader.len();
        let (packet, after) = bytes.split_at_checked(number_at.checked_add(len)?)?;
        Some(Self { version, packet_type, destination_id, packet, number_at, after })
    }

    fn is_initial(&self) -> bool {
        self.packet_type == self.version.initial_type
    }
}

fn connection_id<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    Some(reader.prefixed_u8()?.rest()).filter(|id| id.len() <= MAX_CONNECTION_ID_LEN)
}

/// What protects a client's Initial packets.
struct ClientKeys {
    aead: Aes128Gcm,
    iv: [u8; 12],
    header: aes::Aes128,
}

impl ClientKeys {
    /// RFC 9001, 5.2.
    fn derive(version: &Version, destination_id: &[u8]) -> Option<Self> {
        let initial = Hkdf::<Sha256>::new(Some(&version.salt), destination_id);
        let client = Hkdf::<Sha256>::from_prk(&expand::<32>(&initial, "client in")?).ok()?;
        Some(Self {
            aead: Aes128Gcm::new(&expand::<16>(&client, version.key_label)?.into()),
            iv: expand(&client, version.iv_label)?,
            header: aes::Aes128::new(&expand::<16>(&client, version.hp_label)?.into()),
        })
    }

    /// The payload in the clear, `None` where the tag says that the packet was not made with these keys.
    fn open(&self, header: &LongHeader<'_>) -> Option<Vec<u8>> {
        let sample_at = header.number_at + SAMPLE_OFFSET;
        let sample = header.packet.get(sample_at..sample_at + SAMPLE_LEN)?;
        let mut mask = *GenericArray::from_slice(sample);
        self.header.encrypt_block(&mut mask);
        let first = header.packet.first()? ^ (mask[0] & 0x0f);
        let number_len = usize::from(first & 3) + 1;
        let payload_at = header.number_at + number_len;
        let mut associated = header.packet.get(..payload_at)?.to_vec();
        associated[0] = first;
        for (byte, mask) in associated[header.number_at..].iter_mut().zip(&mask[1..]) {
            *byte ^= mask;
        }
        let nonce = self.nonce(&associated[header.number_at..]);
        self.decrypt(&nonce, &associated, &header.packet[payload_at..])
    }

    /// A client's first packet numbers are low, so the bytes on the wire are the whole number (RFC 9000, 17.1).
    fn nonce(&self, number: &[u8]) -> [u8; 12] {
        let mut nonce = self.iv;
        for (nonce, byte) in nonce.iter_mut().rev().zip(number.iter().rev()) {
            *nonce ^= byte;
        }
        nonce
    }

    fn decrypt(&self, nonce: &[u8; 12], associated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (sealed, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG_LEN)?)?;
        let mut payload = sealed.to_vec();
        let tag = GenericArray::from_slice(tag);
        self.aead.decrypt_in_place_detached(nonce.into(), associated, &mut payload, tag).ok()?;
        Some(payload)
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446, 7.1).
fn expand<const LEN: usize>(secret: &Hkdf<Sha256>, label: &str) -> Option<[u8; LEN]> {
    let len = u16::try_from(LEN).ok()?.to_be_bytes();
    let label_len = [u8::try_from("tls13 ".len() + label.len()).ok()?];
    let mut out = [0; LEN];
    secret.expand_multi_info(&[&len, &label_len, b"tls13 ", label.as_bytes(), &[0]], &mut out).ok()?;
    Some(out)
}

/// Joins the CRYPTO frames of an opened Initial packet; a frame that such a packet may not have (RFC 9000, 17.2.2) ends
/// the walk.
pub fn join_crypto_frames(payload: &[u8], crypto: &mut Joiner) {
    let mut reader = Reader::new(payload);
    while let Some(()) = read_frame(&mut reader, crypto) {}
}

fn read_frame(reader: &mut Reader<'_>, crypto: &mut Joiner) -> Option<()> {
    const PADDING: u8 = 0;
    const PING: u8 = 1;
    const ACK: u8 = 2;
    const ACK_ECN: u8 = 3;
    const CRYPTO: u8 = 6;
    match reader.u8()? {
        PADDING | PING => Some(()),
        kind @ (ACK | ACK_ECN) => skip_ack(reader, kind == ACK_ECN),
        CRYPTO => {
            let offset = reader.varint()?;
            let len = usize::try_from(reader.varint()?).ok()?;
            // A piece past the bound belongs to no hello that can be read; those before it still count.
            let _ = crypto.insert(offset, reader.take(len)?);
            Some(())
        }
        _ => None,
    }
}

/// RFC 9000, 19.3.
fn skip_ack(reader: &mut Reader<'_>, has_ecn_counts: bool) -> Option<()> {
    reader.varint()?;
    reader.varint()?;
    let ranges = reader.varint()?;
    reader.varint()?;
    for _ in 0..ranges {
        reader.varint()?;
        reader.varint()?;
    }
    if has_ecn_counts {
        (0..3).try_for_each(|_| reader.varint().map(drop))?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The connection ID of RFC 9001, A.1 and RFC 9369, A.1.
    const CONNECTION_ID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

    #[test]
    fn published_keys() {
        let check = |version: &Version, key: &str, iv: &str, hp: &str| {
            let initial = Hkdf::<Sha256>::new(Some(&version.salt), &CONNECTION_ID);
            let client = Hkdf::<Sha256>::from_prk(&expand::<32>(&initial, "client in").unwrap()).unwrap();
            assert_eq!(hex(&expand::<16>(&client, version.key_label).unwrap()), key);
            assert_eq!(hex(&expand::<12>(&client, version.iv_label).unwrap()), iv);
            assert_eq!(hex(&expand::<16>(&client, version.hp_label).unwrap()), hp);
        };
        let (key, iv, hp) =
            ("1f369613dd76d5467730efcbe3b1a22d", "fa044b2f42a3fd3b46fb255c", "9f50449e04a0e810283a1e9933adedd2");
        check(&Version::V1, key, iv, hp);
        let (key, iv, hp) =
            ("8b1a0bc121284290a29e0971b5cd045d", "91f73e2351d8fa91660e909f", "45b95e15235d6f45a6b19cbcb0294ba9");
        check(&Version::V2, key, iv, hp);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A client Initial packet with these frames, protected as RFC 9001, 5 says.
    fn sealed(version: u32, number: u8, frames: &[u8]) -> Vec<u8> {
        let known = Version::from_number(version).unwrap();
        let keys = ClientKeys::derive(known, &CONNECTION_ID).unwrap();
        let mut payload = frames.to_vec();
        payload.resize(payload.len().max(20), 0);
        let len = u16::try_from(payload.len() + 1 + TAG_LEN).unwrap() | 0x4000;
        let first = 0xc0 | known.initial_type << 4;
        let mut packet =
            [&[first][..], &version.to_be_bytes(), &[8], &CONNECTION_ID, &[0, 0], &len.to_be_bytes(), &[number]]
                .concat();
        let number_at = packet.len() - 1;
        let nonce = keys.nonce(&[number]);
        let tag = keys.aead.encrypt_in_place_detached((&nonce).into(), &packet, &mut payload).unwrap();
        packet.extend_from_slice(&payload);
        packet.extend_from_slice(&tag);
        let mut mask = *GenericArray::from_slice(&packet[number_at + 4..number_at + 20]);
        keys.header.encrypt_block(&mut mask);
        packet[0] ^= mask[0] & 0x0f;
        packet[number_at] ^= mask[1];
        packet
    }

    fn crypto_frame(offset: u8, bytes: &[u8]) -> Vec<u8> {
        let len = u16::try_from(bytes.len()).unwrap() | 0x4000;
        [&[1, 6, offset][..], &len.to_be_bytes(), bytes].concat()
    }

    #[test]
    fn a_hello_over_two_packets_out_of_order() {
        let hello = super::super::tls::tests::hello_bytes(b"quic.example");
        let (head, tail) = hello.split_at(50);
        for version in [1, 0x6b33_43cf, 0xff00_001d] {
            let mut flow = QuicHead::default();
            assert!(matches!(flow.push(&sealed(version, 2, &crypto_frame(50, tail))), Progress::NeedMore(_)));
            let Progress::Done(hello) = flow.push(&sealed(version, 1, &crypto_frame(0, head))) else { panic!() };
            assert_eq!(hello.server_name.as_deref(), Some("quic.example"));
        }
    }

    #[test]
    fn coalesced_packets() {
        let hello = super::super::tls::tests::hello_bytes(b"quic.example");
        let (head, tail) = hello.split_at(50);
        let datagram = [sealed(1, 1, &crypto_frame(50, tail)), sealed(1, 2, &crypto_frame(0, head))].concat();
        assert!(matches!(QuicHead::default().push(&datagram), Progress::Done(_)));
    }

    #[test]
    fn a_changed_byte_is_refused() {
        let hello = super::super::tls::tests::hello_bytes(b"quic.example");
        let packet = sealed(1, 1, &crypto_frame(0, &hello));
        for at in [0, 6, 20, 60, packet.len() - 1] {
            let mut packet = packet.clone();
            packet[at] ^= 1;
            assert!(!matches!(QuicHead::default().push(&packet), Progress::Done(_)), "byte {at}");
        }
    }

    #[test]
    fn a_flow_of_packets_that_never_complete_ends() {
        let mut flow = QuicHead::default();
        let packet = sealed(1, 1, &[1]);
        let turns = (0..40).take_while(|_| flow.push(&packet) != Progress::Other).count();
        assert_eq!(turns, usize::from(MAX_PACKETS) - 1);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..1500), is_long in any::<bool>()) {
            if is_long && bytes.len() > 6 {
                bytes[..5].copy_from_slice(&[0xc0, 0, 0, 0, 1]);
                bytes[5] %= 21;
            }
            let _ = QuicHead::default().push(&bytes);
        }

        #[test]
        fn any_frames_never_panic(frames in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut joiner = Joiner::new(1000);
            join_crypto_frames(&frames, &mut joiner);
            prop_assert!(joiner.buffered_bytes() <= 1000);
        }
    }
}
