//! Volumes of a program: what it sends in windows of four lengths, and what is normal for each.
//!
//! The windows are frozen: what is normal is taken from learned windows only, so a ramp cannot drag it along.
//! The moving average of pktscope-core over one interval is kept beside them for programs that were never learned.

use std::{collections::VecDeque, sync::Arc};

use super::{profile::LabelId, steady::Steady};
use crate::core::flow::Flow;

/// Minutes of each window: 1 min, 10 min, 1 h, 6 h.
pub const WINDOW_MINUTES: [u32; 4] = [1, 10, 60, 360];
/// The window of an hour.
const HOUR_WINDOW: usize = 2;
/// Steps of the histogram for each natural logarithm; two keep the median within 28 %.
const STEPS_PER_LOG: f64 = 2.0;
/// Destinations followed in a minute and in six hours.
const MAX_TOP: usize = 6;
/// A median absolute deviation becomes a standard deviation of a normal distribution by this factor.
const MAD_TO_SIGMA: f64 = 1.4826;
/// Added to the deviation, so that a program that always sends the same is not alarmed by a little more.
const SIGMA_FLOOR: f64 = 0.35;

/// What a destination got and gave in a stretch of time.
#[derive(Clone, Debug)]
pub struct Share {
    /// Whom.
    pub label: LabelId,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// The last flow to it.
    pub flow: Arc<Flow>,
}

/// The largest destinations of a stretch of time; a new one takes the place of the smallest.
#[derive(Clone, Debug, Default)]
pub struct Shares(Vec<Share>);

impl Shares {
    /// Adds bytes to a destination.
    pub fn add(&mut self, label: LabelId, sent: u64, received: u64, flow: &Arc<Flow>) {
        if let Some(share) = self.0.iter_mut().find(|share| share.label == label) {
            share.sent += sent;
            share.received += received;
            if !Arc::ptr_eq(&share.flow, flow) {
                share.flow = flow.clone();
            }
            return;
        }
        let fresh = Share { label, sent, received, flow: flow.clone() };
        if self.0.len() < MAX_TOP {
            self.0.push(fresh);
        } else if let Some(smallest) =
            self.0.iter_mut().min_by_key(|share| share.sent).filter(|share| share.sent < sent)
        {
            *smallest = fresh;
        }
    }

    /// The destination that got most.
    pub fn top(&self) -> Option<&Share> {
        self.0.iter().max_by_key(|share| share.sent)
    }
}

/// A closed minute in which a program sent.
#[derive(Clone, Debug)]
struct Minute {
    minute: u32,
    sent: u64,
    shares: Shares,
}

/// What is normal for one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowNormal {
    /// Learned windows by half-step of ln(1 + bytes).
    counts: Vec<(u8, u32)>,
    /// Most sent in a learned window.
    pub max: u64,
}

impl WindowNormal {
    /// Goes on from stored values.
    pub fn from_row(max: u64, counts: Vec<(u8, u32)>) -> Self {
        Self { counts, max }
    }

    /// Learned windows by half-step.
    pub fn counts(&self) -> &[(u8, u32)] {
        &self.counts
    }

    /// How many windows were learned.
    pub fn samples(&self) -> u32 {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// Learns a window.
    pub fn learn(&mut self, bytes: u64) {
        self.max = self.max.max(bytes);
        let step = step_of(bytes);
        match self.counts.binary_search_by_key(&step, |(step, _)| *step) {
            Ok(at) => self.counts[at].1 = self.counts[at].1.saturating_add(1),
            Err(at) => self.counts.insert(at, (step, 1)),
        }
    }

    /// Robust deviations of ln(1 + bytes) above the learned median.
    pub fn deviations(&self, bytes: u64) -> f64 {
        let median = self.median();
        let spread = MAD_TO_SIGMA * self.median_deviation(median) + SIGMA_FLOOR;
        (logarithm(bytes) - median) / spread
    }

    /// The learned median in bytes.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes of a bounded logarithm")]
    pub fn median_bytes(&self) -> u64 {
        self.median().exp_m1() as u64
    }

    fn median(&self) -> f64 {
        let middle = self.samples().div_ceil(2);
        let mut below = 0;
        for &(step, count) in &self.counts {
            below += count;
            if below >= middle {
                return centre(step);
            }
        }
        0.0
    }

    fn median_deviation(&self, median: f64) -> f64 {
        let mut apart: Vec<(f64, u32)> =
            self.counts.iter().map(|&(step, count)| ((centre(step) - median).abs(), count)).collect();
        apart.sort_by(|a, b| a.0.total_cmp(&b.0));
        let middle = self.samples().div_ceil(2);
        let mut below = 0;
        for (deviation, count) in apart {
            below += count;
            if below >= middle {
                return deviation;
            }
        }
        0.0
    }
}

#[expect(clippy::cast_precision_loss, reason = "a logarithm of bytes")]
fn logarithm(bytes: u64) -> f64 {
    (bytes as f64).ln_1p()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "2 ln(2^64) is 89")]
fn step_of(bytes: u64) -> u8 {
    (logarithm(bytes) * STEPS_PER_LOG) as u8
}

fn centre(step: u8) -> f64 {
    (f64::from(step) + 0.5) / STEPS_PER_LOG
}

/// pktscope-core's exponentially weighted mean and variance of one interval's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MovingAverage {
    /// Mean.
    pub mean: f64,
    /// Variance.
    pub variance: f64,
    /// Intervals it rests on.
    pub samples: u32,
}

impl MovingAverage {
    /// Standard deviations of `bytes` above the mean; infinite where nothing ever varied.
    #[expect(clippy::cast_precision_loss, reason = "a ratio of bytes")]
    pub fn deviations(&self, bytes: u64) -> f64 {
        let difference = bytes as f64 - self.mean;
        match self.variance.sqrt() {
            0.0 if difference > 0.0 => f64::INFINITY,
            0.0 => 0.0,
            deviation => difference / deviation,
        }
    }

    /// Takes in an interval.
    #[expect(clippy::cast_precision_loss, reason = "a mean of bytes")]
    pub fn learn(&mut self, bytes: u64, alpha: f64) {
        let difference = bytes as f64 - self.mean;
        self.mean += alpha * difference;
        self.variance = (1.0 - alpha) * (self.variance + alpha * difference * difference);
        self.samples = self.samples.saturating_add(1);
    }
}

/// What a program sent in the last six hours, by minute.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    minutes: VecDeque<Minute>,
    /// Bytes in the windows of [`WINDOW_MINUTES`], the open minute left out.
    sums: [u64; 4],
    /// How many entries at the front of `minutes` each window has left behind.
    left: [usize; 4],
    open: Option<Minute>,
}

impl Recent {
    /// Adds bytes to the open minute; the caller has closed the minutes before it.
    pub fn add(&mut self, now: Steady, label: LabelId, sent: u64, received: u64, flow: &Arc<Flow>) {
        let minute = now.minute();
        let open = self.open.get_or_insert_with(|| Minute { minute, sent: 0, shares: Shares::default() });
        open.sent += sent;
        open.shares.add(label, sent, received, flow);
    }

    /// Bytes of the open minute.
    pub fn open_bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.sent)
    }

    /// Closes the open minute and moves the windows up to `minute`, which is the first not to be in them.
    pub fn close(&mut self, minute: u32) {
        if let Some(open) = self.open.take() {
            self.sums.iter_mut().for_each(|sum| *sum += open.sent);
            self.minutes.push_back(open);
        }
        for (window, length) in WINDOW_MINUTES.into_iter().enumerate() {
            let from = minute.saturating_sub(length);
            while let Some(old) = self.minutes.get(self.left[window]).filter(|old| old.minute < from) {
                self.sums[window] -= old.sent;
                self.left[window] += 1;
            }
        }
        self.drop_oldest();
    }

    fn drop_oldest(&mut self) {
        let longest = WINDOW_MINUTES.len() - 1;
        while self.left[longest] > 0 {
            self.minutes.pop_front();
            self.left.iter_mut().for_each(|left| *left -= 1);
        }
    }

    /// Bytes in a window that ends with the last closed minute.
    pub fn sum(&self, window: usize) -> u64 {
        self.sums[window]
    }

    /// The destination that got most in a window, the open minute included.
    pub fn top(&self, window: usize) -> Option<Share> {
        let mut total = Shares::default();
        let closed = self.minutes.iter().skip(self.left[window]);
        for share in closed.chain(&self.open).flat_map(|minute| &minute.shares.0) {
            total.add(share.label, share.sent, share.received, &share.flow);
        }
        total.top().cloned()
    }

    /// Whether nothing is left of it.
    pub fn is_empty(&self) -> bool {
        self.minutes.is_empty() && self.open.is_none()
    }

    /// Starts the windows anew, so that what raised an alert is neither counted again nor learned.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Everything learned of a program's volumes.
#[derive(Clone, Debug, Default)]
pub struct VolumeNormal {
    /// The moving average.
    pub average: MovingAverage,
    /// One for each window.
    pub windows: [WindowNormal; 4],
    /// Most sent in an hour, by hour of the week; in order.
    pub weekly: Vec<(u8, u64)>,
}

impl VolumeNormal {
    /// Learns an hour's bytes for its hour of the week.
    pub fn learn_hour(&mut self, hour: u8, bytes: u64) {
        match self.weekly.binary_search_by_key(&hour, |(hour, _)| *hour) {
            Ok(at) => self.weekly[at].1 = self.weekly[at].1.max(bytes),
            Err(at) => self.weekly.insert(at, (hour, bytes)),
        }
    }

    /// Takes in the maxima of a day; none rises by more than a quarter, or above `floors` where less was known. The
    /// median and its deviation stay: they would widen with a ramp.
    pub fn absorb(&mut self, day: &Self, floors: &[u64; 4]) {
        let most = |known: u64, floor: u64| known.saturating_add(known / 4).max(floor);
        for &(hour, bytes) in &day.weekly {
            let known = self.weekly_max(hour).max(self.windows[HOUR_WINDOW].max);
            self.learn_hour(hour, bytes.min(most(known, floors[HOUR_WINDOW])));
        }
        for ((window, day), floor) in self.windows.iter_mut().zip(&day.windows).zip(floors) {
            window.max = window.max.max(day.max.min(most(window.max, *floor)));
        }
    }

    /// Most sent at this hour of the week, or the hours beside it.
    pub fn weekly_max(&self, hour: u8) -> u64 {
        let is_near = |known: u8| {
            (i16::from(known) - i16::from(hour))
                .rem_euclid(168)
                .min((i16::from(hour) - i16::from(known)).rem_euclid(168))
                <= 1
        };
        self.weekly.iter().filter(|(known, _)| is_near(*known)).map(|(_, bytes)| *bytes).max().unwrap_or(0)
    }
}
