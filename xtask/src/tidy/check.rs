//! All rules over all files.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context, Result, bail};

use super::{
    layers, layout, purity, size,
    source::{Source, Violation},
    strings, tests_wait, unwraps,
};
use crate::{
    ci::{Outcome, Verdict},
    command, workspace,
};

/// The rules for Rust files.
const RULES: [fn(&Source) -> Vec<Violation>; 6] =
    [purity::check, layers::check, size::check, layout::check, unwraps::check, tests_wait::check];

/// Prints every violation and fails where there is one.
pub fn run() -> Result<()> {
    let found = violations()?;
    found.iter().for_each(|violation| eprintln!("{violation}"));
    if !found.is_empty() {
        bail!("the source breaks the project's rules in {} places", found.len());
    }
    Ok(())
}

/// The rules as a step of a larger run.
pub fn step() -> Result<Outcome> {
    let found = violations()?;
    found.iter().for_each(|violation| eprintln!("{violation}"));
    let verdict = match found.len() {
        0 => Verdict::Passed,
        many => Verdict::Failed(format!("{many} violations")),
    };
    Ok(Outcome::single("tidy", verdict))
}

fn violations() -> Result<Vec<Violation>> {
    let mut texts = Vec::new();
    for path in files()? {
        let bytes = fs::read(workspace::root().join(&path));
        // A file may be gone from the folder and not yet from git; a binary one has no lines to check.
        if let Ok(Ok(text)) = bytes.map(String::from_utf8) {
            texts.push((path, text));
        }
    }
    Ok(check(&texts))
}

/// Every violation in these files, given as path and text.
fn check(texts: &[(String, String)]) -> Vec<Violation> {
    let mut found: Vec<Violation> = texts.iter().flat_map(|(path, text)| strings::check(path, text)).collect();
    let rust = texts.iter().filter(|(path, _)| path.ends_with(".rs"));
    let (sources, broken): (Vec<_>, Vec<_>) =
        rust.map(|(path, text)| Source::parse(path, text)).partition(Result::is_ok);
    found.extend(broken.into_iter().filter_map(Result::err));
    let sources: Vec<Source> = sources.into_iter().filter_map(Result::ok).collect();
    let tests: BTreeSet<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in sources {
        let source = if tests.contains(&source.path) { source.declared_test() } else { source };
        found.extend(RULES.iter().flat_map(|rule| rule(&source)));
    }
    found.sort();
    found
}

/// The files that are, or would be, in the repository.
fn files() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(workspace::root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = command::output(&mut git).context("failed to list the repository's files")?;
    Ok(listed.split('\0').filter(|path| !path.is_empty()).map(Into::into).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_files(files: &[(&str, &str)], expected: &[usize]) {
        let texts: Vec<_> = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        let found = check(&texts);
        assert_eq!(found.iter().map(|violation| violation.line).collect::<Vec<_>>(), expected, "{found:?}");
    }

    #[test]
    fn one_file_can_break_several_rules() {
        check_files(&[("pktscope/src/core/utils.rs", "use std::fs;\nfn a() { b().unwrap(); }\n")], &[1, 1, 2]);
    }

    #[test]
    fn text_files_are_checked_for_text_only() {
        check_files(&[("README.md", "unwrap() and std::fs")], &[]);
    }

    #[test]
    fn a_file_is_test_code_where_another_says_so() {
        let truth = ("pktscope/src/core/truth.rs", "use std::fs;\n");
        check_files(&[("pktscope/src/core/mod.rs", "#[cfg(test)]\nmod truth;\n"), truth], &[]);
        check_files(&[("pktscope/src/core/mod.rs", "mod truth;\n"), truth], &[1]);
    }
}
