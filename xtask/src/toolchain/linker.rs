//! bpf-linker: found on this machine, or built from crates.io against an installed LLVM.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{command, workspace};

/// The version that is built where there is none.
const VERSION: &str = "0.13.0";
/// The LLVM versions that it has a feature for, the one that Debian's packages give first.
const LLVM_FEATURES: [u32; 3] = [22, 23, 21];

/// An installed bpf-linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linker {
    /// Its absolute path.
    pub path: PathBuf,
    /// Major version of its LLVM, where it is a shared library and so can be told.
    pub llvm: Option<u32>,
}

impl Linker {
    /// Whether it reads what a compiler with this LLVM writes: LLVM reads bitcode of its own and older versions.
    pub fn is_for(&self, compiler_llvm: u32) -> bool {
        self.llvm.is_none_or(|llvm| compiler_llvm <= llvm)
    }
}

/// Every bpf-linker that runs: this project's own first, then `PATH`, then cargo's.
pub fn find() -> Vec<Linker> {
    let mut folders = vec![workspace::tools().join("bin")];
    folders.extend(workspace::path_folders());
    folders.push(workspace::cargo_home().join("bin"));
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in folders.into_iter().map(|folder| folder.join("bpf-linker")) {
        if path.is_file() && !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths.iter().filter_map(|path| inspect(path)).collect()
}

fn inspect(path: &Path) -> Option<Linker> {
    command::output(Command::new(path).arg("--version")).ok()?;
    let libraries = command::output(Command::new("ldd").arg(path)).unwrap_or_default();
    Some(Linker { path: path.into(), llvm: linked_llvm(&libraries) })
}

fn linked_llvm(libraries: &str) -> Option<u32> {
    let name = libraries.split("libLLVM").nth(1)?;
    let digits = name.trim_start_matches(['.', '-', 's', 'o']);
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The folder with `llvm-config` of an LLVM that bpf-linker can be built with for this compiler, and its version.
pub fn find_llvm(compiler_llvm: u32) -> Option<(u32, PathBuf)> {
    let versions = LLVM_FEATURES.into_iter().filter(|version| compiler_llvm <= *version);
    let mut folders = versions.map(|version| (version, PathBuf::from(format!("/usr/lib/llvm-{version}/bin"))));
    folders.find(|(_, folder)| folder.join("llvm-config").is_file())
}

/// Builds bpf-linker against that LLVM into this project's tools.
pub fn install(llvm: u32, llvm_folder: &Path) -> Result<()> {
    let mut path = vec![llvm_folder.to_path_buf()];
    path.extend(workspace::path_folders());
    let path = std::env::join_paths(path).context("failed to put LLVM on PATH")?;
    let mut cargo = Command::new("cargo");
    cargo.args(["install", "bpf-linker", "--version", VERSION, "--locked", "--no-default-features"]);
    cargo.args(["--features", &format!("llvm-{llvm}"), "--root"]).arg(workspace::tools());
    // The project's own target folder may be locked by the cargo that runs this.
    cargo.arg("--target-dir").arg(workspace::tools().join("build"));
    command::run(cargo.env("PATH", path)).context("failed to build bpf-linker")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_is_read_from_the_linked_libraries() {
        let debian = "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x00007faa0ea00000)";
        assert_eq!(linked_llvm(debian), Some(22));
        assert_eq!(linked_llvm("libLLVM-19.so.1 => /usr/lib/libLLVM-19.so.1"), Some(19));
        assert_eq!(linked_llvm("libc.so.6 => /lib/libc.so.6"), None);
    }

    #[test]
    fn a_linker_reads_its_own_and_older_bitcode() {
        let linker = |llvm| Linker { path: PathBuf::new(), llvm };
        assert!(linker(Some(22)).is_for(22) && linker(Some(23)).is_for(22) && linker(None).is_for(22));
        assert!(!linker(Some(21)).is_for(22));
    }
}
