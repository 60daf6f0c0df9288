//! Every path that a file names: `use` trees unfolded, expressions, types, attributes and macro arguments alike.

use proc_macro2::{Delimiter, TokenTree};

use super::source::{Source, inside};

/// A path as written, `use` groups unfolded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its segments.
    pub segments: Vec<String>,
    /// Its line.
    pub line: usize,
}

impl Named {
    /// Whether it is, or lies below, this path.
    pub fn is_below(&self, path: &str) -> bool {
        let wanted: Vec<&str> = path.split("::").collect();
        wanted.len() <= self.segments.len() && wanted.iter().zip(&self.segments).all(|(a, b)| a == b)
    }
}

/// Every path named outside tests; a lone name counts as a path of one segment.
pub fn named(source: &Source) -> Vec<Named> {
    let mut found = Vec::new();
    walk(&source.tokens(), &[], &mut found);
    found.retain(|named| !source.is_test_line(named.line));
    found
}

fn walk(tokens: &[TokenTree], prefix: &[String], found: &mut Vec<Named>) {
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(_) => at = take_path(tokens, at, prefix, found),
            TokenTree::Group(group) => {
                // A group without a delimiter is a macro's argument: still the same path.
                let inner = if group.delimiter() == Delimiter::None { prefix } else { &[] };
                walk(&inside(group), inner, found);
                at += 1;
            }
            TokenTree::Punct(quote) if quote.as_char() == '\'' => at += 2,
            _ => at += 1,
        }
    }
}

/// Takes `a::b::{…}` from an identifier on; gives the index after it.
fn take_path(tokens: &[TokenTree], mut at: usize, prefix: &[String], found: &mut Vec<Named>) -> usize {
    let mut segments = prefix.to_vec();
    let line = tokens[at].span().start().line;
    while let Some(TokenTree::Ident(name)) = tokens.get(at) {
        segments.push(name.to_string());
        at += 1;
        if !is_separator(tokens, at) {
            break;
        }
        at += 2;
    }
    if let Some(TokenTree::Group(group)) = tokens.get(at)
        && group.delimiter() == Delimiter::Brace
        && at.checked_sub(2).is_some_and(|before| is_separator(tokens, before))
    {
        walk(&inside(group), &segments, found);
        at += 1;
    }
    found.push(Named { segments, line });
    at
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    let is_colon = |at| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    is_colon(at) && is_colon(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let source = Source::parse("x/src/a.rs", text).unwrap();
        assert!(named(&source).iter().any(|named| named.segments.join("::") == expected), "{expected} in {text}");
    }

    #[test]
    fn paths_are_found_wherever_they_stand() {
        check("use std::fs;", "std::fs");
        check("use std::{collections::HashMap, fs::{self, File}};", "std::fs::File");
        check("use {serde::Serialize, std::io};", "serde::Serialize");
        check("fn a() { std::fs::read(1); }", "std::fs::read");
        check("fn a() -> Vec<std::time::Instant> { vec![] }", "std::time::Instant");
        check("#[derive(serde::Serialize)] struct A;", "serde::Serialize");
        check("fn a() { println!(\"{}\", std::env::var(\"A\")); }", "std::env::var");
        check("fn a() { ::std::fs::read(1); }", "std::fs::read");
        check("fn a() { unsafe { b() } }", "unsafe");
    }

    #[test]
    fn lifetimes_and_tests_are_no_paths() {
        let text = "fn a(b: &'static str) {}\n#[cfg(test)]\nmod tests { use std::fs; }\n";
        let found = named(&Source::parse("x/src/a.rs", text).unwrap());
        assert!(!found.iter().any(|named| named.segments[0] == "static" || named.segments[0] == "std"), "{found:?}");
    }
}
