//! Waiting for facts, for longer where the machine is known to be slow.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Between two looks at a fact.
const PAUSE: Duration = Duration::from_millis(20);

/// How many times slower than usual this machine is: `PKTSCOPE_TEST_PATIENCE`, which is set in emulated guests, else 1.
fn patience() -> u32 {
    let given = std::env::var("PKTSCOPE_TEST_PATIENCE").ok();
    given.and_then(|factor| factor.parse().ok()).filter(|factor| 0 < *factor).unwrap_or(1)
}

/// Looks for a fact until it is there or the deadline has passed.
pub fn wait_until<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = now() + deadline * patience();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if now() >= end {
            return None;
        }
        // waits: between two looks at a fact, up to the deadline
        thread::sleep(PAUSE);
    }
}

/// Runs `work` and says how long it would have taken on a machine of usual speed.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = now();
    let value = work();
    (value, start.elapsed() / patience())
}

#[expect(clippy::disallowed_methods, reason = "tests run against the real clock")]
fn now() -> Instant {
    Instant::now()
}
