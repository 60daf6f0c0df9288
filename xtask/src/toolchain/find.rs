//! A compiler and a linker that fit each other.

use std::process::Command;

use anyhow::{Context, Result};

use super::{
    compiler::{self, Compiler},
    linker::{self, Linker},
};
use crate::workspace;

/// What builds the kernel programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// The linker.
    pub linker: Linker,
}

impl Toolchain {
    /// Looks on this machine only: files and two short-lived programs, no network.
    pub fn find() -> Option<Self> {
        pair(compiler::find(), &linker::find())
    }

    /// A cargo command whose builds of pktscope find this tool chain.
    pub fn cargo(&self, subcommand: &str) -> Result<Command> {
        let mut folders: Vec<_> = self.linker.path.parent().map(Into::into).into_iter().collect();
        folders.extend(workspace::path_folders());
        let path = std::env::join_paths(folders).context("failed to put bpf-linker on PATH")?;
        let mut cargo = Command::new("cargo");
        cargo.current_dir(workspace::root()).arg(subcommand).env("PATH", path);
        cargo.env("PKTSCOPE_EBPF_TOOLCHAIN", &self.compiler.name);
        // `rustup run` puts cargo's folder first on PATH; naming the linker keeps another copy there from being taken.
        cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker.path);
        Ok(cargo)
    }
}

fn pair(compilers: Vec<Compiler>, linkers: &[Linker]) -> Option<Toolchain> {
    compilers.into_iter().find_map(|compiler| {
        let linker = linkers.iter().find(|linker| linker.is_for(compiler.llvm))?.clone();
        Some(Toolchain { compiler, linker })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(name: &str, llvm: u32) -> Compiler {
        Compiler { name: name.into(), llvm }
    }

    fn linker(path: &str, llvm: u32) -> Linker {
        Linker { path: path.into(), llvm: Some(llvm) }
    }

    #[test]
    fn the_first_compiler_with_a_linker_for_it_wins() {
        let found = pair(
            vec![compiler("new", 23), compiler("old", 22)],
            &[linker("/a/bpf-linker", 21), linker("/b/bpf-linker", 22)],
        );
        let found = found.unwrap();
        assert_eq!((found.compiler.name.as_str(), found.linker.path.to_str().unwrap()), ("old", "/b/bpf-linker"));
    }

    #[test]
    fn half_a_tool_chain_is_none() {
        assert_eq!(pair(vec![compiler("new", 23)], &[linker("/a", 22)]), None);
        assert_eq!(pair(vec![], &[linker("/a", 22)]), None);
    }
}
