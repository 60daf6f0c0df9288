//! Builds the kernel programs and leaves the object in `OUT_DIR` for `sensor::load` to embed.
//!
//! The tool chain is the one that `PKTSCOPE_EBPF_TOOLCHAIN` names, else a rustup tool chain called `pktscope-ebpf`, else
//! a nightly that has `rust-src`. Where there is none the object stays empty: replay, tests and documentation need no
//! kernel programs, and `run` says what is missing. Where the variable names one, a failure is a failure.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const TOOLCHAIN: &str = "PKTSCOPE_EBPF_TOOLCHAIN";
const PACKAGE: &str = "pktscope-ebpf";

fn main() {
    println!("cargo:rerun-if-env-changed={TOOLCHAIN}");
    println!("cargo:rerun-if-changed=../pktscope-common/src");
    println!("cargo:rerun-if-changed=build.rs");
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(PACKAGE);
    if let Err(reason) = build() {
        // Who names a tool chain wants the sensor; an agent without it would be a surprise.
        assert!(env::var_os(TOOLCHAIN).is_none(), "failed to build the kernel programs: {reason}");
        println!("cargo:warning=built without the kernel sensor: {reason}");
        fs::write(&object, []).expect("OUT_DIR is writable");
    } else if !object.exists() {
        // AYA_BUILD_SKIP asks for no object.
        fs::write(&object, []).expect("OUT_DIR is writable");
    }
}

fn build() -> Result<(), String> {
    let toolchain = find_toolchain().ok_or("no eBPF tool chain; `cargo xtask build` finds or sets up one")?;
    // SAFETY: a build script has one thread. build-std needs the unstable options of a stable compiler; only the child
    // build sees the variable, because a build script's environment is its own.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    // aya-build shows every line of the child build as a warning; of a quiet one only its diagnostics are left.
    // SAFETY: as above.
    unsafe { env::set_var("CARGO_TERM_QUIET", "true") };
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").map_err(|error| error.to_string())?).join("..").join(PACKAGE);
    let package =
        aya_build::Package { name: PACKAGE, root_dir: root.to_str().ok_or("path is not UTF-8")?, ..Default::default() };
    aya_build::build_ebpf([package], aya_build::Toolchain::Custom(&toolchain)).map_err(|error| format!("{error:#}"))
}

fn find_toolchain() -> Option<String> {
    match env::var(TOOLCHAIN) {
        Ok(name) if !name.is_empty() => Some(name),
        _ => [PACKAGE, "nightly"].into_iter().find(|name| has_core_source(name)).map(str::to_owned),
    }
}

/// Whether a rustup tool chain exists and has the source of `core`.
fn has_core_source(toolchain: &str) -> bool {
    let output = Command::new("rustup").args(["run", toolchain, "rustc", "--print", "sysroot"]).output();
    let Ok(output) = output else { return false };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    output.status.success() && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir()
}
