//! Small functions, small files.

use syn::{spanned::Spanned, visit::Visit};

use super::source::{Source, Violation};

const MOST_FILE_LINES: usize = 500;
const MOST_FUNCTION_LINES: usize = 70;

/// Flags files and functions that are too long, tests not counted.
pub fn check(source: &Source) -> Vec<Violation> {
    let mut functions = Functions { source, found: Vec::new() };
    functions.visit_file(&source.file);
    let lines = source.count_code_lines();
    if MOST_FILE_LINES < lines {
        let why = format!("{lines} lines without tests, at most {MOST_FILE_LINES}: split it along its ideas");
        functions.found.push(source.violation(1, why));
    }
    functions.found
}

struct Functions<'a> {
    source: &'a Source,
    found: Vec<Violation>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let first = signature.span().start().line;
        let lines = block.span().end().line + 1 - first;
        if MOST_FUNCTION_LINES < lines && !self.source.is_test_line(first) {
            let why = format!("{} has {lines} lines, at most {MOST_FUNCTION_LINES}: split it", signature.ident);
            self.found.push(self.source.violation(first, why));
        }
    }
}

impl<'a> Visit<'a> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.measure(&item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.measure(&item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.measure(&item.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str, expected: usize) {
        assert_eq!(check(&Source::parse("x/src/a.rs", text).unwrap()).len(), expected);
    }

    #[test]
    fn long_functions_are_flagged() {
        let body = "    a();\n".repeat(69);
        check_text(&format!("fn f() {{\n{body}}}\n"), 1);
        check_text(&format!("impl A {{\nfn f() {{\n{body}}}\n}}\n"), 1);
        check_text(&format!("#[cfg(test)]\nmod tests {{\nfn f() {{\n{body}}}\n}}\n"), 0);
        check_text(&format!("fn f() {{\n{}}}\n", "    a();\n".repeat(68)), 0);
    }

    #[test]
    fn long_files_are_flagged_without_their_tests() {
        check_text(&"const A: u8 = 1;\n".repeat(501), 1);
        check_text(&"const A: u8 = 1;\n".repeat(500), 0);
        let tests = "    const A: u8 = 1;\n".repeat(500);
        check_text(&format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{tests}}}\n"), 0);
    }
}
