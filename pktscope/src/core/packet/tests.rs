use proptest::prelude::*;

use super::*;
use crate::captures;

fn packet(link: LinkType, bytes: &[u8], tunnels: Tunnels) -> Packet<'_> {
    match decode(link, bytes, bytes.len() as u32, tunnels) {
        Ok(Decoded::Packet(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

fn v4(transport: u8, body: &[u8]) -> Vec<u8> {
    let total = (20 + body.len() as u16).to_be_bytes();
    let head = [0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, transport, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    [&head[..], body].concat()
}

fn v6(next: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    let mut head = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    head.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    head.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    [&head[..], body].concat()
}

/// UDP from port 7 to `port`.
fn udp_to(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    [&[0, 7][..], &port.to_be_bytes(), &length, &[0, 0], payload].concat()
}

fn udp_body() -> Vec<u8> {
    udp_to(9, b"hello")
}

fn ethernet(kinds: &[u16], inside: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    for (index, kind) in kinds.iter().enumerate() {
        frame.extend(kind.to_be_bytes());
        if index + 1 < kinds.len() {
            frame.extend([0, 42]);
        }
    }
    [&frame[..], inside].concat()
}

fn check(link: LinkType, frame: &[u8], ip_bytes: u32) {
    let packet = packet(link, frame, Tunnels::default());
    assert_eq!((packet.source().port, packet.destination().port), (7, 9), "{link:?} {frame:x?}");
    assert_eq!((packet.ip_bytes, packet.payload_bytes, packet.payload), (ip_bytes, 5, &b"hello"[..]));
}

#[test]
fn every_link_leads_to_the_packet() {
    let (v4, v6) = (v4(17, &udp_body()), v6(17, &udp_body()));
    check(LinkType::Ethernet, &ethernet(&[0x0800], &v4), 33);
    check(LinkType::Ethernet, &ethernet(&[0x86dd], &v6), 53);
    check(LinkType::Ethernet, &ethernet(&[0x8100, 0x0800], &v4), 33);
    check(LinkType::Ethernet, &ethernet(&[0x88a8, 0x8100, 0x86dd], &v6), 53);
    check(LinkType::Ethernet, &ethernet(&[0x8847], &[&[0, 1, 1, 64][..], &v4].concat()), 33);
    check(LinkType::Ethernet, &ethernet(&[0x8864], &[&[0x11, 0, 0, 1, 0, 35, 0, 0x21][..], &v4].concat()), 33);
    check(LinkType::Ethernet, &ethernet(&[40], &[&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &v4].concat()), 33);
    check(LinkType::Raw, &v4, 33);
    check(LinkType::Raw, &v6, 53);
    check(LinkType::Ipv6, &v6, 53);
    check(LinkType::Null, &[&[2, 0, 0, 0][..], &v4].concat(), 33);
    check(LinkType::Null, &[&[0, 0, 0, 30][..], &v6].concat(), 53);
    check(LinkType::LinuxSll, &[&[0; 14][..], &[8, 0], &v4].concat(), 33);
    check(LinkType::LinuxSll2, &[&[8, 0][..], &[0; 18], &v4].concat(), 33);
    check(LinkType::LinuxSll2, &[&[0x81, 0][..], &[0; 18], &[0, 42, 8, 0], &v4].concat(), 33);
}

#[test]
fn padding_is_not_payload_and_what_the_capture_cut_is_counted() {
    let padded = [&v4(17, &udp_body())[..], &[0; 20]].concat();
    check(LinkType::Raw, &padded, 33);
    let whole = v4(17, &udp_body());
    let cut = packet(LinkType::Raw, &whole[..30], Tunnels::default());
    assert_eq!((cut.ip_bytes, cut.payload_bytes, cut.payload), (33, 5, &b"he"[..]));
}

#[test]
fn extension_headers_are_stepped_over() {
    let chain =
        [&[60, 0, 0, 0, 0, 0, 0, 0][..], &[43, 0, 0, 0, 0, 0, 0, 0], &[17, 0, 0, 0, 0, 0, 0, 0], &udp_body()].concat();
    check(LinkType::Raw, &v6(0, &chain), 77);
    let atomic = [&[17, 0, 0, 0, 1, 2, 3, 4][..], &udp_body()].concat();
    check(LinkType::Raw, &v6(44, &atomic), 61);
    // One that does not fit: counted, without ports.
    let broken = v6(0, &[17, 200, 0, 0]);
    let packet = packet(LinkType::Raw, &broken, Tunnels::default());
    assert_eq!((packet.ip_bytes, packet.source().port), (44, 0));
}

#[test]
fn tunnels_are_seen_into_where_configured() {
    let vxlan = [&[8, 0, 0, 0, 0, 0, 5, 0][..], &ethernet(&[0x0800], &v4(17, &udp_body()))].concat();
    let ip_in_gre = [&[0x20, 0, 8, 0, 0, 0, 0, 1][..], &v4(17, &udp_body())].concat();
    let ethernet_in_gre = [&[0, 0, 0x65, 0x58][..], &ethernet(&[0x86dd], &v6(17, &udp_body()))].concat();
    let cases = [
        (v4(17, &udp_to(4789, &vxlan)), 17, 33),
        (v4(47, &ip_in_gre), 47, 33),
        (v6(47, &ethernet_in_gre), 47, 53),
        (v6(4, &v4(17, &udp_body())), 4, 33),
        (v4(41, &v6(4, &v4(17, &udp_body()))), 41, 33),
    ];
    for (frame, outside, inside_bytes) in cases {
        let inside = packet(LinkType::Raw, &frame, Tunnels::ALL);
        assert_eq!(
            (inside.transport(), inside.ip_bytes, inside.payload),
            (Transport::UDP, inside_bytes, &b"hello"[..])
        );
        assert_eq!((inside.source().port, inside.destination().port), (7, 9));
        let plain = packet(LinkType::Raw, &frame, Tunnels::default());
        assert_eq!((plain.transport(), plain.ip_bytes), (Transport(outside), frame.len() as u32));
    }
}

#[test]
fn a_tunnel_in_a_tunnel_without_end_is_given_up() {
    let mut frame = v4(17, &udp_body());
    for _ in 0..40 {
        frame = v4(4, &frame);
    }
    assert_eq!(packet(LinkType::Raw, &frame, Tunnels::ALL).transport(), Transport(4));
}

#[test]
fn the_window_scale_is_read_behind_other_options() {
    let cases: [(&[u8], Option<u8>); 6] = [
        (&[2, 4, 5, 180, 1, 3, 3, 7], Some(7)),
        (&[3, 3, 200, 0], Some(14)),
        (&[0, 3, 3, 7], None),
        (&[2, 4, 5, 180], None),
        (&[8, 0, 3, 3], None),
        (&[3], None),
    ];
    for (options, expected) in cases {
        assert_eq!(window_scale(options), expected, "{options:?}");
    }
}

#[test]
fn segmentation_offload_writes_no_length() {
    let mut frame = ethernet(&[0x0800], &v4(17, &udp_body()));
    frame[16..18].copy_from_slice(&[0, 0]);
    let packet = packet(LinkType::Ethernet, &frame, Tunnels::default());
    assert_eq!((packet.ip_bytes, packet.payload), (33, &b"hello"[..]));
}

/// Packet by packet against etherparse, which shares nothing with this.
#[test]
fn captures_are_decoded_as_by_another_decoder() {
    let Some(rows) = captures::rows("truth/flows/zeek_Traces.jsonl.gz") else { return };
    let names: std::collections::BTreeSet<&str> = rows.iter().filter_map(|row| row["pcap"].as_str()).collect();
    let mut compared = 0;
    for name in names {
        let Some(path) = captures::file(name) else { continue };
        let bytes = captures::bytes(&path);
        let Ok(mut reader) = crate::replay::capture::Reader::new(&bytes[..]) else { continue };
        let others = captures::packets(&path).into_iter().map(|packet| (packet.frame, packet));
        let others: std::collections::BTreeMap<_, _> = others.collect();
        let mut number = 0;
        while let Some(batch) = reader.next_batch().unwrap() {
            for frame in batch.frames() {
                number += 1;
                let Some(other) = others.get(&number) else { continue };
                let decoded = decode(frame.link, frame.data, frame.wire_bytes, Tunnels::default());
                let Ok(Decoded::Packet(packet)) = decoded else { continue };
                compared += 1;
                let ends = (packet.transport(), packet.source(), packet.destination());
                assert_eq!(ends, (other.transport, other.source, other.destination), "{name} {number}");
                assert_eq!(packet.payload, &other.payload[..], "{name} {number}");
                if let (Detail::Tcp(header), Some(sequence)) = (packet.detail, other.sequence) {
                    let first = header.sequence.wrapping_add(header.has(TcpHeader::SYN).into());
                    assert_eq!(first, sequence, "{name} {number}");
                }
            }
        }
    }
    assert!(compared > 20_000, "{compared}");
}

proptest! {
    /// Any bytes on any link: no panic, and what is given out lies within what came in.
    #[test]
    fn any_bytes_decode_or_say_why(
        number in 0u16..300,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind in prop_oneof![Just(0x0800_u16), Just(0x86dd), Just(0x8100), any::<u16>()],
    ) {
        for frame in [bytes.clone(), ethernet(&[kind], &bytes), v4(bytes.first().copied().unwrap_or(6), &bytes), v6(44, &bytes)] {
            for link in [LinkType::from(number), LinkType::Ethernet, LinkType::Raw] {
                match decode(link, &frame, frame.len() as u32, Tunnels::ALL) {
                    Ok(Decoded::Packet(packet)) => prop_assert!(packet.payload.len() <= frame.len()),
                    Ok(Decoded::Fragment(fragment)) => prop_assert!(fragment.data.len() <= frame.len()),
                    Err(reason) => prop_assert_eq!(Undecoded::ALL[reason.index()], reason),
                }
            }
        }
    }
}
