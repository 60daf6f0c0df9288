//! Counts of test cases, read from what a test run prints.

use std::collections::BTreeSet;

/// Test cases by result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Cases that passed.
    pub passed: u64,
    /// Cases that failed.
    pub failed: u64,
    /// Cases that were not run.
    pub skipped: u64,
    /// Why cases were not run, as they said it: `name: reason`.
    pub skip_reasons: Vec<String>,
}

impl Counts {
    /// Takes one line of a test run: libtest's `test result:` lines, and `skipped: <test>: <reason>`, which a test prints
    /// that found nothing to do here and which libtest counts as passed.
    pub fn take_line(&mut self, line: &str) {
        if let Some(reason) = line.strip_prefix("skipped: ") {
            self.skip_reasons.push(reason.into());
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += number_before(result, " passed");
            self.failed += number_before(result, " failed");
            self.skipped += number_before(result, " ignored");
        }
    }

    /// The counts at the end of a run: what said it was skipped has not passed.
    pub fn settled(mut self) -> Self {
        // A test that finds several things missing says so for each.
        let name_of = |said: &String| said.split(": ").next().unwrap_or_default().to_owned();
        let tests: BTreeSet<String> = self.skip_reasons.iter().map(name_of).collect();
        let moved = self.passed.min(u64::try_from(tests.len()).unwrap_or(u64::MAX));
        self.passed -= moved;
        self.skipped += moved;
        self
    }

    /// Adds another's numbers; reasons stay with their step.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split(word).next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], passed: u64, failed: u64, skipped: u64) {
        let mut counts = Counts::default();
        lines.iter().for_each(|line| counts.take_line(line));
        let counts = counts.settled();
        assert_eq!((counts.passed, counts.failed, counts.skipped), (passed, failed, skipped));
    }

    #[test]
    fn results_are_summed_over_binaries() {
        check(
            &[
                "running 3 tests",
                "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
                "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s",
            ],
            15,
            2,
            1,
        );
    }

    #[test]
    fn a_test_that_says_it_was_skipped_has_not_passed() {
        check(
            &[
                "skipped: mptcp_is_owned: the kernel has no MPTCP",
                "skipped: mptcp_is_owned: there is no server: none is installed",
                "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            ],
            3,
            0,
            1,
        );
    }

    #[test]
    fn other_lines_count_nothing() {
        check(&["test result: ", "test result: ok.", "2 passed", "test foo ... ok"], 0, 0, 0);
    }
}
