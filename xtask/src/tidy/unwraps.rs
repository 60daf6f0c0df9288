//! No `unwrap` outside tests.

use proc_macro2::{Delimiter, TokenTree};

use super::source::{Source, Violation, inside};

/// Flags `.unwrap()` outside tests, in macros too, where Clippy may not look.
pub fn check(source: &Source) -> Vec<Violation> {
    let mut lines = Vec::new();
    walk(&source.tokens(), &mut lines);
    lines.retain(|line| !source.is_test_line(*line));
    let why = "unwrap outside tests: return the error, or expect(\"<the invariant>\")";
    lines.into_iter().map(|line| source.violation(line, why)).collect()
}

fn walk(tokens: &[TokenTree], lines: &mut Vec<usize>) {
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => walk(&inside(group), lines),
            TokenTree::Ident(name) if name == "unwrap" && is_call(tokens, at) => lines.push(name.span().start().line),
            _ => (),
        }
    }
}

fn is_call(tokens: &[TokenTree], at: usize) -> bool {
    let is_method = 0 < at && matches!(&tokens[at - 1], TokenTree::Punct(punct) if punct.as_char() == '.');
    let arguments = tokens.get(at + 1);
    is_method && matches!(arguments, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str, expected: usize) {
        assert_eq!(check(&Source::parse("x/src/a.rs", text).unwrap()).len(), expected, "{text}");
    }

    #[test]
    fn unwrap_is_flagged_outside_tests_only() {
        check_text("fn a() { b().unwrap(); }", 1);
        check_text("fn a() { println!(\"{}\", b().unwrap()); }", 1);
        check_text("fn a() { b().unwrap_or(1); c.expect(\"d\"); }", 0);
        check_text("#[cfg(test)]\nmod tests { fn a() { b().unwrap(); } }", 0);
        check_text("#[test]\nfn a() { b().unwrap(); }", 0);
    }
}
