//! What one program sends: its open windows, what is normal for each, and when that is learned.
//!
//! While the host or the program learns, every window teaches. Afterwards what is normal is frozen, and a day teaches
//! only as a whole, when it is over and was without an alert about the program, and at most a quarter more than was
//! known: a ramp that is slower than the alarm's factor is caught by the next days.

use std::time::Duration;

use super::{finding, is_pushed};
use crate::core::{
    baseline::{
        Baseline, BaselineRow, Steady,
        rows::VolumeRow,
        volume::{Recent, VolumeNormal, WINDOW_MINUTES, WindowNormal},
    },
    detect::{DetectionSettings, Finding, settings::VolumeSettings, sight::Actor},
};

/// How long a program that was reported is neither judged nor learned from.
const FROZEN: Duration = Duration::from_secs(3_600);
/// Minutes of a day.
const DAY_MINUTES: u32 = 1_440;

/// What a program sent.
#[derive(Debug, Default)]
pub(super) struct Sender {
    pub(super) recent: Recent,
    pub(super) normal: VolumeNormal,
    pub(super) hour_bytes: u64,
    pub(super) has_sent: bool,
    pub(super) is_dirty: bool,
    /// What today adds to what is normal, where it stays without an alert.
    today: Option<Box<VolumeNormal>>,
    /// The day, since 1970, of which nothing more is learned: the program was reported on it, or another alert was.
    reported_on: u32,
    /// When the program was reported last.
    reported: Option<Steady>,
    /// The last spike: its window, bytes, and hour of the week.
    spike: Option<(u8, u64, u8)>,
}

impl Sender {
    /// A sender that goes on from a stored row.
    pub(super) fn restored(row: &VolumeRow) -> Self {
        let mut normal = VolumeNormal { weekly: row.weekly.clone(), ..VolumeNormal::default() };
        (normal.average.mean, normal.average.variance, normal.average.samples) = row.average;
        for (window, (max, counts)) in normal.windows.iter_mut().zip(&row.windows) {
            *window = WindowNormal::from_row(*max, counts.clone());
        }
        let reported_on = row.reported.map_or(0, Steady::day);
        Self { normal, spike: row.spike, reported: row.reported, reported_on, ..Self::default() }
    }

    pub(super) fn is_frozen(&self, now: Steady) -> bool {
        self.reported.is_some_and(|reported| now < reported.plus(FROZEN))
    }

    /// What raised an alert is neither counted again nor learned, nor is the rest of its day.
    pub(super) fn freeze(&mut self, now: Steady) {
        self.recent.clear();
        self.hour_bytes = 0;
        self.today = None;
        self.reported_on = now.day();
        self.reported = Some(now);
        self.is_dirty = true;
    }

    /// Notes a spike, for when somebody says that it was normal.
    pub(super) fn note_spike(&mut self, window: usize, bytes: u64, now: Steady) {
        self.spike = u8::try_from(window).ok().map(|window| (window, bytes, now.hour_of_week()));
    }

    /// The last spike was normal.
    pub(super) fn accept_spike(&mut self) {
        let Some((window, bytes, hour)) = self.spike.take() else { return };
        // What one window held, the longer ones held too.
        self.normal.windows.iter_mut().skip(window.into()).for_each(|normal| normal.max = normal.max.max(bytes));
        self.normal.learn_hour(hour, bytes);
        self.is_dirty = true;
    }

    /// Closes a minute: judges the windows that end with it, then learns them.
    pub(super) fn close_minute(
        &mut self,
        actor: Actor,
        now: Steady,
        normal: &Baseline,
        settings: &DetectionSettings,
    ) -> Option<Finding> {
        let interval = self.recent.open_bytes();
        self.recent.close(now.minute());
        let found = if normal.learning.is_learning() { None } else { self.spike(actor, now, normal, &settings.volume) };
        if found.is_some() {
            self.freeze(now);
        } else if !self.is_frozen(now) {
            self.learn(interval, actor, now, normal, &settings.volume);
        }
        if now.minute().is_multiple_of(60) {
            self.hour_bytes = 0;
        }
        if self.recent.is_empty() {
            self.has_sent = false;
        }
        found
    }

    /// Whether enough is normal for a window of the program to judge it.
    pub(super) fn is_known(&self, window: usize, actor: Actor, now: Steady, normal: &Baseline, fewest: u32) -> bool {
        let Some(program) = normal.program(actor.program) else { return false };
        if !program.row.is_learned {
            return !normal.is_learning(actor.program, now) && self.normal.windows[window].samples() >= fewest;
        }
        let (observed, _) = normal.learning.progress();
        // A window speaks once twice its length was observed; the shortest always does.
        window == 0 || observed >= Duration::from_secs(120) * WINDOW_MINUTES[window]
    }

    /// The first window, from the shortest, whose bytes are far above everything learned.
    fn spike(&mut self, actor: Actor, now: Steady, normal: &Baseline, settings: &VolumeSettings) -> Option<Finding> {
        if self.is_frozen(now) {
            return None;
        }
        let is_far = |window: &usize| {
            let bytes = self.recent.sum(*window);
            self.is_spike(*window, bytes, now, settings)
        };
        let known =
            (0..WINDOW_MINUTES.len()).filter(|window| self.is_known(*window, actor, now, normal, settings.min_samples));
        let window = known.into_iter().find(is_far)?;
        let bytes = self.recent.sum(window);
        let share = self.recent.top(window).filter(is_pushed)?;
        self.note_spike(window, bytes, now);
        Some(finding(actor, &share, now, normal, &self.normal, (window, bytes)))
    }

    /// Whether a window's bytes are far above what is normal for it and for the hour of the week.
    #[expect(clippy::cast_precision_loss, reason = "multiples of bytes")]
    pub(super) fn is_spike(&self, window: usize, bytes: u64, now: Steady, settings: &VolumeSettings) -> bool {
        let normal = &self.normal.windows[window];
        let is_far = bytes > settings.floors[window]
            && bytes as f64 > settings.times_max * normal.max as f64
            && (normal.samples() < settings.min_samples || normal.deviations(bytes) >= settings.deviations);
        is_far && bytes as f64 > settings.times_weekly * self.normal.weekly_max(now.hour_of_week()) as f64
    }

    fn learn(&mut self, interval: u64, actor: Actor, now: Steady, normal: &Baseline, settings: &VolumeSettings) {
        if normal.is_learning(actor.program, now) {
            self.normal.average.learn(interval, settings.alpha);
            self.is_dirty = true;
            learn_windows(&mut self.normal, &self.recent, self.hour_bytes, now);
            return;
        }
        // The day that the closed minute belongs to.
        let day = now.minus(Duration::from_secs(1)).day();
        let is_reported = day <= self.reported_on || normal.was_alerted_since(actor.program, day, now);
        if is_reported {
            self.today = None;
            self.reported_on = self.reported_on.max(day);
            return;
        }
        learn_windows(self.today.get_or_insert_default(), &self.recent, self.hour_bytes, now);
        if now.minute().is_multiple_of(DAY_MINUTES)
            && let Some(today) = self.today.take()
        {
            self.normal.absorb(&today, &settings.floors);
            self.is_dirty = true;
        }
    }

    pub(super) fn row(&self, actor: Actor, normal: &Baseline) -> Option<BaselineRow> {
        let average = self.normal.average;
        Some(BaselineRow::Volume(VolumeRow {
            program: normal.program(actor.program)?.row.key.clone(),
            average: (average.mean, average.variance, average.samples),
            windows: self.normal.windows.iter().map(|window| (window.max, window.counts().to_vec())).collect(),
            weekly: self.normal.weekly.clone(),
            spike: self.spike,
            reported: self.reported,
        }))
    }
}

/// Learns the windows that end now; the longer ones when they end by the clock.
fn learn_windows(normal: &mut VolumeNormal, recent: &Recent, hour_bytes: u64, now: Steady) {
    for (window, length) in WINDOW_MINUTES.into_iter().enumerate() {
        let bytes = recent.sum(window);
        if bytes > 0 && now.minute().is_multiple_of(length.min(60)) {
            normal.windows[window].learn(bytes);
        }
    }
    if now.minute().is_multiple_of(60) {
        normal.learn_hour(now.minus(Duration::from_secs(60)).hour_of_week(), hour_bytes);
    }
}
