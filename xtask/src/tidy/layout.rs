//! Names of files, and what a `mod.rs` may hold.

use syn::{Item, spanned::Spanned};

use super::source::{Source, Violation};

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 7] = ["util", "utils", "helper", "helpers", "misc", "common", "shared"];

/// The `mod.rs` files that hold the types or the registry of their folder.
const REGISTRIES: [&str; 6] = [
    "pktscope/src/core/alert/mod.rs",
    "pktscope/src/core/baseline/mod.rs",
    "pktscope/src/core/detect/mod.rs",
    "pktscope/src/core/dissect/mod.rs",
    "pktscope/src/core/flow/mod.rs",
    "pktscope/src/sensor/mod.rs",
];

/// Flags a module named after nothing, and a `mod.rs` with code in it.
pub fn check(source: &Source) -> Vec<Violation> {
    let mut found: Vec<Violation> = empty_name(source).into_iter().collect();
    if source.path.ends_with("/mod.rs") && !REGISTRIES.contains(&source.path.as_str()) {
        let strays = source.file.items.iter().filter(|item| !matches!(item, Item::Mod(_) | Item::Use(_)));
        let why = "a mod.rs holds docs, mod and use only: give this a file named after it";
        found.extend(strays.map(|item| source.violation(item.span().start().line, why)));
        found.extend(inline_modules(source));
    }
    found
}

fn empty_name(source: &Source) -> Option<Violation> {
    let names = source.path.split('/').map(|name| name.strip_suffix(".rs").unwrap_or(name));
    let name = names.into_iter().find(|name| EMPTY_NAMES.contains(name))?;
    Some(source.violation(1, format!("{name} names no idea: call the file after what is in it")))
}

fn inline_modules(source: &Source) -> impl Iterator<Item = Violation> {
    let inline = |item: &Item| matches!(item, Item::Mod(module) if module.content.is_some());
    let lines = source.file.items.iter().filter(move |item| inline(item)).map(|item| item.span().start().line);
    let lines = lines.filter(|line| !source.is_test_line(*line));
    lines.map(|line| source.violation(line, "a mod.rs declares modules, it does not hold them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(path: &str, text: &str, expected: usize) {
        assert_eq!(check(&Source::parse(path, text).unwrap()).len(), expected, "{path}");
    }

    #[test]
    fn code_in_a_mod_rs_is_flagged() {
        check_text("x/src/store/mod.rs", "//! Docs.\nmod a;\npub use a::A;\n", 0);
        check_text("x/src/store/mod.rs", "mod a;\nfn b() {}\nconst C: u8 = 1;\n", 2);
        check_text("x/src/store/mod.rs", "mod a { fn b() {} }\n", 1);
        check_text("x/src/store/a.rs", "fn b() {}\n", 0);
        check_text("pktscope/src/core/detect/mod.rs", "pub trait Detector {}\n", 0);
    }

    #[test]
    fn empty_names_are_flagged() {
        check_text("x/src/utils.rs", "", 1);
        check_text("x/src/helpers/a.rs", "", 1);
        check_text("pktscope-common/src/record.rs", "", 0);
    }
}
