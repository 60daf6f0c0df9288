//! The tool chain of the kernel programs: a compiler that can build `core` for `bpfel-unknown-none`, and bpf-linker.
//!
//! Found in milliseconds without the network where it is there; else set up, from Debian's packages or with rustup.

mod compiler;
mod debian;
mod find;
mod install;
mod linker;

pub use find::Toolchain;
pub use install::{ensure, show};
