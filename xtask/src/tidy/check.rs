//! All rules over all files.

use std::{fs, process::Command};

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
    let mut found = Vec::new();
    for path in files()? {
        let bytes = fs::read(workspace::root().join(&path));
        // A file may be gone from the folder and not yet from git; a binary one has no lines to check.
        let Ok(Ok(text)) = bytes.map(String::from_utf8) else { continue };
        found.extend(check(&path, &text));
    }
    found.sort();
    Ok(found)
}

/// Every violation in one file.
fn check(path: &str, text: &str) -> Vec<Violation> {
    let mut found = strings::check(path, text);
    if path.ends_with(".rs") {
        match Source::parse(path, text) {
            Ok(source) => found.extend(RULES.iter().flat_map(|rule| rule(&source))),
            Err(violation) => found.push(violation),
        }
    }
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

    #[test]
    fn one_file_can_break_several_rules() {
        let found = check("pktscope/src/core/utils.rs", "use std::fs;\nfn a() { b().unwrap(); }\n");
        let lines: Vec<usize> = found.iter().map(|violation| violation.line).collect();
        assert_eq!(lines, [1, 1, 2], "{found:?}");
    }

    #[test]
    fn text_files_are_checked_for_text_only() {
        assert!(check("README.md", "unwrap() and std::fs").is_empty());
    }
}
