//! Packet time made monotonic.

use super::super::time::BootTime;

/// A packet older than the latest by less than this is late; by more, the clock was set back. Captures merged from
/// several queues or interfaces are out of order by milliseconds, a clock is set by seconds at least.
const STEP: u64 = 60_000_000_000;
/// As the wheel's slots.
const TICK_SHIFT: u32 = 30;

/// What to add to inside time to show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offset(u64);

impl Offset {
    /// Inside time in the terms of the packets' clock as it now is.
    pub(super) fn shown(self, inside: u64) -> BootTime {
        BootTime(inside.saturating_sub(self.0))
    }
}

/// The latest time seen.
#[derive(Debug, Default)]
pub(super) struct Clock {
    now: u64,
    offset: Offset,
    has_ticked: bool,
    late: u64,
    steps: u64,
}

impl Clock {
    /// Takes a packet's time and returns the time that counts.
    #[inline]
    pub(super) fn advance(&mut self, at: BootTime) -> u64 {
        let inside = at.0.saturating_add(self.offset.0);
        if inside >= self.now {
            self.has_ticked = inside >> TICK_SHIFT != self.now >> TICK_SHIFT;
            self.now = inside;
        } else {
            self.step_back(inside);
        }
        self.now
    }

    fn step_back(&mut self, inside: u64) {
        self.has_ticked = false;
        if self.now - inside < STEP {
            self.late += 1;
        } else {
            self.offset.0 += self.now - inside;
            self.steps += 1;
        }
    }

    /// Whether the last advance entered another slot of the wheels.
    #[inline]
    pub(super) fn has_ticked(&self) -> bool {
        self.has_ticked
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn offset(&self) -> Offset {
        self.offset
    }

    /// Late packets, and steps.
    pub(super) fn anomalies(&self) -> (u64, u64) {
        (self.late, self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_runs_backwards_inside_and_is_shown_by_the_packets_clock() {
        const SECOND: u64 = 1_000_000_000;
        let mut clock = Clock::default();
        assert_eq!(clock.advance(BootTime(1000 * SECOND)), 1000 * SECOND);
        assert_eq!(clock.advance(BootTime(999 * SECOND)), 1000 * SECOND);
        assert_eq!(clock.anomalies(), (1, 0));
        // Set back by 900 s: a second later is still a second later.
        assert_eq!(clock.advance(BootTime(100 * SECOND)), 1000 * SECOND);
        assert_eq!(clock.advance(BootTime(101 * SECOND)), 1001 * SECOND);
        assert_eq!(clock.offset().shown(1001 * SECOND), BootTime(101 * SECOND));
        assert_eq!(clock.anomalies(), (1, 1));
    }
}
