//! When the host learns: a window of observed time that a restart resumes.

use std::time::Duration;

use super::{
    rows::{Coverage, HostRow},
    steady::Steady,
};

/// The host's learning window.
#[derive(Clone, Debug)]
pub struct Learning {
    window: Duration,
    started: Option<Steady>,
    last: Option<Steady>,
    observed: Duration,
    is_active: bool,
    coverage: Coverage,
}

impl Learning {
    /// A window of `window`; zero starts active.
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            started: None,
            last: None,
            observed: Duration::ZERO,
            is_active: window.is_zero(),
            coverage: Coverage::default(),
        }
    }

    /// Takes note of the time.
    ///
    /// Only time with the agent running counts towards the window: a day without it does not end learning.
    pub fn observe(&mut self, now: Steady) {
        let since_last = self.last.map_or(Duration::ZERO, |last| now.since(last));
        self.started.get_or_insert(now);
        self.last = Some(self.last.map_or(now, |last| last.max(now)));
        if self.is_active {
            return;
        }
        self.observed += since_last;
        self.is_active = self.observed >= self.window;
        self.coverage.has_seen_weekend |= now.hour_of_week() >= 5 * 24;
    }

    /// Whether the host still learns.
    pub fn is_learning(&self) -> bool {
        !self.is_active
    }

    /// Whether the first half of the window is over, or twelve hours remain at most.
    pub fn is_late(&self) -> bool {
        self.observed >= self.window.saturating_sub(Duration::from_secs(12 * 3_600)).max(self.window / 2)
    }

    /// When learning began.
    pub fn started(&self) -> Option<Steady> {
        self.started
    }

    /// Observed time and the window.
    pub fn progress(&self) -> (Duration, Duration) {
        (self.observed.min(self.window), self.window)
    }

    /// What the baseline has seen.
    pub fn coverage(&self) -> Coverage {
        self.coverage
    }

    /// A package manager ran.
    pub fn note_update(&mut self) {
        self.coverage.has_seen_update |= self.is_learning();
    }

    /// The machine started while learning.
    pub fn note_reboot(&mut self) {
        self.coverage.has_seen_reboot |= self.is_learning();
    }

    /// What the baseline has not yet seen, in words; empty where it has seen all.
    pub fn unseen(&self) -> Vec<&'static str> {
        let seen = self.coverage;
        [
            (seen.has_seen_reboot, "a reboot"),
            (seen.has_seen_update, "an update run"),
            (seen.has_seen_weekend, "a weekend"),
        ]
        .into_iter()
        .filter_map(|(is_seen, name)| (!is_seen).then_some(name))
        .collect()
    }

    /// Writes itself into the host's row.
    pub fn save(&self, row: &mut HostRow) {
        row.started = self.started.unwrap_or_default();
        row.observed = self.observed;
        row.is_active = self.is_active && !self.window.is_zero();
        row.coverage = self.coverage;
    }

    /// Takes over what another host has learned: how far it was, and what it has seen.
    pub fn adopt(&mut self, row: &HostRow) {
        self.observed = self.observed.max(row.observed);
        self.is_active |= row.is_active || self.observed >= self.window;
        let theirs = Some(row.started).filter(|started| *started != Steady::default());
        self.started = self.started.into_iter().chain(theirs).min();
        let (own, other) = (self.coverage, row.coverage);
        self.coverage = Coverage {
            has_seen_reboot: own.has_seen_reboot || other.has_seen_reboot,
            has_seen_update: own.has_seen_update || other.has_seen_update,
            has_seen_weekend: own.has_seen_weekend || other.has_seen_weekend,
        };
    }

    /// Goes on from the host's row.
    pub fn restore(&mut self, row: &HostRow) {
        self.started = (row.started != Steady::default()).then_some(row.started);
        self.observed = row.observed;
        self.is_active = self.window.is_zero() || row.is_active || self.observed >= self.window;
        self.coverage = row.coverage;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u32 = 60;

    fn observed_to(learning: &mut Learning, from: u32, to: u32) {
        for seconds in (from..=to).step_by(60) {
            learning.observe(Steady::from_seconds(seconds));
        }
    }

    #[test]
    fn the_window_ends_with_observed_time_and_a_restart_resumes_it() {
        let mut first = Learning::new(Duration::from_secs(600));
        observed_to(&mut first, 0, 5 * MINUTE);
        let mut row = HostRow::default();
        first.save(&mut row);
        let mut second = Learning::new(Duration::from_secs(600));
        second.restore(&row);
        observed_to(&mut second, 100_000, 100_000 + 4 * MINUTE);
        assert!(second.is_learning(), "the time without the agent teaches nothing");
        observed_to(&mut second, 100_000 + 4 * MINUTE, 100_000 + 6 * MINUTE);
        assert!(!second.is_learning());
    }

    #[test]
    fn no_window_starts_active() {
        assert!(!Learning::new(Duration::ZERO).is_learning());
    }
}
