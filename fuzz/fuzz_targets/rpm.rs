//! One of rpm's older databases, whichever form its first bytes claim, and a file that is looked for in it.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use pktscope::enrich::package::OlderDatabase;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut database) = OlderDatabase::read(Cursor::new(bytes)) else { return };
    for path in ["/usr/bin/tool", "/usr/share/many/file-number-100", ""] {
        if let Ok(Some(owner)) = database.owner(path) {
            assert!(owner.name.len() <= 3 * bytes.len() && owner.version.len() <= 9 * bytes.len());
        }
    }
});
