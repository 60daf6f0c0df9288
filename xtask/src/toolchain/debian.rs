//! Debian's packages: a current compiler with its library's source, and LLVM for bpf-linker.

use anyhow::Result;

use crate::{command, debian};

/// The compiler that Debian keeps current for its browsers, and its library's source.
const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// What bpf-linker links with, besides LLVM itself.
const LIBRARY_PACKAGES: [&str; 3] = ["zlib1g-dev", "libzstd-dev", "libxml2-dev"];

/// What to ask of apt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The compiler and LLVM 22, which it was built with.
    CompilerAndLlvm,
    /// LLVM of this version.
    Llvm(u32),
}

/// Says what it installs, gets root once, refreshes the package lists and installs.
pub fn install(wanted: Wanted) -> Result<()> {
    let packages = packages(wanted).join(" ");
    command::say(&format!("will install these Debian packages (about 270 MB to download): {packages}"));
    debian::install_packages(&packages)
}

fn packages(wanted: Wanted) -> Vec<String> {
    let (compiler, llvm): (&[&str], u32) = match wanted {
        Wanted::CompilerAndLlvm => (&COMPILER_PACKAGES, 22),
        Wanted::Llvm(version) => (&[], version),
    };
    let names = compiler.iter().chain(&LIBRARY_PACKAGES).map(|name| (*name).to_owned());
    names.chain([format!("llvm-{llvm}-dev")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_comes_with_the_llvm_it_was_built_with() {
        let names = packages(Wanted::CompilerAndLlvm);
        assert!(names.contains(&"rustc-web".into()) && names.contains(&"llvm-22-dev".into()), "{names:?}");
        let names = packages(Wanted::Llvm(23));
        assert!(!names.contains(&"rustc-web".into()) && names.contains(&"llvm-23-dev".into()), "{names:?}");
    }
}
