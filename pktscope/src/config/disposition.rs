//! Verdicts and proposals as groups of the configuration.

use super::{Mistake, setting::Setting};
use crate::core::alert::{
    disposition::{DispositionSettings, Numerator},
    tuning::TuningSettings,
};

section_of!(DispositionSettings {
    /// How long a verdict counts. Default 30 d.
    window,
    /// Verdicts leave the window together by buckets of this width. Default 1 d.
    bucket,
    /// Verdicts from which a rule has a false-positive ratio. Default 5.
    min_sample,
    /// Which verdicts count as false: "false_positives" alone, or "false_and_benign".
    numerator,
    /// Verdicts remembered, so that none is counted twice; the oldest give way. Default 100,000.
    max_records,
});

section_of!(TuningSettings {
    /// False-positive ratio above which a rule proposes a tuning; nothing is ever tuned by itself. Default 0.5.
    ratio,
    /// False positives of one program and destination from which a suppression is proposed. Default 2.
    min_exemplars,
    /// Suppressions proposed for one rule at most. Default 5.
    max_clusters,
});

impl Setting for Numerator {
    fn read(value: &toml::Value) -> Result<Self, String> {
        match value.as_str() {
            Some("false_positives") => Ok(Self::FalsePositives),
            Some("false_and_benign") => Ok(Self::FalseAndBenign),
            _ => Err("write \"false_positives\" or \"false_and_benign\"".to_owned()),
        }
    }

    fn show(&self) -> Option<String> {
        let word = match self {
            Self::FalsePositives => "false_positives",
            Self::FalseAndBenign => "false_and_benign",
        };
        Some(format!("\"{word}\""))
    }
}

/// Adds a mistake for each value out of its range.
pub(super) fn ranges(verdicts: &DispositionSettings, tuning: &TuningSettings, mistakes: &mut Vec<Mistake>) {
    if verdicts.bucket.is_zero() || verdicts.window < verdicts.bucket {
        let what = "a bucket is longer than nothing and no longer than disposition.window";
        mistakes.push(Mistake::new("disposition.bucket", what));
    }
    if !(0.0..=1.0).contains(&tuning.ratio) {
        let what = format!("{} is no share; write a number from 0.0 to 1.0", tuning.ratio);
        mistakes.push(Mistake::new("tuning.ratio", what));
    }
}
