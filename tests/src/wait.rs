//! Waiting for facts.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Between two looks at a fact.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks for a fact until it is there or the deadline has passed.
pub fn wait_until<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = now() + deadline;
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

/// Runs `work` and says how long it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = now();
    let value = work();
    (value, start.elapsed())
}

#[expect(clippy::disallowed_methods, reason = "tests run against the real clock")]
fn now() -> Instant {
    Instant::now()
}
