//! Setting the tool chain up: each step is said before it is taken, each failure leads to the next way.

use std::process::Command;

use anyhow::{Result, bail};

use super::{compiler, debian, debian::Wanted, find::Toolchain, linker};
use crate::{command, debian as machine, workspace};

const BY_HAND: &str = "\
the kernel programs need a tool chain, and it could not be set up here. Either of these will do:
  1. on Debian 12 or later, as root:
       apt-get install rustc-web cargo-web rust-web-src llvm-22-dev zlib1g-dev libzstd-dev libxml2-dev
       (bpf-linker is then built from crates.io)
  2. elsewhere: rustup toolchain install nightly --component rust-src
       and a bpf-linker (its LLVM at least as new as the nightly's) on PATH
then run the same command again; what is found is used, nothing is installed twice";

/// The tool chain of the kernel programs, set up where it is missing.
///
/// # Errors
///
/// Says what to do by hand where neither Debian's packages nor rustup could provide it.
pub fn ensure() -> Result<Toolchain> {
    if let Some(found) = Toolchain::find() {
        return Ok(found);
    }
    command::say("the kernel programs' tool chain is not complete on this machine: setting it up");
    if let Err(reason) = ensure_compiler().and_then(|()| ensure_linker()) {
        command::say(&format!("{reason:#}"));
        bail!(BY_HAND);
    }
    match Toolchain::find() {
        Some(found) => Ok(found),
        None => bail!(BY_HAND),
    }
}

/// Prints the tool chain, setting it up where it is missing.
pub fn show() -> Result<()> {
    let found = ensure()?;
    println!("compiler  rustup tool chain {} (LLVM {})", found.compiler.name, found.compiler.llvm);
    println!("linker    {}", found.linker.path.display());
    Ok(())
}

/// What a way is called, and the way itself.
type Way = (&'static str, fn() -> Result<()>);

fn ensure_compiler() -> Result<()> {
    let ways: [Way; 4] = [
        ("what is installed", link_debian_compiler),
        ("Debian's packages", install_debian_compiler),
        ("the nightly's missing rust-src", complete_nightly),
        ("a nightly of rustup's", install_nightly),
    ];
    for (way, take) in ways {
        if !compiler::find().is_empty() {
            return Ok(());
        }
        if let Err(reason) = take() {
            command::say(&format!("{way}: {reason:#}"));
        }
    }
    if compiler::find().is_empty() {
        bail!("no compiler could be had");
    }
    Ok(())
}

fn link_debian_compiler() -> Result<()> {
    if !compiler::is_debian_complete() {
        bail!("no compiler with its library's source in /usr");
    }
    command::run(Command::new("rustup").args(["toolchain", "link", compiler::LINKED_NAME, "/usr"]))
}

fn install_debian_compiler() -> Result<()> {
    if !machine::is_here() {
        bail!("this is not Debian: no apt-get");
    }
    debian::install(Wanted::CompilerAndLlvm)?;
    link_debian_compiler()
}

fn complete_nightly() -> Result<()> {
    let Some(name) = compiler::nightlies_without_source().pop() else { bail!("there is no nightly") };
    command::run(Command::new("rustup").args(["component", "add", "rust-src", "--toolchain", &name]))
}

fn install_nightly() -> Result<()> {
    let name = compiler::PINNED_NIGHTLY;
    command::say(&format!("will install rustup's {name} with rust-src (about 150 MB to download)"));
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", name, "--profile", "minimal", "--component", "rust-src"]);
    command::run(&mut rustup)
}

fn ensure_linker() -> Result<()> {
    let Some(compiler) = compiler::find().into_iter().next() else { bail!("no compiler to link for") };
    if linker::find().iter().any(|linker| linker.is_for(compiler.llvm)) {
        return Ok(());
    }
    if linker::find_llvm(compiler.llvm).is_none() && machine::is_here() {
        debian::install(Wanted::Llvm(compiler.llvm))?;
    }
    let Some((version, folder)) = linker::find_llvm(compiler.llvm) else {
        bail!("bpf-linker needs LLVM {} or later with its development files, and there is none", compiler.llvm);
    };
    let place = workspace::tools();
    command::say(&format!("will build bpf-linker with LLVM {version} into {} (half a minute)", place.display()));
    linker::install(version, &folder)
}
