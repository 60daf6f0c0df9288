//! Datagrams of one direction of a QUIC flow, and frames as an opened packet holds them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pktscope::core::dissect::{
    quic::{self, QuicHead},
    stream::Joiner,
};

fuzz_target!(|bytes: &[u8]| {
    let mut head = QuicHead::default();
    for datagram in bytes.chunks(1200) {
        let _ = quic::is_initial(datagram);
        let _ = head.push(datagram);
    }
    let mut joiner = Joiner::new(1000);
    quic::join_crypto_frames(bytes, &mut joiner);
    assert!(joiner.buffered_bytes() <= 1000);
});
