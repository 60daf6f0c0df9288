//! What came of each step, and the summary of all.

use std::{fmt::Write, process::ExitCode, time::Duration};

use super::Counts;

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It did what it should.
    Passed,
    /// It did not, and why.
    Failed(String),
    /// It could not be taken here, and why.
    Skipped(String),
}

/// One step's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The step's name.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Its test cases; a step without any counts as one.
    pub counts: Counts,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// A step that is one case by itself.
    pub fn single(name: &str, verdict: Verdict) -> Self {
        let mut counts = Counts::default();
        match verdict {
            Verdict::Passed => counts.passed = 1,
            Verdict::Failed(_) => counts.failed = 1,
            Verdict::Skipped(_) => counts.skipped = 1,
        }
        Self { name: name.into(), verdict, counts, took: Duration::ZERO }
    }

    /// A step that ran test cases; a failure that no case shows (a build that broke) counts as one.
    pub fn of_cases(name: &str, verdict: Verdict, counts: Counts) -> Self {
        let mut counts = counts.settled();
        if matches!(verdict, Verdict::Failed(_)) && counts.failed == 0 {
            counts.failed = 1;
        }
        Self { name: name.into(), verdict, counts, took: Duration::ZERO }
    }

    /// Whether it failed.
    pub fn is_failed(&self) -> bool {
        matches!(self.verdict, Verdict::Failed(_)) || 0 < self.counts.failed
    }
}

/// Prints the summary, its totals last, and gives the exit code.
pub fn conclude(outcomes: &[Outcome]) -> ExitCode {
    println!("\n{}", summary(outcomes));
    if outcomes.iter().any(Outcome::is_failed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// One line a step, the reasons of skipped cases below it, and the totals alone on the last line.
fn summary(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    let mut total = Counts::default();
    for outcome in outcomes {
        total.add(&outcome.counts);
        write_outcome(&mut text, outcome);
    }
    let _ = write!(text, "{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    text
}

fn write_outcome(text: &mut String, outcome: &Outcome) {
    let Outcome { name, verdict, counts, took } = outcome;
    let (word, reason) = match verdict {
        Verdict::Passed => ("passed", ""),
        Verdict::Failed(reason) => ("FAILED", reason.as_str()),
        Verdict::Skipped(reason) => ("skipped", reason.as_str()),
    };
    let cases = format!("{} passed {} failed {} skipped", counts.passed, counts.failed, counts.skipped);
    let line = format!("{name:<16} {word:<8} {:>6.1} s  {cases:<34} {reason}", took.as_secs_f64());
    // A string takes every write.
    let _ = writeln!(text, "{}", line.trim_end());
    for reason in &counts.skip_reasons {
        let _ = writeln!(text, "    skipped {reason}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_ends_with_the_totals_alone_on_a_line() {
        let cases = Counts { passed: 3, skip_reasons: vec!["raw: no CAP_NET_RAW".into()], ..Counts::default() };
        let outcomes = [
            Outcome::single("format", Verdict::Passed),
            Outcome::single("deny", Verdict::Skipped("cargo-deny is not installed".into())),
            Outcome::of_cases("tests", Verdict::Passed, cases),
            Outcome::of_cases("e2e", Verdict::Failed("exit status: 101".into()), Counts::default()),
        ];
        let text = summary(&outcomes);
        assert_eq!(text.lines().last(), Some("3 passed, 1 failed, 2 skipped"));
        assert!(text.contains("    skipped raw: no CAP_NET_RAW\n"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("deny") && line.ends_with("cargo-deny is not installed")));
    }

    #[test]
    fn a_broken_build_is_a_failed_case() {
        let outcome = Outcome::of_cases("tests", Verdict::Failed("no build".into()), Counts::default());
        assert_eq!(outcome.counts.failed, 1);
        assert!(outcome.is_failed());
    }
}
