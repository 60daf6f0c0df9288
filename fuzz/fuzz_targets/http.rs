//! The first bytes of an HTTP/1 client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pktscope::core::dissect::{http, tls::Progress};

fuzz_target!(|bytes: &[u8]| {
    if let Progress::Done(host) = http::read_request(bytes) {
        let name = host.name.unwrap_or_default();
        assert!(name.len() <= 255 && name.is_ascii());
    }
});
