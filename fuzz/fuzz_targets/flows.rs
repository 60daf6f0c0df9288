//! Segments and datagrams of several flows in any order; each takes four bytes of the input as its header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pktscope::core::{
    dissect::flows::{DissectLimits, FlowDissector},
    event::{FlowRef, Payload},
    flow::{Direction, Endpoint, Transport},
    time::BootTime,
};

fuzz_target!(|bytes: &[u8]| {
    let limits = DissectLimits { flows: 6, buffered_bytes: 3000, ..DissectLimits::default() };
    let mut dissector = FlowDissector::new(limits);
    let (mut out, mut rest) = (Vec::new(), bytes);
    while let Some(([flags, high, low, len], after)) = rest.split_first_chunk() {
        let (piece, after) = after.split_at(usize::from(*len).min(after.len()));
        rest = after;
        let end = |port| Endpoint { addr: [10, 0, 0, 1].into(), port };
        let port = if flags & 1 == 0 { 53 } else { 443 };
        let transport = if flags & 2 == 0 { Transport::TCP } else { Transport::UDP };
        let flow = FlowRef { cookie: u64::from(flags >> 4), transport, source: end(4000), destination: end(port) };
        let sequence = (flags & 4 == 0).then(|| u32::from_be_bytes([0xff, 0xff, *high, *low]).wrapping_mul(7));
        let bytes = piece.into();
        let direction = Direction::Egress;
        let payload = Payload { flow, direction, at: BootTime(1), sequence, bytes, user: None, missing_bytes: 0 };
        dissector.observe(&payload, &mut out);
        assert!(dissector.buffered_bytes() <= limits.buffered_bytes);
    }
});
