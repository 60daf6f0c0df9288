//! When the core's thread reads what: polls, sweeps, ticks and the ledger's intervals.

use std::time::Duration;

use crate::core::time::BootTime;

/// A sweep may take this share of the time: the pause after it is at least 50 times its length.
const SWEEP_PAUSE_FACTOR: u32 = 50;
/// Records in one read from which on the next read comes at once: the ring fills faster than it is read.
const BUSY_RECORDS: usize = 4_096;
/// How often changed rows of the baseline are handed to the store.
const SAVE: Duration = Duration::from_secs(1);
/// The pipeline's own interval: a closed connection is told within its linger and this.
const TICK: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug)]
pub(super) struct Schedule {
    poll: Duration,
    sweep: Duration,
    ledger: Duration,
    is_busy: bool,
    is_behind: bool,
    next_sweep: BootTime,
    next_tick: BootTime,
    next_ledger: BootTime,
    next_save: BootTime,
}

impl Schedule {
    pub(super) fn new(poll: Duration, sweep: Duration, ledger: Duration, now: BootTime) -> Self {
        Self {
            poll,
            sweep,
            ledger,
            is_busy: false,
            is_behind: false,
            next_sweep: now.plus(sweep),
            next_tick: now,
            next_ledger: now.plus(ledger),
            next_save: now,
        }
    }

    /// Takes other intervals; what is due stays due.
    pub(super) fn set(&mut self, poll: Duration, sweep: Duration, ledger: Duration) {
        (self.poll, self.sweep, self.ledger) = (poll, sweep, ledger);
    }

    /// How long to wait before the next read.
    pub(super) fn until_poll(&self) -> Duration {
        if self.is_busy || self.is_behind { Duration::ZERO } else { self.poll }
    }

    /// How long the next read waits for the store where that is behind: no longer than it would wait were there less.
    pub(super) fn patience(&self) -> Duration {
        self.poll - self.until_poll()
    }

    pub(super) fn note_read(&mut self, records: usize) {
        self.is_busy = BUSY_RECORDS <= records;
    }

    pub(super) fn is_sweep_due(&self, now: BootTime) -> bool {
        self.next_sweep <= now
    }

    /// Notes a sweep; the next one is due after the interval, or later where this one took long, what it waited left out.
    pub(super) fn note_swept(&mut self, started: BootTime, ended: BootTime, waited: Duration) {
        let pause = ended.since(started).saturating_sub(waited).saturating_mul(SWEEP_PAUSE_FACTOR);
        self.next_sweep = ended.plus(self.sweep.max(pause));
    }

    /// Whether an interval of the ledger is over; says so once.
    pub(super) fn is_ledger_due(&mut self, now: BootTime) -> bool {
        is_due(&mut self.next_ledger, self.ledger, now)
    }

    /// Whether what changed in detection is to be handed to the store; says so once. An alert's rows never wait.
    pub(super) fn is_save_due(&mut self, now: BootTime) -> bool {
        is_due(&mut self.next_save, SAVE, now)
    }

    /// Notes that the pipeline saw the time, and whether it has more to tell of it.
    pub(super) fn note_ticked(&mut self, has_more: bool) {
        self.is_behind = has_more;
    }

    /// Whether the pipeline has more to tell of the time that it saw.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Whether the pipeline is to see the time; says so once.
    pub(super) fn is_tick_due(&mut self, now: BootTime) -> bool {
        is_due(&mut self.next_tick, TICK, now)
    }
}

fn is_due(next: &mut BootTime, interval: Duration, now: BootTime) -> bool {
    let is_due = *next <= now;
    if is_due {
        // From the due time on, so that intervals keep their length; from now on where one was missed.
        *next = next.plus(interval).max(now.plus(interval / 2));
    }
    is_due
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime(millis * 1_000_000)
    }

    fn schedule() -> Schedule {
        Schedule::new(Duration::from_millis(50), Duration::from_secs(1), Duration::from_secs(10), at(0))
    }

    #[test]
    fn intervals_keep_their_length() {
        let mut schedule = schedule();
        let closes: Vec<u64> =
            (0..31_000).step_by(50).filter(|&millis| schedule.is_ledger_due(at(millis + 7))).collect();
        assert_eq!(closes, [10_000, 20_000, 30_000]);
    }

    #[test]
    fn a_pause_of_the_machine_is_not_made_up_for_by_a_burst() {
        let mut schedule = schedule();
        assert!(schedule.is_tick_due(at(0)));
        assert!(schedule.is_tick_due(at(60_000)));
        assert!(!schedule.is_tick_due(at(60_050)));
    }

    #[test]
    fn a_long_sweep_is_repeated_less_often() {
        let mut schedule = schedule();
        schedule.note_swept(at(800), at(1_100), Duration::from_millis(200));
        assert!(!schedule.is_sweep_due(at(6_000)));
        assert!(schedule.is_sweep_due(at(6_100)));
    }

    #[test]
    fn a_filling_ring_is_read_again_at_once() {
        let mut schedule = schedule();
        assert_eq!(schedule.until_poll(), Duration::from_millis(50));
        assert_eq!(schedule.patience(), Duration::ZERO);
        schedule.note_read(5_000);
        assert_eq!((schedule.until_poll(), schedule.patience()), (Duration::ZERO, Duration::from_millis(50)));
        schedule.note_read(4_095);
        assert_eq!(schedule.until_poll(), Duration::from_millis(50));
    }

    #[test]
    fn what_is_left_of_a_tick_follows_at_once() {
        let mut schedule = schedule();
        schedule.note_ticked(true);
        assert_eq!((schedule.until_poll(), schedule.is_behind()), (Duration::ZERO, true));
        schedule.note_ticked(false);
        assert_eq!((schedule.until_poll(), schedule.is_behind()), (Duration::from_millis(50), false));
    }
}
