use proptest::prelude::*;

use super::*;

/// A classic capture of one-second-apart frames, in either byte order.
fn pcap(frames: &[&[u8]], is_big: bool, magic: u32) -> Vec<u8> {
    let word = |value: u32| if is_big { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if is_big { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut bytes = [&word(magic)[..], &half(2), &half(4), &[0; 8], &word(65_535), &word(1)].concat();
    for (index, frame) in (1..).zip(frames) {
        let length = word(frame.len() as u32);
        bytes.extend([&word(index)[..], &word(500), &length, &length, frame].concat());
    }
    bytes
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).next_multiple_of(4);
    let padding = vec![0; length as usize - 12 - body.len()];
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), body, &padding, &length.to_le_bytes()].concat()
}

fn section() -> Vec<u8> {
    block(0x0a0d_0d0a, &[&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat())
}

/// An interface of a link type, with time in units of 10^-`resolution` s.
fn interface(link: u16, resolution: u8) -> Vec<u8> {
    let options = [9, 0, 1, 0, resolution, 0, 0, 0, 0, 0, 0, 0];
    block(1, &[&link.to_le_bytes()[..], &[0; 2], &[0; 4], &options].concat())
}

fn enhanced(interface: u32, units: u64, frame: &[u8]) -> Vec<u8> {
    let word = |value: u32| value.to_le_bytes();
    let length = word(frame.len() as u32);
    let head = [word(interface), word((units >> 32) as u32), word(units as u32), length, length].concat();
    block(6, &[&head[..], frame].concat())
}

type Frames = Vec<(i64, LinkType, Vec<u8>)>;

fn read(bytes: &[u8]) -> (Frames, CaptureStatistics) {
    let (mut reader, mut frames) = (Reader::new(bytes).unwrap(), Frames::new());
    while let Some(batch) = reader.next_batch().unwrap() {
        frames.extend(batch.frames().map(|frame| (frame.at.0, frame.link, frame.data.to_vec())));
    }
    (frames, reader.statistics())
}

#[test]
fn both_byte_orders_and_resolutions_give_the_same_frames() {
    for (is_big, magic, nanos) in [
        (false, 0xa1b2_c3d4, 500_000),
        (true, 0xa1b2_c3d4, 500_000),
        (false, 0xa1b2_3c4d, 500),
        (true, 0xa1b2_3c4d, 500),
    ] {
        let (frames, statistics) = read(&pcap(&[b"one", b"three"], is_big, magic));
        let expected = [(1, &b"one"[..]), (2, b"three")];
        let expected =
            expected.map(|(second, data)| (second * 1_000_000_000 + nanos, LinkType::Ethernet, data.to_vec()));
        assert_eq!(frames, expected);
        assert!(statistics.is_complete());
    }
}

#[test]
fn pcapng_keeps_each_interfaces_link_and_time_and_sections_begin_anew() {
    let file = [
        section(),
        interface(1, 6),
        interface(101, 9),
        block(5, &[0; 12]),
        enhanced(1, 7_000_000_001, b"raw"),
        enhanced(0, 7_000_001, b"ethernet"),
        section(),
        interface(113, 6),
        enhanced(0, 8_000_000, b"cooked"),
    ]
    .concat();
    let (frames, statistics) = read(&file);
    assert_eq!(
        frames,
        [
            (7_000_000_001, LinkType::Raw, b"raw".to_vec()),
            (7_000_001_000, LinkType::Ethernet, b"ethernet".to_vec()),
            (8_000_000_000, LinkType::LinuxSll, b"cooked".to_vec()),
        ]
    );
    assert!(statistics.is_complete());
}

#[test]
fn what_is_cut_off_is_counted_and_the_rest_is_read() {
    let file = pcap(&[b"one", b"three"], false, 0xa1b2_c3d4);
    for cut in 1..=20 {
        let (frames, statistics) = read(&file[..file.len() - cut]);
        assert_eq!(frames.len(), 1);
        assert_eq!(statistics.unread_bytes, 21 - cut as u64);
        assert_eq!(statistics.is_complete(), cut == 21);
    }
}

#[test]
fn a_corrupt_length_ends_a_pcap_and_is_counted() {
    let mut file = pcap(&[b"one", b"three", b"more"], false, 0xa1b2_c3d4);
    let second = 24 + 16 + 3;
    file[second + 8..second + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    let (frames, statistics) = read(&file);
    assert_eq!((frames.len(), statistics.unread_bytes), (1, (file.len() - second) as u64));
}

#[test]
fn a_bad_block_of_pcapng_is_stepped_over() {
    let mut bad = enhanced(0, 1, b"bad");
    bad[20..24].copy_from_slice(&4000_u32.to_le_bytes());
    let large = block(0x4000_0001, &vec![0; 2 << 20]);
    let file = [section(), interface(1, 6), bad, enhanced(9, 1, b"?"), large, enhanced(0, 1, b"good")].concat();
    let (frames, statistics) = read(&file);
    assert_eq!(frames.iter().map(|frame| &frame.2[..]).collect::<Vec<_>>(), [b"good"]);
    assert_eq!((statistics.bad_blocks, statistics.unread_bytes), (2, 0));
}

#[test]
fn what_is_no_capture_says_what_it_is() {
    let error = Reader::new(&b"#!/bin/sh"[..]).unwrap_err();
    assert!(error.to_string().contains("23212f62"), "{error}");
    assert!(Reader::new(&b""[..]).is_err());
}

/// Gives a byte or a few at a time, as a pipe may.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = self.1 % 7 + 1;
        let count = self.1.min(self.0.len()).min(buffer.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

#[test]
fn a_file_larger_than_the_buffer_is_read_whole_in_the_same_memory() {
    let frame = [7; 1500];
    let frames = vec![&frame[..]; 2000];
    let file = pcap(&frames, false, 0xa1b2_c3d4);
    let mut reader = Reader::new(Trickle(&file, 0)).unwrap();
    let mut count = 0;
    while let Some(batch) = reader.next_batch().unwrap() {
        count += batch.frames().filter(|found| found.data == frame).count();
    }
    assert_eq!((count, reader.buffer.len()), (2000, BUFFER_BYTES));
    assert_eq!(reader.statistics().bytes, file.len() as u64);
}

proptest! {
    /// Any bytes after a good header: no panic, and every byte is a frame's, a header's or counted as unread.
    #[test]
    fn any_bytes_are_read_or_counted(tail in prop::collection::vec(any::<u8>(), 0..400), is_ng in any::<bool>()) {
        let head = if is_ng { [section(), interface(1, 6)].concat() } else { pcap(&[], false, 0xa1b2_c3d4) };
        let (frames, statistics) = read(&[head, tail.clone()].concat());
        prop_assert_eq!(frames.len() as u64, statistics.frames);
        prop_assert!(statistics.unread_bytes <= tail.len() as u64);
    }

    /// One byte of a good file changed: no panic, and a frame that is given out is never longer than the file.
    #[test]
    fn a_flipped_byte_does_no_harm(at in 0usize..180, value in any::<u8>()) {
        let mut file = [section(), interface(1, 6), enhanced(0, 1, b"first"), enhanced(0, 2, b"second")].concat();
        let at = at % file.len();
        file[at] = value;
        if let Ok(mut reader) = Reader::new(&file[..]) {
            while let Ok(Some(batch)) = reader.next_batch() {
                prop_assert!(batch.frames().all(|frame| frame.data.len() <= file.len()));
            }
        }
    }
}
