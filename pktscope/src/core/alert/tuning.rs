//! Proposals: what the verdicts say should be tuned. Nothing here changes a rule.
//!
//! In: a rule's counts and the marked alerts of the window. Out: proposals with the suppressions that would have hidden
//! its false positives and none of its confirmed ones.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    RuleId,
    disposition::{RuleSummary, Verdict},
    suppression::{DestinationClass, Subject},
};

/// Settings of proposals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TuningSettings {
    /// False-positive ratio above which a rule proposes a tuning. Default 0.5, as in rsigma's scorecard.
    pub ratio: f64,
    /// Marked false positives of one program and destination from which a suppression is proposed. Default 2.
    pub min_exemplars: usize,
    /// Suppressions proposed for one rule at most. Default 5.
    pub max_clusters: usize,
}

impl Default for TuningSettings {
    fn default() -> Self {
        Self { ratio: 0.5, min_exemplars: 2, max_clusters: 5 }
    }
}

/// What false positives have in common: a program and a destination.
type Cluster = (Arc<str>, Option<Arc<str>>);

/// An alert with its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Its id.
    pub alert: u64,
    /// What it turned out to be.
    pub verdict: Verdict,
    /// What it is about.
    pub subject: Subject,
}

/// A suppression that would have helped.
#[derive(Clone, Debug, PartialEq)]
pub struct ProposedSuppression {
    /// The program.
    pub program: Arc<str>,
    /// Its destinations.
    pub destination: DestinationClass,
    /// Marked false positives that it would have hidden.
    pub hides: usize,
    /// The newest of them.
    pub alert: u64,
}

/// What a rule proposes.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// Which rule.
    pub rule: RuleId,
    /// Its false-positive ratio.
    pub ratio: f64,
    /// Suppressions, the most useful first; empty where the false positives have nothing in common.
    pub suppressions: Vec<ProposedSuppression>,
}

/// The proposals of all rules whose ratio passes the bound, in the rules' order.
pub fn propose(summaries: &[RuleSummary], marked: &[Marked], settings: &TuningSettings) -> Vec<Proposal> {
    let noisy = summaries.iter().filter_map(|summary| {
        let ratio = summary.false_positive_ratio.filter(|ratio| *ratio > settings.ratio)?;
        Some((summary.rule, ratio))
    });
    noisy.map(|(rule, ratio)| Proposal { rule, ratio, suppressions: suppressions(rule, marked, settings) }).collect()
}

fn suppressions(rule: RuleId, marked: &[Marked], settings: &TuningSettings) -> Vec<ProposedSuppression> {
    let of_rule = || marked.iter().filter(move |one| one.subject.rule == rule);
    let mut clusters: BTreeMap<Cluster, (usize, u64)> = BTreeMap::new();
    for one in of_rule().filter(|one| one.verdict == Verdict::FalsePositive) {
        let (count, newest) = clusters.entry((one.subject.program.clone(), one.subject.label.clone())).or_default();
        *count += 1;
        *newest = one.alert.max(*newest);
    }
    let is_confirmed = |program: &str, label: &Option<Arc<str>>| {
        of_rule().any(|one| {
            one.verdict == Verdict::TruePositive && &*one.subject.program == program && one.subject.label == *label
        })
    };
    let useful = clusters.into_iter().filter(|((program, label), (count, _))| {
        *count >= settings.min_exemplars && !program.is_empty() && !is_confirmed(program, label)
    });
    let mut proposed: Vec<_> = useful
        .map(|((program, label), (hides, alert))| {
            let destination = label.map_or(DestinationClass::Any, DestinationClass::Label);
            ProposedSuppression { program, destination, hides, alert }
        })
        .collect();
    proposed.sort_by_key(|proposal| std::cmp::Reverse(proposal.hides));
    proposed.truncate(settings.max_clusters);
    proposed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(verdict: Verdict, program: &str, label: &str) -> Marked {
        let subject = Subject {
            rule: RuleId::Beaconing,
            program: program.into(),
            label: Some(label.into()),
            as_number: None,
            is_private: false,
        };
        Marked { alert: 7, verdict, subject }
    }

    fn summary(ratio: Option<f64>) -> RuleSummary {
        RuleSummary {
            rule: RuleId::Beaconing,
            true_positives: 1,
            false_positives: 5,
            benign_true_positives: 0,
            false_positive_ratio: ratio,
        }
    }

    #[test]
    fn a_noisy_rule_proposes_what_hides_no_confirmed_alert() {
        let marks = [
            marked(Verdict::FalsePositive, "/a", "x.example"),
            marked(Verdict::FalsePositive, "/a", "x.example"),
            marked(Verdict::FalsePositive, "/b", "y.example"),
            marked(Verdict::FalsePositive, "/c", "z.example"),
            marked(Verdict::FalsePositive, "/c", "z.example"),
            marked(Verdict::TruePositive, "/c", "z.example"),
        ];
        let proposals = propose(&[summary(Some(0.8))], &marks, &TuningSettings::default());
        let expected = ProposedSuppression {
            program: "/a".into(),
            destination: DestinationClass::Label("x.example".into()),
            hides: 2,
            alert: 7,
        };
        assert_eq!(proposals[0].suppressions, [expected]);
    }

    #[test]
    fn a_quiet_rule_or_a_small_sample_proposes_nothing() {
        assert!(propose(&[summary(Some(0.5)), summary(None)], &[], &TuningSettings::default()).is_empty());
    }
}
