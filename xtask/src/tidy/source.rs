//! A parsed source file, and which of its lines are tests.

use std::{fmt, ops::RangeInclusive};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, spanned::Spanned, visit::Visit};

/// A breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The file, from the workspace's root.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong and what to do instead.
    pub why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.why)
    }
}

/// A Rust file.
pub struct Source {
    /// The file, from the workspace's root, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
    /// Its items.
    pub file: syn::File,
    test_lines: Vec<RangeInclusive<usize>>,
    is_declared_test: bool,
}

impl Source {
    /// Parses a file; what rustc would refuse is a violation.
    pub fn parse(path: &str, text: &str) -> Result<Self, Violation> {
        let file = syn::parse_file(text).map_err(|error| {
            let line = error.span().start().line;
            Violation { path: path.into(), line, why: format!("not Rust: {error}") }
        })?;
        let mut finder = TestFinder::default();
        finder.visit_file(&file);
        Ok(Self { path: path.into(), text: text.into(), file, test_lines: finder.lines, is_declared_test: false })
    }

    /// The same file, which another declares with `#[cfg(test)] mod …;`.
    pub fn declared_test(self) -> Self {
        Self { is_declared_test: true, ..self }
    }

    /// Paths that a module of its own for tests may have: `#[cfg(test)] mod name;` names `name.rs` or `name/mod.rs`.
    pub fn test_modules(&self) -> Vec<String> {
        let (folder, stem) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let is_root = ["mod.rs", "lib.rs", "main.rs"].contains(&stem);
        let own = stem.strip_suffix(".rs").unwrap_or(stem);
        let folder = if is_root { folder.to_owned() } else { format!("{folder}/{own}") };
        let outside = self.file.items.iter().filter_map(|item| match item {
            syn::Item::Mod(item) if item.content.is_none() && item.attrs.iter().any(is_test) => Some(&item.ident),
            _ => None,
        });
        outside.flat_map(|name| [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")]).collect()
    }

    /// Whether the whole file is tests, benches, examples or fuzz targets.
    pub fn is_test_file(&self) -> bool {
        if self.is_declared_test {
            return true;
        }
        let folders: Vec<&str> = self.path.split('/').collect();
        folders.iter().any(|folder| ["tests", "benches", "examples", "fuzz"].contains(folder))
            || self.path.ends_with("/tests.rs")
    }

    /// Whether this line is test code.
    pub fn is_test_line(&self, line: usize) -> bool {
        self.is_test_file() || self.test_lines.iter().any(|lines| lines.contains(&line))
    }

    /// How many lines are not test code.
    pub fn count_code_lines(&self) -> usize {
        (1..=self.text.lines().count()).filter(|line| !self.is_test_line(*line)).count()
    }

    /// The tokens of the whole file.
    pub fn tokens(&self) -> Vec<TokenTree> {
        self.file.to_token_stream().into_iter().collect()
    }

    /// A violation in this file.
    pub fn violation(&self, line: usize, why: impl Into<String>) -> Violation {
        Violation { path: self.path.clone(), line, why: why.into() }
    }
}

/// The tokens of a group's inside.
pub fn inside(group: &proc_macro2::Group) -> Vec<TokenTree> {
    let stream: TokenStream = group.stream();
    stream.into_iter().collect()
}

#[derive(Default)]
struct TestFinder {
    lines: Vec<RangeInclusive<usize>>,
}

impl<'a> Visit<'a> for TestFinder {
    fn visit_item(&mut self, item: &'a syn::Item) {
        let attributes: &[Attribute] = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => &[],
        };
        if attributes.iter().any(is_test) {
            let span = item.span();
            self.lines.push(span.start().line..=span.end().line);
        } else {
            syn::visit::visit_item(self, item);
        }
    }
}

fn is_test(attribute: &Attribute) -> bool {
    let words = attribute.meta.to_token_stream().to_string();
    words == "test" || words.ends_with(":: test") || words == "cfg (test)"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_modules_and_functions_are_told_from_code() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n#[test]\nfn c() {}\nfn d() {}\n";
        let source = Source::parse("x/src/a.rs", text).unwrap();
        let tests: Vec<usize> = (1..=8).filter(|line| source.is_test_line(*line)).collect();
        assert_eq!(tests, [2, 3, 4, 5, 6, 7]);
        assert_eq!(source.count_code_lines(), 2);
    }

    #[test]
    fn a_file_declared_for_tests_is_all_tests() {
        let declaring = Source::parse("x/src/core/mod.rs", "mod a;\n#[cfg(test)]\nmod truth;\n").unwrap();
        assert_eq!(declaring.test_modules(), ["x/src/core/truth.rs", "x/src/core/truth/mod.rs"]);
        let declaring = Source::parse("x/src/a.rs", "#[cfg(test)]\npub(crate) mod truth;\n").unwrap();
        assert_eq!(declaring.test_modules()[0], "x/src/a/truth.rs");
        let declared = Source::parse("x/src/core/truth.rs", "fn a() {}\n").unwrap().declared_test();
        assert!(declared.is_test_line(1));
    }

    #[test]
    fn what_does_not_parse_is_a_violation() {
        assert_eq!(Source::parse("a.rs", "fn a() {}\nfn {").err().unwrap().line, 2);
    }
}
