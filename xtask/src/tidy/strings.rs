//! Text that has no place in the repository: paths of one machine, registries of one network, notes to oneself.

use super::source::Violation;

/// What to look for, split so that this file does not contain it, and why.
const FOREIGN: [(&str, &str, &str); 7] = [
    ("/wo", "rk/", "a folder of one machine: derive the path"),
    ("/ro", "ot/.", "a home folder of one machine: derive the path"),
    ("file:/", "//ho", "a folder of one machine: derive the path"),
    ("TO", "DO", "a note to oneself: do it, or say in the docs what is missing"),
    ("FIX", "ME", "a note to oneself: do it, or say in the docs what is missing"),
    ("replace-", "with =", "a registry of one network: use crates.io"),
    ("sparse+", "http://", "a registry of one network: use crates.io"),
];

/// Flags such text in any file.
pub fn check(path: &str, text: &str) -> Vec<Violation> {
    let needles: Vec<(String, &str)> = FOREIGN.iter().map(|(a, b, why)| (format!("{a}{b}"), *why)).collect();
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for (needle, why) in needles.iter().filter(|(needle, _)| line.contains(needle)) {
            found.push(Violation { path: path.into(), line: at + 1, why: format!("{needle} is {why}") });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_one_machine_is_flagged_with_its_line() {
        let text = format!("a\nlet b = \"{}\";\n// {}: c\n", concat!("/wo", "rk/main"), concat!("TO", "DO"));
        let found = check("README.md", &text);
        assert_eq!(found.iter().map(|violation| violation.line).collect::<Vec<_>>(), [2, 3]);
        assert!(check("README.md", "/var/lib/pktscope and /network/x").is_empty());
    }
}
