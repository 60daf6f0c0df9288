//! The first bytes of a TLS client: as records and as bare handshake.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pktscope::core::dissect::{
    ja4::Ja4Transport,
    tls::{Progress, read_handshake, read_records},
};

fuzz_target!(|bytes: &[u8]| {
    for progress in [read_records(bytes), read_handshake(bytes)] {
        match progress {
            Progress::Done(hello) => assert_eq!(hello.summary(Ja4Transport::Tcp).ja4.len(), 36),
            Progress::NeedMore(need) => assert!(need > bytes.len()),
            Progress::Other => {}
        }
    }
});
