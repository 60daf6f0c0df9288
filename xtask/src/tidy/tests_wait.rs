//! Tests wait for facts: a sleep needs a reason beside it.

use proc_macro2::{Delimiter, TokenTree};

use super::source::{Source, Violation, inside};

/// The comment that gives the reason, on the line of the sleep or the one above.
const REASON: &str = "// waits:";

/// Flags a sleep in test code without its reason.
pub fn check(source: &Source) -> Vec<Violation> {
    let mut lines = Vec::new();
    walk(&source.tokens(), &mut lines);
    lines.retain(|line| source.is_test_line(*line) && !has_reason(source, *line));
    let why = "a test sleeps: wait for a fact with a deadline, or say what is waited for with `// waits: …`";
    lines.into_iter().map(|line| source.violation(line, why)).collect()
}

fn has_reason(source: &Source, line: usize) -> bool {
    source.text.lines().skip(line.saturating_sub(2)).take(2).any(|text| text.contains(REASON))
}

fn walk(tokens: &[TokenTree], lines: &mut Vec<usize>) {
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => walk(&inside(group), lines),
            TokenTree::Ident(name) if name == "sleep" && is_call(tokens, at) => lines.push(name.span().start().line),
            _ => (),
        }
    }
}

fn is_call(tokens: &[TokenTree], at: usize) -> bool {
    let is_declared = 0 < at && matches!(&tokens[at - 1], TokenTree::Ident(word) if word == "fn");
    let arguments = tokens.get(at + 1);
    !is_declared && matches!(arguments, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(path: &str, text: &str, expected: usize) {
        assert_eq!(check(&Source::parse(path, text).unwrap()).len(), expected, "{text}");
    }

    #[test]
    fn a_sleep_in_a_test_needs_its_reason() {
        check_text("tests/e2e/a.rs", "fn a() {\n    std::thread::sleep(B);\n}\n", 1);
        check_text("tests/e2e/a.rs", "fn a() {\n    // waits: between two looks at a fact\n    sleep(B);\n}\n", 0);
        check_text("tests/e2e/a.rs", "fn a() {\n    sleep(B); // waits: one interval of the beacon\n}\n", 0);
        check_text("x/src/a.rs", "fn a() {\n    sleep(B);\n}\n", 0);
        check_text("x/src/a.rs", "#[cfg(test)]\nmod tests {\n    fn a() { tokio::time::sleep(B); }\n}\n", 1);
    }
}
