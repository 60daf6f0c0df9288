//! Compilers that can build `core` from source, among rustup's tool chains.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{command, workspace};

/// The name under which Debian's compiler is linked into rustup.
pub const LINKED_NAME: &str = "pktscope-ebpf";
/// The nightly to install where there is none: its LLVM 22 is one that bpf-linker 0.13 can be built with.
pub const PINNED_NIGHTLY: &str = "nightly-2026-05-20";
/// `rust-version` of the `pktscope-ebpf` package.
const OLDEST_MINOR: u32 = 87;

/// A compiler known to rustup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// rustup's name for it.
    pub name: String,
    /// Major version of its LLVM; bpf-linker's must not be older.
    pub llvm: u32,
}

/// What `rustc -vV` says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    minor: u32,
    llvm: u32,
}

/// Every compiler that will do: the linked one first, then nightlies.
pub fn find() -> Vec<Compiler> {
    let mut folders: Vec<PathBuf> = toolchains().into_iter().filter(|folder| has_library_source(folder)).collect();
    folders.sort_by_key(|folder| (name_of(folder) != LINKED_NAME, name_of(folder)));
    folders.iter().filter_map(|folder| usable(folder)).collect()
}

/// rustup's nightlies that lack the standard library's source.
pub fn nightlies_without_source() -> Vec<String> {
    let folders = toolchains().into_iter().filter(|folder| name_of(folder).starts_with("nightly"));
    folders.filter(|folder| !has_library_source(folder)).map(|folder| name_of(&folder)).collect()
}

/// Whether Debian's compiler under /usr is new enough and has its library's source.
pub fn is_debian_complete() -> bool {
    let usr = Path::new("/usr");
    has_library_source(usr) && usable(usr).is_some()
}

fn toolchains() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(workspace::rustup_home().join("toolchains")) else { return Vec::new() };
    let folders = entries.flatten().map(|entry| entry.path());
    folders.filter(|folder| name_of(folder) == LINKED_NAME || name_of(folder).starts_with("nightly")).collect()
}

fn name_of(folder: &Path) -> String {
    folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn has_library_source(folder: &Path) -> bool {
    folder.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() && folder.join("bin/cargo").is_file()
}

fn usable(folder: &Path) -> Option<Compiler> {
    let text = command::output(Command::new(folder.join("bin/rustc")).arg("-vV")).ok()?;
    let version = parse_version(&text)?;
    (OLDEST_MINOR <= version.minor).then(|| Compiler { name: name_of(folder), llvm: version.llvm })
}

fn parse_version(text: &str) -> Option<Version> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let minor = field("release: 1.")?.split('.').next()?.parse().ok()?;
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some(Version { minor, llvm })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_what_rustc_prints() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n\
                    release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(parse_version(text), Some(Version { minor: 97, llvm: 22 }));
        assert_eq!(parse_version("rustc 1.63.0"), None);
        assert_eq!(parse_version("release: 1.x\nLLVM version: 22"), None);
    }
}
